//! [`Snapshot`]: what the stages and subscriptions of a running graph are doing.

use std::time::Duration;

use aqueduct_dispatcher::{Demand, SubscriptionId};

use crate::WaitingFor;

/// What the stages and subscriptions of a running graph are doing. Nothing is computed until somebody asks for it, and
/// asking does not disturb the stages; the gauges of a stage are those of the last time it waited.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the graph.
    pub graph: String,
    /// One entry for each instance of each stage, in the order of declaration.
    pub stages: Vec<StageSnapshot>,
    /// One entry for each subscription that is there now, in the order in which they were made.
    pub subscriptions: Vec<SubscriptionSnapshot>,
}

/// What one instance of a stage is doing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StageSnapshot {
    /// Its name.
    pub stage: String,
    /// Which of the stage's instances it is, from 0.
    pub instance: usize,
    /// Whether it has ended, for good.
    pub ended: bool,
    /// How often it was [restarted](crate::Stage::restart), and how often [tasks](crate::Graph::tasks_with) of it were.
    pub restarts: u64,
    /// How many events it has handled.
    pub events_in: u64,
    /// How many events it has sent to subscribers.
    pub events_out: u64,
    /// How many events it emitted that nobody got.
    pub discarded: u64,
    /// How many events could not be dispatched.
    pub failed: u64,
    /// How many events wait in it for somebody to ask.
    pub buffered: u64,
    /// What its subscribers have asked for and not been given.
    pub demand: Demand,
    /// What it has asked of its producers and not handled yet.
    pub outstanding: Demand,
    /// What it waits for; nothing while it is at work, and once it has ended.
    pub waiting_for: Option<WaitingFor>,
    /// Time in callbacks and in passing events on. With the two others it adds up to the time since the first snapshot of the
    /// graph, less the time in which the stage waited for its restart: take one when the graph starts to time it from there.
    /// A graph that nobody looks at does not look at the clock.
    pub busy: Duration,
    /// Time in which it waited for events: demand was open, and nothing came.
    pub idle: Duration,
    /// Time in which it waited for demand.
    pub blocked: Duration,
}

/// What one subscription is doing.
///
/// Its two ends are read one after the other while they work, so the numbers may be a batch apart.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubscriptionSnapshot {
    /// Its id, the same at both ends.
    pub id: SubscriptionId,
    /// The producer: a stage of this graph, or what a far one is called.
    pub from: String,
    /// Which instance of it; nothing if it is not a stage of this graph.
    pub from_instance: Option<usize>,
    /// The consumer; nothing if it is not a stage of this graph.
    pub to: Option<String>,
    /// Which instance of it.
    pub to_instance: Option<usize>,
    /// The most events that its window lets be on their way now; nothing if the consumer is not a stage of this graph. Where it
    /// [grows](crate::SubscribeOptions::growing_to), one that is larger than at the start says that the consumer has had to wait
    /// for events, and handles them fast.
    pub window: Option<u64>,
    /// How many events the consumer has asked for in all.
    pub asked: u64,
    /// How many it was given; by a far producer: how many of them it has handled.
    pub given: u64,
    /// How many of those it has handled; nothing if the consumer is not a stage of this graph.
    pub handled: Option<u64>,
}

impl Snapshot {
    /// The entry of the first instance of the stage called `name`.
    pub fn stage(&self, name: &str) -> Option<&StageSnapshot> {
        self.stages.iter().find(|snapshot| snapshot.stage == name)
    }

    /// The entries of the subscriptions of the stage called `to` to the producer called `from`.
    pub fn between<'a>(&'a self, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a SubscriptionSnapshot> {
        self.subscriptions.iter().filter(move |one| one.from == from && one.to.as_deref() == Some(to))
    }
}

impl SubscriptionSnapshot {
    /// What was asked for and not given: the producer may send so many events at any time.
    pub fn demand(&self) -> Demand {
        Demand::new(self.asked.saturating_sub(self.given))
    }

    /// How many events are on their way or wait at the consumer; 0 if one of the two is not a stage of this graph.
    pub fn in_flight(&self) -> u64 {
        self.handled.map_or(0, |handled| self.given.saturating_sub(handled))
    }
}
