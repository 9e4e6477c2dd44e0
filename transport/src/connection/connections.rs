//! [`Connections`]: a node's endpoint, its connections in both directions, and what they have in common.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use aqueduct_stage::{BoxFuture, Spawner, SubscribeError};
use quinn::{AsyncUdpSocket, Endpoint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::listen;
use super::admission::{Admission, Gate};
use super::close::CloseCode;
use super::closed::close_socket;
use super::counters::Counters;
use super::dial::dial;
use super::established::Established;
use super::incarnations::Incarnations;
use super::knock::Knocker;
use super::peers::Peers;
use super::runtime::NodeRuntime;
use super::serve::Opened;
use crate::{Functions, FunctionsDigest, Identity, IdentityError, NodeConfig};

/// What takes the streams that peers open. It must not hold the connections: they end with whoever uses them.
pub(crate) trait Streams: Send + Sync {
    /// Serves a stream, to its end.
    fn take(self: Arc<Self>, opened: Opened) -> BoxFuture<'static>;

    /// A peer has this incarnation now: what was left of earlier ones is over.
    fn superseded(&self, peer: &str, incarnation: u64);
}

/// All connections of a node. When the last handle is dropped, they are closed.
pub(crate) struct Connections {
    identity: RwLock<Identity>,
    /// The one it was started with: what its connections are marked with outlives a change.
    first_identity: Identity,
    pub(super) config: Arc<NodeConfig>,
    pub(super) gate: Gate,
    spawner: Arc<dyn Spawner>,
    pub(super) endpoint: Endpoint,
    /// That of the endpoint, which holds it, as do its connections.
    socket: Weak<dyn AsyncUdpSocket>,
    address: SocketAddr,
    incarnation: u64,
    /// What others may have it call, and what that amounts to.
    pub(super) functions: Arc<Functions>,
    pub(super) functions_digest: FunctionsDigest,
    /// Asks whether peers are still there, if this node's socket is the system's: then their addresses are as well.
    pub(super) knocker: Option<Arc<Knocker>>,
    counters: Arc<Counters>,
    /// What each other node takes.
    pub(super) peers: Arc<Peers>,
    /// The last start of each other node, and its connections in both directions.
    incarnations: Mutex<Incarnations<quinn::Connection>>,
    /// The connection to each address that was dialled, for as long as there is one.
    dialled: Mutex<BTreeMap<SocketAddr, Slot>>,
    pub(super) streams: Arc<dyn Streams>,
    /// Links in both directions.
    links: TaskTracker,
    /// Everything else.
    tasks: TaskTracker,
    /// The node is shutting down: nothing new is taken, and nobody who is cut off is waited for.
    ended: CancellationToken,
}

/// The connection to an address; locked while dialling, so that two never dial at once.
type Slot = Arc<tokio::sync::Mutex<Option<Established>>>;

/// What connections are made of.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) functions: Functions,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) socket: Arc<dyn AsyncUdpSocket>,
    /// The socket is the system's.
    pub(crate) can_knock: bool,
    pub(crate) incarnation: u64,
    pub(crate) counters: Arc<Counters>,
    pub(crate) streams: Arc<dyn Streams>,
    pub(crate) ended: CancellationToken,
}

impl Connections {
    /// Listens on a socket. Must be called on a tokio runtime.
    pub(crate) fn start(parts: Parts) -> io::Result<Arc<Self>> {
        let Parts { identity, config, functions, spawner, socket, can_knock, incarnation, counters, streams, ended } =
            parts;
        let keys = identity.endpoint_keys();
        let server = config.listening(identity.server_config(), keys, None);
        let runtime = Arc::new(NodeRuntime(Arc::clone(&spawner)));
        let (address, held) = (socket.local_addr()?, Arc::downgrade(&socket));
        let endpoint = Endpoint::new_with_abstract_socket(config.endpoint(keys), Some(server), socket, runtime)?;
        let connections = Arc::new(Self {
            first_identity: identity.clone(),
            identity: RwLock::new(identity),
            gate: Gate::new(Admission::new(&config)),
            config,
            spawner,
            endpoint,
            socket: held,
            address,
            incarnation,
            functions_digest: functions.digest(),
            functions: Arc::new(functions),
            knocker: can_knock.then(Arc::default),
            counters,
            peers: Arc::default(),
            incarnations: Mutex::new(Incarnations::new()),
            dialled: Mutex::default(),
            streams,
            links: TaskTracker::new(),
            tasks: TaskTracker::new(),
            ended,
        });
        connections.spawn(listen(connections.endpoint.clone(), Arc::downgrade(&connections)));
        Ok(connections)
    }

    pub(crate) fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The address of the socket.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Which start of the node this is.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What connections and links count.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Cancelled when the node is shutting down.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name does not change.
    pub(crate) fn first_identity(&self) -> &Identity {
        &self.first_identity
    }

