//! [`ResultSender`]: a worker's end of a channel on which only results come in.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::Message;
use crate::Wire;
use crate::channel::codec::{Codec, Value};
use crate::channel::rejoining::{Joined, Rejoining};
use crate::channel::{ChannelError, SendError, SendErrorCause};
use crate::pulling::Work;

/// The sending end of a channel of [results only](crate::Node::serve_results), made by
/// [`Node::join_results`](crate::Node::join_results).
///
/// It keeps what it is not known to have been received, at most [as many](crate::JoinOptions::values) values as it was asked
/// for, and sends it again if the server was lost meanwhile. It notices that only while it is used:
/// [`flush`](Self::flush) where you pause for longer, and at the end. Dropping it leaves the channel; what was sent is on its
/// way then, and nobody hears whether it arrived.
pub struct ResultSender<T> {
    server: Rejoining,
    codec: Codec,
    book: Book,
    tickets: VecDeque<Work<Value>>,
    /// How the channel has ended.
    end: Option<Result<(), ChannelError>>,
    values: PhantomData<fn(T)>,
}

/// What was sent and is not known to have been received. Pure.
#[derive(Debug)]
struct Book {
    sender: u128,
    /// The number of the last value.
    last: u64,
    /// The values after the last that was received, oldest first.
    kept: VecDeque<Bytes>,
    /// How many of them went out on the present link.
    sent: usize,
}

impl Book {
    fn push(&mut self, bytes: Bytes) {
        self.last += 1;
        self.kept.push_back(bytes);
    }

    /// The next value to go out on the present link.
    fn next(&mut self) -> Option<Message> {
        let bytes = self.kept.get(self.sent)?.clone();
        self.sent += 1;
        let number = self.last - self.kept.len() as u64 + self.sent as u64;
        Some(Message { sender: self.sender, number, bytes })
    }

    /// Everything up to this value was received.
    fn confirm(&mut self, number: u64) {
        let before = self.last - self.kept.len() as u64;
        // What did not go out on this link may have been received from an earlier one.
        let count = usize::try_from(number.saturating_sub(before)).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..count);
        self.sent = self.sent.saturating_sub(count);
    }

    /// The link is lost.
    fn restart(&mut self) {
        self.sent = 0;
    }
}

impl<T: Wire> ResultSender<T> {
    pub(super) fn new(server: Rejoining, codec: Codec, sender: u128) -> Self {
        let book = Book { sender, last: 0, kept: VecDeque::new(), sent: 0 };
        Self { server, codec, book, tickets: VecDeque::new(), end: None, values: PhantomData }
    }

    /// Sends a value, as soon as the server asks for one. When this returns, it is on its way, and kept until it is known to
    /// have been received.
    ///
    /// # Errors
    ///
    /// [`SendError`] with the value: [`SendErrorCause::Closed`] when nobody receives any more,
    /// [`SendErrorCause::Ended`] if the server could not be reached for as long as the sender has
    /// [patience](crate::JoinOptions::patience) or does not take it, and if the value cannot be written. What was sent
    /// before may be [uncertain](Self::unreceived) then.
    ///
    /// # Cancel safety
    ///
    /// On cancel the value was not sent, and is dropped.
    pub async fn send(&mut self, value: T) -> Result<(), SendError<T>> {
        let bytes = match self.codec.encode(&value) {
            Ok(bytes) => bytes,
            Err(error) => return Err(SendError { value, cause: error.into() }),
        };
        match std::future::poll_fn(|task| self.poll_room(task)).await {
            Ok(()) => {
                self.book.push(bytes.into());
                self.transmit();
                Ok(())
            }
            Err(None) => Err(SendError { value, cause: SendErrorCause::Closed }),
            Err(Some(error)) => Err(SendError { value, cause: error.into() }),
        }
    }

    /// Waits until everything that was sent has been received: handed out by
    /// [`ResultReceiver::recv`](super::ResultReceiver::recv).
    ///
    /// # Errors
    ///
    /// [`Unreceived`] if the channel has ended before that was known.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens on cancel.
    pub async fn flush(&mut self) -> Result<(), Unreceived> {
        std::future::poll_fn(|task| self.poll_received(task)).await
    }

    /// How many values were sent and are not known to have been received.
    #[must_use]
    pub fn unreceived(&self) -> usize {
        self.book.kept.len()
    }

    /// Waits for a ticket that no earlier value needs. `Err(None)` is the close.
    fn poll_room(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Option<ChannelError>>> {
        loop {
            // What can be known without waiting comes first, so that what is kept does not grow.
            match self.poll_server(task) {
                Poll::Ready(()) => {}
                Poll::Pending if self.tickets.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(())),
            }
            if let Some(end) = &self.end {
                return Poll::Ready(Err(end.clone().err()));
            }
        }
    }

    fn poll_received(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Unreceived>> {
        while !self.book.kept.is_empty() {
            if let Some(end) = &self.end {
                let error = Unreceived { values: self.book.kept.len(), cause: end.clone().err() };
                return Poll::Ready(Err(error));
            }
            ready!(self.poll_server(task));
        }
        Poll::Ready(Ok(()))
    }

    /// Takes one thing that comes from the server.
    fn poll_server(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.end.is_some() {
            return Poll::Ready(());
        }
        match ready!(self.server.poll_next(task)) {
            Some(Ok(Joined::Given(ticket))) => {
                if let Ok(received) = ticket.event().bytes[..].try_into() {
                    self.book.confirm(u64::from_le_bytes(received));
                }
                self.tickets.push_back(ticket);
                self.transmit();
            }
            Some(Ok(Joined::Lost)) => {
                self.tickets.clear();
                self.book.restart();
            }
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
        Poll::Ready(())
    }

    fn transmit(&mut self) {
        while !self.tickets.is_empty()
            && let Some(message) = self.book.next()
            && let Some(ticket) = self.tickets.pop_front()
        {
            ticket.done_with(&message.write());
        }
    }
}

impl<T> fmt::Debug for ResultSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultSender")
            .field("source", &self.server)
            .field("unreceived", &self.book.kept.len())
            .finish_non_exhaustive()
    }
}

/// Values were sent, and it is not known whether they were received.
#[derive(Clone, thiserror::Error)]
#[error("{values} values may not have been received: {}", why(cause.as_ref()))]
pub struct Unreceived {
    /// How many.
    pub values: usize,
    /// Why nothing more is heard of them; `None` if the receiver has closed.
    pub cause: Option<ChannelError>,
}

fn why(cause: Option<&ChannelError>) -> String {
    cause.map_or_else(|| "the channel is closed".to_owned(), ToString::to_string)
}

aqueduct_stage::debug_as_sentence!(Unreceived);

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(book: &mut Book) -> Vec<u64> {
        std::iter::from_fn(|| book.next().map(|message| message.number)).collect()
    }

    #[test]
    fn what_is_not_confirmed_goes_out_again_on_another_link() {
        let mut book = Book { sender: 1, last: 0, kept: VecDeque::new(), sent: 0 };
        (0..5).for_each(|_| book.push(Bytes::new()));
        assert_eq!(numbers(&mut book), [1, 2, 3, 4, 5]);
        book.confirm(2);
        book.confirm(1);
        book.restart();
        book.push(Bytes::new());
        assert_eq!(numbers(&mut book), [3, 4, 5, 6]);
        book.restart();
        book.confirm(4);
        assert_eq!(numbers(&mut book), [5, 6]);
        book.confirm(u64::MAX);
        assert_eq!((numbers(&mut book), book.kept.len()), (vec![], 0));
    }
}
