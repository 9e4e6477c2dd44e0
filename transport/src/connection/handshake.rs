//! The introduction of two nodes on a new connection, as its driver: it is decided by [`introduction`].

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aqueduct_stage::notice;
use quinn::{Connection, ConnectionError};
use tokio::time::Instant;

use super::close::CloseCode;
use super::connections::Connections;
use super::fate::Fate;
use super::incarnations::{Entered, NotEntered, Way};
use super::stream::{FrameStream, StreamError};
use crate::frame::{Frame, Hello, HelloAck, Reason, Refuse};
use crate::protocol::introduction::{self, Agreement, NoCommonVersion, Offer, Versions};
use crate::{FunctionsDigest, Identity, IdentityError, NodeName};

/// A node that has introduced itself.
pub(super) struct Met {
    /// Who it is, by its certificate.
    pub(super) peer: NodeName,
    pub(super) agreement: Agreement,
    pub(super) presence: Presence,
    /// What can be called there, if it says so.
    pub(super) functions: Option<FunctionsDigest>,
    pub(super) fate: Fate,
    pub(super) expires: Option<Instant>,
}

/// When the certificate of a connection's peer expires, on tokio's clock; `None` if that is too far away to matter.
fn expires(connection: &Connection) -> Option<Instant> {
    let left = Identity::peer_expires(connection)?.saturating_sub(wall_clock());
    Instant::now().checked_add(left)
}

/// The time since 1970.
#[expect(clippy::disallowed_methods, reason = "a certificate says when it expires by the time of day")]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A connection that counts among those of its peer's incarnation, for as long as this lives.
pub(super) struct Presence {
    node: Weak<Connections>,
    peer: String,
    number: u64,
}

impl Presence {
    /// Lets a connection in, which ends those of earlier incarnations.
    fn enter(
        node: &Arc<Connections>,
        way: Way,
        connection: &Connection,
        peer: &NodeName,
        incarnation: u64,
    ) -> Result<Self, NotEntered> {
        let peer = peer.to_string();
        let entered = node.incarnations().enter(&peer, incarnation, (way, connection.clone()), Instant::now());
        let Entered { number, superseded } = entered?;
        if !superseded.is_empty() {
            let connections = superseded.len();
            notice!(node.counters().notices, info, "started again", peer, incarnation, connections);
        }
        node.streams.superseded(&peer, incarnation);
        for connection in superseded {
            let why = format!("superseded by incarnation {incarnation}: a node of this name was started later");
            connection.close(CloseCode::Superseded.into(), why.as_bytes());
        }
        Ok(Self { node: Arc::downgrade(node), peer, number })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.incarnations().leave(&self.peer, self.number, Instant::now());
        }
    }
}

/// The dialler's side of the introduction.
pub(super) async fn introduce(
    node: &Arc<Connections>,
    connection: &Connection,
) -> Result<(Met, FrameStream), HandshakeError> {
    let peer = node.identity().peer(connection)?;
    let limits = &node.config.limits;
    let fate = Fate::default();
    let mut control = FrameStream::new(connection.open_bi().await?, limits.clone(), fate.clone());
    let ours = introduction::offer(node.config.versions, limits);
    let hello = Hello {
        proto_min: ours.versions.oldest,
        proto_max: ours.versions.newest,
        cluster: node.identity().cluster().to_owned(),
        node: node.identity().node().to_owned(),
        incarnation: node.incarnation(),
        features: ours.features.clone(),
        limits: ours.limits,
        functions: Some(node.functions_digest.to_bytes()),
    };
    send(&mut control, &Frame::Hello(hello), node).await?;
    let ack = match next_frame(&mut control).await? {
        Frame::HelloAck(ack) => ack,
        Frame::Refuse(Refuse { reason, message }) => return Err(HandshakeError::Refused { reason, message }),
        other => return Err(HandshakeError::Unexpected(other.name())),
    };
    if ack.node != peer.node() {
        return Err(HandshakeError::Impostor { says: ack.node, is: peer });
    }
    let versions = Versions { oldest: ack.proto, newest: ack.proto };
    let theirs = Offer { versions, features: ack.features, limits: ack.limits };
    let agreement = introduction::confirm(&ours, limits, &theirs)?;
    let presence = Presence::enter(node, Way::Out, connection, &peer, ack.incarnation)?;
    let functions = ack.functions.map(FunctionsDigest::from_bytes);
    Ok((Met { peer, agreement, presence, functions, fate, expires: expires(connection) }, control))
}

