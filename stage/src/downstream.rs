//! The subscribers a stage serves: its dispatcher and its buffer put together. Pure.

use std::collections::VecDeque;

use aqueduct_dispatcher::{
    Attempt, Buffer, Cancel, Decision, Deliveries, Demand, Dispatcher, Events, Interest, Keep, Lane, Marker, Refused,
    SubscriptionId, Unattended, Window,
};

use crate::by_id::ById;
use crate::{ConsumerId, DemandMode, Edge, Peer, WaitingFor};

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
    /// How many events have ever entered the buffer, and how many have left it: places in it are counted so.
    entered: u64,
    left: u64,
    /// What waits for a place in the buffer to be left: in the order of places.
    markers: VecDeque<(u64, Marker)>,
    next_marker: u64,
    subscribers: ById<Subscribed>,
    /// Asked of the callback, and not emitted yet.
    owed: Demand,
    deliveries: Deliveries<T>,
    /// Empty between calls; kept for its memory.
    scratch: VecDeque<T>,
    mode: DemandMode,
    /// Asks that came while nothing was passed on: each is answered by itself later, never their sum (a producer can
    /// ramp up). The latest of a subscriber replaces the one before beyond a bound.
    kept: VecDeque<(SubscriptionId, Demand)>,
    /// How many subscribers there have been.
    seen: usize,
    /// Nothing is given out or asked for before so many have come; at least 1.
    awaited: usize,
}

#[derive(Clone, Copy, Debug)]
struct Subscribed {
    consumer: ConsumerId,
    window: Window,
    cancel: Cancel,
    /// Asked for in all.
    asked: Demand,
    /// It is leaving, and is given nothing any more. This is the lane in which it was given what it may hand back.
    leaving: Option<Lane>,
}

impl<T> Downstream<T> {
    pub(crate) fn new(dispatcher: Box<dyn Dispatcher<T>>, buffer: Buffer<T>, mode: DemandMode, awaited: usize) -> Self {
        Self {
            dispatcher,
            returned: VecDeque::new(),
            buffer,
            entered: 0,
            left: 0,
            markers: VecDeque::new(),
            next_marker: 0,
            subscribers: ById::new(),
            owed: Demand::ZERO,
            deliveries: Deliveries::new(),
            scratch: VecDeque::new(),
            mode,
            kept: VecDeque::new(),
            seen: 0,
            awaited: awaited.max(1),
        }
    }

    /// Takes a subscriber in.
    pub(crate) fn subscribe(
        &mut self,
        id: SubscriptionId,
        consumer: ConsumerId,
        window: Window,
        cancel: Cancel,
        interest: Interest<T>,
    ) -> Result<(), Refused> {
        let is_there = || self.subscribers.values().any(|subscribed| subscribed.consumer == consumer);
        if self.dispatcher.takes_a_consumer_once() && is_there() {
            return Err(Refused::AlreadySubscribed);
        }
        self.dispatcher.subscribe(id, interest)?;
        self.subscribers.insert(id, Subscribed { consumer, window, cancel, asked: Demand::ZERO, leaving: None });
        self.seen += 1;
        Ok(())
    }

    /// A subscriber allows `up_to` events in all.
    pub(crate) fn ask(&mut self, id: SubscriptionId, up_to: Demand) {
        if !self.is_holding_back() && self.kept.is_empty() {
            self.pass_on(id, up_to);
        } else if self.subscribers.contains(id) {
            if self.kept.len() >= KEPT_ASKS
                && let Some((_, kept)) = self.kept.iter_mut().rev().find(|(other, _)| *other == id)
            {
                *kept = up_to.max(*kept);
            } else {
                self.kept.push_back((id, up_to));
            }
        }
    }

    /// A subscriber that was just taken in is refused after all: it does not count as having come.
    pub(crate) fn refuse(&mut self, id: SubscriptionId) {
        if self.cancel(id).is_some() {
            self.seen -= 1;
        }
    }

    /// From now on a subscriber is given nothing, whatever it asks. It is still to [leave](Self::leave).
    pub(crate) fn begin_to_leave(&mut self, id: SubscriptionId) {
        let Some(subscribed) = self.subscribers.get_mut(id).filter(|subscribed| subscribed.leaving.is_none()) else {
            return;
        };
        subscribed.leaving = Some(self.dispatcher.lane(id));
        self.kept.retain(|(other, _)| *other != id);
        self.dispatcher.cancel(id, &mut self.deliveries);
    }

    /// A subscriber leaves; nothing if it was not there.
    pub(crate) fn cancel(&mut self, id: SubscriptionId) -> Option<Edge> {
        let edge = self.edge(id)?;
        self.subscribers.remove(id);
        self.kept.retain(|(other, _)| *other != id);
        self.dispatcher.cancel(id, &mut self.deliveries);
        Some(edge)
    }

