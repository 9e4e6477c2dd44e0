//! GenStage's own scenarios, as far as they have a meaning in Rust: a test carries the number of the scenario it restates.
//! Between them stand scenarios of ours, for what GenStage's suite leaves open and for where we differ on purpose.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

#[path = "genstage/broadcast.rs"]
mod broadcast;
#[path = "genstage/buffer.rs"]
mod buffer;
#[path = "genstage/consumer.rs"]
mod consumer;
#[path = "genstage/demand.rs"]
mod demand;
#[path = "genstage/ending.rs"]
mod ending;
#[path = "genstage/infos.rs"]
mod infos;
#[path = "genstage/messages.rs"]
mod messages;
#[path = "genstage/observing.rs"]
mod observing;
#[path = "genstage/parting.rs"]
mod parting;
#[path = "genstage/redelivery.rs"]
mod redelivery;
#[path = "genstage/subscribing.rs"]
mod subscribing;
