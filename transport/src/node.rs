//! [`Node`]: a process that publishes sources to others and subscribes to theirs.

mod builder;
mod nodes;
mod snapshot;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::notices::Notices;
use aqueduct_stage::{Source, Spawner, SubscribeError};
use tokio::net::ToSocketAddrs;

use crate::connection::Connections;
use crate::frame::Session;
use crate::link::MAX_INSTANCES;
use crate::publication::{Publication, Publications, Published};
use crate::remote::{Remote, Subscriptions};
use crate::{Access, Identity, IdentityError, NodeConfig, NodeName, PeerFunctions, PublishError, PublishOptions, Wire};

pub use builder::{BindError, NodeBuilder};
pub use nodes::{Member, Members, NodeChange, NodeList, Nodes, NodesWatch};
pub use snapshot::{NodeMetric, NodeSnapshot};

/// A process that publishes sources to other nodes and subscribes to theirs.
///
/// It owns one UDP socket, and has at most one connection to each address it dials, made when it is first needed. Every
/// connection is QUIC with mutual TLS: both nodes must hold a certificate of the same cluster, and there is no mode
/// without. Cloning it gives another handle to the same node.
///
/// Two nodes that subscribe to each other have two connections, one dialled by each. A node that was started again
/// replaces its earlier self: the connections of that are closed, and if it is still there (it was only stopped, say), it
/// is refused. Later starts are told by the time of the start, so a node whose clock was put back may be refused for up to
/// ten minutes after its earlier self was last connected.
///
/// When the last handle and the last subscription made through it are gone, it closes its connections at once. To let
/// subscribers have everything first, use [`shutdown`](Self::shutdown).
///
/// ```
/// use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// use aqueduct_transport::{Authority, Node};
///
/// # struct Numbers;
/// # impl Producer for Numbers {
/// #     type Out = u64;
/// #     async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, u64>) -> Result {
/// #         cx.emit_all(0..100);
/// #         cx.stop(Exit::Normal);
/// #         Ok(())
/// #     }
/// # }
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = u64;
/// #     async fn handle_events(&mut self, _: Batch<u64>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// // Here both nodes are in one process; certificates from files make them two machines.
/// let authority = Authority::dev("demo")?;
/// let here = Node::bind("127.0.0.1:0", authority.issue("here")?).await?;
/// let there = Node::bind("127.0.0.1:0", authority.issue("there")?).await?;
///
/// let graph = Graph::new("there");
/// there.publish("numbers", &graph.producer("numbers", || Numbers))?;
/// let mut producing = graph.start();
///
/// let graph = Graph::new("here");
/// let numbers = here.source::<u64>("numbers", there.local_addr());
/// graph.consumer("print", || Print).subscribe(&numbers, 500..1000);
/// let outcome = graph.run().await?;
/// assert_eq!(outcome.stage("print").map(|stage| stage.events_in), Some(100));
/// producing.join().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Node {
    connections: Arc<Connections>,
    /// To other nodes.
    subscriptions: Arc<Subscriptions>,
    /// For other nodes.
    publications: Arc<Publications>,
}

impl Node {
    /// A node with the default configuration at `address`; port 0 lets the system choose one. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the address cannot be resolved or is not free.
    ///
    /// # Cancel safety
    ///
    /// On cancel there is no node.
    pub async fn bind(address: impl ToSocketAddrs, identity: Identity) -> Result<Self, BindError> {
        Self::builder(identity).bind(address).await
    }

    /// A node with settings of its own.
    pub fn builder(identity: Identity) -> NodeBuilder {
        NodeBuilder::new(identity)
    }

    /// Lets every node of the cluster subscribe to `source` by `name`: to a stage, or to a source of yet another node.
    ///
    /// A stage answers subscribers once its graph is [started](aqueduct_stage::Graph::start); until then they wait.
    /// [`run`](aqueduct_stage::Graph::run) and [`join`](aqueduct_stage::Running::join) end a graph with its last consumer, near or
    /// far: to serve whoever comes, keep what `start` returns.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the name is taken, or the source has more than 1024 instances.
    pub fn publish<Src>(&self, name: &str, source: &Src) -> Result<(), PublishError>
    where
        Src: Source<Item: Wire> + Clone,
    {
        self.publish_with(name, source, PublishOptions::new())
    }

