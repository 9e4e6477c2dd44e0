//! Durable channels: the values wait in a [`Queue`], and what is not answered outlives the server.

mod clerk;
mod desk;
mod payload;
mod receiver;
mod sender;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_stage::EndCause;
use tokio::sync::mpsc;

use super::codec::{Codec, Value, signature};
use super::feed::Outlet;
use super::hub::{Hub, Workplace};
use super::{ChannelMonitor, ChannelOptions};
use crate::node::Node;
use crate::pulling::{DeadLetter, Results, TaskId, WorkPool};
use crate::{PublishError, Queue, Wire};
use clerk::Clerk;
use desk::number;
use payload::Mark;

pub(super) use desk::Desk;
pub use receiver::{Answered, DurableReceiver};
pub use sender::DurableSender;

impl Node {
    /// Makes a channel as [`serve_channel`](Self::serve_channel) does, whose values wait in a queue: with a
    /// `RedbQueue` (feature `redb`) they outlive this process, also one that is killed. Workers join it like any
    /// channel, and find it again when it is served again under its name at the same address.
    ///
    /// ```text
    ///   DurableSender ──► [ queue: on the disk ] ── values ──► workers
    ///                          ▲ acknowledge                      │
    ///                          └──── received ◄─ DurableReceiver ◄┘ results
    /// ```
    ///
    /// # Guarantees
    ///
    /// * When [`send`](DurableSender::send) has returned, the value is in the queue, and no crash of the server or of a
    ///   worker loses it. It leaves the queue when its result was
    ///   [received](DurableReceiver), or its [dead letter](ChannelMonitor::dead_letters) read; nothing else takes it out.
    /// * While the server runs, each value has one result, as in any channel. After a restart, what was not acknowledged is
    ///   done again. A result comes *twice* only in this window: it was handed to the caller, and the server died before
    ///   the queue knew that it was received. That is the last result (or the last
    ///   [batch](DurableReceiver::recv_many)), and those before it in the time that the queue takes for one step.
    /// * To apply each result once in spite of that, take the entry out of the queue in the same transaction as the effect:
    ///   `RedbQueue::apply` does, and skips what is no longer there. With another database, write
    ///   [`Answered::id`] into a table with a unique key there, in the transaction of the effect: no id is ever used
    ///   again. A single position, as in [`Once`](crate::Once), does not do, since results come in the order in which they
    ///   are made.
    /// * Attempts of earlier starts count as [`max_attempts`](ChannelOptions::max_attempts) says, but never so much that no
    ///   worker is given the value in this one: a server that is restarted often makes no dead letters by that. A value is
    ///   taken from the queue, which is an attempt there, only while there are workers.
    /// * A dead letter leaves the queue when it is read. Those that nobody has read stay there, the receiver ends with
    ///   [`ChannelError::Dead`](super::ChannelError::Dead), and the next start tries them again.
    /// * Values are given out in the order of their ids; what comes back is at its old place.
    ///
    /// # The end
    ///
    /// When the last sender is dropped, workers do what is in the queue, and the receiver ends once, when the queue knows
    /// that it is empty. If there is no worker for [so long](ChannelOptions::wait_for_workers), it ends with
    /// [`ChannelError::NoWorkers`](super::ChannelError::NoWorkers), and what was not done stays in the queue. That a channel
    /// was closed is not kept: the next start is open again.
    ///
    /// When the server is to be restarted, [`shutdown`](DurableSender::shutdown) ends it before: workers bring to an end what
    /// they have begun with, and the rest stays in the queue as if it had not been given out. Without that it just stops: by
    /// dropping the receiver, with the process, or with the node, and what workers have begun with is done again. In any case
    /// what is left is for the next start, for which workers wait as long as they have
    /// [patience](super::JoinOptions::patience).
    ///
    /// # The queue
    ///
    /// It is for this channel alone: what another server had of it when this one starts waits again. What it holds is as it
    /// crosses, behind the transformers; an entry of another type, or that went through others, stops the channel with its
    /// number when everything before it is done, and stays there. If the store fails, it is tried again, every 5 s at last;
    /// each time is a warning in the log, and [`trouble`](DurableSender::trouble) tells.
    ///
    /// At most [`capacity`](ChannelOptions::capacity) values are in memory, from when they are taken from the queue until
    /// their results are received. How many there are in all is the queue's bound, at which senders wait.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use aqueduct_transport::{Authority, ChannelOptions, JoinOptions, MemoryQueue, Node};
    /// use tokio_stream::StreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let authority = Authority::dev("demo")?;
    /// let here = Node::bind("127.0.0.1:0", authority.issue("here")?).await?;
    /// let there = Node::bind("127.0.0.1:0", authority.issue("there")?).await?;
    ///
    /// // `RedbStore::queue` makes one that lasts.
    /// let queue = Arc::new(MemoryQueue::new(1000));
    /// let (words, mut lengths) =
    ///     here.serve_durable_channel::<String, u64, _>("lengths", queue, ChannelOptions::default())?;
    /// let mut tasks = there.join_channel::<String, u64>("lengths", here.local_addr(), JoinOptions::default());
    /// let sent = words.send("hello".to_owned()).await?;
    /// drop(words);
    ///
    /// let work = async {
    ///     while let Some(task) = tasks.next().await {
    ///         let task = task?;
    ///         let length = task.value().len() as u64;
    ///         task.answer(&length)?;
    ///     }
    ///     Ok::<_, Box<dyn std::error::Error>>(())
    /// };
    /// let receive = async {
    ///     while let Some(result) = lengths.recv().await {
    ///         let result = result?;
    ///         assert_eq!((result.id, result.answer), (sent, 5));
    ///         // Asking for the next says that this one was dealt with.
    ///     }
    ///     Ok(())
    /// };
    /// tokio::try_join!(work, receive)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the name is taken. The queue is not touched then.
    pub fn serve_durable_channel<Job: Wire, Answer: Wire, Q: Queue>(
        &self,
        name: &str,
        queue: Arc<Q>,
        options: ChannelOptions,
    ) -> Result<(DurableSender<Job, Q>, DurableReceiver<Answer>), PublishError> {
        let codec = Codec::new(self.config().limits.clone(), options.transformers);
        let signature = signature::<Job, Answer>(&options.application, &codec);
        let mark = Mark::new(&Job::signature(), &codec);
        let hub = Hub { desk: Some(Desk::default()), ..Hub::new(name, codec, options.capacity) };
        let hub = Arc::new(hub);
        // No more results than entries in the desk's ledger, which are at most the capacity.
        let (results, arrivals) = mpsc::unbounded_channel();
        let sink = Sink { hub: Arc::clone(&hub), results: Mutex::new(Some(results)) };
        let pulling = options.pulling.max_waiting(options.capacity.min(TAKEN_AHEAD));
        let max_attempts = pulling.attempts();
        let source = Outlet::new(Arc::clone(&hub));
        let pool = WorkPool::with_results(&source, pulling, self.spawner(), Arc::new(sink));
        let workplace = Workplace::new(Arc::clone(&hub), pool.clone(), &signature);
        self.publish_as(name, options.workers, Arc::new(workplace))?;
        let clerk = Clerk {
            hub: Arc::clone(&hub),
            queue: Arc::clone(&queue),
            mark,
            patience: options.wait_for_workers,
            max_attempts,
            alone_since: None,
            unreadable: None,
            failure: None,
        };
        self.spawner().spawn("channel", Box::pin(clerk.run()));
        let sender = DurableSender::new(ChannelMonitor::new(Arc::clone(&hub), pool), queue, mark);
        Ok((sender, DurableReceiver::new(hub, arrivals)))
    }
}

