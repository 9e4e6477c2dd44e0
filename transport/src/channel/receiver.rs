//! [`Receiver`]: where the results of a channel come in.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::ChannelError;
use super::hub::{Hub, Together};

/// The receiving end of a channel: a stream of what workers answered, in the order in which the answers came.
///
/// It ends once, when the channel was closed and everything is done. If a result is missing, because no worker came or
/// because values ended as dead letters that nobody reads, the last item is a [`ChannelError`]: no end is silently a short
/// one.
///
/// Dropping it before the end ends the channel: senders are told that it is closed, values that wait are dropped, and
/// workers' streams end.
pub struct Receiver<Answer> {
    hub: Arc<Hub>,
    results: mpsc::UnboundedReceiver<Together<Answer>>,
    /// What came together and was not received yet.
    here: std::vec::IntoIter<Answer>,
}

impl<Answer> Receiver<Answer> {
    pub(super) fn new(hub: Arc<Hub>, results: mpsc::UnboundedReceiver<Together<Answer>>) -> Self {
        Self { hub, results, here: Vec::new().into_iter() }
    }

    /// The next result; `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// On cancel nothing was taken.
    pub async fn recv(&mut self) -> Option<Result<Answer, ChannelError>> {
        std::future::poll_fn(|task| self.poll_recv(task)).await
    }

    fn poll_recv(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Answer, ChannelError>>> {
        loop {
            if let Some(answer) = self.here.next() {
                // For each at once: who receives may be who waits for room to send.
                self.hub.permits.add_permits(1);
                return Poll::Ready(Some(Ok(answer)));
            }
            match ready!(self.results.poll_recv(task)) {
                Some(Ok(answers)) => self.here = answers.into_iter(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The generated one would ask that results be.
impl<Answer> Unpin for Receiver<Answer> {}

impl<Answer> Stream for Receiver<Answer> {
    type Item = Result<Answer, ChannelError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(task)
    }
}

impl<Answer> Drop for Receiver<Answer> {
    fn drop(&mut self) {
        self.hub.feed.abandon();
        self.hub.permits.close();
    }
}

impl<Answer> fmt::Debug for Receiver<Answer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("name", &self.hub.name).finish_non_exhaustive()
    }
}
