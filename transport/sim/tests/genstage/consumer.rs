//! B10: what the callbacks of a consumer are told of a far producer, and whom it follows.

use std::time::Duration;

use aqueduct_stage::{Batch, Cancel, Consumer, Cx, Edge, Exit, Mode, Peer, Result, SubscribeOptions};

use crate::support::{Log, Note, count, idle, oops, sink, with};
use crate::two_nodes::machine;
use crate::{far, graphs, scenario, settled};

/// How a far producer lets go of its consumer.
enum Lost {
    Cancelled(Exit),
    Stopped(Exit),
    Killed,
    /// Its whole node.
    Crashed,
}

/// A consumer under `policy` loses its far producer: what it is told, and how it ends.
async fn told(policy: Cancel, lost: Lost) -> (String, Option<String>) {
    let ((there, here), log, notes) = (graphs(), Log::new(), Log::new());
    let numbers = there.producer("numbers", idle(&notes));
    here.consumer("sink", sink(&log)).subscribe(&far(&numbers), SubscribeOptions::demand(5..10).cancel(policy));
    let (there, _here) = (there.start(), here.start());
    let id = notes.first_subscribed().await;
    settled().await;
    match lost {
        Lost::Cancelled(reason) => numbers.stage_ref().cast(with(move |cx| cx.cancel(id, reason))).unwrap(),
        Lost::Stopped(exit) => numbers.stage_ref().cast(with(move |cx| cx.stop(exit))).unwrap(),
        Lost::Killed => drop(there),
        Lost::Crashed => machine(0).host.crash(),
    }
    let cause = log.cancelled().await;
    settled().await;
    (cause, terminated(&log))
}

fn terminated(log: &Log) -> Option<String> {
    let exit = |note| if let Note::Terminated(exit) = note { Some(exit) } else { None };
    log.all().into_iter().find_map(exit)
}

/// The consumer is told of the end of its producer by a failure that says so, and ends with the same or not at all.
#[track_caller]
fn assert_fails(told: (String, Option<String>), failure: &str, ends: bool) {
    assert_told("down: ", told, failure, ends);
}

/// The same of a cancel by a producer that lives on.
#[track_caller]
fn assert_cancelled(told: (String, Option<String>), failure: &str, ends: bool) {
    assert_told("cancelled: ", told, failure, ends);
}

#[track_caller]
fn assert_told(how: &str, (cause, exit): (String, Option<String>), failure: &str, ends: bool) {
    assert!(cause.starts_with(how) && cause.contains(failure), "{cause}");
    assert_eq!(exit.is_some(), ends, "{exit:?}");
    assert!(exit.is_none_or(|exit| cause.ends_with(&exit)), "{cause}");
}

const OOPS: &str = r#"stage "test" failed: oops"#;
const KILLED: &str = "its task was dropped before it had ended";

#[test]
fn genstage_070_both_ends_are_told_of_the_edge() {
    scenario(async || {
        let ((there, here), log, notes) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", idle(&notes));
        let sink = here.consumer("sink", sink(&log));
        let (_there, here) = (there.start(), here.start());
        let id = here.subscribe(&sink, &far(&numbers), 5..10);
        settled().await;
        assert_eq!(log.all(), [Note::Subscribed(id, Peer::Producer)]);
        assert!(matches!(notes.all()[..], [Note::Subscribed(_, Peer::Consumer), Note::Asked(10)]));
    });
}

#[test]
fn genstage_071_a_subscription_that_is_not_wanted_ends_the_consumer() {
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
    scenario(async || {
        let ((there, here), notes) = (graphs(), Log::new());
        let numbers = there.producer("numbers", idle(&notes));
        here.consumer("refuses", || Refuses).subscribe(&far(&numbers), 5..10);
        let (_there, mut here) = (there.start(), here.start());
        notes.cancelled().await;
        assert_eq!(here.join().await.unwrap_err().failure.message(), "not this one");
        assert_eq!(notes.asked(), []);
    });
}

#[test]
fn genstage_072_temporary_cancelled_with_a_failure_lives() {
    scenario(async || assert_cancelled(told(Cancel::Temporary, Lost::Cancelled(oops())).await, OOPS, false));
}

#[test]
fn genstage_073_transient_cancelled_gracefully_lives() {
    scenario(async || {
        let told = told(Cancel::Transient, Lost::Cancelled(Exit::Normal)).await;
        assert_eq!(told, ("cancelled: normal".to_owned(), None));
    });
}

#[test]
fn genstage_074_transient_cancelled_with_a_failure_fails() {
    scenario(async || assert_cancelled(told(Cancel::Transient, Lost::Cancelled(oops())).await, OOPS, true));
}

#[test]
fn genstage_075_permanent_cancelled_ends() {
    scenario(async || {
        assert_cancelled(told(Cancel::Permanent, Lost::Cancelled(oops())).await, OOPS, true);
        let gracefully = told(Cancel::Permanent, Lost::Cancelled(Exit::Normal)).await;
        assert_eq!(gracefully, ("cancelled: normal".to_owned(), Some("normal".to_owned())));
    });
}