    /// As [`cancel`](Self::cancel), and takes back what the subscriber did not finish, oldest first.
    pub(crate) fn leave(&mut self, id: SubscriptionId, unfinished: Vec<(Events<T>, Attempt)>) -> Option<Edge> {
        let lane = self.subscribers.get(id)?.leaving.unwrap_or_else(|| self.dispatcher.lane(id));
        let edge = self.cancel(id)?;
        // The oldest first, because whoever has demand gets them at once.
        let mut left = Vec::new();
        for (events, attempt) in unfinished {
            let mut events = VecDeque::from(events.into_vec());
            self.dispatcher.give_back(lane, &mut events, attempt, &mut self.deliveries);
            if !events.is_empty() {
                left.push((attempt, events));
            }
        }
        left.into_iter().rev().for_each(|group| self.returned.push_front(group));
        Some(edge)
    }

    /// What callbacks are told of a subscription.
    pub(crate) fn edge(&self, id: SubscriptionId) -> Option<Edge> {
        let Subscribed { window, cancel, .. } = *self.subscribers.get(id)?;
        Some(Edge { id, peer: Peer::Consumer, window, cancel })
    }

    /// Passes demand on, or keeps it.
    pub(crate) fn set_mode(&mut self, mode: DemandMode) {
        self.mode = mode;
    }

    /// Passes everything on from now on, to those who are there.
    pub(crate) fn hold_nothing_back(&mut self) {
        self.mode = DemandMode::Forward;
        self.awaited = self.awaited.min(self.seen.max(1));
    }

    pub(crate) fn mode(&self) -> DemandMode {
        self.mode
    }

    /// Serves what waits here, and returns what to ask of the callback: what is wanted beyond what it owes already.
    /// While demand was kept, each ask is answered by a call of its own: call again until it returns zero.
    pub(crate) fn pull(&mut self) -> Demand {
        if self.is_holding_back() {
            return Demand::ZERO;
        }
        loop {
            self.serve_waiting();
            let more = self.dispatcher.demand().saturating_sub(self.owed);
            if !more.is_zero() {
                self.owed.add(more);
                return more;
            }
            let Some((id, up_to)) = self.kept.pop_front() else { return Demand::ZERO };
            self.pass_on(id, up_to);
        }
    }

    /// Whether [`pull`](Self::pull) would find more to ask: nobody wanted what was emitted, or several asks were kept.
    pub(crate) fn wants_more(&self) -> bool {
        !self.is_holding_back() && (!self.kept.is_empty() || self.dispatcher.demand() > self.owed)
    }

    /// What was asked of the callback and is still to come.
    pub(crate) fn owed(&self) -> Demand {
        self.owed
    }

    /// How much of it would be given out at once. The rest is owed to subscribers that have left, or that are held back.
    pub(crate) fn wanted(&self) -> Demand {
        if self.is_holding_back() { Demand::ZERO } else { self.owed.min(self.dispatcher.demand()) }
    }

    /// Dispatches what the callback emitted; what finds no demand goes into the buffer. Returns how many events were
    /// dropped because it is full.
    pub(crate) fn emit(&mut self, events: &mut Vec<T>) -> usize {
        self.owed = self.owed.saturating_sub(Demand::from(events.len()));
        debug_assert!(self.scratch.is_empty());
        self.scratch = VecDeque::from(std::mem::take(events));
        if !self.is_holding_back() && self.buffer.is_empty() && self.returned.is_empty() {
            self.dispatcher.dispatch(&mut self.scratch, Attempt::FIRST, &mut self.deliveries);
        }
        self.entered += self.scratch.len() as u64;
        let dropped = self.buffer.store(&mut self.scratch);
        match self.buffer.keep() {
            Keep::First | Keep::Fail => self.entered -= dropped as u64,
            Keep::Last => self.left += dropped as u64,
        }
        // Hand the memory back for the next emission, unless it went to a subscriber.
        self.scratch.clear();
        *events = std::mem::take(&mut self.scratch).into();
        self.pass_markers();
        dropped
    }

    /// A marker behind everything that waits here now.
    pub(crate) fn mark(&mut self) -> Marker {
        let marker = Marker(self.next_marker);
        self.next_marker += 1;
        self.markers.push_back((self.entered, marker));
        self.pass_markers();
        marker
    }

    /// The next thing to be done.
    pub(crate) fn next_decision(&mut self) -> Option<Decision<T>> {
        let decision = self.deliveries.pop()?;
        if let Decision::Fail(id, _) = &decision {
            self.cancel(*id);
        }
        Some(decision)
    }

