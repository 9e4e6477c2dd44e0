//! Stages between a source and a sink that the test plays, and what the two say when it is not as expected.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{
    Attempt, Batch, Cancel, Consumer, Cx, Exit, Graph, Handle, ProducerConsumer, Publisher, Result, Source,
    SubscribeError, SubscribeOptions, Subscription, Window,
};
use tokio::time::Instant;

/// Passes on what is not 13, which it fails at.
#[derive(Clone)]
struct Wary;

impl ProducerConsumer for Wary {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        if events.contains(&13) {
            return Err("bad luck".into());
        }
        cx.emit_all(events);
        Ok(())
    }
}

/// Adds up what it gets.
struct Sum(u64);

impl Consumer for Sum {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        if events.contains(&13) {
            return Err("bad luck".into());
        }
        self.0 += events.iter().sum::<u64>();
        Ok(())
    }
}

struct Total;

impl Handle<Total> for Sum {
    type Reply = u64;

    async fn handle(&mut self, Total: Total, _: &mut Cx<'_>) -> Result<u64> {
        Ok(self.0)
    }
}

/// What a test fails with that expects the wrong thing.
async fn complaint<T>(expectation: impl Future<Output = T>) -> String {
    let mut expectation = Box::pin(expectation);
    let caught = std::future::poll_fn(move |cx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| expectation.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|_| None),
            Err(panic) => std::task::Poll::Ready(Some(*panic.downcast::<String>().unwrap())),
        }
    });
    let text = caught.await.expect("it should have failed");
    let (place, text) = text.split_once(": ").unwrap();
    assert!(place.starts_with("stage/tests/testing.rs:") || place.starts_with("tests/testing.rs:"), "{place}");
    text.to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_stage_is_tested_between_the_two() {
    let (graph, source) = (Graph::new("test"), ProbeSource::new());
    let wary = graph.stage("wary", || Wary).subscribe(&source, 5..10);
    let mut running = graph.start();
    let sink = ProbeSink::subscribe(&wary).await;
    let edge = source.expect_subscription().await;
    assert_eq!((edge.window, edge.cancel), (Window::new(5, 10).unwrap(), Cancel::Permanent));
    source.expect_demand(10).await;
    source.send([1, 2, 3]);
    source.send([4, 5]);
    sink.expect_no_events().await;
    source.expect_no_demand().await;
    sink.ask(4);
    sink.expect_events([1]).await;
    assert_eq!(*sink.next_batch().await, [2, 3]);
    assert_eq!(sink.take_events(1).await, [4]);
    source.expect_demand(5).await;
    sink.ask(3);
    sink.expect_events([5]).await;
    source.complete();
    sink.expect_end().await;
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_stage_cancels_the_source_and_fails_the_sink() {
    let (graph, source) = (Graph::new("test"), ProbeSource::new());
    let wary = graph.stage("wary", || Wary).subscribe(&source, 0..10);
    let _running = graph.start();
    let sink = ProbeSink::subscribe(&wary).await;
    sink.ask(10);
    source.expect_demand(10).await;
    source.send([13]);
    assert_eq!(sink.expect_failure().await.message(), "bad luck");
    assert_eq!(source.expect_cancel().await.to_string(), r#"stage "wary" failed: bad luck"#);
}

#[tokio::test(start_paused = true)]
async fn a_failing_source_fails_the_stage() {
    let (graph, source) = (Graph::new("test"), ProbeSource::new().named("tap"));
    let wary = graph.stage("wary", || Wary).subscribe(&source, 0..10);
    let mut running = graph.start();
    let sink = ProbeSink::subscribe(&wary).await;
    source.expect_subscription().await;
    source.fail_with("dry");
    assert_eq!(sink.expect_failure().await.to_string(), r#"stage "tap" failed: dry"#);
    assert_eq!(running.join().await.unwrap_err().to_string(), r#"stage "tap" failed: dry"#);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_tested_with_a_source_alone() {
    let (graph, source) = (Graph::new("test"), ProbeSource::new());
    let sum = graph.consumer("sum", || Sum(0)).subscribe_acknowledged(&source, 4..6);
    let _running = graph.start();
    source.expect_demand(6).await;
    source.send(1..=3);
    // It handles two at a time, and asks after those.
    assert_eq!(source.next_demand().await, 2);
    assert_eq!(sum.stage_ref().call(Total).await, Ok(6));
    source.send([13, 1, 2]);
    assert!(matches!(source.expect_cancel().await, Exit::Failed(_)));
    let second = Attempt::FIRST.next();
    assert_eq!(source.take_handed_back(), [(vec![13, 1], second), (vec![2], Attempt::FIRST)]);
}

#[tokio::test(start_paused = true)]
async fn each_subscription_is_played_in_its_turn() {
    let (graph, source) = (Graph::new("test"), ProbeSource::new());
    let sum = graph.consumer("sum", || Sum(0));
    source.expect_no_demand().await;
    let running = graph.start();
    let options = SubscribeOptions::demand(0..3).cancel(Cancel::Temporary);
    let first = running.subscribe(&sum, &source, options);
    running.subscribe(&sum, &source, 0..5);
    assert_eq!(source.expect_subscription().await.id, first);
    source.expect_demand(3).await;
    source.expect_no_demand().await;
    running.cancel(&sum, first, Exit::Shutdown);
    assert!(matches!(source.expect_cancel().await, Exit::Shutdown));
    source.expect_subscription().await;
    source.expect_demand(5).await;
    source.refuse(SubscribeError::Ended("it".into()));
    assert!(ProbeSink::try_subscribe(&source, 0..1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_leaves_is_told_the_end() {
    let source = ProbeSource::<u64>::new();
    let sink = ProbeSink::subscribe(&source).await;
    sink.cancel();
    assert_eq!(sink.end_cause().await.to_string(), "cancelled: normal");
    let dropped = ProbeSink::subscribe(&source).await;
    assert_eq!(
        (source.expect_subscription().await.id, source.expect_subscription().await.id),
        (sink.id(), dropped.id())
    );
    drop(dropped);
    source.expect_cancel().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_as_expected_is_said() {
    let source = ProbeSource::new();
    assert_eq!(complaint(source.expect_subscription()).await, "probe source: expected a subscription, got none");
    assert_eq!(
        complaint(source.expect_demand(1)).await,
        "probe source: expected demand for 1 event, got no subscription"
    );
    let sink = ProbeSink::subscribe(&source).await;
    assert_eq!(
        complaint(sink.expect_events([1])).await,
        r#"sink of "probe source": expected [1], got [] and nothing more within 5s"#
    );
    assert_eq!(complaint(source.expect_demand(1)).await, "probe source: expected demand for 1 event, got none");
    sink.ask(2);
    sink.ask(3);
    assert_eq!(
        complaint(source.expect_demand(4)).await,
        "probe source: expected demand for 4 events, got asks for [2, 3]"
    );
    assert_eq!(complaint(source.expect_no_demand()).await, "probe source: expected no demand, got asks for [2, 3]");
    source.expect_demand(5).await;
    assert_eq!(
        complaint(async { source.send([0; 6]) }).await,
        "probe source: cannot send 6 events: 5 of them are asked for"
    );
    source.send([1, 2, 3]);
    assert_eq!(complaint(sink.expect_no_events()).await, r#"sink of "probe source": expected no events, got 3 events"#);
    assert_eq!(
        complaint(sink.expect_end()).await,
        r#"sink of "probe source": expected the end of the data, got 3 events"#
    );
    assert_eq!(complaint(sink.expect_events([1, 3])).await, r#"sink of "probe source": expected [1, 3], got [1, 2]"#);
    source.complete();
    assert_eq!(
        complaint(sink.expect_events([3, 4])).await,
        r#"sink of "probe source": expected [3, 4], got [3] and then the end: down: normal"#
    );
    assert_eq!(
        complaint(sink.expect_failure()).await,
        r#"sink of "probe source": expected a failure, got down: normal"#
    );
    assert_eq!(
        complaint(async { source.send([4]) }).await,
        "probe source: cannot send 1 event: the subscription has ended"
    );
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_cannot_be_met_any_more_fails_at_once() {
    let (source, before) = (ProbeSource::<u64>::new(), Instant::now());
    let sink = ProbeSink::subscribe(&source).await;
    sink.ask(1);
    sink.cancel();
    assert_eq!(
        complaint(source.expect_demand(2)).await,
        "probe source: expected demand for 2 events, got 1, and a cancel: normal"
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_breaks_the_protocol_is_found_out() {
    let source = ProbeSource::new();
    let sink = ProbeSink::subscribe(&source).await;
    sink.ask(1);
    source.expect_demand(1).await;
    source.send_unasked([1, 2]);
    assert_eq!(
        complaint(sink.expect_events([1])).await,
        r#"sink of "probe source": the producer sent 2 events in all, and 1 were asked for"#
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_answer_is_given_up() {
    struct Silent;
    impl Source for Silent {
        type Item = u64;
        fn name(&self) -> String {
            "silent".into()
        }
        async fn open(&self, _: usize, _: Subscription<u64>) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
            std::future::pending().await
        }
    }
    let error = ProbeSink::try_subscribe(&Silent, 0..1).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot reach silent: no answer within 5s");
    assert_eq!(
        complaint(ProbeSink::subscribe(&Silent)).await,
        "silent: cannot subscribe: cannot reach silent: no answer within 5s"
    );
}

/// Without the feature, `start_paused` and `tokio::time::pause` do not compile.
#[test]
fn the_features_that_the_readme_gives_have_the_clock_that_the_examples_of_testing_stop() {
    let readme = include_str!("../../README.md");
    let (_, manifest) = readme.split_once("[dev-dependencies]").unwrap();
    let (manifest, _) = manifest.split_once("```").unwrap();
    assert!(manifest.contains("\"test-util\""), "{manifest}");
}
