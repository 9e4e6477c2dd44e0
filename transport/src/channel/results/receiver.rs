//! [`ResultReceiver`]: where the values of many workers come in.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::Stream;

use super::intake::{Intake, Parcel};
use crate::Wire;
use crate::channel::{ChannelWorkers, NotReady};

/// The receiving end of a channel of [results only](crate::Node::serve_results): a stream of what its workers send, of each
/// worker in the order in which it was sent.
///
/// It has no end of its own: workers come and go. After [`close`](Self::close) it hands out what has arrived, and ends.
/// Dropping it closes it and drops what has arrived; workers are told that those values may not have been received.
pub struct ResultReceiver<T> {
    intake: Arc<Intake<T>>,
    parcels: mpsc::UnboundedReceiver<Parcel<T>>,
}

impl<T: Wire> ResultReceiver<T> {
    pub(super) fn new(intake: Arc<Intake<T>>, parcels: mpsc::UnboundedReceiver<Parcel<T>>) -> Self {
        Self { intake, parcels }
    }

    /// The next value, which counts as received with that; `None` after the [close](Self::close).
    ///
    /// # Cancel safety
    ///
    /// On cancel nothing was taken.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|task| self.poll_recv(task)).await
    }

    /// Takes no more values: workers' senders are told. Those that have arrived are still handed out.
    pub fn close(&mut self) {
        self.intake.close();
    }

    /// Who works for the channel now, in the order in which they joined.
    pub fn workers(&self) -> ChannelWorkers {
        self.intake.workers.borrow().clone()
    }

    /// Who works for the channel, to be told of changes.
    pub fn watch_workers(&self) -> watch::Receiver<ChannelWorkers> {
        self.intake.workers.subscribe()
    }

    /// Waits until `workers` have joined; it does not spin.
    ///
    /// # Errors
    ///
    /// [`NotReady`] after `within`.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel.
    pub async fn wait_until_ready(&self, workers: usize, within: Duration) -> Result<(), NotReady> {
        let mut changes = self.intake.workers.subscribe();
        match timeout(within, changes.wait_for(|present| present.len() >= workers)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(NotReady { expected: workers, got: self.workers().len(), within }),
        }
    }

    fn poll_recv(&mut self, task: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(Parcel { from, sender, number, value }) = ready!(self.parcels.poll_recv(task)) else {
            return Poll::Ready(None);
        };
        self.intake.received(from, &sender, number);
        Poll::Ready(Some(value))
    }
}

impl<T: Wire> Stream for ResultReceiver<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_recv(task)
    }
}

impl<T> Drop for ResultReceiver<T> {
    fn drop(&mut self) {
        self.intake.close();
    }
}

impl<T> fmt::Debug for ResultReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultReceiver").field("name", &self.intake.name).finish_non_exhaustive()
    }
}
