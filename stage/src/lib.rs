//! Demand-driven stages on tokio: GenStage for Rust.
//!
//! A stage is a task that exchanges events with its neighbours. Demand goes upstream, events go downstream, and no
//! event is sent that was not asked for:
//!
//! ```text
//!   [ producer ] ── events ──► [ producer-consumer ] ── events ──► [ consumer ]
//!                ◄── demand ──                       ◄── demand ──
//! ```
//!
//! A consumer that subscribes with the window `500..1000` asks for 1000 events, handles what comes in pieces of at most
//! 500, and asks for 500 more after each. If it is slow, it asks late, its producer is not called, and nothing piles up
//! anywhere.
//!
//! ```
//! use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, ProducerConsumer, Result};
//!
//! struct Counter(u64);
//!
//! impl Producer for Counter {
//!     type Out = u64;
//!     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
//!         let end = (self.0 + demand as u64).min(10_000);
//!         cx.emit_all(self.0..end);
//!         self.0 = end;
//!         if end == 10_000 {
//!             cx.stop(Exit::Normal); // the source is exhausted
//!         }
//!         Ok(())
//!     }
//! }
//!
//! struct Double;
//!
//! impl ProducerConsumer for Double {
//!     type In = u64;
//!     type Out = u64;
//!     async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
//!         cx.emit_all(events.into_iter().map(|n| n * 2));
//!         Ok(())
//!     }
//! }
//!
//! #[derive(Default)]
//! struct Sum(u64);
//!
//! impl Consumer for Sum {
//!     type In = u64;
//!     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
//!         self.0 += events.iter().sum::<u64>();
//!         Ok(())
//!     }
//!     async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
//!         assert_eq!(self.0, 99_990_000);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result {
//! let graph = Graph::new("sum of doubles");
//! let numbers = graph.producer("numbers", || Counter(0));
//! let doubled = graph.stage("double", || Double).subscribe(&numbers, 500..1000);
//! graph.consumer("sum", Sum::default).subscribe(&doubled, 500..1000);
//! graph.run().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is guaranteed: events of one producer reach a consumer in the order in which they were emitted; when a finite
//! source ends, everything it emitted is handled before [`Graph::run`] returns; an error or a panic in a callback is
//! the graph's error and never a shorter result. What a failing stage was handling is lost with it. A stage that
//! [may be restarted](Stage::restart) is made anew instead.
//!
//! This crate never starts a task but through a [`Spawner`], and never opens a socket but the listening ones of
//! [`stages`], with the feature `net`.
//!
//! # Modules, in reading order
//!
//! * `producer`, `producer_consumer`, `consumer`: the traits that users implement; `context`, `batch` and `edge`: what
//!   their callbacks are given; `handle`: sending messages to a stage
//! * `graph`, `dispatching`, `running`, `outcome`: describing a graph, how its events find their consumers, running it,
//!   and what came of it
//! * `stream`: to and from `tokio_stream`; `closure`, `any`: closures and boxed values as stages
//! * `protocol`: what the two ends of an edge say to each other, and [`Source`], what one can subscribe to; `answer`: what is said of a
//!   single event
//! * `upstream`, `downstream`: the two pure halves of a stage; `lifecycle`: when it is done; `waiting`: what it waits for, and
//!   whether in vain
//! * `mailbox`, `driver`, `callbacks`, `role`, `counters`, `ending`, `by_id`: the task around them; `members`: all tasks of a graph
//! * `remainder`, `latecomer`: what is left of a stage that has ended, for instances that return to it and subscribers that
//!   come too late
//! * `restart`, `supervision`: which stages are started again when one has ended, how often and when
//! * `tasks`: one task for each event, and tasks that are started at any time
//! * `spawner`, `error`
//! * `bugs`: planted ones, to see that the tests find them
//! * [`testing`]: neighbours of a stage that a test plays by hand, and the contract of dispatchers
//! * [`stages`]: ready-made stages
//! * [`coming_from_genstage`]: GenStage's names and ours, and every deliberate difference
//!
//! No module uses one that uses it, but for two groups: `context` and `handle`, as a callback is given a [`StageRef`] and a
//! message to one is opened with a [`Cx`]; and `graph`, `dispatching` and `running`, as how a [`Stage`] dispatches is part
//! of its type, and a [`Running`] graph takes in further stages as a [`Graph`] does.

mod answer;
mod any;
mod batch;
#[cfg(not(aqueduct_bugs))]
mod bugs;
#[cfg(aqueduct_bugs)]
#[doc(hidden)]
pub mod bugs;
mod by_id;
mod callbacks;
mod closure;
pub mod coming_from_genstage;
mod consumer;
mod context;
mod counters;
mod dispatching;
mod downstream;
mod driver;
mod edge;
mod ending;
mod error;
mod graph;
mod growth;
mod handle;
mod latecomer;
mod lifecycle;
mod mailbox;
mod members;
mod metrics;
#[doc(hidden)]
pub mod notices;
mod outcome;
mod producer;
mod producer_consumer;
mod protocol;
mod remainder;
mod restart;
mod role;
mod running;
mod snapshot;
mod spawner;
pub mod stages;
mod stream;
mod supervision;
mod tasks;
pub mod testing;
mod upstream;
mod waiting;

#[doc(hidden)]
pub use aqueduct_dispatcher::debug_as_sentence;
pub use aqueduct_dispatcher::{
    Attempt, Begins, BroadcastDispatcher, Buffer, Cancel, Decision, Deliveries, Delivery, Demand, DemandDispatcher,
    Dispatcher, Events, Interest, Keep, Lane, Marker, Overflow, PartitionDispatcher, PartitionName, Partitions,
    PartitionsError, Refused, RoundRobinDispatcher, Selector, Sentence, SubscribeOptions, SubscriptionId, Unattended,
    Window, WindowError,
};

pub use answer::{Answer, ResultRow};
pub use any::AnyConsumer;
pub use batch::Batch;
pub use closure::{Each, EachBatch, FilterMapEach, FlatMapEach, MapEach, each, each_batch, filter_map, flat_map, map};
pub use consumer::Consumer;
pub use context::{Cx, EventOf, Never};
pub use dispatching::{
    Broadcast, ByDemand, NoOutput, Output, Part, Partitionable, Partitioned, RoundRobin, Selected, Selects,
};
pub use edge::{DemandMode, Edge, Mode, OnCancel, Peer};
pub use error::{BoxError, Exit, Failure, FailureKind, Refusal, Result, SubscribeError};
pub use graph::{Graph, Stage};
pub use handle::{Call, CallError, Handle, Message, StageRef};
pub use metrics::{Metric, MetricLabels};
pub use outcome::{GraphError, Outcome, StageOutcome};
pub use producer::Producer;
pub use producer_consumer::ProducerConsumer;
pub use protocol::{ConsumerId, EndCause, Expected, Publisher, Source, Subscriber, Subscription};
pub use restart::{Backoff, Intensity, Restart};
pub use running::Running;
pub use snapshot::{Snapshot, StageSnapshot, SubscriptionSnapshot};
pub use spawner::{BoxFuture, Spawner, TokioSpawner};
pub use stream::{EventStream, EventStreamError, FromIter, FromStream, SourceExt};
pub use supervision::Strategy;
pub use tasks::{
    Child, ChildCounts, ChildId, ChildInfo, ChildNotFound, ChildState, DeadEvent, DeadLetters, Shutdown,
    StartChildError, Stopping, SupervisorOptions, TaskHandle, TaskOptions, TaskRestart, TaskSupervisor, Tasks,
    TasksRef, Temporary, Transient,
};
pub use waiting::WaitingFor;
