//! [`PartitionDispatcher`]: each event to the partition that its key belongs to.

mod key;
mod names;
mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::subscribers::panicked;
use crate::{
    Attempt, Deliveries, Demand, Dispatcher, Interest, Keep, Lane, Marker, Refused, SubscriptionId, Unattended,
};

pub use key::StableKey;
pub use names::{Partitions, PartitionsError};
use queue::Partition;

/// Gives each event to the partition that a function chooses: GenStage's `PartitionDispatcher`.
///
/// Every subscriber says which [partition](Interest::partition) it wants. Events of a partition whose consumers have no
/// demand wait in a queue of that partition, so that the others go on meanwhile.
///
/// ```
/// use aqueduct_dispatcher::*;
///
/// let mut dispatcher = PartitionDispatcher::by(Partitions::named(["even", "odd"])?, |event: &usize| event % 2);
/// let mut deliveries = Deliveries::new();
/// let (even, odd) = (SubscriptionId::new(), SubscriptionId::new());
/// for (id, name, demand) in [(even, "even", 3), (odd, "odd", 1)] {
///     dispatcher.subscribe(id, Interest { selector: None, partition: Some(name.into()) })?;
///     dispatcher.ask(id, Demand::new(demand), &mut deliveries);
/// }
/// assert_eq!(dispatcher.demand(), Demand::new(4));
/// let mut events = [1, 2, 3, 4].into();
/// dispatcher.dispatch(&mut events, Attempt::FIRST, &mut deliveries);
/// assert_eq!(dispatcher.held(), 1); // 3, for which "odd" has not asked yet
/// assert_eq!(dispatcher.demand(), Demand::new(1)); // "even" got 2 and 4, and wants one more
/// dispatcher.ask(odd, Demand::new(1), &mut deliveries);
/// assert_eq!(dispatcher.held(), 0);
///
/// let mut given = std::iter::from_fn(|| match deliveries.pop()? {
///     Decision::Deliver(delivery) => Some((delivery.to, delivery.events.into_vec())),
///     _ => None,
/// });
/// assert_eq!(given.next(), Some((even, vec![2, 4])));
/// assert_eq!(given.next(), Some((odd, vec![1])));
/// assert_eq!(given.next(), Some((odd, vec![3])));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// * **Guaranteed:** the events of a partition are given out in order. With one consumer for each partition, that is
///   the order of each key. Several consumers share a partition as [`DemandDispatcher`](crate::DemandDispatcher) says.
/// * **A slow subscriber** lets the queue of its partition grow to its [capacity](Self::capacity), and then does what
///   [`Overflow`] says. By default it stops the producer, and with it all partitions, for the next event might be its.
/// * **A leaving subscriber** leaves its partition's queue to the next.
/// * **A new subscriber** gets first what waits for its partition. Without one, a partition's queue fills up.
/// * **An event for which the function panics**, or names a partition that is not there, is counted as failed; one for
///   which it answers `None` is counted as discarded. The demand for it stays.
/// * **An event given back** goes to the head of its partition's queue, whatever its capacity, and is not hashed again.
/// * **A [marker](Dispatcher::info)** passes when every event that waited in a queue before it has been given out.
///
/// GenStage's queues have no bound, are dropped when their consumer leaves, and hold a marker back after they were
/// emptied until the consumer asks again; an event discarded there is never asked for again, an unknown partition kills
/// the producer, and a second consumer for a partition is an error. There the producer is asked for no more than all
/// consumers asked for together, so that a consumer whose key is rare waits until the others ask again. Here it is
/// asked as long as somebody waits and each queue has room.
pub struct PartitionDispatcher<T, H> {
    names: Partitions,
    /// In the order of the names.
    partitions: Vec<Partition<T>>,
    /// For each partition what a dispatch brought; empty between calls, kept for its memory.
    incoming: Vec<Vec<T>>,
    /// Where each subscriber belongs.
    places: BTreeMap<SubscriptionId, usize>,
    hash: H,
    capacity: usize,
    overflow: Overflow,
    /// Markers in order, each with the partitions it waits for and the positions that must have passed.
    markers: VecDeque<(Marker, Vec<(usize, i64)>)>,
}

