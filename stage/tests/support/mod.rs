//! Stages that write down what happens to them, and ends of edges that a test plays by hand.

#![allow(dead_code, unreachable_pub, reason = "not every test file uses all of it")]

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Attempt, Batch, BoxFuture, Consumer, ConsumerId, Cx, Demand, Edge, EndCause, Events, Exit, Failure, FailureKind,
    Handle, Interest, Mode, Never, Peer, Producer, ProducerConsumer, Publisher, Result, Source, Spawner,
    SubscribeError, SubscribeOptions, Subscriber, Subscription, SubscriptionId, TokioSpawner,
};
use tokio::sync::{Semaphore, watch};

/// How long a test waits for something that must come. On a paused clock it passes at once when nothing moves.
const PATIENCE: Duration = Duration::from_secs(1_000);

/// Lets everything happen that can: on a paused clock, time moves only when every task waits.
pub async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What stages write down, in the order in which it happened.
pub struct Log<T = Note>(Arc<watch::Sender<Vec<T>>>);

impl<T: Clone + fmt::Debug> Log<T> {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    pub fn push(&self, entry: T) {
        self.0.send_modify(|entries| entries.push(entry));
    }

    pub fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    pub fn clear(&self) {
        self.0.send_modify(Vec::clear);
    }

    /// Waits until it is so.
    pub async fn until(&self, reached: impl FnMut(&Vec<T>) -> bool) -> Vec<T> {
        let mut entries = self.0.subscribe();
        let waited = tokio::time::timeout(PATIENCE, entries.wait_for(reached)).await;
        match waited {
            Ok(Ok(entries)) => entries.clone(),
            _ => panic!("waited in vain; so far: {:?}", self.all()),
        }
    }
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What can happen to a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// `handle_demand`.
    Asked(usize),
    /// `handle_events`, and the number of the attempt.
    Events(Vec<u64>, u32),
    /// `handle_subscribe`.
    Subscribed(SubscriptionId, Peer),
    /// `handle_cancel`, and the cause.
    Cancelled(SubscriptionId, String),
    /// `handle_discarded`.
    Discarded(usize),
    /// A message.
    Said(&'static str),
    /// `handle_end`.
    End,
    /// `terminate`.
    Terminated(String),
}

impl Log {
    pub fn asked(&self) -> Vec<usize> {
        let asked = |note| if let Note::Asked(demand) = note { Some(demand) } else { None };
        self.all().into_iter().filter_map(asked).collect()
    }

    pub fn batches(&self) -> Vec<Vec<u64>> {
        batches(&self.all())
    }

    pub fn events(&self) -> Vec<u64> {
        self.batches().concat()
    }

    /// Waits for so many batches, and returns them.
    pub async fn batches_reach(&self, count: usize) -> Vec<Vec<u64>> {
        let mut all = batches(&self.until(|notes| batches(notes).len() >= count).await);
        all.truncate(count);
        all
    }

    /// Waits for so many events, and returns all there are.
    pub async fn events_reach(&self, count: usize) -> Vec<u64> {
        let length = |note: &Note| if let Note::Events(events, _) = note { events.len() } else { 0 };
        batches(&self.until(|notes| notes.iter().map(length).sum::<usize>() >= count).await).concat()
    }

    /// Waits for a note.
    pub async fn has(&self, wanted: &Note) {
        self.until(|notes| notes.contains(wanted)).await;
    }

    /// Waits for the end of a subscription, and returns the cause.
    pub async fn cancelled(&self) -> String {
        let cause = |note: &Note| if let Note::Cancelled(_, cause) = note { Some(cause.clone()) } else { None };
        self.until(|notes| notes.iter().any(|note| cause(note).is_some())).await.iter().find_map(cause).unwrap()
    }

    /// The subscriptions that were made, on whichever side.
    pub fn subscribed(&self) -> Vec<SubscriptionId> {
        let id = |note| if let Note::Subscribed(id, _) = note { Some(id) } else { None };
        self.all().into_iter().filter_map(id).collect()
    }