/// Where the results of a durable channel go.
struct Sink<Answer> {
    hub: Arc<Hub>,
    /// `None` after the end.
    results: Mutex<Option<mpsc::UnboundedSender<(TaskId, Answer)>>>,
}

impl<Answer> Sink<Answer> {
    fn note(&self, change: impl FnOnce(&mut desk::Ledger)) {
        if let Some(desk) = &self.hub.desk {
            desk.update(change);
        }
    }
}

impl<Answer: Wire> Results<Value> for Sink<Answer> {
    fn key(&self, value: &Value) -> Option<u64> {
        value.key
    }

    fn take(&self, task: TaskId, result: Option<&[u8]>, counts: &mut dyn FnMut() -> bool) -> Result<(), String> {
        let result = result.ok_or("expected a result")?;
        let answer = self.hub.codec.decode::<Answer>(result).map_err(|error| error.to_string())?;
        if counts() {
            self.note(|ledger| ledger.answered(number(task)));
            if let Some(results) = &*self.results.lock().unwrap_or_else(PoisonError::into_inner) {
                // If nobody receives, it waits in the queue.
                let _ = results.send((task, answer));
            }
        }
        Ok(())
    }

    fn flush(&self, arrived: u64) {
        self.hub.feed.arrived(arrived);
    }

    fn dead(&self, letter: &DeadLetter<Value>) {
        self.note(|ledger| ledger.died(number(letter.task)));
    }

    fn begun(&self, task: TaskId) {
        self.note(|ledger| ledger.begun(number(task)));
    }

    /// The clerk tells it when everything was received.
    fn ended(&self, cause: &EndCause, _: u64) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.note(|ledger| ledger.pool_end = Some(cause.clone()));
    }

    /// The clerk decides that: what nobody came for stays in the queue.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// How many values are taken from the queue before workers have them: what a step of the queue costs is spread over half of
/// them. What is taken counts as an attempt there, so they are not more.
const TAKEN_AHEAD: usize = 512;
