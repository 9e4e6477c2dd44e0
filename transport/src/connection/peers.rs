//! [`Peer`]: what another node takes of this one, over all of its connections. Bounds that a node could get around by dialling
//! again are kept here, by its name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use crate::NodeConfig;
use crate::bugs::bug;
use crate::link::Reassembly;
use crate::shared::{Held, Shared};

/// The nodes that are connected, by name.
pub(crate) type Peers = Shared<String, Peer>;
/// One of them, known for as long as it has a connection or a subscription.
pub(crate) type KnownPeer = Arc<Held<String, Peer>>;

/// What one node takes.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its subscriptions here, those that are cut off included.
    subscriptions: AtomicUsize,
    /// What is kept for all of them, in bytes.
    pub(crate) kept_bytes: AtomicUsize,
    /// What is unfinished of its events and results.
    pub(crate) reassembly: Reassembly,
    paces: Mutex<Paces>,
}

#[derive(Debug)]
struct Paces {
    /// Of the streams that it opens.
    streams: Pace,
    /// Of its subscriptions that are refused.
    refusals: Pace,
}

impl Peer {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let streams = Pace::new(config.subscriptions_per_second);
        let refusals = Pace::new(config.refused_subscriptions_per_second).at_once(REFUSALS_AT_ONCE);
        let paces = Mutex::new(Paces { streams, refusals });
        Self {
            subscriptions: AtomicUsize::new(0),
            kept_bytes: AtomicUsize::new(0),
            reassembly: Reassembly::new(config.max_reassembly_bytes),
            paces,
        }
    }

    /// How long the next stream that it opens has to wait.
    pub(crate) fn next_stream_in(&self, now: Instant) -> Duration {
        self.paces().streams.wait(now)
    }

    /// Counts a subscription that was refused; `false` if there are too many of them.
    pub(crate) fn count_refusal(&self, now: Instant) -> bool {
        self.paces().refusals.count(1, now) || bug!(RefusalsAreFree)
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the subscriptions that a node may have, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Slot(KnownPeer);

impl Slot {
    /// `None` if the node has `bound` of them.
    pub(crate) fn take(peer: &KnownPeer, bound: usize) -> Option<Self> {
        let taken = &peer.value.subscriptions;
        let more = |count| (count < bound).then_some(count + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(peer)))
    }
}

impl Slot {
    /// The node.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.value
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.value.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many seconds' worth of refused subscriptions may come at once: with the defaults, as many as a node may have.
const REFUSALS_AT_ONCE: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_so_many_subscriptions_over_all_of_its_connections() {
        let peers = Arc::new(Peers::default());
        let connection = |name: &str| peers.hold(name.to_owned(), || Peer::new(&NodeConfig::default()));
        let (one, another, of_other) = (connection("a"), connection("a"), connection("b"));
        let first = Slot::take(&one, 2).unwrap();
        let _second = Slot::take(&another, 2).unwrap();
        assert!(Slot::take(&one, 2).is_none());
        assert!(Slot::take(&of_other, 2).is_some());
        drop(first);
        assert!(Slot::take(&another, 2).is_some());
    }

    #[test]
    fn the_refused_subscriptions_of_a_node_count_over_all_of_its_connections_and_no_other_s() {
        let peers = Arc::new(Peers::default());
        let config = NodeConfig::default().refused_subscriptions_per_second(10);
        let connection = |name: &str| peers.hold(name.to_owned(), || Peer::new(&config));
        let (one, another, of_other) = (connection("a"), connection("a"), connection("b"));
        let now = Instant::now();
        assert!((0..20).all(|_| one.value.count_refusal(now) && another.value.count_refusal(now)));
        assert!(!one.value.count_refusal(now) && !another.value.count_refusal(now));
        assert!(of_other.value.count_refusal(now));
        assert!(one.value.count_refusal(now + Duration::from_millis(100)));
    }
}