    /// How many events the dispatcher discarded, and how many it could not dispatch, since this was called last.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        self.deliveries.take_counts()
    }

    /// Whether every event that was emitted has been delivered, to somebody: before the first subscriber came, nothing
    /// has, and it must still be told of the end.
    pub(crate) fn is_delivered(&self) -> bool {
        !self.is_holding_back() && self.waiting() == 0 && self.deliveries.is_empty()
    }

    /// Whether there were subscribers and all of them have left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.seen >= self.awaited && self.subscribers.is_empty()
    }

    /// What it waits for, if it does. An `exhausted` stage is to emit nothing more: then nothing here may be left behind.
    pub(crate) fn waits_for(&self, exhausted: bool) -> Option<WaitingFor> {
        if self.seen < self.awaited {
            return Some(WaitingFor::Subscribers { missing: self.awaited - self.seen });
        }
        if self.mode == DemandMode::Accumulate {
            return Some(WaitingFor::Forwarding);
        }
        let events = self.waiting();
        if self.subscribers.is_empty() && !(exhausted && events == 0) {
            // One that may still emit lives on for whoever comes; one that may not holds what somebody has to take.
            return Some(if exhausted { WaitingFor::Subscribers { missing: 1 } } else { WaitingFor::NextSubscriber });
        }
        if !(if exhausted { events > 0 } else { self.owed.is_zero() }) {
            return None;
        }
        match self.dispatcher.unattended() {
            Some(Unattended { partition, events, blocks }) if blocks || exhausted => {
                Some(WaitingFor::Partition { partition, events })
            }
            _ => Some(WaitingFor::Demand { events }),
        }
    }

    /// How many events wait for demand.
    pub(crate) fn waiting(&self) -> usize {
        let returned: usize = self.returned.iter().map(|(_, events)| events.len()).sum();
        returned + self.buffer.len() + self.dispatcher.held()
    }

    /// What subscribers have asked for and not been given.
    pub(crate) fn demand(&self) -> Demand {
        self.dispatcher.demand()
    }

    /// Whether each event is given to all subscribers at the pace of the slowest, and nothing else holds events back.
    pub(crate) fn gives_to_all(&self) -> bool {
        self.dispatcher.takes_a_consumer_once() && !self.is_holding_back()
    }

    fn is_holding_back(&self) -> bool {
        self.mode == DemandMode::Accumulate || self.seen < self.awaited
    }

    fn pass_on(&mut self, id: SubscriptionId, up_to: Demand) {
        let Some(Subscribed { asked, leaving: None, .. }) = self.subscribers.get_mut(id) else { return };
        let more = up_to.saturating_sub(*asked);
        if !more.is_zero() {
            *asked = up_to;
            self.dispatcher.ask(id, more, &mut self.deliveries);
        }
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
        self.pass_markers();
        while !self.buffer.is_empty() && !self.dispatcher.demand().is_zero() {
            // A marker keeps its place: what stands behind it is given out after it was passed.
            let place = self.markers.front().map_or(u64::MAX, |(place, _)| place - self.left);
            let count = self.dispatcher.demand().as_len().min(usize::try_from(place).unwrap_or(usize::MAX));
            self.buffer.take(count, &mut self.scratch);
            let taken = self.scratch.len();
            self.dispatcher.dispatch(&mut self.scratch, Attempt::FIRST, &mut self.deliveries);
            self.left += (taken - self.scratch.len()) as u64;
            self.pass_markers();
            if !self.scratch.is_empty() {
                self.buffer.put_back(&mut self.scratch);
                self.scratch.clear();
                return;
            }
        }
    }

    /// Lets the markers through whose place has been reached. What was given back stands before every place.
    fn pass_markers(&mut self) {
        if !self.returned.is_empty() {
            return;
        }
        while let Some((_, marker)) = self.markers.pop_front_if(|(place, _)| *place <= self.left) {
            self.dispatcher.info(marker, &mut self.deliveries);
        }
    }
}

/// How many asks are kept apart while demand accumulates. Enough for the first asks of as many consumers; a consumer
/// that goes on asking is remembered by its latest.
const KEPT_ASKS: usize = 10_000;

#[cfg(test)]
mod tests {
    use aqueduct_dispatcher::{DemandDispatcher, Keep};

    use super::*;

