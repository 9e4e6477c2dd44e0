//! Who has which entries of a queue: how many to take for whom, what is handled, and what comes back. Pure.

use std::collections::{BTreeMap, VecDeque};

use aqueduct_stage::{Demand, SubscriptionId};

use super::{QueueEntry, QueueId};
use crate::bugs::bug;

/// The readers of a queue, and what is lent to them.
#[derive(Debug, Default)]
pub(super) struct Lending {
    readers: BTreeMap<SubscriptionId, Reader>,
    /// To be acknowledged in the queue.
    handled: Vec<QueueId>,
    /// To wait in the queue again.
    returned: Vec<QueueId>,
    /// To wait again as if they had not been taken: nobody has begun with them.
    untouched: Vec<QueueId>,
}

#[derive(Debug, Default)]
struct Reader {
    /// Allowed in all.
    asked: Demand,
    /// Given in all.
    given: Demand,
    /// Whether it says what it has handled, and has the rest back.
    acknowledges: bool,
    /// Given, from the first on that is not handled, oldest first; nothing unless it acknowledges.
    lent: VecDeque<Lent>,
    /// It wants no more, and is gone once it has handled what it was given.
    is_leaving: bool,
}

#[derive(Debug)]
struct Lent {
    id: QueueId,
    attempt: u32,
    /// Handled before some that were given earlier.
    is_done: bool,
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
        self.handled.extend(reader.lent.drain(..count).filter(|lent| !lent.is_done).map(|lent| lent.id));
        if reader.is_leaving && reader.lent.is_empty() {
            self.readers.remove(&id);
        }
    }

    /// The reader has handled its entry `number`, counted from 1 as it was given them, and perhaps not those before it.
    pub(super) fn done(&mut self, id: SubscriptionId, number: u64) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let first = reader.given.count() - reader.lent.len() as u64 + 1;
        let at = number.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(lent) = at.and_then(|at| reader.lent.get_mut(at))
            && !std::mem::replace(&mut lent.is_done, true)
        {
            self.handled.push(lent.id);
        }
    }

    /// The reader wants no more. What it has in hand is its own until it [has handled](Self::handled) it or
    /// [leaves](Self::leave).
    pub(super) fn cancel(&mut self, id: SubscriptionId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.is_leaving = true;
        if reader.lent.is_empty() || bug!(CancelledReaderForgotten) {
            self.readers.remove(&id);
        }
    }

    /// The reader handles nothing more, and what it has not handled waits again. `unfinished` is what it has not handled, oldest
    /// first: numbers of entries, and the attempt that is to follow. Where that is no later one than these came
    /// with, they were not begun. Of what is not in there, `is_lost` says whether it may have been.
    pub(super) fn leave(&mut self, id: SubscriptionId, unfinished: &[(usize, u32)], is_lost: bool) {
        let Some(reader) = self.readers.remove(&id) else { return };
        let next = unfinished.iter().flat_map(|(count, next)| std::iter::repeat_n(Some(*next), *count));
        let left = reader.lent.into_iter().filter(|lent| !lent.is_done);
        for (Lent { id, attempt, .. }, next) in left.zip(next.chain(std::iter::repeat(None))) {
            let was_begun = next.map_or(is_lost, |next| next > attempt) || bug!(NotBegunIsAttempt);
            if was_begun { &mut self.returned } else { &mut self.untouched }.push(id);
        }
    }

    /// The reader has ended before the last `count` entries reached it, and is about to say so.
    pub(super) fn not_taken(&mut self, id: SubscriptionId, count: usize) {
        if let Some(reader) = self.readers.get_mut(&id) {
            let taken = reader.lent.len().saturating_sub(count);
            self.untouched.extend(reader.lent.drain(taken..).map(|lent| lent.id));
        }
    }

    /// Whether a reader has something that it has not handled, and that can come back.
    pub(super) fn has_lent(&self, id: SubscriptionId) -> bool {
        self.readers.get(&id).is_some_and(|reader| reader.lent.iter().any(|lent| !lent.is_done))
    }

    /// How many entries there are readers for.
    pub(super) fn demand(&self) -> Demand {
        self.readers.values().map(Reader::open).fold(Demand::ZERO, Demand::saturating_add)
    }

    /// Gives what was taken from the queue to those who want it, each time to the one that wants most. What nobody wants
    /// any more waits again.
    pub(super) fn assign(&mut self, taken: Vec<QueueEntry>) -> Vec<Loan> {
        let mut loans = Vec::new();
        if !(self.returned.is_empty() && self.untouched.is_empty()) {
            // It is older than what was taken, and comes first.
            self.untouched.extend(taken.into_iter().map(|entry| entry.id));
            return loans;
        }
        let mut taken = taken.into_iter().peekable();
        while let Some(first) = taken.peek() {
            let attempt = first.attempt;
            let most = self.readers.iter_mut().max_by_key(|(id, reader)| (reader.open(), std::cmp::Reverse(**id)));
            let Some((to, reader)) = most.filter(|(_, reader)| !reader.open().is_zero()) else {
                self.untouched.extend(taken.map(|entry| entry.id));
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
                let lent = |entry: &QueueEntry| Lent { id: entry.id, attempt: entry.attempt, is_done: false };
                reader.lent.extend(entries.iter().map(lent));
            }
            loans.push(Loan { to: *to, entries, is_final: !reader.acknowledges });
        }
        loans
    }

    /// These were taken, and are not for anybody.
    pub(super) fn give_back(&mut self, ids: impl IntoIterator<Item = QueueId>) {
        self.untouched.extend(ids);
    }

    /// What is to be acknowledged in the queue, in the order in which it was handled.
    pub(super) fn take_handled(&mut self) -> Vec<QueueId> {
        std::mem::take(&mut self.handled)
    }

    /// What is to wait again.
    pub(super) fn take_returned(&mut self) -> Vec<QueueId> {
        std::mem::take(&mut self.returned)
    }

    /// What is to wait again as if it had not been taken.
    pub(super) fn take_untouched(&mut self) -> Vec<QueueId> {
        std::mem::take(&mut self.untouched)
    }

    /// Whether nobody has anything, and nothing is to be told to the queue.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_news() && self.readers.values().all(|reader| reader.lent.is_empty())
    }

    /// Whether there is something to be told to the queue.
    pub(super) fn has_news(&self) -> bool {
        !(self.handled.is_empty() && self.returned.is_empty() && self.untouched.is_empty())
    }

    /// Whether a reader that wants no more has something in hand.
    pub(super) fn is_being_left(&self) -> bool {
        self.readers.values().any(|reader| reader.is_leaving)
    }
}

