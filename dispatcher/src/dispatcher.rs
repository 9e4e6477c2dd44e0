//! The contract that every dispatcher keeps: [`Dispatcher`].

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::{Demand, SubscriptionId};

/// Decides which subscriber gets which event.
///
/// A dispatcher is a plain value inside a producing stage. It is told of every subscription, of every ask and of every
/// batch of events, and answers with what is to happen; it never waits, sends or reads a clock. The same calls always
/// give the same answers.
///
/// It answers for the present only: how much it could assign now is its [`demand`](Dispatcher::demand). What has been
/// asked of the producer and not come yet, and what came and found no demand, is the stage's business. The stage passes
/// up the difference, so demand is conserved whatever a dispatcher does: what a subscriber had asked for when it left
/// serves the next one, and the demand for an event that nobody wanted is asked for again. (GenStage's dispatchers
/// return the demand to pass up from each callback, and each has to get that right.)
///
/// What every dispatcher promises, and `tests/laws.rs` checks:
///
/// * a subscriber is never given more than it asked for (Reactive Streams 1.1);
/// * an event is given to a subscriber, held, or left in `events`, never lost and never given twice by one dispatch;
/// * the order of events is kept for each subscriber;
/// * while there is demand, nothing is held back.
pub trait Dispatcher<T>: Send {
    /// Takes a subscriber in, with no demand as yet.
    ///
    /// # Errors
    ///
    /// [`Refused`] when this subscriber cannot be served; it is then told so, and nothing has changed.
    fn subscribe(&mut self, id: SubscriptionId) -> Result<(), Refused>;

    /// A subscriber asks for `demand` more events. What the dispatcher holds for it goes to `deliveries`.
    ///
    /// An unknown subscriber is ignored: asking after a cancel does nothing (Reactive Streams 3.6).
    fn ask(&mut self, id: SubscriptionId, demand: Demand, deliveries: &mut Deliveries<T>);

    /// A subscriber leaves, and its demand with it. An unknown one is ignored (Reactive Streams 3.7).
    fn cancel(&mut self, id: SubscriptionId);

    /// How many more events [`dispatch`](Dispatcher::dispatch) would take at this moment.
    fn demand(&self) -> Demand;

    /// Assigns `events` from the front to subscribers with demand. What stays in `events` found none, and the stage
    /// keeps it for later. `attempt` is the same for all of them.
    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>);

    /// Events that were given to `id` and not acknowledged come back, oldest first, to be given again before anything
    /// newer. `attempt` is the number of the attempt that is to follow.
    ///
    /// As with [`dispatch`](Dispatcher::dispatch), whoever has demand gets them at once and the stage keeps what stays
    /// in `events`, in front of everything else. Returned is how many of them nobody can take any more (of a
    /// broadcast, say, whose subscriber has left): the stage counts and reports them.
    fn give_back(
        &mut self,
        id: SubscriptionId,
        events: &mut VecDeque<T>,
        attempt: Attempt,
        deliveries: &mut Deliveries<T>,
    ) -> usize {
        let _ = id;
        self.dispatch(events, attempt, deliveries);
        0
    }

    /// How many events the dispatcher itself holds for later asks.
    fn held(&self) -> usize {
        0
    }
}

/// Why a dispatcher does not take a subscriber in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The same subscription is there already.
    #[error("already subscribed")]
    AlreadySubscribed,
}

/// The how-manieth time an event is handed to a consumer: 1 for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(NonZeroU32);

impl Attempt {
    /// The first attempt.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The attempt after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Its number, from 1.
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

/// One batch for one subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<T> {
    /// Who gets it.
    pub to: SubscriptionId,
    /// The events, oldest first; never empty.
    pub events: Vec<T>,
    /// Which attempt this is for all of them.
    pub attempt: Attempt,
}

/// What a dispatcher has decided, in order. The stage lends it and empties it, so that its memory is used again.
#[derive(Debug)]
pub struct Deliveries<T> {
    list: VecDeque<Delivery<T>>,
}

impl<T> Deliveries<T> {
    /// No deliveries.
    pub const fn new() -> Self {
        Self { list: VecDeque::new() }
    }

    /// Gives the first `count` of `events` to `to`. All of them are handed over without a copy; of fewer, each event
    /// is moved once.
    ///
    /// Does nothing if `count` is 0.
    ///
    /// # Panics
    ///
    /// If there are fewer than `count` events.
    #[track_caller]
    pub fn give(&mut self, to: SubscriptionId, events: &mut VecDeque<T>, count: usize, attempt: Attempt) {
        if count == 0 {
            return;
        }
        let events =
            if count == events.len() { Vec::from(std::mem::take(events)) } else { events.drain(..count).collect() };
        self.list.push_back(Delivery { to, events, attempt });
    }

    /// The number of batches.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is to be delivered.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes the next delivery out, in the order in which they were decided.
    pub fn pop(&mut self) -> Option<Delivery<T>> {
        self.list.pop_front()
    }
}

impl<T> Default for Deliveries<T> {
    fn default() -> Self {
        Self::new()
    }
}