    fn downstream(capacity: usize, keep: Keep) -> Downstream<u32> {
        Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(capacity, keep), DemandMode::Forward, 1)
    }

    fn subscriber(downstream: &mut Downstream<u32>) -> SubscriptionId {
        let id = SubscriptionId::new();
        downstream.subscribe(id, ConsumerId::new(), Window::NEAR, Cancel::default(), Interest::ALL).expect("a new one");
        id
    }

    /// What is asked of the callback.
    fn ask(downstream: &mut Downstream<u32>, id: SubscriptionId, up_to: u64) -> u64 {
        downstream.ask(id, Demand::new(up_to));
        downstream.pull().count()
    }

    fn sent(downstream: &mut Downstream<u32>) -> Vec<Vec<u32>> {
        let decisions = std::iter::from_fn(|| downstream.next_decision());
        decisions
            .filter_map(|decision| match decision {
                Decision::Deliver(delivery) => Some(delivery.events.into_vec()),
                _ => None,
            })
            .collect()
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
        assert!(down.cancel(first).is_some());
        let second = subscriber(&mut down);
        assert_eq!(ask(&mut down, second, 5), 0, "ten are on their way");
        emit(&mut down, 0..10);
        assert_eq!((sent(&mut down), down.waiting()), (vec![vec![0, 1, 2, 3, 4]], 5));
        assert_eq!(ask(&mut down, second, 12), 2, "five of the seven are here");
    }

    #[test]
    fn what_is_owed_to_nobody_is_not_wanted() {
        let mut down = downstream(10, Keep::Last);
        let first = subscriber(&mut down);
        assert_eq!((ask(&mut down, first, 10), down.wanted()), (10, Demand::new(10)));
        down.set_mode(DemandMode::Accumulate);
        assert_eq!(down.wanted(), Demand::ZERO);
        down.set_mode(DemandMode::Forward);
        down.cancel(first);
        assert_eq!((down.owed(), down.wanted()), (Demand::new(10), Demand::ZERO));
        let second = subscriber(&mut down);
        assert_eq!((ask(&mut down, second, 4), down.wanted()), (0, Demand::new(4)));
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
        let mut down =
            Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(10, Keep::Last), DemandMode::Forward, 2);
        let first = subscriber(&mut down);
        assert_eq!(ask(&mut down, first, 4), 0);
        emit(&mut down, 0..2);
        assert!(sent(&mut down).is_empty() && !down.is_delivered());
        let second = subscriber(&mut down);
        assert_eq!(ask(&mut down, second, 3), 2, "two of the first four are here");
        assert_eq!(down.pull(), Demand::new(3), "each ask is answered by itself");
        assert_eq!(sent(&mut down), [vec![0, 1]]);
    }

    #[test]
    fn who_is_leaving_is_given_nothing_and_still_hands_back() {
        let mut down = downstream(10, Keep::Last);
        let (first, second) = (subscriber(&mut down), subscriber(&mut down));
        assert_eq!(ask(&mut down, first, 3), 3);
        emit(&mut down, 0..2);
        assert_eq!(sent(&mut down), [vec![0, 1]]);
        down.begin_to_leave(first);
        assert_eq!(ask(&mut down, first, 100), 0);
        emit(&mut down, 2..3);
        assert!(sent(&mut down).is_empty() && !down.is_abandoned());
        assert!(down.leave(first, vec![(vec![1].into(), Attempt::FIRST)]).is_some());
        ask(&mut down, second, 2);
        assert_eq!(sent(&mut down), [vec![1], vec![2]]);
        let third = subscriber(&mut down);
        down.refuse(third);
        assert_eq!((down.edge(third).is_none(), down.waits_for(false)), (true, Some(WaitingFor::Demand { events: 0 })));
    }

    #[test]
    fn who_is_refused_was_never_there() {
        let mut down = downstream(10, Keep::Last);
        let first = subscriber(&mut down);
        down.refuse(first);
        assert!(!down.is_abandoned());
        assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
    }

    #[test]
    fn says_who_or_what_is_missing() {
        let mut down =
            Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(10, Keep::Last), DemandMode::Accumulate, 2);
        assert_eq!(down.waits_for(false), Some(WaitingFor::Subscribers { missing: 2 }));
        let first = subscriber(&mut down);
        assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
        let second = subscriber(&mut down);
        assert_eq!(down.waits_for(false), Some(WaitingFor::Forwarding));
        down.set_mode(DemandMode::Forward);
        emit(&mut down, 0..3);
        assert_eq!(down.waits_for(false), Some(WaitingFor::Demand { events: 3 }));
        assert_eq!((ask(&mut down, first, 4), down.waits_for(false)), (1, None), "it owes one");
        down.cancel(second);
        emit(&mut down, 3..6);
        assert_eq!(down.waits_for(true), Some(WaitingFor::Demand { events: 2 }));
        down.cancel(first);
        assert_eq!(down.waits_for(false), Some(WaitingFor::NextSubscriber));
        assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
    }

    #[test]
    fn a_subscriber_that_left_is_not_served() {
        let mut down = downstream(10, Keep::Last);
        let id = subscriber(&mut down);
        assert!(!down.is_abandoned());
        assert_eq!(ask(&mut down, id, 4), 4);
        assert!(down.cancel(id).is_some() && down.cancel(id).is_none());
        assert_eq!(ask(&mut down, id, 8), 0);
        emit(&mut down, 0..2);
        assert!(sent(&mut down).is_empty() && down.is_abandoned() && !down.is_delivered());
    }
}
