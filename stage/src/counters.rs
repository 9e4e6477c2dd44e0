//! [`Counters`]: what a stage has done so far, for whoever looks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

/// Written by the stage's driver alone, a few relaxed stores for each batch; read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events_in: Counter,
    pub(crate) events_out: Counter,
    pub(crate) discarded: Counter,
    /// Those of the discarded that found the buffer full.
    pub(crate) overflowed: Counter,
    pub(crate) failed: Counter,
    /// Events that wait for demand.
    pub(crate) buffered: Counter,
    /// Asked for by subscribers and not given yet.
    pub(crate) demand: Counter,
    /// Asked of producers and not handled yet.
    pub(crate) outstanding: Counter,
    pub(crate) idle_nanos: Counter,
    pub(crate) blocked_nanos: Counter,
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
    /// The stage waited since `start`, for demand or for events.
    pub(crate) fn waited(&self, start: Instant, is_blocked: bool) {
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if is_blocked { self.blocked_nanos.add(nanos) } else { self.idle_nanos.add(nanos) }
    }
}
