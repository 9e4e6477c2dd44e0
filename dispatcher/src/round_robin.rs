//! [`RoundRobinDispatcher`]: one event to each subscriber in turn.

use std::collections::VecDeque;

use crate::subscribers::Subscribers;
use crate::{Attempt, Deliveries, Demand, Dispatcher, Interest, Lane, Refused, SubscriptionId};

/// Deals events like cards: one to each subscriber with demand in turn, in the order in which they subscribed.
///
/// With ten subscribers that ask for the same, the first gets events 0, 10, 20…, the second 1, 11, 21… whatever the
/// size of the batches in which the events come: each dispatch goes on where the last one stopped.
///
/// ```
/// use aqueduct_dispatcher::*;
///
/// let mut dispatcher = RoundRobinDispatcher::new();
/// let mut deliveries = Deliveries::new();
/// let ids = [(); 3].map(|()| SubscriptionId::new());
/// for id in ids {
///     dispatcher.subscribe(id, Interest::ALL)?;
/// }
/// for (id, demand) in ids.into_iter().zip([3, 1, 3]) {
///     dispatcher.ask(id, Demand::new(demand), &mut deliveries);
/// }
/// let mut events = (0..8).collect();
/// dispatcher.dispatch(&mut events, Attempt::FIRST, &mut deliveries);
/// let mut given = std::iter::from_fn(|| match deliveries.pop()? {
///     Decision::Deliver(delivery) => Some(delivery.events.into_vec()),
///     _ => None,
/// });
/// assert_eq!(given.next(), Some(vec![0, 3, 5]));
/// assert_eq!(given.next(), Some(vec![1])); // it asked for one, and is passed over from then on
/// assert_eq!(given.next(), Some(vec![2, 4, 6]));
/// assert_eq!(events, [7]); // nobody asked for it
/// # Ok::<(), Refused>(())
/// ```
///
/// * **Guaranteed:** of two subscribers that always have demand, neither gets more than one event more than the other.
///   Each dispatch makes one batch for each subscriber, oldest event first.
/// * **A slow subscriber** is passed over while it has no demand; nothing waits for it.
/// * **A leaving subscriber** takes its demand along, and its turn goes to the next.
/// * **A new subscriber** has its turn last.
/// * **With [selectors](Interest::selector)** an event goes to the next in turn that has demand and accepts it. What
///   everybody refuses is discarded and counted; what only subscribers without demand accept waits for them, and so
///   does everything behind it. A selector that panics ends its subscription and no other.
///
/// GenStage has no such dispatcher. Its default, and [ours](crate::DemandDispatcher), hands over whole batches, which
/// costs less for each event and is fair over many batches only. Choose this one where events are few and expensive.
#[derive(Debug)]
pub struct RoundRobinDispatcher<T> {
    subscribers: Subscribers<T>,
    /// The place of the subscriber whose turn it is; 0 if there are none.
    turn: usize,
}

impl<T> RoundRobinDispatcher<T> {
    /// A dispatcher without subscribers.
    pub const fn new() -> Self {
        Self { subscribers: Subscribers::new(), turn: 0 }
    }
}

impl<T> Default for RoundRobinDispatcher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Dispatcher<T> for RoundRobinDispatcher<T> {
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        self.subscribers.admit(id, interest)?;
        // The newcomer stands in front of the subscriber whose turn it is, which makes it the last in turn.
        let list = self.subscribers.reorder();
        let newcomer = list.len() - 1;
        if self.turn > 0 {
            list[self.turn..].rotate_right(1);
            self.turn += 1;
        }
        debug_assert!(self.turn <= newcomer);
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        if let Some(at) = self.subscribers.position(id) {
            self.subscribers.add(at, demand);
        }
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        if let Some(at) = self.subscribers.remove(id) {
            self.turn -= usize::from(at < self.turn);
            if self.turn == self.subscribers.list().len() {
                self.turn = 0;
            }
        }
    }

    fn demand(&self) -> Demand {
        self.subscribers.demand()
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        self.turn = self.subscribers.deal(events, attempt, deliveries, self.turn, true);
    }

    fn give_back(&mut self, _: Lane, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let blocked = self.subscribers.in_front();
        self.dispatch(events, attempt, deliveries);
        self.subscribers.behind(blocked);
    }
}
