//! The contract that every dispatcher keeps: [`Dispatcher`].

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::{Demand, Events, SubscriptionId};

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
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused>;

    /// Whether a consumer may hold one subscription only: with a broadcast, a second one would give it every event twice.
    fn takes_a_consumer_once(&self) -> bool {
        false
    }

    /// A subscriber asks for `demand` more events. What the dispatcher holds for it goes to `deliveries`.
    ///
    /// An unknown subscriber is ignored: asking after a cancel does nothing (Reactive Streams 3.6).
    fn ask(&mut self, id: SubscriptionId, demand: Demand, deliveries: &mut Deliveries<T>);

    /// A subscriber leaves, and its demand with it. What the dispatcher held only on its account goes to `deliveries`.
    ///
    /// An unknown one is ignored (Reactive Streams 3.7).
    fn cancel(&mut self, id: SubscriptionId, deliveries: &mut Deliveries<T>);

    /// How many more events [`dispatch`](Dispatcher::dispatch) would take at this moment, at least. It may take more of
    /// those that a selector refuses or a function discards, as they cost no demand.
    ///
    /// Zero while what stayed in `events` waits for a subscriber that has not asked: the producer could not help.
    fn demand(&self) -> Demand;

    /// Assigns `events` from the front to subscribers with demand. What stays in `events` found none, and the stage
    /// keeps it for later: it is offered again, before anything newer, when an ask, a cancel or a newcomer has made
    /// [`demand`](Dispatcher::demand) more than zero. `attempt` is the same for all of them.
    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>);

    /// The lane in which events reach this subscriber, for [`give_back`](Dispatcher::give_back).
    fn lane(&self, id: SubscriptionId) -> Lane {
        let _ = id;
        Lane::COMMON
    }

    /// Events that were given in `lane` and not acknowledged come back, oldest first, to be given again before anything
    /// newer. `attempt` is the number of the attempt that is to follow. If a subscriber that left gives them back, it
    /// has been [cancelled](Dispatcher::cancel) before.
    ///
    /// As with [`dispatch`](Dispatcher::dispatch), whoever has demand gets them at once and the stage keeps what stays
    /// in `events`, in front of everything else. What nobody can take any more (of a broadcast, say, whose subscriber
    /// has left) is [discarded](Deliveries::discard).
    fn give_back(&mut self, lane: Lane, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let _ = lane;
        self.dispatch(events, attempt, deliveries);
    }

    /// A marker that must not pass an event which the dispatcher holds. It is [let through](Deliveries::pass) when the
    /// last of those has been given out; at once if there are none.
    fn info(&mut self, marker: Marker, deliveries: &mut Deliveries<T>) {
        deliveries.pass(marker);
    }

    /// Whether asks that came together are better answered by one dispatch, as it sorts the events of each. Then a stage
    /// passes all of them on before it asks its callback for events, and lets its subscribers have a turn before it asks
    /// again for what is still wanted. Default: no.
    fn gathers_asks(&self) -> bool {
        false
    }

    /// How many events the dispatcher itself holds for later asks.
    fn held(&self) -> usize {
        0
    }

    /// The events that it holds and that nobody is there for, if there are any: of several partitions the one with the
    /// most. For reports only: whoever waits for the stage is told what is missing.
    fn unattended(&self) -> Option<Unattended> {
        None
    }
}

/// Events of a partition that has no subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unattended {
    /// The partition.
    pub partition: PartitionName,
    /// How many events it holds.
    pub events: usize,
    /// Whether somebody else wants events and gets none because of it.
    pub blocks: bool,
}

/// What a subscriber wants, besides how much.
pub struct Interest<T> {
    /// Only events for which it answers `true`; all of them without one.
    pub selector: Option<Selector<T>>,
    /// Only events of this partition, where there are partitions.
    pub partition: Option<PartitionName>,
}

/// Chooses the events that a subscriber is given. It runs in the producer, so what it refuses goes nowhere.
pub type Selector<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

impl<T> Interest<T> {
    /// In every event.
    pub const ALL: Self = Self { selector: None, partition: None };
}

impl<T> Default for Interest<T> {
    fn default() -> Self {
        Self::ALL
    }
}

impl<T> Clone for Interest<T> {
    fn clone(&self) -> Self {
        Self { selector: self.selector.clone(), partition: self.partition.clone() }
    }
}

impl<T> fmt::Debug for Interest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interest")
            .field("selector", &self.selector.is_some())
            .field("partition", &self.partition)
            .finish()
    }
}

/// The name of a partition: its number, or what it was called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionName {
    /// One of `0..n`.
    Number(usize),
    /// One of a list of names.
    Name(Arc<str>),
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

