//! [`Node`]: a process that publishes sources to others and subscribes to theirs.

pub(crate) mod nodes;
pub(crate) mod snapshot;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aqueduct_stage::{ConsumerId, Source, Spawner, SubscribeError, TokioSpawner};
use quinn::{AsyncUdpSocket, Endpoint, Runtime};
use tokio::net::ToSocketAddrs;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bugs::bug;
use crate::config::ConfigError;
use crate::connection::admission::{Admission, Gate};
use crate::connection::close::CloseCode;
use crate::connection::closed::close_socket;
use crate::connection::counters::Counters;
use crate::connection::incarnations::Incarnations;
use crate::connection::knock::Knocker;
use crate::connection::peers::Peers;
use crate::connection::runtime::NodeRuntime;
use crate::connection::{self, Established};
use crate::frame::{FarConsumer, Session};
use crate::identity::access::AccessError;
use crate::link::MAX_INSTANCES;
use crate::publication::sessions::Sessions;
use crate::publication::{Publication, Published};
use crate::remote::Remote;
use crate::shared::{ConsumerNumbers, FarConsumers};
use crate::{
    Access, Functions, FunctionsDigest, Identity, IdentityError, NodeConfig, NodeName, NodeSnapshot, PeerFunctions,
    PublishOptions, Wire,
};

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
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    identity: RwLock<Identity>,
    /// The one it was started with: what its connections are marked with outlives a change.
    first_identity: Identity,
    pub(crate) config: NodeConfig,
    pub(crate) gate: Gate,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) endpoint: Endpoint,
    /// That of the endpoint, which holds it, as do its connections.
    socket: Weak<dyn AsyncUdpSocket>,
    pub(crate) incarnation: u64,
    /// What others may have it call, and what that amounts to.
    pub(crate) functions: Arc<Functions>,
    pub(crate) functions_digest: FunctionsDigest,
    address: SocketAddr,
    /// Asks whether peers are still there, if this node's socket is the system's: then their addresses are as well.
    pub(crate) knocker: Option<Arc<Knocker>>,
    /// What its connections and links count.
    pub(crate) counters: Arc<Counters>,
    publications: Mutex<Publications>,
    /// The connection to each address that was dialled, for as long as there is one.
    dialled: Mutex<BTreeMap<SocketAddr, Slot>>,
    /// Links in both directions.
    links: TaskTracker,
    /// Everything else.
    pub(crate) connections: TaskTracker,
    shutting_down: AtomicBool,
    /// The published links that can be resumed.
    pub(crate) sessions: Arc<Sessions>,
    /// What each other node takes.
    pub(crate) peers: Arc<Peers>,
    /// The last start of each other node, and its connections in both directions.
    incarnations: Mutex<Incarnations<quinn::Connection>>,
    /// How many numbers were given to links and consumers, which no other has at this node.
    numbers_given: AtomicU64,
    /// Who subscribes here and elsewhere.
    consumer_numbers: Arc<ConsumerNumbers>,
    pub(crate) far_consumers: Arc<FarConsumers>,
    /// Links that are cut off are not waited for any more.
    pub(crate) ended: CancellationToken,
}

