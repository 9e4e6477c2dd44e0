//! [`Sender`]: where the values of a channel go out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{SemaphorePermit, TryAcquireError};
use xxhash_rust::xxh3::xxh3_64;

use super::codec::Value;
use super::hub::Hub;
use super::{ChannelMonitor, ChannelWorkers, NotReady, SendError, SendErrorCause};
use crate::Wire;

/// The sending end of a channel. Clones send to the same one; when the last is dropped, the channel is closed: what was
/// sent is still done.
pub struct Sender<Job> {
    monitor: ChannelMonitor<Job>,
    _last: Arc<Last>,
}

/// Closes the channel.
struct Last(Arc<Hub>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.feed.close();
    }
}

impl<Job: Wire> Sender<Job> {
    pub(super) fn new(monitor: ChannelMonitor<Job>) -> Self {
        let last = Arc::new(Last(Arc::clone(&monitor.hub)));
        Self { monitor, _last: last }
    }

    /// Sends a value, as soon as fewer than [`capacity`](super::ChannelOptions::capacity) are on their way. It is encoded
    /// here, in the caller's task.
    ///
    /// # Errors
    ///
    /// [`SendError`] with the value, if the channel has ended or the value cannot be written.
    ///
    /// # Cancel safety
    ///
    /// On cancel the value was not sent, and is dropped; [`reserve`](Self::reserve) keeps it.
    pub async fn send(&self, value: Job) -> Result<(), SendError<Job>> {
        match self.reserve().await {
            Some(permit) => permit.send(value),
            None => Err(SendError { value, cause: SendErrorCause::Closed }),
        }
    }

    /// Sends a value to the worker that this key belongs to, where the [assignment](super::ChannelOptions::assignment) is
    /// by key. As [`send`](Self::send) otherwise.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn send_keyed(&self, key: impl AsRef<[u8]>, value: Job) -> Result<(), SendError<Job>> {
        let key = xxh3_64(key.as_ref());
        match self.reserve().await {
            Some(permit) => permit.push(Some(key), value),
            None => Err(SendError { value, cause: SendErrorCause::Closed }),
        }
    }

    /// Sends a value if that can be done at once.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`SendErrorCause::Full`].
    pub fn try_send(&self, value: Job) -> Result<(), SendError<Job>> {
        let hub = &self.monitor.hub;
        match hub.permits.try_acquire() {
            Ok(permit) => Permit { sender: self, permit }.send(value),
            Err(TryAcquireError::Closed) => Err(SendError { value, cause: SendErrorCause::Closed }),
            Err(TryAcquireError::NoPermits) => {
                Err(SendError { value, cause: SendErrorCause::Full { capacity: hub.capacity } })
            }
        }
    }

    /// Waits for room for one value, and keeps it until that is sent. `None` if the channel has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel, but the place in the queue of those who wait is lost.
    pub async fn reserve(&self) -> Option<Permit<'_, Job>> {
        let permit = self.monitor.hub.permits.acquire().await.ok()?;
        Some(Permit { sender: self, permit })
    }

    /// Takes no more values, also from clones of this sender. What was sent is done.
    pub fn close(&self) {
        self.monitor.hub.feed.close();
    }

    /// Looks at the channel, also after its close.
    pub fn monitor(&self) -> ChannelMonitor<Job> {
        self.monitor.clone()
    }

    /// As [`ChannelMonitor::workers`].
    pub fn workers(&self) -> ChannelWorkers {
        self.monitor.workers()
    }

    /// As [`ChannelMonitor::wait_until_ready`].
    ///
    /// # Errors
    ///
    /// [`NotReady`] after `within`.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel.
    pub async fn wait_until_ready(&self, workers: usize, within: Duration) -> Result<(), NotReady> {
        self.monitor.wait_until_ready(workers, within).await
    }
}

impl<Job> Clone for Sender<Job> {
    fn clone(&self) -> Self {
        Self { monitor: self.monitor.clone(), _last: Arc::clone(&self._last) }
    }
}

impl<Job> fmt::Debug for Sender<Job> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("channel", &self.monitor).finish()
    }
}

/// Room for one value. Dropping it gives the room back.
pub struct Permit<'a, Job> {
    sender: &'a Sender<Job>,
    permit: SemaphorePermit<'a>,
}

impl<Job: Wire> Permit<'_, Job> {
    /// Sends a value.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub fn send(self, value: Job) -> Result<(), SendError<Job>> {
        self.push(None, value)
    }

    fn push(self, key: Option<u64>, value: Job) -> Result<(), SendError<Job>> {
        let hub = &self.sender.monitor.hub;
        let pushed = match hub.codec.encode(&value) {
            Ok(bytes) => hub.feed.push(Value::new(key, bytes)).map_err(|_| SendErrorCause::Closed),
            Err(error) => Err(error.into()),
        };
        match pushed {
            Ok(()) => {
                // It is given back when the result is received.
                self.permit.forget();
                Ok(())
            }
            Err(cause) => Err(SendError { value, cause }),
        }
    }
}

impl<Job> fmt::Debug for Permit<'_, Job> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
