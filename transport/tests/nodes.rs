//! Nodes on loopback: the same graph over two of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Batch, BoxFuture, Consumer, Cx, Exit, FailureKind, Graph, GraphError, Outcome, Producer, Result, Running,
};
use aqueduct_transport::{Authority, Limits, Node, NodeConfig, PublishError, Wire};

/// Emits what a function makes of the numbers up to `end`.
struct Make<F> {
    next: u64,
    end: u64,
    make: F,
}

impl<T: Wire, F: FnMut(u64) -> T + Send + 'static> Producer for Make<F> {
    type Out = T;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, T>) -> Result {
        let to = self.end.min(self.next + demand as u64);
        cx.emit_all((self.next..to).map(&mut self.make));
        self.next = to;
        if to == self.end {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Keeps what comes, and can be told what to do with each batch.
struct Collect<T> {
    seen: Arc<Mutex<Vec<T>>>,
    then: fn(usize, &mut Cx<'_>) -> BoxFuture<'static, Result>,
}

impl<T: Wire> Consumer for Collect<T> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_>) -> Result {
        let count = events.len();
        self.seen.lock().unwrap().extend(events);
        (self.then)(count, cx).await
    }
}

fn go_on(_: usize, _: &mut Cx<'_>) -> BoxFuture<'static, Result> {
    Box::pin(async { Ok(()) })
}

/// Two nodes of one cluster.
async fn nodes() -> (Node, Node) {
    let authority = Authority::dev("test").unwrap();
    (node(&authority, "here").await, node(&authority, "there").await)
}

async fn node(authority: &Authority, name: &str) -> Node {
    Node::bind("127.0.0.1:0", authority.issue(name).unwrap()).await.unwrap()
}

/// Publishes `end` events on a node, as `name`.
fn produce<T: Wire>(node: &Node, name: &str, end: u64, make: fn(u64) -> T) -> Running {
    let graph = Graph::new("producing");
    let stage = graph.producer(name, move || Make { next: 0, end, make });
    node.publish(name, &stage).unwrap();
    graph.start()
}

/// Takes all events of a far producer.
async fn consume<T: Wire>(node: &Node, name: &str, at: SocketAddr) -> Result<(Vec<T>, Outcome), GraphError> {
    let seen = Arc::<Mutex<Vec<T>>>::default();
    let (graph, theirs) = (Graph::new("consuming"), Arc::clone(&seen));
    graph
        .consumer("collect", move || Collect { seen: Arc::clone(&theirs), then: go_on })
        .subscribe(&node.source::<T>(name, at), 50..100);
    let outcome = graph.run().await?;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    Ok((seen, outcome))
}

#[tokio::test]
async fn a_finite_producer_is_taken_to_its_end() {
    let (here, there) = nodes().await;
    let mut producing = produce(&there, "numbers", 10_000, |n| n);
    let (seen, _) = consume::<u64>(&here, "numbers", there.local_addr()).await.unwrap();
    assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
    assert_eq!(producing.join().await.unwrap().stage("numbers").unwrap().events_out, 10_000);
    assert!(there.shutdown(Duration::from_secs(5)).await && here.shutdown(Duration::from_secs(5)).await);
}
