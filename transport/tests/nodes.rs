//! Nodes on loopback: the same graph over two of them and more, and everything that must not go unnoticed.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{
    Batch, BoxFuture, Consumer, Cx, EventStreamError, Exit, Failure, FailureKind, Graph, GraphError, Producer,
    ProducerConsumer, Publisher, Result, Running, Source, SourceExt, Spawner, SubscribeError, Subscription,
    TokioSpawner,
};
use aqueduct_transport::{Authority, Identity, Limits, Node, NodeConfig, PublishError, Wire};
use bytes::Bytes;
use tokio::sync::watch;
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, node, nodes};

// What crosses, and how much of it.

#[tokio::test]
async fn a_finite_producer_is_taken_to_its_end() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "numbers", 10_000, |n| n);
        let seen = consume::<u64>(&here, "numbers", &there).await.unwrap();
        assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
        assert_eq!(producing.join().await.unwrap().stage("numbers").unwrap().events_out, 10_000);
        assert!(there.shutdown(GUARD).await && here.shutdown(GUARD).await);
    })
    .await;
}

#[tokio::test]
async fn probes_stand_at_the_ends_of_an_edge_between_nodes() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        let sink = ProbeSink::subscribe(&here.source::<u64>("probe", there.local_addr())).await;
        sink.ask(3);
        source.expect_demand(3).await;
        source.send([1, 2]);
        sink.expect_events([1, 2]).await;
        source.send([3]);
        source.complete();
        sink.expect_events([3]).await;
        sink.expect_end().await;
    })
    .await;
}

#[tokio::test]
async fn events_of_every_shape_arrive_as_they_were() {
    async fn crosses<T: Wire + PartialEq + fmt::Debug>(end: u64, make: fn(u64) -> T) {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "source", end, make);
        let seen = consume::<T>(&here, "source", &there).await.unwrap();
        assert_eq!(seen.len() as u64, end);
        for (seen, n) in seen.into_iter().zip(0..) {
            assert!(seen == make(n), "event {n} of {} was changed", T::signature());
        }
        producing.join().await.unwrap();
    }
    guarded(async {
        crosses(100_000, |n| n).await;
        crosses(1000, |n| format!("event {n}")).await;
        crosses(1000, |n| (n, n.to_string(), Some(vec![n as u8; n as usize % 7]))).await;
        crosses(200, |n| bytes(n, 64 << 10)).await;
        crosses(1, |n| bytes(n, 5_000_000)).await;
        crosses(0, |n| n).await;
    })
    .await;
}