impl Reader {
    fn open(&self) -> Demand {
        if self.is_leaving { Demand::ZERO } else { self.asked.saturating_sub(self.given) }
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
        assert_eq!(lending.take_untouched(), ids(8..10));
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
    fn what_is_done_out_of_turn_is_handled_once_and_does_not_come_back() {
        let (mut lending, [id]) = readers([5]);
        lending.assign(entries(1..6, 1));
        for (number, expected) in [(3, ids(3..4)), (3, ids(0..0)), (9, ids(0..0)), (0, ids(0..0)), (4, ids(4..5))] {
            lending.done(id, number);
            assert_eq!(lending.take_handled(), expected, "{number}");
        }
        lending.handled(id, Demand::new(1));
        lending.done(id, 1);
        assert_eq!(lending.take_handled(), ids(1..2));
        lending.leave(id, &[(1, 2), (1, 1)], false);
        assert_eq!((lending.take_returned(), lending.take_untouched()), (ids(2..3), ids(5..6)));
        assert!(lending.is_idle());
    }

    #[test]
    fn what_a_lost_reader_did_not_handle_waits_again() {
        let (mut lending, [id]) = readers([5]);
        lending.assign(entries(1..6, 1));
        lending.handled(id, Demand::new(2));
        lending.leave(id, &[], true);
        assert!(!lending.is_idle());
        assert_eq!((lending.take_handled(), lending.take_returned()), (ids(1..3), ids(3..6)));
        assert!(lending.is_idle());
    }

    #[test]
    fn what_was_not_begun_was_no_attempt() {
        for (unfinished, is_lost, begun) in [
            (vec![(1, 3), (3, 2)], true, 2..3),
            (vec![(1, 2)], false, 2..2),
            (vec![(1, 2)], true, 3..6),
            (vec![], false, 2..2),
            (vec![(9, 3)], false, 2..6),
        ] {
            let (mut lending, [id]) = readers([5]);
            lending.assign(entries(1..6, 2));
            lending.handled(id, Demand::new(1));
            lending.leave(id, &unfinished, is_lost);
            let untouched = (2..6).filter(|id| !begun.contains(id)).map(QueueId::new).collect::<Vec<_>>();
            assert_eq!((lending.take_returned(), lending.take_untouched()), (ids(begun), untouched), "{unfinished:?}");
        }
    }

    #[test]
    fn what_a_reader_has_in_hand_that_wants_no_more_is_its_own_until_it_has_handled_it() {
        let (mut lending, [id, other]) = readers([3, 0]);
        lending.assign(entries(1..4, 1));
        lending.ask(id, Demand::new(9));
        lending.cancel(id);
        assert!(lending.demand().is_zero() && lending.is_being_left() && !lending.has_news() && !lending.is_idle());
        lending.handled(id, Demand::new(2));
        assert!(lending.is_being_left());
        lending.handled(id, Demand::new(3));
        assert_eq!((lending.take_handled(), lending.is_being_left()), (ids(1..4), false));
        lending.cancel(other);
        assert!(lending.is_idle() && !lending.is_being_left());
    }

    #[test]
    fn what_did_not_reach_a_reader_waits_again() {
        let (mut lending, [id]) = readers([5]);
        lending.assign(entries(1..6, 1));
        lending.not_taken(id, 2);
        assert_eq!(lending.take_untouched(), ids(4..6));
        lending.leave(id, &[], true);
        assert_eq!(lending.take_returned(), ids(1..4));
    }

    #[test]
    fn a_reader_that_does_not_acknowledge_is_given_entries_for_good() {
        let (mut lending, id) = (Lending::default(), SubscriptionId::new());
        lending.subscribe(id);
        lending.ask(id, Demand::new(3));
        assert!(lending.assign(entries(1..3, 1))[0].is_final);
        lending.handled(id, Demand::new(1));
        assert!(lending.assign(entries(3..4, 1))[0].is_final, "it is too late to say so");
        lending.leave(id, &[], true);
        assert!(lending.is_idle());
    }

    #[test]
    fn what_is_taken_for_a_reader_that_has_left_waits_again() {
        let (mut lending, [id]) = readers([5]);
        lending.leave(id, &[], true);
        assert_eq!(lending.assign(entries(1..6, 1)), []);
        assert_eq!(lending.take_untouched(), ids(1..6));
    }

    #[test]
    fn what_comes_back_while_more_is_taken_is_given_first() {
        let (mut lending, [lost, other]) = readers([2, 0]);
        lending.assign(entries(1..3, 1));
        lending.leave(lost, &[], true);
        lending.ask(other, Demand::new(5));
        assert_eq!(lending.assign(entries(3..6, 1)), []);
        assert_eq!((lending.take_returned(), lending.take_untouched()), (ids(1..3), ids(3..6)));
    }
}
