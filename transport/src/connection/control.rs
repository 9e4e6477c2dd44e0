//! [`Control`]: what two nodes say to each other beside their subscriptions, on the control stream of a connection.
//!
//! After the introduction each may ask the other once what can be called there, and is silent otherwise.

mod inquiry;

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

pub(crate) use inquiry::{Inquiry, converse};

use super::pace::Pace;
use crate::frame::{AskFunctions, Frame, FunctionRow, FunctionsPart};
use crate::{Functions, FunctionsDigest, Limits, RegisterError};

/// One end of a control stream, behind the introduction. Both ends are alike.
///
/// * mutators: [`ask`](Self::ask)
/// * handlers: [`handle_frame`](Self::handle_frame), [`handle_skipped`](Self::handle_skipped)
/// * polls: [`poll_transmit`](Self::poll_transmit), [`poll_functions`](Self::poll_functions)
#[derive(Debug)]
pub(crate) struct Control {
    limits: Limits,
    ours: Arc<Functions>,
    /// What the peer has, as it has said in the introduction.
    announced: Option<FunctionsDigest>,
    pace: Pace,
    frames_per_second: u32,
    question: Question,
    /// What is left to send of the answer to the peer's question; `None` before it has asked.
    answer: Option<Answer>,
}

/// What this node wants to know of the peer.
#[derive(Debug)]
enum Question {
    /// Nothing.
    None,
    /// The question is to be sent.
    Due,
    /// It is sent, and so much of the answer is here.
    Sent(Functions),
    /// The answer is here.
    Answered(Arc<Functions>),
    /// The answer was handed on.
    Over,
}

/// What is left to send.
#[derive(Debug)]
struct Answer {
    rows: std::vec::IntoIter<FunctionRow>,
    /// The last part was made.
    is_over: bool,
}

/// The peer broke a rule of the control stream.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("unexpected {frame} frame on the control stream")]
    Unexpected { frame: &'static str },
    #[error("expected at most {bound} control frames a second, got more")]
    TooFast { bound: u32 },
    #[error("asked for the functions a second time")]
    AskedTwice,
    #[error("expected a part of the functions to have one at least, got none")]
    EmptyPart,
    #[error("not a list of functions: {0}")]
    Functions(RegisterError),
    #[error("expected functions with the digest {announced}, got {got}")]
    Digest { announced: FunctionsDigest, got: FunctionsDigest },
}

aqueduct_stage::debug_as_sentence!(ControlError);

impl Control {
    /// An end of a node that has `ours`; `announced` is what the peer has said that it has. The peer may send so many
    /// frames a second.
    pub(crate) fn new(
        limits: Limits,
        ours: Arc<Functions>,
        announced: Option<FunctionsDigest>,
        frames_per_second: u32,
    ) -> Self {
        let pace = Pace::new(frames_per_second);
        Self { limits, ours, announced, pace, frames_per_second, question: Question::None, answer: None }
    }

    /// Wants to know what the peer has. Asked again, it does nothing. Only for a peer that has said a digest: another one
    /// does not understand the question.
    pub(crate) fn ask(&mut self) {
        if matches!(self.question, Question::None) && self.announced.is_some() {
            self.question = Question::Due;
        }
    }

    /// Takes a frame that has come from the peer.
    ///
    /// # Errors
    ///
    /// [`ControlError`]: the peer is not to be trusted with the connection any more.
    pub(crate) fn handle_frame(&mut self, frame: Frame, now: Instant) -> Result<(), ControlError> {
        match frame {
            // It was asked for, and each has something in it: what may come is bounded by what there may be.
            Frame::FunctionsPart(part) if matches!(self.question, Question::Sent(_)) => self.handle_part(part),
            Frame::AskFunctions(_) if self.answer.is_some() => Err(ControlError::AskedTwice),
            Frame::AskFunctions(_) => {
                self.count(1, now)?;
                let row = |(name, version, signature): (&str, u32, &crate::Signature)| {
                    FunctionRow(name.to_owned(), version, signature.clone())
                };
                let rows: Vec<_> = self.ours.iter().map(row).collect();
                self.answer = Some(Answer { rows: rows.into_iter(), is_over: false });
                Ok(())
            }
            other => Err(ControlError::Unexpected { frame: other.name() }),
        }
    }

    /// So many frames have come that this version does not know and need not.
    ///
    /// # Errors
    ///
    /// [`ControlError::TooFast`].
    pub(crate) fn handle_skipped(&mut self, frames: u64, now: Instant) -> Result<(), ControlError> {
        self.count(frames, now)
    }

