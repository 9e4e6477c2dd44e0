//! A queue that fails for as long as it is told to.

use std::sync::atomic::{AtomicBool, Ordering};

use aqueduct_transport::{MemoryQueue, Queue, QueueEntry, QueueId, StoreError};
use bytes::Bytes;

/// A queue whose disk can be full.
pub(crate) struct Flaky {
    pub(crate) queue: MemoryQueue,
    pub(crate) fails: AtomicBool,
}

impl Flaky {
    fn check(&self) -> Result<(), StoreError> {
        let fails = self.fails.load(Ordering::Relaxed);
        if fails { Err(StoreError::Storage("the disk is full".into())) } else { Ok(()) }
    }
}

impl Queue for Flaky {
    async fn push(&self, payloads: Vec<Bytes>) -> Result<Vec<QueueId>, StoreError> {
        self.check()?;
        self.queue.push(payloads).await
    }

    async fn take(&self, max: usize) -> Result<Vec<QueueEntry>, StoreError> {
        self.check()?;
        self.queue.take(max).await
    }

    async fn acknowledge(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        self.check()?;
        self.queue.acknowledge(ids).await
    }

    async fn requeue(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        self.check()?;
        self.queue.requeue(ids).await
    }

    async fn put_back(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        self.check()?;
        self.queue.put_back(ids).await
    }

    async fn requeue_all(&self) -> Result<usize, StoreError> {
        self.check()?;
        self.queue.requeue_all().await
    }

    async fn len(&self) -> Result<usize, StoreError> {
        self.check()?;
        self.queue.len().await
    }
}
