//! The subscribers a stage serves: its dispatcher and its buffer put together. Pure.

use std::collections::{BTreeMap, VecDeque};

use aqueduct_dispatcher::{Attempt, Buffer, Deliveries, Delivery, Demand, Dispatcher, Refused, SubscriptionId};

/// The producing half of a stage.
///
/// It holds the account of demand: what subscribers want, less what the stage's callback was asked for and still owes,
/// is asked of the callback; what is in the buffer serves first. So demand can neither leak nor be asked for twice,
/// whoever comes and goes.
pub(crate) struct Downstream<T> {
    dispatcher: Box<dyn Dispatcher<T>>,
    /// Events that were given back, in groups of one attempt; older than everything in the buffer.
    returned: VecDeque<(Attempt, VecDeque<T>)>,
    buffer: Buffer<T>,
    /// What each subscriber has asked for in all.
    asked: BTreeMap<SubscriptionId, Demand>,
    /// Asked of the callback, and not emitted yet.
    owed: Demand,
    deliveries: Deliveries<T>,
    /// Empty between calls; kept for its memory.
    scratch: VecDeque<T>,
    /// How many subscribers there have been.
    seen: usize,
    /// Nothing is given out or asked for before so many have come; at least 1.
    awaited: usize,
}

impl<T> Downstream<T> {
    pub(crate) fn new(dispatcher: Box<dyn Dispatcher<T>>, buffer: Buffer<T>) -> Self {
        Self {
            dispatcher,
            returned: VecDeque::new(),
            buffer,
            asked: BTreeMap::new(),
            owed: Demand::ZERO,
            deliveries: Deliveries::new(),
            scratch: VecDeque::new(),
            seen: 0,
            awaited: 1,
        }
    }

    /// Holds everything back until `subscribers` have come.
    pub(crate) fn wait_for(&mut self, subscribers: usize) {
        self.awaited = subscribers.max(1);
    }

    /// Takes a subscriber in.
    pub(crate) fn subscribe(&mut self, id: SubscriptionId) -> Result<(), Refused> {
        self.dispatcher.subscribe(id)?;
        self.asked.insert(id, Demand::ZERO);
        self.seen += 1;
        Ok(())
    }

