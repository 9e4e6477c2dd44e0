//! [`EdgeCounters`]: what has passed over each subscription of a stage so far, for whoever looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::SubscriptionId;

use crate::by_id::ById;
use crate::counters::Counter;

/// One end of an edge. Written by the stage's driver alone; both counts are cumulative.
#[derive(Debug, Default)]
pub(crate) struct EdgeCounters {
    pub(crate) asked: Counter,
    /// Given by a producer; handled by a consumer.
    pub(crate) passed: Counter,
}

/// The ends of edges that a stage holds now.
#[derive(Debug, Default)]
pub(crate) struct Edges(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// With the names of the producers.
    to_producers: ById<(Arc<str>, Arc<EdgeCounters>)>,
    to_consumers: ById<Arc<EdgeCounters>>,
}

/// An end of an edge, as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) asked: u64,
    pub(crate) passed: u64,
}

impl Edges {
    /// The stage subscribes to a producer.
    pub(crate) fn to_producer(&self, id: SubscriptionId, name: Arc<str>) -> Arc<EdgeCounters> {
        let edge = Arc::new(EdgeCounters::default());
        self.lock().to_producers.insert(id, (name, Arc::clone(&edge)));
        edge
    }

    /// A consumer subscribes to the stage.
    pub(crate) fn to_consumer(&self, id: SubscriptionId) -> Arc<EdgeCounters> {
        let edge = Arc::new(EdgeCounters::default());
        self.lock().to_consumers.insert(id, Arc::clone(&edge));
        edge
    }

    /// The edge has ended.
    pub(crate) fn remove(&self, id: SubscriptionId) {
        let mut state = self.lock();
        state.to_producers.remove(id);
        state.to_consumers.remove(id);
    }

    pub(crate) fn clear(&self) {
        *self.lock() = State::default();
    }

    /// What has come from each producer.
    pub(crate) fn producers(&self) -> Vec<(SubscriptionId, Arc<str>, Counted)> {
        let state = self.lock();
        state.to_producers.iter().map(|(id, (name, edge))| (id, Arc::clone(name), edge.read())).collect()
    }

    /// What has gone to each consumer.
    pub(crate) fn consumers(&self) -> Vec<(SubscriptionId, Counted)> {
        self.lock().to_consumers.iter().map(|(id, edge)| (id, edge.read())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EdgeCounters {
    fn read(&self) -> Counted {
        // What has passed was asked for before.
        let passed = self.passed.get();
        Counted { asked: self.asked.get(), passed }
    }
}
