//! [`Positions`] and [`Queue`]: what must outlive a process.

mod lending;
mod memory;
mod once;
#[cfg(feature = "redb")]
mod redb;
mod sink;
mod source;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use aqueduct_stage::Sentence;
use bytes::Bytes;

pub use self::memory::{MemoryPositions, MemoryQueue};
pub use self::once::{Numbered, Once};
#[cfg(feature = "redb")]
pub use self::redb::{RedbPositions, RedbQueue, RedbStore};
pub use self::sink::QueueSink;
pub use self::source::{ExclusiveSource, PushError, QueueSource};

/// How far named subscriptions have come: the number of the last event that was handled.
///
/// A consumer that stores its position after what an event did, starts again where it was; an event that was handled and
/// whose position was not stored yet comes again. [`MemoryPositions`] forgets everything with the process;
/// `RedbPositions`, with the feature `redb`, does not.
pub trait Positions: Send + Sync + 'static {
    /// The stored position; `None` for a subscription of which nothing was stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn position(&self, subscription: &str) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;

    /// Stores a position, which is durable when this returns. A position may go back: whoever reads a source again from an
    /// earlier event says so on purpose.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it is then unknown whether the new position or the one before is stored.
    ///
    /// # Cancel safety
    ///
    /// On cancel it may be stored or not.
    fn store(&self, subscription: &str, position: u64) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets a subscription, and returns whether there was anything to forget.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn remove(&self, subscription: &str) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// A queue, first in first out, that keeps what it gave until that is acknowledged.
///
/// An entry is *waiting*, or *taken*. When the process ends, what was taken is waiting again; the number of attempts is
/// kept, so that an entry which ends its process every time is found out. [`MemoryQueue`] forgets everything with the
/// process; `RedbQueue`, with the feature `redb`, does not.
///
/// ```
/// use aqueduct_work::{MemoryQueue, Queue};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = MemoryQueue::new(100);
/// let ids = queue.push(vec!["one".into(), "two".into()]).await?;
/// let taken = queue.take(1).await?;
/// assert_eq!((taken[0].id, &taken[0].payload[..], taken[0].attempt), (ids[0], &b"one"[..], 1));
/// queue.requeue(&[ids[0]]).await?;
///
/// let again = queue.take(10).await?;
/// assert_eq!(again.iter().map(|entry| entry.attempt).collect::<Vec<_>>(), [2, 1]);
/// assert_eq!(queue.acknowledge(&ids).await?, 2);
/// assert!(queue.take(10).await?.is_empty());
/// # Ok(())
/// # }
/// ```
pub trait Queue: Send + Sync + 'static {
    /// Adds entries at the end, all or none, and returns their ids, which rise and are never used again. They are durable
    /// when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`], and nothing was added. After any other error, and on cancel, all may have been added or none.
    fn push(&self, payloads: Vec<Bytes>) -> impl Future<Output = Result<Vec<QueueId>, StoreError>> + Send;

    /// Takes the oldest waiting entries, `max` at most; none if nothing waits. Each has its attempt counted, durably, before
    /// this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`], and nothing is taken.
    ///
    /// # Cancel safety
    ///
    /// On cancel entries may have been taken that nobody has. [`requeue_all`](Self::requeue_all) makes them wait again, as
    /// the next start does.
    fn take(&self, max: usize) -> impl Future<Output = Result<Vec<QueueEntry>, StoreError>> + Send;

    /// Removes entries, taken or waiting, for good, and returns how many of these ids there were. Removing twice is
    /// harmless.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; they may have been removed or not, all of them.
    fn acknowledge(&self, ids: &[QueueId]) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Lets taken entries wait again, each at its old place, and returns how many of these ids were taken.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn requeue(&self, ids: &[QueueId]) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// As [`requeue`](Self::requeue), of entries with which nobody has begun: they wait again as if they had not been taken, so
    /// that this time does not count as an attempt. By default it does count.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn put_back(&self, ids: &[QueueId]) -> impl Future<Output = Result<usize, StoreError>> + Send {
        self.requeue(ids)
    }

    /// Lets all taken entries wait again, and returns how many there were.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn requeue_all(&self) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// How many entries there are, waiting and taken.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn len(&self) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Waits until more entries may be waiting than when it was *called*, which is before it is first polled. It may end
    /// early, or for nothing. By default it is over after 100 ms, so that whoever waits looks again; an implementation that
    /// knows better says so at once.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel.
    fn arrival(&self) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(LOOK_AGAIN)
    }

    /// Whether there are no entries, neither waiting nor taken.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    fn is_empty(&self) -> impl Future<Output = Result<bool, StoreError>> + Send {
        async { Ok(self.len().await? == 0) }
    }
}

/// A delay that nobody notices, and few enough looks to cost nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What an entry of a queue is known by: rising from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u64);

impl QueueId {
    /// The id with this number, for implementations of [`Queue`] and for what was written down elsewhere.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry that was taken from a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Which one.
    pub id: QueueId,
    /// How often it has been taken and not put back, this time included.
    pub attempt: u32,
    /// What was pushed.
    pub payload: Bytes,
}

/// Why something was not stored, or cannot be read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The queue has as many entries as it may.
    #[error("the queue has {len} entries, and {more} more would exceed {bound}")]
    Full {
        /// How many there are.
        len: usize,
        /// How many were to be added.
        more: usize,
        /// The most there may be.
        bound: usize,
    },
    /// The file was written by an earlier or a later version of this crate, which alone can read it. To change versions, let
    /// the other one empty its queues, and begin with a new file.
    #[error("expected a store of format {expected}, got {got}, which {} version of this crate has written", age(*.expected, *.got))]
    Format {
        /// What this version writes.
        expected: u64,
        /// What the file has.
        got: u64,
    },
    /// The store could not be read or written: the disk is full, or the file is in use or cannot be read at all. It is opened
    /// anew for the next call.
    #[error("the store failed: {}", Sentence(&**.0))]
    Storage(Box<dyn std::error::Error + Send + Sync>),
    /// Something in the file is not as it was written: its checksum tells. An entry of a queue can still be acknowledged,
    /// which removes it, and then those behind it can be taken.
    #[error("the file is damaged: {0} is not as it was written")]
    Damaged(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// What was to be done together with storing a position has failed; nothing was changed.
    #[error("the effect failed: {}", Sentence(&**.0))]
    Effect(Box<dyn std::error::Error + Send + Sync>),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Shutdown,
}

impl StoreError {
    /// Whether it will be the same whenever it is tried again.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Closed | Self::Format { .. })
    }
}

fn age(expected: u64, got: u64) -> &'static str {
    if got < expected { "an earlier" } else { "another" }
}

aqueduct_stage::debug_as_sentence!(StoreError);
