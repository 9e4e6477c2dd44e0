//! How subscriptions between nodes, and nodes themselves, end.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{
    Cx, Edge, EventStreamError, Exit, FailureKind, Graph, Producer, Publisher, Refusal, Result, Source, SourceExt,
    SubscribeError, Subscription,
};
use aqueduct_transport::{Authority, Node, NodeConfig};
use bytes::Bytes;
use tokio_stream::StreamExt;

use crate::nodes::{guarded, node, nodes};
use crate::stages::{GUARD, Make, Seen, bytes, collect, consuming, fails, produce, ready};

#[tokio::test]
async fn a_consumer_that_has_enough_ends_its_subscription_only() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        for _ in 0..3 {
            let (seen, graph) = (Seen::default(), Graph::new("consuming"));
            collect(&graph, &seen, |_, cx| {
                cx.stop(Exit::Normal);
                ready()
            })
            .subscribe(&here.source::<u64>("endless", there.local_addr()), 50..100);
            graph.run().await.unwrap();
            assert!((1..=50).contains(&seen.take().len()));
        }
        // It ends when its last subscriber has left: all three did.
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn instances_that_come_after_the_end_of_a_short_source_have_an_empty_share() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        for (round, events) in [0, 1, 10].into_iter().cycle().take(30).enumerate() {
            let name = format!("short-{round}");
            let mut producing = produce(&there, &name, events, |n| n);
            let (seen, graph) = (Seen::default(), Graph::new("consuming"));
            let source = here.source::<u64>(&name, there.local_addr());
            collect(&graph, &seen, |_, _| ready()).concurrency(4).subscribe(&source, 50..100);
            graph.run().await.unwrap();
            let mut seen = seen.take();
            seen.sort_unstable();
            assert_eq!(seen, (0..events).collect::<Vec<_>>());
            producing.join().await.unwrap();
        }
    })
    .await;
}

/// Has one place, for whoever comes first.
struct OnePlace(Make<fn(u64) -> u64>, usize);

impl Producer for OnePlace {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        self.0.handle_demand(demand, cx).await
    }

    async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_, u64>) -> Result {
        self.1 = self.1.checked_sub(1).ok_or(Refusal::new("the place is taken"))?;
        Ok(())
    }
}

#[tokio::test]
async fn a_far_subscriber_that_the_producer_refuses_is_told_so_and_the_producer_lives() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let graph = Graph::new("producing");
        let make = || OnePlace(Make { next: 0, end: u64::MAX, make: |n| n }, 1);
        let stage = graph.producer("choosy", make);
        there.publish("choosy", &stage).unwrap();
        let mut producing = graph.start();
        let (seen, first) = consuming::<u64>(&here, "choosy", &there);
        seen.until(100).await;
        let (failure, events) = fails::<u64>(&here, "choosy", &there).await;
        assert_eq!((failure.kind(), failure.message(), events.len()), (FailureKind::Refused, "the place is taken", 0));
        seen.until(1_000).await;
        drop(first);
        producing.stop(GUARD).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_is_dropped_ends_its_subscription() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, graph) = (Seen::default(), Graph::new("consuming"));
        collect(&graph, &seen, |_, _| ready()).subscribe(&here.source::<u64>("endless", there.local_addr()), 50..100);
        let consuming = graph.start();
        seen.until(1000).await;
        drop(consuming);
        assert_eq!(producing.join().await.unwrap_err().failure.kind(), FailureKind::Remote);
        assert!(there.shutdown(GUARD).await && here.shutdown(GUARD).await);
    })
    .await;
}

#[tokio::test]
async fn a_far_source_is_a_stream_that_leaves_nothing_behind() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        let source = here.source::<u64>("endless", there.local_addr());
        let mut last = None;
        for _ in 0..50 {
            let mut events = source.events(5..10);
            let first = events.next().await.unwrap().unwrap();
            assert!(last.is_none_or(|last| first > last));
            last = events.close().pop().or(Some(first));
        }
        let unknown = here.source::<u64>("nobody", there.local_addr());
        let error = unknown.events(5..10).next().await.unwrap().unwrap_err();
        assert!(matches!(error, EventStreamError::Subscribe(SubscribeError::Unknown { .. })), "{error}");
        // It ends when its last subscriber has left: all of them did.
        producing.join().await.unwrap();
        assert!(there.shutdown(GUARD).await && here.shutdown(GUARD).await);
    })
    .await;
}

