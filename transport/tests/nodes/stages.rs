//! What nodes publish and take in these tests: producers of numbers, and consumers that keep what comes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{Batch, BoxFuture, Consumer, Cx, Exit, Failure, Graph, GraphError, Producer, Result, Running};
use aqueduct_transport::{Node, Wire};
use bytes::Bytes;
use tokio::sync::watch;

/// How long it may take until nothing is left of a node.
pub(crate) const GUARD: Duration = Duration::from_secs(15);

/// An event of `length` bytes.
pub(crate) fn bytes(n: u64, length: usize) -> Bytes {
    vec![n as u8; length].into()
}

/// Publishes `end` events on a node, as `name`.
pub(crate) fn produce<T: Wire>(node: &Node, name: &str, end: u64, make: fn(u64) -> T) -> Running {
    let graph = Graph::new("producing");
    let stage = graph.producer(name, move || Make { next: 0, end, make });
    node.publish(name, &stage).unwrap();
    graph.start()
}

/// Takes all events of a far producer.
pub(crate) async fn consume<T: Wire>(node: &Node, name: &str, from: &Node) -> Result<Vec<T>, GraphError> {
    let (seen, mut consuming) = consuming(node, name, from);
    consuming.join().await.map(|_| seen.take())
}

/// Takes events of a far producer, for as long as there are any.
pub(crate) fn consuming<T: Wire>(node: &Node, name: &str, from: &Node) -> (Seen<T>, Running) {
    consuming_at(node, name, from.local_addr())
}

pub(crate) fn consuming_at<T: Wire>(node: &Node, name: &str, at: SocketAddr) -> (Seen<T>, Running) {
    let (seen, graph) = (Seen::default(), Graph::new("consuming"));
    collect(&graph, &seen, |_, _| ready()).subscribe(&node.source::<T>(name, at), 50..100);
    (seen, graph.start())
}

/// Why a consumer of a far producer fails, and what it has got until then.
pub(crate) async fn fails<T: Wire>(node: &Node, name: &str, from: &Node) -> (Failure, Vec<T>) {
    fails_at(node, name, from.local_addr()).await
}

pub(crate) async fn fails_at<T: Wire>(node: &Node, name: &str, at: SocketAddr) -> (Failure, Vec<T>) {
    let (seen, mut consuming) = consuming_at::<T>(node, name, at);
    let error = consuming.join().await.unwrap_err();
    assert!(error.others.is_empty(), "{error:?}");
    (error.failure, seen.take())
}

/// Declares a consumer that keeps what comes, and then does something for each batch.
pub(crate) fn collect<T: Wire, F>(graph: &Graph, seen: &Seen<T>, then: F) -> Collecting<T, F>
where
    F: FnMut(usize, &mut Cx<'_>) -> BoxFuture<'static, Result> + Clone + Send + 'static,
{
    let seen = seen.clone();
    graph.consumer("collect", move || Collect { seen: seen.clone(), then: then.clone() })
}

pub(crate) type Collecting<T, F> =
    aqueduct_stage::Stage<Collect<T, F>, T, aqueduct_stage::Never, aqueduct_stage::NoOutput>;

pub(crate) fn ready() -> BoxFuture<'static, Result> {
    Box::pin(async { Ok(()) })
}

/// Emits what a function makes of the numbers up to `end`.
pub(crate) struct Make<F> {
    pub(crate) next: u64,
    pub(crate) end: u64,
    pub(crate) make: F,
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

pub(crate) struct Collect<T, F> {
    seen: Seen<T>,
    then: F,
}

impl<T: Wire, F> Consumer for Collect<T, F>
where
    F: FnMut(usize, &mut Cx<'_>) -> BoxFuture<'static, Result> + Send + 'static,
{
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_>) -> Result {
        let count = events.len();
        self.seen.extend(events);
        (self.then)(count, cx).await
    }
}

/// What a consumer has got.
pub(crate) struct Seen<T> {
    events: Arc<Mutex<Vec<T>>>,
    count: Arc<watch::Sender<usize>>,
}

impl<T> Seen<T> {
    pub(crate) fn extend(&self, events: Batch<T>) {
        self.count.send_modify(|count| *count += events.len());
        self.events.lock().unwrap().extend(events);
    }

    /// Waits for the first `count` events.
    pub(crate) async fn until(&self, count: usize) {
        self.count.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { events: Arc::default(), count: Arc::default() }
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { events: Arc::clone(&self.events), count: Arc::clone(&self.count) }
    }
}