/// What happens to an event whose partition's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It does not happen: the producer is asked for no more than fits, whatever partition the events fall into. One
    /// full queue therefore stops all partitions. The default, because it loses nothing.
    #[default]
    Block,
    /// The queue keeps its first or its last events; the others are discarded and counted. One partition never stops
    /// another. The producer is asked as long as *somebody* waits, so it must have a pace of its own.
    Keep(Keep),
}

impl<T, H> PartitionDispatcher<T, H>
where
    H: FnMut(T) -> Option<(T, usize)>,
{
    /// Events go where `hash` says: it gets each event once, may change it, and answers with it and the place of its
    /// partition, counted from 0; or with `None` to discard it.
    pub fn new(partitions: Partitions, hash: H) -> Self {
        let count = partitions.count();
        Self {
            names: partitions,
            partitions: std::iter::repeat_with(Partition::new).take(count).collect(),
            incoming: std::iter::repeat_with(Vec::new).take(count).collect(),
            places: BTreeMap::new(),
            hash,
            capacity: Self::DEFAULT_CAPACITY,
            overflow: Overflow::Block,
            markers: VecDeque::new(),
        }
    }
}

impl<T> PartitionDispatcher<T, ()> {
    /// Events go where `place` says, counted from 0.
    pub fn by<F>(partitions: Partitions, place: F) -> PartitionDispatcher<T, impl FnMut(T) -> Option<(T, usize)>>
    where
        F: Fn(&T) -> usize,
    {
        PartitionDispatcher::new(partitions, move |event| {
            let place = place(&event);
            Some((event, place))
        })
    }

    /// Events of the same key go to the same partition, in every run and on every machine: see [`StableKey`].
    pub fn by_key<K, F>(partitions: Partitions, key: F) -> PartitionDispatcher<T, impl FnMut(T) -> Option<(T, usize)>>
    where
        K: StableKey,
        F: Fn(&T) -> K,
    {
        let count = partitions.count();
        Self::by(partitions, move |event| key::place(key(event).stable_hash(), count))
    }

    /// As [`by_key`](Self::by_key), for a key that is a part of the event: its name, say, as bytes.
    pub fn by_bytes<F>(partitions: Partitions, key: F) -> PartitionDispatcher<T, impl FnMut(T) -> Option<(T, usize)>>
    where
        F: Fn(&T) -> &[u8],
    {
        let count = partitions.count();
        Self::by(partitions, move |event| key::place(key(event).stable_hash(), count))
    }
}

impl<T, H> PartitionDispatcher<T, H> {
    /// The default [capacity](Self::capacity), 10,000 events: that of a stage's buffer, and ten times what a consumer
    /// asks for by default, so that a partition may get ten times its share for a while before it slows the others.
    pub const DEFAULT_CAPACITY: usize = 10_000;

    /// Sets how many events may wait in each partition's queue. Default: [`DEFAULT_CAPACITY`](Self::DEFAULT_CAPACITY).
    ///
    /// More lets keys be more uneven before a partition holds up the others; it costs memory, and delay for what waits.
    /// With 0 nothing waits: an event is taken only when every partition has demand for it.
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// Sets what happens when a partition's queue is full. Default: [`Overflow::Block`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// What all consumers together could be given.
    fn wanted(&self) -> Demand {
        let wanted = self.partitions.iter().map(|partition| partition.consumers.demand());
        wanted.fold(Demand::ZERO, Demand::saturating_add)
    }

    /// What all consumers together could be given, and what fits.
    fn budget(&self) -> Demand {
        let wanted = self.wanted();
        match self.overflow {
            Overflow::Keep(_) => wanted,
            Overflow::Block if wanted.is_zero() => wanted,
            Overflow::Block => {
                let room = self.partitions.iter().map(|partition| partition.room(self.capacity));
                room.fold(wanted, Demand::min)
            }
        }
    }

