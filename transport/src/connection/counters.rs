//! [`Counters`]: what a node counts while it runs, for its [snapshot](crate::NodeSnapshot).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct_stage::notices::Notices;

/// What a node counts; each is documented where it is [read](crate::NodeSnapshot).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections_in: Gauge,
    pub(crate) connections_out: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) links_published: Gauge,
    pub(crate) links_subscribed: Gauge,
    pub(crate) links_resumed: Counter,
    pub(crate) links_given_up: Counter,
    pub(crate) links_given_up_early: Counter,
    pub(crate) subscriptions_refused: Counter,
    pub(crate) offences: Counter,
    pub(crate) events_in: Counter,
    pub(crate) events_out: Counter,
    /// What is logged of what others do.
    pub(crate) notices: Notices,
}

/// How often something has happened.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Counts one for as long as the answer lives.
    pub(crate) fn enter(&self) -> Present {
        self.0.fetch_add(1, Ordering::Relaxed);
        Present(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
#[must_use = "it counts only while it lives"]
pub(crate) struct Present(Arc<AtomicU64>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_counts_what_is_there() {
        let gauge = Gauge::default();
        let (first, second) = (gauge.enter(), gauge.enter());
        drop(first);
        assert_eq!(gauge.count(), 1);
        drop(second);
        assert_eq!(gauge.count(), 0);
    }
}
