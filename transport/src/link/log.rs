//! [`Log`]: the events of a link that the subscriber has not acknowledged, in their encoding.

use std::collections::VecDeque;

use aqueduct_stage::Attempt;
use bytes::Bytes;

use crate::codec::Encoded;

/// What was sent, or is to be sent, and is not acknowledged: numbered without gaps, and read from any number on.
///
/// A batch is kept whole until its last event is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: VecDeque<Batch>,
    /// The number of the last event that was ever pushed.
    last: u64,
    /// The number of the last event that was acknowledged; `<= last`.
    acknowledged: u64,
    /// The length of all events after `acknowledged`.
    bytes: usize,
    /// The length of all events that were ever pushed.
    total_bytes: u64,
}

#[derive(Debug)]
struct Batch {
    /// The number of its first event.
    first: u64,
    /// The length of all events before it.
    bytes_before: u64,
    attempt: Attempt,
    events: Encoded,
}

/// Some events in a row, of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The number of the first.
    pub(crate) first: u64,
    /// At least 1.
    pub(crate) count: u64,
    pub(crate) attempt: Attempt,
    /// Their encodings, one after the other.
    pub(crate) payload: Bytes,
}

impl Log {
    /// Appends events.
    pub(crate) fn push(&mut self, events: &Encoded, attempt: Attempt) {
        if events.len() > 0 {
            self.bytes += events.bytes().len();
            let (first, bytes_before) = (self.last + 1, self.total_bytes);
            self.batches.push_back(Batch { first, bytes_before, attempt, events: events.clone() });
            self.total_bytes += events.bytes().len() as u64;
            self.last += events.len() as u64;
        }
    }

    /// Forgets the events up to number `up_to`; at most all there are.
    pub(crate) fn acknowledge(&mut self, up_to: u64) {
        let up_to = up_to.min(self.last);
        while let Some(batch) = self.batches.front()
            && self.acknowledged < up_to
        {
            let to = up_to.min(batch.last());
            self.bytes -= batch.end(to) - batch.end(self.acknowledged);
            self.acknowledged = to;
            if to == batch.last() {
                self.batches.pop_front();
            }
        }
    }

    /// The events from number `first` to at most `last`, as many as are at most `at_most_bytes` long, but one at least.
    /// `None` if they are not here.
    pub(crate) fn run(&self, first: u64, last: u64, at_most_bytes: usize) -> Option<Run> {
        let at = self.batches.partition_point(|batch| batch.last() < first);
        let batch = self.batches.get(at).filter(|batch| batch.first <= first && first <= last)?;
        let (start, ends) = (batch.end(first - 1), batch.events.ends());
        let ends = &ends[batch.position(first)..=batch.position(last.min(batch.last()))];
        let count = ends.partition_point(|end| end - start <= at_most_bytes).max(1);
        let payload = batch.events.bytes().slice(start..ends[count - 1]);
        Some(Run { first, count: count as u64, attempt: batch.attempt, payload })
    }

    /// The length of all events before number `number`, counted from the start. `None` if that event is not here.
    pub(crate) fn bytes_before(&self, number: u64) -> Option<u64> {
        let at = self.batches.partition_point(|batch| batch.last() < number);
        let batch = self.batches.get(at).filter(|batch| batch.first <= number)?;
        Some(batch.bytes_before + batch.end(number - 1) as u64)
    }

    /// The number of the last event.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The number of the last event that was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many bytes are not acknowledged.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Batch {
    /// The number of its last event.
    fn last(&self) -> u64 {
        self.first + self.events.len() as u64 - 1
    }

    /// Where event `number` stands in it.
    fn position(&self, number: u64) -> usize {
        usize::try_from(number - self.first).expect("it is less than the length of a batch")
    }

    /// Where event `number` ends, in bytes; 0 for those before its first.
    fn end(&self, number: u64) -> usize {
        if number < self.first { 0 } else { self.events.ends()[self.position(number)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::codec::{decode, encode};

    /// Two batches of three events: 1..=3, and 4..=6 at the second attempt.
    fn log() -> Log {
        let mut log = Log::default();
        log.push(&encode(&[1_u64, 2, 3], &Limits::default()).unwrap(), Attempt::FIRST);
        log.push(&encode::<u64>(&[], &Limits::default()).unwrap(), Attempt::FIRST);
        log.push(&encode(&[4_u64, 5, 6], &Limits::default()).unwrap(), Attempt::FIRST.next());
        log
    }

    fn events(run: &Run) -> Vec<u64> {
        decode(&run.payload, run.count, &Limits::default()).unwrap()
    }

    #[test]
    fn it_is_read_from_any_number_on_and_a_run_stays_within_its_batch() {
        let log = log();
        for first in 1..=6 {
            let run = log.run(first, 9, 100).unwrap();
            let end = if first <= 3 { 3 } else { 6 };
            assert_eq!(events(&run), (first..=end).collect::<Vec<_>>());
            assert_eq!(run.attempt.number(), if first <= 3 { 1 } else { 2 });
        }
        assert_eq!((log.run(7, 9, 100), log.run(5, 4, 100)), (None, None));
    }

    #[test]
    fn a_run_is_as_long_as_was_said_but_one_event_at_least() {
        let log = log();
        assert_eq!([0, 1, 2, 3].map(|bytes| events(&log.run(1, 9, bytes).unwrap()).len()), [1, 1, 2, 3]);
        assert_eq!(events(&log.run(2, 9, 1).unwrap()), [2]);
        assert_eq!(events(&log.run(1, 2, 100).unwrap()), [1, 2]);
    }

    #[test]
    fn bytes_are_counted_from_the_start_whatever_is_acknowledged() {
        let mut log = log();
        log.acknowledge(4);
        assert_eq!([4, 5, 6, 7].map(|number| log.bytes_before(number)), [Some(3), Some(4), Some(5), None]);
    }

    #[test]
    fn what_is_acknowledged_does_not_count_any_more() {
        let mut log = log();
        log.acknowledge(2);
        assert_eq!((log.bytes(), log.acknowledged()), (4, 2));
        log.acknowledge(4);
        assert_eq!((log.bytes(), log.run(3, 9, 100)), (2, None));
        assert_eq!(events(&log.run(5, 9, 100).unwrap()), [5, 6]);
        log.acknowledge(1);
        log.acknowledge(u64::MAX);
        assert_eq!((log.bytes(), log.acknowledged(), log.last()), (0, 6, 6));
    }
}