    fn count(&mut self, frames: u64, now: Instant) -> Result<(), ControlError> {
        let is_kept = self.pace.count(frames, now);
        if is_kept { Ok(()) } else { Err(ControlError::TooFast { bound: self.frames_per_second }) }
    }

    /// Returns the next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Bytes> {
        if matches!(self.question, Question::Due) {
            self.question = Question::Sent(Functions::new());
            return Some(self.encode(&Frame::AskFunctions(AskFunctions {})));
        }
        let bound = self.limits.control_frame_bytes();
        let part = self.answer.as_mut()?.next_part(bound)?;
        Some(self.encode(&Frame::FunctionsPart(part)))
    }

    /// Returns what the peer has, once.
    pub(crate) fn poll_functions(&mut self) -> Option<Arc<Functions>> {
        match mem::replace(&mut self.question, Question::Over) {
            Question::Answered(functions) => Some(functions),
            other => {
                self.question = other;
                None
            }
        }
    }

    fn handle_part(&mut self, part: FunctionsPart) -> Result<(), ControlError> {
        let FunctionsPart { functions, is_last } = part;
        let Question::Sent(theirs) = &mut self.question else { return Ok(()) };
        if functions.is_empty() && !(is_last && theirs.is_empty()) {
            return Err(ControlError::EmptyPart);
        }
        for FunctionRow(name, version, signature) in functions {
            // They are bounded as our own are. They cannot be called here.
            theirs.insert(&name, version, signature, ()).map_err(ControlError::Functions)?;
        }
        if is_last {
            let got = theirs.digest();
            let theirs = mem::take(theirs);
            if let Some(announced) = self.announced.filter(|announced| *announced != got) {
                return Err(ControlError::Digest { announced, got });
            }
            self.question = Question::Answered(Arc::new(theirs));
        }
        Ok(())
    }

    fn encode(&self, frame: &Frame) -> Bytes {
        let parts = frame.encode(&self.limits).expect("a function fits into any frame, and no more are put into one");
        if parts.payload.is_empty() { parts.head } else { [parts.head, parts.payload].concat().into() }
    }
}

impl Answer {
    /// As many functions as fit into a frame of `bound` bytes; one fits into the smallest.
    fn next_part(&mut self, bound: usize) -> Option<FunctionsPart> {
        if self.is_over {
            return None;
        }
        let (mut functions, mut left) = (Vec::new(), bound - FRAME_BYTES);
        while let Some(row) = self.rows.as_slice().first() {
            let bytes = rmp_serde::to_vec_named(row).map_or(usize::MAX, |row| row.len());
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None if functions.is_empty() => {}
                None => break,
            }
            functions.extend(self.rows.next());
        }
        self.is_over = self.rows.len() == 0;
        Some(FunctionsPart { functions, is_last: self.is_over })
    }
}

