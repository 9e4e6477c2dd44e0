//! Channels on which only results come in: workers make them by themselves, at the pace of who receives them.

mod board;
mod intake;
mod receiver;
mod sender;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::codec::{Codec, signature_of};
use super::rejoining::Rejoining;
use super::{ChannelOptions, JoinOptions};
use crate::node::Node;
use crate::{PublishError, Wire};
use intake::{Intake, Workplace};

pub use receiver::ResultReceiver;
pub use sender::{ResultSender, Unreceived};

impl Node {
    /// Makes a channel on which only results come in: workers that [join](Self::join_results) it by `name` send values by
    /// themselves, as many as are asked for, and they come in at the receiver. The other half is
    /// [`serve_values`](Self::serve_values), and both in one [`serve_channel`](Self::serve_channel).
    ///
    /// ```text
    ///   [ worker 1: ResultSender ] ── values ──┐
    ///                              ◄─ demand ──┤
    ///                                          ├──► ResultReceiver
    ///   [ worker 2: ResultSender ] ── values ──┤
    ///                              ◄─ demand ──┘
    /// ```
    ///
    /// # Guarantees
    ///
    /// * A value is received at most once for as long as this server lives, and those of one sender in the order in which it
    ///   sent them. Connections that are lost change nothing: a sender keeps what it is not known to have been received, and
    ///   sends it again on another one.
    /// * A sender learns what was *received*, that is handed out by [`recv`](ResultReceiver::recv):
    ///   [`flush`](ResultSender::flush) waits for it, and says how many values are uncertain if it cannot.
    /// * What a worker that dies had sent, and was not received, may be received or not; nothing of it comes twice.
    /// * If *this* server dies, what it had received and not told its senders is sent again to the next one, which does not
    ///   know it: at least once over restarts of the server. Give values ids if that matters.
    /// * A worker has at most [as many](JoinOptions::values) values on their way as it was asked for, from when it sends them
    ///   until they are received, and all workers together at most as many as the [capacity](ChannelOptions::capacity).
    ///   When they are more, room goes to them in turn; with less capacity than workers, some have none.
    /// * Who dies or leaves changes nothing for the others.
    ///
    /// Of the options, `application`, `capacity`, `workers` and `transformer` count, and how many workers there may be.
    ///
    /// ```
    /// use aqueduct_transport::{Authority, ChannelOptions, JoinOptions, Node};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let authority = Authority::dev("demo")?;
    /// let here = Node::bind("127.0.0.1:0", authority.issue("here")?).await?;
    /// let there = Node::bind("127.0.0.1:0", authority.issue("there")?).await?;
    ///
    /// let mut readings = here.serve_results::<f64>("readings", ChannelOptions::default())?;
    /// let mut sensor = there.join_results::<f64>("readings", here.local_addr(), JoinOptions::default());
    /// let send = async {
    ///     for reading in [20.5, 20.7] {
    ///         sensor.send(reading).await?;
    ///     }
    ///     sensor.flush().await?;
    ///     Ok::<_, Box<dyn std::error::Error>>(())
    /// };
    /// let receive = async {
    ///     assert_eq!(readings.recv().await, Some(20.5));
    ///     assert_eq!(readings.recv().await, Some(20.7));
    ///     Ok(())
    /// };
    /// tokio::try_join!(send, receive)?;
    /// readings.close();
    /// assert_eq!(readings.recv().await, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the name is taken: channels and published sources share their names.
    pub fn serve_results<T: Wire>(
        &self,
        name: &str,
        options: ChannelOptions,
    ) -> Result<ResultReceiver<T>, PublishError> {
        let codec = Codec::new(self.config().limits.clone(), options.transformers);
        let signature = results_signature::<T>(&options.application, &codec);
        // No more values than tickets that were used and not received, which the board bounds by the capacity.
        let (parcels, arrivals) = mpsc::unbounded_channel();
        let bounds = (options.capacity, options.pulling.workers());
        let intake = Arc::new(Intake::new(name, codec, &signature, bounds, parcels));
        let workplace = Workplace(Arc::clone(&intake));
        self.publish_as(name, options.workers, Arc::new(workplace))?;
        Ok(ResultReceiver::new(intake, arrivals))
    }

    /// Joins a channel of [results only](Self::serve_results), to send values to it. The server is reached with the first
    /// [`send`](ResultSender::send); when it is lost, it is dialled again for as long as
    /// [`patience`](JoinOptions::patience) lasts. A node may join several times.
    pub fn join_results<T: Wire>(&self, name: &str, at: SocketAddr, options: JoinOptions) -> ResultSender<T> {
        let JoinOptions { application, window, patience, servers, transformers } = options;
        let codec = Codec::new(self.config().limits.clone(), transformers);
        let signature = results_signature::<T>(&application, &codec);
        let remote = self.source(name, at).published_by(servers).called(&signature);
        let session = self.next_session();
        let sender = (u128::from(session.incarnation) << 64) | u128::from(session.number);
        ResultSender::new(Rejoining::new(self.clone(), &remote, window, patience), codec, sender)
    }
}

fn results_signature<T: Wire>(application: &str, codec: &Codec) -> String {
    signature_of(&format!("channel of results {}", T::signature()), application, codec)
}

/// Which sender it is, over all its links: the node is the one that its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SenderId {
    node: Arc<str>,
    number: u128,
}

/// What a sender answers a ticket with.
struct Message {
    sender: u128,
    /// Of the value, from 1.
    number: u64,
    bytes: Bytes,
}

impl Message {
    fn write(&self) -> Bytes {
        [&self.sender.to_le_bytes()[..], &self.number.to_le_bytes(), &self.bytes].concat().into()
    }

    fn read(mut message: Bytes) -> Option<Self> {
        let sender = u128::from_le_bytes(message.get(..16)?.try_into().ok()?);
        let number = u64::from_le_bytes(message.get(16..24)?.try_into().ok()?);
        Some(Self { sender, number, bytes: message.split_off(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_a_short_one_is_none() {
        let written = Message { sender: 1 << 100, number: 7, bytes: Bytes::from_static(b"x") }.write();
        let read = Message::read(written.clone()).unwrap();
        assert_eq!((read.sender, read.number, &read.bytes[..]), (1 << 100, 7, &b"x"[..]));
        assert!(Message::read(written.slice(..23)).is_none());
    }
}