/// The connection to an address; locked while dialling, so that two never dial at once.
type Slot = Arc<tokio::sync::Mutex<Option<Established>>>;
/// What is published by each name, and who may have it.
type Publications = BTreeMap<String, (Access, Arc<dyn Publication>)>;

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
        let (config, functions) = (NodeConfig::default(), Functions::new());
        NodeBuilder { identity, config, functions, spawner: Arc::new(TokioSpawner) }
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
        self.inner.publish_as(name, subscribers, Arc::new(published))
    }

    /// Takes back a name, and returns whether anything was published by it. Whoever subscribes to it from now on is told that
    /// there is none ([`SubscribeError::Refused`]); who has subscribed keeps the subscription. The name can be given to
    /// another source: to a graph that takes the place of one that has ended, say.
    pub fn unpublish(&self, name: &str) -> bool {
        self.inner.publications().remove(name).is_some()
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
        let mut publications = self.inner.publications();
        let Some(published) = publications.get_mut(name) else { return false };
        if !bug!(OldSubscribersKept) {
            published.0 = subscribers;
        }
        true
    }

    /// Closes all connections with the node of that id, in both directions, and ends all subscriptions over them at both
    /// ends; those that were cut off are not waited for. Returns how many connections there were.
    ///
    /// It may connect again at once. To keep it out, take its right to subscribe first
    /// ([`set_subscribers`](Self::set_subscribers)), or, with a new authority, its certificate
    /// ([`set_identity`](Self::set_identity)).
    pub fn disconnect(&self, node: &str) -> usize {
        let identity = self.inner.identity();
        let Ok(peer) = NodeName::new(identity.cluster(), node) else { return 0 };
        let peer = peer.to_string();
        let connections: Vec<_> = self.inner.incarnations().of(&peer).cloned().collect();
        self.inner.sessions.abandon(&peer);
        for connection in &connections {
            connection.close(CloseCode::Refused.into(), b"disconnected by the node's owner");
        }
        connections.len()
    }

    /// The producer that the node at `at` publishes as `name`. Nothing is sent before a consumer subscribes to it; what
    /// is wrong with the name, the type or the address is reported then.
    pub fn source<T: Wire>(&self, name: &str, at: SocketAddr) -> Remote<T> {
        Remote::new(self.clone(), name, at)
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
        let limit = self.inner.config.handshake_timeout;
        // Dialling has limits of its own.
        let established = self.connect(at).await?;
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
        self.inner.address
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
        NodeSnapshot::of(self.inner.first_identity.node(), &self.inner.counters)
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.inner.identity()
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
        let mut current = self.inner.identity.write().unwrap_or_else(PoisonError::into_inner);
        if current.name() != identity.name() {
            return Err(IdentityError::OtherNode { ours: current.name().clone(), given: identity.name().clone() });
        }
        let keys = self.inner.first_identity.endpoint_keys();
        let server = self.inner.config.listening(identity.server_config(), keys, None);
        self.inner.endpoint.set_server_config(Some(server));
        *current = identity;
        Ok(())
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
        let Inner { links, connections, endpoint, .. } = &*self.inner;
        self.inner.shutting_down.store(true, Ordering::Relaxed);
        self.inner.ended.cancel();
        links.close();
        let in_time = tokio::time::timeout(grace, links.wait()).await.is_ok();
        endpoint.close(CloseCode::Shutdown.into(), b"shutdown");
        connections.close();
        connections.wait().await;
        // Those that were cut off tell their stages so.
        links.wait().await;
        // A far source that is published again holds this node, which would hold itself for ever.
        self.inner.publications().clear();
        // Lets the peers hear of it. QUIC's closing period is a few round trips; what it takes for one after many losses
        // may be minutes.
        let _ = tokio::time::timeout(CLOSING_TIMEOUT, endpoint.wait_idle()).await;
        close_socket(endpoint, &self.inner.socket, self.inner.address).await;
        in_time
    }

    /// The connection to the node at `at`, dialled if there is none. It is in use for as long as the answer, or a clone of
    /// it, is there.
    pub(crate) async fn connect(&self, at: SocketAddr) -> Result<Established, SubscribeError> {
        // First, so that it is dropped when the slot is free again.
        let mut dialling = Dialling { node: &self.inner, at, is_in_vain: false };
        let slot = self.inner.slot(at);
        let mut content = slot.lock().await;
        if let Some(established) = content.as_ref().filter(|established| established.is_alive()) {
            return Ok(established.in_use());
        }
        *content = None;
        dialling.is_in_vain = true;
        let established = connection::dial(&self.inner, at).await?;
        dialling.is_in_vain = false;
        let in_use = established.in_use();
        let watch = keep_while_used(Arc::downgrade(&self.inner), at, established.clone());
        *content = Some(established);
        self.inner.spawn_connection(watch);
        Ok(in_use)
    }

    pub(crate) fn config(&self) -> &NodeConfig {
        &self.inner.config
    }

    /// What the next link to another node is called there.
    pub(crate) fn next_session(&self) -> Session {
        Session { incarnation: self.inner.incarnation, number: self.next_number() }
    }

    /// What a consumer is called there, for as long as the answer is held.
    pub(crate) fn consumer_at(
        &self,
        consumer: ConsumerId,
        at: SocketAddr,
        producer: &Arc<str>,
        instance: usize,
    ) -> (FarConsumer, impl Send + use<>) {
        let key = (consumer, at, Arc::clone(producer), instance);
        let held = self.inner.consumer_numbers.hold(key, || self.next_number());
        (FarConsumer { incarnation: self.inner.incarnation, number: held.value }, held)
    }

    fn next_number(&self) -> u64 {
        self.inner.numbers_given.fetch_add(1, Ordering::Relaxed)
    }
}

