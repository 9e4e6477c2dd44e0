//! [`lines`]: the lines of a reader.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::io::{AsyncBufRead, AsyncRead, BufReader};
use tokio_stream::Stream;

/// A stream of the lines of a reader, without their ends: `\n`, or `\r\n`. A last line without an end counts.
///
/// A line holds at most [`Lines::DEFAULT_MAX_BYTES`] unless [`max_bytes`](Lines::max_bytes) says otherwise. The reader
/// is read only while somebody polls.
///
/// A longer line, bytes that are not UTF-8, and an error of the reader are each the stream's last item: a
/// [`LineError`]. The lines before it were handed out; nothing of it is.
///
/// ```
/// use aqueduct_stage::stages;
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let mut lines = stages::lines(&b"one\r\ntwo"[..]);
/// assert_eq!(lines.try_next().await?.as_deref(), Some("one"));
/// assert_eq!(lines.try_next().await?.as_deref(), Some("two"));
/// assert_eq!(lines.try_next().await?, None);
/// # Ok(())
/// # }
/// ```
pub fn lines<R: AsyncRead>(reader: R) -> Lines<R> {
    let max_bytes = Lines::<R>::DEFAULT_MAX_BYTES;
    Lines { reader: BufReader::new(reader), max_bytes, line: Vec::new(), number: 1, is_over: false }
}

/// The stream made by [`lines`].
#[pin_project]
#[derive(Debug)]
pub struct Lines<R> {
    #[pin]
    reader: BufReader<R>,
    max_bytes: usize,
    /// What has been read of the current line.
    line: Vec<u8>,
    /// The current line's.
    number: u64,
    is_over: bool,
}

/// Why the lines of a reader ended early.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// A line is longer than it may be.
    #[error("line {line} is longer than {max_bytes} bytes")]
    TooLong {
        /// Its number, from 1.
        line: u64,
        /// How many bytes a line may have.
        max_bytes: usize,
    },
    /// A line is not UTF-8.
    #[error("line {line} is not UTF-8 after {valid_bytes} bytes")]
    NotUtf8 {
        /// Its number, from 1.
        line: u64,
        /// How many of its bytes are.
        valid_bytes: usize,
    },
    /// It could not be read.
    #[error("cannot read line {line}")]
    Read {
        /// Its number, from 1.
        line: u64,
        /// What went wrong.
        source: io::Error,
    },
}

aqueduct_dispatcher::debug_as_sentence!(LineError);

impl<R> Lines<R> {
    /// How many bytes a line may have: 64 KiB, far more than what people write, and little to hold in memory.
    pub const DEFAULT_MAX_BYTES: usize = 64 * 1024;

    /// Sets how many bytes a line may have, its end not counted. So much memory may be held.
    #[must_use = "the returned stream is the one to read"]
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }
}

impl<R: AsyncRead> Stream for Lines<R> {
    type Item = Result<String, LineError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        let number = *this.number;
        let read = ready!(poll_line(this.reader.as_mut(), cx, this.line, *this.max_bytes));
        let line = match read {
            Ok(Ended::Nothing) => None,
            Ok(Ended::Line) => {
                *this.number += 1;
                let text = String::from_utf8(std::mem::take(this.line));
                Some(text.map_err(|error| LineError::NotUtf8 {
                    line: number,
                    valid_bytes: error.utf8_error().valid_up_to(),
                }))
            }
            Ok(Ended::TooLong) => Some(Err(LineError::TooLong { line: number, max_bytes: *this.max_bytes })),
            Err(source) => Some(Err(LineError::Read { line: number, source })),
        };
        *this.is_over = !matches!(line, Some(Ok(_)));
        Poll::Ready(line)
    }
}

/// How a line ended.
enum Ended {
    Line,
    TooLong,
    /// There is no more.
    Nothing,
}

