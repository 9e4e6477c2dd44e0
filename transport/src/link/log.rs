//! [`Log`]: the events of a link that the subscriber has not acknowledged, in their encoding.

use std::collections::VecDeque;

use aqueduct_stage::Attempt;
use bytes::Bytes;

use crate::codec::{Form, Written};
use crate::ranges::Ranges;

/// What was sent, or is to be sent, and is not acknowledged: numbered without gaps, and read from any number on.
///
/// A batch is kept whole until its last event is acknowledged, except where events are [released](Log::release) one by one:
/// then what is left of it is copied when it is less than half.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: VecDeque<Batch>,
    /// The number of the last event that was ever pushed.
    last: u64,
    /// The events that were acknowledged; none is after `last`.
    settled: Ranges,
    /// The length of all others.
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
    events: Written,
    /// How many of them are not acknowledged; at least 1.
    open: u64,
    /// Their length.
    open_bytes: usize,
}

/// Some events in a row, of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The number of the first.
    pub(crate) first: u64,
    /// At least 1.
    pub(crate) count: u64,
    pub(crate) attempt: Attempt,
    pub(crate) form: Form,
    /// Their encodings, one after the other.
    pub(crate) payload: Bytes,
}

impl Log {
    /// Appends events.
    pub(crate) fn push(&mut self, events: Written, attempt: Attempt) {
        if !events.is_empty() {
            let batch = Batch::new(self.last + 1, self.total_bytes, attempt, events);
            self.last = batch.last();
            self.bytes += batch.open_bytes;
            self.total_bytes += batch.open_bytes as u64;
            self.batches.push_back(batch);
        }
    }

    /// Forgets the events up to number `up_to`; at most all there are.
    pub(crate) fn acknowledge(&mut self, up_to: u64) {
        for (first, last) in self.settled.insert(1, up_to.min(self.last)) {
            self.forget(first, last);
        }
    }

    /// Forgets the events from number `first` to `last`, wherever they stand; `last` is at most that of the last one. Returns
    /// those that were still here.
    pub(crate) fn release(&mut self, first: u64, last: u64) -> Vec<(u64, u64)> {
        debug_assert!(1 <= first && first <= last && last <= self.last);
        let released = self.settled.insert(first, last);
        for (first, last) in &released {
            self.forget(*first, *last);
        }
        let mut at = self.batches.partition_point(|batch| batch.last() < first);
        while let Some(batch) = self.batches.get(at).filter(|batch| batch.first <= last) {
            let is_mostly_gone = batch.events.byte_len() > 2 * batch.open_bytes + SPARE_BYTES;
            at += if is_mostly_gone { self.copy_rest(at) } else { 1 };
        }
        released
    }

    /// The events from number `first` to at most `last`, as many as are at most `at_most_bytes` long, but one at least.
    /// `None` if they are not here.
    pub(crate) fn run(&self, first: u64, last: u64, at_most_bytes: usize) -> Option<Run> {
        let at = self.batches.partition_point(|batch| batch.last() < first);
        let batch = self.batches.get(at).filter(|batch| batch.first <= first && first <= last)?;
        let (from, to) = (batch.position(first), batch.position(last.min(batch.last())) + 1);
        let count = batch.events.count_within(from, to, at_most_bytes);
        let (form, payload) = (batch.events.form(), batch.events.payload(from, from + count));
        Some(Run { first, count: count as u64, attempt: batch.attempt, form, payload })
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
        self.settled.prefix()
    }

    /// Which events were acknowledged.
    pub(crate) fn settled(&self) -> &Ranges {
        &self.settled
    }

