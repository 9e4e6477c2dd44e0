//! How a subscription between nodes fails, and who is told what.

use std::net::UdpSocket;
use std::time::Duration;

use aqueduct_stage::{Cx, FailureKind, Graph, Producer, Result};
use aqueduct_transport::{Authority, Limits, NodeConfig, PublishError};
use bytes::Bytes;

use crate::nodes::{guarded, node, nodes};
use crate::stages::{Make, Seen, bytes, collect, consume, consuming, fails, fails_at, produce};

#[tokio::test]
async fn a_far_failure_is_the_consumers_and_names_its_stage() {
    for (panics, says) in [(false, "stage \"numbers\" failed: boom"), (true, "stage \"numbers\" panicked: boom")] {
        guarded(async move {
            let [here, there] = nodes(["here", "there"]).await;
            let graph = Graph::new("producing");
            there.publish("public", &graph.producer("numbers", move || Boom { panics, left: 3 })).unwrap();
            let mut producing = graph.start();
            let (failure, seen) = fails::<u64>(&here, "public", &there).await;
            assert_eq!((failure.kind(), failure.message()), (FailureKind::Remote, says));
            assert!(failure.origin().contains("public at aqueduct://test/node/there"), "{failure}");
            // What it had emitted before is not lost.
            assert!(!seen.is_empty());
            assert_eq!(producing.join().await.unwrap_err().failure.origin(), "numbers");
        })
        .await;
    }
}

#[tokio::test]
async fn a_name_that_is_not_published_is_named() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (failure, _) = fails::<u64>(&here, "nothing", &there).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
        assert_eq!(failure.message(), format!("no producer named \"nothing\" at {}", there.local_addr()));
    })
    .await;
}

#[tokio::test]
async fn another_type_is_refused_with_both_signatures() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let _producing = produce(&there, "numbers", 10, |n| n);
        let (failure, _) = fails::<(String, bool)>(&here, "numbers", &there).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
        assert!(failure.message().contains("\"u64\", not \"(string, bool)\""), "{failure}");
    })
    .await;
}

#[tokio::test]
async fn a_producer_that_has_ended_says_so() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "numbers", 10, |n| n);
        consume::<u64>(&here, "numbers", &there).await.unwrap();
        producing.join().await.unwrap();
        let (failure, _) = fails::<u64>(&here, "numbers", &there).await;
        assert_eq!((failure.kind(), failure.message()), (FailureKind::Subscribe, "producer \"numbers\" has ended"));
    })
    .await;
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_an_error_in_time() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let config = NodeConfig::default().handshake_timeout(Duration::from_millis(300));
        let here = node(authority.issue("here").unwrap(), config).await;
        // Bound, so that nobody else is there, and mute.
        let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (failure, _) = fails_at::<u64>(&here, "numbers", mute.local_addr().unwrap()).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
        assert!(failure.message().contains("no answer within 300ms"), "{failure}");
    })
    .await;
}

#[tokio::test]
async fn a_name_is_published_once() {
    let [here, _there] = nodes(["here", "there"]).await;
    let graph = Graph::new("producing");
    let numbers = graph.producer("numbers", || Make { next: 0, end: 1, make: |n| n });
    here.publish("numbers", &numbers).unwrap();
    assert_eq!(here.publish("numbers", &numbers), Err(PublishError::Taken("numbers".into())));
    here.publish("again", &numbers).unwrap();
}

#[tokio::test]
async fn a_name_that_was_taken_back_can_be_given_again() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        for end in [10, 20] {
            let mut producing = produce(&there, "numbers", end, |n| n);
            assert_eq!(consume::<u64>(&here, "numbers", &there).await.unwrap().len() as u64, end);
            producing.join().await.unwrap();
            assert!(there.unpublish("numbers"));
        }
        assert!(!there.unpublish("numbers"));
        let (failure, _) = fails::<u64>(&here, "numbers", &there).await;
        assert_eq!(failure.message(), format!("no producer named \"numbers\" at {}", there.local_addr()));
    })
    .await;
}

#[tokio::test]
async fn who_has_subscribed_outlives_the_name() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let _producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, _consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(100).await;
        there.unpublish("endless");
        seen.until(10_000).await;
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_fails_is_named_by_its_node() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "endless", u64::MAX, |n| n);
        let graph = Graph::new("consuming");
        collect::<u64, _>(&graph, &Seen::default(), |_, _| Box::pin(async { Err("no".into()) }))
            .subscribe(&here.source::<u64>("endless", there.local_addr()), 50..100);
        graph.run().await.unwrap_err();
        let error = producing.join().await.unwrap_err();
        assert_eq!(error.to_string(), format!("on {}: a consumer there has failed", here.identity().name()));
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_too_large_to_send_is_an_error() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), NodeConfig::default()).await;
        let small = NodeConfig::default().limits(Limits::default().max_event_bytes(1000));
        let there = node(authority.issue("there").unwrap(), small).await;
        let mut producing = produce(&there, "bytes", 40, |n| bytes(n, if n == 30 { 2000 } else { 10 }));
        let (failure, seen) = fails::<Bytes>(&here, "bytes", &there).await;
        assert_eq!(failure.kind(), FailureKind::Remote);
        assert!(failure.message().contains("expected at most 1000 bytes, got 2003"), "{failure}");
        // Those before it can be sent, and are.
        assert_eq!(seen, (0..30).map(|n| bytes(n, 10)).collect::<Vec<_>>());
        // The producer has lost a subscriber, and is not at fault.
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_too_large_to_take_is_an_error() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let small = NodeConfig::default().limits(Limits::default().max_event_bytes(200_000));
        let here = node(authority.issue("here").unwrap(), small).await;
        let there = node(authority.issue("there").unwrap(), NodeConfig::default()).await;
        let mut producing = produce(&there, "bytes", 40, |n| bytes(n, if n == 30 { 300_000 } else { 10 }));
        let (failure, seen) = fails::<Bytes>(&here, "bytes", &there).await;
        // The two have told each other, so it is not even sent.
        assert_eq!(failure.kind(), FailureKind::Remote);
        assert!(failure.message().contains("expected at most 200000 bytes, got 300005"), "{failure}");
        assert_eq!(seen.len(), 30);
        producing.join().await.unwrap();
    })
    .await;
}

/// Answers some asks, then fails.
struct Boom {
    panics: bool,
    left: u32,
}

impl Producer for Boom {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        if self.left == 0 {
            assert!(!self.panics, "boom");
            return Err("boom".into());
        }
        self.left -= 1;
        cx.emit_all(0..demand as u64);
        Ok(())
    }
}
