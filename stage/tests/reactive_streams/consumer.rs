//! Chapter 2: what a consumer keeps.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, ConsumerId, Cx, Demand, Edge, EndCause, Exit, Graph, Interest, Mode, Result, Source,
    SubscribeOptions, Subscription,
};

use super::{Route, assert_told};
use crate::settled;
use crate::support::{Ear, Gate, Log, Near, Note, Signal, count, emit, endless, idle, oops, sink, sink_with, with};

pub(crate) async fn rs_2_01_no_demand_no_events<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&source, 5..10);
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    settled().await;
    numbers.stage_ref().call(emit(0..5)).await.unwrap();
    settled().await;
    assert_eq!((near.signals.all(), log.events()), (vec![], vec![]));
}

pub(crate) async fn rs_2_02_a_slow_consumer_holds_up_nobody_else<R: Route>() {
    let (graph, log, gate) = (Graph::new("test"), Log::new(), Gate::closed());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let stuck = graph.consumer("stuck", sink_with(&log, |sink| sink.gate = Some(gate.clone())));
    let running = graph.start();
    running.subscribe(&stuck, &source, 0..1);
    log.batches_reach(1).await;
    let near = Near::subscribe(&source).await;
    near.ask(1_000);
    near.events_reach(1_000).await;
    assert_eq!(log.events().len(), 1);
    gate.open(1);
    log.batches_reach(2).await;
}

pub(crate) async fn rs_2_03_an_ended_subscription_is_not_entered_again<R: Route>() {
    struct Reenters(Log);
    impl Consumer for Reenters {
        type In = u64;
        async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
            self.0.push(Note::Events(events.to_vec(), 1));
            Ok(())
        }
        async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> Result<Mode> {
            cx.ask(edge.id, 2);
            Ok(Mode::Manual)
        }
        async fn handle_cancel(&mut self, edge: &Edge, cause: &EndCause, cx: &mut Cx<'_>) -> Result {
            self.0.push(Note::Cancelled(edge.id, cause.to_string()));
            cx.ask(edge.id, 100);
            cx.cancel(edge.id, oops());
            Ok(())
        }
    }
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let written = log.clone();
    let lives = SubscribeOptions::demand(0..1).cancel(Cancel::Temporary);
    let consumer = graph.consumer("reenters", move || Reenters(written.clone()));
    let running = graph.start();
    let id = running.subscribe(&consumer, &source, lives);
    settled().await;
    running.cancel(&consumer, id, Exit::Normal);
    log.cancelled().await;
    numbers.stage_ref().call(emit(0..5)).await.unwrap();
    settled().await;
    assert_eq!(log.all(), [Note::Cancelled(id, "cancelled: normal".into())]);
    assert!(!running.snapshot().stage("reenters").unwrap().ended);
}

pub(crate) async fn rs_2_04_asking_after_the_end_does_nothing<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(3, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(10);
    near.ended().await;
    let before = near.signals.all();
    near.ask(10);
    near.cancel();
    settled().await;
    assert_eq!(near.signals.all(), before);
}

pub(crate) async fn rs_2_05_a_second_subscription_of_the_same_id_is_refused<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    let again = Log::new();
    let subscription = Subscription {
        id: near.id,
        consumer: ConsumerId::new(),
        options: SubscribeOptions::default(),
        interest: Interest::ALL,
        subscriber: Arc::new(Ear(again.clone())),
    };
    let opened = source.open(0, subscription).await;
    if R::IS_FAR {
        // An id is known to its own node only. A link gives the producer another one, so that there is no second of it:
        // to the producer these are two subscribers, and neither disturbs the other.
        opened.unwrap().ask(near.id, Demand::new(2));
        again.until(|signals| signals.len() == 1).await;
        assert_eq!(again.all(), [Signal::Events(vec![0, 1])]);
        near.ask(3);
        assert_eq!(near.events_reach(3).await, [2, 3, 4]);
        return;
    }
    again.until(|signals| signals.len() == 1).await;
    assert!(matches!(&again.all()[0], Signal::Ended(cause) if cause.ends_with("already subscribed")));
    near.ask(3);
    assert_eq!(near.events_reach(3).await, [0, 1, 2], "the first goes on");
    assert_eq!(again.all().len(), 1);
}

