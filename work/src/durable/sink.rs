//! [`QueueSink`]: from a graph into a queue.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{Batch, Consumer, Cx};
use tokio::time::{Instant, sleep};

use super::source::payloads;
use super::{Queue, StoreError};
use crate::{Limits, Wire};

/// A consumer that puts what comes into a [`Queue`], where a [`QueueSource`](crate::QueueSource) finds it: here, later, or on
/// another node that publishes it.
///
/// ```text
///   any source ──► QueueSink ──► [ queue: on the disk ] ──► QueueSource ──► consumers
/// ```
///
/// # Guarantees
///
/// * A batch goes into the queue in one step, all of it or nothing, in its order. It is there, durably, before the next one
///   comes and before it counts as handled.
/// * With [`subscribe_acknowledged`](aqueduct_stage::Stage::subscribe_acknowledged), each event is in the queue *at least
///   once*. It comes twice only if the process, or the stage, dies after the queue has a batch and before its source knows:
///   then that batch comes again, whole or in other pieces. With any other subscription what was on its way then is lost.
/// * One sink keeps the order of its source. Several into one queue are mixed by batches.
/// * If the queue is full it waits, asks its source for nothing meanwhile, and says so in the log every 5 s. A batch of more
///   events than the queue may ever have fails the stage: keep the window below that.
/// * Any other error of the store, and an event that cannot be written, fails the stage, with nothing of the batch in the
///   queue if the error is an [`EncodeError`](crate::EncodeError), and all or nothing after a [`StoreError`].
///
/// A step takes the disk's time, whatever there is in it: a window of a thousand events costs hardly more than one of ten.
///
/// To have each effect of what is in the queue applied once, read it through [`Once`](crate::Once), which goes by the numbers
/// of the entries. That does not see through an event that came into the queue twice: where that matters, give events an id
/// of their own.
///
/// ```
/// use std::sync::Arc;
///
/// use aqueduct_stage::Graph;
/// use aqueduct_work::{MemoryQueue, Queue, QueueSink};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// // `RedbStore::queue` makes one that lasts.
/// let queue = Arc::new(MemoryQueue::new(1000));
/// let graph = Graph::new("orders");
/// let orders = graph.iterate("orders", || (1..=10_u64).map(|number| format!("order {number}")));
/// let sink = QueueSink::<String, _>::new(&queue);
/// graph.consumer("queue", move || sink.clone()).subscribe_acknowledged(&orders, 50..100);
/// graph.run().await?;
/// assert_eq!(queue.len().await?, 10);
/// # Ok(())
/// # }
/// ```
pub struct QueueSink<T, Q> {
    queue: Arc<Q>,
    limits: Limits,
    of: PhantomData<fn(T)>,
}

impl<T: Wire, Q: Queue> QueueSink<T, Q> {
    /// Events go into `queue`.
    #[must_use]
    pub fn new(queue: &Arc<Q>) -> Self {
        Self { queue: Arc::clone(queue), limits: Limits::default(), of: PhantomData }
    }

    /// Sets how large an event may be. Default: as between nodes.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl<T: Wire + Sync, Q: Queue> Consumer for QueueSink<T, Q> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, _: &mut Cx<'_>) -> aqueduct_stage::Result {
        let payloads = payloads(&events, &self.limits)?;
        drop(events);
        let mut said = Instant::now();
        loop {
            match self.queue.push(payloads.clone()).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Full { len, more, bound }) if more <= bound => {
                    if said.elapsed() >= SAY_AGAIN {
                        said = Instant::now();
                        tracing::warn!(len, more, bound, "a sink waits for room in its queue");
                    }
                }
                Err(error) => return Err(error.into()),
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

impl<T, Q> Clone for QueueSink<T, Q> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue), limits: self.limits.clone(), of: PhantomData }
    }
}

impl<T, Q> fmt::Debug for QueueSink<T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSink").finish_non_exhaustive()
    }
}

/// Short for a queue that is being read, and costs nothing for one that is not.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Whoever waits says for what.
const SAY_AGAIN: Duration = Duration::from_secs(5);