#[test]
fn genstage_076_temporary_lives_when_its_producer_is_killed() {
    scenario(async || assert_fails(told(Cancel::Temporary, Lost::Killed).await, KILLED, false));
}

#[test]
fn genstage_077_transient_fails_when_its_producer_is_killed() {
    scenario(async || assert_fails(told(Cancel::Transient, Lost::Killed).await, KILLED, true));
}

#[test]
fn genstage_078_permanent_fails_when_its_producer_is_killed() {
    scenario(async || assert_fails(told(Cancel::Permanent, Lost::Killed).await, KILLED, true));
}

#[test]
fn genstage_076_temporary_lives_when_its_producers_node_crashes() {
    scenario(async || assert_fails(told(Cancel::Temporary, Lost::Crashed).await, "", false));
}

#[test]
fn genstage_077_transient_fails_when_its_producers_node_crashes() {
    scenario(async || assert_fails(told(Cancel::Transient, Lost::Crashed).await, "", true));
}

#[test]
fn genstage_078_permanent_fails_when_its_producers_node_crashes() {
    scenario(async || assert_fails(told(Cancel::Permanent, Lost::Crashed).await, "", true));
}

#[test]
fn the_policies_say_who_survives_the_end_of_a_far_producer() {
    use Cancel::{Permanent, Temporary, Transient};
    let table = [
        (Permanent, Exit::Normal, "down: normal", Some("normal")),
        (Transient, Exit::Normal, "down: normal", None),
        (Temporary, Exit::Normal, "down: normal", None),
        (Permanent, Exit::Shutdown, "down: shutdown", Some("shutdown")),
        (Transient, Exit::Shutdown, "down: shutdown", None),
        (Temporary, Exit::Shutdown, "down: shutdown", None),
    ];
    scenario(async || {
        for (policy, exit, cause, ends_with) in &table {
            let told = told(*policy, Lost::Stopped(exit.clone())).await;
            assert_eq!(told, ((*cause).to_owned(), ends_with.map(str::to_owned)), "{policy:?}");
        }
        for (policy, ends) in [(Permanent, true), (Transient, true), (Temporary, false)] {
            assert_fails(told(policy, Lost::Stopped(oops())).await, OOPS, ends);
        }
    });
}

#[test]
fn genstage_080_stopping_either_graph_terminates_its_stages() {
    scenario(async || {
        for consumer_first in [true, false] {
            let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
            let numbers = there.producer("numbers", idle(&logs[0]));
            let lives = SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
            here.consumer("sink", sink(&logs[1])).subscribe(&far(&numbers), lives);
            let (mut there, mut here) = (there.start(), here.start());
            settled().await;
            let (stopped, other) = if consumer_first { (&mut here, 0) } else { (&mut there, 1) };
            stopped.stop(Duration::from_secs(1)).await.unwrap();
            logs[other].cancelled().await;
            settled().await;
            assert_eq!(terminated(&logs[1 - other]), Some("shutdown".to_owned()));
            assert_eq!(terminated(&logs[other]), None);
        }
    });
}

#[test]
fn genstage_082_a_snapshot_shows_the_demand_on_either_node() {
    scenario(async || {
        let ((there, here), log) = (graphs(), Log::new());
        let numbers = there.producer("numbers", count(3, &Log::new())).wait_for_subscribers(2);
        here.consumer("sink", sink(&log)).subscribe(&far(&numbers), 5..10);
        let (there, here) = (there.start(), here.start());
        settled().await;
        let snapshot = here.snapshot();
        let sink = snapshot.stage("sink").unwrap();
        assert_eq!((sink.stage.as_str(), sink.instance, sink.ended, sink.outstanding.count()), ("sink", 0, false, 10));
        assert!(!there.snapshot().stage("numbers").unwrap().ended);
    });
}

/// GenStage ends it with the first, and what the other would still have sent is lost.
#[test]
fn a_permanent_consumer_ends_with_its_last_exhausted_producer() {
    scenario(async || {
        let ((there, here), log) = (graphs(), Log::new());
        let short = there.producer("short", count(3, &Log::new()));
        let long = there.producer("long", idle(&Log::new()));
        here.consumer("sink", sink(&log)).subscribe(&far(&short), 5..10).subscribe(&far(&long), 5..10);
        let _running = (there.start(), here.start());
        log.cancelled().await;
        settled().await;
        assert_eq!(terminated(&log), None);
        let ends = with(|cx| {
            cx.emit(7);
            cx.stop(Exit::Normal);
        });
        long.stage_ref().cast(ends).unwrap();
        log.has(&Note::Terminated("normal".into())).await;
        assert_eq!(log.events(), [0, 1, 2, 7]);
    });
}
