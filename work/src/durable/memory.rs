//! Positions and queues that last as long as the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Positions, Queue, QueueEntry, QueueId, StoreError};

/// Positions in memory: for tests, and where starting from the beginning is right.
#[derive(Debug, Default)]
pub struct MemoryPositions {
    positions: Mutex<BTreeMap<String, u64>>,
}

impl MemoryPositions {
    /// No positions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Positions for MemoryPositions {
    async fn position(&self, subscription: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.lock().get(subscription).copied())
    }

    async fn store(&self, subscription: &str, position: u64) -> Result<(), StoreError> {
        self.lock().insert(subscription.to_owned(), position);
        Ok(())
    }

    async fn remove(&self, subscription: &str) -> Result<bool, StoreError> {
        Ok(self.lock().remove(subscription).is_some())
    }
}

/// A queue in memory.
#[derive(Debug)]
pub struct MemoryQueue {
    max_entries: usize,
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    pushed: u64,
    /// Each with the attempts made.
    waiting: BTreeMap<QueueId, (u32, Bytes)>,
    taken: BTreeMap<QueueId, (u32, Bytes)>,
}

impl MemoryQueue {
    /// An empty queue that has at most `max_entries`.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self { max_entries, inner: Mutex::default(), arrived: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue for MemoryQueue {
    async fn push(&self, payloads: Vec<Bytes>) -> Result<Vec<QueueId>, StoreError> {
        let mut inner = self.lock();
        let (len, more) = (inner.waiting.len() + inner.taken.len(), payloads.len());
        if more > self.max_entries.saturating_sub(len) {
            return Err(StoreError::Full { len, more, bound: self.max_entries });
        }
        let push = |payload| {
            inner.pushed += 1;
            let id = QueueId(inner.pushed);
            inner.waiting.insert(id, (0, payload));
            id
        };
        let ids = payloads.into_iter().map(push).collect();
        self.arrived.notify_waiters();
        Ok(ids)
    }

    async fn take(&self, max: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let mut inner = self.lock();
        let take = || {
            let (id, (attempts, payload)) = inner.waiting.pop_first()?;
            let attempt = attempts.saturating_add(1);
            inner.taken.insert(id, (attempt, payload.clone()));
            Some(QueueEntry { id, attempt, payload })
        };
        Ok(std::iter::from_fn(take).take(max).collect())
    }

    async fn acknowledge(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        let Inner { waiting, taken, .. } = &mut *self.lock();
        Ok(ids.iter().filter(|id| taken.remove(id).or_else(|| waiting.remove(id)).is_some()).count())
    }

    async fn requeue(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        let Inner { waiting, taken, .. } = &mut *self.lock();
        let before = waiting.len();
        waiting.extend(ids.iter().filter_map(|id| Some((*id, taken.remove(id)?))));
        self.arrived.notify_waiters();
        Ok(waiting.len() - before)
    }

    async fn put_back(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        let Inner { waiting, taken, .. } = &mut *self.lock();
        let before = waiting.len();
        for id in ids {
            if let Some((attempt, payload)) = taken.remove(id) {
                waiting.insert(*id, (attempt - 1, payload));
            }
        }
        self.arrived.notify_waiters();
        Ok(waiting.len() - before)
    }

    async fn requeue_all(&self) -> Result<usize, StoreError> {
        let Inner { waiting, taken, .. } = &mut *self.lock();
        let count = taken.len();
        waiting.append(taken);
        self.arrived.notify_waiters();
        Ok(count)
    }

    fn arrival(&self) -> impl Future<Output = ()> + Send {
        self.arrived.notified()
    }

    async fn len(&self) -> Result<usize, StoreError> {
        let inner = self.lock();
        Ok(inner.waiting.len() + inner.taken.len())
    }
}
