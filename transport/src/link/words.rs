//! [`Words`] and [`Recall`]: what the two ends of a link say of events that are open, and that a later word makes superfluous.

use std::collections::BTreeSet;

use aqueduct_stage::Answer;

use crate::link::answers::MAX_RANGES;
use crate::ranges::Ranges;

/// What the subscriber has said of events that have no final answer, until the source is told. However often it says so, each
/// event is here once for each of the two: no more than the link has open.
#[derive(Debug, Default)]
pub(crate) struct Words {
    begun: BTreeSet<u64>,
    in_progress: BTreeSet<u64>,
}

impl Words {
    pub(crate) fn begun(&mut self, seq: u64) {
        self.begun.insert(seq);
    }

    pub(crate) fn in_progress(&mut self, seq: u64) {
        self.in_progress.insert(seq);
    }

    /// Events have got their final answers.
    pub(crate) fn settle(&mut self, first: u64, last: u64) {
        for words in [&mut self.begun, &mut self.in_progress] {
            remove(words, first, last);
        }
    }

    /// The next thing to tell the source.
    pub(crate) fn next(&mut self) -> Option<(u64, Answer)> {
        let begun = self.begun.pop_first().map(|seq| (seq, Answer::Begun));
        begun.or_else(|| self.in_progress.pop_first().map(|seq| (seq, Answer::InProgress)))
    }
}

/// Events that the source wants back, until they have their final answers.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    wanted: BTreeSet<u64>,
    /// Those that the subscriber was not asked for on this stream.
    due: BTreeSet<u64>,
}

impl Recall {
    pub(crate) fn want(&mut self, seq: u64) {
        self.wanted.insert(seq);
        self.due.insert(seq);
    }

    /// Whether an event is wanted back.
    pub(crate) fn wants(&self, seq: u64) -> bool {
        self.wanted.contains(&seq)
    }

    pub(crate) fn settle(&mut self, first: u64, last: u64) {
        for events in [&mut self.wanted, &mut self.due] {
            remove(events, first, last);
        }
    }

    /// The subscriber has another stream.
    pub(crate) fn restart(&mut self) {
        self.due.clone_from(&self.wanted);
    }

    /// What the subscriber is to be asked for of the events before `next`, which it has: as many ranges as go into a frame.
    pub(crate) fn next_before(&mut self, next: u64) -> Option<Vec<(u64, u64)>> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        while let Some(seq) = self.due.first().copied().filter(|seq| *seq < next) {
            let is_full = ranges.len() == MAX_RANGES;
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ if is_full => break,
                _ => ranges.push((seq, seq)),
            }
            self.due.pop_first();
        }
        (!ranges.is_empty()).then_some(ranges)
    }
}

/// Of all numbers that are settled, forgets those that are in here.
fn remove(events: &mut BTreeSet<u64>, first: u64, last: u64) {
    if events.is_empty() {
        return;
    }
    let gone: Vec<_> = events.range(first..=last).copied().collect();
    for seq in gone {
        events.remove(&seq);
    }
}

/// Events for whose results nobody waits any more, and that have no final answer.
#[derive(Debug, Default)]
pub(crate) struct Expired(BTreeSet<u64>);

impl Expired {
    /// Notes one that is open.
    pub(crate) fn insert(&mut self, seq: u64, settled: &Ranges) {
        if !settled.contains(seq) {
            self.0.insert(seq);
        }
    }

    pub(crate) fn settle(&mut self, first: u64, last: u64) {
        remove(&mut self.0, first, last);
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.0.contains(&seq)
    }

    /// Whether one of these has expired.
    pub(crate) fn contains_any(&self, first: u64, last: u64) -> bool {
        self.0.range(first..=last).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_once_however_often_it_is_said() {
        let mut words = Words::default();
        for _ in 0..1000 {
            (1..=3).for_each(|seq| words.in_progress(seq));
            words.begun(2);
        }
        words.settle(3, 9);
        let told: Vec<_> = std::iter::from_fn(|| words.next()).collect();
        assert_eq!(told, [(2, Answer::Begun), (1, Answer::InProgress), (2, Answer::InProgress)]);
    }

    #[test]
    fn what_is_wanted_back_is_asked_for_once_on_each_stream_and_not_before_it_was_sent() {
        let mut recall = Recall::default();
        [1, 2, 4, 7].into_iter().for_each(|seq| recall.want(seq));
        assert_eq!(recall.next_before(5), Some(vec![(1, 2), (4, 4)]));
        assert_eq!(recall.next_before(5), None);
        recall.settle(1, 1);
        recall.restart();
        assert_eq!(recall.next_before(9), Some(vec![(2, 2), (4, 4), (7, 7)]));
        assert!(recall.wants(7) && !recall.wants(1));
    }
}
