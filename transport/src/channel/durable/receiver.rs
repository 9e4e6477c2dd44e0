//! [`DurableReceiver`]: where the results of a durable channel come in.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aqueduct_stage::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::desk::{Desk, number};
use crate::channel::ChannelError;
use crate::channel::hub::Hub;
use crate::pulling::TaskId;
use crate::{QueueId, Wire};

/// The result of a value of a [durable](crate::Node::serve_durable_channel) channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered<Answer> {
    /// What the value is known by in the queue; [`DurableSender::send`](super::DurableSender::send) has returned the same.
    pub id: QueueId,
    /// How often the queue has given the value out, over all starts of the server. If it is 1, this result was never
    /// received before.
    pub attempt: u32,
    /// What a worker answered.
    pub answer: Answer,
}

/// The receiving end of a [durable](crate::Node::serve_durable_channel) channel: a stream of what workers answered, in the
/// order in which the answers came.
///
/// A result counts as *received* when the next one is asked for, or with [`acknowledge`](Self::acknowledge): then its value
/// leaves the queue. Whoever hands results on to other tasks without waiting for them gives that up.
///
/// It ends once, when the channel was closed, every value is done, and the queue knows of it. If a result is missing, the
/// last item is a [`ChannelError`], and the values stay in the queue.
///
/// Dropping it before the end stops the channel: senders are told that it is closed, and what was not received waits in the
/// queue for the next start, the last result included unless it was [acknowledged](Self::acknowledge). Workers wait for that
/// start.
pub struct DurableReceiver<Answer> {
    hub: Arc<Hub>,
    results: mpsc::UnboundedReceiver<(TaskId, Answer)>,
    /// What was handed out and is being dealt with.
    held: Vec<TaskId>,
    /// Waits for the end of the channel; `None` behind that.
    end: Option<BoxFuture<'static, Result<(), ChannelError>>>,
}

impl<Answer: Wire> DurableReceiver<Answer> {
    pub(super) fn new(hub: Arc<Hub>, results: mpsc::UnboundedReceiver<(TaskId, Answer)>) -> Self {
        let mut ends = hub.end.subscribe();
        let end = async move {
            let ended = ends.wait_for(Option::is_some).await.map(|end| end.clone());
            // The sender is in the hub, which the receiver holds.
            ended.ok().flatten().unwrap_or(Ok(()))
        };
        Self { hub, results, held: Vec::new(), end: Some(Box::pin(end)) }
    }

    /// The next result; `None` at the end. Those before count as received.
    ///
    /// # Cancel safety
    ///
    /// On cancel nothing was taken; those before count as received.
    pub async fn recv(&mut self) -> Option<Result<Answered<Answer>, ChannelError>> {
        std::future::poll_fn(|task| self.poll_recv(task)).await
    }

    /// Waits for a result, and takes those that are there, `max` at most, to apply them in one step. None at the end, which
    /// is told for good then. Those before count as received.
    ///
    /// # Errors
    ///
    /// [`ChannelError`], once, as the last.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    ///
    /// # Cancel safety
    ///
    /// As [`recv`](Self::recv).
    #[track_caller]
    pub fn recv_many(
        &mut self,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Answered<Answer>>, ChannelError>> + Send {
        assert!(max > 0, "expected max to be at least 1, got 0");
        async move {
            let Some(first) = self.recv().await.transpose()? else { return Ok(Vec::new()) };
            let mut results = vec![first];
            while results.len() < max
                && let Ok((task, answer)) = self.results.try_recv()
            {
                results.extend(self.hold(task, answer));
            }
            Ok(results)
        }
    }

    /// Counts everything that was handed out as received, and waits until the queue knows of it.
    ///
    /// # Cancel safety
    ///
    /// On cancel it counts as received; the queue is told a little later.
    pub async fn acknowledge(&mut self) {
        self.settle();
        loop {
            let desk = desk(&self.hub);
            let mut acknowledged = std::pin::pin!(desk.acknowledged.notified());
            acknowledged.as_mut().enable();
            if desk.lock().is_acknowledged() || self.hub.end.borrow().is_some() {
                return;
            }
            acknowledged.await;
        }
    }

    fn poll_recv(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Answered<Answer>, ChannelError>>> {
        self.settle();
        while let Some((number, answer)) = ready!(self.results.poll_recv(task)) {
            if let Some(answered) = self.hold(number, answer) {
                return Poll::Ready(Some(Ok(answered)));
            }
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let outcome = ready!(end.as_mut().poll(task));
        self.end = None;
        Poll::Ready(outcome.err().map(Err))
    }

    fn hold(&mut self, task: TaskId, answer: Answer) -> Option<Answered<Answer>> {
        let entry = desk(&self.hub).lock().entry(number(task))?;
        self.held.push(task);
        Some(Answered { id: entry.id, attempt: entry.attempt, answer })
    }

    fn settle(&mut self) {
        for task in self.held.drain(..) {
            self.hub.settle(task);
        }
    }
}

impl<Answer: Wire> Stream for DurableReceiver<Answer> {
    type Item = Result<Answered<Answer>, ChannelError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(task)
    }
}

impl<Answer> Drop for DurableReceiver<Answer> {
    fn drop(&mut self) {
        let desk = desk(&self.hub);
        desk.update(|ledger| ledger.is_abandoned = true);
        desk.acknowledged.notify_waiters();
    }
}

impl<Answer> fmt::Debug for DurableReceiver<Answer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableReceiver").field("name", &self.hub.name).finish_non_exhaustive()
    }
}

fn desk(hub: &Hub) -> &Desk {
    hub.desk.as_ref().expect("the hub of a durable channel has a desk")
}
