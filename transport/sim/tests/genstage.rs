//! GenStage's own scenarios with the producer on one node and its consumers on others, over networks that are drawn. A test
//! carries the number of the scenario; those without one are ours.
//!
//! | file | scenarios |
//! |---|---|
//! | `demand` | 2 to 5: how demand is cut; 18, 20 to 23: how it is kept back |
//! | `broadcast` | 6 to 8, 19, 50, and 170 to 176: a broadcast to other nodes |
//! | `by_demand` | 191 to 195: who gets what by demand, and partitions |
//! | `buffer` | 24 to 28, 31: what nobody asked for |
//! | `consumer` | 70 to 78, 80, 82: what a consumer is told, and whom it follows |
//! | `subscribing` | 43, 44, 46 to 49, 51, 52, 54, 55: subscribing, and again; 118: the last who leaves |
//! | `chain` | three nodes in a row, supervisors of tasks (139), what is handed back |
//!
//! The others make no sense between nodes, or say there what they say within one: 1, 69, 79, 81 and 125 to 151 but 139 are
//! about a stage alone; 29 and 30 about a log line of the producer's; 45 and 53 about options, which are checked where they
//! are written; 116 and 117 about a source and who started it; 169 and 190 about a dispatcher that nobody has used; 177 needs
//! selectors, which do not cross a link yet; 178 and 197 are about infos, which are told within a node; 179 is 50; 196 and
//! 198 are options of a dispatcher.
//!
//! What differs from the same within a node, on purpose: a subscription has an id at each end, and a failure names its
//! node.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../../stage/tests/support/mod.rs"]
mod support;
#[path = "far/two_nodes.rs"]
mod two_nodes;

#[path = "genstage/broadcast.rs"]
mod broadcast;
#[path = "genstage/buffer.rs"]
mod buffer;
#[path = "genstage/by_demand.rs"]
mod by_demand;
#[path = "genstage/chain.rs"]
mod chain;
#[path = "genstage/consumer.rs"]
mod consumer;
#[path = "genstage/demand.rs"]
mod demand;
#[path = "genstage/subscribing.rs"]
mod subscribing;

use aqueduct_stage::{Graph, Source};
use aqueduct_transport::{Remote, Wire};
use two_nodes::{between, far, machine, settled, worlds};

const SEEDS: u64 = 20;

/// Runs a scenario in some worlds.
#[track_caller]
fn scenario(run: impl AsyncFn() + Sync) {
    worlds(SEEDS, run);
}

/// The producer's graph and the consumer's, each on its machine.
fn graphs() -> (Graph, Graph) {
    (Graph::with_spawner("there", machine(0).host), Graph::with_spawner("here", machine(1).host))
}

/// `source` on the first machine as it is seen from three others.
fn from_three<S: Source<Item: Wire> + Clone>(source: &S) -> [Remote<S::Item>; 3] {
    [1, 2, 3].map(|to| between(0, to, source))
}
