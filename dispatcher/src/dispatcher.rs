//! The contract that every dispatcher keeps: [`Dispatcher`].

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::{Demand, SubscriptionId};

/// Decides which subscriber gets which event, and how much demand is passed up to the producer.
///
/// A dispatcher is a plain value inside a producing stage. It is told of every subscription, of every ask and of every
/// batch of events, and answers with what is to happen; it never waits, sends or reads a clock. The same calls always
/// give the same answers.
///
/// What every dispatcher promises (and `tests/laws.rs` checks):
///
/// * a subscriber is never given more than it asked for (Reactive Streams 1.1);
/// * an event is given to a subscriber, held, or left in `events`, never lost and never given twice by one dispatch;
/// * the order of events is kept for each subscriber;
/// * demand is conserved: what a leaving subscriber had asked for, and was already passed up, serves the next ask.
///
/// The methods are GenStage's callbacks of the same names, and one more, [`give_back`](Dispatcher::give_back).
pub trait Dispatcher<T>: Send {
    /// Takes a subscriber in, with no demand as yet. Returns demand to pass up.
    ///
    /// # Errors
    ///
    /// [`Refused`] when this subscriber cannot be served; it is then told so, and nothing has changed.
    fn subscribe(&mut self, id: SubscriptionId) -> Result<Demand, Refused>;

    /// A subscriber asks for `demand` more events. What the dispatcher holds for it goes to `deliveries`; returned is
    /// the demand to pass up.
    ///
    /// An unknown subscriber is answered with zero: asking after a cancel does nothing (Reactive Streams 3.6).
    fn ask(&mut self, id: SubscriptionId, demand: Demand, deliveries: &mut Deliveries<T>) -> Demand;

    /// A subscriber leaves. Returns demand to pass up; an unknown one is answered with zero.
    fn cancel(&mut self, id: SubscriptionId) -> Demand;

    /// Assigns `events` from the front to subscribers with demand. What stays in `events` found no demand, and the
    /// stage keeps it in its buffer.
    fn dispatch(&mut self, events: &mut VecDeque<T>, deliveries: &mut Deliveries<T>);

    /// Events that were given to `id` and not acknowledged come back, oldest first, to be given again before anything
    /// newer. `attempt` is the number of the attempt that is to follow.
    ///
    /// Whoever has demand gets them at once, through `deliveries`; the rest is held for the next ask. Returned is how
    /// many events nobody can take any more (of a broadcast, say, whose subscriber has left): the stage counts and
    /// reports them.
    fn give_back(
        &mut self,
        id: SubscriptionId,
        events: VecDeque<T>,
        attempt: Attempt,
        deliveries: &mut Deliveries<T>,
    ) -> usize;

    /// How many events the dispatcher itself holds for later asks.
    fn held(&self) -> usize;
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