/// What a frame has beside its functions: less than this, in bytes.
const FRAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::{Accepted, FrameDecoder};
    use crate::{LookupError, Signature};

    fn functions(count: u32) -> Arc<Functions> {
        let mut functions = Functions::new();
        for version in 0..count {
            functions.register(&"name".repeat(60), version, |n: u64| n).unwrap();
        }
        Arc::new(functions)
    }

    fn control(ours: &Arc<Functions>, theirs: &Arc<Functions>) -> Control {
        let limits = Limits::default().max_control_frame_bytes(Limits::MIN_FRAME_BYTES);
        Control::new(limits, Arc::clone(ours), Some(theirs.digest()), 100)
    }

    /// Carries everything from one end to the other; returns how many frames there were.
    fn carry(from: &mut Control, to: &mut Control) -> Result<usize, ControlError> {
        let (mut decoder, mut frames) = (FrameDecoder::new(from.limits.clone()), 0);
        while let Some(bytes) = from.poll_transmit() {
            decoder.push(bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                to.handle_frame(frame, Instant::now())?;
                frames += 1;
            }
        }
        Ok(frames)
    }

    #[test]
    fn what_the_peer_has_comes_in_bounded_pieces() {
        for count in [0, 1, 1000] {
            let (ours, theirs) = (functions(2), functions(count));
            let (mut here, mut there) = (control(&ours, &theirs), control(&theirs, &ours));
            here.ask();
            here.ask();
            assert_eq!(carry(&mut here, &mut there), Ok(1));
            assert!(here.poll_functions().is_none());
            let parts = carry(&mut there, &mut here).unwrap();
            // Some 290 bytes each, 4096 bytes a frame.
            let expected = if count < 2 { 1..=1 } else { 70..=80 };
            assert!(expected.contains(&parts), "{parts} parts");
            let got = here.poll_functions().unwrap();
            assert_eq!((got.digest(), got.len()), (theirs.digest(), count as usize));
            assert!(here.poll_functions().is_none() && here.poll_transmit().is_none());
        }
    }

    #[test]
    fn the_longest_function_fits_into_the_smallest_frame() {
        let mut theirs = Functions::new();
        let signature = Signature::new::<u64, u64, ()>(&"k".repeat(2048 - 8));
        for version in [u32::MAX, u32::MAX - 1] {
            theirs.insert(&"n".repeat(255), version, signature.clone(), ()).unwrap();
        }
        let (ours, theirs) = (functions(0), Arc::new(theirs));
        let (mut here, mut there) = (control(&ours, &theirs), control(&theirs, &ours));
        here.ask();
        carry(&mut here, &mut there).unwrap();
        assert_eq!(carry(&mut there, &mut here), Ok(2));
        let got = here.poll_functions().unwrap();
        let missing = got.require(&"n".repeat(255), 1, &signature).unwrap_err();
        assert!(matches!(missing, LookupError::Missing { present, .. } if present == [u32::MAX - 1, u32::MAX]));
    }

    #[test]
    fn a_list_that_is_not_the_announced_one_is_not_believed() {
        let (ours, theirs) = (functions(2), functions(3));
        let (mut here, mut there) = (control(&ours, &functions(4)), control(&theirs, &ours));
        here.ask();
        carry(&mut here, &mut there).unwrap();
        let (announced, got) = (functions(4).digest(), theirs.digest());
        assert_eq!(carry(&mut there, &mut here), Err(ControlError::Digest { announced, got }));
    }

    fn row(name: &str) -> FunctionRow {
        FunctionRow(name.into(), 1, Signature::of::<u64, u64>())
    }

    #[test]
    fn who_breaks_a_rule_is_told_which() {
        let part = |rows: &[&str]| {
            Frame::FunctionsPart(FunctionsPart {
                functions: rows.iter().map(|name| row(name)).collect(),
                is_last: false,
            })
        };
        let asked = |frames: Vec<Frame>| {
            let mut here = control(&functions(1), &functions(2));
            here.ask();
            here.poll_transmit();
            let error = frames.into_iter().find_map(|frame| here.handle_frame(frame, Instant::now()).err());
            error.unwrap().to_string()
        };
        assert_eq!(
            asked(vec![part(&["a"]), part(&[])]),
            "expected a part of the functions to have one at least, got none"
        );
        assert!(asked(vec![part(&["a"]), part(&["a"])]).starts_with("not a list of functions: function \"a\" v1 is"));
        assert!(asked(vec![part(&[&"x".repeat(256)])]).contains("expected a name of 1 to 255 bytes"));
        let accepted = || Frame::Accepted(Accepted::default());
        assert_eq!(asked(vec![accepted()]), "unexpected accepted frame on the control stream");
        let ask = || Frame::AskFunctions(AskFunctions {});
        assert_eq!(asked(vec![ask(), ask()]), "asked for the functions a second time");

        let mut unasked = control(&functions(1), &functions(2));
        let error = unasked.handle_frame(part(&["a"]), Instant::now()).unwrap_err();
        assert_eq!(error, ControlError::Unexpected { frame: "functions part" });
    }

    #[test]
    fn frames_come_at_a_bounded_rate() {
        let mut control = control(&functions(0), &functions(0));
        let now = Instant::now();
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        assert_eq!(control.handle_skipped(100, now), Ok(()));
        assert_eq!(control.handle_skipped(10, at(100)), Ok(()));
        // A long silence saves up no more than a second's worth.
        assert_eq!(control.handle_skipped(100, at(60_000)), Ok(()));
        for late in 1..=1000 {
            assert_eq!(control.handle_skipped(1, at(60_000 + 10 * late)), Ok(()));
        }
        assert_eq!(control.handle_skipped(1, at(70_000)), Err(ControlError::TooFast { bound: 100 }));
        assert_eq!(control.handle_skipped(u64::MAX, at(90_000)), Err(ControlError::TooFast { bound: 100 }));
    }

    #[test]
    fn a_peer_that_has_said_nothing_is_not_asked() {
        let mut control = Control::new(Limits::default(), functions(1), None, 100);
        control.ask();
        assert_eq!(control.poll_transmit(), None);
    }
}
