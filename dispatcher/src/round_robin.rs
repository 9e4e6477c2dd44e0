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
    /// Their slots, in the order in which they are served.
    order: Vec<usize>,
    /// The place in it of the subscriber whose turn it is; 0 if there are none.
    turn: usize,
}

impl<T> RoundRobinDispatcher<T> {
    /// A dispatcher without subscribers.
    pub const fn new() -> Self {
        Self { subscribers: Subscribers::new(), order: Vec::new(), turn: 0 }
    }

    /// Gives one event to each in turn, whatever it is.
    fn deal_all(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let mut count = self.subscribers.demand().as_len().min(events.len());
        if count == 0 {
            return;
        }
        let share = count.div_ceil(self.order.len());
        let room = |slot: &usize| self.subscribers.demand_at(*slot).as_len();
        let mut batches: Vec<_> = self.order.iter().map(|slot| Vec::with_capacity(share.min(room(slot)))).collect();
        let (behind, from_turn) = batches.split_at_mut(self.turn);
        let in_turn = (self.turn..).zip(from_turn).chain((0..).zip(behind));
        let players = in_turn.map(|(at, batch)| Player { at, room: room(&self.order[at]), batch });
        let mut players: Vec<_> = players.filter(|player| player.room > 0).collect();
        // A slice is faster to walk than a deque, and this costs no copy.
        let mut list = Vec::from(std::mem::take(events));
        let mut front = list.drain(..count);
        while count > 0 {
            // Until somebody has enough, rounds are alike.
            let rounds = players.iter().map(|player| player.room).min().unwrap_or_default().min(count / players.len());
            for _ in 0..rounds {
                players.iter_mut().zip(&mut front).for_each(|(player, event)| player.batch.push(event));
            }
            if rounds == 0 {
                // The last round ends before its end.
                players.truncate(count);
                players.iter_mut().zip(&mut front).for_each(|(player, event)| player.batch.push(event));
            }
            count -= players.len() * rounds.max(1);
            self.turn = players.last().map_or(0, |player| player.at + 1) % self.order.len();
            players.iter_mut().for_each(|player| player.room -= rounds.max(1));
            players.retain(|player| player.room > 0);
        }
        drop(front);
        *events = list.into();
        for (slot, batch) in self.order.iter().zip(batches) {
            if !batch.is_empty() {
                self.subscribers.spend(*slot, batch.len());
                deliveries.give_events(self.subscribers.id_at(*slot), batch, attempt);
            }
        }
    }

    /// Gives one event to each in turn that wants it.
    fn deal_each(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        self.turn = self.subscribers.deal(&self.order, events, attempt, deliveries, self.turn, true);
        for slot in self.subscribers.forget_failed(&self.order, deliveries) {
            self.forget(slot);
        }
    }

    /// Takes somebody out of the order. Its turn goes to the next.
    fn forget(&mut self, slot: usize) {
        if let Some(at) = self.order.iter().position(|other| *other == slot) {
            self.order.remove(at);
            self.turn -= usize::from(at < self.turn);
            if self.turn == self.order.len() {
                self.turn = 0;
            }
        }
    }
}

/// Who is given events in turn.
struct Player<'a, T> {
    /// Its place in the order.
    at: usize,
    /// How many more it can be given.
    room: usize,
    batch: &'a mut Vec<T>,
}

impl<T> Default for RoundRobinDispatcher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Dispatcher<T> for RoundRobinDispatcher<T> {
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        // The newcomer stands in front of the subscriber whose turn it is, which makes it the last in turn.
        let slot = self.subscribers.admit(id, interest)?;
        if self.turn == 0 {
            self.order.push(slot);
        } else {
            self.order.insert(self.turn, slot);
            self.turn += 1;
        }
        debug_assert!(self.turn < self.order.len());
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        if let Some(slot) = self.subscribers.slot(id) {
            self.subscribers.add(slot, demand);
        }
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        if let Some(slot) = self.subscribers.remove(id) {
            self.forget(slot);
        }
    }

    fn demand(&self) -> Demand {
        self.subscribers.demand()
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        if self.subscribers.has_selectors() {
            self.deal_each(events, attempt, deliveries);
        } else {
            self.deal_all(events, attempt, deliveries);
        }
    }

    fn give_back(&mut self, _: Lane, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let blocked = self.subscribers.in_front();
        self.dispatch(events, attempt, deliveries);
        self.subscribers.behind(blocked);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Decision, Selector};

    #[test]
    fn selectors_that_accept_everything_change_nothing() {
        let run = |interest: Interest<u32>, seed: u64| {
            let mut dispatcher = RoundRobinDispatcher::new();
            let mut deliveries = Deliveries::new();
            let ids = [(); 5].map(|()| SubscriptionId::new());
            let mut numbers = seed;
            let mut random = |below: u64| {
                numbers = numbers.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (numbers >> 33) % below
            };
            ids.iter().for_each(|id| dispatcher.subscribe(*id, interest.clone()).expect("a new one"));
            let mut all = Vec::new();
            for round in 0..20 {
                (0..3).for_each(|_| dispatcher.ask(ids[random(5) as usize], Demand::new(random(9)), &mut deliveries));
                let mut events = (round * 20..round * 20 + random(20) as u32).collect();
                dispatcher.dispatch(&mut events, Attempt::FIRST, &mut deliveries);
                let given = std::iter::from_fn(|| deliveries.pop()).map(|decision| match decision {
                    Decision::Deliver(given) => (ids.iter().position(|id| *id == given.to), given.events.into_vec()),
                    other => panic!("{other:?}"),
                });
                all.push((given.collect::<Vec<_>>(), events, dispatcher.turn));
            }
            all
        };
        for seed in 0..200 {
            let everything: Selector<u32> = Arc::new(|_| true);
            assert_eq!(run(Interest::ALL, seed), run(Interest { selector: Some(everything), partition: None }, seed));
        }
    }
}
