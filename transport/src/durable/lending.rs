//! Who has which entries of a queue: how many to take for whom, what is handled, and what comes back. Pure.

use std::collections::{BTreeMap, VecDeque};

use aqueduct_stage::{Demand, SubscriptionId};

use super::{QueueEntry, QueueId};

/// The readers of a queue, and what is lent to them.
#[derive(Debug, Default)]
pub(super) struct Lending {
    readers: BTreeMap<SubscriptionId, Reader>,
    /// To be acknowledged in the queue.
    handled: Vec<QueueId>,
    /// To wait in the queue again.
    returned: Vec<QueueId>,
}

#[derive(Debug, Default)]
struct Reader {
    /// Allowed in all.
    asked: Demand,
    /// Given in all.
    given: Demand,
    /// Whether it says what it has handled, and has the rest back.
    acknowledges: bool,
    /// Given and not handled, oldest first; nothing unless it acknowledges.
    lent: VecDeque<QueueId>,
}

/// Entries for one reader, all with the same attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loan {
    pub(super) to: SubscriptionId,
    pub(super) entries: Vec<QueueEntry>,
    /// The reader does not say what it has handled: for it, being given is the end of an entry.
    pub(super) is_final: bool,
}

impl Lending {
    pub(super) fn subscribe(&mut self, id: SubscriptionId) {
        self.readers.insert(id, Reader::default());
    }

    /// The reader allows `up_to` in all.
    pub(super) fn ask(&mut self, id: SubscriptionId, up_to: Demand) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.asked = reader.asked.max(up_to);
        }
    }

    /// The reader has handled `up_to` of what it was given. More than that counts as all.
    pub(super) fn handled(&mut self, id: SubscriptionId, up_to: Demand) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        // A reader that says so for the first time too late was given its entries for good.
        reader.acknowledges |= reader.given.is_zero();
        let left = reader.given.saturating_sub(up_to).as_len();
        let count = reader.lent.len().saturating_sub(left);
        self.handled.extend(reader.lent.drain(..count));
    }

    /// The reader is gone, and what it has not handled waits again.
    pub(super) fn leave(&mut self, id: SubscriptionId) {
        if let Some(reader) = self.readers.remove(&id) {
            self.returned.extend(reader.lent);
        }
    }

    /// How many entries there are readers for.
    pub(super) fn demand(&self) -> Demand {
        self.readers.values().map(Reader::open).fold(Demand::ZERO, Demand::saturating_add)
    }

    /// Gives what was taken from the queue to those who want it, each time to the one that wants most. What nobody wants
    /// any more waits again.
    pub(super) fn assign(&mut self, taken: Vec<QueueEntry>) -> Vec<Loan> {
        let mut loans = Vec::new();
        if !self.returned.is_empty() {
            // It is older than what was taken, and comes first.
            self.returned.extend(taken.into_iter().map(|entry| entry.id));
            return loans;
        }
        let mut taken = taken.into_iter().peekable();
        while let Some(first) = taken.peek() {
            let attempt = first.attempt;
            let most = self.readers.iter_mut().max_by_key(|(id, reader)| (reader.open(), std::cmp::Reverse(**id)));
            let Some((to, reader)) = most.filter(|(_, reader)| !reader.open().is_zero()) else {
                self.returned.extend(taken.map(|entry| entry.id));
                break;
            };
            let mut entries = Vec::new();
            while Demand::from(entries.len()) < reader.open()
                && let Some(entry) = taken.next_if(|entry| entry.attempt == attempt)
            {
                entries.push(entry);
            }
            reader.given.add(Demand::from(entries.len()));
            if reader.acknowledges {
                reader.lent.extend(entries.iter().map(|entry| entry.id));
            }
            loans.push(Loan { to: *to, entries, is_final: !reader.acknowledges });
        }
        loans
    }

    /// These were taken, and are not for anybody.
    pub(super) fn give_back(&mut self, ids: impl IntoIterator<Item = QueueId>) {
        self.returned.extend(ids);
    }

    /// What is to be acknowledged in the queue, in the order in which it was handled.
    pub(super) fn take_handled(&mut self) -> Vec<QueueId> {
        std::mem::take(&mut self.handled)
    }

    /// What is to wait again.
    pub(super) fn take_returned(&mut self) -> Vec<QueueId> {
        std::mem::take(&mut self.returned)
    }

    /// Whether nobody has anything, and nothing is to be told to the queue.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_news() && self.readers.values().all(|reader| reader.lent.is_empty())
    }

    /// Whether there is something to be told to the queue.
    pub(super) fn has_news(&self) -> bool {
        !(self.handled.is_empty() && self.returned.is_empty())
    }
}

