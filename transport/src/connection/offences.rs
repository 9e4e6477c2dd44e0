//! [`Offences`]: what a peer has done wrong on one connection, and what follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::Connection;
use tokio::time::Instant;

use super::close::CloseCode;
use super::counters::Counters;
use super::peers::KnownPeer;

/// What a peer has done wrong on one connection.
pub(crate) struct Offences {
    connection: Connection,
    /// What it takes, on all of them.
    peer: KnownPeer,
    count: AtomicU32,
    counters: Arc<Counters>,
}

impl Offences {
    pub(super) const fn new(connection: Connection, peer: KnownPeer, counters: Arc<Counters>) -> Self {
        Self { connection, peer, count: AtomicU32::new(0), counters }
    }

    /// What the peer takes, on all of its connections.
    pub(crate) fn peer(&self) -> &KnownPeer {
        &self.peer
    }

    /// Counts a subscription that is refused, which is an offence if there are too many of them.
    pub(crate) fn refused(&self) {
        self.counters.subscriptions_refused.add(1);
        if !self.peer.value.count_refusal(Instant::now()) {
            self.add("too many of its subscriptions had to be refused");
        }
    }

    /// Counts one, and closes the connection at the last.
    pub(crate) fn add(&self, why: &str) {
        self.counters.offences.add(1);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_OFFENCES {
            self.connection.close(CloseCode::Protocol.into(), why.as_bytes());
        }
    }
}

/// How often a peer may break the rules on one of its streams before the whole connection is closed: a fault of one
/// subscription should not end the others, and somebody who keeps trying should not go on.
const MAX_OFFENCES: u32 = 3;
