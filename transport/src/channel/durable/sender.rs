//! [`DurableSender`]: where the values of a durable channel go into its queue.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::Mark;
use super::desk::Desk;
use crate::channel::codec::Value;
use crate::channel::hub::Hub;
use crate::channel::{ChannelMonitor, NotReady, SendError, SendErrorCause};
use crate::{Queue, QueueId, StoreError, Wire};

/// The sending end of a [durable](crate::Node::serve_durable_channel) channel. Clones send to the same one; when the last is
/// dropped, the channel is closed: what is in the queue is still done.
pub struct DurableSender<Job, Q> {
    monitor: ChannelMonitor<Job>,
    queue: Arc<Q>,
    mark: Mark,
    _last: Arc<Last>,
}

/// Closes the channel.
struct Last(Arc<Hub>);

impl Drop for Last {
    fn drop(&mut self) {
        desk(&self.0).close();
    }
}

impl<Job: Wire, Q: Queue> DurableSender<Job, Q> {
    pub(super) fn new(monitor: ChannelMonitor<Job>, queue: Arc<Q>, mark: Mark) -> Self {
        let last = Arc::new(Last(Arc::clone(&monitor.hub)));
        Self { monitor, queue, mark, _last: last }
    }

    /// Puts a value into the queue, and returns what it is known by there; its result carries the same id. Once this has
    /// returned, no crash loses the value. Waits while the queue is full.
    ///
    /// Each call takes the disk's time, if the queue is on one; calls of several tasks and
    /// [`send_all`](Self::send_all) share it better than one after the other.
    ///
    /// # Errors
    ///
    /// [`SendError`] with the value, if the channel has ended or the value cannot be written, and it is not in the queue.
    /// After [`SendErrorCause::Store`] it may be.
    ///
    /// # Cancel safety
    ///
    /// On cancel the value may be in the queue or not.
    pub async fn send(&self, value: Job) -> Result<QueueId, SendError<Job>> {
        self.put_one(None, value, true).await
    }

