//! Ready-made stages.
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
//! Each is an ordinary [`Producer`](crate::Producer) or [`ProducerConsumer`](crate::ProducerConsumer), built on what
//! this crate offers to everybody.
//!
//! Modules: `bell` wakes a stage from a task; `intake` is the window of a stage that asks by itself; `allowance` says how
//! many events may be asked for.

mod allowance;
mod batches;
mod bell;
mod chunked;
mod crew;
mod divide;
mod intake;
mod pmap;
mod queue;
mod rate;
mod work;
mod worker;

pub use batches::{Batches, batches};
pub use chunked::{Chunked, chunked};
pub use divide::{Divide, DivideAndConquer, Split, divide};
pub use pmap::{Parallel, farm, pmap};
pub use queue::{Closed, Queue, QueueProducer, TryPushError, queue};
pub use rate::{Rate, RateLimit};