#[tokio::test]
async fn a_producer_consumer_stands_between_two_nodes() {
    guarded(async {
        let [first, middle, last] = nodes(["first", "middle", "last"]).await;
        let mut producing = produce(&first, "numbers", 5000, |n| n);

        let graph = Graph::new("middle");
        let doubled =
            graph.stage("double", || Double).subscribe(&middle.source::<u64>("numbers", first.local_addr()), 30..60);
        middle.publish("doubled", &doubled).unwrap();
        let mut doubling = graph.start();

        let seen = consume::<u64>(&last, "doubled", &middle).await.unwrap();
        assert_eq!(seen, (0..5000).map(|n| 2 * n).collect::<Vec<_>>());
        doubling.join().await.unwrap();
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_far_source_can_be_published_again() {
    guarded(async {
        let [first, relay, last] = nodes(["first", "relay", "last"]).await;
        let mut producing = produce(&first, "numbers", 5000, |n| n);
        relay.publish("relayed", &relay.source::<u64>("numbers", first.local_addr())).unwrap();
        let seen = consume::<u64>(&last, "relayed", &relay).await.unwrap();
        assert_eq!(seen, (0..5000).collect::<Vec<_>>());
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn two_far_consumers_share_a_producer_by_demand() {
    guarded(async {
        let [there, one, two] = nodes(["there", "one", "two"]).await;
        let mut producing = produce(&there, "numbers", 50_000, |n| n);
        let (first, second) =
            tokio::join!(consume::<u64>(&one, "numbers", &there), consume::<u64>(&two, "numbers", &there));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first.is_sorted() && second.is_sorted());
        let mut all = [first, second].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50_000).collect::<Vec<_>>());
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn one_consumer_has_two_far_producers() {
    guarded(async {
        let [here, odd, even] = nodes(["here", "odd", "even"]).await;
        let mut producing = [produce(&odd, "odd", 5000, |n| 2 * n + 1), produce(&even, "even", 3000, |n| 2 * n)];
        let (seen, graph) = (Seen::default(), Graph::new("consuming"));
        collect(&graph, &seen, |_, _| ready())
            .subscribe(&here.source::<u64>("odd", odd.local_addr()), 50..100)
            .subscribe(&here.source::<u64>("even", even.local_addr()), 10..200);
        graph.run().await.unwrap();
        let (odds, evens): (Vec<u64>, Vec<u64>) = seen.take().into_iter().partition(|n| n % 2 == 1);
        assert_eq!(odds, (0..5000).map(|n| 2 * n + 1).collect::<Vec<_>>());
        assert_eq!(evens, (0..3000).map(|n| 2 * n).collect::<Vec<_>>());
        for producing in &mut producing {
            producing.join().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn no_more_than_the_window_is_on_its_way() {
    const MAX: usize = 100;
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (handled, most) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (theirs, graph) = ((Arc::clone(&handled), Arc::clone(&most)), Graph::new("producing"));
        let make = move || {
            let (handled, most) = theirs.clone();
            let make = move |n: u64| {
                most.fetch_max(n + 1 - handled.load(Ordering::SeqCst), Ordering::SeqCst);
                n
            };
            Make { next: 0, end: 5000, make }
        };
        there.publish("numbers", &graph.producer("numbers", make)).unwrap();
        let mut producing = graph.start();

        let (seen, graph) = (Seen::default(), Graph::new("consuming"));
        let slow = move |count: usize, _: &mut Cx<'_>| -> BoxFuture<'static, Result> {
            let handled = Arc::clone(&handled);
            Box::pin(async move {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                handled.fetch_add(count as u64, Ordering::SeqCst);
                Ok(())
            })
        };
        collect(&graph, &seen, slow).subscribe(&here.source::<u64>("numbers", there.local_addr()), 50..MAX);
        graph.run().await.unwrap();
        assert_eq!(seen.take().len(), 5000);
        assert_eq!(most.load(Ordering::SeqCst), MAX as u64);
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn nodes_that_flood_each_other_do_not_block() {
    // More than a stream (4 MiB) and a connection (16 MiB) may have on their way, in both directions, and on one
    // connection as well as on two.
    const EVENTS: u64 = 20;
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing: Vec<_> = ["a", "b", "c"]
            .iter()
            .flat_map(|name| [&here, &there].map(|node| produce(node, name, EVENTS, |n| bytes(n, 1_500_000))))
            .collect();
        let all = ["a", "b", "c"].map(|name| async {
            tokio::join!(consume::<Bytes>(&here, name, &there), consume::<Bytes>(&there, name, &here))
        });
        let [a, b, c] = all;
        let (a, b, c) = tokio::join!(a, b, c);
        for seen in [a.0, a.1, b.0, b.1, c.0, c.1] {
            assert_eq!(seen.unwrap().len() as u64, EVENTS);
        }
        for producing in &mut producing {
            producing.join().await.unwrap();
        }
    })
    .await;
}

// How it fails.

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

// How it ends.

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

// Who is let in.

#[tokio::test]
async fn a_node_of_another_authority_is_refused_and_the_server_goes_on() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "numbers", 10, |n| n);
        // It knows whom to trust, and cannot prove that it is trusted.
        let stranger = Authority::dev("test").unwrap().issue("here").unwrap().to_pem();
        let trusted = here.identity().to_pem().authorities;
        let stranger = Identity::from_pem(&stranger.certificate, &stranger.key, &trusted).unwrap();
        refused(stranger, &there, "certificate").await;
        assert_eq!(consume::<u64>(&here, "numbers", &there).await.unwrap().len(), 10);
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_whoever_issued_it() {
    guarded(async {
        let issuer = OneForAll::new();
        let (here, there) = (issuer.issue("shop", "shop", "here"), issuer.issue("shop", "shop", "there"));
        let here = node(here, NodeConfig::default()).await;
        let there = node(there, NodeConfig::default()).await;
        let mut producing = produce(&there, "numbers", 10, |n| n);

        // The dialler notices first.
        let bank = node(issuer.issue("bank", "bank", "here"), NodeConfig::default()).await;
        let (failure, _) = fails::<u64>(&bank, "numbers", &there).await;
        assert!(failure.message().contains("bank.aqueduct.internal"), "{failure}");
        // Even one that can be dialled as a node of that cluster.
        let hybrid = node(issuer.issue("shop", "bank", "there"), NodeConfig::default()).await;
        let (failure, _) = fails::<u64>(&bank, "numbers", &hybrid).await;
        assert!(failure.message().contains("cluster") || failure.message().contains("certificate"), "{failure}");
        assert_eq!(consume::<u64>(&here, "numbers", &there).await.unwrap().len(), 10);
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_by_the_dialler() {
    guarded(async {
        let [here, _] = nodes(["here", "there"]).await;
        let [_, there] = nodes(["here", "there"]).await;
        let _producing = produce(&there, "numbers", 10, |n| n);
        let (failure, _) = fails::<u64>(&here, "numbers", &there).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
        assert!(failure.message().contains("certificate"), "{failure}");
    })
    .await;
}

// What is left behind: nothing.

#[tokio::test]
async fn no_task_is_left_of_nodes_that_were_shut_down() {
    guarded(async {
        let tasks = Counting::default();
        let (here, there) = tasks.nodes().await;
        let mut producing = produce(&there, "numbers", 10_000, |n| n);
        consume::<u64>(&here, "numbers", &there).await.unwrap();
        here.publish("again", &here.source::<u64>("numbers", there.local_addr())).unwrap();
        let mut endless = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        fails::<u64>(&here, "unknown", &there).await;

        assert!(!there.shutdown(Duration::ZERO).await);
        consuming.join().await.unwrap_err();
        assert!(here.shutdown(GUARD).await);
        // The endpoint's own, which ends with the last handle.
        assert_eq!((tasks.alive("link"), tasks.alive("connection")), (0, 0));
        producing.join().await.unwrap();
        endless.join().await.unwrap_err();
        drop((here, there));
        tasks.none().await;
    })
    .await;
}

#[tokio::test]
async fn no_task_is_left_of_nodes_that_were_dropped() {
    guarded(async {
        let tasks = Counting::default();
        let (here, there) = tasks.nodes().await;
        let producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        drop((here, there, consuming, producing));
        tasks.none().await;
    })
    .await;
}

#[tokio::test]
async fn fifty_nodes_go_up_and_down() {
    guarded(async {
        let (tasks, authority) = (Counting::default(), Authority::dev("test").unwrap());
        let hub = tasks.node(authority.issue("hub").unwrap()).await;
        for n in 0..49 {
            let name = format!("node-{n}");
            let node = tasks.node(authority.issue(&name).unwrap()).await;
            let mut producing = produce(&hub, &name, 100, |n| n);
            assert_eq!(consume::<u64>(&node, &name, &hub).await.unwrap().len(), 100);
            producing.join().await.unwrap();
            assert!(node.shutdown(GUARD).await);
        }
        assert!(hub.shutdown(GUARD).await);
        drop(hub);
        tasks.none().await;
    })
    .await;
}

/// How long it may take until nothing is left of a node.
const GUARD: Duration = Duration::from_secs(15);

/// An event of `length` bytes.
fn bytes(n: u64, length: usize) -> Bytes {
    vec![n as u8; length].into()
}

/// Publishes `end` events on a node, as `name`.
fn produce<T: Wire>(node: &Node, name: &str, end: u64, make: fn(u64) -> T) -> Running {
    let graph = Graph::new("producing");
    let stage = graph.producer(name, move || Make { next: 0, end, make });
    node.publish(name, &stage).unwrap();
    graph.start()
}

/// Takes all events of a far producer.
async fn consume<T: Wire>(node: &Node, name: &str, from: &Node) -> Result<Vec<T>, GraphError> {
    let (seen, mut consuming) = consuming(node, name, from);
    consuming.join().await.map(|_| seen.take())
}

/// Takes events of a far producer, for as long as there are any.
fn consuming<T: Wire>(node: &Node, name: &str, from: &Node) -> (Seen<T>, Running) {
    consuming_at(node, name, from.local_addr())
}

fn consuming_at<T: Wire>(node: &Node, name: &str, at: SocketAddr) -> (Seen<T>, Running) {
    let (seen, graph) = (Seen::default(), Graph::new("consuming"));
    collect(&graph, &seen, |_, _| ready()).subscribe(&node.source::<T>(name, at), 50..100);
    (seen, graph.start())
}

/// Why a consumer of a far producer fails, and what it has got until then.
async fn fails<T: Wire>(node: &Node, name: &str, from: &Node) -> (Failure, Vec<T>) {
    fails_at(node, name, from.local_addr()).await
}

async fn fails_at<T: Wire>(node: &Node, name: &str, at: SocketAddr) -> (Failure, Vec<T>) {
    let (seen, mut consuming) = consuming_at::<T>(node, name, at);
    let error = consuming.join().await.unwrap_err();
    assert!(error.others.is_empty(), "{error:?}");
    (error.failure, seen.take())
}

/// A node with this identity must be refused, for a reason that says `why`.
async fn refused(identity: Identity, by: &Node, why: &str) {
    let node = node(identity, NodeConfig::default()).await;
    let (failure, seen) = fails::<u64>(&node, "numbers", by).await;
    assert_eq!((failure.kind(), seen.len()), (FailureKind::Subscribe, 0));
    let says = failure.message();
    assert!(says.starts_with(&format!("refused by {}: ", by.local_addr())) && says.contains(why), "{failure}");
}

/// Declares a consumer that keeps what comes, and then does something for each batch.
fn collect<T: Wire, F>(graph: &Graph, seen: &Seen<T>, then: F) -> Collecting<T, F>
where
    F: FnMut(usize, &mut Cx<'_>) -> BoxFuture<'static, Result> + Clone + Send + 'static,
{
    let seen = seen.clone();
    graph.consumer("collect", move || Collect { seen: seen.clone(), then: then.clone() })
}

type Collecting<T, F> = aqueduct_stage::Stage<Collect<T, F>, T, aqueduct_stage::Never, aqueduct_stage::NoOutput>;

fn ready() -> BoxFuture<'static, Result> {
    Box::pin(async { Ok(()) })
}

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

struct Double;

impl ProducerConsumer for Double {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(events.into_iter().map(|n| 2 * n));
        Ok(())
    }
}

struct Collect<T, F> {
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
struct Seen<T> {
    events: Arc<Mutex<Vec<T>>>,
    count: Arc<watch::Sender<usize>>,
}

impl<T> Seen<T> {
    fn extend(&self, events: Batch<T>) {
        self.count.send_modify(|count| *count += events.len());
        self.events.lock().unwrap().extend(events);
    }

    /// Waits for the first `count` events.
    async fn until(&self, count: usize) {
        self.count.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    fn take(&self) -> Vec<T> {
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

/// Starts tasks on tokio, and knows which are alive.
#[derive(Clone, Default)]
struct Counting(Arc<watch::Sender<Vec<String>>>);

impl Counting {
    async fn nodes(&self) -> (Node, Node) {
        let authority = Authority::dev("test").unwrap();
        (self.node(authority.issue("here").unwrap()).await, self.node(authority.issue("there").unwrap()).await)
    }

    async fn node(&self, identity: Identity) -> Node {
        Node::builder(identity).spawner(self.clone()).bind("127.0.0.1:0").await.unwrap()
    }

    fn alive(&self, name: &str) -> usize {
        self.0.borrow().iter().filter(|alive| *alive == name).count()
    }

    /// Waits until no task is left.
    async fn none(&self) {
        let none = tokio::time::timeout(GUARD, async { drop(self.0.subscribe().wait_for(Vec::is_empty).await) });
        assert!(none.await.is_ok(), "left behind: {:?}", *self.0.borrow());
    }
}

impl Spawner for Counting {
    fn spawn(&self, name: &str, task: BoxFuture<'static>) {
        let alive = Alive(self.clone(), name.to_owned());
        self.0.send_modify(|all| all.push(name.to_owned()));
        TokioSpawner.spawn(
            name,
            Box::pin(async move {
                let _alive = alive;
                task.await;
            }),
        );
    }
}

struct Alive(Counting, String);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.send_modify(|all| {
            let position = all.iter().position(|name| *name == self.1).unwrap();
            all.swap_remove(position);
        });
    }
}

/// An authority that serves several clusters.
struct OneForAll {
    certificate: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl OneForAll {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A node of `cluster`, which can be dialled as one of the cluster `dialled`.
    fn issue(&self, cluster: &str, dialled: &str, node: &str) -> Identity {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![
            rcgen::SanType::URI(format!("aqueduct://{cluster}/node/{node}").try_into().unwrap()),
            rcgen::SanType::DnsName(format!("{dialled}.aqueduct.internal").try_into().unwrap()),
        ];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity::from_pem(&certificate, &key.serialize_pem(), &self.certificate).unwrap()
    }
}
