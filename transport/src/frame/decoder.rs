//! [`FrameDecoder`]: frames out of a stream of bytes that may be cut anywhere.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use super::{Frame, FrameError, Kind, LENGTH_BYTES};
use crate::Limits;
use crate::bugs::bug;
use crate::frame::gather::Gather;

/// Cuts a stream of bytes into [`Frame`]s.
///
/// A frame's type and length are judged as soon as they are there, before memory is set aside for the rest. A frame that
/// lies within one piece of input is not copied: its payload is a slice of that piece.
///
/// Bytes go in with [`push`](Self::push), frames come out of [`next_frame`](Self::next_frame).
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    limits: Limits,
    /// What was pushed and not looked at yet. None is empty.
    input: VecDeque<Bytes>,
    state: State,
    /// How many frames were skipped since somebody asked.
    skipped: u64,
    /// How many of them were skipped since the last frame that is known, or since somebody asked; `<= MAX_SKIPPED`.
    in_a_row: u32,
}

#[derive(Debug)]
enum State {
    /// Between frames, or within the first bytes of one.
    Head { bytes: [u8; HEAD_BYTES], len: usize },
    /// Within a frame.
    Body { kind: Kind, body: Gather },
    /// Within a frame of an unknown type that may be ignored.
    Skip { left: usize },
    /// After an error.
    Broken,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, input: VecDeque::new(), state: State::START, skipped: 0, in_a_row: 0 }
    }

    /// Takes the next piece of the stream.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && !matches!(self.state, State::Broken) {
            self.input.push_back(bytes);
        }
    }

    /// Returns the next frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`FrameError`]. The stream makes no sense from there on, and nothing more comes out of it.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let next = self.advance();
        if next.is_err() {
            self.state = State::Broken;
            self.input.clear();
        }
        next
    }

    /// How many frames of unknown types were skipped since the last call. Whoever calls this bounds them by himself.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        self.in_a_row = 0;
        mem::take(&mut self.skipped)
    }

    /// Whether a frame has begun and not ended.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_mid_frame(&self) -> bool {
        !matches!(self.state, State::Head { len: 0, .. } | State::Broken) || !self.input.is_empty()
    }

    fn advance(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Head { bytes, len } => {
                    while *len < HEAD_BYTES {
                        let Some(piece) = take(&mut self.input, HEAD_BYTES - *len) else { return Ok(None) };
                        bytes[*len..*len + piece.len()].copy_from_slice(&piece);
                        *len += piece.len();
                    }
                    self.state = State::announced(*bytes, &self.limits)?;
                }
                State::Body { kind, body } => {
                    let kind = *kind;
                    let Some(body) = complete(&mut self.input, body) else { return Ok(None) };
                    self.state = State::START;
                    self.in_a_row = 0;
                    return Frame::decode(kind, &body, &self.limits).map(Some);
                }
                State::Skip { left } => {
                    while *left > 0 {
                        let Some(piece) = take(&mut self.input, *left) else { return Ok(None) };
                        *left -= piece.len();
                    }
                    if self.in_a_row == MAX_SKIPPED {
                        return Err(FrameError::TooManyUnknown { bound: MAX_SKIPPED });
                    }
                    self.in_a_row += 1;
                    self.skipped += 1;
                    self.state = State::START;
                }
                State::Broken => return Ok(None),
            }
        }
    }
}

impl State {
    const START: Self = Self::Head { bytes: [0; HEAD_BYTES], len: 0 };

    /// What comes after the length and the type of a frame.
    fn announced(head: [u8; HEAD_BYTES], limits: &Limits) -> Result<Self, FrameError> {
        let [length @ .., number] = head;
        let got = u32::from_be_bytes(length) as usize;
        if bug!(LimitAfterAllocation) {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(got)));
        }
        let body = got.checked_sub(1).ok_or(FrameError::Empty)?;
        let (frame, bound) = match Kind::new(number) {
            Some(kind) => (kind.name(), kind.bound(limits)),
            None if number >= SKIPPED => ("unknown", limits.data_frame_bytes().max(limits.control_frame_bytes())),
            None => return Err(FrameError::UnknownType { got: number }),
        };
        if got > bound {
            return Err(FrameError::TooLong { frame, got, bound });
        }
        Ok(match Kind::new(number) {
            Some(kind) => Self::Body { kind, body: Gather::new(body) },
            None => Self::Skip { left: body },
        })
    }
}

/// Takes up to `at_most` bytes off the front of the first piece.
fn take(input: &mut VecDeque<Bytes>, at_most: usize) -> Option<Bytes> {
    let first = input.front_mut()?;
    if first.len() <= at_most {
        return input.pop_front();
    }
    Some(first.split_to(at_most))
}

/// Moves what there is into `body`, and returns it when it is complete.
fn complete(input: &mut VecDeque<Bytes>, body: &mut Gather) -> Option<Bytes> {
    while body.missing() > 0 {
        let piece = take(input, body.missing())?;
        if piece.len() == body.total() {
            return Some(piece);
        }
        body.push(&piece);
    }
    Some(mem::replace(body, Gather::new(0)).into_bytes())
}

const HEAD_BYTES: usize = LENGTH_BYTES + 1;
/// Unknown types of frames from this number on are skipped.
const SKIPPED: u8 = 128;
/// So many of them in a row are a later version that says what may be ignored; more are work for nothing.
const MAX_SKIPPED: u32 = 1000;

