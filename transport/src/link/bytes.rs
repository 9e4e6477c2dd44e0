//! [`ByteCredit`]: how many bytes of events a publisher may send, as its subscriber reckons it.

use std::collections::VecDeque;

use crate::link::LinkError;

/// Bounds the bytes of the events that have arrived and that the consumer has not taken yet, as the demand bounds their
/// number.
///
/// Bytes are those of events' encodings, counted from the start of the subscription, so that they can be said again. An event
/// may begin as long as fewer bytes than the credit are before it: one that is longer than the whole window still gets
/// through when nothing else waits, and the bytes that wait are less than the window and one event.
///
/// The credit follows what the consumer has really taken. What it asks for does not tell: it asks for many events at a
/// time, and may have to take hundreds of them before it asks again.
#[derive(Debug)]
pub(crate) struct ByteCredit {
    window: u64,
    /// What the publisher has been told. It never falls.
    told: u64,
    arrived: u64,
    /// `<= arrived`
    taken: u64,
    /// What has arrived and is not taken, in the order of the events; the first is not.
    waiting: VecDeque<Waiting>,
    /// The number of the last event that has arrived.
    last: u64,
}

/// Events that came together.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    first: u64,
    last: u64,
    /// How many of them are not taken.
    open: u64,
    /// 0 once they have counted as taken.
    bytes: u64,
}

impl ByteCredit {
    /// A credit of which the publisher has not been told yet.
    pub(crate) const fn new(window: u64) -> Self {
        Self { window, told: 0, arrived: 0, taken: 0, waiting: VecDeque::new(), last: 0 }
    }

    /// Checks that an event may begin now.
    ///
    /// # Errors
    ///
    /// [`LinkError::BeyondBytes`] if as many bytes have arrived as were allowed.
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        self.check_behind(0)
    }

    /// Checks that an event may begin behind so many bytes that come now.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub(crate) fn check_behind(&self, bytes: usize) -> Result<(), LinkError> {
        let got = self.arrived.saturating_add(bytes as u64);
        if got < self.told {
            return Ok(());
        }
        Err(LinkError::BeyondBytes { bound: self.told, got })
    }

    /// The events up to number `last` are here, with so many bytes more.
    pub(crate) fn arrive(&mut self, last: u64, bytes: usize) {
        self.arrived += bytes as u64;
        let (first, open) = (self.last + 1, last - self.last);
        self.waiting.push_back(Waiting { first, last, open, bytes: bytes as u64 });
        self.last = last;
    }

    /// The consumer has taken the events up to number `up_to`.
    pub(crate) fn take(&mut self, up_to: u64) {
        while let Some(taken) = self.waiting.pop_front_if(|waiting| waiting.last <= up_to) {
            self.taken += taken.bytes;
        }
    }

    /// The consumer has taken one event, in whatever order, and says so once. Those that came together count when all of them
    /// are taken.
    pub(crate) fn settle(&mut self, number: u64) {
        let at = self.waiting.partition_point(|waiting| waiting.last < number);
        // It may have been taken with those up to it.
        let Some(waiting) = self.waiting.get_mut(at).filter(|waiting| waiting.first <= number) else { return };
        debug_assert!(waiting.open > 0, "event {number} is taken for the second time");
        waiting.open = waiting.open.saturating_sub(1);
        if waiting.open == 0 {
            self.taken += std::mem::take(&mut waiting.bytes);
        }
        while self.waiting.pop_front_if(|waiting| waiting.open == 0).is_some() {}
    }

    /// Whether the publisher is to be told of more. By half windows: not with each event, and early enough for a publisher
    /// that would otherwise stop.
    pub(crate) fn is_due(&self) -> bool {
        self.taken >= self.next_raise()
    }

    /// With which event, once it is taken, more is [due](Self::is_due); `None` if that has not arrived yet.
    pub(crate) fn due_from(&self) -> Option<u64> {
        let mut bytes = self.taken;
        let is_enough = |waiting: &&Waiting| {
            bytes += waiting.bytes;
            bytes >= self.next_raise()
        };
        self.waiting.iter().find(is_enough).map(|waiting| waiting.last)
    }

    /// What the publisher is to be told, which is then the bound.
    pub(crate) fn tell(&mut self) -> u64 {
        self.told = self.taken.saturating_add(self.window);
        self.told
    }

    /// How many bytes are taken when more is due. Less than `told`, so a publisher that has used up its credit gets more as
    /// soon as everything is taken.
    fn next_raise(&self) -> u64 {
        self.told.saturating_sub(self.window / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_begins_as_long_as_there_are_bytes_left() {
        let mut credit = ByteCredit::new(100);
        assert_eq!(credit.check(), Err(LinkError::BeyondBytes { bound: 0, got: 0 }));
        assert_eq!(credit.tell(), 100);
        credit.arrive(1, 99);
        credit.check().unwrap();
        credit.arrive(2, 5000);
        let error = credit.check().unwrap_err();
        assert_eq!(error.to_string(), "expected no event to begin after 100 bytes, got one after 5099");
    }

    #[test]
    fn the_credit_follows_what_was_taken_by_half_windows() {
        let mut credit = ByteCredit::new(100);
        credit.tell();
        for event in 1..=10 {
            credit.arrive(event, 10);
        }
        assert_eq!(credit.due_from(), Some(5));
        credit.take(4);
        assert!(!credit.is_due());
        credit.take(5);
        assert!(credit.is_due());
        assert_eq!((credit.tell(), credit.is_due(), credit.due_from()), (150, false, Some(10)));
    }

    #[test]
    fn events_may_be_taken_in_any_order() {
        let mut credit = ByteCredit::new(100);
        credit.tell();
        credit.arrive(1, 10);
        credit.arrive(3, 40);
        credit.arrive(4, 60);
        for (event, is_due) in [(3, false), (4, true)] {
            credit.settle(event);
            assert_eq!(credit.is_due(), is_due, "after event {event}");
        }
        assert_eq!(credit.tell(), 160);
        credit.settle(2);
        assert_eq!((credit.tell(), credit.waiting.len()), (200, 3), "what is behind an open one waits for it");
        credit.settle(1);
        assert_eq!((credit.tell(), credit.waiting.len()), (210, 0));
    }

    #[test]
    fn an_event_that_was_taken_with_those_before_it_does_not_count_again() {
        let mut credit = ByteCredit::new(100);
        credit.arrive(2, 10);
        credit.arrive(4, 20);
        credit.take(2);
        credit.settle(2);
        credit.settle(4);
        assert_eq!(credit.tell(), 110);
        credit.settle(3);
        assert_eq!(credit.tell(), 130);
    }

    #[test]
    fn once_everything_is_taken_there_is_more_whatever_the_sizes() {
        for (window, length) in [(1, 1), (1, 9), (2, 1), (3, 2), (100, 1000), (100, 33)] {
            let mut credit = ByteCredit::new(window);
            credit.tell();
            for event in 1..50 {
                if credit.check().is_err() {
                    credit.take(event);
                    assert!(credit.is_due(), "a window of {window} and events of {length}");
                    credit.tell();
                }
                credit.check().unwrap();
                credit.arrive(event, length);
            }
        }
    }
}
