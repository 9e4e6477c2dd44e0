//! The rules of Reactive Streams, in the words of stages: a test carries the number of the rule it checks.
//!
//! The suite is generic over how a consumer gets to its producer, a [`Route`]. It is instantiated for an edge within one
//! graph and for an edge through a producer-consumer (rule 4.1); anything that turns a source into a source can be
//! another one. Rules 2.11 (published state) and 3.1 (only the consumer asks) are kept by types; of 1.11 only the
//! dispatcher by demand is tested here.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::{Arc, Weak};
use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, ConsumerId, Cx, Demand, Edge, EndCause, Exit, Graph, Interest, Mode, Result, Source,
    SubscribeError, SubscribeOptions, Subscription, SubscriptionId,
};
use support::{
    Ear, Far, Gate, Log, Near, Note, Signal, count, emit, endless, idle, oops, relay, settled, sink, sink_with, with,
};

/// How a consumer gets to its producer.
trait Route {
    /// What stands for `source` at the consumer's end. Stages and links that it takes belong to `graph`.
    async fn route<S: Source<Item = u64> + Clone>(graph: &Graph, source: &S) -> impl Source<Item = u64> + Clone;

    /// How many events may be taken from the producer beyond what the consumer has asked for.
    const PREFETCH: usize;
}

/// An edge within the graph.
struct Direct;

impl Route for Direct {
    const PREFETCH: usize = 0;

    async fn route<S: Source<Item = u64> + Clone>(_: &Graph, source: &S) -> impl Source<Item = u64> + Clone {
        source.clone()
    }
}

/// Through a producer-consumer.
struct Through;

impl Route for Through {
    // A window in its queue, and what it has made of another in its buffer.
    const PREFETCH: usize = 8;

    async fn route<S: Source<Item = u64> + Clone>(graph: &Graph, source: &S) -> impl Source<Item = u64> + Clone {
        graph.stage("between", relay(&Log::new())).subscribe(source, 2..4)
    }
}

/// Every rule, for one route.
macro_rules! rules {
    ($route:ident: $($rule:ident)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $rule() {
                super::$rule::<super::$route>().await;
            }
        )*
    };
}

macro_rules! every_rule {
    ($($rule:ident)*) => {
        mod direct { rules! { Direct: $($rule)* } }
        mod through_a_producer_consumer { rules! { Through: $($rule)* } }
    };
}

every_rule! {
    rs_1_01_never_more_than_was_asked_for
    rs_1_02_fewer_than_were_asked_for_and_then_the_end
    rs_1_03_callbacks_of_one_consumer_never_overlap
    rs_1_04_a_failure_reaches_the_consumer
    rs_1_05_a_finite_producer_ends_after_its_last_event
    rs_1_06_an_end_ends_the_edge_on_both_sides
    rs_1_07_nothing_follows_the_end
    rs_1_08_after_a_cancel_events_stop
    rs_1_09_a_refusal_is_told
    rs_1_10_one_consumer_may_hold_several_subscriptions
    rs_1_11_several_consumers_share_the_events
    rs_2_01_no_demand_no_events
    rs_2_02_a_slow_consumer_holds_up_nobody_else
    rs_2_03_an_ended_subscription_is_not_entered_again
    rs_2_04_asking_after_the_end_does_nothing
    rs_2_05_a_second_subscription_of_the_same_id_is_refused
    rs_2_06_a_consumer_that_ends_cancels
    rs_2_07_asks_and_cancels_are_taken_in_order
    rs_2_08_events_on_their_way_are_tolerated_after_a_cancel
    rs_2_09_the_end_may_come_before_any_demand
    rs_2_10_a_failure_may_come_before_any_demand
    rs_2_12_a_subscription_is_told_once
    rs_2_13_a_callback_that_fails_ends_the_consumer_and_cancels
    rs_3_02_asking_from_within_the_handler
    rs_3_03_no_recursion_from_ask_to_event_to_ask
    rs_3_04_asking_does_not_wait_for_the_producer
    rs_3_05_cancelling_is_prompt_and_may_come_from_any_thread
    rs_3_06_asking_after_a_cancel_does_nothing
    rs_3_07_cancelling_after_a_cancel_does_nothing
    rs_3_08_asks_add_up
    rs_3_09_asking_for_nothing_or_again_for_the_same_does_nothing
    rs_3_10_an_ask_may_be_answered_at_once
    rs_3_12_a_cancel_ends_the_work_for_that_consumer
    rs_3_13_a_cancel_drops_every_reference_to_the_consumer
    rs_3_14_the_last_cancel_may_end_the_producer
    rs_3_15_asks_and_cancels_of_the_unknown_do_no_harm
    rs_3_17_demand_without_bound
    rs_4_02_who_survives_a_failure_above_recovers
}

