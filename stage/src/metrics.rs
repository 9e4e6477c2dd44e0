//! [`Metric`]: the numbers of a snapshot under fixed names, for whatever exports them.

use crate::{Snapshot, StageSnapshot, SubscriptionSnapshot};

/// One number with its name and labels, as Prometheus and OpenTelemetry have them.
///
/// The names are part of the public interface:
///
/// | name | kind | what |
/// |---|---|---|
/// | `stage_events_in_total` | counter | events handled |
/// | `stage_events_out_total` | counter | events sent to subscribers; a broadcast counts each of them |
/// | `stage_events_discarded_total` | counter | events that nobody got |
/// | `stage_events_failed_total` | counter | events that could not be dispatched, tasks that failed |
/// | `stage_restarts_total` | counter | how often the stage was started again, or a task of it |
/// | `stage_time_seconds_total` | counter | from the first snapshot on, by `state`: `busy`, `idle` (waits for events), `blocked` (waits for demand) |
/// | `stage_buffer_events` | gauge | events that wait for demand |
/// | `edge_demand_outstanding` | gauge | events asked for and not given |
/// | `edge_in_flight` | gauge | events given and not handled |
///
/// ```
/// # use aqueduct_stage::{Graph, each};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// # let graph = Graph::new("demo");
/// # let numbers = graph.iterate("numbers", || 0..10);
/// # graph.consumer("print", || each(|_: i32| async { Ok(()) })).subscribe(&numbers, 5..10);
/// let running = graph.start();
/// for metric in running.snapshot().metrics() {
///     println!("{metric}"); // stage_events_in_total{graph="demo",stage="numbers",instance="0"} 0
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric<'a> {
    /// One of the names above.
    pub name: &'static str,
    /// Which stage or edge it is of.
    pub labels: MetricLabels<'a>,
    /// Counters never fall while the graph runs; times are in seconds.
    pub value: f64,
}

/// What a [`Metric`] is of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricLabels<'a> {
    /// An instance of a stage.
    OfStage {
        /// The graph's name.
        graph: &'a str,
        /// The stage's name.
        stage: &'a str,
        /// Which of its instances, from 0.
        instance: usize,
        /// How the time was spent, of times.
        state: Option<&'static str>,
    },
    /// A subscription.
    OfEdge {
        /// The graph's name.
        graph: &'a str,
        /// The producer.
        from: &'a str,
        /// The consumer; empty if it is not a stage of this graph.
        to: &'a str,
        /// Its id.
        id: aqueduct_dispatcher::SubscriptionId,
    },
}

impl Snapshot {
    /// Its numbers, stage by stage and then subscription by subscription.
    pub fn metrics(&self) -> impl Iterator<Item = Metric<'_>> {
        let stages = self.stages.iter().flat_map(|stage| self.of_stage(stage));
        stages.chain(self.subscriptions.iter().flat_map(|edge| self.of_edge(edge)))
    }

    fn of_stage<'a>(&'a self, of: &'a StageSnapshot) -> impl Iterator<Item = Metric<'a>> {
        let metric = move |name, state, value| {
            let labels = MetricLabels::OfStage { graph: &self.graph, stage: &of.stage, instance: of.instance, state };
            Metric { name, labels, value }
        };
        let counts = [
            ("stage_events_in_total", of.events_in),
            ("stage_events_out_total", of.events_out),
            ("stage_events_discarded_total", of.discarded),
            ("stage_events_failed_total", of.failed),
            ("stage_restarts_total", of.restarts),
            ("stage_buffer_events", of.buffered),
        ];
        let times = [("busy", of.busy), ("idle", of.idle), ("blocked", of.blocked)];
        let counts = counts.into_iter().map(move |(name, count)| metric(name, None, count as f64));
        counts.chain(
            times
                .into_iter()
                .map(move |(state, time)| metric("stage_time_seconds_total", Some(state), time.as_secs_f64())),
        )
    }

    fn of_edge<'a>(&'a self, of: &'a SubscriptionSnapshot) -> impl Iterator<Item = Metric<'a>> {
        let values = [("edge_demand_outstanding", of.demand().count()), ("edge_in_flight", of.in_flight())];
        values.into_iter().map(move |(name, value)| {
            let to = of.to.as_deref().unwrap_or_default();
            let labels = MetricLabels::OfEdge { graph: &self.graph, from: &of.from, to, id: of.id };
            Metric { name, labels, value: value as f64 }
        })
    }
}

impl std::fmt::Display for Metric<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, labels, value } = self;
        match labels {
            MetricLabels::OfStage { graph, stage, instance, state } => {
                write!(f, "{name}{{graph={graph:?},stage={stage:?},instance=\"{instance}\"")?;
                state.map_or(Ok(()), |state| write!(f, ",state={state:?}"))?;
            }
            MetricLabels::OfEdge { graph, from, to, id } => {
                write!(f, "{name}{{graph={graph:?},from={from:?},to={to:?},id=\"{id}\"")?;
            }
        }
        write!(f, "}} {value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_stay_as_they_are() {
        let stage = StageSnapshot { stage: "sum".into(), events_in: 7, ..StageSnapshot::default() };
        let snapshot = Snapshot { graph: "demo".into(), stages: vec![stage], ..Snapshot::default() };
        let all: Vec<_> = snapshot.metrics().map(|metric| metric.to_string()).collect();
        let of = r#"graph="demo",stage="sum",instance="0""#;
        let expected = [
            format!("stage_events_in_total{{{of}}} 7"),
            format!("stage_events_out_total{{{of}}} 0"),
            format!("stage_events_discarded_total{{{of}}} 0"),
            format!("stage_events_failed_total{{{of}}} 0"),
            format!("stage_restarts_total{{{of}}} 0"),
            format!("stage_buffer_events{{{of}}} 0"),
            format!("stage_time_seconds_total{{{of},state=\"busy\"}} 0"),
            format!("stage_time_seconds_total{{{of},state=\"idle\"}} 0"),
            format!("stage_time_seconds_total{{{of},state=\"blocked\"}} 0"),
        ];
        assert_eq!(all, expected);
    }
}
