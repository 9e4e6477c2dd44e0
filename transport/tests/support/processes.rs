//! Nodes in processes that are killed.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use aqueduct_transport::local::{self, Options, Process};
use aqueduct_transport::{Identity, Node, NodeConfig};
use aqueduct_watchdog::Watch;
use serde::Serialize;

/// A node that soon notices who is gone. Port 0 is any.
pub(crate) async fn node(identity: Identity, port: u16) -> Node {
    let config = NodeConfig::default()
        .idle_timeout(Duration::from_secs(2))
        .keep_alive(Duration::from_millis(500))
        .session_grace(Duration::from_secs(1));
    Node::builder(identity).config(config).bind(("127.0.0.1", port)).await.unwrap()
}

/// Starts this test binary again, to run its test `as_a_worker`.
pub(crate) async fn start(identity: Identity, payload: &impl Serialize, patience: Duration) -> Process {
    let options = Options::default().args(["--exact", "as_a_worker", "--nocapture"]).report_timeout(patience);
    local::spawn(&identity, payload, &options.quiet(true)).await.unwrap()
}

/// Ends the test's process if a run of this seed shows no progress for a minute; what the test started ends with it.
pub(crate) fn watch(seed: u64) -> Watch {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let watch = Watch::over(format!("{test}, seed "));
    watch.begin(seed);
    watch
}

/// splitmix64: the same for every machine.
pub(crate) fn below(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % bound
}
