//! [`NodeConfig`]: how a node uses its connections.

use std::sync::Arc;
use std::time::Duration;

use crate::Limits;

/// How a node uses its connections. The defaults suit nodes of one data centre, and of one machine.
///
/// ```
/// use std::time::Duration;
///
/// use aqueduct_transport::NodeConfig;
///
/// let config = NodeConfig::default().idle_timeout(Duration::from_secs(10));
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub(crate) limits: Limits,
    pub(crate) idle_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_subscriptions: u32,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            max_connections: 1024,
            max_subscriptions: 1024,
        }
    }
}

impl NodeConfig {
    /// Sets how large anything may be that another node sends. Give all nodes of a cluster the same limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets after how long without a sign of life a peer is taken for lost. Default 5 s; the smaller one of the two
    /// ends counts. A lower value notices a lost machine earlier, and gives up on a merely slow one sooner. (A process
    /// that ends in an orderly way is noticed at once.)
    ///
    /// The [keep-alive](Self::keep_alive) must be well below it.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how often a sign of life is sent on an idle connection. Default 1 s.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// Sets how long dialling, the introduction of two nodes, and the answer to a subscription may take, each. Default
    /// 5 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how many connections other nodes may have to this one. Default 1024; further ones are refused.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets how many subscriptions a peer may have open on one connection. Default 1024; further ones wait.
    #[must_use]
    pub fn max_subscriptions(mut self, subscriptions: u32) -> Self {
        self.max_subscriptions = subscriptions;
        self
    }

    /// The settings of QUIC. quinn's own leave the memory of a connection without a bound.
    pub(crate) fn transport(&self) -> Arc<quinn::TransportConfig> {
        let mut transport = quinn::TransportConfig::default();
        // A timeout that QUIC cannot express is longer than anybody waits.
        let idle = quinn::IdleTimeout::try_from(self.idle_timeout).unwrap_or(quinn::VarInt::MAX.into());
        transport
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            // One more for the control stream.
            .max_concurrent_bidi_streams(quinn::VarInt::from_u32(self.max_subscriptions.saturating_add(1)))
            .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
            .stream_receive_window(quinn::VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(quinn::VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(u64::from(CONNECTION_WINDOW_BYTES))
            .datagram_receive_buffer_size(None);
        Arc::new(transport)
    }
}

/// What may be on its way on one subscription, in bytes: a round trip of 16 ms at 2 Gbit/s.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What may be on its way on one connection, in bytes: four subscriptions at full speed.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
