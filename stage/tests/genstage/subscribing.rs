//! B7: subscribing, subscribing anew, and cancelling, while the graph runs.

use std::time::Duration;

use aqueduct_stage::{
    Cancel, EndCause, Exit, Failure, FailureKind, Graph, Peer, SubscribeError, SubscribeOptions, SubscriptionId, Window,
};

use crate::support::{Far, Log, Note, count, emit, endless, idle, oops, settled, sink, with};

fn unknown() -> Far {
    Far::refusing(SubscribeError::Unknown { name: "nobody".into(), at: "here".into() })
}

fn with_policy(cancel: Cancel) -> SubscribeOptions {
    SubscribeOptions::demand(5..10).cancel(cancel)
}

#[tokio::test(start_paused = true)]
async fn genstage_043_subscribing_returns_an_id_of_its_own() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let [a, b] = ["a", "b"].map(|name| graph.producer(name, idle(&notes)));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let ids = [running.subscribe(&sink, &a, 5..10), running.subscribe(&sink, &b, 5..10)];
    settled().await;
    assert_ne!(ids[0], ids[1]);
    assert_eq!((log.subscribed(), notes.subscribed()), (ids.to_vec(), ids.to_vec()));
}

/// In GenStage the caller gets `noproc`. Here a subscription is sent and not awaited: the producer is told of its end.
#[tokio::test(start_paused = true)]
async fn genstage_044_a_consumer_that_has_ended_is_not_subscribed() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    sink.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    log.has(&Note::Terminated("normal".into())).await;
    let id = running.subscribe(&sink, &numbers, 5..10);
    settled().await;
    assert_eq!(log.subscribed(), []);
    assert_eq!(notes.asked(), [], "nobody asks");
    assert!(notes.subscribed().is_empty() || notes.all().contains(&Note::Cancelled(id, "cancelled: normal".into())));
    assert!(!running.snapshot().stage("numbers").unwrap().ended);
}

/// A bad option is an error where options are made, not where they are used.
#[test]
fn genstage_045_bad_options_are_refused_with_the_bound() {
    let max = 1000;
    let refused = |range| SubscribeOptions::try_demand(range).unwrap_err().to_string();
    assert_eq!(refused(0..0), "expected a window min..max with min below max, such as 500..1000, got 0..0");
    assert_eq!(refused(2000..max), "expected a window min..max with min below max, such as 500..1000, got 2000..1000");
}

#[tokio::test(start_paused = true)]
async fn genstage_046_a_permanent_consumer_of_an_unknown_producer_fails() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let sink = graph.consumer("sink", sink(&log));
    let mut running = graph.start();
    running.subscribe(&sink, &unknown(), with_policy(Cancel::Permanent));
    let error = running.join().await.unwrap_err();
    assert_eq!(error.to_string(), r#"stage "sink" could not subscribe: no producer named "nobody" at here"#);
}

#[tokio::test(start_paused = true)]
async fn genstage_047_a_permanent_consumer_of_a_dead_producer_fails() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let sink = graph.consumer("sink", sink(&log));
    let mut running = graph.start();
    numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Shutdown))).unwrap();
    notes.has(&Note::Terminated("shutdown".into())).await;
    settled().await;
    running.subscribe(&sink, &numbers, with_policy(Cancel::Permanent));
    let error = running.join().await.unwrap_err();
    assert_eq!(error.to_string(), r#"stage "sink" could not subscribe: producer "numbers" has ended"#);
}

#[tokio::test(start_paused = true)]
async fn genstage_048_a_temporary_consumer_of_an_unknown_producer_lives() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    running.subscribe(&sink, &unknown(), with_policy(Cancel::Temporary));
    settled().await;
    assert!(!running.snapshot().stage("sink").unwrap().ended);
    assert_eq!(sink.stage_ref().call(crate::support::Say("alive")).await, Ok("alive"));
}

#[tokio::test(start_paused = true)]
async fn genstage_049_a_temporary_consumer_of_a_dead_producer_lives() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Shutdown))).unwrap();
    notes.has(&Note::Terminated("shutdown".into())).await;
    settled().await;
    running.subscribe(&sink, &numbers, with_policy(Cancel::Temporary));
    settled().await;
    assert_eq!(sink.stage_ref().call(crate::support::Say("alive")).await, Ok("alive"));
}