    fn pass_markers(&mut self, deliveries: &mut Deliveries<T>) {
        while let Some((marker, waits)) = self.markers.front() {
            if !waits.iter().all(|(place, position)| self.partitions[*place].has_passed(*position)) {
                break;
            }
            deliveries.pass(*marker);
            self.markers.pop_front();
        }
    }
}

impl<T, H> PartitionDispatcher<T, H>
where
    H: FnMut(T) -> Option<(T, usize)>,
{
    /// Sorts the first `count` events into `incoming`.
    fn sort(&mut self, events: &mut VecDeque<T>, count: usize, deliveries: &mut Deliveries<T>) {
        let share = count / self.incoming.len();
        for incoming in &mut self.incoming {
            incoming.reserve(share + share / 4);
        }
        let (hash, incoming) = (&mut self.hash, &mut *self.incoming);
        let (partitions, mut discarded) = (incoming.len(), 0);
        // A slice is faster to walk than a deque, and this costs no copy.
        let mut list = Vec::from(std::mem::take(events));
        let mut first = list.drain(..count);
        // An event for which the function panics is gone; the loop goes on with the next.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
            for event in first.by_ref() {
                match hash(event) {
                    Some((event, place)) => match incoming.get_mut(place) {
                        Some(incoming) => incoming.push(event),
                        None => deliveries
                            .fail_events(1, || format!("expected a partition, one of 0..{partitions}, got {place}")),
                    },
                    None => discarded += 1,
                }
            }
        })) {
            deliveries.fail_events(1, || panicked("its partition function", &*panic));
        }
        drop(first);
        *events = list.into();
        deliveries.discard(discarded);
    }
}

impl<T, H> fmt::Debug for PartitionDispatcher<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<_> = self.partitions.iter().map(Partition::held).collect();
        f.debug_struct("PartitionDispatcher").field("names", &self.names).field("held", &held).finish_non_exhaustive()
    }
}

