//! Ready-made stages, and streams to begin a graph with.
//!
//! | stage | what it does |
//! |---|---|
//! | [`queue`] | emits what is pushed into it; a push waits until its event was taken |
//! | [`batches`] | puts events together, by count and by time |
//! | [`Rate::limit`] | limits how many events are asked for in a period, which can be changed while it runs |
//! | [`pmap`] | runs a future per event, many at once, and emits the results in order |
//! | [`farm`] | the same, in the order in which they come |
//! | [`chunked`] | runs a future per so many events |
//! | [`divide`] | divides each event, solves the parts in parallel, and merges the solutions |
//!
//! And streams, to begin a graph with:
//!
//! | stream | of what |
//! |---|---|
//! | [`interval`] | ticks |
//! | [`lines`] | the lines of a reader |
//! | `TcpAcceptor` | connections; with the feature `net` |
//! | `UdpDatagrams` | datagrams; with the feature `net` |
//!
//! Each stage is an ordinary [`Producer`](crate::Producer) or [`ProducerConsumer`](crate::ProducerConsumer), built on what
//! this crate offers to everybody.
//!
//! Modules, beside those named after their stages: `bell` wakes a stage from a task; `intake` is the window of a stage
//! that asks by itself; `allowance` says how many events may be asked for; `workers`, `work` and `worker` are the tasks of a
//! stage, what they have to do, and one of them.

mod allowance;
mod batches;
mod bell;
mod chunked;
mod divide;
mod intake;
mod interval;
mod lines;
mod pmap;
mod queue;
mod rate;
#[cfg(feature = "net")]
mod tcp;
#[cfg(feature = "net")]
mod udp;
mod work;
mod worker;
mod workers;

pub use batches::{Batches, batches};
pub use chunked::{Chunked, chunked};
pub use divide::{Divide, DivideAndConquer, Split, divide};
pub use interval::{Interval, interval};
pub use lines::{LineError, Lines, lines};
pub use pmap::{Parallel, farm, pmap};
pub use queue::{Closed, Queue, QueueProducer, TryPushError, queue};
pub use rate::{Rate, RateLimit};
#[cfg(feature = "net")]
pub use tcp::{Connection, Place, TcpAcceptor};
#[cfg(feature = "net")]
pub use udp::{Datagram, Oversized, UdpDatagrams};
