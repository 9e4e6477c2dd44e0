//! B10: what the callbacks of a consumer are told, and when it ends.
//!
//! 79 (an unknown message) does not compile here: a stage takes the messages it implements `Handle` for. 81 (a consumer that
//! returns events) does not either: there are no values of its output, [`Never`](aqueduct_stage::Never).

use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, Cx, Edge, Exit, FailureKind, Graph, Mode, Peer, Result, SubscribeOptions,
};

use crate::support::{Log, Note, Say, count, endless, idle, oops, settled, sink, with};

/// A consumer under `policy` is cancelled by its producer with `reason`: what it is told, and how it ends.
async fn cancelled(policy: Cancel, reason: Exit) -> (String, Option<String>) {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, SubscribeOptions::demand(5..10).cancel(policy));
    let _running = graph.start();
    let id = notes.first_subscribed().await;
    numbers.stage_ref().cast(with(move |cx| cx.cancel(id, reason))).unwrap();
    let cause = log.cancelled().await;
    settled().await;
    (cause, terminated(&log))
}

/// The same with a producer that is killed.
async fn killed(policy: Cancel) -> (String, Option<String>) {
    let (far, near, log) = (Graph::new("far"), Graph::new("near"), Log::new());
    let numbers = far.producer("numbers", idle(&Log::new()));
    near.consumer("sink", sink(&log)).subscribe(&numbers, SubscribeOptions::demand(5..10).cancel(policy));
    let (far, _near) = (far.start(), near.start());
    settled().await;
    drop(far);
    let cause = log.cancelled().await;
    settled().await;
    (cause, terminated(&log))
}

fn terminated(log: &Log) -> Option<String> {
    let exit = |note| if let Note::Terminated(exit) = note { Some(exit) } else { None };
    log.all().into_iter().find_map(exit)
}

const OOPS: &str = r#"stage "test" failed: oops"#;
const KILLED: &str = r#"stage "numbers" was killed: its task was dropped before it had ended"#;

/// `init` answers ignore, stop or nonsense: a factory makes a stage, or panics.
#[tokio::test(start_paused = true)]
async fn genstage_069_a_consumer_that_cannot_be_made() {
    struct Unmade;
    impl Consumer for Unmade {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Ok(())
        }
    }
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    graph.consumer("sink", || -> Unmade { panic!("no file") }).subscribe(&numbers, 5..10);
    let error = graph.run().await.unwrap_err();
    assert_eq!(error.to_string(), r#"stage "sink" panicked: no file"#);
}

#[tokio::test(start_paused = true)]
async fn genstage_070_handle_subscribe_is_told_of_the_edge() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let id = running.subscribe(&sink, &numbers, 5..10);
    settled().await;
    assert_eq!(log.all(), [Note::Subscribed(id, Peer::Producer)]);
    assert_eq!(notes.all()[0], Note::Subscribed(id, Peer::Consumer));
}

