//! Connections between two nodes: dialling, the introduction of both, and taking subscriptions.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use aqueduct_stage::SubscribeError;
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use crate::error::error_chain;
use crate::frame::{Frame, Hello, HelloAck, Reason, Refuse};
use crate::node::Inner;
use crate::publication::{IncomingLink, refuse};
use crate::stream::{FrameStream, StreamError};
use crate::{IdentityError, NodeName};

/// The version of the protocol that this crate speaks.
const PROTO: u16 = 1;
/// The code with which a connection is closed that breaks the rules.
const CLOSE_PROTOCOL: u32 = 2;
/// The code with which a connection is closed that is not wanted.
const CLOSE_REFUSED: u32 = 3;

/// A connection on which both nodes have introduced themselves.
#[derive(Clone)]
pub(crate) struct Established {
    connection: Connection,
    /// Who is at the other end, by its certificate.
    pub(crate) peer: Arc<NodeName>,
}

impl Established {
    pub(crate) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Opens a stream for a subscription; waits if there are as many as the peer allows.
    pub(crate) async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.connection.open_bi().await
    }
}

/// Dials the node at `at`, and waits until both have introduced themselves.
pub(crate) async fn dial(node: &Arc<Inner>, at: SocketAddr) -> Result<Established, SubscribeError> {
    let limit = node.config.handshake_timeout;
    let connecting = node
        .endpoint
        .connect_with(node.identity.client_config(node.config.transport()), at, &node.identity.server_name())
        .map_err(|error| unreachable(at, error))?;
    let connection = match timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(|error| explain(at, &error))?,
        Err(_) => return Err(unreachable(at, format_args!("no answer within {limit:?}"))),
    };
    let introduced = match timeout(limit, introduce(node, &connection)).await {
        Ok(introduced) => introduced,
        Err(_) => Err(HandshakeError::Timeout(limit)),
    };
    match introduced {
        Ok((peer, control)) => {
            let established = Established { connection, peer: Arc::new(peer) };
            node.spawn_connection(serve(Arc::downgrade(node), established.clone(), control));
            Ok(established)
        }
        Err(error) => {
            // TLS 1.3 lets the dialler finish first, so a certificate that was refused shows only now. To be asked
            // before we close: quinn then remembers only that.
            let closed = connection.close_reason();
            connection.close(VarInt::from_u32(CLOSE_PROTOCOL), b"handshake");
            Err(match closed {
                Some(closed) => explain(at, &closed),
                None => match error {
                    HandshakeError::Refused { reason, message } => {
                        SubscribeError::Refused { at: at.to_string(), reason: format!("{reason}: {message}") }
                    }
                    other => unreachable(at, error_chain(&other)),
                },
            })
        }
    }
}

/// Accepts connections for as long as there is a node.
pub(crate) async fn listen(endpoint: Endpoint, node: Weak<Inner>) {
    while let Some(incoming) = endpoint.accept().await {
        let Some(node) = node.upgrade() else { return };
        if endpoint.open_connections() >= node.config.max_connections || node.is_shutting_down() {
            tracing::warn!(from = %incoming.remote_address(), bound = node.config.max_connections, "connection refused");
            incoming.refuse();
            continue;
        }
        let accepted = accept(Arc::downgrade(&node), incoming);
        node.spawn_connection(accepted);
    }
}

async fn accept(node: Weak<Inner>, incoming: Incoming) {
    let from = incoming.remote_address();
    let Some((limit, shared)) = node.upgrade().map(|node| (node.config.handshake_timeout, node)) else { return };
    let welcomed = timeout(limit, async {
        let connection = incoming.await?;
        match welcome(&shared, &connection).await {
            Ok((peer, control)) => Ok((connection, peer, control)),
            Err(error) => {
                connection.close(VarInt::from_u32(CLOSE_REFUSED), error.to_string().as_bytes());
                Err(error)
            }
        }
    });
    let welcomed = welcomed.await.unwrap_or(Err(HandshakeError::Timeout(limit)));
    drop(shared);
    match welcomed {
        Ok((connection, peer, control)) => {
            tracing::debug!(%peer, %from, "connected");
            serve(node, Established { connection, peer: Arc::new(peer) }, control).await;
        }
        Err(error) => tracing::warn!(%from, error = error_chain(&error), "connection refused"),
    }
}

/// Takes subscriptions for as long as the connection lives.
async fn serve(node: Weak<Inner>, established: Established, control: FrameStream) {
    // The control stream stays open for as long as the connection does.
    let _control = control;
    let peer = Arc::clone(&established.peer);
    let connection = established.connection;
    loop {
        match connection.accept_bi().await {
            Ok(stream) => {
                let Some(node) = node.upgrade() else { return };
                let stream = FrameStream::new(stream, node.config.limits.clone());
                node.spawn_link(take_subscription(Arc::clone(&node), stream, peer.to_string()));
            }
            Err(closed) => {
                tracing::debug!(%peer, %closed, "connection ended");
                return;
            }
        }
    }
}

