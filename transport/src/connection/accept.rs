//! Accepting connections: who is let in, and what is said of those who are not.

use std::sync::{Arc, Weak};

use aqueduct_stage::{Sentence, notice};
use quinn::{Connection, Endpoint, Incoming};
use tokio::time::{Instant, timeout_at};

use super::admission::{Place, Verdict};
use super::connections::Connections;
use super::established::Established;
use super::handshake::{HandshakeError, Met, welcome};
use super::serve::serve;
use super::stream::FrameStream;

/// Accepts connections for as long as there is a node.
pub(super) async fn listen(endpoint: Endpoint, node: Weak<Connections>) {
    while let Some(incoming) = endpoint.accept().await {
        let Some(node) = node.upgrade() else { return };
        let from = incoming.remote_address();
        match node.gate.enter(from.ip(), incoming.remote_address_validated(), Instant::now()) {
            _ if node.ended().is_cancelled() => {
                node.counters().connections_refused.add(1);
                incoming.refuse();
            }
            Ok(place) => node.spawn(accept(Arc::downgrade(&node), incoming, place)),
            // An address that is not validated can always be asked to prove itself.
            Err(Verdict::Validate) => drop(incoming.retry()),
            Err(Verdict::Refuse) => {
                let bound = node.config.max_connections;
                notice!(node.counters().notices, warn, "connection refused: there are enough", %from, bound);
                node.counters().connections_refused.add(1);
                incoming.refuse();
            }
            Err(Verdict::Defer | Verdict::Accept) => incoming.ignore(),
        }
    }
}

async fn accept(node: Weak<Connections>, incoming: Incoming, mut place: Place) {
    let from = incoming.remote_address();
    let Some(shared) = node.upgrade() else { return };
    match admit(&shared, incoming).await {
        Ok((connection, met, control)) => {
            let Met { peer, agreement, .. } = &met;
            tracing::debug!(%peer, %from, version = agreement.version, features = ?agreement.features, "connected");
            place.joined();
            let (established, conversation) =
                Established::new(&shared, connection, met, control, &shared.counters().connections_in);
            drop(shared);
            serve(node, established, conversation).await;
        }
        Err(error) => {
            let by_tls = match &error {
                HandshakeError::Connection(error) => shared.identity().said_by_tls(error),
                _ => None,
            };
            let why = by_tls.unwrap_or_else(|| Sentence(&error).to_string());
            notice!(shared.counters().notices, warn, "connection refused", %from, error = why);
            shared.counters().connections_refused.add(1);
            if error.is_breach() {
                shared.counters().offences.add(1);
            }
        }
    }
}

/// Lets a dialler prove who it is and introduce itself, all in one time limit.
async fn admit(node: &Arc<Connections>, incoming: Incoming) -> Result<(Connection, Met, FrameStream), HandshakeError> {
    let limit = node.config.handshake_timeout;
    let end = Instant::now() + limit;
    let server = node.server_config(incoming.remote_address().ip());
    let connecting = incoming.accept_with(Arc::new(server))?;
    let connection = timeout_at(end, connecting).await.map_err(|_| HandshakeError::Timeout(limit))??;
    match timeout_at(end, welcome(node, &connection)).await.unwrap_or(Err(HandshakeError::Timeout(limit))) {
        Ok((met, control)) => Ok((connection, met, control)),
        Err(error) => {
            connection.close(error.code().into(), Sentence(&error).to_string().as_bytes());
            Err(error)
        }
    }
}
