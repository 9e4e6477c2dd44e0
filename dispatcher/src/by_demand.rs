//! [`DemandDispatcher`]: each batch to the subscriber with the largest demand.

use std::collections::VecDeque;

use crate::{Attempt, Deliveries, Demand, Dispatcher, Interest, Refused, SubscriptionId};

/// Gives events to the subscriber with the largest outstanding demand: the default, and GenStage's `DemandDispatcher`.
///
/// A batch goes whole to one subscriber as far as its demand reaches; the rest to the next largest. Of equals the one
/// that has waited longer comes first. So work is shared by who is ready for it, and a slow subscriber, whose demand
/// stays low, gets less.
///
/// With demands of 3 and 2, five events go 3 to the first and 2 to the second; a sixth is left over.
#[derive(Debug, Default)]
pub struct DemandDispatcher {
    /// Sorted by demand, largest first; a new equal stands behind the old ones.
    subscribers: Vec<(Demand, SubscriptionId)>,
    /// The sum of their demands, which may be more than a [`Demand`] can say.
    total: u128,
}

impl DemandDispatcher {
    /// A dispatcher without subscribers.
    pub const fn new() -> Self {
        Self { subscribers: Vec::new(), total: 0 }
    }

    fn remove(&mut self, id: SubscriptionId) -> Option<Demand> {
        let at = self.subscribers.iter().position(|(_, other)| *other == id)?;
        let (demand, _) = self.subscribers.remove(at);
        self.total -= u128::from(demand.count());
        Some(demand)
    }

    fn insert(&mut self, id: SubscriptionId, demand: Demand) {
        let at = self.subscribers.partition_point(|(other, _)| *other >= demand);
        self.subscribers.insert(at, (demand, id));
        self.total += u128::from(demand.count());
    }
}

impl<T> Dispatcher<T> for DemandDispatcher {
    fn subscribe(&mut self, id: SubscriptionId, _: Interest<T>) -> Result<(), Refused> {
        if self.subscribers.iter().any(|(_, other)| *other == id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.insert(id, Demand::ZERO);
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        if let Some(current) = self.remove(id) {
            self.insert(id, current.saturating_add(demand));
        }
    }

    fn cancel(&mut self, id: SubscriptionId) {
        self.remove(id);
    }

    fn demand(&self) -> Demand {
        Demand::new(u64::try_from(self.total).unwrap_or(u64::MAX))
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        while let Some(&(mut demand, id)) = self.subscribers.first() {
            let count = demand.take(Demand::from(events.len())).as_len();
            if count == 0 {
                break;
            }
            deliveries.give(id, events, count, attempt);
            self.remove(id);
            self.insert(id, demand);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decision;

    /// A dispatcher of numbered events, and what it decided.
    #[derive(Default)]
    struct Bench {
        dispatcher: DemandDispatcher,
        deliveries: Deliveries<u32>,
    }

    impl Bench {
        fn subscriber(&mut self) -> SubscriptionId {
            let id = SubscriptionId::new();
            Dispatcher::<u32>::subscribe(&mut self.dispatcher, id, Interest::ALL).expect("a new one");
            id
        }

        fn ask(&mut self, id: SubscriptionId, n: u64) {
            self.dispatcher.ask(id, Demand::new(n), &mut self.deliveries);
        }

        /// What was left over.
        fn dispatch(&mut self, events: impl IntoIterator<Item = u32>) -> Vec<u32> {
            let mut events = events.into_iter().collect();
            self.dispatcher.dispatch(&mut events, Attempt::FIRST, &mut self.deliveries);
            events.into()
        }

        fn given(&mut self) -> Vec<(SubscriptionId, Vec<u32>)> {
            let deliveries = std::iter::from_fn(|| self.deliveries.pop()).map(|decision| match decision {
                Decision::Deliver(delivery) => (delivery.to, delivery.events.into_vec()),
                other => panic!("{other:?}"),
            });
            deliveries.collect()
        }

        fn demands(&self) -> Vec<u64> {
            self.dispatcher.subscribers.iter().map(|(demand, _)| demand.count()).collect()
        }

        fn total(&self) -> Demand {
            Dispatcher::<u32>::demand(&self.dispatcher)
        }
    }

    #[test]
    fn a_leaving_subscriber_takes_its_demand_along() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, 3);
        b.ask(second, 3);
        assert_eq!(b.total(), Demand::new(6));
        Dispatcher::<u32>::cancel(&mut b.dispatcher, first);
        assert_eq!(b.total(), Demand::new(3));
        assert_eq!(b.dispatch(0..5), [3, 4]);
        assert_eq!(b.given(), [(second, vec![0, 1, 2])]);
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
        assert_eq!(b.given(), [(first, vec![0, 1, 2]), (second, vec![3, 4])]);
        assert_eq!(b.dispatch(5..7), [5, 6], "no demand");
        b.ask(first, 3);
        b.ask(second, 3);
        assert!(b.dispatch([7, 8]).is_empty());
        assert_eq!(b.given(), [(first, vec![7, 8])]);
        assert!(b.dispatch([9, 10]).is_empty());
        assert_eq!(b.given(), [(second, vec![9, 10])]);
        assert_eq!(b.dispatch([11, 12, 13]), [13]);
        assert_eq!(b.given(), [(first, vec![11]), (second, vec![12])]);
    }

    #[test]
    fn demand_without_bound_is_served_and_leaves_without_a_trace() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, u64::MAX);
        b.ask(second, u64::MAX);
        assert_eq!(b.total(), Demand::MAX);
        assert!(b.dispatch(0..4).is_empty());
        Dispatcher::<u32>::cancel(&mut b.dispatcher, first);
        Dispatcher::<u32>::cancel(&mut b.dispatcher, second);
        assert_eq!(b.total(), Demand::ZERO);
    }

    #[test]
    fn an_unknown_subscriber_is_ignored_and_a_known_one_refused() {
        let mut b = Bench::default();
        let first = b.subscriber();
        let again = Dispatcher::<u32>::subscribe(&mut b.dispatcher, first, Interest::ALL);
        assert_eq!(again, Err(Refused::AlreadySubscribed));
        Dispatcher::<u32>::cancel(&mut b.dispatcher, first);
        Dispatcher::<u32>::cancel(&mut b.dispatcher, first);
        b.ask(first, 10);
        assert_eq!(b.dispatch(0..1), [0]);
    }
}
