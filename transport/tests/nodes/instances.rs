//! Stages of several instances at both ends of an edge.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_stage::{Cx, Exit, Graph, Intensity, Producer, Restart, Result, Running};
use aqueduct_transport::{Authority, Node, NodeConfig, Retrying};

use crate::nodes::{again, guarded, node, nodes};
use crate::stages::{GUARD, Seen, collect, ready};

#[tokio::test]
async fn what_several_instances_produce_comes_to_one_of_several_that_consume_it_once() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let sizes = [0, 1, 30, 1000].into_iter().flat_map(|events| [(events, false), (events, true)]);
        for (round, (events, acknowledged)) in sizes.cycle().take(40).enumerate() {
            let name = format!("numbers-{round}");
            let mut producing = produce(&there, &name, 0, events, Then::Stop);
            let (seen, graph) = (Seen::default(), Graph::new("consuming"));
            let source = here.source::<u64>(&name, there.local_addr());
            let collecting = collect(&graph, &seen, |_, _| ready()).concurrency(3);
            let _ = match acknowledged {
                true => collecting.subscribe_acknowledged(&source, 5..10),
                false => collecting.subscribe(&source, 5..10),
            };
            graph.run().await.unwrap();
            producing.join().await.unwrap();
            assert_all(&seen, 0..INSTANCES * events);
        }
    })
    .await;
}

#[tokio::test]
async fn several_instances_of_a_consumer_come_again_to_each_of_a_node_that_is_restarted_in_order() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), NodeConfig::default()).await;
        let identity = authority.issue("there").unwrap();
        let mut there = node(identity.clone(), NodeConfig::default()).await;
        let at = there.local_addr();
        let seen = Seen::default();
        // No more often than the other node is restarted.
        let graph = Graph::new("consuming").intensity(Intensity::new(3 * ROUNDS as usize, 10 * GUARD));
        let patient = Retrying::new(&here.source::<u64>("numbers", at), GUARD);
        collect(&graph, &seen, |_, _| ready()).concurrency(3).subscribe(&patient, 5..10).restart(Restart::Permanent);
        let mut consuming = graph.start();
        for round in 0..ROUNDS {
            let mut producing = produce(&there, "numbers", round * INSTANCES * 500, 500, Then::Stay);
            seen.until(((round + 1) * INSTANCES * 500) as usize).await;
            producing.shutdown(GUARD).await.unwrap();
            assert!(there.shutdown(GUARD).await, "somebody has not ended");
            there = again(identity.clone(), NodeConfig::default(), at).await;
        }
        consuming.stop(Duration::from_secs(1)).await.unwrap();
        assert_all(&seen, 0..ROUNDS * INSTANCES * 500);
    })
    .await;
}

/// Each event once.
fn assert_all(seen: &Seen<u64>, expected: Range<u64>) {
    let mut seen = seen.take();
    seen.sort_unstable();
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

/// Publishes a stage of several instances, each of which emits so many numbers.
fn produce(node: &Node, name: &str, first: u64, each: u64, then: Then) -> Running {
    let (graph, made) = (Graph::new("producing"), Arc::new(AtomicU64::new(0)));
    let make = move || {
        let from = first + made.fetch_add(1, Ordering::Relaxed) * each;
        Numbers { left: from..from + each, then }
    };
    let numbers = graph.producer(name, make).concurrency(INSTANCES as usize);
    node.publish(name, &numbers).unwrap();
    graph.start()
}

struct Numbers {
    left: Range<u64>,
    then: Then,
}

/// What becomes of a producer without events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Stop,
    Stay,
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(self.left.by_ref().take(demand));
        if self.left.is_empty() && self.then == Then::Stop {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Of a producing stage.
const INSTANCES: u64 = 4;
/// How often a node is restarted.
const ROUNDS: u64 = 3;