impl Inner {
    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How a dialler at that address is let in.
    pub(crate) fn server_config(&self, from: IpAddr) -> quinn::ServerConfig {
        self.config.listening(self.identity().server_config(), self.first_identity.endpoint_keys(), Some(from))
    }

    /// What is published by that name, if `peer` may have it.
    pub(crate) fn publication(&self, name: &str, peer: &NodeName) -> Result<Option<Arc<dyn Publication>>, AccessError> {
        match self.publications().get(name) {
            None => Ok(None),
            Some((access, publication)) if access.allows(peer) => Ok(Some(Arc::clone(publication))),
            Some(_) => Err(AccessError::Subscribe { node: peer.clone(), producer: name.to_owned() }),
        }
    }

    /// Lets `subscribers` have something by that name.
    pub(crate) fn publish_as(
        &self,
        name: &str,
        subscribers: Access,
        publication: Arc<dyn Publication>,
    ) -> Result<(), PublishError> {
        let mut publications = self.publications();
        if publications.contains_key(name) {
            return Err(PublishError::Taken(name.to_owned()));
        }
        publications.insert(name.to_owned(), (subscribers, publication));
        Ok(())
    }

    fn slot(&self, at: SocketAddr) -> Slot {
        Arc::clone(self.dialled().entry(at).or_default())
    }

    /// Leaves an address out of the table if there is no connection to it, and nobody is dialling.
    fn forget(&self, at: SocketAddr) {
        let mut dialled = self.dialled();
        let is_free = |slot: &Slot| {
            // Others get at it through the table only, which is locked.
            Arc::strong_count(slot) == 1
                && slot.try_lock().is_ok_and(|content| content.as_ref().is_none_or(|there| !there.is_alive()))
        };
        if dialled.get(&at).is_some_and(is_free) {
            dialled.remove(&at);
        }
    }

    fn dialled(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Slot>> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn incarnations(&self) -> MutexGuard<'_, Incarnations<quinn::Connection>> {
        self.incarnations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    pub(crate) fn spawn_link(&self, link: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn("link", Box::pin(self.links.track_future(link)));
    }

    pub(crate) fn spawn_connection(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn("connection", Box::pin(self.connections.track_future(task)));
    }

    fn publications(&self) -> MutexGuard<'_, Publications> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ended.cancel();
        self.endpoint.close(CloseCode::Shutdown.into(), b"dropped");
    }
}

/// A dial that comes to nothing counts, and leaves nothing in the table, also when nobody waits for it any more: whoever tries
/// again and again gives each attempt less time than the dial itself would take.
struct Dialling<'a> {
    node: &'a Inner,
    at: SocketAddr,
    /// It has begun, and has not succeeded.
    is_in_vain: bool,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if self.is_in_vain {
            self.node.counters.dials_failed.add(1);
            self.node.forget(self.at);
        }
    }
}

/// Closes a connection that was dialled when it has not been used for a while, and takes it out of the table when it is
/// over.
async fn keep_while_used(node: Weak<Inner>, at: SocketAddr, established: Established) {
    loop {
        let Some(limit) = node.upgrade().map(|node| node.config.unused_timeout) else { return };
        tokio::select! {
            biased;
            () = established.closed() => break,
            () = established.unused_for(limit) => {}
        }
        let Some(node) = node.upgrade() else { return };
        let slot = node.slot(at);
        // Whoever holds the lock may be about to use it.
        let content = slot.lock().await;
        if !established.is_used() {
            tracing::debug!(peer = %established.peer, "connection not used any more");
            established.close(CloseCode::Unused, "unused");
            drop(content);
            break;
        }
    }
    if let Some(node) = node.upgrade() {
        node.forget(at);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} at {})", self.inner.first_identity.name(), self.inner.address)
    }
}

/// Settings of a [`Node`] that is to be.
pub struct NodeBuilder {
    identity: Identity,
    config: NodeConfig,
    functions: Functions,
    spawner: Arc<dyn Spawner>,
}

