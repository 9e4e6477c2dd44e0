//! [`BroadcastDispatcher`]: every event to every subscriber.

use std::collections::VecDeque;
use std::fmt;

use crate::bugs::bug;
use crate::dispatcher::take_front;
use crate::subscribers::accepts;
use crate::{Attempt, Deliveries, Demand, Dispatcher, Events, Interest, Lane, Refused, Selector, SubscriptionId};

/// Gives every event to every subscriber, at the pace of the slowest: GenStage's `BroadcastDispatcher`.
///
/// An event is taken when *each* subscriber has demand for it. With demands of 3 and 2, two events go to both, and the
/// first keeps a demand of 1 that counts as soon as the second asks again. A batch is shared, not copied
/// ([`Events`]); a subscriber whose [selector](Interest::selector) refuses some of it gets clones of the others.
///
/// ```
/// use aqueduct_dispatcher::*;
/// use std::sync::Arc;
///
/// let mut dispatcher = BroadcastDispatcher::new();
/// let mut deliveries = Deliveries::new();
/// let (all, even) = (SubscriptionId::new(), SubscriptionId::new());
/// dispatcher.subscribe(all, Interest::ALL)?;
/// dispatcher.ask(all, Demand::new(5), &mut deliveries);
/// assert_eq!(dispatcher.demand(), Demand::new(5));
/// let only_even = Interest { selector: Some(Arc::new(|event: &u32| event % 2 == 0)), partition: None };
/// dispatcher.subscribe(even, only_even)?;
/// assert_eq!(dispatcher.demand(), Demand::ZERO); // nothing flows before the newcomer asks
/// dispatcher.ask(even, Demand::new(2), &mut deliveries);
/// assert_eq!(dispatcher.demand(), Demand::new(2)); // two at least; more if it refuses some
///
/// let mut events = (1..=6).collect();
/// dispatcher.dispatch(&mut events, Attempt::FIRST, &mut deliveries);
/// let mut given = std::iter::from_fn(|| match deliveries.pop()? {
///     Decision::Deliver(delivery) => Some((delivery.to, delivery.events.into_vec())),
///     _ => None,
/// });
/// assert_eq!(given.next(), Some((all, vec![1, 2, 3, 4])));
/// assert_eq!(given.next(), Some((even, vec![2, 4]))); // its demand is used up: the rest waits for it
/// assert_eq!(events, [5, 6]);
/// # Ok::<(), Refused>(())
/// ```
///
/// * **Guaranteed:** a subscriber gets exactly the events that its selector accepts of all that were dispatched since
///   it came, each once and in order. How events are cut into batches makes no difference to who gets what.
/// * **A slow subscriber** slows everybody; one that never asks stops everybody until it asks or leaves.
/// * **A leaving subscriber** lets the others go on at the pace of the slowest of them. What it did not finish is not
///   wanted by anybody else: given back, it is discarded and counted.
/// * **A new subscriber** misses what went before. Nothing flows until it asks; what the others have asked for stays.
/// * **A refused event** costs no demand, so the producer is asked for another in its place. One that everybody refuses
///   is discarded and counted.
/// * **A selector that panics** ends its subscription, from the beginning of the batch on; the others get the batch.
///
/// In GenStage a subscriber whose selector refuses a whole batch gets an empty message, a selector that raises kills
/// the producer, and a batch ends where the slowest demand would end if nothing were refused. Here there are no empty
/// batches, and a batch goes on until somebody's demand is really used up.
#[derive(Debug)]
pub struct BroadcastDispatcher<T> {
    /// In the order in which they came.
    subscribers: Vec<Subscriber<T>>,
}

struct Subscriber<T> {
    id: SubscriptionId,
    demand: Demand,
    selector: Option<Selector<T>>,
}

/// What one subscriber takes of a batch.
enum Share {
    All,
    /// The places of the events, ascending.
    Some(Vec<usize>),
}

/// A selector that panicked: the place of its subscriber, and why.
struct Failure(usize, String);

impl<T> BroadcastDispatcher<T> {
    /// A dispatcher without subscribers.
    pub const fn new() -> Self {
        Self { subscribers: Vec::new() }
    }

    /// How many of `events` everybody has demand for, and what each takes of them.
    fn plan(&self, events: &VecDeque<T>) -> Result<(usize, Vec<Share>), Failure> {
        let slowest = self.slowest().as_len();
        if slowest == 0 {
            return Ok((0, Vec::new()));
        }
        let unfiltered = self.subscribers.iter().filter(|subscriber| subscriber.selector.is_none());
        let mut count = unfiltered.map(|subscriber| subscriber.demand.as_len()).fold(events.len(), usize::min);
        let mut shares = Vec::with_capacity(self.subscribers.len());
        for (at, subscriber) in self.subscribers.iter().enumerate() {
            shares.push(match subscriber.selector {
                None => Share::All,
                Some(_) => Share::Some(subscriber.select(events, &mut count).map_err(|why| Failure(at, why))?),
            });
        }
        for share in &mut shares {
            if let Share::Some(places) = share {
                places.truncate(places.partition_point(|place| *place < count));
                if places.len() == count {
                    *share = Share::All;
                }
            }
        }
        Ok((count, shares))
    }