/// Reads up to the end of a line.
fn poll_line<R: AsyncRead>(
    mut reader: Pin<&mut BufReader<R>>,
    cx: &mut Context<'_>,
    line: &mut Vec<u8>,
    max_bytes: usize,
) -> Poll<io::Result<Ended>> {
    loop {
        let read = match ready!(reader.as_mut().poll_fill_buf(cx)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read.is_empty() {
            let ended = match line.len() {
                0 => Ended::Nothing,
                length if length > max_bytes => Ended::TooLong,
                _ => Ended::Line,
            };
            return Poll::Ready(Ok(ended));
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        // One byte more than may be: it might be the `\r` of the end.
        let most = (max_bytes + 1).saturating_sub(line.len());
        let text = &read[..end.unwrap_or(read.len())];
        let is_too_long = text.len() > most;
        line.extend_from_slice(&text[..text.len().min(most)]);
        let used = text.len() + usize::from(end.is_some());
        reader.as_mut().consume(used);
        if is_too_long {
            return Poll::Ready(Ok(Ended::TooLong));
        }
        if end.is_some() {
            line.pop_if(|last| *last == b'\r');
            return Poll::Ready(Ok(if line.len() > max_bytes { Ended::TooLong } else { Ended::Line }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::ReadBuf;
    use tokio_stream::StreamExt;

    use super::*;

    /// Hands out one piece after the other.
    struct Pieces(VecDeque<io::Result<Vec<u8>>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.0.pop_front().unwrap_or_else(|| Ok(Vec::new())).map(|piece| to.put_slice(&piece)))
        }
    }

    /// The lines, and the message of the error behind them.
    async fn read(text: &[u8], piece: usize, max_bytes: usize) -> (Vec<String>, Option<String>) {
        let pieces = text.chunks(piece).map(|piece| Ok(piece.to_vec())).collect();
        finish(lines(Pieces(pieces)).max_bytes(max_bytes)).await
    }

    async fn finish(mut lines: Lines<Pieces>) -> (Vec<String>, Option<String>) {
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await {
            match line {
                Ok(line) => seen.push(line),
                Err(error) => {
                    assert!(lines.next().await.is_none(), "an error is the last");
                    return (seen, Some(error.to_string()));
                }
            }
        }
        assert!(lines.next().await.is_none());
        (seen, None)
    }

    #[tokio::test]
    async fn lines_end_with_a_newline_or_with_the_text() {
        for (text, expected) in [
            ("", vec![]),
            ("\n", vec![""]),
            ("a", vec!["a"]),
            ("a\n", vec!["a"]),
            ("a\r\nb\n\nc\rd\r\n", vec!["a", "b", "", "c\rd"]),
            ("größe\näh", vec!["größe", "äh"]),
        ] {
            for piece in 1..6 {
                let (lines, error) = read(text.as_bytes(), piece, 100).await;
                assert_eq!((lines.iter().map(String::as_str).collect::<Vec<_>>(), error), (expected.clone(), None));
            }
        }
    }

    #[tokio::test]
    async fn a_line_may_be_as_long_as_it_may_and_no_longer() {
        for piece in 1..6 {
            let (lines, error) = read(b"1234\n1234\r\n12345\n1\n", piece, 4).await;
            assert_eq!((lines.len(), error.as_deref()), (2, Some("line 3 is longer than 4 bytes")));
            let (lines, error) = read(b"1234\n12345", piece, 4).await;
            assert_eq!((lines.len(), error.as_deref()), (1, Some("line 2 is longer than 4 bytes")));
            let (lines, error) = read(b"12345678901234567890", piece, 4).await;
            assert_eq!((lines.len(), error.as_deref()), (0, Some("line 1 is longer than 4 bytes")));
        }
    }

    #[tokio::test]
    async fn what_is_not_utf8_is_an_error() {
        let (lines, error) = read(b"good\nb\xffd\ngood\n", 3, 100).await;
        assert_eq!((lines, error.as_deref()), (vec!["good".to_owned()], Some("line 2 is not UTF-8 after 1 bytes")));
    }

    #[tokio::test]
    async fn an_error_of_the_reader_is_told_with_the_line() {
        let pieces = [Ok(b"one\ntw".to_vec()), Err(io::ErrorKind::Interrupted.into()), Err(io::Error::other("torn"))];
        let (seen, error) = finish(lines(Pieces(pieces.into()))).await;
        assert_eq!((seen, error.as_deref()), (vec!["one".to_owned()], Some("cannot read line 2")));
    }
}