    /// Lets some nodes of the cluster subscribe to `source` by `name`. A node without the right is told so
    /// ([`SubscribeError::Denied`], with its name and that of the producer) before anything of the source is touched,
    /// and this node logs it. What is already subscribed is not looked at again.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_to<Src>(&self, subscribers: Access, name: &str, source: &Src) -> Result<(), PublishError>
    where
        Src: Source<Item: Wire> + Clone,
    {
        self.publish_with(name, source, PublishOptions::new().subscribers(subscribers))
    }

    /// Lets other nodes subscribe to `source` by `name`, with [options](PublishOptions): who may, and which of its events
    /// can be chosen.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_with<Src>(
        &self,
        name: &str,
        source: &Src,
        options: PublishOptions<Src::Item>,
    ) -> Result<(), PublishError>
    where
        Src: Source<Item: Wire> + Clone,
    {
        if source.instances() as u64 > MAX_INSTANCES {
            return Err(PublishError::Instances { name: source.name(), instances: source.instances() });
        }
        let PublishOptions { subscribers, selectors, lag_limit, stall_limit } = options;
        let (source, _expected) = (source.clone(), source.expect_subscribers());
        let (sizes, signature) = (Arc::default(), None);
        let published = Published { source, selectors, lag_limit, stall_limit, sizes, signature, _expected };
        self.publications.publish(name, subscribers, Arc::new(published))
    }

    /// Takes back a name, and returns whether anything was published by it. Whoever subscribes to it from now on is told that
    /// there is none ([`SubscribeError::Refused`]); who has subscribed keeps the subscription. The name can be given to
    /// another source: to a graph that takes the place of one that has ended, say.
    pub fn unpublish(&self, name: &str) -> bool {
        self.publications.unpublish(name)
    }

    /// Changes who may have what is published as `name`, a source or a channel, and returns whether there is such a thing.
    /// It counts for every subscription from now on. Those that are there go on: [`disconnect`](Self::disconnect) ends
    /// those of a node that is no longer wanted.
    ///
    /// ```
    /// # use aqueduct_stage::testing::ProbeSource;
    /// # use aqueduct_transport::{Access, Authority, Node};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> aqueduct_stage::Result {
    /// # let node = Node::bind("127.0.0.1:0", Authority::dev("demo")?.issue("here")?).await?;
    /// # node.publish("orders", &ProbeSource::<u64>::new())?;
    /// node.set_subscribers("orders", Access::only(["billing"])?);
    /// node.disconnect("audit-3");
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_subscribers(&self, name: &str, subscribers: Access) -> bool {
        self.publications.set_subscribers(name, subscribers)
    }

    /// Closes all connections with the node of that id, in both directions, and ends all subscriptions over them at both
    /// ends; those that were cut off are not waited for. Returns how many connections there were.
    ///
    /// It may connect again at once. To keep it out, take its right to subscribe first
    /// ([`set_subscribers`](Self::set_subscribers)), or, with a new authority, its certificate
    /// ([`set_identity`](Self::set_identity)).
    pub fn disconnect(&self, node: &str) -> usize {
        let identity = self.connections.first_identity();
        let Ok(peer) = NodeName::new(identity.cluster(), node) else { return 0 };
        let peer = peer.to_string();
        self.publications.abandon(&peer);
        self.connections.disconnect(&peer)
    }

    /// The producer that the node at `at` publishes as `name`. Nothing is sent before a consumer subscribes to it; what
    /// is wrong with the name, the type or the address is reported then.
    pub fn source<T: Wire>(&self, name: &str, at: SocketAddr) -> Remote<T> {
        Remote::new(Arc::clone(&self.subscriptions), name, at)
    }

    /// What can be called by name at the node at `at`, to know before any work is sent there whether it can be done:
    /// [`PeerFunctions::require`] names what is missing.
    ///
    /// The two nodes know from their introduction whether both have the same functions; then nothing is asked. Otherwise the
    /// list is asked for once on each connection.
    ///
    /// ```
    /// use aqueduct_transport::{Authority, Functions, Node, Signature};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> aqueduct_stage::Result {
    /// let authority = Authority::dev("demo")?;
    /// let mut functions = Functions::new();
    /// functions.register("double", 1, |n: u64| n * 2)?;
    /// let there = Node::builder(authority.issue("there")?).functions(functions).bind("127.0.0.1:0").await?;
    ///
    /// let here = Node::bind("127.0.0.1:0", authority.issue("here")?).await?;
    /// let theirs = here.functions_at(there.local_addr()).await?;
    /// theirs.require("double", 1, &Signature::of::<u64, u64>())?;
    /// assert!(theirs.require("double", 2, &Signature::of::<u64, u64>()).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Unreachable`] if the node cannot be reached, or does not answer within the
    /// [handshake timeout](NodeConfig::handshake_timeout); [`SubscribeError::Refused`] if it refuses, or is of a version that
    /// does not say.
    ///
    /// # Cancel safety
    ///
    /// What was asked is not asked again: the next call gets the same answer.
    pub async fn functions_at(&self, at: SocketAddr) -> Result<PeerFunctions, SubscribeError> {
        let limit = self.config().handshake_timeout;
        // Dialling has limits of its own.
        let established = self.connections.connect(at).await?;
        match tokio::time::timeout(limit, established.functions(at)).await {
            Ok(answered) => answered,
            Err(_) => {
                let reason = format!("no answer within {limit:?}");
                Err(SubscribeError::Unreachable { at: at.to_string(), reason })
            }
        }
    }

    /// The address of its socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.connections.address()
    }

    /// What it is doing: its connections and subscriptions now, and what has happened to them since its start.
    ///
    /// ```
    /// # use aqueduct_transport::{Authority, Node};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> aqueduct_stage::Result {
    /// let node = Node::bind("127.0.0.1:0", Authority::dev("demo")?.issue("here")?).await?;
    /// for metric in node.snapshot().metrics() {
    ///     println!("{metric}"); // remote_connections{node="here",dir="in"} 0
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> NodeSnapshot {
        NodeSnapshot::of(self.connections.first_identity().node(), self.connections.counters())
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.connections.identity()
    }

    /// Gives it another certificate, key and list of authorities, without a restart: to renew a certificate before it
    /// expires, or to change authorities. Connections made from now on use the new ones, in both directions; those that
    /// are there go on with what they were made with, until that [expires](NodeConfig::close_expired).
    ///
    /// To change the authority of a cluster, give every node a list that holds the old and the new one; then certificates
    /// of the new one; then a list without the old one.
    ///
    /// A node that is restarted with another private key than it was *started* with cannot tell its peers at once that
    /// their connections are over; they notice by their [idle timeout](NodeConfig::idle_timeout).
    ///
    /// # Errors
    ///
    /// [`IdentityError::OtherNode`] if it names another node or cluster. Nothing is changed then.
    pub fn set_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        self.connections.set_identity(identity)
    }

    /// Refuses new subscriptions, waits until the present ones have ended and everything was delivered, for `grace` at
    /// most (those whose connection is lost are given up at once), and closes all connections, for which peers are given
    /// another second. Returns whether all subscriptions had ended. The node's address is free then, for its next start.
    ///
    /// It does not end what is published: shut that down first ([`Running::shutdown`](aqueduct_stage::Running::shutdown)), or
    /// the subscribers of a producer without an end are cut off when the grace is over.
    ///
    /// # Cancel safety
    ///
    /// New subscriptions stay refused; it can be called again.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        let in_time = self.connections.shutdown(grace).await;
        // A far source that is published again holds this node, which would hold itself for ever.
        self.publications.clear();
        self.connections.close_socket().await;
        in_time
    }
}

/// For channels.
impl Node {
    pub(crate) fn config(&self) -> &NodeConfig {
        self.connections.config()
    }

    pub(crate) fn spawner(&self) -> &dyn Spawner {
        &**self.connections.spawner()
    }

    /// What its peers can cause to be logged.
    pub(crate) fn notices(&self) -> &Notices {
        &self.connections.counters().notices
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.connections.ended().is_cancelled()
    }

    /// A name that nothing else of this node has.
    pub(crate) fn next_session(&self) -> Session {
        self.subscriptions.next_session()
    }

    /// Lets `subscribers` have something of another kind than a source by that name.
    pub(crate) fn publish_as(
        &self,
        name: &str,
        subscribers: Access,
        publication: Arc<dyn Publication>,
    ) -> Result<(), PublishError> {
        self.publications.publish(name, subscribers, publication)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} at {})", self.connections.first_identity().name(), self.connections.address())
    }
}
