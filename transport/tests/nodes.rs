//! Nodes on loopback: the same graph over two of them and more, and everything that must not go unnoticed.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "nodes/stages.rs"]
mod stages;

#[path = "nodes/admission.rs"]
mod admission;
#[path = "nodes/crossing.rs"]
mod crossing;
#[path = "nodes/ending.rs"]
mod ending;
#[path = "nodes/failing.rs"]
mod failing;
#[path = "nodes/instances.rs"]
mod instances;
#[path = "nodes/leftovers.rs"]
mod leftovers;