impl NodeBuilder {
    /// Sets how it uses its connections.
    #[must_use]
    pub fn config(mut self, config: NodeConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets what can be called by name at this node; other nodes [get to know](Node::functions_at) it. Default: nothing.
    #[must_use]
    pub fn functions(mut self, functions: Functions) -> Self {
        self.functions = functions;
        self
    }

    /// Sets what starts its tasks. Default: the tokio runtime it is bound on.
    #[must_use]
    pub fn spawner(mut self, spawner: impl Spawner) -> Self {
        self.spawner = Arc::new(spawner);
        self
    }

    /// Opens a UDP socket at `address` and starts the node.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the settings do not go together, or the address cannot be resolved or is not free.
    pub async fn bind(self, address: impl ToSocketAddrs) -> Result<Node, BindError> {
        let mut last = None;
        for at in tokio::net::lookup_host(address).await.map_err(BindError::Resolve)? {
            let runtime = NodeRuntime(Arc::clone(&self.spawner));
            match UdpSocket::bind(at).and_then(|socket| runtime.wrap_udp_socket(socket)) {
                Ok(socket) => return self.start(socket, true),
                Err(cause) => last = Some(BindError::Socket { at: Some(at), cause }),
            }
        }
        let nowhere = || io::Error::new(io::ErrorKind::AddrNotAvailable, "it resolves to no address");
        Err(last.unwrap_or_else(|| BindError::Resolve(nowhere())))
    }

    /// Starts the node on a socket that is open already: any that quinn can use, a simulated one too.
    ///
    /// # Errors
    ///
    /// [`BindError::Socket`] if the socket does not work, [`BindError::Config`] if the settings do not go together.
    pub fn socket(self, socket: Arc<dyn AsyncUdpSocket>) -> Result<Node, BindError> {
        self.start(socket, false)
    }

    fn start(self, socket: Arc<dyn AsyncUdpSocket>, can_knock: bool) -> Result<Node, BindError> {
        let Self { identity, config, functions, spawner } = self;
        config.check()?;
        let keys = identity.endpoint_keys();
        let server = config.listening(identity.server_config(), keys, None);
        let runtime = Arc::new(NodeRuntime(Arc::clone(&spawner)));
        let failed = |cause| BindError::Socket { at: None, cause };
        let (address, held) = (socket.local_addr().map_err(failed)?, Arc::downgrade(&socket));
        let endpoint =
            Endpoint::new_with_abstract_socket(config.endpoint(keys), Some(server), socket, runtime).map_err(failed)?;
        let gate = Gate::new(Admission::new(&config));
        let inner = Arc::new(Inner {
            first_identity: identity.clone(),
            identity: RwLock::new(identity),
            config,
            gate,
            spawner,
            endpoint,
            socket: held,
            incarnation: start_time(),
            functions_digest: functions.digest(),
            functions: Arc::new(functions),
            address,
            knocker: can_knock.then(Arc::default),
            counters: Arc::default(),
            publications: Mutex::default(),
            dialled: Mutex::default(),
            links: TaskTracker::new(),
            connections: TaskTracker::new(),
            shutting_down: AtomicBool::new(false),
            sessions: Arc::default(),
            peers: Arc::default(),
            incarnations: Mutex::new(Incarnations::new()),
            numbers_given: AtomicU64::new(0),
            consumer_numbers: Arc::default(),
            far_consumers: Arc::default(),
            ended: CancellationToken::new(),
        });
        inner.spawn_connection(connection::listen(inner.endpoint.clone(), Arc::downgrade(&inner)));
        Ok(Node { inner })
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("identity", &self.identity)
            .field("config", &self.config)
            .field("functions", &self.functions)
            .finish_non_exhaustive()
    }
}

/// Why a node did not come to be.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The settings do not go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address means nothing.
    #[error("cannot resolve the address: {0}")]
    Resolve(io::Error),
    /// The socket could not be opened, or does not work.
    #[error("cannot open a UDP socket{}: {cause}", at.map_or_else(String::new, |at| format!(" at {at}")))]
    Socket {
        /// The last address that was tried, if the node was to open it.
        at: Option<SocketAddr>,
        /// What the system says.
        cause: io::Error,
    },
}

aqueduct_stage::debug_as_sentence!(BindError);

/// Why a source was not published.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// This node publishes something by that name already.
    #[error("this node has a source or a channel named {0:?} already: `Node::unpublish` frees the name")]
    Taken(String),
    /// A subscriber has a subscription to each instance.
    #[error("expected source {name:?} of at most {MAX_INSTANCES} instances, got {instances}")]
    Instances {
        /// What the source is called.
        name: String,
        /// How many there are.
        instances: usize,
    },
}

aqueduct_stage::debug_as_sentence!(PublishError);

/// A number that rises with each start of a node that keeps nothing on disk: the time of the start, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "nothing is decided by how much time has passed")]
fn start_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}

/// How long a node waits at its end for peers to hear of it.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);
