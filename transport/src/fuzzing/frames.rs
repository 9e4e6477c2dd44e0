//! Frames out of any bytes, whole and in pieces.

use bytes::Bytes;

use super::input::Input;
use crate::frame::{Frame, FrameDecoder};
use crate::{FrameError, Limits};

/// A stream of any bytes: it is frames up to where it makes no sense, each of which is the same after another journey.
pub fn frame(data: &[u8]) {
    let (frames, _) = decode([Bytes::copy_from_slice(data)]);
    for frame in &frames {
        travels(frame);
    }
}

/// The same bytes in any pieces are the same frames, up to the same place. The first eight bytes say how they are cut.
pub fn stream(data: &[u8]) {
    let (cuts, data) = data.split_at(data.len().min(8));
    let whole = decode([Bytes::copy_from_slice(data)]);
    let pieces = decode(pieces(cuts, data));
    assert_eq!(whole.0, pieces.0, "the pieces make a difference");
    let error = |error: Option<FrameError>| error.map(|error| error.to_string());
    assert_eq!(error(whole.1), error(pieces.1), "the pieces make a difference");
}

/// Every frame, and the error after the last if there is one.
pub(super) fn decode(pieces: impl IntoIterator<Item = Bytes>) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = FrameDecoder::new(limits());
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.to_string().len() <= LONGEST_ERROR_BYTES, "a peer decides how long an error is");
                    decoder.push(Bytes::from_static(&[0, 0, 0, 0, 0]));
                    assert!(matches!(decoder.next_frame(), Ok(None)), "nothing comes out after an error");
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, None)
}

/// Cuts `data` as the bytes of `cuts` say, which are used again and again.
pub(super) fn pieces(cuts: &[u8], data: &[u8]) -> Vec<Bytes> {
    let mut rest = data;
    let mut pieces = Vec::new();
    for cut in cuts.iter().copied().cycle() {
        // Mostly few bytes, as where the length stands; now and then a packet's worth.
        let length = if cut < 200 { usize::from(cut % 20) } else { usize::from(cut - 190) * 40 };
        let (piece, after) = rest.split_at(length.max(1).min(rest.len()));
        if piece.is_empty() {
            break;
        }
        pieces.push(Bytes::copy_from_slice(piece));
        rest = after;
    }
    pieces
}

/// What is encoded decodes to the same, and no less than all of it is a frame.
pub(super) fn travels(frame: &Frame) {
    let parts = match frame.encode(&limits()) {
        Ok(parts) => parts,
        // Fields that were left out are written, so one that just fitted need not fit again.
        Err(FrameError::TooLong { got, bound, .. }) => return assert!(got > bound),
        Err(other) => panic!("{other}"),
    };
    let bytes = Bytes::from([parts.head, parts.payload].concat());
    let mut decoder = FrameDecoder::new(limits());
    decoder.push(bytes.clone());
    let again = decoder.next_frame().expect("our own frames can be read");
    assert_eq!(again.as_ref(), Some(frame));
    assert!(matches!(decoder.next_frame(), Ok(None)), "there is one only");
    let is_looked_at = |end: usize| end < 24 || end + 8 > bytes.len() || end.is_multiple_of(61);
    for end in (0..bytes.len()).filter(|end| is_looked_at(*end)) {
        let mut decoder = FrameDecoder::new(limits());
        decoder.push(bytes.slice(..end));
        assert!(matches!(decoder.next_frame(), Ok(None)), "{end} of {} bytes are no frame", bytes.len());
    }
}

/// All that raw bytes in an input say, as frames.
pub(super) fn raw(input: &mut Input<'_>) -> Vec<Frame> {
    let length = usize::from(input.byte()) * 2;
    decode([Bytes::copy_from_slice(input.bytes(length))]).0
}

/// Small, so that short inputs come up against them, and with the proportions of the default.
pub(super) fn limits() -> Limits {
    Limits::default().max_control_frame_bytes(4096).max_data_frame_bytes(16_384).max_event_bytes(40_000)
}

/// No error is longer, whatever it is about.
const LONGEST_ERROR_BYTES: usize = 600;
