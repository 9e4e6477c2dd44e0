//! [`EdgeCounters`]: what has passed over each subscription of a stage so far, for whoever looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::SubscriptionId;

use crate::by_id::ById;
use crate::counters::Counter;

/// One end of an edge. Written by the stage's driver alone; both counts are cumulative.
#[derive(Debug, Default)]
pub(crate) struct EdgeCounters {
    pub(crate) asked: Counter,
    /// The most that may be on its way now; 0 at a producer's end.
    pub(crate) window: Counter,
    /// Given by a producer; handled by a consumer.
    pub(crate) passed: Counter,
    /// 1 once the other end has left, while what it sent before is still to be handled.
    pub(crate) left: Counter,
    /// Of what was given to a consumer, how much it has handled, if it says so and what it does not handle could be given to
    /// another one; [`NOT_SHARED`] otherwise.
    handled: Counter,
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
    pub(crate) window: u64,
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
        edge.handled.set(NOT_SHARED);
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

    /// The subscriptions whose other end is still there, on whichever side.
    pub(crate) fn ids(&self) -> Vec<SubscriptionId> {
        let state = self.lock();
        let there = state.to_producers.iter().filter(|(_, (_, edge))| edge.left.get() == 0);
        let ids = there.map(|(id, _)| id);
        ids.chain(state.to_consumers.iter().map(|(id, _)| id)).collect()
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

    /// Whether a consumer has been given all that it asked for, and another one has not.
    pub(crate) fn is_used_up_alone(&self, id: SubscriptionId) -> bool {
        let is_used_up = |edge: &EdgeCounters| {
            let Counted { asked, passed, .. } = edge.read();
            passed >= asked
        };
        let state = self.lock();
        let mut others = state.to_consumers.iter().filter(|(other, _)| *other != id);
        state.to_consumers.get(id).is_some_and(|edge| is_used_up(edge)) && others.any(|(_, edge)| !is_used_up(edge))
    }

    /// Whether a consumer has events that it has not handled, and another one could have them.
    pub(crate) fn has_what_others_could(&self, id: SubscriptionId) -> bool {
        let state = self.lock();
        let is_shared = |edge: &EdgeCounters| edge.handled.get() != NOT_SHARED;
        let mut others = state.to_consumers.iter().filter(|(other, _)| *other != id);
        // What is not shared has handled more than it was given.
        state.to_consumers.get(id).is_some_and(|edge| edge.handled.get() < edge.passed.get())
            && others.any(|(_, edge)| is_shared(edge))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EdgeCounters {
    /// The consumer has handled so much in all, and others could have the rest.
    pub(crate) fn shares(&self, handled: u64) {
        let before = self.handled.get();
        self.handled.set(if before == NOT_SHARED { handled } else { before.max(handled) });
    }

    fn read(&self) -> Counted {
        // What has passed was asked for before.
        let passed = self.passed.get();
        Counted { asked: self.asked.get(), passed, window: self.window.get() }
    }
}

const NOT_SHARED: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_consumer_has_not_handled_others_could_have_only_if_they_share_it() {
        let edges = Edges::default();
        let (one, other) = (SubscriptionId::new(), SubscriptionId::new());
        let of_one = edges.to_consumer(one);
        of_one.shares(0);
        assert!(!edges.has_what_others_could(one), "it has nothing");
        of_one.passed.set(5);
        assert!(!edges.has_what_others_could(one), "there is nobody else");
        let of_other = edges.to_consumer(other);
        assert!(!edges.has_what_others_could(one), "the other one does not share");
        of_other.shares(0);
        assert!(edges.has_what_others_could(one) && !edges.has_what_others_could(other));
        of_one.shares(5);
        assert!(!edges.has_what_others_could(one), "everything is handled");
    }

    #[test]
    fn who_has_used_up_its_demand_while_another_has_not_is_told_apart() {
        let edges = Edges::default();
        let (one, other) = (SubscriptionId::new(), SubscriptionId::new());
        let (of_one, of_other) = (edges.to_consumer(one), edges.to_consumer(other));
        let alone = || [one, other].map(|id| edges.is_used_up_alone(id));
        assert_eq!(alone(), [false, false], "nobody has asked");
        of_other.asked.set(10);
        assert_eq!(alone(), [true, false]);
        of_one.asked.set(5);
        assert_eq!(alone(), [false, false], "the stage has nothing for them");
        [&of_one, &of_other].iter().for_each(|edge| edge.passed.set(5));
        assert_eq!(alone(), [true, false]);
        edges.remove(other);
        assert_eq!(alone(), [false, false], "nobody is there to wait");
        edges.remove(one);
        assert!(!edges.is_used_up_alone(one));
    }
}
