//! Streams and iterators as producers, sources as streams, closures as stages. Tests with a number restate scenarios of
//! GenStage's own suite.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use aqueduct_stage::{EventStream, EventStreamError};
use tokio::time::timeout;
use tokio_stream::StreamExt;

#[path = "streams/closures.rs"]
mod closures;
#[path = "streams/producers.rs"]
mod producers;
#[path = "streams/readers.rs"]
mod readers;

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(1_000);

async fn next<T: Send + 'static>(events: &mut EventStream<T>) -> Option<Result<T, EventStreamError>> {
    timeout(PATIENCE, events.next()).await.expect("an event")
}

async fn take(events: &mut EventStream<u64>, count: usize) -> Vec<u64> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(events).await.unwrap().unwrap());
    }
    taken
}
