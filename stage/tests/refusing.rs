//! Producers that do not want a subscriber, and events that nobody is subscribed to any more.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::{
    Attempt, Cancel, Cx, Demand, Edge, EndCause, Exit, FailureKind, Graph, Producer, Publisher, Refusal, Result,
    Source, SubscribeError, SubscribeOptions, Subscription, SubscriptionId, each, map,
};

/// What a [`Choosy`] does about a subscriber.
type Choice = fn(usize, &Edge, &mut Cx<'_, u64>) -> Result;

/// Emits 100 numbers to those it likes.
struct Choosy {
    next: u64,
    come: usize,
    choose: Choice,
}

fn choosy(choose: Choice) -> impl Fn() -> Choosy {
    move || Choosy { next: 0, come: 0, choose }
}

impl Producer for Choosy {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let to = (self.next + demand as u64).min(100);
        cx.emit_all(self.next..to);
        self.next = to;
        if to == 100 {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, u64>) -> Result {
        self.come += 1;
        (self.choose)(self.come, edge, cx)
    }
}

/// How many events the first of two consumers has got, and the second, with a window of 50.
async fn given(choose: Choice, first: Cancel) -> (usize, usize, Result<(), aqueduct_stage::GraphError>) {
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    let graph = Graph::new("test");
    // Declared and so run before the producer: their asks wait behind their subscriptions when it begins.
    let consumers = ["first", "second"].into_iter().zip(&counts).map(|(name, count)| {
        let count = Arc::clone(count);
        graph.consumer(name, move || {
            let count = Arc::clone(&count);
            each(move |_: u64| {
                count.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }
            })
        })
    });
    let consumers: Vec<_> = consumers.collect();
    let numbers = graph.producer("choosy", choosy(choose));
    for (consumer, cancel) in consumers.into_iter().zip([first, Cancel::Permanent]) {
        consumer.subscribe(&numbers, SubscribeOptions::demand(25..50).cancel(cancel));
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), graph.run()).await.expect("it ends").map(drop);
    (counts[0].load(Ordering::SeqCst), counts[1].load(Ordering::SeqCst), ended)
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_is_cancelled_as_it_comes_is_given_nothing() {
    let cancel: Choice = |come, edge, cx| {
        if come == 1 {
            cx.cancel(edge.id, Exit::Normal);
        }
        Ok(())
    };
    let (first, second, ended) = given(cancel, Cancel::Temporary).await;
    assert_eq!((first, second, ended.is_ok()), (0, 100, true), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_refuses_the_subscriber_and_spares_the_stage() {
    let refuse: Choice = |come, _, _| {
        if come == 1 { Err(Refusal::new("all places are taken").into()) } else { Ok(()) }
    };
    let (first, second, ended) = given(refuse, Cancel::Temporary).await;
    assert_eq!((first, second, ended.is_ok()), (0, 100, true), "{ended:?}");
    let (first, _, ended) = given(refuse, Cancel::Permanent).await;
    let error = ended.unwrap_err();
    assert_eq!((first, error.failure.kind()), (0, FailureKind::Refused));
    assert_eq!(error.to_string(), "stage \"choosy\" refused a subscription: all places are taken");
}

#[tokio::test(start_paused = true)]
async fn another_error_fails_the_stage() {
    let (first, _, ended) = given(|_, _, _| Err("no".into()), Cancel::Temporary).await;
    assert_eq!((first, ended.unwrap_err().failure.kind()), (0, FailureKind::Error));
}

/// A source that goes on after it has said that it is at its end.
#[derive(Clone)]
struct Babbler;

impl Source for Babbler {
    type Item = u64;

    fn name(&self) -> String {
        "babbler".into()
    }

    async fn open(&self, _: usize, subscription: Subscription<u64>) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
        Ok(Arc::new(Babbling(subscription)))
    }
}

struct Babbling(Subscription<u64>);

impl Publisher<u64> for Babbling {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        if up_to == Demand::new(10) {
            self.0.subscriber.deliver(id, Vec::from_iter(0..10).into(), Attempt::FIRST);
            self.0.subscriber.ended(id, EndCause::Cancelled(Exit::Normal));
            self.0.subscriber.deliver(id, Vec::from_iter(10..5_000).into(), Attempt::FIRST);
        }
    }

    fn cancel(&self, _: SubscriptionId, _: Exit) {}
}

#[tokio::test(start_paused = true)]
async fn events_of_a_subscription_that_has_ended_are_dropped_and_counted() {
    let graph = Graph::new("test");
    let options = || SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
    let pass = graph.stage("pass", || map(|n: u64| n)).subscribe(&Babbler, options());
    graph.consumer("sink", || each(async |_: u64| Ok(()))).subscribe(&Babbler, options()).subscribe(&pass, 0..10);
    let outcome = graph.run().await.unwrap();
    for stage in ["pass", "sink"].map(|name| outcome.stage(name).unwrap()) {
        assert_eq!((stage.events_in % 10, stage.discarded), (0, 4_990), "{outcome}");
    }
    assert_eq!(outcome.stage("sink").unwrap().events_in, 20);
}
