//! [`Answers`]: what the subscriber's end of a link says of single events, until the publisher's end has taken it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::ResultRow;
use bytes::Bytes;

use crate::frame::{Answer, Frame, MAX_ROW, Results, Verdict};
use crate::link::LinkError;
use crate::ranges::Ranges;

/// The answers of a link: numbered, kept until they are confirmed, and said again after a cut.
///
/// Each event gets one final answer. What is kept is bounded by the events that the publisher has open, as it confirms
/// [often](CONFIRM_EVERY).
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The events with a final answer.
    settled: Ranges,
    /// The answers after the last that is confirmed, oldest first.
    kept: VecDeque<Kept>,
    /// Results that become an answer when it is to go out.
    row: ResultRow,
    /// How many bytes of results and their numbers go into one row; 0 if the publisher takes none.
    row_bytes: usize,
    /// The number of the last answer that the publisher has confirmed.
    confirmed: u64,
    /// The number of the last answer that went out on this stream; `>= confirmed`.
    sent: u64,
    /// The number of the last answer that ever went out: it must not change any more.
    last_sent: u64,
    /// Events that are being worked on. Whether this is heard does not matter much, so it is not numbered.
    in_progress: BTreeSet<u64>,
    /// Events that were begun and have no final answer. It is not numbered either, and said again on another stream.
    begun: BTreeSet<u64>,
    /// Those of them of which that is to be said.
    begun_due: BTreeSet<u64>,
    /// How much of a result goes into one answer; 0 until it is known.
    piece_bytes: usize,
}

/// An answer, or a row of them that counts as one.
#[derive(Clone, Debug)]
enum Kept {
    One(Answer),
    Row(Results),
}

impl Answers {
    /// No answer yet. Results are cut to pieces of so many bytes.
    pub(crate) fn new(piece_bytes: usize) -> Self {
        Self { piece_bytes, ..Self::default() }
    }

    /// The publisher takes rows of results. To be said before the first answer.
    pub(crate) fn in_rows_of(&mut self, bytes: usize) {
        self.row_bytes = bytes;
    }

    /// Says something of event `seq`, unless it has its final answer.
    pub(crate) fn add(&mut self, seq: u64, answer: aqueduct_stage::Answer) {
        use aqueduct_stage::Answer as Said;
        if self.settled.contains(seq) {
            return;
        }
        let (verdict, delay, message) = match answer {
            Said::Done => (Verdict::Done, Duration::ZERO, String::new()),
            Said::DoneWith(result) => return self.add_result(seq, &result),
            Said::Retry { delay, message } => (Verdict::Retry, delay, message),
            Said::GiveUp { message } => (Verdict::GiveUp, Duration::ZERO, message),
            Said::Returned => (Verdict::Returned, Duration::ZERO, String::new()),
            Said::Begun => {
                self.begun.insert(seq);
                self.begun_due.insert(seq);
                return;
            }
            // Further ones are for publishers that know them.
            _ => {
                self.in_progress.insert(seq);
                return;
            }
        };
        self.settle(seq);
        self.close_row();
        if verdict == Verdict::Done && self.join_last(seq) {
            return;
        }
        let message = message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned();
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let number = self.last() + 1;
        let answer = Answer { number, ranges: vec![(seq, seq)], verdict, delay_ms, message, result: None };
        self.kept.push_back(Kept::One(answer));
    }

    /// Nothing but its final answer is to be said of event `seq`.
    fn settle(&mut self, seq: u64) {
        self.settled.add(seq);
        self.in_progress.remove(&seq);
        self.begun.remove(&seq);
        self.begun_due.remove(&seq);
    }

    /// Says that event `seq` is done, and what came of it, unless it has its final answer: with others in a row, or in pieces
    /// that follow each other.
    pub(crate) fn add_result(&mut self, seq: u64, result: &[u8]) {
        if self.settled.contains(seq) {
            return;
        }
        self.settle(seq);
        let weight = |results: usize, bytes: usize| bytes + results * NUMBERS_BYTES;
        if weight(1, result.len()) <= self.row_bytes {
            let (results, bytes) = (self.row.len() + 1, self.row.bytes().len() + result.len());
            if results > MAX_ROW || weight(results, bytes) > self.row_bytes {
                self.close_row();
            }
            return self.row.push(seq, result);
        }
        self.close_row();
        let mut rest = Bytes::copy_from_slice(result);
        loop {
            let piece = rest.split_to(rest.len().min(self.piece_bytes.max(1)));
            let verdict = if rest.is_empty() { Verdict::Done } else { Verdict::Part };
            let (number, message) = (self.last() + 1, String::new());
            let result = Some(piece);
            let answer = Answer { number, ranges: vec![(seq, seq)], verdict, delay_ms: 0, message, result };
            self.kept.push_back(Kept::One(answer));
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Makes an answer of the row, behind those that are kept.
    fn close_row(&mut self) {
        if !self.row.is_empty() {
            let row = Arc::new(std::mem::take(&mut self.row));
            self.kept.push_back(Kept::Row(Results { number: self.last() + 1, row }));
        }
    }

    /// The next answer to go out.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        if self.sent == self.last() {
            self.close_row();
        }
        if self.sent < self.last() {
            let at = usize::try_from(self.sent - self.confirmed).expect("it is less than how many are kept");
            self.sent += 1;
            self.last_sent = self.last_sent.max(self.sent);
            return Some(match self.kept[at].clone() {
                Kept::One(answer) => Frame::Answer(answer),
                Kept::Row(row) => Frame::Results(row),
            });
        }
        self.next_word().map(Frame::Answer)
    }

