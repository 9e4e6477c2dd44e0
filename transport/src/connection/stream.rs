//! [`FrameStream`]: frames over one bidirectional QUIC stream. It moves bytes, and decides nothing.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

use super::close::CloseCode;
use super::fate::{Ended, Fate};
use crate::Limits;
use crate::bugs::bug;
use crate::frame::{Frame, FrameDecoder, FrameError};

/// Both halves of a stream, read and written by one task.
///
/// Reading never waits for writing: a peer that does not read cannot keep us from reading what it sends, so two nodes
/// cannot block each other.
pub(crate) struct FrameStream {
    send: SendStream,
    recv: RecvStream,
    decoder: FrameDecoder,
    /// What waits to be written, and its length.
    writes: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Short frames behind it, put together: quinn goes through all pieces that are not acknowledged, for each packet.
    short: Vec<u8>,
    read_to_end: bool,
    finished: bool,
    fate: Fate,
}

/// Why a stream ended before its time.
#[derive(thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    /// This node has closed the connection.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// This node ends the link: its subscriber held back others for too long.
    #[error("it held back others for {0:?}")]
    Stalled(Duration),
}

aqueduct_stage::debug_as_sentence!(StreamError);

impl StreamError {
    /// Whether only the connection was lost: the other node neither closed it nor is at fault, and may be reached again.
    pub(crate) fn is_cut(&self) -> bool {
        if let Self::Ended(ended) = self {
            return *ended == Ended::Expired;
        }
        let (Self::Read(ReadError::ConnectionLost(lost)) | Self::Write(WriteError::ConnectionLost(lost))) = self else {
            return false;
        };
        match lost {
            ConnectionError::LocallyClosed => false,
            ConnectionError::ApplicationClosed(closed) => !is_final(closed.error_code),
            _ => true,
        }
    }

    /// Whether this node has closed the connection.
    pub(crate) fn is_local(&self) -> bool {
        use ConnectionError::LocallyClosed;
        matches!(
            self,
            Self::Read(ReadError::ConnectionLost(LocallyClosed))
                | Self::Write(WriteError::ConnectionLost(LocallyClosed))
        )
    }

    /// Whether the other node has given the link up because others waited for this one.
    pub(crate) fn is_too_slow(&self) -> bool {
        let too_slow = VarInt::from_u32(CLOSE_TOO_SLOW);
        matches!(self, Self::Read(ReadError::Reset(code)) | Self::Write(WriteError::Stopped(code)) if *code == too_slow)
    }

    /// Whether the other node is gone, rather than at fault.
    pub(crate) fn is_lost(&self) -> bool {
        !matches!(self, Self::Frame(_))
    }
}

impl FrameStream {
    pub(crate) fn new((send, recv): (SendStream, RecvStream), limits: Limits, fate: Fate) -> Self {
        let decoder = FrameDecoder::new(limits);
        let (writes, short) = (VecDeque::new(), Vec::new());
        Self { send, recv, decoder, writes, queued_bytes: 0, short, read_to_end: false, finished: false, fate }
    }

    /// Puts bytes behind what waits to be written.
    pub(crate) fn queue(&mut self, bytes: Bytes) {
        self.queued_bytes += bytes.len();
        if bytes.len() < APART_BYTES {
            self.short.extend_from_slice(&bytes);
        } else {
            self.close_short();
            self.writes.push_back(bytes);
        }
    }

    /// How many bytes wait to be written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether everything queued was written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.queued_bytes == 0
    }

    /// Whether the peer's half has ended; every frame of it can still be had from [`next_frame`](Self::next_frame).
    pub(crate) fn is_read_to_end(&self) -> bool {
        self.read_to_end
    }

    /// The next frame that has arrived.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        Ok(self.decoder.next_frame()?)
    }

    /// How many frames of unknown types were skipped since the last call.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        self.decoder.take_skipped()
    }

    /// Short frames that come from now on are written as another piece.
    fn close_short(&mut self) {
        if !self.short.is_empty() {
            self.writes.push_back(std::mem::take(&mut self.short).into());
        }
    }

    /// Reads and writes until something has happened: bytes were moved, the peer's half ended, or `woken` is ready.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not written stays queued, what was read can be had.
    pub(crate) async fn progress(&mut self, woken: impl Future<Output = ()>) -> Result<(), StreamError> {
        self.close_short();
        let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
        tokio::select! {
            biased;
            read = read_chunks(&mut self.recv, &mut pieces), if !self.read_to_end => match read.map_err(|error| self.fate.explain(error))? {
                Some(count) => pieces.into_iter().take(count).for_each(|piece| self.decoder.push(piece)),
                None => self.read_to_end = true,
            },
            written = self.send.write_chunks(self.writes.make_contiguous()), if !self.writes.is_empty() => {
                let written = written.map_err(|error| self.fate.explain(error))?;
                self.queued_bytes -= written.bytes;
                self.writes.drain(..written.chunks);
            }
            () = woken => {}
        }
        Ok(())
    }

    /// Says that nothing follows what was written. To be called when everything is.
    pub(crate) fn finish(&mut self) {
        debug_assert!(self.is_flushed());
        self.finished = true;
        // It fails only if the stream is closed already, or was finished before.
        let _ = self.send.finish();
    }

    /// Waits until the peer wants nothing more of us, or is gone.
    pub(crate) async fn refused(&self) {
        let _ = self.send.stopped().await;
    }

    /// Waits until the peer has everything that was written before [`finish`](Self::finish), or wants nothing more. What
    /// it sends meanwhile is dropped.
    ///
    /// # Errors
    ///
    /// The connection was lost before.
    pub(crate) async fn delivered(&mut self) -> Result<(), StreamError> {
        debug_assert!(self.finished);
        let stopped = self.send.stopped();
        tokio::pin!(stopped);
        let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
        loop {
            tokio::select! {
                biased;
                stopped = &mut stopped => return match stopped {
                    Err(StoppedError::ConnectionLost(lost)) => {
                        Err(self.fate.explain(WriteError::ConnectionLost(lost)))
                    }
                    _ => Ok(()),
                },
                read = self.recv.read_chunks(&mut pieces), if !self.read_to_end => {
                    self.read_to_end = !matches!(read, Ok(Some(_)));
                }
            }
        }
    }

    /// Gives up both halves, with a code for the peer.
    pub(crate) fn reset(&mut self, code: u32) {
        let code = VarInt::from_u32(code);
        let _ = self.send.reset(code);
        let _ = self.recv.stop(code);
    }
}

/// The next pieces of a stream. Nothing is lost if it is dropped before it is ready.
async fn read_chunks(recv: &mut RecvStream, pieces: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
    let read = recv.read_chunks(pieces).await;
    if bug!(ReadLost) {
        tokio::task::yield_now().await;
    }
    read
}

/// Whether a connection that a node closed with this code is not to be replaced by another one.
fn is_final(code: VarInt) -> bool {
    use CloseCode::{Protocol, Refused, Shutdown, Superseded};
    [Shutdown, Protocol, Refused, Superseded].map(VarInt::from).contains(&code)
}

/// Frames from this length on, in bytes, are written without being copied: about a packet.
const APART_BYTES: usize = 1024;
/// How many pieces of a stream are taken at a time; a piece is what fits into a packet.
const PIECES: usize = 64;
/// What a peer sees when a link is given up.
pub(crate) const CLOSE_GIVEN_UP: u32 = 1;
/// What it sees when others waited for it.
pub(crate) const CLOSE_TOO_SLOW: u32 = 9;