    /// The demand of the slowest; none if there is nobody.
    fn slowest(&self) -> Demand {
        let demands = self.subscribers.iter().map(|subscriber| subscriber.demand);
        demands.filter(|demand| !demand.is_zero() || !bug!(SlowestLeftOut)).min().unwrap_or_default()
    }
}

impl<T> Subscriber<T> {
    /// The places of the first `count` events that it accepts, as far as its demand reaches; `count` then ends there.
    fn select(&self, events: &VecDeque<T>, count: &mut usize) -> Result<Vec<usize>, String> {
        let mut places = Vec::new();
        for (place, event) in events.iter().take(*count).enumerate() {
            if accepts(self.selector.as_ref(), event)? {
                places.push(place);
                if places.len() == self.demand.as_len() {
                    *count = place + 1;
                    break;
                }
            }
        }
        Ok(places)
    }
}

impl<T> Default for BroadcastDispatcher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.demand)
    }
}

impl<T: Clone + Send + Sync + 'static> Dispatcher<T> for BroadcastDispatcher<T> {
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        if let Some(got) = interest.partition {
            return Err(Refused::NotPartitioned { got });
        }
        if self.subscribers.iter().any(|subscriber| subscriber.id == id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.subscribers.push(Subscriber { id, demand: Demand::ZERO, selector: interest.selector });
        Ok(())
    }

    fn takes_a_consumer_once(&self) -> bool {
        true
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        if let Some(subscriber) = self.subscribers.iter_mut().find(|subscriber| subscriber.id == id) {
            subscriber.demand.add(demand);
        }
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        self.subscribers.retain(|subscriber| subscriber.id != id);
    }

    fn demand(&self) -> Demand {
        self.slowest()
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        if self.subscribers.iter().any(|subscriber| subscriber.selector.is_some()) {
            self.dispatch_selected(events, attempt, deliveries);
        } else {
            self.dispatch_whole(events, attempt, deliveries);
        }
    }

    /// Discards them: who was given them was one of many, and nobody else lacks them.
    fn give_back(&mut self, _: Lane, events: &mut VecDeque<T>, _: Attempt, deliveries: &mut Deliveries<T>) {
        deliveries.discard(events.len());
        events.clear();
    }
}

impl<T: Clone + Send + Sync + 'static> BroadcastDispatcher<T> {
    /// The same batch to each.
    fn dispatch_whole(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let count = self.slowest().as_len().min(events.len());
        if count == 0 {
            return;
        }
        let batch = take_front(events, count);
        self.subscribers.iter_mut().for_each(|subscriber| _ = subscriber.demand.take(Demand::from(count)));
        let Some((last, others)) = self.subscribers.split_last() else { return };
        if others.is_empty() {
            return deliveries.give_events(last.id, batch, attempt);
        }
        let batch = Events::share(batch);
        for other in others {
            deliveries.give_events(other.id, batch.another().expect("it was shared just now"), attempt);
        }
        deliveries.give_events(last.id, batch, attempt);
    }

    /// To each what its selector accepts.
    fn dispatch_selected(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let (count, shares) = loop {
            match self.plan(events) {
                Ok(plan) => break plan,
                Err(Failure(at, why)) => deliveries.fail(self.subscribers.remove(at).id, why),
            }
        };
        if count == 0 {
            return;
        }
        let batch = take_front(events, count);
        if !shares.iter().any(|share| matches!(share, Share::All)) {
            deliveries.discard(refused_by_all(count, &shares));
        }
        if let ([only], [Share::All]) = (&mut *self.subscribers, &*shares) {
            only.demand.take(Demand::from(count));
            return deliveries.give_events(only.id, batch, attempt);
        }
        let batch = Events::share(batch);
        for (subscriber, share) in self.subscribers.iter_mut().zip(&shares) {
            let taken = match share {
                Share::All => batch.another().expect("it was shared just now"),
                Share::Some(places) if places.is_empty() => continue,
                Share::Some(places) => places.iter().map(|place| batch[*place].clone()).collect::<Vec<_>>().into(),
            };
            subscriber.demand.take(Demand::from(taken.len()));
            deliveries.give_events(subscriber.id, taken, attempt);
        }
    }
}

/// How many of `count` events are in no share.
fn refused_by_all(count: usize, shares: &[Share]) -> usize {
    let mut wanted = vec![false; count];
    for share in shares {
        if let Share::Some(places) = share {
            places.iter().for_each(|place| wanted[*place] = true);
        }
    }
    wanted.iter().filter(|wanted| !**wanted).count()
}
