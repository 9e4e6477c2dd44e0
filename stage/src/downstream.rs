//! The subscribers a stage serves: its dispatcher and its buffer put together. Pure.

use std::collections::VecDeque;

use aqueduct_dispatcher::{
    Attempt, Buffer, Cancel, Decision, Deliveries, Demand, Dispatcher, Events, Interest, Keep, Lane, Marker, Refused,
    SubscriptionId, Unattended, Window,
};

use crate::bugs::bug;
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
    subscribers: ById<Subscribed<T>>,
    /// Those that want no more, and have something in hand of which they have not said that they handled it.
    parted: ById<Parted<T>>,
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

struct Subscribed<T> {
    consumer: ConsumerId,
    window: Window,
    cancel: Cancel,
    /// Asked for in all.
    asked: Demand,
    /// It is leaving, and is given nothing any more. This is the lane in which it was given what it may hand back.
    leaving: Option<Lane>,
    given: Given<T>,
}

/// What a subscriber was given, and what became of it.
struct Given<T> {
    /// How many events it has taken, in all.
    count: u64,
    /// How many of them it has handled, if it hands back what it does not finish; `<= count`.
    handled: Option<u64>,
    /// What it did not take, as it had ended, until it says so itself.
    refused: Unfinished<T>,
}

struct Parted<T> {
    lane: Lane,
    given: Given<T>,
}

/// Batches to be given again, oldest first, and which attempt is to follow.
pub(crate) type Unfinished<T> = Vec<(Events<T>, Attempt)>;

impl<T> Given<T> {
    fn new() -> Self {
        Self { count: 0, handled: None, refused: Vec::new() }
    }

    fn handled(&mut self, up_to: Demand) {
        self.handled = self.handled.max(Some(up_to.count().min(self.count)));
    }

    fn refused(&self) -> usize {
        self.refused.iter().map(|(events, _)| events.len()).sum()
    }