    /// Sends a value to the worker that this key belongs to, where the
    /// [assignment](crate::ChannelOptions::assignment) is by key; the key is kept in the queue. As [`send`](Self::send)
    /// otherwise.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn send_keyed(&self, key: impl AsRef<[u8]> + Send, value: Job) -> Result<QueueId, SendError<Job>> {
        let key = xxh3_64(key.as_ref());
        self.put_one(Some(key), value, true).await
    }

    /// As [`send`](Self::send), but does not wait for room in the queue.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`StoreError::Full`].
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn try_send(&self, value: Job) -> Result<QueueId, SendError<Job>> {
        self.put_one(None, value, false).await
    }

    /// Puts values into the queue, all or none, in one step: on a disk it takes hardly longer than one. Waits until there is
    /// room for all of them.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), with all of the values; [`StoreError::Full`] only if they are more than the queue can ever
    /// have.
    ///
    /// # Cancel safety
    ///
    /// On cancel all of them may be in the queue, or none.
    pub async fn send_all(&self, values: Vec<Job>) -> Result<Vec<QueueId>, SendError<Vec<Job>>> {
        match values.iter().map(|value| self.write(None, value)).collect() {
            Ok(payloads) => match self.put(payloads, true).await {
                Ok(ids) => Ok(ids),
                Err(cause) => Err(SendError { value: values, cause }),
            },
            Err(cause) => Err(SendError { value: values, cause }),
        }
    }

    /// Takes no more values, also from clones of this sender. What is in the queue is done.
    pub fn close(&self) {
        self.desk().close();
    }

    /// Ends it in order, and leaves the rest in the queue for the next start, as when the server's machine is restarted: takes no
    /// more from the queue and from senders, takes back from workers what they have not begun with, and waits until the rest is
    /// answered, the results are [received](super::DurableReceiver), and the queue knows. The receiver is to go on receiving
    /// meanwhile, as are those who read dead letters. The node is to be [shut down](crate::Node::shutdown) after it, and a store
    /// [closed](crate::RedbStore::close) after both.
    ///
    /// Returns whether that came within `grace`. What a worker still had after it, or what was not received, waits again for
    /// the next start, and counts as begun. [`send`](Self::send) fails from now on; the receiver ends with
    /// [`ChannelError::Ended`](crate::ChannelError::Ended), for [`Exit::Shutdown`](aqueduct_stage::Exit), unless everything had been
    /// done before. Workers wait for the next start, as long as they have [patience](crate::JoinOptions::patience).
    ///
    /// # Cancel safety
    ///
    /// On cancel it ends as soon as workers have answered what they have begun with. It can be called again.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        let desk = self.desk();
        desk.shut_down();
        self.monitor.hub.feed.stop();
        let is_in_time = timeout(grace, desk.is_over()).await.is_ok();
        if !is_in_time {
            desk.update(|ledger| (ledger.is_abandoned, ledger.is_given_up) = (true, true));
        }
        is_in_time
    }

    /// Looks at the channel, also after its close.
    pub fn monitor(&self) -> ChannelMonitor<Job> {
        self.monitor.clone()
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

    /// The error for which the channel does not use its queue at the moment; `None` while that works.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<StoreError>> {
        self.desk().lock().trouble.clone()
    }

    /// The queue behind it.
    #[must_use]
    pub fn queue(&self) -> &Arc<Q> {
        &self.queue
    }

    async fn put_one(&self, key: Option<u64>, value: Job, waits: bool) -> Result<QueueId, SendError<Job>> {
        let put = match self.write(key, &value) {
            Ok(payload) => self.put(vec![payload], waits).await,
            Err(cause) => Err(cause),
        };
        match put.map(|ids| ids.into_iter().next()) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => {
                let cause = StoreError::Storage("the queue gave no id".into()).into();
                Err(SendError { value, cause })
            }
            Err(cause) => Err(SendError { value, cause }),
        }
    }

    fn write(&self, key: Option<u64>, value: &Job) -> Result<Bytes, SendErrorCause> {
        let bytes = self.monitor.hub.codec.encode(value)?;
        Ok(self.mark.write(&Value::new(key, bytes)))
    }

    async fn put(&self, payloads: Vec<Bytes>, waits: bool) -> Result<Vec<QueueId>, SendErrorCause> {
        loop {
            // Before the attempt, so that nothing is missed.
            let mut left = std::pin::pin!(self.desk().acknowledged.notified());
            left.as_mut().enable();
            let pushing = Pushing::begin(self.desk()).ok_or(SendErrorCause::Closed)?;
            let pushed = self.queue.push(payloads.clone()).await;
            drop(pushing);
            match pushed {
                Ok(ids) => return Ok(ids),
                Err(StoreError::Full { more, bound, .. }) if waits && more <= bound => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                biased;
                () = left => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn desk(&self) -> &Desk {
        desk(&self.monitor.hub)
    }
}

impl<Job, Q> Clone for DurableSender<Job, Q> {
    fn clone(&self) -> Self {
        let Self { monitor, queue, mark, _last } = self;
        Self { monitor: monitor.clone(), queue: Arc::clone(queue), mark: *mark, _last: Arc::clone(_last) }
    }
}

impl<Job, Q> fmt::Debug for DurableSender<Job, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableSender").field("channel", &self.monitor).finish_non_exhaustive()
    }
}

/// A value is on its way into the queue: the channel does not end meanwhile.
struct Pushing<'a>(&'a Desk);

impl<'a> Pushing<'a> {
    /// `None` if nothing is sent any more.
    fn begin(desk: &'a Desk) -> Option<Self> {
        let mut ledger = desk.lock();
        if ledger.is_closed || ledger.is_abandoned {
            return None;
        }
        ledger.pushing += 1;
        Some(Self(desk))
    }
}

impl Drop for Pushing<'_> {
    fn drop(&mut self) {
        let is_over = self.0.update(|ledger| {
            ledger.pushing -= 1;
            ledger.is_over
        });
        if is_over {
            self.0.acknowledged.notify_waiters();
        }
    }
}

fn desk(hub: &Hub) -> &Desk {
    hub.desk.as_ref().expect("the hub of a durable channel has a desk")
}

/// Somebody else may have made room in the queue.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
