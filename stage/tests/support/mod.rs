//! Stages that write down what happens to them, and ends of edges that a test plays by hand.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "not every test file uses all of it")]

use std::time::Duration;

use aqueduct_stage::{Exit, Failure, FailureKind};

mod ends;
mod log;
mod stages;
mod watching;

pub use ends::{Ear, Far, Heard, Near, Signal};
pub use log::{Log, Note};
pub use stages::{Gate, Numbers, Relay, Say, Sink, With, count, emit, endless, idle, relay, sink, sink_with, with};
pub use watching::{Counted, Warnings};

/// Lets everything happen that can: on a paused clock, time moves only when every task waits.
pub async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A failure with a name to recognise it by.
pub fn oops() -> Exit {
    Exit::Failed(Failure::new("test", FailureKind::Error, "oops"))
}
