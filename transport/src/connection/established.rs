//! [`Established`]: a connection on which both nodes have introduced themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::SubscribeError;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::close::CloseCode;
use super::connections::Connections;
use super::control::{Control, Inquiry};
use super::counters::Gauge;
use super::dial::unreachable;
use super::fate::Fate;
use super::handshake::Met;
use super::peers::{KnownPeer, Peer};
use super::serve::Conversation;
use super::stream::FrameStream;
use crate::link::Reassembly;
use crate::protocol::introduction;
use crate::{Limits, NodeName, PeerFunctions};

/// A connection on which both nodes have introduced themselves.
#[derive(Clone)]
pub(crate) struct Established {
    pub(super) connection: Connection,
    /// Who is at the other end, by its certificate.
    pub(crate) peer: Arc<NodeName>,
    /// How large anything may be that either end sends.
    pub(crate) limits: Limits,
    /// What the other node takes of this one.
    pub(super) known: KnownPeer,
    /// Why this node has closed it.
    pub(crate) fate: Fate,
    /// When the certificate with which the other node has proved itself expires.
    pub(super) expires: Option<Instant>,
    /// Both nodes know how events are asked back.
    pub(crate) can_revoke: bool,
    /// What can be called at the other end.
    pub(super) inquiry: Arc<Inquiry>,
    /// How many use it.
    uses: Arc<watch::Sender<usize>>,
    /// Whether this value is one of them.
    _use: Option<Arc<Use>>,
}

impl Established {
    pub(super) fn new(
        node: &Connections,
        connection: Connection,
        met: Met,
        stream: FrameStream,
        among: &Gauge,
    ) -> (Self, Conversation) {
        let Met { peer, agreement, presence, functions, fate, expires } = met;
        let can_revoke = agreement.has(introduction::REVOKE);
        let (peer, limits) = (Arc::new(peer), agreement.limits);
        let ours = Arc::clone(&node.functions);
        let inquiry = Arc::new(match functions {
            Some(theirs) if theirs == node.functions_digest => Inquiry::known(Arc::clone(&ours)),
            Some(_) => Inquiry::open(),
            None => Inquiry::hopeless("it does not say what can be called there"),
        });
        let control = Control::new(limits.clone(), ours, functions, node.config.control_frames_per_second);
        let conversation = Conversation { control, stream, _presence: presence, _counted: among.enter() };
        let known = node.peers.hold(peer.to_string(), || Peer::new(&node.config));
        let (uses, _use) = (Arc::default(), None);
        let established = Self { connection, peer, limits, known, fate, expires, can_revoke, inquiry, uses, _use };
        (established, conversation)
    }

    /// What can be called at the other end; asked for at most once on a connection.
    pub(crate) async fn functions(&self, at: SocketAddr) -> Result<PeerFunctions, SubscribeError> {
        match self.inquiry.functions().await {
            Ok(functions) => Ok(PeerFunctions::new((*self.peer).clone(), functions)),
            Err(reason) if self.is_alive() => Err(SubscribeError::Refused { at: at.to_string(), reason }),
            Err(reason) => Err(unreachable(at, reason)),
        }
    }

    /// The same connection, in use until the answer and all clones of it are dropped.
    pub(super) fn in_use(&self) -> Self {
        Self { _use: Some(Arc::new(Use::new(&self.uses))), ..self.clone() }
    }

    pub(super) fn is_used(&self) -> bool {
        *self.uses.borrow() > 0
    }

    /// Waits until it has not been used for so long.
    pub(super) async fn unused_for(&self, limit: Duration) {
        let mut uses = self.uses.subscribe();
        // It cannot fail: the sender is ours.
        while uses.wait_for(|uses| *uses == 0).await.is_ok() && timeout(limit, uses.changed()).await.is_ok() {}
    }

    /// Waits for its end.
    pub(super) async fn closed(&self) {
        self.connection.closed().await;
    }

    pub(super) fn close(&self, code: CloseCode, why: &str) {
        self.connection.close(code.into(), why.as_bytes());
    }

    /// What is unfinished of the other node's events and results, over all of its connections.
    pub(crate) fn reassembly(&self) -> Reassembly {
        self.known.value.reassembly.clone()
    }

    /// How many datagrams have come from the peer so far.
    pub(crate) fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// How long a message and its answer take, as far as is known.
    pub(crate) fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether the node at the other end has said that there is no such connection, or this one did because the other was
    /// started again.
    pub(crate) fn is_disowned(&self) -> bool {
        use ConnectionError::{ApplicationClosed, ConnectionClosed, LocallyClosed, Reset};
        let reason = self.connection.close_reason();
        matches!(reason, Some(Reset | ConnectionClosed(_) | ApplicationClosed(_) | LocallyClosed))
    }

    /// Opens a stream for a subscription; waits if there are as many as the peer allows.
    pub(crate) async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.connection.open_bi().await
    }
}

/// Counts as a use for as long as it lives.
struct Use(Arc<watch::Sender<usize>>);

impl Use {
    fn new(uses: &Arc<watch::Sender<usize>>) -> Self {
        uses.send_modify(|uses| *uses += 1);
        Self(Arc::clone(uses))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.send_modify(|uses| *uses -= 1);
    }
}