impl From<usize> for PartitionName {
    fn from(number: usize) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for PartitionName {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

/// Where events wait that reach only some of the subscribers; a dispatcher gives it a meaning of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub usize);

impl Lane {
    /// The lane of every event, where there is but one.
    pub const COMMON: Self = Self(0);
}

/// Stands for something that keeps its place among events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marker(pub u64);

/// Why a dispatcher does not take a subscriber in.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The same subscription is there already.
    #[error("already subscribed")]
    AlreadySubscribed,
    /// A subscriber of a partitioned stage must say which partition it wants.
    #[error("expected a partition, one of {partitions}, got none")]
    NoPartition {
        /// Those that there are.
        partitions: String,
    },
    /// There is no such partition.
    #[error("expected a partition, one of {partitions}, got {got}")]
    UnknownPartition {
        /// What was asked for.
        got: PartitionName,
        /// Those that there are.
        partitions: String,
    },
    /// A partition was asked for, and the dispatcher has none.
    #[error("expected no partition, as the stage has none, got {got}")]
    NotPartitioned {
        /// What was asked for.
        got: PartitionName,
    },
}

crate::debug_as_sentence!(Refused);

/// The how-manieth time an event is handed to a consumer: 1 for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(NonZeroU32);

impl Attempt {
    /// The first attempt.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The attempt with this number, as another node names it.
    #[must_use]
    pub const fn new(number: NonZeroU32) -> Self {
        Self(number)
    }

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
#[derive(Debug)]
pub struct Delivery<T> {
    /// Who gets it.
    pub to: SubscriptionId,
    /// The events, oldest first; never empty.
    pub events: Events<T>,
    /// Which attempt this is for all of them.
    pub attempt: Attempt,
}

/// What a dispatcher has decided, in order. The stage lends it and empties it, so that its memory is used again.
#[derive(Debug)]
pub struct Deliveries<T> {
    decisions: VecDeque<Decision<T>>,
    discarded: u64,
    failed: u64,
    failure: Option<String>,
}

/// One thing that a stage is to do.
#[derive(Debug)]
pub enum Decision<T> {
    /// Send a batch to a subscriber.
    Deliver(Delivery<T>),
    /// End a subscription, because its selector failed.
    Fail(SubscriptionId, String),
    /// What the marker stands for is next.
    Pass(Marker),
}

impl<T> Deliveries<T> {
    /// No deliveries.
    pub const fn new() -> Self {
        Self { decisions: VecDeque::new(), discarded: 0, failed: 0, failure: None }
    }

    /// Gives the first `count` of `events` to `to`. All of them are handed over without a copy, unless `events` has room
    /// for more than twice as many; else each event is moved once.
    ///
    /// Does nothing if `count` is 0.
    ///
    /// # Panics
    ///
    /// If there are fewer than `count` events.
    #[track_caller]
    pub fn give(&mut self, to: SubscriptionId, events: &mut VecDeque<T>, count: usize, attempt: Attempt) {
        if count > 0 {
            self.give_events(to, take_front(events, count), attempt);
        }
    }

    /// Gives a batch to `to`.
    pub fn give_events(&mut self, to: SubscriptionId, events: impl Into<Events<T>>, attempt: Attempt) {
        self.decisions.push_back(Decision::Deliver(Delivery { to, events: events.into(), attempt }));
    }

    /// Ends a subscription whose selector failed. The dispatcher gives it nothing more; the stage
    /// [cancels](Dispatcher::cancel) it as any other.
    pub fn fail(&mut self, id: SubscriptionId, why: impl Into<String>) {
        self.decisions.push_back(Decision::Fail(id, why.into()));
    }

    /// Lets a marker through.
    pub fn pass(&mut self, marker: Marker) {
        self.decisions.push_back(Decision::Pass(marker));
    }

    /// Counts events that nobody gets: by decision, or for want of room.
    pub fn discard(&mut self, events: usize) {
        self.discarded += events as u64;
    }

    /// Counts events that could not be dispatched, because the function that says where failed, and keeps why the first
    /// of them could not.
    pub fn fail_events(&mut self, events: usize, why: impl FnOnce() -> String) {
        self.failed += events as u64;
        self.failure.get_or_insert_with(why);
    }

    /// How many events were discarded, and how many failed, since this was called last.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.discarded), std::mem::take(&mut self.failed))
    }

    /// Why the first event failed since this was called last, if one has.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Takes the next decision out, in the order in which they were made.
    pub fn pop(&mut self) -> Option<Decision<T>> {
        self.decisions.pop_front()
    }
}

impl<T> Default for Deliveries<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The first `count` events: the whole memory if it holds little else, else a copy of them.
///
/// The memory of a large batch is not given away with the last few of its events: whoever got those would hold on to
/// it, and the producer would have to get as much again.
pub(crate) fn take_front<T>(events: &mut VecDeque<T>, count: usize) -> Vec<T> {
    assert!(count <= events.len(), "expected at least {count} events, got {}", events.len());
    if count == events.len() && events.capacity() <= count.saturating_mul(2).max(SMALL_BATCH) {
        return Vec::from(std::mem::take(events));
    }
    // The iterators know their lengths, and what is left keeps its memory. A drain would ask for room event by event.
    let mut rest = std::mem::take(events).into_iter();
    let front = rest.by_ref().take(count).collect();
    *events = rest.collect();
    front
}

/// The capacity, in events, that is handed over however few of them there are: the least that a growing vector has.
const SMALL_BATCH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_events_do_not_take_the_memory_of_a_large_batch() {
        let mut events: VecDeque<u32> = (0..1_000).collect();
        assert_eq!(take_front(&mut events, 600), (0..600).collect::<Vec<_>>());
        let last = take_front(&mut events, 400);
        assert_eq!(last, (600..1_000).collect::<Vec<_>>());
        assert!(last.capacity() < 1_000 && events.capacity() >= 1_000 && events.is_empty());
        events.extend(0..800);
        assert!(take_front(&mut events, 800).capacity() >= 1_000, "it fills it");
    }
}