async fn rs_1_01_never_more_than_was_asked_for<R: Route>() {
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

async fn rs_1_02_fewer_than_were_asked_for_and_then_the_end<R: Route>() {
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

async fn rs_1_03_callbacks_of_one_consumer_never_overlap<R: Route>() {
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

async fn rs_1_04_a_failure_reaches_the_consumer<R: Route>() {
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
    assert_eq!(near.ended().await, r#"down: stage "numbers" panicked: boom"#);
}

async fn rs_1_05_a_finite_producer_ends_after_its_last_event<R: Route>() {
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

async fn rs_1_06_an_end_ends_the_edge_on_both_sides<R: Route>() {
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

async fn rs_1_07_nothing_follows_the_end<R: Route>() {
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

async fn rs_1_08_after_a_cancel_events_stop<R: Route>() {
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

async fn rs_1_09_a_refusal_is_told<R: Route>() {
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

async fn rs_1_10_one_consumer_may_hold_several_subscriptions<R: Route>() {
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

async fn rs_1_11_several_consumers_share_the_events<R: Route>() {
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

async fn rs_2_01_no_demand_no_events<R: Route>() {
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

async fn rs_2_02_a_slow_consumer_holds_up_nobody_else<R: Route>() {
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

async fn rs_2_03_an_ended_subscription_is_not_entered_again<R: Route>() {
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

async fn rs_2_04_asking_after_the_end_does_nothing<R: Route>() {
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

async fn rs_2_05_a_second_subscription_of_the_same_id_is_refused<R: Route>() {
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
    let _ = source.open(0, subscription).await;
    again.until(|signals| signals.len() == 1).await;
    assert!(matches!(&again.all()[0], Signal::Ended(cause) if cause.ends_with("already subscribed")));
    near.ask(3);
    assert_eq!(near.events_reach(3).await, [0, 1, 2], "the first goes on");
    assert_eq!(again.all().len(), 1);
}

async fn rs_2_06_a_consumer_that_ends_cancels<R: Route>() {
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

async fn rs_2_07_asks_and_cancels_are_taken_in_order<R: Route>() {
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

async fn rs_2_08_events_on_their_way_are_tolerated_after_a_cancel<R: Route>() {
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

async fn rs_2_09_the_end_may_come_before_any_demand<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    assert_eq!(near.ended().await, "down: normal");
    assert_eq!(near.signals.all().len(), 1);
}

async fn rs_2_10_a_failure_may_come_before_any_demand<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    numbers.stage_ref().cast(with(|cx| cx.stop(oops()))).unwrap();
    assert_eq!(near.ended().await, r#"down: stage "test" failed: oops"#);
    assert_eq!(near.signals.all().len(), 1);
}

async fn rs_2_12_a_subscription_is_told_once<R: Route>() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(100, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    graph.consumer("sink", sink(&log)).subscribe(&source, 2..4);
    graph.run().await.unwrap();
    assert_eq!(log.subscribed().len(), 1);
    assert!(matches!(log.all()[0], Note::Subscribed(..)), "before any event");
}

async fn rs_2_13_a_callback_that_fails_ends_the_consumer_and_cancels<R: Route>() {
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

impl aqueduct_stage::Producer for Quiet {
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

async fn rs_3_02_asking_from_within_the_handler<R: Route>() {
    stepwise::<R>(10).await;
}

async fn rs_3_03_no_recursion_from_ask_to_event_to_ask<R: Route>() {
    stepwise::<R>(100_000).await;
}

async fn rs_3_04_asking_does_not_wait_for_the_producer<R: Route>() {
    let (graph, gate) = (Graph::new("test"), Gate::closed());
    struct Stuck(Gate);
    impl aqueduct_stage::Producer for Stuck {
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

async fn rs_3_05_cancelling_is_prompt_and_may_come_from_any_thread<R: Route>() {
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

async fn rs_3_06_asking_after_a_cancel_does_nothing<R: Route>() {
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

async fn rs_3_07_cancelling_after_a_cancel_does_nothing<R: Route>() {
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

async fn rs_3_08_asks_add_up<R: Route>() {
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
async fn rs_3_09_asking_for_nothing_or_again_for_the_same_does_nothing<R: Route>() {
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
async fn rs_3_10_an_ask_may_be_answered_at_once<R: Route>() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(2, &Log::new()));
    let source = R::route(&graph, &numbers).await;
    let _running = graph.start();
    let near = Near::subscribe(&source).await;
    settled().await;
    let before = tokio::time::Instant::now();
    near.ask(2);
    near.ended().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

async fn rs_3_12_a_cancel_ends_the_work_for_that_consumer<R: Route>() {
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

async fn rs_3_13_a_cancel_drops_every_reference_to_the_consumer<R: Route>() {
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

async fn rs_3_14_the_last_cancel_may_end_the_producer<R: Route>() {
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

async fn rs_3_15_asks_and_cancels_of_the_unknown_do_no_harm<R: Route>() {
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

async fn rs_3_17_demand_without_bound<R: Route>() {
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
    assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>());
    assert!(running.snapshot().stages.iter().all(|stage| !stage.ended));
}

async fn rs_4_02_who_survives_a_failure_above_recovers<R: Route>() {
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
    assert_eq!(followed.ended().await, r#"down: stage "test" failed: oops"#);
    assert_eq!(log.cancelled().await, r#"down: stage "test" failed: oops"#);
    well.stage_ref().call(emit(0..3)).await.unwrap();
    assert_eq!(recovered.events_reach(3).await, [0, 1, 2]);
}