#[cfg(test)]
mod tests {
    use aqueduct_stage::Attempt;
    use aqueduct_watchdog::Watch;
    use proptest::prelude::*;

    use super::super::tests::{bytes_of, examples};
    use super::super::{Credit, Events};
    use super::*;

    fn decoder() -> FrameDecoder {
        FrameDecoder::new(Limits::default())
    }

    /// Everything that comes out of `pieces`.
    fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = decoder();
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn stream() -> Vec<u8> {
        examples().iter().flat_map(bytes_of).collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let stream = stream();
        for size in [1, 2, 3, 7, 100, 4097, stream.len()] {
            assert_eq!(frames(stream.chunks(size)).unwrap(), examples(), "pieces of {size} bytes");
        }
    }

    #[test]
    fn a_part_of_a_frame_is_no_frame() {
        for frame in examples() {
            let bytes = bytes_of(&frame);
            for end in 0..bytes.len() {
                let mut decoder = decoder();
                decoder.push(Bytes::copy_from_slice(&bytes[..end]));
                assert_eq!(decoder.next_frame().unwrap(), None, "{end} bytes of {}", frame.name());
                assert_eq!(decoder.is_mid_frame(), end > 0);
                decoder.push(Bytes::copy_from_slice(&bytes[end..]));
                assert_eq!(decoder.next_frame().unwrap().as_ref(), Some(&frame));
                assert!(!decoder.is_mid_frame());
            }
        }
    }

    #[test]
    fn a_payload_within_one_piece_is_not_copied() {
        let payload = vec![7; 1000].into();
        let frame = Frame::Events(Events { first_seq: 1, count: 1, attempt: Attempt::FIRST, payload });
        let piece = Bytes::from([bytes_of(&frame), bytes_of(&frame)].concat());
        let mut decoder = decoder();
        decoder.push(piece.clone());
        for _ in 0..2 {
            let Some(Frame::Events(events)) = decoder.next_frame().unwrap() else { panic!("events") };
            assert!(piece.as_ptr_range().contains(&events.payload.as_ptr()));
        }
    }

    #[test]
    fn too_long_a_frame_is_refused_at_its_fifth_byte() {
        let announce = |length: u32, kind: u8| frames([&[&length.to_be_bytes()[..], &[kind]].concat()[..]]);
        for (length, kind) in [(262_144, 32), (262_144, 33), (65_536, 19), (262_144, 200)] {
            assert_eq!(announce(length, kind).unwrap(), [], "type {kind}");
            assert!(announce(length + 1, kind).is_err(), "type {kind}");
        }
        let error = announce(u32::MAX, 32).unwrap_err();
        assert_eq!(error.to_string(), "expected events frame of at most 262144 bytes, got 4294967295");
    }

    #[test]
    fn unknown_types_are_skipped_from_128_on_and_refused_below() {
        let credit = bytes_of(&Frame::Credit(Credit { up_to: 1, bytes_up_to: None }));
        let skipped = [&[0, 0, 0, 3, 128, 9, 9], &credit[..], &[0, 0, 0, 1, 255], &credit[..]].concat();
        for size in [1, 3, 100] {
            assert_eq!(frames(skipped.chunks(size)).unwrap().len(), 2);
        }
        for kind in [0, 6, 27, 127] {
            let error = frames([&[0, 0, 0, 1, kind][..]]).unwrap_err();
            assert_eq!(error.to_string(), format!("unknown type of frame {kind}"));
        }
    }

    #[test]
    fn no_more_than_a_thousand_unknown_frames_come_in_a_row() {
        let (unknown, known) =
            ([0, 0, 0, 1, 200].repeat(1000), bytes_of(&Frame::Credit(Credit { up_to: 1, bytes_up_to: None })));
        assert_eq!(frames([&unknown[..], &known, &unknown]).unwrap().len(), 1);
        let error = frames([&unknown[..], &unknown[..5]]).unwrap_err();
        assert_eq!(error.to_string(), "more than 1000 frames of unknown types in a row");
        let mut asked = decoder();
        for _ in 0..3 {
            asked.push(unknown.clone().into());
            assert!(matches!(asked.next_frame(), Ok(None)));
            assert_eq!(asked.take_skipped(), 1000, "who asks bounds them");
        }
    }

    #[test]
    fn nothing_comes_out_after_an_error() {
        let mut decoder = decoder();
        decoder.push(Bytes::from_static(&[0, 0, 0, 0, 1]));
        assert!(matches!(decoder.next_frame(), Err(FrameError::Empty)));
        decoder.push(stream().into());
        assert!(matches!(decoder.next_frame(), Ok(None)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(pieces: Vec<Vec<u8>>) {
            let _watch = Watch::over(format!("{pieces:?} "));
            let _ = frames(pieces.iter().map(Vec::as_slice));
        }

        #[test]
        fn damaged_streams_never_panic(at in 0..stream().len(), with: u8, size in 1..200_usize) {
            let _watch = Watch::over(format!("{with} at {at}, pieces of {size} "));
            let mut stream = stream();
            stream[at] = with;
            let _ = frames(stream.chunks(size));
        }

        #[test]
        fn arbitrary_bodies_never_panic(kind in prop::sample::select(&Kind::ALL[..]), body: Vec<u8>) {
            let _watch = Watch::over(format!("{kind:?} {body:?} "));
            let _ = Frame::decode(kind, &body.into(), &Limits::default());
        }
    }
}
