//! Dialling another node, and what is said of it when that comes to nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{Sentence, SubscribeError};
use quinn::{Connection, ConnectionError};
use tokio::time::timeout;

use super::connections::Connections;
use super::established::Established;
use super::handshake::{HandshakeError, introduce};
use super::serve::serve;
use crate::frame::Reason;

/// Dials the node at `at`, and waits until both have introduced themselves.
pub(super) async fn dial(node: &Arc<Connections>, at: SocketAddr) -> Result<Established, SubscribeError> {
    let limit = node.config.handshake_timeout;
    let connection = match timeout(limit, connect(node, at)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(unreachable(at, format_args!("no answer within {limit:?}"))),
    };
    let introduced = match timeout(limit, introduce(node, &connection)).await {
        Ok(introduced) => introduced,
        Err(_) => Err(HandshakeError::Timeout(limit)),
    };
    match introduced {
        Ok((met, control)) => {
            let (established, conversation) =
                Established::new(node, connection, met, control, &node.counters().connections_out);
            node.spawn(serve(Arc::downgrade(node), established.clone(), conversation));
            Ok(established)
        }
        Err(error) => {
            // TLS 1.3 lets the dialler finish first, so a certificate that was refused shows only now. To be asked
            // before we close: quinn then remembers only that.
            let closed = connection.close_reason();
            connection.close(error.code().into(), b"handshake");
            Err(match closed {
                Some(closed) => explain(node, at, &closed),
                None => match error {
                    HandshakeError::Refused { reason, .. } => refused(reason, at.to_string(), error.to_string()),
                    HandshakeError::Version(_) | HandshakeError::NotEntered(_) => {
                        SubscribeError::Denied { at: at.to_string(), reason: error.to_string() }
                    }
                    other => unreachable(at, Sentence(&other).to_string()),
                },
            })
        }
    }
}

/// Dials, and dials anew as long as nobody answers: QUIC repeats its first packet ever more seldom, and a node that has just
/// been started is to be found soon. Whoever has answered once has the whole time to go on.
async fn connect(node: &Connections, at: SocketAddr) -> Result<Connection, SubscribeError> {
    let silence = (node.config.handshake_timeout / DIALS).max(LEAST_SILENCE);
    loop {
        let identity = node.identity();
        let mut connecting = node
            .endpoint
            .connect_with(identity.client_config(node.config.transport(Some(at.ip()))), at, &identity.server_name())
            .map_err(|error| unreachable(at, error))?;
        // An error comes again below.
        if timeout(silence, connecting.handshake_data()).await.is_ok() {
            return connecting.await.map_err(|error| explain(node, at, &error));
        }
    }
}

/// How often a node that does not answer is dialled within the timeout, and for how long at least each time.
const DIALS: u32 = 5;
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// A refusal for `reason`, as the other node names it.
pub(crate) fn refused(reason: Reason, at: String, why: String) -> SubscribeError {
    match reason {
        Reason::Unauthorized | Reason::Version | Reason::Superseded => SubscribeError::Denied { at, reason: why },
        _ => SubscribeError::Refused { at, reason: why },
    }
}

pub(super) fn unreachable(at: SocketAddr, reason: impl std::fmt::Display) -> SubscribeError {
    SubscribeError::Unreachable { at: at.to_string(), reason: reason.to_string() }
}

/// Tells a refusal from a failure: whoever closed the connection on purpose, in TLS or after it, has refused it.
fn explain(node: &Connections, at: SocketAddr, error: &ConnectionError) -> SubscribeError {
    let (at, identity) = (at.to_string(), node.identity());
    match (identity.said_by_tls(error), error) {
        (Some(reason), ConnectionError::TransportError(_)) => {
            SubscribeError::Denied { at: identity.name().to_string(), reason }
        }
        (Some(reason), _) => SubscribeError::Denied { at, reason },
        (None, ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_)) => {
            SubscribeError::Refused { at, reason: error.to_string() }
        }
        (None, _) => SubscribeError::Unreachable { at, reason: error.to_string() },
    }
}