impl<T, H> Dispatcher<T> for PartitionDispatcher<T, H>
where
    T: Send,
    H: FnMut(T) -> Option<(T, usize)> + Send,
{
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        if self.places.contains_key(&id) {
            return Err(Refused::AlreadySubscribed);
        }
        let place = self.names.find(&interest)?;
        self.partitions[place].consumers.subscribe(id, Interest { partition: None, ..interest })?;
        self.places.insert(id, place);
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, deliveries: &mut Deliveries<T>) {
        if let Some(place) = self.places.get(&id) {
            let partition = &mut self.partitions[*place];
            partition.consumers.ask(id, demand, deliveries);
            partition.serve(deliveries);
            self.pass_markers(deliveries);
        }
    }

    fn cancel(&mut self, id: SubscriptionId, deliveries: &mut Deliveries<T>) {
        if let Some(place) = self.places.remove(&id) {
            let partition = &mut self.partitions[place];
            partition.consumers.cancel(id, deliveries);
            partition.serve(deliveries);
            self.pass_markers(deliveries);
        }
    }

    fn demand(&self) -> Demand {
        self.budget()
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        loop {
            let count = self.budget().as_len().min(events.len());
            if count == 0 {
                break;
            }
            self.sort(events, count, deliveries);
            for (partition, incoming) in self.partitions.iter_mut().zip(&mut self.incoming) {
                if !incoming.is_empty() {
                    partition.accept(incoming, attempt, (self.capacity, self.overflow), deliveries);
                }
            }
        }
        self.pass_markers(deliveries);
    }

    /// The partition of a subscriber; a lane without events if it is unknown.
    fn lane(&self, id: SubscriptionId) -> Lane {
        Lane(self.places.get(&id).copied().unwrap_or(self.partitions.len()))
    }

    fn give_back(&mut self, lane: Lane, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        match self.partitions.get_mut(lane.0) {
            Some(partition) => partition.give_back(events, attempt, deliveries),
            None => {
                deliveries.discard(events.len());
                events.clear();
            }
        }
        self.pass_markers(deliveries);
    }

    fn info(&mut self, marker: Marker, deliveries: &mut Deliveries<T>) {
        let holding = self.partitions.iter().enumerate().filter(|(_, partition)| partition.held() > 0);
        self.markers.push_back((marker, holding.map(|(place, partition)| (place, partition.end())).collect()));
        self.pass_markers(deliveries);
    }

    fn gathers_asks(&self) -> bool {
        true
    }

    fn held(&self) -> usize {
        self.partitions.iter().map(Partition::held).sum()
    }

    fn unattended(&self) -> Option<Unattended> {
        let mut attended = vec![false; self.partitions.len()];
        self.places.values().for_each(|place| attended[*place] = true);
        let unattended = self.partitions.iter().enumerate().filter(|(place, one)| !attended[*place] && one.held() > 0);
        // The first of those with the most.
        let (place, partition) = unattended.rev().max_by_key(|(_, partition)| partition.held())?;
        let is_full = self.overflow == Overflow::Block && partition.room(self.capacity).is_zero();
        let blocks = is_full && !self.wanted().is_zero();
        Some(Unattended { partition: self.names.name(place), events: partition.held(), blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decision;

    #[test]
    fn a_partition_without_a_consumer_is_named_with_what_it_holds() {
        let three = Partitions::named(["a", "b", "c"]).expect("three names");
        let mut dispatcher = PartitionDispatcher::by(three, |event: &usize| event % 3).capacity(2);
        let mut deliveries = Deliveries::new();
        let id = SubscriptionId::new();
        dispatcher.subscribe(id, Interest { selector: None, partition: Some("a".into()) }).expect("a new one");
        dispatcher.ask(id, Demand::new(10), &mut deliveries);
        assert_eq!(dispatcher.unattended(), None);
        dispatcher.dispatch(&mut [0, 1, 2].into(), Attempt::FIRST, &mut deliveries);
        let unattended =
            |partition: &str, events, blocks| Some(Unattended { partition: partition.into(), events, blocks });
        assert_eq!(dispatcher.unattended(), unattended("b", 1, false), "there is room for more");
        dispatcher.dispatch(&mut [5].into(), Attempt::FIRST, &mut deliveries);
        assert_eq!(dispatcher.unattended(), unattended("c", 2, true));
        let other = SubscriptionId::new();
        dispatcher.subscribe(other, Interest { selector: None, partition: Some("c".into()) }).expect("a new one");
        assert_eq!(dispatcher.unattended(), unattended("b", 1, false), "c has not asked, but it is there");
    }

    #[test]
    fn choosy_consumers_of_one_partition_and_a_queue_that_drops_what_blocks() {
        use std::sync::Arc;

        let one = Partitions::numbered(1).expect("at least one");
        let mut dispatcher = PartitionDispatcher::by(one, |_| 0).capacity(2).overflow(Overflow::Keep(Keep::Last));
        let mut deliveries = Deliveries::new();
        let [even, odd] = [0, 1].map(|rest| {
            let id = SubscriptionId::new();
            let selector: crate::Selector<u32> = Arc::new(move |event| event % 2 == rest);
            let interest = Interest { selector: Some(selector), partition: Some(0.into()) };
            dispatcher.subscribe(id, interest).expect("a new one");
            id
        });
        dispatcher.ask(even, Demand::new(3), &mut deliveries);
        dispatcher.dispatch(&mut [2, 3, 4].into(), Attempt::FIRST, &mut deliveries);
        assert_eq!((dispatcher.held(), dispatcher.demand()), (2, Demand::ZERO), "3 blocks");
        dispatcher.give_back(Lane(0), &mut [6].into(), Attempt::FIRST.next(), &mut deliveries);
        assert_eq!((dispatcher.held(), deliveries.take_counts()), (2, (0, 0)), "6 is older and was given out");
        dispatcher.ask(odd, Demand::new(1), &mut deliveries);
        assert_eq!(dispatcher.held(), 0);
        let given: Vec<_> = std::iter::from_fn(|| deliveries.pop())
            .map(|decision| match decision {
                Decision::Deliver(delivery) => (delivery.to, delivery.events.into_vec()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(given, [(even, vec![2]), (even, vec![6]), (even, vec![4]), (odd, vec![3])]);
    }
}
