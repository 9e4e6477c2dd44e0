//! [`Counters`]: what a stage has done so far, for whoever looks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::notices::Notices;
use crate::waiting::Waits;

mod edges;

pub(crate) use edges::{EdgeCounters, Edges};

/// Written by the stage's driver alone, a few relaxed stores for each batch; read by anybody.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) started: Instant,
    pub(crate) edges: Edges,
    /// What it waits for.
    pub(crate) waits: Waits,
    pub(crate) events_in: Counter,
    pub(crate) events_out: Counter,
    pub(crate) discarded: Counter,
    /// Those of the discarded that found the buffer full.
    pub(crate) overflowed: Counter,
    pub(crate) failed: Counter,
    /// How many tasks of a supervisor were started again.
    pub(crate) restarted: Counter,
    /// Those of the failed that the dispatcher did not know where to send.
    pub(crate) undispatched: Counter,
    /// Why the first of them.
    pub(crate) undispatched_why: OnceLock<String>,
    /// Events that wait for demand.
    pub(crate) buffered: Counter,
    /// Asked for by subscribers and not given yet.
    pub(crate) demand: Counter,
    /// 1 if each event is given to all subscribers, at the pace of the slowest.
    pub(crate) gives_to_all: Counter,
    /// Asked of producers and not handled yet.
    pub(crate) outstanding: Counter,
    /// What its peers can cause to be logged.
    pub(crate) notices: Notices,
    idle_nanos: Counter,
    blocked_nanos: Counter,
    /// Since when it waits: 1 + nanoseconds from the start, all twice, and 1 more if it waits for demand; 0 if it does not.
    /// As if from the start, if that was not timed.
    waiting: Counter,
    /// From when on waits are timed, as somebody looks at them: 1 + nanoseconds from the start; 0 if nobody has. Two looks at
    /// the clock for each wait are a fifth of what it costs to pass a single event on. Written by the graph.
    timed: Counter,
}

/// One number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds, as the only writer.
    pub(crate) fn add(&self, more: u64) {
        self.set(self.get().saturating_add(more));
    }
}

impl Counters {
    /// Of a stage that starts now. `changed` is notified when somebody is missing, or not any more.
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self {
            started: Instant::now(),
            edges: Edges::default(),
            waits: Waits::new(changed),
            events_in: Counter::default(),
            events_out: Counter::default(),
            discarded: Counter::default(),
            overflowed: Counter::default(),
            failed: Counter::default(),
            restarted: Counter::default(),
            undispatched: Counter::default(),
            undispatched_why: OnceLock::new(),
            buffered: Counter::default(),
            demand: Counter::default(),
            gives_to_all: Counter::default(),
            outstanding: Counter::default(),
            notices: Notices::default(),
            idle_nanos: Counter::default(),
            blocked_nanos: Counter::default(),
            waiting: Counter::default(),
            timed: Counter::default(),
        }
    }

    /// Times waits from now on, if it does not yet.
    pub(crate) fn time(&self, now: Instant) {
        if self.timed_from().is_none() {
            self.timed.set(self.nanos(now) + 1);
        }
    }

    fn timed_from(&self) -> Option<u64> {
        self.timed.get().checked_sub(1)
    }

    /// The stage begins to wait: for demand, or for events.
    pub(crate) fn wait(&self, is_blocked: bool) -> Waiting {
        let since = self.timed_from().map_or(0, |_| self.nanos(Instant::now()));
        self.waiting.set((since + 1) * 2 + u64::from(is_blocked));
        Waiting { since, is_blocked }
    }

    /// It waits no longer.
    pub(crate) fn waited(&self, Waiting { since, is_blocked }: Waiting) {
        self.waiting.set(0);
        let Some(from) = self.timed_from() else { return };
        let nanos = self.nanos(Instant::now()).saturating_sub(since.max(from));
        if is_blocked { self.blocked_nanos.add(nanos) } else { self.idle_nanos.add(nanos) }
    }

    /// Whether it waits at this moment.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    /// How long it has waited for events and for demand, from when on it is [timed](Self::time) up to `until`.
    pub(crate) fn idle_and_blocked(&self, until: Instant) -> (Duration, Duration) {
        let from = self.timed_from().unwrap_or(u64::MAX);
        let (mut idle, mut blocked) = (self.idle_nanos.get(), self.blocked_nanos.get());
        let waiting = self.waiting.get();
        if waiting > 0 {
            let nanos = self.nanos(until).saturating_sub(from.max(waiting / 2 - 1));
            if waiting % 2 == 1 { blocked += nanos } else { idle += nanos }
        }
        (Duration::from_nanos(idle), Duration::from_nanos(blocked))
    }

    fn nanos(&self, at: Instant) -> u64 {
        // Enough for 292 years, as it is doubled; and without arithmetic in 128 bits.
        let since = at.saturating_duration_since(self.started);
        since.as_secs().min(u64::MAX / 4 / NANOS) * NANOS + u64::from(since.subsec_nanos())
    }
}

/// A wait that has begun.
pub(crate) struct Waiting {
    /// In nanoseconds from the start.
    since: u64,
    is_blocked: bool,
}

const NANOS: u64 = 1_000_000_000;
