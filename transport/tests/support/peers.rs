//! Nodes that produce and consume numbers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct_stage::{Cx, EventStreamError, Exit, Graph, Producer, Result, Running, SourceExt};
use aqueduct_transport::{Access, Node};
use tokio_stream::StreamExt;

/// Publishes the numbers up to `end`, as `name`.
pub(crate) fn produce(node: &Node, name: &str, end: u64, subscribers: Access) -> Running {
    let graph = Graph::new("producing");
    node.publish_to(subscribers, name, &graph.producer(name, move || Numbers { next: 0, end })).unwrap();
    graph.start()
}

/// Takes everything.
pub(crate) async fn consume(node: &Node, name: &str, at: SocketAddr) -> Result<Vec<u64>, EventStreamError> {
    node.source::<u64>(name, at).events(50..100).collect().await
}

/// A node of the cluster gets everything, whatever others do.
pub(crate) async fn is_served(node: &Node, by: &Node) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("numbers-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let _running = produce(by, &name, 1000, Access::everybody());
    assert_eq!(consume(node, &name, by.local_addr()).await.unwrap(), (0..1000).collect::<Vec<_>>());
}

/// Emits the numbers up to `end`.
struct Numbers {
    next: u64,
    end: u64,
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let to = self.end.min(self.next + demand as u64);
        cx.emit_all(self.next..to);
        self.next = to;
        if to == self.end {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}
