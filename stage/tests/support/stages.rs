//! Stages that write down what happens to them.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{
    Attempt, Batch, Consumer, Cx, Edge, EndCause, Exit, Handle, Mode, Never, Producer, ProducerConsumer, Result,
};
use tokio::sync::Semaphore;

use super::log::{Log, Note};

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