    /// A subscriber allows `up_to` events in all.
    pub(crate) fn ask(&mut self, id: SubscriptionId, up_to: Demand) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        let more = up_to.saturating_sub(*asked);
        if !more.is_zero() {
            *asked = up_to;
            self.dispatcher.ask(id, more, &mut self.deliveries);
        }
    }

    /// A subscriber leaves; `false` if it was not there.
    pub(crate) fn cancel(&mut self, id: SubscriptionId) -> bool {
        let known = self.asked.remove(&id).is_some();
        if known {
            self.dispatcher.cancel(id);
        }
        known
    }

    /// Serves what waits here, and returns what to ask of the callback: what is wanted beyond what it owes already.
    pub(crate) fn pull(&mut self) -> Demand {
        if self.is_holding_back() {
            return Demand::ZERO;
        }
        self.serve_waiting();
        let more = self.dispatcher.demand().saturating_sub(self.owed);
        self.owed.add(more);
        more
    }

    /// What was asked of the callback and is still to come.
    pub(crate) fn owed(&self) -> Demand {
        self.owed
    }

    /// Dispatches what the callback emitted; what finds no demand goes into the buffer. Returns how many events were
    /// dropped because it is full.
    pub(crate) fn emit(&mut self, events: &mut Vec<T>) -> usize {
        self.owed = self.owed.saturating_sub(Demand::from(events.len()));
        debug_assert!(self.scratch.is_empty());
        self.scratch = VecDeque::from(std::mem::take(events));
        if !self.is_holding_back() {
            self.dispatcher.dispatch(&mut self.scratch, Attempt::FIRST, &mut self.deliveries);
        }
        let discarded = self.buffer.store(&mut self.scratch);
        // Hand the memory back for the next emission, unless it went to a subscriber.
        self.scratch.clear();
        *events = std::mem::take(&mut self.scratch).into();
        discarded
    }

    /// The next batch to be sent.
    pub(crate) fn next_delivery(&mut self) -> Option<Delivery<T>> {
        self.deliveries.pop()
    }

    /// Whether every event that was emitted has been delivered, to somebody: before the first subscriber came, nothing
    /// has, and it must still be told of the end.
    pub(crate) fn is_delivered(&self) -> bool {
        !self.is_holding_back() && self.waiting() == 0 && self.deliveries.is_empty()
    }

    /// Whether there were subscribers and all of them have left.
    pub(crate) fn is_abandoned(&self) -> bool {
        !self.is_holding_back() && self.asked.is_empty()
    }

    fn is_holding_back(&self) -> bool {
        self.seen < self.awaited
    }

    /// How many events wait for demand.
    pub(crate) fn waiting(&self) -> usize {
        let returned: usize = self.returned.iter().map(|(_, events)| events.len()).sum();
        returned + self.buffer.len() + self.dispatcher.held()
    }

    /// Gives out what waits, oldest first, as far as there is demand.
    fn serve_waiting(&mut self) {
        while let Some((attempt, events)) = self.returned.front_mut() {
            self.dispatcher.dispatch(events, *attempt, &mut self.deliveries);
            if !events.is_empty() {
                return;
            }
            self.returned.pop_front();
        }
        while !self.buffer.is_empty() && !self.dispatcher.demand().is_zero() {
            self.buffer.take(self.dispatcher.demand().as_len(), &mut self.scratch);
            self.dispatcher.dispatch(&mut self.scratch, Attempt::FIRST, &mut self.deliveries);
            if !self.scratch.is_empty() {
                self.buffer.put_back(&mut self.scratch);
                self.scratch.clear();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_dispatcher::{DemandDispatcher, Keep};

    use super::*;

    fn downstream(capacity: usize, keep: Keep) -> Downstream<u32> {
        Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(capacity, keep))
    }

    fn subscriber(downstream: &mut Downstream<u32>) -> SubscriptionId {
        let id = SubscriptionId::new();
        downstream.subscribe(id).expect("a new one");
        id
    }

    /// What is asked of the callback.
    fn ask(downstream: &mut Downstream<u32>, id: SubscriptionId, up_to: u64) -> u64 {
        downstream.ask(id, Demand::new(up_to));
        downstream.pull().count()
    }

    fn sent(downstream: &mut Downstream<u32>) -> Vec<Vec<u32>> {
        std::iter::from_fn(|| downstream.next_delivery()).map(|d| d.events).collect()
    }

    fn emit(downstream: &mut Downstream<u32>, events: impl IntoIterator<Item = u32>) -> usize {
        downstream.emit(&mut events.into_iter().collect())
    }

    #[test]
    fn the_buffer_is_served_before_the_callback_is_asked() {
        let mut down = downstream(10, Keep::Last);
        assert_eq!((emit(&mut down, 0..3), emit(&mut down, 3..5)), (0, 0));
        let id = subscriber(&mut down);
        assert_eq!(ask(&mut down, id, 4), 0);
        assert_eq!(sent(&mut down), [vec![0, 1, 2, 3]]);
        assert_eq!(ask(&mut down, id, 8), 3);
        assert_eq!(sent(&mut down), [vec![4]]);
        assert!(down.is_delivered());
    }

    #[test]
    fn asks_are_cumulative_so_a_repeated_one_changes_nothing() {
        let mut down = downstream(10, Keep::Last);
        let id = subscriber(&mut down);
        assert_eq!([4, 4, 2, 5].map(|up_to| ask(&mut down, id, up_to)), [4, 0, 0, 1]);
    }

    #[test]
    fn what_a_leaving_subscriber_had_asked_for_serves_the_next() {
        let mut down = downstream(10, Keep::Last);
        let first = subscriber(&mut down);
        assert_eq!(ask(&mut down, first, 10), 10);
        assert!(down.cancel(first));
        let second = subscriber(&mut down);
        assert_eq!(ask(&mut down, second, 5), 0, "ten are on their way");
        emit(&mut down, 0..10);
        assert_eq!((sent(&mut down), down.waiting()), (vec![vec![0, 1, 2, 3, 4]], 5));
        assert_eq!(ask(&mut down, second, 12), 2, "five of the seven are here");
    }

    #[test]
    fn what_came_for_somebody_who_left_is_served_even_while_more_is_owed() {
        // In GenStage the second subscriber waits for the rest of the ten, and gets it before what is in the buffer.
        let mut down = downstream(10, Keep::Last);
        let first = subscriber(&mut down);
        assert_eq!(ask(&mut down, first, 10), 10);
        down.cancel(first);
        emit(&mut down, 0..3);
        let second = subscriber(&mut down);
        assert_eq!(ask(&mut down, second, 5), 0);
        assert_eq!(sent(&mut down), [vec![0, 1, 2]]);
        emit(&mut down, 3..10);
        assert_eq!(sent(&mut down), [vec![3, 4]]);
    }

    #[test]
    fn what_the_buffer_cannot_hold_is_counted() {
        let mut down = downstream(5, Keep::First);
        assert_eq!(emit(&mut down, 0..8), 3);
        assert_eq!(down.waiting(), 5);
    }

    #[test]
    fn nothing_moves_before_the_awaited_subscribers_have_come() {
        let mut down = downstream(10, Keep::Last);
        down.wait_for(2);
        let first = subscriber(&mut down);
        assert_eq!(ask(&mut down, first, 4), 0);
        emit(&mut down, 0..2);
        assert!(sent(&mut down).is_empty() && !down.is_delivered());
        let second = subscriber(&mut down);
        assert_eq!(ask(&mut down, second, 3), 5, "two of the seven are here");
        assert_eq!(sent(&mut down), [vec![0, 1]]);
    }

    #[test]
    fn a_subscriber_that_left_is_not_served() {
        let mut down = downstream(10, Keep::Last);
        let id = subscriber(&mut down);
        assert!(!down.is_abandoned());
        assert_eq!(ask(&mut down, id, 4), 4);
        assert_eq!((down.cancel(id), down.cancel(id)), (true, false));
        assert_eq!(ask(&mut down, id, 8), 0);
        emit(&mut down, 0..2);
        assert!(sent(&mut down).is_empty() && down.is_abandoned() && !down.is_delivered());
    }
}
