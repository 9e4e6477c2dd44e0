//! Serving a connection for as long as it lives: questions are answered, streams are handed on, and the peer is watched.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use aqueduct_stage::{Sentence, notice};
use quinn::Connection;
use tokio::time::{Instant, sleep, sleep_until};

use super::close::CloseCode;
use super::connections::Connections;
use super::control::{Control, converse};
use super::counters::Present;
use super::established::Established;
use super::fate::{Ended, Fate};
use super::handshake::Presence;
use super::knock::Knocker;
use super::offences::Offences;
use super::silence::Silence;
use super::stream::FrameStream;
use crate::{Limits, NodeName};

/// What is said beside subscriptions.
pub(super) struct Conversation {
    pub(super) control: Control,
    pub(super) stream: FrameStream,
    /// The connection counts for as long as it is served.
    pub(super) _presence: Presence,
    pub(super) _counted: Present,
}

/// Takes subscriptions, and answers questions, for as long as the connection lives.
pub(super) async fn serve(node: Weak<Connections>, established: Established, mut conversation: Conversation) {
    let Established { connection, peer, limits, known, fate, expires, can_revoke, inquiry, .. } = established;
    let Some(counters) = node.upgrade().map(|node| Arc::clone(node.counters())) else { return };
    let converses = async {
        let Conversation { control, stream, .. } = &mut conversation;
        if let Err(error) = converse(control, stream, &inquiry).await
            && error.is_breach()
        {
            let why = Sentence(&error).to_string();
            notice!(counters.notices, warn, "peer broke the protocol", %peer, error = why);
            counters.offences.add(1);
            connection.close(CloseCode::Protocol.into(), why.as_bytes());
        }
        // The control stream stays open for as long as the connection does.
    };
    let offences = Arc::new(Offences::new(connection.clone(), known, Arc::clone(&counters)));
    let opens = Opens { peer: Arc::clone(&peer), limits, can_revoke, fate: fate.clone(), expires, offences };
    let lives = async {
        tokio::join!(converses, take_streams(node.clone(), &connection, &opens));
    };
    let watches = watch_over(&node, &connection, &peer, &fate, expires);
    tokio::select! {
        biased;
        () = lives => {}
        never = watches => match never {},
    }
}

/// Closes a connection whose peer is not what it was: its certificate has expired, or its process is gone.
async fn watch_over(
    node: &Weak<Connections>,
    connection: &Connection,
    peer: &NodeName,
    fate: &Fate,
    expires: Option<Instant>,
) -> Infallible {
    let Some((closes_expired, look_every, knocker, counters)) = node.upgrade().map(|node| {
        let config = &node.config;
        (config.close_expired, config.keep_alive, node.knocker.clone(), Arc::clone(node.counters()))
    }) else {
        return pending().await;
    };
    let expires = async {
        match expires {
            Some(expires) if closes_expired => sleep_until(expires).await,
            _ => pending().await,
        }
        (Ended::Expired, CloseCode::Expired)
    };
    let gone = async {
        match knocker {
            Some(knocker) => is_gone(connection, look_every, &knocker).await,
            None => pending().await,
        }
        (Ended::Gone, CloseCode::Gone)
    };
    let (ended, code) = tokio::select! {
        biased;
        ended = expires => ended,
        ended = gone => ended,
    };
    notice!(counters.notices, info, "connection closed", %peer, %ended);
    fate.set(ended);
    connection.close(code.into(), ended.to_string().as_bytes());
    pending().await
}

/// Waits until the peer is silent, and nothing listens at its address any more.
async fn is_gone(connection: &Connection, look_every: Duration, knocker: &Knocker) {
    let heard = || connection.stats().udp_rx.datagrams;
    let mut silence = Silence::new(heard());
    loop {
        sleep(look_every).await;
        if silence.look(heard()) && knocker.is_refused(connection.remote_address()).await {
            return;
        }
    }
}

/// What streams that a peer opens on a connection have in common.
struct Opens {
    peer: Arc<NodeName>,
    limits: Limits,
    can_revoke: bool,
    fate: Fate,
    expires: Option<Instant>,
    offences: Arc<Offences>,
}

async fn take_streams(node: Weak<Connections>, connection: &Connection, opens: &Opens) {
    let Opens { peer, limits, can_revoke, fate, expires, offences } = opens;
    loop {
        match connection.accept_bi().await {
            Ok(stream) => {
                let pause = offences.peer().value.next_stream_in(Instant::now());
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                let Some(node) = node.upgrade() else { return };
                let opened = Opened {
                    stream: FrameStream::new(stream, limits.clone(), fate.clone()),
                    peer: Arc::clone(peer),
                    limits: limits.clone(),
                    can_revoke: *can_revoke,
                    expires: *expires,
                    offences: Arc::clone(offences),
                };
                node.spawn_link(Arc::clone(&node.streams).take(opened));
            }
            Err(closed) => {
                tracing::debug!(%peer, %closed, "connection ended");
                return;
            }
        }
    }
}

/// A stream that a peer has opened.
pub(crate) struct Opened {
    pub(crate) stream: FrameStream,
    pub(crate) peer: Arc<NodeName>,
    pub(crate) limits: Limits,
    /// When the certificate with which the peer has proved itself expires.
    pub(crate) expires: Option<Instant>,
    /// Both nodes know how events are asked back.
    pub(crate) can_revoke: bool,
    pub(crate) offences: Arc<Offences>,
}