#[tokio::test(start_paused = true)]
async fn genstage_051_resubscribing_makes_a_new_subscription_and_ends_the_old() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let old = running.subscribe(&sink, &numbers, 5..10);
    settled().await;
    let new = running.resubscribe(&sink, old, oops(), &numbers, 0..3);
    settled().await;
    assert_ne!(old, new);
    assert_eq!((log.subscribed(), notes.subscribed()), (vec![old, new], vec![old, new]));
    let cancelled = Note::Cancelled(old, r#"cancelled: stage "test" failed: oops"#.into());
    assert!(log.all().contains(&cancelled) && notes.all().contains(&cancelled));
    assert!(!running.snapshot().stage("sink").unwrap().ended, "though it is permanent");
    // What the old one had asked for is on its way already, and serves the new one.
    assert_eq!(notes.asked(), [10]);
}

#[tokio::test(start_paused = true)]
async fn genstage_052_resubscribing_with_an_unknown_id_subscribes() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let new = running.resubscribe(&sink, SubscriptionId::new(), oops(), &numbers, 0..3);
    log.batches_reach(1).await;
    assert_eq!(log.subscribed(), [new]);
}

#[test]
#[should_panic(expected = "got 2000..1000")]
fn genstage_053_bad_options_written_in_the_program_panic() {
    let max = 1000;
    let _ = SubscribeOptions::from(2000..max);
}

/// There is one form of subscribing: it never waits. This is the asynchronous half of 51.
#[tokio::test(start_paused = true)]
async fn genstage_054_resubscribing_elsewhere_moves_the_consumer() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), [Log::new(), Log::new()]);
    let near = graph.producer("near", endless(&notes[0]));
    let other = graph.producer("other", count(7, &notes[1]));
    let sink = graph.consumer("sink", sink(&log));
    let mut running = graph.start();
    let old = running.subscribe(&sink, &near, 0..1);
    log.batches_reach(1).await;
    let new = running.resubscribe(&sink, old, Exit::Normal, &other, 0..3);
    notes[0].has(&Note::Cancelled(old, "cancelled: normal".into())).await;
    assert_eq!(notes[1].first_subscribed().await, new);
    running.join().await.unwrap();
    assert!(log.events().ends_with(&[5, 6]) || log.events().contains(&6));
    assert!(log.all().contains(&Note::End), "of the two it has missed nothing that it wanted");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_hears_of_the_old_subscription_before_the_new_one() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes)).broadcast();
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let old = running.subscribe(&sink, &numbers, 5..10);
    settled().await;
    let new = running.resubscribe(&sink, old, Exit::Normal, &numbers, 0..3);
    settled().await;
    let snapshot = running.snapshot();
    assert_eq!(snapshot.between("numbers", "sink").map(|one| one.id).collect::<Vec<_>>(), [new]);
    numbers.stage_ref().call(emit(0..2)).await.unwrap();
    assert_eq!(log.events_reach(2).await, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn genstage_055_resubscribing_before_the_old_subscription_was_seen() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let old = running.subscribe(&sink, &numbers, 5..10);
    let new = running.resubscribe(&sink, old, Exit::Normal, &numbers, 5..10);
    settled().await;
    assert_eq!(log.subscribed(), [old, new]);
    assert!(notes.all().contains(&Note::Cancelled(old, "cancelled: normal".into())));
    assert!(!running.snapshot().stage("sink").unwrap().ended);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_may_hold_two_subscriptions_to_one_producer() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", count(1_000, &notes));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 1..2).subscribe(&numbers, 2..5);
    graph.run().await.unwrap();
    assert_eq!(log.events(), (0..1_000).collect::<Vec<_>>());
    assert_eq!(log.subscribed().len(), 2);
}

// How an edge ends, and what that means for the consumer.

