//! Far consumers that acknowledge: what they do not finish is given to somebody else, with the next attempt's number.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::testing::ProbeSource;
use aqueduct_stage::{Batch, Consumer, Cx, Graph, Result, Running};
use aqueduct_transport::Node;
use tokio::sync::watch;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, nodes};

#[tokio::test]
async fn what_a_failing_far_consumer_did_not_finish_comes_back() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        // Pieces of five: it fails with the second.
        let (_, mut consuming) = consume(&here, &there, "probe", 5..10, Then::FailAt(7));
        source.expect_demand(10).await;
        source.send(0..10);
        assert!(consuming.join().await.is_err());
        source.expect_cancel().await;
        assert_eq!(handed_back(&source), [((5..10).collect(), 2)]);
    })
    .await;
}

#[tokio::test]
async fn what_waits_behind_the_failure_was_no_attempt() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        let (_, mut consuming) = consume(&here, &there, "probe", 15..20, Then::FailAt(7));
        source.expect_demand(20).await;
        source.send(0..20);
        assert!(consuming.join().await.is_err());
        source.expect_cancel().await;
        assert_eq!(handed_back(&source), [((5..10).collect(), 2), ((10..20).collect(), 1)]);
    })
    .await;
}

#[tokio::test]
async fn another_far_consumer_gets_what_the_first_did_not_finish() {
    guarded(async {
        let [one, two, there] = nodes(["one", "two", "there"]).await;
        let graph = Graph::new("producing");
        let numbers = graph.iterate("numbers", || 0..1000_u64);
        there.publish("numbers", &numbers).unwrap();
        let mut producing = graph.start();
        let (failing, mut fails) = consume(&one, &there, "numbers", 5..10, Then::FailAt(7));
        assert!(fails.join().await.is_err());
        let (other, mut lasts) = consume(&two, &there, "numbers", 5..10, Then::GoOn);
        lasts.join().await.unwrap();
        producing.join().await.unwrap();
        let (mut first, second) = (failing.take(), other.take());
        first.retain(|(number, _)| *number < 5);
        let mut all: Vec<_> = [first, second].concat();
        all.sort_unstable();
        let expected = |number| (number, if (5..10).contains(&number) { 2 } else { 1 });
        assert_eq!(all, (0..1000).map(expected).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn what_a_lost_node_did_not_finish_comes_back() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        let (seen, _consuming) = consume(&here, &there, "probe", 5..10, Then::HangAt(7));
        source.expect_demand(10).await;
        source.send(0..10);
        seen.until(10).await;
        // Five are handled, and the acknowledgement has come with the next demand.
        source.expect_demand(5).await;
        here.shutdown(Duration::ZERO).await;
        source.expect_cancel().await;
        assert_eq!(handed_back(&source), [((5..10).collect(), 2)]);
    })
    .await;
}

#[tokio::test]
async fn without_acknowledgement_nothing_comes_back() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        let graph = Graph::new("consuming");
        let far = here.source::<u64>("probe", there.local_addr());
        let seen = Seen::default();
        let then = Then::FailAt(7);
        graph.consumer("consume", move || Consume { seen: seen.clone(), then }).subscribe(&far, 5..10);
        let mut consuming = graph.start();
        source.expect_demand(10).await;
        source.send(0..10);
        assert!(consuming.join().await.is_err());
        source.expect_cancel().await;
        assert_eq!(handed_back(&source), []);
    })
    .await;
}

fn consume(node: &Node, from: &Node, name: &str, demand: std::ops::Range<usize>, then: Then) -> (Seen, Running) {
    let (graph, seen) = (Graph::new("consuming"), Seen::default());
    let far = node.source::<u64>(name, from.local_addr());
    let collect = seen.clone();
    graph.consumer("consume", move || Consume { seen: collect.clone(), then }).subscribe_acknowledged(&far, demand);
    (seen, graph.start())
}

/// What came back, and the number of the attempt that is to follow; neighbours of the same attempt as one.
fn handed_back(source: &ProbeSource<u64>) -> Vec<(Vec<u64>, u32)> {
    let mut all: Vec<(Vec<u64>, u32)> = Vec::new();
    for (events, attempt) in source.take_handed_back() {
        match all.last_mut() {
            Some((before, same)) if *same == attempt.number() => before.extend(events),
            _ => all.push((events, attempt.number())),
        }
    }
    all
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    GoOn,
    /// Fails when it is given this event.
    FailAt(u64),
    /// Never comes back when it is given this event.
    HangAt(u64),
}

struct Consume {
    seen: Seen,
    then: Then,
}

impl Consumer for Consume {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        let attempt = events.attempt().number();
        self.seen.events.lock().unwrap().extend(events.iter().map(|number| (*number, attempt)));
        self.seen.count.send_modify(|count| *count += events.len());
        match self.then {
            Then::FailAt(number) if events.contains(&number) => return Err("cannot".into()),
            Then::HangAt(number) if events.contains(&number) => std::future::pending().await,
            _ => {}
        }
        Ok(())
    }
}

/// The events that came and the number of their attempt.
#[derive(Clone, Default)]
struct Seen {
    events: Arc<Mutex<Vec<(u64, u32)>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Seen {
    async fn until(&self, count: usize) {
        self.count.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}
