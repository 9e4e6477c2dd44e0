//! What a graph reports of its tasks, and how they end with it.

use std::time::Duration;

use aqueduct_stage::{Cancel, Exit, FailureKind, Graph, Result, Shutdown, SubscribeOptions, TaskOptions};
use tokio::time::Instant;

use crate::script::{How, Script};
use crate::support::{Counted, Far, Log, Warnings, count, endless, settled};

const SECOND: Duration = Duration::from_secs(1);

/// Fails for every third event.
async fn mostly(event: u64) -> Result {
    if event % 3 == 2 { Err(format!("event {event}").into()) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn a_graph_whose_tasks_have_failed_does_everything_else_and_does_not_end_in_success() {
    let (log, warnings, graph) = (Log::new(), Warnings::collect(), Graph::new("test"));
    let numbers = graph.producer("numbers", count(100, &log));
    graph.tasks("mostly", mostly).subscribe(&numbers, 0..1);
    let error = graph.run().await.unwrap_err();
    assert_eq!(error.to_string(), "tasks of \"mostly\": 33 of 100 failed; the first: event 2");
    assert_eq!((error.failure.kind(), error.others.len()), (FailureKind::Tasks, 0));
    let lines = warnings.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("supervisor=\"mostly\"")).count(), 33, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_are_only_counted_where_the_user_says_so() {
    let (log, graph) = (Log::new(), Graph::new("test"));
    let numbers = graph.producer("numbers", count(100, &log));
    let options = TaskOptions::temporary().tolerate_failures();
    graph.tasks_with("mostly", options, mostly).subscribe(&numbers, 5..10);
    let outcome = graph.run().await.unwrap();
    let stage = outcome.stage("mostly").unwrap();
    assert_eq!((stage.events_in, stage.failed), (100, 33));
}

#[tokio::test(start_paused = true)]
async fn failures_are_seen_while_the_graph_runs() {
    let (script, graph, far) = (Script::new(), Graph::new("test"), Far::new());
    graph.tasks("tasks", script.task()).subscribe(&far, 0..2);
    let running = graph.start();
    settled().await;
    far.deliver([1]);
    settled().await;
    script.end(1, How::Panicking).await;
    assert_eq!(running.snapshot().stage("tasks").unwrap().failed, 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_reported_although_the_producer_left() {
    let (script, graph, far) = (Script::new(), Graph::new("test"), Far::new());
    let options = SubscribeOptions::demand(0..2).cancel(Cancel::Temporary);
    graph.tasks("tasks", script.task()).subscribe(&far, options);
    let mut running = graph.start();
    settled().await;
    far.deliver([1]);
    settled().await;
    far.end(aqueduct_stage::EndCause::Cancelled(Exit::Normal));
    script.end(1, How::WithError).await;
    assert_eq!(running.join().await.unwrap_err().failure.message(), "1 of 1 failed; the first: no luck");
}

#[tokio::test(start_paused = true)]
async fn a_drained_graph_lets_its_tasks_come_to_their_end() {
    let (log, graph) = (Log::new(), Graph::new("test"));
    let done = Log::new();
    let numbers = graph.producer("numbers", endless(&log));
    let report = done.clone();
    let slow = move |event: u64| {
        let done = report.clone();
        async move {
            tokio::time::sleep(60 * SECOND).await;
            done.push(event);
            Ok(())
        }
    };
    let options = TaskOptions::temporary().shutdown(Shutdown::Kill);
    graph.tasks_with("slow", options, slow).subscribe(&numbers, 2..4);
    let mut running = graph.start();
    settled().await;
    let begun = Instant::now();
    running.shutdown(100 * SECOND).await.unwrap();
    assert_eq!((done.all(), begun.elapsed().as_secs()), (vec![0, 1, 2, 3], 59));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_graph_gives_its_tasks_their_shutdown_time() {
    for (shutdown, elapsed) in [(Shutdown::Kill, 0), (Shutdown::After(3 * SECOND), 3)] {
        let (log, script, graph) = (Log::new(), Script::new(), Graph::new("test"));
        let numbers = graph.producer("numbers", endless(&log));
        let options = TaskOptions::temporary().shutdown(shutdown);
        graph.tasks_with("tasks", options, script.deaf()).subscribe(&numbers, 2..4);
        let mut running = graph.start();
        settled().await;
        let begun = Instant::now();
        let outcome = running.stop(100 * SECOND).await.unwrap();
        assert_eq!((begun.elapsed().as_secs(), script.gone.all().len()), (elapsed, 4));
        assert!(matches!(outcome.stage("tasks").unwrap().exit, Exit::Shutdown));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_waits_for_its_last_tasks_can_still_be_stopped() {
    let (log, script, graph) = (Log::new(), Script::new(), Graph::new("test"));
    let numbers = graph.producer("numbers", count(2, &log));
    let options = TaskOptions::temporary().shutdown(Shutdown::After(3 * SECOND));
    graph.tasks_with("tasks", options, script.deaf()).subscribe(&numbers, 2..4);
    let mut running = graph.start();
    settled().await;
    let begun = Instant::now();
    running.stop(100 * SECOND).await.unwrap();
    assert_eq!((begun.elapsed().as_secs(), script.gone.all().len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_final_and_leaves_nothing_behind() {
    let (log, script, spawner) = (Log::new(), Script::new(), Counted::default());
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", endless(&log));
    let options = TaskOptions::temporary().shutdown(Shutdown::Unlimited);
    graph.tasks_with("tasks", options, script.deaf()).subscribe(&numbers, 2..4);
    let mut running = graph.start();
    settled().await;
    let error = running.stop(SECOND).await.unwrap_err();
    assert_eq!(error.failure.kind(), FailureKind::Killed);
    assert_eq!((script.gone.all().len(), spawner.alive()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_graph_drops_its_tasks() {
    let (log, script, spawner) = (Log::new(), Script::new(), Counted::default());
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", endless(&log));
    graph.tasks("tasks", script.deaf()).subscribe(&numbers, 2..4);
    let running = graph.start();
    settled().await;
    drop(running);
    settled().await;
    assert_eq!((script.gone.all().len(), spawner.alive()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_fails_elsewhere_ends_the_tasks_within_their_time() {
    let (log, script, graph) = (Log::new(), Script::new(), Graph::new("test"));
    let numbers = graph.producer("numbers", endless(&log));
    graph.tasks("tasks", script.task()).subscribe(&numbers, 2..4);
    let far = Far::new();
    graph.consumer("failing", crate::support::sink(&log)).subscribe(&far, 1..2);
    let mut running = graph.start();
    settled().await;
    far.end(aqueduct_stage::EndCause::Down(crate::support::oops()));
    let begun = Instant::now();
    let error = running.join().await.unwrap_err();
    assert_eq!((error.failure.message(), begun.elapsed()), ("oops", Duration::ZERO));
    assert_eq!(script.gone.all().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn each_instance_of_a_stage_is_a_supervisor_of_its_own() {
    let (log, script, graph) = (Log::new(), Script::new(), Graph::new("test"));
    let numbers = graph.producer("numbers", count(6, &log)).wait_for_subscribers(2);
    let tasks = graph.tasks("tasks", script.task()).concurrency(2).subscribe(&numbers, 1..3);
    let mut running = graph.start();
    settled().await;
    for instance in tasks.instances() {
        assert_eq!(instance.children().await.unwrap().count_children().active, 3);
    }
    for event in 0..6 {
        script.end(event, How::Well).await;
    }
    running.join().await.unwrap();
}