    /// How many bytes are not acknowledged.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of events that are here and have just been settled.
    fn forget(&mut self, first: u64, last: u64) {
        let (mut at, mut next) = (self.batches.partition_point(|batch| batch.last() < first), first);
        while next <= last {
            let batch = &mut self.batches[at];
            let to = last.min(batch.last());
            let bytes = batch.end(to) - batch.end(next - 1);
            self.bytes -= bytes;
            batch.open -= to + 1 - next;
            batch.open_bytes -= bytes;
            next = to + 1;
            if batch.open == 0 {
                self.batches.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Replaces a batch by copies of what is left of it, and returns their number.
    fn copy_rest(&mut self, at: usize) -> usize {
        let Some(batch) = self.batches.remove(at) else { return 0 };
        let rest = self.settled.gaps(batch.first, batch.last());
        for (place, (first, last)) in (at..).zip(&rest) {
            let events = batch.events.part(batch.position(*first), batch.position(*last) + 1);
            let bytes_before = batch.bytes_before + batch.end(first - 1) as u64;
            self.batches.insert(place, Batch::new(*first, bytes_before, batch.attempt, events));
        }
        rest.len()
    }
}

impl Batch {
    fn new(first: u64, bytes_before: u64, attempt: Attempt, events: Written) -> Self {
        let (open, open_bytes) = (events.len() as u64, events.byte_len());
        Self { first, bytes_before, attempt, events, open, open_bytes }
    }

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
        if number < self.first { 0 } else { self.events.end(self.position(number) + 1) }
    }
}

/// So much is not worth a copy.
const SPARE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::codec::{decode, decode_behind, encode};

    /// Two batches of three events: 1..=3, and 4..=6 at the second attempt.
    fn log() -> Log {
        let mut log = Log::default();
        log.push(encode(&[1_u64, 2, 3], &Limits::default()).unwrap().into(), Attempt::FIRST);
        log.push(encode::<u64>(&[], &Limits::default()).unwrap().into(), Attempt::FIRST);
        log.push(encode(&[4_u64, 5, 6], &Limits::default()).unwrap().into(), Attempt::FIRST.next());
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

    #[test]
    fn numbers_are_read_from_any_one_on_and_count_for_what_they_take() {
        let (numbers, mut log) = ((1..=2000).map(|n| n * n).collect::<Vec<u64>>(), Log::default());
        log.push(Written::of(&numbers, &Limits::default()).unwrap(), Attempt::FIRST);
        assert_eq!((log.bytes(), log.bytes_before(11)), (16_000, Some(80)));
        let read = |run: &Run| {
            let mut numbers = Vec::<u64>::new();
            decode_behind(&mut numbers, (run.form, &run.payload, run.count), &Limits::default()).unwrap();
            numbers
        };
        for (first, last, bytes, count) in
            [(1, 9999, 7, 1), (7, 9999, 80, 10), (7, 12, 80, 6), (1, 9999, 1 << 20, 2000)]
        {
            let (run, from) = (log.run(first, last, bytes).unwrap(), first as usize - 1);
            assert_eq!((read(&run), run.count), (numbers[from..from + count].to_vec(), count as u64));
        }
        log.release(2, 1999);
        let held: usize = log.batches.iter().map(|batch| batch.events.len()).sum();
        assert_eq!((log.bytes(), held, log.bytes_before(2000)), (16, 2, Some(15_992)));
        assert_eq!([1, 2000].map(|number| read(&log.run(number, 9999, 100).unwrap())), [[1], [4_000_000]]);
    }

    #[test]
    fn single_events_are_released_in_any_order_and_their_memory_with_them() {
        let mut log = Log::default();
        let long = vec![7_u8; 1000];
        log.push(encode(&vec![Bytes::from(long); 100], &Limits::default()).unwrap().into(), Attempt::FIRST);
        let held = |log: &Log| log.batches.iter().map(|batch| batch.events.byte_len()).sum::<usize>();
        let length = log.bytes() / 100;
        for odd in (1..=99).step_by(2) {
            assert_eq!(log.release(odd, odd), [(odd, odd)]);
        }
        assert_eq!((log.bytes(), log.acknowledged()), (50 * length, 1));
        assert_eq!(log.release(1, 10), [(2, 2), (4, 4), (6, 6), (8, 8), (10, 10)]);
        assert_eq!((log.acknowledged(), log.settled().contains(11)), (11, true));
        for even in (14..=100).step_by(2) {
            log.release(even, even);
            assert!(held(&log) <= 2 * log.bytes() + SPARE_BYTES, "{} for {}", held(&log), log.bytes());
        }
        assert_eq!((log.bytes(), log.run(12, 12, 100_000).map(|run| run.count)), (length, Some(1)));
        assert_eq!(log.release(1, 100), [(12, 12)]);
        assert_eq!((log.bytes(), held(&log), log.acknowledged()), (0, 0, 100));
    }
}