pub(crate) async fn rs_2_06_a_consumer_that_ends_cancels<R: Route>() {
    let causes: [fn(&mut Cx<'_>); 3] =
        [|cx| cx.stop(Exit::Normal), |cx| cx.stop(oops()), |_| panic!("the consumer is done")];
    for end in causes {
        let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
        let numbers = graph.producer("numbers", idle(&notes));
        let source = R::route(&graph, &numbers).await;
        let consumer = graph.consumer("sink", sink(&log)).subscribe(&source, 5..10);
        let mut running = graph.start();
        log.first_subscribed().await;
        settled().await;
        consumer.stage_ref().cast(with(end)).unwrap();
        settled().await;
        let near = Near::subscribe(&source).await;
        near.ask(2);
        settled().await;
        numbers.stage_ref().call(emit(0..2)).await.unwrap();
        assert_eq!(near.events_reach(2).await, [0, 1], "its demand went with it");
        let _ = running.stop(Duration::from_secs(1)).await;
    }
    // And one that is killed.
    let (near, far, log, notes) = (Graph::new("near"), Graph::new("far"), Log::new(), Log::new());
    let numbers = far.producer("numbers", idle(&notes));
    let source = R::route(&far, &numbers).await;
    near.consumer("sink", sink(&log)).subscribe(&source, 5..10);
    let (_far, near) = (far.start(), near.start());
    settled().await;
    drop(near);
    settled().await;
    let next = Near::subscribe(&source).await;
    next.ask(2);
    settled().await;
    numbers.stage_ref().call(emit(0..2)).await.unwrap();
    assert_eq!(next.events_reach(2).await, [0, 1]);
}

pub(crate) async fn rs_2_07_asks_and_cancels_are_taken_in_order<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(2);
    near.ask(1);
    near.cancel();
    near.ask(5);
    near.ended().await;
    settled().await;
    let events = near.events();
    assert!(events.len() <= 3, "{events:?}");
    assert_eq!(near.signals.all().last(), Some(&Signal::Ended("cancelled: normal".into())));
}

pub(crate) async fn rs_2_08_events_on_their_way_are_tolerated_after_a_cancel<R: Route>() {
    let (graph, log, gate) = (Graph::new("test"), Log::new(), Gate::closed());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let consumer = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone())));
    let running = graph.start();
    let lives = SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
    let id = running.subscribe(&consumer, &source, lives);
    settled().await;
    running.cancel(&consumer, id, Exit::Normal);
    settled().await;
    gate.open(1_000);
    log.cancelled().await;
    settled().await;
    let events = log.events();
    assert!(events.len() >= 10 && events.is_sorted(), "handled, and counted: {events:?}");
    assert_eq!(running.snapshot().stage("sink").unwrap().events_in, events.len() as u64);
    assert!(matches!(log.all().last(), Some(Note::Cancelled(..))));
}

pub(crate) async fn rs_2_09_the_end_may_come_before_any_demand<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    assert_eq!(near.ended().await, "down: normal");
    assert_eq!(near.signals.all().len(), 1);
}

pub(crate) async fn rs_2_10_a_failure_may_come_before_any_demand<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    numbers.stage_ref().cast(with(|cx| cx.stop(oops()))).unwrap();
    assert_told::<R>(&near.ended().await, r#"stage "test" failed: oops"#);
    assert_eq!(near.signals.all().len(), 1);
}

pub(crate) async fn rs_2_12_a_subscription_is_told_once<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(100, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    graph.consumer("sink", sink(&log)).subscribe(&source, 2..4);
    graph.run().await.unwrap();
    assert_eq!(log.subscribed().len(), 1);
    assert!(matches!(log.all()[0], Note::Subscribed(..)), "before any event");
}

pub(crate) async fn rs_2_13_a_callback_that_fails_ends_the_consumer_and_cancels<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    graph.consumer("sink", sink_with(&log, |sink| sink.poison = Some(7))).subscribe(&source, 0..5);
    let running = graph.start();
    log.has(&Note::Terminated(r#"stage "sink" panicked: poisoned"#.into())).await;
    settled().await;
    let snapshot = running.snapshot();
    assert_eq!(snapshot.stages.iter().filter(|stage| stage.ended).count(), 1, "nobody else: {snapshot:?}");
    let near = Near::subscribe(&source).await;
    near.ask(3);
    near.events_reach(3).await;
}
