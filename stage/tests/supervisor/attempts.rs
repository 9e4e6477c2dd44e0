//! Events that cannot be handled: given up after so many attempts, and handed over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Backoff, DeadEvent, FailureKind, Graph, GraphError, Intensity, Outcome, Result, TaskOptions, TaskRestart,
};
use tokio::time::Instant;

/// Each 10th of 200 numbers fails.
async fn check<R: TaskRestart<u64>>(options: TaskOptions<R>) -> Result<Outcome, GraphError> {
    let graph = Graph::new("test");
    let numbers = graph.iterate("numbers", || 0..200_u64);
    let check = |n: u64| async move { if n % 10 == 7 { Err(format!("{n} is poison").into()) } else { Ok(()) } };
    graph.tasks_with("check", options, check).subscribe(&numbers, 5..10);
    graph.run().await
}

fn counted(outcome: &Outcome) -> (u64, u64, u64) {
    let check = outcome.stage("check").unwrap();
    (check.events_in, check.failed, check.restarts)
}

#[tokio::test(start_paused = true)]
async fn a_poison_event_is_given_up_and_the_others_go_on() {
    let error = check(TaskOptions::transient().max_attempts(3)).await.unwrap_err();
    assert_eq!(error.failure.kind(), FailureKind::Tasks);
    assert!(error.to_string().contains("20 of 200 failed"), "{error}");
    assert_eq!(counted(&error.outcome), (200, 20, 40));
    let tolerated = check(TaskOptions::transient().max_attempts(3).tolerate_failures()).await.unwrap();
    assert_eq!(counted(&tolerated), (200, 20, 40));
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_handed_over_and_the_graph_succeeds() {
    let dead = Arc::new(Mutex::new(Vec::new()));
    let options = TaskOptions::transient().max_attempts(2).dead_letters({
        let dead = Arc::clone(&dead);
        move |DeadEvent { event, failure, attempts, .. }| {
            dead.lock().unwrap().push((event, failure.message().to_owned(), attempts));
        }
    });
    assert_eq!(counted(&check(options).await.unwrap()), (200, 20, 20));
    let mut dead = std::mem::take(&mut *dead.lock().unwrap());
    dead.sort();
    let expected: Vec<_> = (0..20).map(|n| (n * 10 + 7, format!("{} is poison", n * 10 + 7), 2)).collect();
    assert_eq!(dead, expected);
}

#[tokio::test(start_paused = true)]
async fn each_event_waits_longer_by_itself() {
    let begun = Instant::now();
    let options = TaskOptions::transient().max_attempts(4).tolerate_failures();
    let backoff = Backoff::constant(Duration::from_secs(2));
    check(options.backoff(backoff)).await.unwrap();
    // A place is kept busy for three waits by each of two poison events in a window of ten.
    assert_eq!(begun.elapsed().as_secs() % 6, 0, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_bound_over_all_tasks_holds_beside_it_if_it_was_set() {
    let intensity = Intensity::new(5, Duration::from_secs(60));
    let error = check(TaskOptions::transient().max_attempts(3).intensity(intensity)).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 restarts"), "{error}");
    let error = check(TaskOptions::transient()).await.unwrap_err();
    assert!(error.to_string().contains("more than 3 restarts within 5s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_of_dead_letters_that_panics_does_no_harm() {
    let options = TaskOptions::transient().max_attempts(1).dead_letters(|_: DeadEvent<u64>| panic!("full"));
    assert_eq!(counted(&check(options).await.unwrap()), (200, 20, 0));
}