/// Reads what a subscriber wants, and serves it.
async fn take_subscription(node: Arc<Inner>, mut stream: FrameStream, peer: String) {
    let frame = match timeout(node.config.handshake_timeout, next_frame(&mut stream)).await {
        Ok(Ok(Frame::Subscribe(subscribe))) => subscribe,
        other => {
            let got = other.map(|answer| answer.map(|frame| frame.name()));
            tracing::warn!(peer, ?got, "expected a subscription");
            stream.reset(CLOSE_PROTOCOL);
            return;
        }
    };
    let publication = node.publication(&frame.producer);
    let shutting_down = node.is_shutting_down();
    let link = IncomingLink { subscribe: frame, stream, limits: node.config.limits.clone(), peer };
    // A link must not keep its node alive: whoever publishes decides how long.
    drop(node);
    match publication {
        _ if shutting_down => refuse(link, Reason::Shutdown, "the node is shutting down", None).await,
        None => refuse(link, Reason::UnknownProducer, "", None).await,
        Some(publication) => publication.serve(link).await,
    }
}

/// The dialler's side of the introduction.
async fn introduce(node: &Inner, connection: &Connection) -> Result<(NodeName, FrameStream), HandshakeError> {
    let peer = node.identity.peer(connection)?;
    let mut control = FrameStream::new(connection.open_bi().await?, node.config.limits.clone());
    let hello = Hello {
        proto_min: PROTO,
        proto_max: PROTO,
        cluster: node.identity.cluster().to_owned(),
        node: node.identity.node().to_owned(),
        incarnation: node.incarnation,
        features: Vec::new(),
    };
    send(&mut control, &Frame::Hello(hello), node).await?;
    match next_frame(&mut control).await? {
        Frame::HelloAck(ack) if ack.proto != PROTO => Err(HandshakeError::Version { min: ack.proto, max: ack.proto }),
        Frame::HelloAck(ack) if ack.node != peer.node() => Err(HandshakeError::Impostor { says: ack.node, is: peer }),
        Frame::HelloAck(_) => Ok((peer, control)),
        Frame::Refuse(Refuse { reason, message }) => Err(HandshakeError::Refused { reason, message }),
        other => Err(HandshakeError::Unexpected(other.name())),
    }
}

/// The listener's side of the introduction.
async fn welcome(node: &Inner, connection: &Connection) -> Result<(NodeName, FrameStream), HandshakeError> {
    let peer = node.identity.peer(connection)?;
    let mut control = FrameStream::new(connection.accept_bi().await?, node.config.limits.clone());
    let hello = match next_frame(&mut control).await? {
        Frame::Hello(hello) => hello,
        other => return Err(HandshakeError::Unexpected(other.name())),
    };
    let judged = judge(&hello, &peer);
    let answer = match &judged {
        Ok(()) => Frame::HelloAck(HelloAck {
            proto: PROTO,
            node: node.identity.node().to_owned(),
            incarnation: node.incarnation,
            features: Vec::new(),
        }),
        Err(error) => {
            let reason = match error {
                HandshakeError::Version { .. } => Reason::Version,
                _ => Reason::Unauthorized,
            };
            Frame::Refuse(Refuse { reason, message: error.to_string() })
        }
    };
    send(&mut control, &answer, node).await?;
    if judged.is_err() {
        control.finish();
        control.delivered().await;
    }
    judged.map(|()| (peer, control))
}

/// Whether a dialler is who its certificate says, and can be understood.
fn judge(hello: &Hello, peer: &NodeName) -> Result<(), HandshakeError> {
    if (hello.cluster.as_str(), hello.node.as_str()) != (peer.cluster(), peer.node()) {
        return Err(HandshakeError::Impostor { says: hello.node.clone(), is: peer.clone() });
    }
    if !(hello.proto_min..=hello.proto_max).contains(&PROTO) {
        return Err(HandshakeError::Version { min: hello.proto_min, max: hello.proto_max });
    }
    Ok(())
}

async fn send(stream: &mut FrameStream, frame: &Frame, node: &Inner) -> Result<(), HandshakeError> {
    let parts = frame.encode(&node.config.limits).map_err(StreamError::from)?;
    stream.queue(parts.head);
    while !stream.is_flushed() {
        stream.progress(std::future::pending()).await?;
    }
    Ok(())
}

async fn next_frame(stream: &mut FrameStream) -> Result<Frame, HandshakeError> {
    loop {
        if let Some(frame) = stream.next_frame()? {
            return Ok(frame);
        }
        if stream.is_read_to_end() {
            return Err(HandshakeError::Closed);
        }
        stream.progress(std::future::pending()).await?;
    }
}

/// Why two nodes did not come together.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
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
    #[error("speaks versions {min} to {max} of the protocol, this node speaks {PROTO}")]
    Version { min: u16, max: u16 },
    #[error("{reason}: {message}")]
    Refused { reason: Reason, message: String },
}

fn unreachable(at: SocketAddr, reason: impl std::fmt::Display) -> SubscribeError {
    SubscribeError::Unreachable { at: at.to_string(), reason: reason.to_string() }
}

/// Tells a refusal from a failure: whoever closed the connection on purpose, in TLS or after it, has refused it.
fn explain(at: SocketAddr, error: &ConnectionError) -> SubscribeError {
    match error {
        ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_) => {
            SubscribeError::Refused { at: at.to_string(), reason: error.to_string() }
        }
        other => unreachable(at, other),
    }
}
