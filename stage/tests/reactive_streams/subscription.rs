//! Chapters 3 and 4: what the subscription between them keeps, and who survives a failure above.

use std::sync::{Arc, Weak};
use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, Cx, Demand, Edge, Exit, Graph, Mode, Producer, Result, SubscribeOptions, SubscriptionId,
};

use super::{Route, assert_told};
use crate::settled;
use crate::support::{Ear, Gate, Log, Near, Signal, count, emit, endless, idle, oops, relay, with};

/// Asks for one more event with each that it handles.
struct Stepwise {
    rest: usize,
    log: Log<usize>,
}

impl Consumer for Stepwise {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_>) -> Result {
        assert_eq!(events.len(), 1);
        self.rest -= 1;
        if self.rest > 0 {
            cx.ask(events.from(), 1);
        } else {
            self.log.push(events.len());
        }
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> Result<Mode> {
        cx.ask(edge.id, 1);
        Ok(Mode::Manual)
    }
}

async fn stepwise<R: Route>(steps: usize) {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", quiet);
    let source = R::route(&graph, &numbers).await;
    let written = log.clone();
    graph.consumer("step", move || Stepwise { rest: steps, log: written.clone() }).subscribe(&source, 0..1);
    let running = graph.start();
    log.until(|done| !done.is_empty()).await;
    assert_eq!(running.snapshot().stage("step").unwrap().events_in, steps as u64);
}

/// A producer that writes nothing down.
fn quiet() -> Quiet {
    Quiet(0)
}

struct Quiet(u64);

impl Producer for Quiet {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let end = self.0.saturating_add(demand as u64);
        // As many as one likes may be asked for; no more than this is emitted at a time.
        let end = end.min(self.0 + 1_000);
        cx.emit_all(self.0..end);
        self.0 = end;
        Ok(())
    }
}

pub(crate) async fn rs_3_02_asking_from_within_the_handler<R: Route>() {
    stepwise::<R>(10).await;
}

pub(crate) async fn rs_3_03_no_recursion_from_ask_to_event_to_ask<R: Route>() {
    stepwise::<R>(R::STEPS).await;
}

pub(crate) async fn rs_3_04_asking_does_not_wait_for_the_producer<R: Route>() {
    let (graph, gate) = (Graph::new("test"), Gate::closed());
    struct Stuck(Gate);
    impl Producer for Stuck {
        type Out = u64;
        async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
            self.0.pass().await;
            cx.emit_all(0..demand as u64);
            Ok(())
        }
    }
    let door = gate.clone();
    let stuck = graph.producer("stuck", move || Stuck(door.clone()));
    let source = R::route(&graph, &stuck).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(1);
    settled().await;
    for _ in 0..1_000 {
        near.ask(1);
    }
    assert_eq!(near.events(), []);
    gate.open(1_000_000);
    assert_eq!(near.events_reach(1_001).await.len(), 1_001);
}

pub(crate) async fn rs_3_05_cancelling_is_prompt_and_may_come_from_any_thread<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(3);
    near.events_reach(3).await;
    let (publisher, id) = (Arc::clone(&near.publisher), near.id);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let publisher = Arc::clone(&publisher);
            std::thread::spawn(move || publisher.cancel(id, Exit::Normal))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    near.ended().await;
    settled().await;
    assert_eq!(near.signals.all().iter().filter(|signal| matches!(signal, Signal::Ended(_))).count(), 1);
}

pub(crate) async fn rs_3_06_asking_after_a_cancel_does_nothing<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.cancel();
    near.ask(100);
    settled().await;
    assert_eq!(near.signals.all(), [Signal::Ended("cancelled: normal".into())]);
}

pub(crate) async fn rs_3_07_cancelling_after_a_cancel_does_nothing<R: Route>() {
    let (graph, notes) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&notes));
    let source = R::route(&graph, &numbers).await;
    let running = graph.start();
    let near = Near::subscribe(&source).await;
    for _ in 0..3 {
        near.cancel();
        settled().await;
    }
    near.publisher.cancel(near.id, oops());
    settled().await;
    assert_eq!(near.signals.all(), [Signal::Ended("cancelled: normal".into())]);
    assert!(running.snapshot().stages.iter().all(|stage| !stage.ended));
}

pub(crate) async fn rs_3_08_asks_add_up<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    for more in [1, 2, 3] {
        near.ask(more);
    }
    settled().await;
    assert_eq!(near.events(), (0..6).collect::<Vec<_>>());
}

