//! The subscribers a stage serves: its dispatcher and its buffer put together. Pure.

use std::collections::VecDeque;

use aqueduct_dispatcher::{
    Attempt, Buffer, Cancel, Decision, Deliveries, Demand, Dispatcher, Events, Interest, Lane, Marker, Refused,
    SubscriptionId, Unattended, Window,
};

use crate::bugs::bug;
use crate::by_id::ById;
use crate::{ConsumerId, DemandMode, Edge, Peer, WaitingFor};

mod backlog;
mod given;
#[cfg(test)]
mod tests;

use backlog::Backlog;
use given::Given;
pub(crate) use given::Unfinished;

/// The producing half of a stage.
///
/// It holds the account of demand: what subscribers want, less what the stage's callback was asked for and still owes,
/// is asked of the callback; what is in the buffer serves first. So demand can neither leak nor be asked for twice,
/// whoever comes and goes.
pub(crate) struct Downstream<T> {
    dispatcher: Box<dyn Dispatcher<T>>,
    /// What waits for demand, but for what the dispatcher holds.
    backlog: Backlog<T>,
    subscribers: ById<Subscribed<T>>,
    /// Those that want no more, and have something in hand of which they have not said that they handled it.
    parted: ById<Parted<T>>,
    /// Asked of the callback, and not emitted yet.
    owed: Demand,
    deliveries: Deliveries<T>,
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

struct Parted<T> {
    lane: Lane,
    given: Given<T>,
}

impl<T> Downstream<T> {
    pub(crate) fn new(dispatcher: Box<dyn Dispatcher<T>>, buffer: Buffer<T>, mode: DemandMode, awaited: usize) -> Self {
        Self {
            dispatcher,
            backlog: Backlog::new(buffer),
            subscribers: ById::new(),
            parted: ById::new(),
            owed: Demand::ZERO,
            deliveries: Deliveries::new(),
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
        self.backlog.put_in_front(left);
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
            self.backlog.serve(&mut *self.dispatcher, &mut self.deliveries);
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
        let held = self.is_holding_back();
        self.backlog.emit(events, held, &mut *self.dispatcher, &mut self.deliveries)
    }

    /// A marker behind everything that waits here now.
    pub(crate) fn mark(&mut self) -> Marker {
        self.backlog.mark(&mut *self.dispatcher, &mut self.deliveries)
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
        self.backlog.len() + self.dispatcher.held()
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
}

/// How many asks are kept apart while demand accumulates. Enough for the first asks of as many consumers; a consumer
/// that goes on asking is remembered by its latest.
const KEPT_ASKS: usize = 10_000;