impl Reader {
    fn open(&self) -> Demand {
        self.asked.saturating_sub(self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(ids: std::ops::Range<u64>, attempt: u32) -> Vec<QueueEntry> {
        ids.map(|id| QueueEntry { id: QueueId::new(id), attempt, payload: Default::default() }).collect()
    }

    fn ids(range: std::ops::Range<u64>) -> Vec<QueueId> {
        range.map(QueueId::new).collect()
    }

    /// Readers that acknowledge, with what they ask for.
    fn readers<const N: usize>(asks: [u64; N]) -> (Lending, [SubscriptionId; N]) {
        let mut lending = Lending::default();
        let readers = asks.map(|ask| {
            let id = SubscriptionId::new();
            lending.subscribe(id);
            lending.handled(id, Demand::ZERO);
            lending.ask(id, Demand::new(ask));
            id
        });
        (lending, readers)
    }

    #[test]
    fn who_wants_most_is_given_first_and_the_rest_waits_again() {
        let (mut lending, [few, many]) = readers([2, 5]);
        assert_eq!(lending.demand(), Demand::new(7));
        let loans = lending.assign(entries(1..10, 1));
        let given: Vec<_> = loans.iter().map(|loan| (loan.to, loan.entries.len(), loan.is_final)).collect();
        assert_eq!(given, [(many, 5, false), (few, 2, false)]);
        assert_eq!(lending.take_returned(), ids(8..10));
        assert_eq!(lending.demand(), Demand::ZERO);
    }

    #[test]
    fn attempts_are_not_mixed() {
        let (mut lending, [_]) = readers([10]);
        let loans = lending.assign([entries(1..3, 2), entries(3..5, 1)].concat());
        assert_eq!(loans.iter().map(|loan| loan.entries[0].attempt).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn handled_is_cumulative_and_never_more_than_given() {
        let (mut lending, [id]) = readers([5]);
        lending.assign(entries(1..6, 1));
        for (up_to, expected) in [(2, ids(1..3)), (2, ids(0..0)), (1, ids(0..0)), (99, ids(3..6))] {
            lending.handled(id, Demand::new(up_to));
            assert_eq!(lending.take_handled(), expected, "up to {up_to}");
        }
        assert!(lending.is_idle());
    }

    #[test]
    fn what_a_lost_reader_did_not_handle_waits_again() {
        let (mut lending, [id]) = readers([5]);
        lending.assign(entries(1..6, 1));
        lending.handled(id, Demand::new(2));
        lending.leave(id);
        assert!(!lending.is_idle());
        assert_eq!((lending.take_handled(), lending.take_returned()), (ids(1..3), ids(3..6)));
        assert!(lending.is_idle());
    }

    #[test]
    fn a_reader_that_does_not_acknowledge_is_given_entries_for_good() {
        let (mut lending, id) = (Lending::default(), SubscriptionId::new());
        lending.subscribe(id);
        lending.ask(id, Demand::new(3));
        assert!(lending.assign(entries(1..3, 1))[0].is_final);
        lending.handled(id, Demand::new(1));
        assert!(lending.assign(entries(3..4, 1))[0].is_final, "it is too late to say so");
        lending.leave(id);
        assert!(lending.is_idle());
    }

    #[test]
    fn what_is_taken_for_a_reader_that_has_left_waits_again() {
        let (mut lending, [id]) = readers([5]);
        lending.leave(id);
        assert_eq!(lending.assign(entries(1..6, 1)), []);
        assert_eq!(lending.take_returned(), ids(1..6));
    }

    #[test]
    fn what_comes_back_while_more_is_taken_is_given_first() {
        let (mut lending, [lost, other]) = readers([2, 0]);
        lending.assign(entries(1..3, 1));
        lending.leave(lost);
        lending.ask(other, Demand::new(5));
        assert_eq!(lending.assign(entries(3..6, 1)), []);
        assert_eq!(lending.take_returned(), ids(1..6));
    }
}