/// Demand is cumulative, and its type has no negative values.
pub(crate) async fn rs_3_09_asking_for_nothing_or_again_for_the_same_does_nothing<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    for up_to in [0, 4, 4, 2, 0, 5, 4] {
        near.publisher.ask(near.id, Demand::new(up_to));
        settled().await;
    }
    assert_eq!(near.events(), (0..5).collect::<Vec<_>>());
}

/// It is put into the producer's mailbox, so it never is within the call; but nothing else needs to happen.
pub(crate) async fn rs_3_10_an_ask_may_be_answered_at_once<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(2, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    settled().await;
    let before = tokio::time::Instant::now();
    near.ask(2);
    near.ended().await;
    assert!(before.elapsed() <= R::AT_ONCE, "{:?}", before.elapsed());
}

pub(crate) async fn rs_3_12_a_cancel_ends_the_work_for_that_consumer<R: Route>() {
    let (graph, notes) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&notes));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    near.ask(5);
    near.events_reach(5).await;
    near.cancel();
    settled().await;
    let before = notes.asked();
    near.ask(100);
    settled().await;
    assert_eq!(notes.asked(), before);
}

pub(crate) async fn rs_3_13_a_cancel_drops_every_reference_to_the_consumer<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let signals = Log::new();
    let ear = Arc::new(Ear(signals.clone()));
    let weak: Weak<Ear> = Arc::downgrade(&ear);
    let near = Near::with_ear(&source, &signals, ear).await.unwrap();
    near.ask(5);
    near.events_reach(5).await;
    assert!(weak.upgrade().is_some());
    near.cancel();
    near.ended().await;
    settled().await;
    assert!(weak.upgrade().is_none());
}

pub(crate) async fn rs_3_14_the_last_cancel_may_end_the_producer<R: Route>() {
    let (graph, notes) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&notes));
    let source = R::route(&graph, &numbers).await;
    let mut running = graph.start();
    let [first, second] = [Near::subscribe(&source).await, Near::subscribe(&source).await];
    // Whoever joins a graph wants it to end when there is nothing left to do.
    let joined = tokio::time::timeout(Duration::from_secs(1), running.join()).await;
    assert!(joined.is_err());
    first.cancel();
    settled().await;
    assert!(!running.snapshot().stage("numbers").unwrap().ended);
    second.cancel();
    running.join().await.unwrap();
}

pub(crate) async fn rs_3_15_asks_and_cancels_of_the_unknown_do_no_harm<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    let unknown = SubscriptionId::new();
    near.publisher.ask(unknown, Demand::MAX);
    near.publisher.cancel(unknown, oops());
    near.ask(3);
    assert_eq!(near.events_reach(3).await, [0, 1, 2]);
}

pub(crate) async fn rs_3_17_demand_without_bound<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", quiet);
    let source = R::route(&graph, &numbers).await;
    let running = graph.start();
    let [near, other] = [Near::subscribe(&source).await, Near::subscribe(&source).await];
    near.publisher.ask(near.id, Demand::new(u64::MAX - 1));
    near.publisher.ask(near.id, Demand::MAX);
    other.publisher.ask(other.id, Demand::MAX);
    near.events_reach(1_000).await;
    near.cancel();
    other.cancel();
    near.ended().await;
    other.ended().await;
    let [mut all, rest] = [near.events(), other.events()];
    all.extend(rest);
    all.sort_unstable();
    if R::IS_FAR {
        // What is on its way when it is cancelled is lost.
        assert!(all.is_sorted_by(|a, b| a < b), "an event came twice");
    } else {
        assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>());
    }
    assert!(running.snapshot().stages.iter().all(|stage| !stage.ended));
}

pub(crate) async fn rs_4_02_who_survives_a_failure_above_recovers<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let [sick, well] = ["sick", "well"].map(|name| graph.producer(name, idle(&Log::new())));
    let source = R::route(&graph, &sick).await;
    let lives = SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
    let recovers = graph.stage("recovers", relay(&log)).subscribe(&source, lives).subscribe(&well, lives);
    let follows = graph.stage("follows", relay(&Log::new())).subscribe(&source, 5..10);
    let _running = graph.start();
    let [recovered, followed] = [Near::subscribe(&recovers).await, Near::subscribe(&follows).await];
    recovered.ask(10);
    followed.ask(10);
    settled().await;
    sick.stage_ref().cast(with(|cx| cx.stop(oops()))).unwrap();
    assert_told::<R>(&followed.ended().await, r#"stage "test" failed: oops"#);
    assert_told::<R>(&log.cancelled().await, r#"stage "test" failed: oops"#);
    well.stage_ref().call(emit(0..3)).await.unwrap();
    assert_eq!(recovered.events_reach(3).await, [0, 1, 2]);
}
