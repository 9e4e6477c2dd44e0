//! What is given to somebody, and how it is written down: tasks and their workers, queues and positions, and the encoding of
//! events. Without a network: a pool of workers or a queue on the disk needs no more than this and
//! [`aqueduct_stage`]. `aqueduct-transport`, which has all of it too, takes it to other machines.
//!
//! * A [`WorkPool`](pulling::WorkPool) gives the events of a source, one by one, to those that ask. It has each done once,
//!   tries it again elsewhere when it fails or takes too long, and hands out as a dead letter what nobody could do.
//! * A [`QueueSource`] is a queue that one subscribes to: what was not acknowledged is given again. With [`RedbStore`] it is a
//!   file, and outlives the process (feature `redb`); a [`QueueSink`] is a stage that fills one.
//! * [`Once`] keeps the position of what was applied with its effects, so that each is applied exactly once.
//!
//! A pool over a queue, both in this process:
//!
//! ```
//! use std::sync::Arc;
//!
//! use aqueduct_stage::{SourceExt, TokioSpawner};
//! use aqueduct_work::pulling::{PullingOptions, WorkPool, WorkSource};
//! use aqueduct_work::{MemoryQueue, QueueSource};
//! use tokio_stream::StreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> aqueduct_stage::Result {
//! let orders = QueueSource::<String, _>::new("orders", Arc::new(MemoryQueue::new(1000)));
//! orders.push(["tea".to_owned(), "milk".to_owned()]).await?;
//! orders.close();
//!
//! let pool = WorkPool::new(&orders, PullingOptions::default(), &TokioSpawner);
//! let mut work = pool.work().events(1..2);
//! while let Some(order) = work.next().await {
//!     order?.done();
//! }
//! assert_eq!(pool.counters().finished, 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Modules, in reading order
//!
//! * [`pulling`]: tasks for many workers, each done once: a pure state machine, and [`WorkPool`](pulling::WorkPool), which
//!   drives it
//! * `durable`: [`Positions`] and [`Queue`], which outlive a process with the feature `redb`; [`QueueSource`] and
//!   [`QueueSink`]; [`Once`], for effects that must be applied once
//! * `wire`, `codec`, `prescan`: what an event is outside of the process, how it is written, and what is looked at before it
//!   is read; `limits`: how large anything may be
//! * `functions`: what can be called by name
//! * `retrying`: [`Retrying`], for consumers of a source that comes back; `pauses`: how long to wait before the next attempt;
//!   `ranges`: which numbers are through
//! * `bugs`: planted ones, to see that the tests find them

mod bugs;
#[doc(hidden)]
pub mod codec;
mod durable;
mod functions;
mod limits;
#[doc(hidden)]
pub mod pauses;
#[doc(hidden)]
pub mod prescan;
pub mod pulling;
#[doc(hidden)]
pub mod ranges;
mod retrying;
mod wire;

/// What [`RedbPositions::apply`] hands to effects.
#[cfg(feature = "redb")]
pub use ::redb;
pub use codec::{ColumnsError, DecodeError, EncodeError, EncodeErrorCause};
pub use durable::{
    ExclusiveSource, MemoryPositions, MemoryQueue, Numbered, Once, Positions, PushError, Queue, QueueEntry, QueueId,
    QueueSink, QueueSource, StoreError,
};
#[cfg(feature = "redb")]
pub use durable::{RedbPositions, RedbQueue, RedbStore};
pub use functions::{Function, Functions, FunctionsDigest, LookupError, RegisterError, Signature};
pub use limits::Limits;
pub use prescan::StructureError;
pub use retrying::Retrying;
pub use wire::Wire;