    /// What is said of events without a number.
    fn next_word(&mut self) -> Option<Answer> {
        let (verdict, events) = match (&mut self.begun_due, &mut self.in_progress) {
            (begun, _) if !begun.is_empty() => (Verdict::Begun, begun),
            (_, in_progress) if !in_progress.is_empty() => (Verdict::InProgress, in_progress),
            _ => return None,
        };
        let ranges = std::iter::from_fn(|| events.pop_first()).take(MAX_RANGES).map(|seq| (seq, seq)).collect();
        Some(Answer { number: 0, ranges, verdict, delay_ms: 0, message: String::new(), result: None })
    }

    /// The publisher has taken the answers up to number `up_to`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Answer`] if there were not so many.
    pub(crate) fn confirm(&mut self, up_to: u64) -> Result<(), LinkError> {
        if up_to > self.last_sent {
            return Err(LinkError::Answer { expected: self.last_sent, got: up_to });
        }
        while self.confirmed < up_to {
            self.kept.pop_front();
            self.confirmed += 1;
        }
        self.sent = self.sent.max(self.confirmed);
        Ok(())
    }

    /// Says again what is not confirmed, on another stream.
    pub(crate) fn restart(&mut self) {
        self.sent = self.confirmed;
        self.begun_due.clone_from(&self.begun);
    }

    /// The events with a final answer.
    pub(crate) fn settled(&self) -> &Ranges {
        &self.settled
    }

    /// All events up to this one have their final answer.
    pub(crate) fn settled_up_to(&self) -> u64 {
        self.settled.prefix()
    }

    /// The number of the last answer.
    fn last(&self) -> u64 {
        self.confirmed + self.kept.len() as u64
    }

    /// Says that event `seq` is done with the last answer, if that has not gone out.
    fn join_last(&mut self, seq: u64) -> bool {
        let (last, last_sent) = (self.last(), self.last_sent);
        let Some(Kept::One(answer)) = self.kept.back_mut() else { return false };
        if last <= last_sent || answer.verdict != Verdict::Done || answer.result.is_some() {
            return false;
        }
        // Answers mostly come in the order of the events, or not far from it.
        for (first, last) in answer.ranges.iter_mut().rev() {
            if seq == *last + 1 {
                *last = seq;
                return true;
            }
            if seq + 1 == *first {
                *first = seq;
                return true;
            }
        }
        let has_room = answer.ranges.len() < MAX_RANGES;
        if has_room {
            answer.ranges.push((seq, seq));
        }
        has_room
    }
}

