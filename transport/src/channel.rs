//! Typed channels whose other ends are on other machines.
//!
//! ```text
//!            ┌─ values ──► [ worker 1: join_channel ] ─ results ─┐
//!   Sender ──┤                                                   ├──► Receiver
//!            └─ values ──► [ worker 2: join_channel ] ─ results ─┘
//! ```
//!
//! [`serve_channel`](Node::serve_channel) gives the two ends that stay here. Any number of nodes
//! [join](Node::join_channel) it and come and go while it runs. Each value goes to one worker, who answers it with a
//! result; a value and its result are *one* step of the work-pulling core ([`pulling`](crate::pulling)), which is why
//! each result counts once whatever is lost on the way: the answer to an event of a link carries the result, and it
//! counts only while the value is still that worker's. A second way back, say a link of results, would have to be matched
//! with the first at every loss.

mod codec;
mod durable;
mod error;
mod feed;
mod hub;
mod lz4;
mod monitor;
mod options;
mod receiver;
mod rejoining;
mod results;
mod sender;
mod small;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::node::Node;
use crate::pulling::WorkPool;
use crate::{PublishError, Wire};
use codec::{Codec, signature};
use feed::Outlet;
use hub::{Hub, Sink, Together, Workplace};
use rejoining::Rejoining;

pub use codec::Transformer;
pub use durable::{Answered, DurableReceiver, DurableSender};
pub use error::{AnswerError, ChannelError, NotReady, SendError, SendErrorCause};
pub use lz4::Lz4;
pub use monitor::{ChannelDeadLetters, ChannelMonitor, ChannelWorkers};
pub use options::{ChannelOptions, JoinOptions};
pub use receiver::Receiver;
pub use results::{ResultReceiver, ResultSender, Unreceived};
pub use sender::{Permit, Sender};
pub use worker::{ChannelTask, ChannelWorker};

impl Node {
    /// Makes a channel to the workers that join it by `name` from other nodes, or from this one: values go out at the
    /// [`Sender`], and what workers answer comes in at the [`Receiver`].
    ///
    /// # Guarantees
    ///
    /// * Each value is answered once, or ends among the [dead letters](ChannelMonitor::dead_letters) after
    ///   [so many attempts](ChannelOptions::max_attempts). A worker that dies, is cut off for good or takes longer for one than
    ///   [`ack_wait`](ChannelOptions::ack_wait) loses its values to others, and what it says of them later does not
    ///   count. What waits at a worker costs no attempt, and is taken back for one that has nothing to do. Work may be *done*
    ///   more than once, its result comes once.
    /// * What a worker had that was killed, or whose machine is lost, goes to others about 10 s later with the default
    ///   settings: it takes the [idle timeout](crate::NodeConfig::idle_timeout) of 5 s to notice, and a worker that is cut off
    ///   has 5 s to come back while there are others (otherwise the
    ///   [grace](crate::NodeConfig::session_grace)), but never more than `ack_wait`. One that ends in order, or is started
    ///   again at once, gives its values back at once.
    /// * At most [`capacity`](ChannelOptions::capacity) values are on their way, from when they are sent until their results
    ///   are received: a sender waits for the workers and for whoever receives.
    /// * Results come in the order in which they are made. Values reach *one* worker in the order in which they were sent.
    /// * When the last sender is dropped, workers do what is left; then their streams end, and the receiver's, which
    ///   ends with an error if a result is missing. See [`Receiver`].
    /// * Types, [application](ChannelOptions::application) and [transformers](ChannelOptions::transformer) are compared when
    ///   a worker joins; both ends are named in its error ([`ChannelError::Mismatch`]).
    ///
    /// Values live in this process: if it is killed, those that were not answered are lost with it. With
    /// [`serve_durable_channel`](Self::serve_durable_channel) they are not.
    ///
    /// So the orderly end is the close, and to go on receiving until the receiver ends: workers do all that was sent, which is
    /// no more than the capacity. A receiver that is dropped, and a node that is shut down, end it at once, and what workers
    /// are at is for nothing.
    ///
    /// ```
    /// use aqueduct_transport::{Authority, ChannelOptions, JoinOptions, Node};
    /// use tokio_stream::StreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let authority = Authority::dev("demo")?;
    /// let here = Node::bind("127.0.0.1:0", authority.issue("here")?).await?;
    /// let there = Node::bind("127.0.0.1:0", authority.issue("there")?).await?;
    ///
    /// let (words, mut lengths) = here.serve_channel::<String, u64>("lengths", ChannelOptions::default())?;
    /// let mut tasks = there.join_channel::<String, u64>("lengths", here.local_addr(), JoinOptions::default());
    /// words.send("hello".to_owned()).await?;
    /// drop(words);
    /// while let Some(task) = tasks.next().await {
    ///     let task = task?;
    ///     let length = task.value().len() as u64;
    ///     task.answer(&length)?;
    /// }
    /// assert_eq!(lengths.recv().await.transpose()?, Some(5));
    /// assert_eq!(lengths.recv().await.transpose()?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the name is taken: channels and published sources share their names.
    pub fn serve_channel<Job: Wire, Answer: Wire>(
        &self,
        name: &str,
        options: ChannelOptions,
    ) -> Result<(Sender<Job>, Receiver<Answer>), PublishError> {
        // No more results than values that hold a permit, which is given back when a result is received.
        let (results, arrivals) = mpsc::unbounded_channel();
        let (hub, pool) = self.open_channel::<Job, Answer>(name, options, Some(results))?;
        let monitor = ChannelMonitor::new(Arc::clone(&hub), pool.clone());
        Ok((Sender::new(monitor), Receiver::new(hub, arrivals)))
    }

