//! Both ends of an edge under watch: what is asked for, sent and received goes into the run's ledger.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_sim::{Edge, SimNet};
use aqueduct_stage::{
    Attempt, Demand, EndCause, Events, Exit, Publisher, Result, Source, SubscribeError, Subscriber, Subscription,
    SubscriptionId,
};
use tokio::sync::watch;

use crate::stages::{Event, Sizes, event};

/// What both ends of an edge have seen.
pub(crate) struct Watched {
    pub(crate) net: SimNet,
    pub(crate) edge: Edge,
    sizes: Sizes,
    book: Mutex<Book>,
    received: watch::Sender<usize>,
    is_made: watch::Sender<bool>,
    is_held: watch::Sender<bool>,
}

#[derive(Default)]
pub(crate) struct Book {
    /// The events that were sent, and the place of each in their order.
    pub(crate) sent: BTreeMap<u64, u64>,
    pub(crate) received: Vec<u64>,
    /// Those that came as another attempt than the first.
    pub(crate) again: BTreeSet<u64>,
    pub(crate) is_exhausted: bool,
}

impl Watched {
    pub(crate) fn new(net: &SimNet, edge: Edge, sizes: Sizes) -> Self {
        let (book, received, is_made, is_held) = Default::default();
        Self { net: net.clone(), edge, sizes, book, received, is_made, is_held }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the consumer has got `count` events.
    pub(crate) async fn until(&self, count: usize) {
        let enough = self.received.subscribe().wait_for(|received| *received >= count).await.map(drop);
        enough.expect("the sender is here");
    }

    /// Waits until the producer has a subscriber here.
    pub(crate) async fn made(&self) {
        let made = self.is_made.subscribe().wait_for(|made| *made).await.map(drop);
        made.expect("the sender is here");
    }

    /// From now on, its consumer handles nothing, or goes on.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }

    /// Waits for as long as it is held.
    pub(crate) async fn let_go(&self) {
        let free = self.is_held.subscribe().wait_for(|held| !*held).await.map(drop);
        free.expect("the sender is here");
    }

    /// Whether a long event has been sent and has not arrived.
    pub(crate) fn is_long_one_under_way(&self) -> bool {
        let book = self.book();
        let under_way = |number: &u64| !book.received.contains(number);
        let is_long = |number: u64| event(&self.net, self.sizes, number).1.len() == self.sizes.long_bytes;
        book.sent.keys().copied().filter(under_way).any(is_long)
    }

    pub(crate) fn sent(&self, events: &[Event]) {
        self.net.sent(self.edge, events.len() as u64);
        let mut book = self.book();
        for (number, _) in events {
            let place = book.sent.len() as u64;
            book.sent.insert(*number, place);
        }
    }

    pub(crate) fn received(&self, events: &[Event], attempt: Attempt) {
        if attempt > Attempt::FIRST {
            self.book().again.extend(events.iter().map(|(number, _)| *number));
        }
        for received in events {
            let place = self.book().sent.get(&received.0).copied();
            match place {
                Some(place) if *received == event(&self.net, self.sizes, received.0) => {
                    self.net.received(self.edge, place);
                }
                _ => self.net.fail(format_args!("{}: event {} is not what was sent", self.edge, received.0)),
            }
            self.book().received.push(received.0);
        }
        self.received.send_modify(|count| *count += events.len());
    }

    pub(crate) fn ended(&self, cause: &EndCause) {
        self.net.note(&format!("{} ended", self.edge), cause.to_string().as_bytes());
        let under_way = self.net.ledger().under_way(self.edge);
        if cause.is_exhausted() {
            self.book().is_exhausted = true;
            if under_way > 0 {
                self.net.fail(format_args!("{}: the end came before {under_way} events", self.edge));
            }
        }
    }
}

/// A source whose edge is watched, at one of its ends.
#[derive(Clone)]
pub(crate) struct Watch<S> {
    pub(crate) source: S,
    pub(crate) edge: Arc<Watched>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// The producer's.
    There,
    /// The consumer's.
    Here,
}

impl<S: Source<Item = Event>> Source for Watch<S> {
    type Item = Event;

    fn name(&self) -> String {
        self.source.name()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Event>,
    ) -> Result<Arc<dyn Publisher<Event>>, SubscribeError> {
        let (edge, end) = (Arc::clone(&self.edge), self.end);
        let subscriber = Arc::clone(&subscription.subscriber);
        let tap = Tap { subscriber, edge: Arc::clone(&edge), end, is_over: AtomicBool::new(false) };
        let publisher = self.source.open(instance, Subscription { subscriber: Arc::new(tap), ..subscription }).await?;
        if end == End::There {
            edge.is_made.send_replace(true);
        }
        Ok(Arc::new(Asks { publisher, edge, end }))
    }
}

/// Listens to what comes down the edge.
pub(crate) struct Tap {
    pub(crate) subscriber: Arc<dyn Subscriber<Event>>,
    pub(crate) edge: Arc<Watched>,
    pub(crate) end: End,
    pub(crate) is_over: AtomicBool,
}

impl Tap {
    pub(crate) fn must_go_on(&self) {
        if self.is_over.load(Ordering::Relaxed) {
            self.edge.net.fail(format_args!("{}: something came after the end", self.edge.edge));
        }
    }
}

impl Subscriber<Event> for Tap {
    fn deliver(&self, id: SubscriptionId, events: Events<Event>, attempt: Attempt) {
        self.must_go_on();
        match self.end {
            End::There => self.edge.sent(&events),
            End::Here => self.edge.received(&events, attempt),
        }
        self.subscriber.deliver(id, events, attempt);
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        self.must_go_on();
        self.is_over.store(true, Ordering::Relaxed);
        if self.end == End::Here {
            self.edge.ended(&cause);
        }
        self.subscriber.ended(id, cause);
    }
}

/// Listens to what goes up the edge.
pub(crate) struct Asks {
    pub(crate) publisher: Arc<dyn Publisher<Event>>,
    pub(crate) edge: Arc<Watched>,
    pub(crate) end: End,
}

impl Publisher<Event> for Asks {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        if self.end == End::Here {
            self.edge.net.asked(self.edge.edge, up_to.count());
        }
        self.publisher.ask(id, up_to);
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        self.publisher.handled(id, up_to);
    }

    fn holds_back(&self, id: SubscriptionId) -> bool {
        self.publisher.holds_back(id)
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.publisher.cancel(id, reason);
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<Event>, Attempt)>) {
        self.publisher.leave(id, cause, unfinished);
    }
}
