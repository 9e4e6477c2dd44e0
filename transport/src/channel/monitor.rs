//! [`ChannelMonitor`]: who works for a channel, what nobody could do, and how it ended.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aqueduct_stage::SubscriptionId;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::Stream;

use super::codec::Value;
use super::hub::Hub;
use super::{ChannelError, NotReady};
use crate::Wire;
use crate::pulling::{Counters, DeadLetter, DeadLetters, WorkPool};

/// Looks at a channel from its server: made by [`Sender::monitor`](super::Sender::monitor). It does not keep the channel
/// open.
pub struct ChannelMonitor<Job> {
    pub(super) hub: Arc<Hub>,
    pool: WorkPool<Value>,
    values: PhantomData<fn() -> Job>,
}

impl<Job: Wire> ChannelMonitor<Job> {
    pub(super) fn new(hub: Arc<Hub>, pool: WorkPool<Value>) -> Self {
        Self { hub, pool, values: PhantomData }
    }

    /// Who works for the channel now, in the order in which they joined. A worker that is cut off counts until its
    /// [session](crate::NodeConfig::session_grace) is given up.
    pub fn workers(&self) -> ChannelWorkers {
        self.hub.workers.borrow().clone()
    }

    /// Who works for the channel, to be told of changes.
    pub fn watch_workers(&self) -> watch::Receiver<ChannelWorkers> {
        self.hub.workers.subscribe()
    }

    /// Waits until `workers` have joined; it does not spin. Values can be sent before: they wait.
    ///
    /// # Errors
    ///
    /// [`NotReady`] after `within`.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel.
    pub async fn wait_until_ready(&self, workers: usize, within: Duration) -> Result<(), NotReady> {
        let mut changes = self.hub.workers.subscribe();
        match timeout(within, changes.wait_for(|present| present.len() >= workers)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(NotReady { expected: workers, got: self.workers().len(), within }),
        }
    }

    /// Values that nobody could do, with the reason: as a stream that ends with the channel. Each goes to one of those who
    /// read. Once somebody has called this, they count as seen to, and the [`Receiver`](super::Receiver) does not end with
    /// an error because of them. A value among them holds its place in the [capacity](super::ChannelOptions::capacity) until
    /// it is read.
    pub fn dead_letters(&self) -> ChannelDeadLetters<Job> {
        self.hub.are_letters_read.store(true, Ordering::Relaxed);
        if let Some(desk) = &self.hub.desk {
            desk.letters_are_read_by(1);
        }
        ChannelDeadLetters { hub: Arc::clone(&self.hub), letters: self.pool.dead_letters(), values: PhantomData }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.pool.counters()
    }

    /// Waits until the channel was closed and everything is done.
    ///
    /// # Errors
    ///
    /// [`ChannelError`], the same with which the receiver ends.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel.
    pub async fn finished(&self) -> Result<(), ChannelError> {
        let mut end = self.hub.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.map(|end| end.clone());
        // The sender is in the hub, which is here.
        ended.ok().flatten().unwrap_or(Ok(()))
    }
}

impl<Job> Clone for ChannelMonitor<Job> {
    fn clone(&self) -> Self {
        Self { hub: Arc::clone(&self.hub), pool: self.pool.clone(), values: PhantomData }
    }
}

impl<Job> fmt::Debug for ChannelMonitor<Job> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = self.hub.workers.borrow().len();
        f.debug_struct("ChannelMonitor")
            .field("name", &self.hub.name)
            .field("workers", &workers)
            .finish_non_exhaustive()
    }
}

/// The workers of a channel, in the order in which they joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelWorkers(Vec<(SubscriptionId, String)>);

impl ChannelWorkers {
    /// The nodes on which they are: one for each worker.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, node)| node.as_str())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn enter(&mut self, id: SubscriptionId, node: &str) {
        self.0.push((id, node.to_owned()));
    }

    pub(super) fn leave(&mut self, id: SubscriptionId) {
        self.0.retain(|(other, _)| *other != id);
    }
}

/// What nobody could do: made by [`ChannelMonitor::dead_letters`].
pub struct ChannelDeadLetters<Job> {
    hub: Arc<Hub>,
    letters: DeadLetters<Value>,
    values: PhantomData<fn() -> Job>,
}

impl<Job: Wire> Stream for ChannelDeadLetters<Job> {
    type Item = DeadLetter<Job>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<DeadLetter<Job>>> {
        while let Some(letter) = ready!(Pin::new(&mut self.letters).poll_next(task)) {
            self.hub.settle(letter.task);
            match letter.try_map(|payload| self.hub.codec.decode::<Job>(&payload.bytes)) {
                Ok(letter) => return Poll::Ready(Some(letter)),
                // It was written here.
                Err(error) => {
                    tracing::error!(channel = &*self.hub.name, error = ?error, "a dead letter cannot be read back");
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<Job> Drop for ChannelDeadLetters<Job> {
    fn drop(&mut self) {
        if let Some(desk) = &self.hub.desk {
            desk.letters_are_read_by(-1);
        }
    }
}

impl<Job> fmt::Debug for ChannelDeadLetters<Job> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letters.fmt(f)
    }
}