/// There is no answer but automatic and manual; an error is the nearest.
#[tokio::test(start_paused = true)]
async fn genstage_071_a_subscription_that_is_not_wanted_ends_the_consumer() {
    struct Refuses;
    impl Consumer for Refuses {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Ok(())
        }
        async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_>) -> Result<Mode> {
            Err("not this one".into())
        }
    }
    let (graph, notes) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    graph.consumer("refuses", || Refuses).subscribe(&numbers, 5..10);
    let mut running = graph.start();
    assert_eq!(notes.cancelled().await, r#"down: stage "refuses" failed: not this one"#);
    let error = running.join().await.unwrap_err();
    assert_eq!((error.failure.kind(), error.failure.message()), (FailureKind::Error, "not this one"));
    assert_eq!(notes.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn genstage_072_temporary_cancelled_with_a_failure_lives() {
    assert_eq!(cancelled(Cancel::Temporary, oops()).await, (format!("cancelled: {OOPS}"), None));
}

#[tokio::test(start_paused = true)]
async fn genstage_073_transient_cancelled_gracefully_lives() {
    assert_eq!(cancelled(Cancel::Transient, Exit::Normal).await, ("cancelled: normal".to_owned(), None));
}

#[tokio::test(start_paused = true)]
async fn genstage_074_transient_cancelled_with_a_failure_fails() {
    assert_eq!(cancelled(Cancel::Transient, oops()).await, (format!("cancelled: {OOPS}"), Some(OOPS.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn genstage_075_permanent_cancelled_ends() {
    assert_eq!(cancelled(Cancel::Permanent, oops()).await, (format!("cancelled: {OOPS}"), Some(OOPS.to_owned())));
    let normal = ("cancelled: normal".to_owned(), Some("normal".to_owned()));
    assert_eq!(cancelled(Cancel::Permanent, Exit::Normal).await, normal);
}

#[tokio::test(start_paused = true)]
async fn genstage_076_temporary_lives_when_its_producer_is_killed() {
    assert_eq!(killed(Cancel::Temporary).await, (format!("down: {KILLED}"), None));
}

#[tokio::test(start_paused = true)]
async fn genstage_077_transient_fails_when_its_producer_is_killed() {
    assert_eq!(killed(Cancel::Transient).await, (format!("down: {KILLED}"), Some(KILLED.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn genstage_078_permanent_fails_when_its_producer_is_killed() {
    assert_eq!(killed(Cancel::Permanent).await, (format!("down: {KILLED}"), Some(KILLED.to_owned())));
}

/// An unknown message does not compile; a known one is handled.
#[tokio::test(start_paused = true)]
async fn genstage_079_a_message_is_handled() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let sink = graph.consumer("sink", sink(&log));
    let _running = graph.start();
    sink.stage_ref().cast(Say("hello")).unwrap();
    log.has(&Note::Said("hello")).await;
}

#[tokio::test(start_paused = true)]
async fn genstage_080_terminate_is_told_the_reason() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let sink = graph.consumer("sink", sink(&log));
    let mut running = graph.start();
    sink.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    log.has(&Note::Terminated("normal".into())).await;
    let outcome = running.stop(Duration::from_secs(1)).await.unwrap();
    assert!(matches!(outcome.stage("sink").unwrap().exit, Exit::Normal));
}

#[tokio::test(start_paused = true)]
async fn genstage_080_stopping_the_graph_terminates_each_stage() {
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
    let numbers = graph.producer("numbers", idle(&logs[0]));
    graph.consumer("sink", sink(&logs[1])).subscribe(&numbers, 5..10);
    let mut running = graph.start();
    settled().await;
    running.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(logs.map(|log| terminated(&log)), [Some("shutdown".to_owned()), Some("shutdown".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn genstage_082_a_snapshot_shows_the_stage() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(3, &Log::new())).wait_for_subscribers(2);
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 5..10);
    let running = graph.start();
    settled().await;
    let snapshot = running.snapshot();
    let sink = snapshot.stage("sink").unwrap();
    assert_eq!((sink.stage.as_str(), sink.instance, sink.ended, sink.outstanding.count()), ("sink", 0, false, 10));
    assert_eq!(format!("{running:?}"), r#"Running { graph: Graph { name: "test", stages: ["numbers", "sink"] }, .. }"#);
}

#[tokio::test(start_paused = true)]
async fn handle_end_is_called_only_if_everything_was_seen() {
    for (stops_with, ends) in [(Exit::Normal, true), (Exit::Shutdown, false)] {
        let (graph, log) = (Graph::new("test"), Log::new());
        let [first, second] = ["first", "second"].map(|name| graph.producer(name, idle(&Log::new())));
        let options = SubscribeOptions::demand(5..10).cancel(Cancel::Transient);
        graph.consumer("sink", sink(&log)).subscribe(&first, options).subscribe(&second, options);
        let mut running = graph.start();
        settled().await;
        first.stage_ref().cast(with(|cx| cx.stop(stops_with))).unwrap();
        second.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
        let result = running.join().await;
        assert_eq!((log.all().contains(&Note::End), result.is_ok()), (ends, ends));
    }
}

/// GenStage ends it with the first, and what the other would still have sent is lost.
#[tokio::test(start_paused = true)]
async fn a_permanent_consumer_ends_with_its_last_exhausted_producer() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let short = graph.producer("short", count(3, &Log::new()));
    let long = graph.producer("long", idle(&Log::new()));
    graph.consumer("sink", sink(&log)).subscribe(&short, 5..10).subscribe(&long, 5..10);
    let _running = graph.start();
    log.cancelled().await;
    settled().await;
    assert_eq!(terminated(&log), None);
    long.stage_ref()
        .cast(with(|cx| {
            cx.emit(7);
            cx.stop(Exit::Normal);
        }))
        .unwrap();
    settled().await;
    assert_eq!((log.events(), terminated(&log)), (vec![0, 1, 2, 7], Some("normal".to_owned())));
}
