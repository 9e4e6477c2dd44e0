//! What stages wait for is said: in the snapshot at any time, by a warning after a while, and by an error where it is in
//! vain.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/count.rs"]
mod count;
mod support;

use std::time::Duration;

use aqueduct_stage::{
    Batch, Cx, Exit, FailureKind, Graph, PartitionName, Producer, ProducerConsumer, Result, Source, SourceExt,
    WaitingFor, each,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;

use count::count;
use support::{Warnings, settled};

const PATIENCE: Duration = Duration::from_secs(5);

struct Pass;

impl ProducerConsumer for Pass {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(events);
        Ok(())
    }
}

/// Asked by a message to stop, whoever has subscribed.
struct Stopping;

impl Producer for Stopping {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, u64>) -> Result {
        Ok(())
    }
}

impl aqueduct_stage::Handle<(), u64> for Stopping {
    type Reply = ();

    async fn handle(&mut self, (): (), cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(0..3);
        cx.stop(Exit::Normal);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_nobody_subscribes_to_is_an_error_that_names_it() {
    let warnings = Warnings::collect();
    let graph = Graph::new("g");
    let numbers = graph.producer("numbers", count(3));
    let pass = graph.stage("pass", || Pass).subscribe(&numbers, 0..10);
    let begun = Instant::now();
    let error = timeout(Duration::from_secs(60), graph.run()).await.expect("it does not hang").unwrap_err();
    assert_eq!((error.failure.origin(), error.failure.kind()), (pass.name(), FailureKind::Waiting));
    assert_eq!(
        error.to_string(),
        "stage \"pass\" waits in vain for a subscriber: all others have ended or wait as well, and it is not published \
         for other nodes"
    );
    assert_eq!(begun.elapsed(), PATIENCE);
    let [warning] = &warnings.lines()[..] else { panic!("{:?}", warnings.lines()) };
    assert!(warning.contains("stage waits for a subscriber") && warning.contains("\"pass\""), "{warning}");
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_has_stopped_normally_and_that_nobody_subscribes_to_is_one_too() {
    let graph = Graph::new("g").patience(Duration::from_secs(1));
    let stage = graph.producer("stopped", || Stopping).stage_ref();
    let mut running = graph.start();
    stage.call(()).await.unwrap();
    settled().await;
    let waits_for = running.snapshot().stage("stopped").unwrap().waiting_for.clone();
    assert_eq!(waits_for, Some(WaitingFor::Subscribers { missing: 1 }));
    let error = timeout(Duration::from_secs(60), running.join()).await.expect("it does not hang").unwrap_err();
    assert_eq!((error.failure.origin(), error.failure.kind()), ("stopped", FailureKind::Waiting));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_nobody_subscribes_to_is_named_with_what_it_holds() {
    let warnings = Warnings::collect();
    let graph = Graph::new("g");
    let numbers = graph.producer("numbers", count(10)).partition(2, |n| (*n % 2) as usize);
    graph.consumer("even", || each(async |_: u64| Ok(()))).subscribe(&numbers.part(0), 0..100);
    let mut running = graph.start();
    settled().await;
    let waits_for = |name| running.snapshot().stage(name).unwrap().waiting_for.clone();
    let partition = PartitionName::Number(1);
    assert_eq!(waits_for("numbers"), Some(WaitingFor::Partition { partition, events: 5 }));
    assert_eq!(waits_for("even"), Some(WaitingFor::Events));
    let error = timeout(Duration::from_secs(60), running.join()).await.expect("it does not hang").unwrap_err();
    assert_eq!(
        error.to_string(),
        "stage \"numbers\" waits in vain for a consumer of partition 1, which holds 5 events: all others have ended or \
         wait as well, and it is not published for other nodes"
    );
    assert_eq!(warnings.lines().len(), 1, "{:?}", warnings.lines());
}

#[tokio::test(start_paused = true)]
async fn who_is_late_but_comes_while_others_are_at_work_is_waited_for() {
    let warnings = Warnings::collect();
    let graph = Graph::new("g");
    let numbers = graph.producer("numbers", count(3));
    let busy = graph.producer("busy", count(20));
    let one_a_second = || {
        each(async |_: u64| {
            sleep(Duration::from_secs(1)).await;
            Ok(())
        })
    };
    graph.consumer("slow", one_a_second).subscribe(&busy, 0..1);
    let mut running = graph.start();
    let late = async {
        sleep(3 * PATIENCE).await;
        numbers.events(0..10).collect::<Vec<_>>().await
    };
    let (joined, events) = tokio::join!(running.join(), late);
    assert_eq!((joined.is_ok(), events.len()), (true, 3));
    assert_eq!(warnings.lines().len(), 1, "said once: {:?}", warnings.lines());
}

#[tokio::test(start_paused = true)]
async fn who_may_come_from_elsewhere_is_waited_for_for_as_long_as_he_may() {
    let warnings = Warnings::collect();
    let graph = Graph::new("g");
    let numbers = graph.producer("numbers", count(3));
    let published = numbers.expect_subscribers();
    let mut running = graph.start();
    assert!(timeout(Duration::from_secs(3600), running.join()).await.is_err(), "somebody may still come");
    assert_eq!(warnings.lines(), [] as [&str; 0], "that is what it is there for");
    drop(published);
    let error = timeout(2 * PATIENCE, running.join()).await.expect("nobody may").unwrap_err();
    assert_eq!(error.failure.kind(), FailureKind::Waiting);
}

#[tokio::test(start_paused = true)]
async fn a_served_graph_says_what_it_waits_for_and_goes_on() {
    let warnings = Warnings::collect();
    let graph = Graph::new("g");
    let numbers = graph.producer("numbers", count(3)).accumulate();
    let second = graph.producer("second", count(3)).wait_for_subscribers(2);
    let stage = numbers.stage_ref();
    graph.consumer("sum", || each(async |_: u64| Ok(()))).subscribe(&numbers, 0..10).subscribe(&second, 0..10);
    graph.consumer("idle", || each(async |_: u64| Ok(())));
    let mut running = graph.start();
    assert!(timeout(Duration::from_secs(3600), running.serve()).await.is_err(), "it is served");
    let lines = warnings.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for said in [
        "stage waits for `set_demand` to forward the demand that it accumulates",
        "stage waits for a subscriber",
        "stage waits to be subscribed to a producer",
    ] {
        assert!(lines.iter().any(|line| line.contains(said)), "{said} of {lines:?}");
    }
    stage.set_demand(aqueduct_stage::DemandMode::Forward).unwrap();
    settled().await;
    let snapshot = running.snapshot();
    let waiting = |name| snapshot.stage(name).unwrap().waiting_for.clone();
    assert_eq!((waiting("numbers"), waiting("sum")), (None, Some(WaitingFor::Events)), "one has ended");
    assert_eq!(waiting("second"), Some(WaitingFor::Subscribers { missing: 1 }));
    running.stop(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_had_to_be_killed_says_what_it_waited_for() {
    let graph = Graph::new("g");
    let numbers = graph.producer("numbers", count(10)).partition(2, |n| (*n % 2) as usize);
    graph.consumer("even", || each(async |_: u64| Ok(()))).subscribe(&numbers.part(0), 0..100);
    let mut running = graph.start();
    settled().await;
    let error = running.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(
        error.failure.to_string(),
        "stage \"numbers\" was killed: its task was dropped before it had ended, as it waited for a consumer of \
         partition 1, which holds 5 events"
    );
}
