//! What crosses between nodes, and how much of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{Batch, BoxFuture, Cx, Graph, ProducerConsumer, Result};
use aqueduct_transport::Wire;
use bytes::Bytes;

use crate::nodes::{guarded, nodes};
use crate::stages::{GUARD, Make, Seen, bytes, collect, consume, produce, ready};

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

struct Double;

impl ProducerConsumer for Double {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(events.into_iter().map(|n| 2 * n));
        Ok(())
    }
}
