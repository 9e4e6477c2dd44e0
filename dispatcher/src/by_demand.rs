//! [`DemandDispatcher`]: each batch to the subscriber with the largest demand.

use std::collections::VecDeque;

use crate::{Attempt, Deliveries, Demand, Dispatcher, Refused, SubscriptionId};

/// Gives events to the subscriber with the largest outstanding demand: the default, and GenStage's `DemandDispatcher`.
///
/// A batch goes whole to one subscriber as far as its demand reaches; the rest to the next largest. Of equals the one
/// that has waited longer comes first. So work is shared by who is ready for it, and a slow subscriber, whose demand
/// stays low, gets less.
///
/// With demands of 3 and 2, five events go 3 to the first and 2 to the second; a sixth is left over.
#[derive(Debug)]
pub struct DemandDispatcher<T> {
    /// Sorted by demand, largest first; a new equal stands behind the old ones.
    subscribers: Vec<(Demand, SubscriptionId)>,
    /// Demand that was passed up and that no subscriber stands behind any more; serves the next asks.
    pending: Demand,
    /// Events given back, oldest group first. Nothing is held while somebody has demand.
    returned: VecDeque<(Attempt, VecDeque<T>)>,
}

impl<T> DemandDispatcher<T> {
    /// A dispatcher without subscribers.
    pub const fn new() -> Self {
        Self { subscribers: Vec::new(), pending: Demand::ZERO, returned: VecDeque::new() }
    }
}

impl<T: Send> DemandDispatcher<T> {
    fn remove(&mut self, id: SubscriptionId) -> Option<Demand> {
        let at = self.subscribers.iter().position(|(_, other)| *other == id)?;
        Some(self.subscribers.remove(at).0)
    }

    fn insert(&mut self, id: SubscriptionId, demand: Demand) {
        let at = self.subscribers.partition_point(|(other, _)| *other >= demand);
        self.subscribers.insert(at, (demand, id));
    }

    /// Gives from the front of `events` to whoever has most demand, until either runs out.
    fn assign(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        while let Some(&(mut demand, id)) = self.subscribers.first() {
            let count = demand.take(Demand::from(events.len())).as_len();
            if count == 0 {
                break;
            }
            deliveries.give(id, events, count, attempt);
            self.subscribers.remove(0);
            self.insert(id, demand);
        }
    }

    /// Gives held events to whoever has demand; returns how many were given.
    fn assign_returned(&mut self, deliveries: &mut Deliveries<T>) -> Demand {
        let held = self.held();
        while let Some((attempt, mut events)) = self.returned.pop_front() {
            self.assign(&mut events, attempt, deliveries);
            if !events.is_empty() {
                self.returned.push_front((attempt, events));
                break;
            }
        }
        Demand::from(held - self.held())
    }
}

