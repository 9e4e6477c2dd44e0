//! Chapter 1: what a producer keeps.

use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, Cx, Demand, Edge, EndCause, Exit, Graph, Mode, Result, SubscribeError, SubscribeOptions,
};

use super::{Route, assert_told};
use crate::settled;
use crate::support::{Far, Gate, Log, Near, Note, Signal, count, emit, endless, idle, sink, sink_with, with};

pub(crate) async fn rs_1_01_never_more_than_was_asked_for<R: Route>() {
    let (graph, asked) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&asked));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    let mut total = 0;
    for more in [1, 0, 3, 7, 1, 100, 2] {
        near.ask(more);
        total += more;
        settled().await;
        assert_eq!(near.events(), (0..total as u64).collect::<Vec<_>>());
        let above: usize = asked.asked().iter().sum();
        assert!(above <= total + R::PREFETCH, "{above} of {total}");
    }
    // What was emitted without demand waits for it.
    numbers.stage_ref().call(emit(1_000..1_050)).await.unwrap();
    settled().await;
    assert_eq!(near.events().len(), total);
}

pub(crate) async fn rs_1_02_fewer_than_were_asked_for_and_then_the_end<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(7, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(100);
    assert_eq!(near.ended().await, "down: normal");
    assert_eq!(near.events(), (0..7).collect::<Vec<_>>());
}

/// Notices when it is called while it is called.
struct Serial {
    inside: Gate,
    log: Log,
}

impl Serial {
    async fn enter(&self) {
        self.inside.try_pass();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.inside.open(1);
    }
}

impl Consumer for Serial {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        self.enter().await;
        self.log.push(Note::Events(events.to_vec(), 1));
        Ok(())
    }

    async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_>) -> Result<Mode> {
        self.enter().await;
        Ok(Mode::Automatic)
    }

    async fn handle_cancel(&mut self, _: &Edge, _: &EndCause, _: &mut Cx<'_>) -> Result {
        self.enter().await;
        Ok(())
    }

    async fn handle_end(&mut self, _: &mut Cx<'_>) -> Result {
        self.enter().await;
        self.log.push(Note::End);
        Ok(())
    }
}

pub(crate) async fn rs_1_03_callbacks_of_one_consumer_never_overlap<R: Route>() {
    let (graph, log, inside) = (Graph::new("test"), Log::new(), Gate::closed());
    inside.open(1);
    let [first, second] = ["first", "second"].map(|name| graph.producer(name, count(500, &Log::new())));
    let source = R::route(&graph, &first).await;
    let written = log.clone();
    let make = move || Serial { inside: inside.clone(), log: written.clone() };
    graph.consumer("serial", make).subscribe(&source, 2..5).subscribe(&second, 0..3);
    graph.run().await.unwrap();
    assert_eq!(log.events().len(), 1_000);
    assert_eq!(log.all().last(), Some(&Note::End));
}

pub(crate) async fn rs_1_04_a_failure_reaches_the_consumer<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(3);
    near.events_reach(3).await;
    numbers.stage_ref().cast(with(|_| panic!("boom"))).unwrap();
    // A producer-consumer sees it behind what it has not handled yet.
    near.ask(10);
    assert_told::<R>(&near.ended().await, r#"stage "numbers" panicked: boom"#);
}

pub(crate) async fn rs_1_05_a_finite_producer_ends_after_its_last_event<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(10, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(9);
    settled().await;
    assert!(!near.signals.all().iter().any(|signal| matches!(signal, Signal::Ended(_))));
    near.ask(1);
    near.ended().await;
    settled().await;
    assert_eq!(near.events(), (0..10).collect::<Vec<_>>());
    assert_eq!(near.signals.all().last(), Some(&Signal::Ended("down: normal".into())));
}

pub(crate) async fn rs_1_06_an_end_ends_the_edge_on_both_sides<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(3, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    let consumer = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let transient = SubscribeOptions::demand(5..10).cancel(Cancel::Transient);
    let id = running.subscribe(&consumer, &source, transient);
    log.has(&Note::Cancelled(id, "down: normal".into())).await;
    settled().await;
    assert_eq!(running.snapshot().stage("sink").unwrap().outstanding, Demand::ZERO);
    assert!(running.snapshot().stage("numbers").unwrap().ended);
    assert!(Near::try_subscribe(&source).await.is_err());
}

pub(crate) async fn rs_1_07_nothing_follows_the_end<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let running = graph.start();
    let [cancelled, other] = [Near::subscribe(&source).await, Near::subscribe(&source).await];
    cancelled.ask(10);
    settled().await;
    cancelled.cancel();
    cancelled.ended().await;
    other.ask(10);
    settled().await;
    numbers.stage_ref().call(emit(0..5)).await.unwrap();
    numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    other.ended().await;
    settled().await;
    assert_eq!(cancelled.signals.all(), [Signal::Ended("cancelled: normal".into())]);
    assert!(matches!(other.signals.all()[..], [.., Signal::Events(_), Signal::Ended(_)]));
    let ends = other.signals.all().iter().filter(|signal| matches!(signal, Signal::Ended(_))).count();
    assert_eq!((other.events(), ends), ((0..5).collect(), 1));
    drop(running);
    settled().await;
    assert_eq!((cancelled.signals.all().len(), other.signals.all().last().is_some()), (1, true));
}

pub(crate) async fn rs_1_08_after_a_cancel_events_stop<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(100);
    settled().await;
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    near.events_reach(3).await;
    near.cancel();
    assert_eq!(near.ended().await, "cancelled: normal");
    numbers.stage_ref().call(emit(3..6)).await.unwrap();
    settled().await;
    assert_eq!(near.events(), [0, 1, 2]);
}

pub(crate) async fn rs_1_09_a_refusal_is_told<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let far = Far::refusing(SubscribeError::Refused { at: "far".into(), reason: "no".into() });
    let source = R::route(&graph, &far).await;
    let lives = SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
    graph.consumer("sink", sink(&log)).subscribe(&source, lives);
    let running = graph.start();
    assert!(log.cancelled().await.ends_with("refused by far: no"));
    settled().await;
    assert!(!running.snapshot().stage("sink").unwrap().ended);
    assert_eq!(log.events(), []);
}

pub(crate) async fn rs_1_10_one_consumer_may_hold_several_subscriptions<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(100, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    graph.consumer("sink", sink(&log)).subscribe(&source, 0..1).subscribe(&source, 2..5);
    graph.run().await.unwrap();
    let mut events = log.events();
    events.sort_unstable();
    assert_eq!(events, (0..100).collect::<Vec<_>>());
    assert_ne!(log.subscribed()[0], log.subscribed()[1]);
}

pub(crate) async fn rs_1_11_several_consumers_share_the_events<R: Route>() {
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
    let numbers = graph.producer("numbers", count(1_000, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    for (name, log) in ["first", "second"].into_iter().zip(&logs) {
        let slow = sink_with(log, |sink| sink.takes = Duration::from_millis(1));
        graph.consumer(name, slow).subscribe(&source, 2..5);
    }
    graph.run().await.unwrap();
    let [first, second] = logs.map(|log| log.events());
    assert!(first.is_sorted() && second.is_sorted() && first.len() > 100 && second.len() > 100);
    let mut all = [first, second].concat();
    all.sort_unstable();
    assert_eq!(all, (0..1_000).collect::<Vec<_>>());
}
