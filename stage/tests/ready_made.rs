//! The ready-made stages, and what they are built on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

#[path = "ready_made/batches.rs"]
mod batches;
#[path = "ready_made/chunked.rs"]
mod chunked;
#[path = "ready_made/net.rs"]
mod net;
#[path = "ready_made/pmap.rs"]
mod pmap;
#[path = "ready_made/queue.rs"]
mod queue;
#[path = "ready_made/rate.rs"]
mod rate;
#[path = "ready_made/tasks.rs"]
mod tasks;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aqueduct_stage::{Batch, Consumer, Cx, Graph, GraphError, Outcome, Result};
use support::Log;
use tokio::time::timeout;

/// Writes down events of any type, each by itself.
struct Collect<T>(Log<T>);

fn collect<T: Clone + fmt::Debug>(log: &Log<T>) -> impl FnMut() -> Collect<T> + use<T> {
    let log = log.clone();
    move || Collect(log.clone())
}

impl<T: Clone + fmt::Debug + Send + Sync + 'static> Consumer for Collect<T> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, _cx: &mut Cx<'_>) -> Result {
        events.into_iter().for_each(|event| self.0.push(event));
        Ok(())
    }
}

/// Runs a graph that must come to an end.
async fn run(graph: Graph) -> Result<Outcome, GraphError> {
    timeout(Duration::from_secs(1_000), graph.run()).await.expect("the graph ends")
}

/// Polls a future once.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