#[tokio::test]
async fn a_producer_that_is_dropped_is_an_error_at_the_consumer() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        drop(producing);
        let failure = consuming.join().await.unwrap_err().failure;
        assert_eq!(failure.kind(), FailureKind::Remote);
        assert!(failure.message().contains("endless: killed"), "{failure}");
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_shut_down_is_an_error_and_no_shorter_success() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        assert!(!there.shutdown(Duration::ZERO).await, "a subscription was open");
        let failure = consuming.join().await.unwrap_err().failure;
        assert_eq!(failure.kind(), FailureKind::Disconnected);
        assert_eq!(producing.join().await.unwrap_err().failure.kind(), FailureKind::Disconnected);
    })
    .await;
}

#[tokio::test]
async fn a_consumers_node_that_is_shut_down_is_an_error_too() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        assert!(!here.shutdown(Duration::ZERO).await, "a subscription was open");
        assert_eq!(consuming.join().await.unwrap_err().failure.kind(), FailureKind::Disconnected);
        // Its last consumer is lost, and with it what was on its way: that is no success either.
        assert_eq!(producing.join().await.unwrap_err().failure.kind(), FailureKind::Disconnected);
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_last_handle_is_gone_is_lost_to_its_subscribers() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        drop(there);
        let failure = consuming.join().await.unwrap_err().failure;
        assert_eq!(failure.kind(), FailureKind::Disconnected, "{failure}");
        assert_eq!(producing.join().await.unwrap_err().failure.kind(), FailureKind::Disconnected);
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_lets_subscribers_have_everything() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "bytes", 100, |n| bytes(n, 100_000));
        let (seen, mut consuming) = consuming::<Bytes>(&here, "bytes", &there);
        seen.until(1).await;
        let (in_time, outcome) = tokio::join!(there.shutdown(GUARD), consuming.join());
        assert!(in_time);
        outcome.unwrap();
        assert_eq!(seen.take().len(), 100);
        producing.join().await.unwrap();
        let (failure, _) = fails::<Bytes>(&here, "bytes", &there).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
    })
    .await;
}

#[tokio::test]
async fn the_address_of_a_node_that_was_shut_down_is_free() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let [here, mut there] = nodes(["here", "there"]).await;
        let address = there.local_addr();
        for _ in 0..20 {
            there.shutdown(Duration::ZERO).await;
            let next = Node::bind(address, authority.issue("there").unwrap()).await.unwrap();
            there = next;
        }
        let error = Node::bind(address, authority.issue("other").unwrap()).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot open a UDP socket at {address}: ")), "{error}");
        drop(here);
    })
    .await;
}

#[tokio::test]
async fn a_node_that_shuts_down_refuses_new_subscriptions() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let _producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut present) = consuming::<u64>(&here, "endless", &there);
        seen.until(1).await;
        let ending = {
            let there = there.clone();
            async move { there.shutdown(GUARD).await }
        };
        let late = async {
            let (failure, _) = fails::<u64>(&here, "endless", &there).await;
            present.stop(GUARD).await.unwrap();
            failure
        };
        let (in_time, failure) = tokio::join!(ending, late);
        assert!(in_time);
        assert!(failure.message().ends_with("the node is shutting down"), "{failure}");
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_gives_up_a_source_that_does_not_answer() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let config = NodeConfig::default().handshake_timeout(Duration::from_millis(300));
        let here = node(authority.issue("here").unwrap(), config).await;
        let there = node(authority.issue("there").unwrap(), NodeConfig::default()).await;
        there.publish("mute", &Mute).unwrap();
        let (failure, _) = fails::<u64>(&here, "mute", &there).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
        assert!(failure.message().contains("no answer within 300ms"), "{failure}");
        assert!(there.shutdown(GUARD).await, "the attempt is still there");
    })
    .await;
}

/// A source that never becomes an edge.
#[derive(Clone)]
struct Mute;

impl Source for Mute {
    type Item = u64;

    fn name(&self) -> String {
        "mute".into()
    }

    async fn open(&self, _: usize, _: Subscription<u64>) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
        std::future::pending().await
    }
}
