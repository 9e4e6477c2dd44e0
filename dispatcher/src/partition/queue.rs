//! [`Partition`]: one partition's consumers, and what waits for them.

use std::collections::VecDeque;

use crate::bugs::bug;
use crate::{Attempt, Deliveries, Demand, DemandDispatcher, Dispatcher, Keep, Overflow};

/// The consumers of one partition and the queue of its events that found no demand.
#[derive(Debug)]
pub(super) struct Partition<T> {
    /// While the queue holds events, none of them has demand for its head.
    pub(super) consumers: DemandDispatcher<T>,
    /// In groups of one attempt, oldest first; no group is empty between calls.
    queue: VecDeque<(Attempt, VecDeque<T>)>,
    /// How many events are in the queue.
    held: usize,
    /// The position of the oldest, counted over all that ever waited; what is given back lowers it.
    head: i64,
}

impl<T> Partition<T> {
    pub(super) fn new() -> Self {
        Self { consumers: DemandDispatcher::new().max_demand(Demand::MAX), queue: VecDeque::new(), held: 0, head: 0 }
    }

    /// Gives `incoming` to consumers with demand and queues the rest. `incoming` is empty afterwards.
    pub(super) fn accept(
        &mut self,
        incoming: &mut Vec<T>,
        attempt: Attempt,
        (capacity, overflow): (usize, Overflow),
        deliveries: &mut Deliveries<T>,
    ) {
        let mut events = VecDeque::from(std::mem::take(incoming));
        if self.held == 0 {
            self.consumers.dispatch(&mut events, attempt, deliveries);
        }
        if events.is_empty() {
            // Unless it went to a consumer, the memory serves the next batch.
            *incoming = events.into();
            return;
        }
        let newcomers = events.len();
        self.push_back(attempt, events);
        self.serve(deliveries);
        if let Overflow::Keep(keep) = overflow {
            let excess = self.held.saturating_sub(capacity);
            match keep {
                // A queue cannot fail its stage: what does not fit is dropped and counted.
                Keep::First | Keep::Fail => self.drop_newest(excess.min(newcomers).min(self.held), deliveries),
                Keep::Last => self.drop_oldest(excess, deliveries),
            }
            if excess > 0 {
                // Some consumer may want what is the oldest now.
                self.consumers.unblock();
                self.serve(deliveries);
            }
        }
    }

    /// Puts events in front of all others.
    pub(super) fn give_back(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let count = events.len();
        if count > 0 {
            let group = (attempt, std::mem::take(events));
            if bug!(GivenBackBehind) {
                self.queue.push_back(group);
            } else {
                self.queue.push_front(group);
            }
            self.held += count;
            self.head -= count as i64;
            // What blocked the consumers has something in front of it now.
            self.serve_front(deliveries);
            self.serve(deliveries);
        }
    }

    /// Gives out what waits, as far as there is demand.
    pub(super) fn serve(&mut self, deliveries: &mut Deliveries<T>) {
        while self.held > 0 && !self.consumers.demand().is_zero() && self.serve_front(deliveries) {}
    }

    /// How many more events it is sure to have room for.
    pub(super) fn room(&self, capacity: usize) -> Demand {
        let room = Demand::from(capacity.saturating_sub(self.held));
        // Consumers that choose may refuse what is to come.
        if self.consumers.has_selectors() { room } else { room.saturating_add(self.consumers.demand()) }
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The position behind the newest event that waits.
    pub(super) fn end(&self) -> i64 {
        self.head + self.held as i64
    }

    /// Whether all events in front of a position have left.
    pub(super) fn has_passed(&self, position: i64) -> bool {
        self.held == 0 || self.head + i64::from(bug!(MarkerTooEarly)) >= position
    }

    fn push_back(&mut self, attempt: Attempt, mut events: VecDeque<T>) {
        self.held += events.len();
        match self.queue.back_mut() {
            Some((last, group)) if *last == attempt => group.append(&mut events),
            _ => self.queue.push_back((attempt, events)),
        }
    }

    /// Offers the first group; `true` if all of it is gone.
    fn serve_front(&mut self, deliveries: &mut Deliveries<T>) -> bool {
        let Some((attempt, group)) = self.queue.front_mut() else { return false };
        let before = group.len();
        self.consumers.give_back(crate::Lane::COMMON, group, *attempt, deliveries);
        let (gone, all) = (before - group.len(), group.is_empty());
        self.held -= gone;
        self.head += gone as i64;
        if all {
            self.queue.pop_front();
        }
        all
    }

    fn drop_oldest(&mut self, mut count: usize, deliveries: &mut Deliveries<T>) {
        deliveries.discard(count);
        self.held -= count;
        self.head += count as i64;
        while count > 0 {
            let (_, group) = self.queue.front_mut().expect("`count` events wait");
            let some = count.min(group.len());
            group.drain(..some);
            count -= some;
            if group.is_empty() {
                self.queue.pop_front();
            }
        }
    }

    /// Drops events that came last, all of one attempt.
    fn drop_newest(&mut self, count: usize, deliveries: &mut Deliveries<T>) {
        deliveries.discard(count);
        self.held -= count;
        if let Some((_, group)) = self.queue.back_mut() {
            group.truncate(group.len() - count);
            if group.is_empty() {
                self.queue.pop_back();
            }
        }
    }
}