#[tokio::test(start_paused = true)]
async fn the_policies_say_who_survives_what() {
    use Cancel::{Permanent, Temporary, Transient};
    let already = || Exit::Failed(Failure::new("far", FailureKind::AlreadySubscribed, "already subscribed"));
    let (cancelled, down) = (EndCause::Cancelled, EndCause::Down);
    let table = [
        (Permanent, cancelled(Exit::Normal), Some("normal")),
        (Permanent, cancelled(Exit::Shutdown), Some("shutdown")),
        (Permanent, cancelled(oops()), Some("oops")),
        (Permanent, down(Exit::Normal), Some("normal")),
        (Permanent, down(Exit::Shutdown), Some("shutdown")),
        (Permanent, down(oops()), Some("oops")),
        (Transient, cancelled(Exit::Normal), None),
        (Transient, cancelled(Exit::Shutdown), None),
        (Transient, cancelled(oops()), Some("oops")),
        (Transient, down(Exit::Normal), None),
        (Transient, down(Exit::Shutdown), None),
        (Transient, down(oops()), Some("oops")),
        (Temporary, cancelled(Exit::Normal), None),
        (Temporary, cancelled(oops()), None),
        (Temporary, down(Exit::Normal), None),
        (Temporary, down(oops()), None),
        (Permanent, cancelled(already()), None),
        (Transient, cancelled(already()), None),
        (Temporary, cancelled(already()), None),
    ];
    for (policy, cause, ends_with) in table {
        let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
        graph.consumer("sink", sink(&log)).subscribe(&far, with_policy(policy));
        let running = graph.start();
        settled().await;
        far.end(cause.clone());
        settled().await;
        let notes = log.all();
        let at = |wanted: fn(&Note) -> bool| notes.iter().position(wanted);
        assert!(at(|note| matches!(note, Note::Cancelled(..))).is_some(), "{policy:?} {cause:?}: {notes:?}");
        let terminated = notes.last().and_then(|note| match note {
            Note::Terminated(exit) => Some(exit.clone()),
            _ => None,
        });
        assert_eq!(terminated.is_some(), ends_with.is_some(), "{policy:?} {cause:?}: {notes:?}");
        assert!(terminated.unwrap_or_default().ends_with(ends_with.unwrap_or_default()), "{policy:?} {cause:?}");
        assert_eq!(running.snapshot().stage("sink").unwrap().ended, ends_with.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_cannot_be_reached_ends_who_would_fail_with_it() {
    for (policy, ends) in [(Cancel::Permanent, true), (Cancel::Transient, true), (Cancel::Temporary, false)] {
        let (graph, log) = (Graph::new("test"), Log::new());
        graph.consumer("sink", sink(&log)).subscribe(&unknown(), with_policy(policy));
        let running = graph.start();
        settled().await;
        assert_eq!(running.snapshot().stage("sink").unwrap().ended, ends, "{policy:?}");
        assert!(log.cancelled().await.contains("no producer named"), "it is told as of any end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_waits_behind_the_events_that_are_queued() {
    let (graph, log, seen, far) = (Graph::new("test"), Log::new(), Log::new(), Far::new());
    let relay = graph.stage("relay", crate::support::relay(&seen)).subscribe(&far, with_policy(Cancel::Permanent));
    let manual = |sink: &mut crate::support::Sink| sink.mode = aqueduct_stage::Mode::Manual;
    let consumer = graph.consumer("sink", crate::support::sink_with(&log, manual)).subscribe(&relay, 0..1);
    let running = graph.start();
    let id = log.first_subscribed().await;
    settled().await;
    far.deliver(0..3);
    far.end(EndCause::Cancelled(oops()));
    settled().await;
    assert_eq!((seen.batches().len(), running.snapshot().stage("relay").unwrap().ended), (0, false));
    consumer.stage_ref().call(with(move |cx| cx.ask(id, 3))).await.unwrap();
    log.has(&Note::Events(vec![0, 1, 2], 1)).await;
    assert!(seen.cancelled().await.ends_with("oops"));
    settled().await;
    assert!(running.snapshot().stage("relay").unwrap().ended);
    assert_eq!(log.events(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_cancels_its_subscriber() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, with_policy(Cancel::Temporary));
    let running = graph.start();
    let id = notes.first_subscribed().await;
    numbers.stage_ref().cast(with(move |cx| cx.cancel(id, oops()))).unwrap();
    settled().await;
    let cancelled = Note::Cancelled(id, r#"cancelled: stage "test" failed: oops"#.into());
    assert!(log.all().contains(&cancelled) && notes.all().contains(&cancelled));
    assert!(running.snapshot().stages.iter().all(|stage| !stage.ended));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_cancels_its_subscription() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    let consumer = graph.consumer("sink", sink(&log)).subscribe(&numbers, with_policy(Cancel::Transient));
    let running = graph.start();
    let id = log.first_subscribed().await;
    settled().await;
    consumer.stage_ref().cast(with(move |cx| cx.cancel(id, Exit::Normal))).unwrap();
    settled().await;
    let cancelled = Note::Cancelled(id, "cancelled: normal".into());
    assert!(log.all().contains(&cancelled) && notes.all().contains(&cancelled));
    assert!(running.snapshot().stages.iter().all(|stage| !stage.ended));
    // Again, and for what never was: nothing.
    consumer.stage_ref().cast(with(move |cx| cx.cancel(id, oops()))).unwrap();
    running.cancel(&consumer, SubscriptionId::new(), oops());
    settled().await;
    assert_eq!(log.all().iter().filter(|note| matches!(note, Note::Cancelled(..))).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_producer_is_told_that_its_consumer_has_ended_and_how() {
    for (exit, told) in [(oops(), r#"down: stage "test" failed: oops"#), (Exit::Normal, "down: normal")] {
        let (graph, notes) = (Graph::new("test"), Log::new());
        let numbers = graph.producer("numbers", idle(&notes));
        let consumer = graph.consumer("sink", sink(&Log::new())).subscribe(&numbers, 0..10);
        let _running = graph.start();
        let id = notes.first_subscribed().await;
        consumer.stage_ref().cast(with(move |cx| cx.stop(exit))).unwrap();
        notes.has(&Note::Cancelled(id, told.into())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_are_told_the_same_of_a_subscription() {
    struct Told(Log<(Peer, Window, Cancel)>);
    impl aqueduct_stage::Producer for Told {
        type Out = u64;
        async fn handle_demand(&mut self, _: usize, _: &mut aqueduct_stage::Cx<'_, u64>) -> aqueduct_stage::Result {
            Ok(())
        }
        async fn handle_subscribe(
            &mut self,
            edge: &aqueduct_stage::Edge,
            _: &mut aqueduct_stage::Cx<'_, u64>,
        ) -> aqueduct_stage::Result {
            self.0.push((edge.peer, edge.window, edge.cancel));
            Ok(())
        }
        async fn handle_cancel(
            &mut self,
            edge: &aqueduct_stage::Edge,
            _: &EndCause,
            _: &mut aqueduct_stage::Cx<'_, u64>,
        ) -> aqueduct_stage::Result {
            self.0.push((edge.peer, edge.window, edge.cancel));
            Ok(())
        }
    }
    let (graph, log) = (Graph::new("test"), Log::new());
    let written = log.clone();
    let told = graph.producer("told", move || Told(written.clone()));
    let sink = graph.consumer("sink", sink(&Log::new()));
    let running = graph.start();
    let id = running.subscribe(&sink, &told, with_policy(Cancel::Temporary));
    settled().await;
    running.cancel(&sink, id, Exit::Normal);
    settled().await;
    let edge = (Peer::Consumer, Window::new(5, 10).unwrap(), Cancel::Temporary);
    assert_eq!(log.all(), [edge, edge]);
}

// A graph that grows.

#[tokio::test(start_paused = true)]
async fn stages_are_added_to_a_running_graph() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", count(100, &notes));
    let mut running = graph.start();
    settled().await;
    assert_eq!(notes.asked(), []);
    running.add(|graph| {
        let relay = graph.stage("relay", crate::support::relay(&Log::new())).subscribe(&numbers, 5..10);
        graph.consumer("sink", sink(&log)).subscribe(&relay, 5..10)
    });
    let outcome = running.join().await.unwrap();
    assert_eq!(log.events(), (0..100).collect::<Vec<_>>());
    let names: Vec<_> = outcome.stages.iter().map(|stage| stage.stage.as_str()).collect();
    assert_eq!(names, ["numbers", "relay", "sink"]);
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_is_added_after_join_was_given_up_can_still_be_joined() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(100, &Log::new()));
    let mut running = graph.start();
    let early = tokio::time::timeout(Duration::from_secs(1), running.join()).await;
    assert!(early.is_err(), "nobody has seen the numbers");
    running.add(|graph| graph.consumer("sink", sink(&log)).subscribe(&numbers, 5..10));
    running.join().await.unwrap();
    assert_eq!(log.events().len(), 100);
}