    /// Waits for a subscription, and returns it.
    pub async fn first_subscribed(&self) -> SubscriptionId {
        self.until(|notes| notes.iter().any(|note| matches!(note, Note::Subscribed(..)))).await;
        self.subscribed()[0]
    }
}

fn batches(notes: &[Note]) -> Vec<Vec<u64>> {
    let events = |note: &Note| if let Note::Events(events, _) = note { Some(events.clone()) } else { None };
    notes.iter().filter_map(events).collect()
}

/// A failure with a name to recognise it by.
pub fn oops() -> Exit {
    Exit::Failed(Failure::new("test", FailureKind::Error, "oops"))
}

/// Does something within a stage.
pub struct With<O>(What<O>);

type What<O> = Box<dyn FnOnce(&mut Cx<'_, O>) + Send>;

pub fn with<O>(what: impl FnOnce(&mut Cx<'_, O>) + Send + 'static) -> With<O> {
    With(Box::new(what))
}

/// Emits these.
pub fn emit(events: impl IntoIterator<Item = u64>) -> With<u64> {
    let events: Vec<u64> = events.into_iter().collect();
    with(move |cx| cx.emit_all(events))
}

/// Is written down.
pub struct Say(pub &'static str);

/// A door that a callback waits at. Closed at first.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets `count` through.
    pub fn open(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Goes through, if nobody else has.
    pub fn try_pass(&self) {
        self.0.try_acquire().expect("somebody is inside").forget();
    }

    pub async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

macro_rules! takes_messages {
    ($stage:ident, $out:ty) => {
        impl Handle<With<$out>, $out> for $stage {
            type Reply = ();
            async fn handle(&mut self, With(what): With<$out>, cx: &mut Cx<'_, $out>) -> Result {
                what(cx);
                Ok(())
            }
        }

        impl Handle<Say, $out> for $stage {
            type Reply = &'static str;
            async fn handle(&mut self, Say(text): Say, _: &mut Cx<'_, $out>) -> Result<&'static str> {
                self.log.push(Note::Said(text));
                Ok(text)
            }
        }
    };
}

macro_rules! notes_cancel_and_terminate {
    ($out:ty) => {
        async fn handle_cancel(&mut self, edge: &Edge, cause: &EndCause, _: &mut Cx<'_, $out>) -> Result {
            self.log.push(Note::Cancelled(edge.id, cause.to_string()));
            Ok(())
        }

        async fn terminate(&mut self, exit: &Exit) {
            self.log.push(Note::Terminated(exit.to_string()));
        }
    };
}

/// Emits consecutive numbers, exactly as many as it is asked for; ends when they are exhausted.
#[derive(Clone)]
pub struct Numbers {
    pub next: u64,
    pub end: u64,
    pub log: Log,
    /// Whether the standard line is logged for discarded events.
    pub reports: bool,
    /// Emits nothing by itself.
    pub idle: bool,
}

/// From 0, without end.
pub fn endless(log: &Log) -> impl Fn() -> Numbers + use<> {
    count(u64::MAX, log)
}

/// From 0, so many.
pub fn count(end: u64, log: &Log) -> impl Fn() -> Numbers + use<> {
    let log = log.clone();
    move || Numbers { next: 0, end, log: log.clone(), reports: true, idle: false }
}

/// Emits only what it is told to.
pub fn idle(log: &Log) -> impl Fn() -> Numbers + use<> {
    let make = endless(log);
    move || Numbers { idle: true, ..make() }
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        self.log.push(Note::Asked(demand));
        if !self.idle {
            let to = self.end.min(self.next.saturating_add(demand as u64));
            cx.emit_all(self.next..to);
            self.next = to;
            if to == self.end {
                cx.stop(Exit::Normal);
            }
        }
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, _: &mut Cx<'_, u64>) -> Result {
        self.log.push(Note::Subscribed(edge.id, edge.peer));
        Ok(())
    }

    fn handle_discarded(&mut self, events: usize) -> bool {
        self.log.push(Note::Discarded(events));
        self.reports
    }

    notes_cancel_and_terminate!(u64);
}

takes_messages!(Numbers, u64);

/// Passes on what it gets, each event `copies` times.
#[derive(Clone)]
pub struct Relay {
    pub log: Log,
    pub copies: usize,
}

pub fn relay(log: &Log) -> impl Fn() -> Relay + use<> {
    let log = log.clone();
    move || Relay { log: log.clone(), copies: 1 }
}

impl ProducerConsumer for Relay {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        self.log.push(Note::Events(events.to_vec(), events.attempt().number()));
        for event in &events {
            cx.emit_all(std::iter::repeat_n(*event, self.copies));
        }
        Ok(())
    }

    async fn handle_end(&mut self, _: &mut Cx<'_, u64>) -> Result {
        self.log.push(Note::End);
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, _: &mut Cx<'_, u64>) -> Result<Mode> {
        self.log.push(Note::Subscribed(edge.id, edge.peer));
        Ok(Mode::Automatic)
    }

    notes_cancel_and_terminate!(u64);
}

takes_messages!(Relay, u64);

/// Writes down what it gets.
#[derive(Clone)]
pub struct Sink {
    pub log: Log,
    pub mode: Mode,
    /// How long it takes for a batch.
    pub takes: Duration,
    /// Where it waits with each batch, once it is written down.
    pub gate: Option<Gate>,
    /// Panics when it is given this event for the first time.
    pub poison: Option<u64>,
}

pub fn sink(log: &Log) -> impl Fn() -> Sink + use<> {
    sink_with(log, |_| {})
}

pub fn sink_with(log: &Log, change: impl FnOnce(&mut Sink)) -> Box<dyn Fn() -> Sink + Send + Sync> {
    let (log, mode, takes) = (log.clone(), Mode::Automatic, Duration::ZERO);
    let mut sink = Sink { log, mode, takes, gate: None, poison: None };
    change(&mut sink);
    Box::new(move || sink.clone())
}

impl Consumer for Sink {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        let first = events.attempt() == Attempt::FIRST;
        if first && self.poison.is_some_and(|poison| events.contains(&poison)) {
            panic!("poisoned");
        }
        self.log.push(Note::Events(events.to_vec(), events.attempt().number()));
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        Ok(())
    }

    async fn handle_end(&mut self, _: &mut Cx<'_>) -> Result {
        self.log.push(Note::End);
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, _: &mut Cx<'_>) -> Result<Mode> {
        self.log.push(Note::Subscribed(edge.id, edge.peer));
        Ok(self.mode)
    }

    notes_cancel_and_terminate!(Never);
}

takes_messages!(Sink, Never);

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

/// Counts the tasks that are alive.
#[derive(Clone, Default)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub fn alive(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Spawner for Counted {
    fn spawn(&self, name: &str, task: BoxFuture<'static>) {
        struct Alive(Arc<AtomicUsize>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(Arc::clone(&self.0));
        TokioSpawner.spawn(
            name,
            Box::pin(async move {
                task.await;
                drop(alive);
            }),
        );
    }
}

/// Collects what is logged as a warning or worse on this thread.
pub struct Warnings {
    lines: Arc<Mutex<Vec<String>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Warnings {
    pub fn collect() -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let guard = tracing::subscriber::set_default(Collector(Arc::clone(&lines)));
        Self { lines, _guard: guard }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

struct Collector(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                write!(self.0, "{field}={value:?} ").unwrap();
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