/// The most ranges of events in an answer: some hundred bytes.
pub(crate) const MAX_RANGES: usize = 64;
/// The publisher confirms so many answers together.
pub(crate) const CONFIRM_EVERY: u64 = 32;
/// What the numbers of a result take in a frame of a row, at most.
const NUMBERS_BYTES: usize = 16;
/// As much of a message is sent as is kept for a dead letter.
const MAX_MESSAGE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use aqueduct_stage::Answer as Said;

    use super::*;

    /// Number, verdict and ranges of an answer.
    type Summary = (u64, Verdict, Vec<(u64, u64)>);

    fn sent(answers: &mut Answers) -> Vec<Summary> {
        let answer = |frame| match frame {
            Frame::Answer(answer) => (answer.number, answer.verdict, answer.ranges),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| answers.next()).map(answer).collect()
    }

    fn retry() -> Said {
        Said::Retry { delay: Duration::from_millis(5), message: "é".repeat(2000) }
    }

    #[test]
    fn what_is_done_goes_out_together() {
        let mut answers = Answers::default();
        for seq in [1, 2, 5, 4, 3, 9, 9, 2] {
            answers.add(seq, Said::Done);
        }
        assert_eq!(sent(&mut answers), [(1, Verdict::Done, vec![(1, 2), (3, 5), (9, 9)])]);
        answers.add(10, Said::Done);
        assert_eq!(sent(&mut answers), [(2, Verdict::Done, vec![(10, 10)])]);
    }

    #[test]
    fn an_answer_has_so_many_ranges() {
        let mut answers = Answers::default();
        for seq in 1..=100 {
            answers.add(seq * 2, Said::Done);
        }
        assert_eq!(sent(&mut answers).into_iter().map(|(.., ranges)| ranges.len()).collect::<Vec<_>>(), [64, 36]);
    }

    #[test]
    fn the_first_final_answer_counts_and_the_order_is_kept() {
        let mut answers = Answers::default();
        answers.add(1, Said::InProgress);
        answers.add(2, Said::InProgress);
        answers.add(3, Said::Done);
        answers.add(1, retry());
        answers.add(1, Said::Done);
        answers.add(4, Said::GiveUp { message: "no".into() });
        answers.add(5, Said::Done);
        let expected = [
            (1, Verdict::Done, vec![(3, 3)]),
            (2, Verdict::Retry, vec![(1, 1)]),
            (3, Verdict::GiveUp, vec![(4, 4)]),
            (4, Verdict::Done, vec![(5, 5)]),
            (0, Verdict::InProgress, vec![(2, 2)]),
        ];
        assert_eq!(sent(&mut answers), expected);
    }

    #[test]
    fn messages_are_cut() {
        let mut answers = Answers::default();
        answers.add(1, retry());
        let Some(Frame::Answer(answer)) = answers.next() else { panic!("there is one") };
        assert_eq!((answer.delay_ms, answer.message.len()), (5, 1024));
    }

    #[test]
    fn what_is_not_confirmed_is_said_again_unchanged() {
        let mut answers = Answers::default();
        answers.add(1, Said::Done);
        assert_eq!(sent(&mut answers).len(), 1);
        answers.restart();
        // It must not join what may have been taken.
        answers.add(2, Said::Done);
        let expected = [(1, Verdict::Done, vec![(1, 1)]), (2, Verdict::Done, vec![(2, 2)])];
        assert_eq!(sent(&mut answers), expected);
        answers.restart();
        answers.confirm(1).unwrap();
        assert_eq!(sent(&mut answers), expected[1..]);
        answers.confirm(0).unwrap();
        assert_eq!(answers.confirm(3), Err(LinkError::Answer { expected: 2, got: 3 }));
        answers.confirm(2).unwrap();
        answers.restart();
        assert_eq!((sent(&mut answers).len(), answers.kept.len(), answers.settled_up_to()), (0, 0, 2));
    }

    #[test]
    fn what_is_begun_is_said_unless_it_has_ended_and_again_on_another_stream() {
        let mut answers = Answers::default();
        for seq in 1..=3 {
            answers.add(seq, Said::Begun);
        }
        answers.add(1, Said::Done);
        answers.add(4, Said::Returned);
        let done = (1, Verdict::Done, vec![(1, 1)]);
        let returned = (2, Verdict::Returned, vec![(4, 4)]);
        let begun = |seqs: &[u64]| (0, Verdict::Begun, seqs.iter().map(|seq| (*seq, *seq)).collect());
        assert_eq!(sent(&mut answers), [done.clone(), returned.clone(), begun(&[2, 3])]);
        answers.add(2, Said::Done);
        answers.restart();
        assert_eq!(sent(&mut answers), [done, returned, (3, Verdict::Done, vec![(2, 2)]), begun(&[3])]);
    }

    /// Number and events of a row.
    fn row(answers: &mut Answers) -> (u64, Vec<u64>) {
        match answers.next() {
            Some(Frame::Results(Results { number, row })) => (number, row.iter().map(|(seq, _)| seq).collect()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn results_go_out_in_rows_until_something_else_is_said_or_they_are_long() {
        let mut answers = Answers::new(100);
        answers.in_rows_of(10 + 2 * NUMBERS_BYTES);
        for seq in [3, 1, 2, 2] {
            answers.add_result(seq, b"four");
        }
        answers.add(4, Said::Done);
        answers.add_result(5, &[7; 10 + NUMBERS_BYTES]);
        answers.add_result(6, &[7; 11 + NUMBERS_BYTES]);
        answers.add_result(7, b"");
        assert_eq!([row(&mut answers), row(&mut answers)], [(1, vec![3, 1]), (2, vec![2])]);
        assert!(matches!(answers.next(), Some(Frame::Answer(Answer { number: 3, result: None, .. }))));
        assert_eq!(row(&mut answers), (4, vec![5]));
        assert!(matches!(answers.next(), Some(Frame::Answer(Answer { number: 5, result: Some(_), .. }))));
        assert_eq!(row(&mut answers), (6, vec![7]));
        // What has gone out is not joined, and is said again as it was.
        answers.add_result(8, b"");
        answers.restart();
        answers.confirm(5).unwrap();
        assert_eq!([row(&mut answers), row(&mut answers)], [(6, vec![7]), (7, vec![8])]);
        assert!(answers.next().is_none());
    }
}
