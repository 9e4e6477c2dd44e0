//! [`Receiver`]: where the results of a channel come in.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::ChannelError;
use super::hub::Hub;

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
    results: mpsc::UnboundedReceiver<Result<Answer, ChannelError>>,
}

impl<Answer> Receiver<Answer> {
    pub(super) fn new(hub: Arc<Hub>, results: mpsc::UnboundedReceiver<Result<Answer, ChannelError>>) -> Self {
        Self { hub, results }
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
        let result = ready!(self.results.poll_recv(task));
        if matches!(result, Some(Ok(_))) {
            self.hub.permits.add_permits(1);
        }
        Poll::Ready(result)
    }
}

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
