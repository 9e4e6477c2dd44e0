//! Which children are started again, how often, and what happens when that is too often.

use std::time::Duration;

use aqueduct_stage::{
    Backoff, BoxFuture, Child, ChildState, FailureKind, Graph, Intensity, Result, SupervisorOptions, TaskOptions,
    TaskSupervisor,
};

use crate::script::{How, Manners, Script};
use crate::support::{Far, Log, settled};

const SECOND: Duration = Duration::from_secs(1);

fn supervisor(max_restarts: usize) -> TaskSupervisor {
    let options = SupervisorOptions::default().intensity(Intensity::new(max_restarts, 5 * SECOND));
    TaskSupervisor::with_options("test", options)
}

fn make(script: &Script, child: u64) -> impl Fn() -> BoxFuture<'static, Result> + Send + Sync + use<> {
    let script = script.clone();
    move || script.run(child, Manners::Listens)
}

/// Workers, active, restarts, failed.
fn counts(supervisor: &TaskSupervisor) -> (usize, usize, u64, u64) {
    let counts = supervisor.count_children();
    assert_eq!((counts.specs, counts.supervisors), (counts.workers, 0));
    (counts.workers, counts.active, counts.restarts, counts.failed)
}

#[tokio::test(start_paused = true)]
async fn genstage_139_a_temporary_child_is_not_restarted_whatever_its_end() {
    let (script, supervisor) = (Script::new(), supervisor(3));
    for (child, how) in [(1, How::Well), (2, How::WithError), (3, How::Panicking)] {
        supervisor.start_child(script.run(child, Manners::Listens)).unwrap();
        script.end(child, how).await;
        assert_eq!(supervisor.which_children(), [], "{how:?}: temporary children vanish from the books");
    }
    assert_eq!((counts(&supervisor), script.begun.all()), ((0, 0, 0, 2), vec![1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn genstage_140_a_transient_child_is_restarted_unless_it_ended_well() {
    let (script, supervisor) = (Script::new(), supervisor(3));
    let id = supervisor.start_child(Child::transient(make(&script, 1))).unwrap();
    settled().await;
    script.end(1, How::WithError).await;
    assert_eq!(counts(&supervisor), (1, 1, 1, 0));
    script.end(1, How::Panicking).await;
    assert_eq!((counts(&supervisor), supervisor.which_children()[0].id), ((1, 1, 2, 0), id), "it keeps its id");
    script.end(1, How::Well).await;
    assert_eq!((counts(&supervisor), script.begun.all()), ((0, 0, 2, 0), vec![1, 1, 1]));
}

#[tokio::test(start_paused = true)]
async fn otp_permanent_child_is_restarted_whatever_its_end() {
    let (script, supervisor) = (Script::new(), supervisor(3));
    supervisor.start_child(Child::permanent(make(&script, 1))).unwrap();
    settled().await;
    for how in [How::Well, How::WithError, How::Panicking] {
        script.end(1, how).await;
    }
    assert_eq!((counts(&supervisor), script.begun.all().len()), ((1, 1, 3, 0), 4));
}

#[tokio::test(start_paused = true)]
async fn otp_one_for_one_only_the_failed_child_is_restarted() {
    let (script, supervisor) = (Script::new(), supervisor(3));
    for child in 1..=3 {
        supervisor.start_child(Child::permanent(make(&script, child))).unwrap();
    }
    settled().await;
    script.end(2, How::Panicking).await;
    assert_eq!((script.begun.all(), script.gone.all()), (vec![1, 2, 3, 2], vec![2]));
}

#[tokio::test(start_paused = true)]
async fn genstage_138_a_child_whose_start_panics_is_not_kept() {
    let supervisor = supervisor(3);
    let make = || -> std::future::Ready<Result> { panic!("no") };
    supervisor.start_child(Child::permanent(make)).unwrap();
    settled().await;
    assert_eq!(counts(&supervisor), (0, 0, 0, 1));
}

/// Made well the first time and from the `nth` time on.
fn hard_to_make(script: &Script, nth: usize) -> impl Fn() -> BoxFuture<'static, Result> + Send + Sync + use<> {
    let (script, tries) = (script.clone(), Log::new());
    move || {
        tries.push(());
        let tried = tries.all().len();
        assert!(tried == 1 || tried >= nth, "try {tried}");
        script.run(1, Manners::Listens)
    }
}

#[tokio::test(start_paused = true)]
async fn genstage_141_a_child_that_waits_for_its_restart_counts_as_a_worker_and_is_not_active() {
    let script = Script::new();
    let options = SupervisorOptions::default().backoff(Backoff::exponential(8 * SECOND, 8 * SECOND));
    let supervisor = TaskSupervisor::with_options("test", options.max_children(1));
    let id = supervisor.start_child(Child::transient(make(&script, 1))).unwrap();
    settled().await;
    script.end(1, How::Panicking).await;
    assert_eq!(counts(&supervisor), (1, 0, 1, 0));
    assert_eq!(supervisor.which_children()[0].state, ChildState::Restarting);
    assert!(supervisor.start_child(async { Ok(()) }).is_err(), "it counts against the bound");
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(counts(&supervisor), (1, 1, 1, 0));
    script.end(1, How::Panicking).await;
    supervisor.terminate_child(id).await.unwrap();
    assert_eq!(counts(&supervisor), (0, 0, 2, 0), "it can be terminated while it waits");
}

#[tokio::test(start_paused = true)]
async fn genstage_142_a_restart_that_fails_is_tried_again() {
    let (script, supervisor) = (Script::new(), supervisor(3));
    supervisor.start_child(Child::transient(hard_to_make(&script, 3))).unwrap();
    settled().await;
    script.end(1, How::Panicking).await;
    assert_eq!((counts(&supervisor), script.begun.all()), ((1, 1, 2, 0), vec![1, 1]));
}

#[tokio::test(start_paused = true)]
async fn genstage_143_a_child_that_cannot_be_restarted_ends_the_supervisor() {
    let (script, supervisor) = (Script::new(), supervisor(1));
    supervisor.start_child(script.run(2, Manners::Listens)).unwrap();
    supervisor.start_child(Child::transient(hard_to_make(&script, usize::MAX))).unwrap();
    settled().await;
    script.end(1, How::Panicking).await;
    let failure = supervisor.ended().await.unwrap_err();
    let expected = "tasks of \"test\": more than 1 restarts within 5s; the last child to end: try 2";
    assert_eq!(failure.to_string(), expected);
    assert_eq!(script.gone.all(), [1, 2], "it takes all children along");
    assert!(supervisor.start_child(async { Ok(()) }).is_err());
}

#[tokio::test(start_paused = true)]
async fn genstage_144_with_no_restarts_in_no_time_the_first_failure_ends_the_supervisor() {
    let script = Script::new();
    let options = SupervisorOptions::default().intensity(Intensity::new(0, Duration::ZERO));
    let supervisor = TaskSupervisor::with_options("test", options);
    supervisor.start_child(Child::transient(make(&script, 1))).unwrap();
    settled().await;
    script.end(1, How::WithError).await;
    assert_eq!(supervisor.ended().await.unwrap_err().kind(), FailureKind::Tasks);
}

#[tokio::test(start_paused = true)]
async fn genstage_145_ten_restarts_are_tried_before_it_gives_up() {
    let (script, supervisor) = (Script::new(), supervisor(10));
    supervisor.start_child(Child::transient(hard_to_make(&script, usize::MAX))).unwrap();
    settled().await;
    script.end(1, How::Panicking).await;
    assert!(supervisor.ended().await.is_err());
    assert_eq!(counts(&supervisor), (0, 0, 10, 1));
}

#[tokio::test(start_paused = true)]
async fn otp_exactly_max_restarts_are_allowed_within_the_period() {
    let (script, supervisor) = (Script::new(), supervisor(2));
    supervisor.start_child(Child::transient(make(&script, 1))).unwrap();
    settled().await;
    for _ in 0..4 {
        script.end(1, How::Panicking).await;
        script.end(1, How::Panicking).await;
        // Both are older than the period then.
        tokio::time::sleep(6 * SECOND).await;
    }
    assert_eq!(counts(&supervisor), (1, 1, 8, 0));
    for _ in 0..3 {
        script.end(1, How::Panicking).await;
    }
    assert!(supervisor.ended().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn otp_restarts_are_counted_over_all_children() {
    let (script, supervisor) = (Script::new(), supervisor(2));
    for child in 1..=3 {
        supervisor.start_child(Child::transient(make(&script, child))).unwrap();
    }
    settled().await;
    for child in 1..=3 {
        script.end(child, How::Panicking).await;
    }
    assert!(supervisor.ended().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn otp_a_transient_task_is_restarted_with_the_same_event_and_its_demand_never_leaks() {
    let (script, graph, far) = (Script::new(), Graph::new("test"), Far::new());
    let options = TaskOptions::transient().intensity(Intensity::new(100, SECOND));
    let tasks = graph.tasks_with("tasks", options, script.task()).subscribe(&far, 0..2);
    let _running = graph.start();
    settled().await;
    far.deliver([7]);
    settled().await;
    for _ in 0..50 {
        script.end(7, How::Panicking).await;
        assert_eq!(far.asks(), [2], "it counts all the while");
    }
    assert_eq!(script.begun.all(), [7; 51]);
    script.end(7, How::Well).await;
    assert_eq!(far.asks(), [2, 3]);
    assert_eq!(tasks.stage_ref().children().await.unwrap().count_children().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn otp_a_supervisor_that_gives_up_fails_the_graph_with_one_cause() {
    let (script, graph, far) = (Script::new(), Graph::new("test"), Far::new());
    let options = TaskOptions::transient().intensity(Intensity::new(1, SECOND));
    graph.tasks_with("tasks", options, script.task()).subscribe(&far, 1..3);
    let mut running = graph.start();
    settled().await;
    far.deliver([1, 2]);
    settled().await;
    script.end(1, How::Panicking).await;
    script.end(1, How::Panicking).await;
    let error = running.join().await.unwrap_err();
    let expected = "tasks of \"tasks\": more than 1 restarts within 1s; the last child to end: lost it";
    assert_eq!((error.to_string().as_str(), error.others.len()), (expected, 0));
    assert_eq!(script.gone.all(), [1, 1, 2]);
}
