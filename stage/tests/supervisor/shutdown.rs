//! How children are told to end, and what becomes of those that do not.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aqueduct_stage::{
    BoxFuture, Child, Exit, FailureKind, Result, Shutdown, Spawner, Stopping, SupervisorOptions, TaskSupervisor,
    TokioSpawner,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::script::{How, Manners, Script};
use crate::support::{Counted, Warnings, settled};

const SECOND: Duration = Duration::from_secs(1);

fn supervisor(shutdown: Shutdown) -> TaskSupervisor {
    TaskSupervisor::with_options("test", SupervisorOptions::default().shutdown(shutdown))
}

/// Starts one child of each kind: 1 listens, 2 does not.
async fn started(supervisor: &TaskSupervisor) -> Script {
    let script = Script::new();
    supervisor.start_child(script.run(1, Manners::Listens)).unwrap();
    supervisor.start_child(script.run(2, Manners::IsDeaf)).unwrap();
    settled().await;
    script
}

#[tokio::test(start_paused = true)]
async fn genstage_146_with_kill_children_are_dropped_at_once_and_not_told() {
    let supervisor = supervisor(Shutdown::Kill);
    let script = started(&supervisor).await;
    let begun = Instant::now();
    assert_eq!(supervisor.shutdown().await.killed, 2);
    assert_eq!((begun.elapsed(), script.gone.all().len()), (Duration::ZERO, 2));
}

#[tokio::test(start_paused = true)]
async fn genstage_147_without_a_bound_children_end_when_they_like() {
    let supervisor = supervisor(Shutdown::Unlimited);
    let script = started(&supervisor).await;
    assert!(tokio::time::timeout(3600 * SECOND, supervisor.shutdown()).await.is_err());
    assert_eq!(script.gone.all(), [1], "the one that listens");
    script.end(2, How::Well).await;
    assert_eq!(supervisor.shutdown().await.killed, 0);
}

#[tokio::test(start_paused = true)]
async fn genstage_148_150_a_child_that_was_told_ends_in_its_own_way() {
    for shutdown in [Shutdown::Unlimited, Shutdown::After(SECOND)] {
        let supervisor = supervisor(shutdown);
        let detail = || async {
            Stopping::current().told().await;
            Err("my own detail".into())
        };
        let id = supervisor.start_child(Child::transient(detail)).unwrap();
        settled().await;
        let exit = supervisor.terminate_child(id).await.unwrap();
        assert!(matches!(&exit, Exit::Failed(failure) if failure.message() == "my own detail"), "{exit}");
        let counts = supervisor.count_children();
        assert_eq!((counts.restarts, counts.failed), (0, 0), "it was told to end");
    }
}

#[tokio::test(start_paused = true)]
async fn genstage_149_151_within_the_time_those_that_ignore_it_are_dropped_and_the_others_end() {
    for time in [SECOND, Duration::from_millis(1)] {
        let supervisor = supervisor(Shutdown::After(time));
        let script = started(&supervisor).await;
        let begun = Instant::now();
        let counts = supervisor.shutdown().await;
        assert_eq!((counts.killed, begun.elapsed(), script.gone.all()), (1, time, vec![1, 2]));
    }
}

#[tokio::test(start_paused = true)]
async fn otp_children_are_stopped_concurrently_each_with_its_own_time() {
    let supervisor = supervisor(Shutdown::default());
    for seconds in 1..=5 {
        supervisor.start_child(Child::temporary(pending()).shutdown(Shutdown::After(seconds * SECOND))).unwrap();
    }
    settled().await;
    let begun = Instant::now();
    assert_eq!(supervisor.shutdown().await.killed, 5);
    assert_eq!(begun.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn otp_the_default_shutdown_time_is_5_s() {
    let supervisor = TaskSupervisor::new("test");
    let id = supervisor.start_child(pending::<Result>()).unwrap();
    settled().await;
    let begun = Instant::now();
    let exit = supervisor.terminate_child(id).await.unwrap();
    assert!(matches!(&exit, Exit::Failed(failure) if failure.kind() == FailureKind::Killed), "{exit}");
    assert_eq!(begun.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn otp_kill_is_final() {
    // It is told to end without a bound, and then the supervisor is dropped.
    let tasks = Counted::default();
    let options = SupervisorOptions::default().shutdown(Shutdown::Unlimited);
    let supervisor = TaskSupervisor::with_spawner("test", options, tasks.clone());
    let script = started(&supervisor).await;
    assert!(tokio::time::timeout(SECOND, supervisor.shutdown()).await.is_err());
    drop(supervisor);
    settled().await;
    assert_eq!((script.gone.all(), tasks.alive()), (vec![1, 2], 0));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_was_told_before_its_first_step_ends_as_well() {
    for (shutdown, begun) in [(Shutdown::Kill, vec![]), (Shutdown::After(SECOND), vec![1])] {
        let (script, supervisor) = (Script::new(), supervisor(shutdown));
        let child = script.clone();
        supervisor.start_child(Child::transient(move || child.run(1, Manners::Listens))).unwrap();
        supervisor.shutdown().await;
        assert_eq!(script.begun.all(), begun);
        assert_eq!(script.gone.all(), begun);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_child_was_told_does_not_concern_the_next_one() {
    let supervisor = supervisor(Shutdown::After(SECOND));
    let script = started(&supervisor).await;
    let first = supervisor.which_children()[0].id;
    supervisor.terminate_child(first).await.unwrap();
    // It runs where the first one did.
    supervisor.start_child(script.run(3, Manners::Listens)).unwrap();
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!((script.gone.all(), supervisor.count_children().active), (vec![1], 2));
}

#[tokio::test(start_paused = true)]
async fn otp_a_child_that_does_not_await_cannot_be_dropped_and_is_reported() {
    let (warnings, held) = (Warnings::collect(), Held::default());
    let options = SupervisorOptions::default().shutdown(Shutdown::Kill);
    let supervisor = TaskSupervisor::with_spawner("stuck", options, held.clone());
    supervisor.start_child(pending::<Result>()).unwrap();
    settled().await;
    assert!(tokio::time::timeout(10 * SECOND, supervisor.shutdown()).await.is_err());
    assert!(warnings.lines().concat().contains("do not come to an await"), "{:?}", warnings.lines());
    held.0.notify_one();
    assert_eq!(supervisor.shutdown().await.killed, 1);
}

/// Runs a task up to its first wait, and no further before it is allowed to: in place of one that blocks its thread.
#[derive(Clone, Default)]
struct Held(Arc<Notify>);

impl Spawner for Held {
    fn spawn(&self, name: &str, mut task: BoxFuture<'static>) {
        let allowed = Arc::clone(&self.0);
        let task = async move {
            if poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await.is_pending() {
                allowed.notified().await;
                task.await;
            }
        };
        TokioSpawner.spawn(name, Box::pin(task));
    }
}
