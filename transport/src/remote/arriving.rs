//! What a link does with what has arrived at once: [`Batch`] puts events together, and [`Turn`] says when others are to have
//! theirs. Pure.

use aqueduct_stage::Attempt;

use crate::codec::{DecodeError, Form, decode_behind};
use crate::{Limits, Wire};

/// Events that came one by one, in a frame each, to be handed on together: to wake the consumer for each of them takes longer than
/// to decode it. What was emitted together, and so came in one frame, is handed on as it was, as in one process.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    events: Vec<T>,
    /// Which attempt it is for all of them.
    attempt: Attempt,
}

impl<T: Wire> Batch<T> {
    pub(crate) const fn new() -> Self {
        Self { events: Vec::new(), attempt: Attempt::FIRST }
    }

    /// Decodes the events of a frame and puts a single one behind the others. A batch that is large enough, and what does not
    /// belong to it, is handed on at once; the last one is only with [`end`](Self::end).
    ///
    /// # Errors
    ///
    /// As [`decode`](crate::codec::decode). What came in the frames before it can still be handed on.
    pub(crate) fn add(
        &mut self,
        (count, attempt, form, payload): (u64, Attempt, Form, &[u8]),
        limits: &Limits,
        mut hand_on: impl FnMut(Vec<T>, Attempt),
    ) -> Result<(), DecodeError> {
        if attempt != self.attempt || count > 1 {
            self.end(&mut hand_on);
            self.attempt = attempt;
        }
        decode_behind(&mut self.events, (form, payload, count), limits)?;
        if self.events.len() >= ENOUGH || count > 1 {
            self.end(hand_on);
        }
        Ok(())
    }

    /// Hands on what there is.
    pub(crate) fn end(&mut self, hand_on: impl FnOnce(Vec<T>, Attempt)) {
        if !self.events.is_empty() {
            hand_on(std::mem::take(&mut self.events), self.attempt);
        }
    }
}

/// How much a link may still do before the other tasks of the runtime have their turn. A peer decides how much there is to do.
#[derive(Debug)]
pub(crate) struct Turn {
    left: u32,
}

impl Turn {
    pub(crate) const fn begin() -> Self {
        Self { left: FRAMES }
    }

    /// A frame was handled.
    pub(crate) fn frame(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Bytes were moved, some tens of kilobytes at most.
    pub(crate) fn moved(&mut self) {
        self.left = self.left.saturating_sub(FRAMES / MOVES);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

/// Of so many events the batch costs little beside them.
const ENOUGH: usize = 128;
/// So many frames are handled in a turn: some tens of microseconds, while a wake takes about one.
const FRAMES: u32 = 128;
/// Or bytes are moved so often, 64 packets each time.
const MOVES: u32 = 4;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    /// What is handed on of frames of single bytes: how many, of which attempt, and whether the last is right.
    fn batches(frames: &[(u32, &[u8])]) -> (Vec<(Vec<u8>, u32)>, bool) {
        let (mut batch, mut batches, limits) = (Batch::<u8>::new(), Vec::new(), Limits::default());
        let mut hand_on = |events: Vec<u8>, attempt: Attempt| batches.push((events, attempt.number()));
        let is_right = frames.iter().all(|(attempt, payload)| {
            let attempt = Attempt::new(NonZeroU32::new(*attempt).unwrap());
            batch.add((payload.len() as u64, attempt, Form::Values, payload), &limits, &mut hand_on).is_ok()
        });
        batch.end(hand_on);
        (batches, is_right)
    }

    #[test]
    fn events_that_came_one_by_one_are_handed_on_together_and_others_as_they_came() {
        assert_eq!(batches(&[(1, &[1]), (1, &[2]), (1, &[3])]), (vec![(vec![1, 2, 3], 1)], true));
        let expected = vec![(vec![1], 1), (vec![2, 3], 1), (vec![4, 5], 1)];
        assert_eq!(batches(&[(1, &[1]), (1, &[2, 3]), (1, &[4]), (1, &[5])]), (expected, true));
        assert_eq!(batches(&[]), (vec![], true));
    }

    #[test]
    fn events_of_another_attempt_are_handed_on_by_themselves() {
        let expected = vec![(vec![1], 1), (vec![2, 3], 2), (vec![4], 1)];
        assert_eq!(batches(&[(1, &[1]), (2, &[2]), (2, &[3]), (1, &[4])]), (expected, true));
    }

    #[test]
    fn a_batch_that_is_large_enough_waits_for_nothing() {
        let long = [7; ENOUGH];
        let single = vec![(1, [7].as_slice()); ENOUGH + 1];
        assert_eq!(batches(&single), (vec![(long.to_vec(), 1), (vec![7], 1)], true));
    }

    #[test]
    fn of_a_frame_that_cannot_be_decoded_nothing_is_handed_on_and_what_came_before_it_is() {
        // 0xc3 is `true`, behind a number that is right.
        assert_eq!(batches(&[(1, &[1]), (1, &[2, 0xc3])]), (vec![(vec![1], 1)], false));
    }

    #[test]
    fn a_turn_ends_with_so_many_frames_or_bytes_whichever_comes_first() {
        let mut turn = Turn::begin();
        (1..FRAMES).for_each(|_| turn.frame());
        assert!(!turn.is_over());
        turn.frame();
        assert!(turn.is_over());

        let mut turn = Turn::begin();
        (1..MOVES).for_each(|_| turn.moved());
        assert!(!turn.is_over());
        (0..FRAMES / MOVES).for_each(|_| turn.frame());
        assert!(turn.is_over());
    }
}