    /// Whether something of it may be handed back.
    fn may_come_back(&self) -> bool {
        self.handled.is_some_and(|handled| handled < self.count) || !self.refused.is_empty()
    }
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
            parted: ById::new(),
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
        let (asked, leaving, given) = (Demand::ZERO, None, Given::new());
        self.subscribers.insert(id, Subscribed { consumer, window, cancel, asked, leaving, given });
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
        if self.cancel(id).is_some() && !bug!(RefusedHasCome) {
            self.seen -= 1;
        }
    }

    /// A subscriber is about to leave, and has failed. If it has asked for nothing, it does not count as having come, and the
    /// answer is `true`: so it is when somebody gives up an attempt to subscribe, as the answer takes too long.
    pub(crate) fn has_not_come(&mut self, id: SubscriptionId) -> bool {
        let subscribed = self.subscribers.get(id).filter(|subscribed| subscribed.asked.is_zero());
        let has_not_come = subscribed.is_some() && !self.kept.iter().any(|(other, _)| *other == id);
        self.seen -= usize::from(has_not_come);
        has_not_come
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

    /// A subscriber that hands back what it does not finish has handled `up_to` of what it was given.
    pub(crate) fn handled(&mut self, id: SubscriptionId, up_to: Demand) {
        if let Some(subscribed) = self.subscribers.get_mut(id) {
            subscribed.given.handled(up_to);
        } else if let Some(leaving) = self.parted.get_mut(id) {
            leaving.given.handled(up_to);
            if !leaving.given.may_come_back() {
                self.parted.remove(id);
            }
        }
    }

    /// A subscriber did not take a delivery, as it has ended: it is about to say so.
    pub(crate) fn refused(&mut self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        let subscribed = self.subscribers.get_mut(id).map(|subscribed| &mut subscribed.given);
        match subscribed.or_else(|| self.parted.get_mut(id).map(|leaving| &mut leaving.given)) {
            Some(given) => {
                given.count -= events.len() as u64;
                given.refused.push((events, attempt));
            }
            None => self.deliveries.discard(events.len()),
        }
    }

    /// A subscriber wants no more; nothing if it was not there. If it hands back what it does not finish, what it has in
    /// hand is its own until it [has handled](Self::handled) it or [leaves](Self::leave).
    pub(crate) fn cancel(&mut self, id: SubscriptionId) -> Option<Edge> {
        let edge = self.edge(id)?;
        let Subscribed { leaving, mut given, .. } = self.subscribers.remove(id)?;
        let lane = leaving.unwrap_or_else(|| self.dispatcher.lane(id));
        self.kept.retain(|(other, _)| *other != id);
        self.dispatcher.cancel(id, &mut self.deliveries);
        // What it had not taken is nobody's.
        self.give_back(lane, std::mem::take(&mut given.refused));
        if given.may_come_back() && !bug!(CancelledIsDone) {
            self.parted.insert(id, Parted { lane, given });
        }
        Some(edge)
    }

    /// As [`cancel`](Self::cancel), of a subscriber that will handle nothing more, also after a cancel: takes back what it
    /// did not finish, oldest first.
    pub(crate) fn leave(&mut self, id: SubscriptionId, mut unfinished: Unfinished<T>) -> Option<Edge> {
        let mut lane = self.dispatcher.lane(id);
        if let Some(subscribed) = self.subscribers.get_mut(id) {
            lane = subscribed.leaving.unwrap_or(lane);
            unfinished.append(&mut subscribed.given.refused);
        }
        let edge = self.cancel(id);
        if let Some(mut left) = self.parted.remove(id) {
            lane = left.lane;
            unfinished.append(&mut left.given.refused);
        } else if edge.is_none() {
            // Whoever is unknown has nothing.
            self.deliveries.discard(unfinished.iter().map(|(events, _)| events.len()).sum());
            return None;
        }
        self.give_back(lane, unfinished);
        edge
    }

    fn give_back(&mut self, lane: Lane, unfinished: Unfinished<T>) {
        // The oldest first, because whoever has demand gets them at once.
        let mut left = Vec::new();
        for (events, attempt) in unfinished {
            let mut events = VecDeque::from(events.into_vec());
            self.dispatcher.give_back(lane, &mut events, attempt, &mut self.deliveries);
            if !events.is_empty() {
                left.push((attempt, events));
            }
        }
        if bug!(ReturnedReversed) {
            left.reverse();
        }
        left.into_iter().rev().for_each(|group| self.returned.push_front(group));
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

    /// Whether asks that came together are better answered together.
    pub(crate) fn gathers_asks(&self) -> bool {
        self.dispatcher.gathers_asks()
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
        match &decision {
            Decision::Deliver(delivery) => {
                if let Some(subscribed) = self.subscribers.get_mut(delivery.to) {
                    subscribed.given.count += delivery.events.len() as u64;
                }
            }
            Decision::Fail(id, _) => drop(self.cancel(*id)),
            Decision::Pass(_) => {}
        }
        Some(decision)
    }

    /// How many events the dispatcher discarded, and how many it could not dispatch, since this was called last.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        self.deliveries.take_counts()
    }

    /// Why the first event could not be dispatched since this was called last.
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        self.deliveries.take_failure()
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

    /// Whether something may be handed back, and have to be given again.
    pub(crate) fn may_come_back(&self) -> bool {
        self.subscribers.values().any(|one| one.given.may_come_back())
            || self.parted.values().any(|one| one.given.may_come_back())
    }

    /// Whether this one wants no more and may hand back what it has in hand.
    pub(crate) fn may_hand_back(&self, id: SubscriptionId) -> bool {
        self.parted.contains(id)
    }

    /// How many events were not taken by subscribers that have ended.
    pub(crate) fn not_taken(&self) -> usize {
        let subscribed: usize = self.subscribers.values().map(|one| one.given.refused()).sum();
        subscribed + self.parted.values().map(|one| one.given.refused()).sum::<usize>()
    }

    /// What subscribers have asked for and not been given.
    pub(crate) fn demand(&self) -> Demand {
        self.dispatcher.demand()
    }

    /// Whether each event is given to all subscribers at the pace of the slowest, and nothing else holds events back.
    pub(crate) fn gives_to_all(&self) -> bool {
        self.dispatcher.takes_a_consumer_once() && !self.is_holding_back()
    }

    /// Whether an event that one subscriber gives back may go to any other one, if neither has chosen its events.
    pub(crate) fn gives_to_any(&self) -> bool {
        !self.dispatcher.takes_a_consumer_once()
    }

    fn is_holding_back(&self) -> bool {
        self.mode == DemandMode::Accumulate || self.seen < self.awaited
    }

    fn pass_on(&mut self, id: SubscriptionId, up_to: Demand) {
        let Some(Subscribed { asked, leaving: None, .. }) = self.subscribers.get_mut(id) else { return };
        let more = up_to.saturating_sub(*asked);
        if !more.is_zero() {
            *asked = up_to;
            self.dispatcher.ask(id, if bug!(CumulativeTakenForMore) { up_to } else { more }, &mut self.deliveries);
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

    /// A subscriber that hands back what it does not finish, and that was given 0..count.
    fn acknowledging(down: &mut Downstream<u32>, count: u32) -> SubscriptionId {
        let id = subscriber(down);
        down.handled(id, Demand::ZERO);
        ask(down, id, count.into());
        emit(down, 0..count);
        assert_eq!(sent(down), [Vec::from_iter(0..count)]);
        id
    }

    #[test]
    fn what_a_subscriber_has_in_hand_that_wants_no_more_is_its_own_until_it_says_what_it_handled() {
        let mut down = downstream(10, Keep::Last);
        let id = acknowledging(&mut down, 6);
        down.handled(id, Demand::new(2));
        assert!(down.cancel(id).is_some() && down.is_abandoned());
        assert_eq!((down.waiting(), down.may_come_back()), (0, true));
        down.handled(id, Demand::new(4));
        assert!(down.leave(id, vec![(vec![4, 5].into(), Attempt::FIRST)]).is_none(), "it was told of already");
        assert_eq!((down.waiting(), down.may_come_back()), (2, false));
        let next = subscriber(&mut down);
        ask(&mut down, next, 5);
        assert_eq!(sent(&mut down), [vec![4, 5]]);
        let other = acknowledging(&mut downstream(10, Keep::Last), 3);
        let mut down = downstream(10, Keep::Last);
        let id = acknowledging(&mut down, 3);
        down.cancel(id);
        [id, other].iter().for_each(|id| down.handled(*id, Demand::new(3)));
        assert!(!down.may_come_back(), "it has handled everything");
    }

    #[test]
    fn what_a_subscriber_did_not_take_waits_until_it_leaves() {
        for is_cancel in [true, false] {
            let mut down = downstream(10, Keep::Last);
            let id = acknowledging(&mut down, 3);
            ask(&mut down, id, 5);
            emit(&mut down, 3..5);
            assert_eq!(sent(&mut down), [vec![3, 4]]);
            down.refused(id, vec![3, 4].into(), Attempt::FIRST);
            down.handled(id, Demand::new(3));
            assert_eq!((down.waiting(), down.not_taken(), down.may_come_back()), (0, 2, true));
            let left = if is_cancel { down.cancel(id) } else { down.leave(id, Vec::new()) };
            assert!(left.is_some());
            assert_eq!((down.waiting(), down.not_taken(), down.may_come_back()), (2, 0, false));
        }
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
    fn who_fails_before_it_has_asked_was_never_there() {
        let mut down =
            Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(10, Keep::Last), DemandMode::Forward, 2);
        let (silent, waiting) = (subscriber(&mut down), subscriber(&mut down));
        assert!(down.has_not_come(silent) && down.cancel(silent).is_some());
        assert_eq!(ask(&mut down, waiting, 3), 0, "it waits for the second, and has asked");
        assert!(!down.has_not_come(waiting) && !down.has_not_come(silent));
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