/// The listener's side of the introduction.
pub(super) async fn welcome(
    node: &Arc<Connections>,
    connection: &Connection,
) -> Result<(Met, FrameStream), HandshakeError> {
    let peer = node.identity().peer(connection)?;
    let fate = Fate::default();
    let mut control = FrameStream::new(connection.accept_bi().await?, node.config.limits.clone(), fate.clone());
    let hello = match next_frame(&mut control).await? {
        Frame::Hello(hello) => hello,
        other => return Err(HandshakeError::Unexpected(other.name())),
    };
    let ours = introduction::offer(node.config.versions, &node.config.limits);
    let incarnation = hello.incarnation;
    let functions = hello.functions.map(FunctionsDigest::from_bytes);
    let judged = judge(node, &ours, hello, &peer).and_then(|agreement| {
        let way = Way::In { bound: node.config.max_connections_per_node };
        let presence = Presence::enter(node, way, connection, &peer, incarnation)?;
        Ok((agreement, presence))
    });
    let answer = match &judged {
        Ok((agreement, _)) => Frame::HelloAck(HelloAck {
            proto: agreement.version,
            node: node.identity().node().to_owned(),
            incarnation: node.incarnation(),
            features: agreement.features.clone(),
            limits: introduction::offer(node.config.versions, &agreement.limits).limits,
            functions: Some(node.functions_digest.to_bytes()),
        }),
        Err(error) => {
            let reason = match error {
                HandshakeError::Version(_) => Reason::Version,
                HandshakeError::NotEntered(NotEntered::Superseded { .. }) => Reason::Superseded,
                HandshakeError::NotEntered(NotEntered::TooMany { .. }) => Reason::Overloaded,
                _ => Reason::Unauthorized,
            };
            Frame::Refuse(Refuse { reason, message: error.to_string() })
        }
    };
    send(&mut control, &answer, node).await?;
    if judged.is_err() {
        control.finish();
        // It is closed in any case.
        let _ = control.delivered().await;
    }
    let expires = expires(connection);
    judged.map(|(agreement, presence)| (Met { peer, agreement, presence, functions, fate, expires }, control))
}

/// Whether a dialler is who its certificate says, and can be understood.
fn judge(node: &Connections, ours: &Offer, hello: Hello, peer: &NodeName) -> Result<Agreement, HandshakeError> {
    if (hello.cluster.as_str(), hello.node.as_str()) != (peer.cluster(), peer.node()) {
        return Err(HandshakeError::Impostor { says: hello.node, is: peer.clone() });
    }
    let versions = Versions { oldest: hello.proto_min, newest: hello.proto_max };
    let theirs = Offer { versions, features: hello.features, limits: hello.limits };
    Ok(introduction::negotiate(ours, &node.config.limits, &theirs)?)
}

async fn send(stream: &mut FrameStream, frame: &Frame, node: &Connections) -> Result<(), HandshakeError> {
    let parts = frame.encode(&node.config.limits).map_err(StreamError::from)?;
    stream.queue(parts.head);
    while !stream.is_flushed() {
        stream.progress(pending()).await?;
    }
    Ok(())
}

/// The first frame of a stream, or the next one of an introduction.
pub(crate) async fn next_frame(stream: &mut FrameStream) -> Result<Frame, HandshakeError> {
    loop {
        if let Some(frame) = stream.next_frame()? {
            return Ok(frame);
        }
        if stream.is_read_to_end() {
            return Err(HandshakeError::Closed);
        }
        stream.progress(pending()).await?;
    }
}

/// Why two nodes did not come together.
#[derive(thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("no introduction within {0:?}")]
    Timeout(Duration),
    #[error("unexpected {0} frame in the introduction")]
    Unexpected(&'static str),
    #[error("the stream ended in the introduction")]
    Closed,
    #[error("calls itself {says:?}, but its certificate says {is}")]
    Impostor { says: String, is: NodeName },
    #[error(transparent)]
    Version(#[from] NoCommonVersion),
    #[error(transparent)]
    NotEntered(#[from] NotEntered),
    #[error("{reason}: {message}")]
    Refused { reason: Reason, message: String },
}

aqueduct_stage::debug_as_sentence!(HandshakeError);

impl HandshakeError {
    /// What the other node is told.
    pub(crate) fn code(&self) -> CloseCode {
        match self {
            Self::Timeout(_) => CloseCode::Timeout,
            Self::Identity(_)
            | Self::Impostor { .. }
            | Self::Version(_)
            | Self::NotEntered(_)
            | Self::Refused { .. } => CloseCode::Refused,
            Self::Connection(_) | Self::Stream(_) | Self::Unexpected(_) | Self::Closed => CloseCode::Protocol,
        }
    }

    /// Whether the other node broke a rule.
    pub(crate) fn is_breach(&self) -> bool {
        self.code() == CloseCode::Protocol && !self.is_lost()
    }

    /// Whether the other node has gone away, rather than broken a rule.
    fn is_lost(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_lost(),
            Self::Connection(_) | Self::Closed => true,
            _ => false,
        }
    }
}
