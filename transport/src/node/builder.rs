//! [`NodeBuilder`]: settings of a node, and its start.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aqueduct_stage::{Spawner, TokioSpawner};
use quinn::AsyncUdpSocket;
use tokio::net::ToSocketAddrs;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::config::ConfigError;
use crate::connection::{Connections, Counters, Parts, wrap_socket};
use crate::publication::Publications;
use crate::remote::Subscriptions;
use crate::{Functions, Identity, NodeConfig};

/// Settings of a [`Node`] that is to be.
pub struct NodeBuilder {
    identity: Identity,
    config: NodeConfig,
    functions: Functions,
    spawner: Arc<dyn Spawner>,
}

impl NodeBuilder {
    pub(super) fn new(identity: Identity) -> Self {
        let (config, functions) = (NodeConfig::default(), Functions::new());
        Self { identity, config, functions, spawner: Arc::new(TokioSpawner) }
    }

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
            match UdpSocket::bind(at).and_then(|socket| wrap_socket(&self.spawner, socket)) {
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
        let (config, counters, ended) = (Arc::new(config), Arc::<Counters>::default(), CancellationToken::new());
        let publications = Arc::new(Publications::new(Arc::clone(&config), Arc::clone(&counters), ended.clone()));
        let connections = Connections::start(Parts {
            identity,
            config,
            functions,
            spawner,
            socket,
            can_knock,
            incarnation: start_time(),
            counters,
            streams: Arc::clone(&publications) as _,
            ended,
        })
        .map_err(|cause| BindError::Socket { at: None, cause })?;
        let subscriptions = Arc::new(Subscriptions::new(Arc::clone(&connections)));
        Ok(Node { connections, subscriptions, publications })
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

/// A number that rises with each start of a node that keeps nothing on disk: the time of the start, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "nothing is decided by how much time has passed")]
fn start_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}
