//! Ends of edges that a test plays by hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aqueduct_stage::{
    Attempt, ConsumerId, Demand, EndCause, Events, Exit, Interest, Publisher, Result, Source, SubscribeError,
    SubscribeOptions, Subscriber, Subscription, SubscriptionId,
};

use super::log::Log;

/// A producer that the test plays: it sends what it is told to, whether it was asked for or not.
#[derive(Clone)]
pub struct Far(Arc<FarState>, &'static str);

struct FarState {
    /// Why it cannot be subscribed to.
    refuses: Option<SubscribeError>,
    edges: Mutex<Vec<Edgewise>>,
    /// What was asked for in all, and how an edge was cancelled.
    heard: Log<Heard>,
}

#[derive(Clone)]
struct Edgewise {
    id: SubscriptionId,
    subscriber: Arc<dyn Subscriber<u64>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    UpTo(u64),
    Cancel(String),
}

impl Far {
    pub fn new() -> Self {
        Self::with(None)
    }

    pub fn refusing(error: SubscribeError) -> Self {
        Self::with(Some(error))
    }

    fn with(refuses: Option<SubscribeError>) -> Self {
        Self(Arc::new(FarState { refuses, edges: Mutex::default(), heard: Log::new() }), "far")
    }

    pub fn called(self, name: &'static str) -> Self {
        Self(self.0, name)
    }

    pub fn heard(&self) -> Log<Heard> {
        self.0.heard.clone()
    }

    /// What was asked for, each time, in all.
    pub fn asks(&self) -> Vec<u64> {
        let up_to = |heard| if let Heard::UpTo(up_to) = heard { Some(up_to) } else { None };
        self.0.heard.all().into_iter().filter_map(up_to).collect()
    }

    pub async fn asked(&self, up_to: u64) {
        self.0.heard.until(|heard| heard.contains(&Heard::UpTo(up_to))).await;
    }

    /// Sends to the subscriber that came last.
    pub fn deliver(&self, events: impl IntoIterator<Item = u64>) {
        let Edgewise { id, subscriber } = self.last();
        subscriber.deliver(id, events.into_iter().collect::<Vec<_>>().into(), Attempt::FIRST);
    }

    pub fn end(&self, cause: EndCause) {
        let Edgewise { id, subscriber } = self.last();
        subscriber.ended(id, cause);
    }

    fn last(&self) -> Edgewise {
        self.0.edges.lock().unwrap().last().expect("somebody has subscribed").clone()
    }
}

impl Source for Far {
    type Item = u64;

    fn name(&self) -> String {
        self.1.to_owned()
    }

    async fn open(&self, _: usize, subscription: Subscription<u64>) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
        if let Some(error) = &self.0.refuses {
            return Err(error.clone());
        }
        let Subscription { id, subscriber, .. } = subscription;
        self.0.edges.lock().unwrap().push(Edgewise { id, subscriber });
        Ok(Arc::clone(&self.0) as _)
    }
}

impl Publisher<u64> for FarState {
    fn ask(&self, _: SubscriptionId, up_to: Demand) {
        self.heard.push(Heard::UpTo(up_to.count()));
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.heard.push(Heard::Cancel(reason.to_string()));
        let edge = self.edges.lock().unwrap().iter().find(|edge| edge.id == id).cloned();
        if let Some(Edgewise { subscriber, .. }) = edge {
            subscriber.ended(id, EndCause::Cancelled(reason));
        }
    }
}

/// A consumer that the test plays.
pub struct Near {
    pub id: SubscriptionId,
    pub publisher: Arc<dyn Publisher<u64>>,
    pub signals: Log<Signal>,
    asked: AtomicUsize,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    Events(Vec<u64>),
    Ended(String),
}

/// Holds what a [`Near`] is told, for as long as its producer holds it.
pub struct Ear(pub Log<Signal>);

impl Subscriber<u64> for Ear {
    fn deliver(&self, _: SubscriptionId, events: Events<u64>, _: Attempt) {
        self.0.push(Signal::Events(events.into_vec()));
    }

    fn ended(&self, _: SubscriptionId, cause: EndCause) {
        self.0.push(Signal::Ended(cause.to_string()));
    }
}

impl Near {
    pub async fn subscribe<S: Source<Item = u64>>(source: &S) -> Self {
        Self::try_subscribe(source).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn try_subscribe<S: Source<Item = u64>>(source: &S) -> Result<Self, SubscribeError> {
        let signals = Log::new();
        Self::with_ear(source, &signals, Arc::new(Ear(signals.clone()))).await
    }

    pub async fn with_ear<S: Source<Item = u64>>(
        source: &S,
        signals: &Log<Signal>,
        ear: Arc<Ear>,
    ) -> Result<Self, SubscribeError> {
        let id = SubscriptionId::new();
        let subscription = Subscription {
            id,
            consumer: ConsumerId::new(),
            options: SubscribeOptions::default(),
            interest: Interest::ALL,
            subscriber: ear,
        };
        let publisher = source.open(0, subscription).await?;
        Ok(Self { id, publisher, signals: signals.clone(), asked: AtomicUsize::new(0) })
    }

    /// Asks for `more`.
    pub fn ask(&self, more: usize) {
        let before = self.asked.fetch_add(more, Ordering::SeqCst);
        self.publisher.ask(self.id, Demand::from(before + more));
    }

    pub fn cancel(&self) {
        self.publisher.cancel(self.id, Exit::Normal);
    }

    pub fn events(&self) -> Vec<u64> {
        events_of(&self.signals.all())
    }

    pub async fn events_reach(&self, count: usize) -> Vec<u64> {
        events_of(&self.signals.until(|signals| events_of(signals).len() >= count).await)
    }

    /// Waits for the end, and returns the cause.
    pub async fn ended(&self) -> String {
        let cause = |signal: &Signal| if let Signal::Ended(cause) = signal { Some(cause.clone()) } else { None };
        self.signals.until(|signals| signals.iter().any(|s| cause(s).is_some())).await.iter().find_map(cause).unwrap()
    }
}

fn events_of(signals: &[Signal]) -> Vec<u64> {
    let events = |signal: &Signal| if let Signal::Events(events) = signal { events.clone() } else { Vec::new() };
    signals.iter().flat_map(events).collect()
}