    /// Makes a channel on which values only go out: each is done when a worker says so
    /// ([`done`](ChannelTask::done)). Workers join it with `()` as their answer. As
    /// [`serve_channel`](Self::serve_channel) in everything else; [`ChannelMonitor::finished`] tells when all is done.
    ///
    /// # Errors
    ///
    /// As [`serve_channel`](Self::serve_channel).
    pub fn serve_values<Job: Wire>(&self, name: &str, options: ChannelOptions) -> Result<Sender<Job>, PublishError> {
        let (hub, pool) = self.open_channel::<Job, ()>(name, options, None)?;
        Ok(Sender::new(ChannelMonitor::new(hub, pool)))
    }

    /// Joins a channel as a worker: a stream of [tasks](ChannelTask), which ends with the channel. The server is reached
    /// when the stream is first polled; when it is lost, it is dialled again for as long as
    /// [`patience`](JoinOptions::patience) lasts. A node may join several times, and has its share for each.
    pub fn join_channel<Job: Wire, Answer: Wire>(
        &self,
        name: &str,
        at: SocketAddr,
        options: JoinOptions,
    ) -> ChannelWorker<Job, Answer> {
        let JoinOptions { application, window, patience, servers, transformers } = options;
        let codec = Codec::new(self.config().limits.clone(), transformers);
        let signature = signature::<Job, Answer>(&application, &codec);
        let remote = self.source(name, at).published_by(servers).called(&signature);
        ChannelWorker::new(Rejoining::new(self.clone(), &remote, window, patience), codec)
    }

    fn open_channel<Job: Wire, Answer: Wire>(
        &self,
        name: &str,
        options: ChannelOptions,
        results: Option<mpsc::UnboundedSender<Together<Answer>>>,
    ) -> Result<(Arc<Hub>, WorkPool<codec::Value>), PublishError> {
        let codec = Codec::new(self.config().limits.clone(), options.transformers);
        let signature = signature::<Job, Answer>(&options.application, &codec);
        let hub = Arc::new(Hub::new(name, codec, options.capacity));
        let sink = Sink::new(Arc::clone(&hub), results, options.wait_for_workers);
        let pulling = options.pulling.max_waiting(options.capacity);
        let source = Outlet::new(Arc::clone(&hub));
        let pool = WorkPool::with_results(&source, pulling, self.spawner(), Arc::new(sink));
        let workplace = Workplace::new(Arc::clone(&hub), pool.clone(), &signature);
        self.publish_as(name, options.workers, Arc::new(workplace))?;
        Ok((hub, pool))
    }
}