    /// Connections from now on are made with this one.
    pub(crate) fn set_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        let mut current = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        if current.name() != identity.name() {
            return Err(IdentityError::OtherNode { ours: current.name().clone(), given: identity.name().clone() });
        }
        let server = self.config.listening(identity.server_config(), self.first_identity.endpoint_keys(), None);
        self.endpoint.set_server_config(Some(server));
        *current = identity;
        Ok(())
    }

    /// How a dialler at that address is let in.
    pub(super) fn server_config(&self, from: IpAddr) -> quinn::ServerConfig {
        self.config.listening(self.identity().server_config(), self.first_identity.endpoint_keys(), Some(from))
    }

    /// The connection to the node at `at`, dialled if there is none. It is in use for as long as the answer, or a clone of
    /// it, is there.
    pub(crate) async fn connect(self: &Arc<Self>, at: SocketAddr) -> Result<Established, SubscribeError> {
        // First, so that it is dropped when the slot is free again.
        let mut dialling = Dialling { connections: self, at, is_in_vain: false };
        let slot = self.slot(at);
        let mut content = slot.lock().await;
        if let Some(established) = content.as_ref().filter(|established| established.is_alive()) {
            return Ok(established.in_use());
        }
        *content = None;
        dialling.is_in_vain = true;
        let established = dial(self, at).await?;
        dialling.is_in_vain = false;
        let in_use = established.in_use();
        let watch = keep_while_used(Arc::downgrade(self), at, established.clone());
        *content = Some(established);
        self.spawn(watch);
        Ok(in_use)
    }

    /// Closes all connections with a node, and returns how many there were.
    pub(crate) fn disconnect(&self, peer: &str) -> usize {
        let connections: Vec<_> = self.incarnations().of(peer).cloned().collect();
        for connection in &connections {
            connection.close(CloseCode::Refused.into(), b"disconnected by the node's owner");
        }
        connections.len()
    }

    /// Takes nothing new, waits for `grace` at most until all links have ended, and closes. Returns whether they had ended.
    pub(crate) async fn shutdown(&self, grace: Duration) -> bool {
        self.ended.cancel();
        self.links.close();
        let in_time = tokio::time::timeout(grace, self.links.wait()).await.is_ok();
        self.endpoint.close(CloseCode::Shutdown.into(), b"shutdown");
        self.tasks.close();
        self.tasks.wait().await;
        // Those that were cut off tell their stages so.
        self.links.wait().await;
        in_time
    }

    /// Gives peers some time to hear of the end, and frees the address.
    pub(crate) async fn close_socket(&self) {
        // QUIC's closing period is a few round trips; what it takes for one after many losses may be minutes.
        let _ = tokio::time::timeout(CLOSING_TIMEOUT, self.endpoint.wait_idle()).await;
        close_socket(&self.endpoint, &self.socket, self.address).await;
    }

    pub(super) fn incarnations(&self) -> MutexGuard<'_, Incarnations<quinn::Connection>> {
        self.incarnations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spawner(&self) -> &Arc<dyn Spawner> {
        &self.spawner
    }

    pub(crate) fn spawn_link(&self, link: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn("link", Box::pin(self.links.track_future(link)));
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn("connection", Box::pin(self.tasks.track_future(task)));
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
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.ended.cancel();
        self.endpoint.close(CloseCode::Shutdown.into(), b"dropped");
    }
}

/// A dial that comes to nothing counts, and leaves nothing in the table, also when nobody waits for it any more: whoever tries
/// again and again gives each attempt less time than the dial itself would take.
struct Dialling<'a> {
    connections: &'a Connections,
    at: SocketAddr,
    /// It has begun, and has not succeeded.
    is_in_vain: bool,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if self.is_in_vain {
            self.connections.counters.dials_failed.add(1);
            self.connections.forget(self.at);
        }
    }
}

/// Closes a connection that was dialled when it has not been used for a while, and takes it out of the table when it is
/// over.
async fn keep_while_used(connections: Weak<Connections>, at: SocketAddr, established: Established) {
    loop {
        let Some(limit) = connections.upgrade().map(|all| all.config.unused_timeout) else { return };
        tokio::select! {
            biased;
            () = established.closed() => break,
            () = established.unused_for(limit) => {}
        }
        let Some(all) = connections.upgrade() else { return };
        let slot = all.slot(at);
        // Whoever holds the lock may be about to use it.
        let content = slot.lock().await;
        if !established.is_used() {
            tracing::debug!(peer = %established.peer, "connection not used any more");
            established.close(CloseCode::Unused, "unused");
            drop(content);
            break;
        }
    }
    if let Some(all) = connections.upgrade() {
        all.forget(at);
    }
}

/// How long a node waits at its end for peers to hear of it.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);