impl<T> Default for DemandDispatcher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send> Dispatcher<T> for DemandDispatcher<T> {
    fn subscribe(&mut self, id: SubscriptionId) -> Result<Demand, Refused> {
        if self.subscribers.iter().any(|(_, other)| *other == id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.insert(id, Demand::ZERO);
        Ok(Demand::ZERO)
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, deliveries: &mut Deliveries<T>) -> Demand {
        let Some(current) = self.remove(id) else { return Demand::ZERO };
        self.insert(id, current.saturating_add(demand));
        // Whatever is held was produced for an earlier ask, so what it serves is not passed up again.
        let served = self.assign_returned(deliveries);
        let demand = demand.saturating_sub(served);
        let covered = self.pending.take(demand);
        demand.saturating_sub(covered)
    }

    fn cancel(&mut self, id: SubscriptionId) -> Demand {
        if let Some(unserved) = self.remove(id) {
            self.pending.add(unserved);
        }
        Demand::ZERO
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, deliveries: &mut Deliveries<T>) {
        debug_assert!(self.returned.is_empty() || self.subscribers.first().is_none_or(|(demand, _)| demand.is_zero()));
        self.assign(events, Attempt::FIRST, deliveries);
        self.pending = self.pending.saturating_sub(Demand::from(events.len()));
    }

    fn give_back(
        &mut self,
        _: SubscriptionId,
        events: VecDeque<T>,
        attempt: Attempt,
        deliveries: &mut Deliveries<T>,
    ) -> usize {
        if !events.is_empty() {
            self.returned.push_front((attempt, events));
        }
        // The demand that they use up was passed up for newer events, which will find it gone.
        let served = self.assign_returned(deliveries);
        self.pending.add(served);
        0
    }

    fn held(&self) -> usize {
        self.returned.iter().map(|(_, events)| events.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dispatcher of numbered events, and what it decided.
    #[derive(Default)]
    struct Bench {
        dispatcher: DemandDispatcher<u32>,
        deliveries: Deliveries<u32>,
    }

    impl Bench {
        fn subscriber(&mut self) -> SubscriptionId {
            let id = SubscriptionId::new();
            assert_eq!(self.dispatcher.subscribe(id), Ok(Demand::ZERO));
            id
        }

        fn ask(&mut self, id: SubscriptionId, n: u64) -> u64 {
            self.dispatcher.ask(id, Demand::new(n), &mut self.deliveries).count()
        }

        /// What was left over.
        fn dispatch(&mut self, events: impl IntoIterator<Item = u32>) -> Vec<u32> {
            let mut events = events.into_iter().collect();
            self.dispatcher.dispatch(&mut events, &mut self.deliveries);
            events.into()
        }

        fn given(&mut self) -> Vec<(SubscriptionId, Vec<u32>, u32)> {
            std::iter::from_fn(|| self.deliveries.pop()).map(|d| (d.to, d.events, d.attempt.number())).collect()
        }

        fn demands(&self) -> Vec<u64> {
            self.dispatcher.subscribers.iter().map(|(demand, _)| demand.count()).collect()
        }
    }

    #[test]
    fn demand_is_passed_up_and_a_leaving_subscriber_leaves_it_behind() {
        let mut b = Bench::default();
        let first = b.subscriber();
        assert_eq!(b.ask(first, 10), 10);
        assert_eq!(b.dispatcher.cancel(first), Demand::ZERO);
        assert_eq!(b.dispatcher.pending, Demand::new(10));
        let second = b.subscriber();
        assert_eq!(b.ask(second, 5), 0, "ten are on their way");
        b.dispatcher.cancel(second);
        assert_eq!(b.dispatcher.pending, Demand::new(10));
        assert_eq!(b.dispatch(0..3), [0, 1, 2]);
        assert_eq!(b.dispatcher.pending, Demand::new(7));
        assert_eq!(b.dispatch(3..13).len(), 10);
        assert_eq!(b.dispatcher.pending, Demand::ZERO);
    }

    #[test]
    fn one_of_two_leaves() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        assert_eq!((b.ask(first, 3), b.ask(second, 3)), (3, 3));
        b.dispatcher.cancel(first);
        assert_eq!(b.dispatch(0..5), [3, 4]);
        assert_eq!(b.given(), [(second, vec![0, 1, 2], 1)]);
        assert_eq!(b.dispatcher.pending, Demand::new(1));
    }

    #[test]
    fn subscribers_stand_in_the_order_of_their_demand() {
        let mut b = Bench::default();
        let (first, second, third) = (b.subscriber(), b.subscriber(), b.subscriber());
        for (id, n) in [(first, 4), (second, 2), (third, 3)] {
            b.ask(id, n);
        }
        assert_eq!(b.demands(), [4, 3, 2]);
        b.ask(third, 2);
        assert_eq!(b.demands(), [5, 4, 2]);
        b.ask(second, 4);
        assert_eq!(b.demands(), [6, 5, 4]);
    }

    #[test]
    fn a_batch_is_split_by_demand_and_equals_take_turns() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, 3);
        b.ask(second, 2);
        assert!(b.dispatch(0..5).is_empty());
        assert_eq!(b.given(), [(first, vec![0, 1, 2], 1), (second, vec![3, 4], 1)]);
        assert_eq!(b.dispatch(5..7), [5, 6], "no demand");
        b.ask(first, 3);
        b.ask(second, 3);
        assert!(b.dispatch([7, 8]).is_empty());
        assert_eq!(b.given(), [(first, vec![7, 8], 1)]);
        assert!(b.dispatch([9, 10]).is_empty());
        assert_eq!(b.given(), [(second, vec![9, 10], 1)]);
        assert_eq!(b.dispatch([11, 12, 13]), [13]);
        assert_eq!(b.given(), [(first, vec![11], 1), (second, vec![12], 1)]);
    }

    #[test]
    fn what_is_given_back_comes_first_and_is_not_asked_for_again() {
        let mut b = Bench::default();
        let first = b.subscriber();
        assert_eq!(b.ask(first, 4), 4);
        b.dispatch(0..4);
        b.given();
        b.dispatcher.cancel(first);
        let returned = VecDeque::from([2, 3]);
        b.dispatcher.give_back(first, returned, Attempt::FIRST.next(), &mut b.deliveries);
        assert_eq!((b.dispatcher.held(), b.given()), (2, vec![]));
        let second = b.subscriber();
        assert_eq!(b.ask(second, 5), 3, "two of the five are here");
        assert_eq!(b.given(), [(second, vec![2, 3], 2)]);
    }

    #[test]
    fn given_back_events_use_demand_that_newer_events_were_asked_for() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, 2);
        b.dispatch(0..2);
        b.ask(second, 3);
        b.given();
        b.dispatcher.cancel(first);
        b.dispatcher.give_back(first, VecDeque::from([0, 1]), Attempt::FIRST.next(), &mut b.deliveries);
        assert_eq!(b.given(), [(second, vec![0, 1], 2)]);
        assert_eq!(b.dispatch(2..5), [3, 4], "the producer answers the three that it was asked for");
        assert_eq!(b.ask(second, 2), 2, "which its stage takes from the buffer");
    }

    #[test]
    fn an_unknown_subscriber_is_ignored_and_a_known_one_refused() {
        let mut b = Bench::default();
        let first = b.subscriber();
        assert_eq!(b.dispatcher.subscribe(first), Err(Refused::AlreadySubscribed));
        b.dispatcher.cancel(first);
        assert_eq!(b.ask(first, 10), 0);
        assert_eq!(b.dispatcher.cancel(first), Demand::ZERO);
        assert_eq!(b.dispatch(0..1), [0]);
    }
}
