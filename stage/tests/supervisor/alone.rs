//! A supervisor without a graph.

use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aqueduct_stage::{
    Child, ChildState, FailureKind, Result, Shutdown, StartChildError, Stopping, SupervisorOptions, TaskSupervisor,
};

use crate::script::{How, Manners, Script};
use crate::support::{Counted, settled};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn otp_start_child_at_run_time_up_to_max_children() {
    let script = Script::new();
    let supervisor = TaskSupervisor::with_options("few", SupervisorOptions::default().max_children(2));
    for child in 1..=2 {
        supervisor.start_child(script.run(child, Manners::Listens)).unwrap();
    }
    let error = supervisor.start_child(async { Ok(()) }).unwrap_err();
    assert_eq!(error.to_string(), "supervisor \"few\" has 2 children, as many as it may");
    settled().await;
    script.end(1, How::Panicking).await;
    supervisor.start_child(script.run(3, Manners::Listens)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn otp_terminate_child_of_an_unknown_id_is_not_found() {
    let (one, other) = (TaskSupervisor::new("one"), TaskSupervisor::new("other"));
    let id = one.start_child(async { Ok(()) }).unwrap();
    settled().await;
    assert_eq!(one.terminate_child(id).await.unwrap_err().to_string(), "child #1 not found");
    assert!(other.terminate_child(id).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn otp_which_and_count_children() {
    let (script, supervisor) = (Script::new(), TaskSupervisor::new("test"));
    for child in 1..=3 {
        supervisor.start_child(script.run(child, Manners::IsDeaf)).unwrap();
    }
    settled().await;
    let second = supervisor.which_children()[1].id;
    tokio::select! {
        biased;
        _ = supervisor.terminate_child(second) => panic!("it does not listen"),
        () = settled() => {}
    }
    let states: Vec<_> = supervisor.which_children().iter().map(|child| (child.id.number(), child.state)).collect();
    let expected = [(1, ChildState::Active), (2, ChildState::Stopping), (3, ChildState::Active)];
    assert_eq!(states, expected);
    let counts = supervisor.count_children();
    assert_eq!((counts.specs, counts.active, counts.supervisors, counts.workers, counts.started), (3, 3, 0, 3, 3));
}

#[tokio::test(start_paused = true)]
async fn genstage_137_a_supervisor_that_has_ended_starts_nothing() {
    let supervisor = TaskSupervisor::new("over");
    supervisor.shutdown().await;
    supervisor.ended().await.unwrap();
    let error = supervisor.start_child(async { Ok(()) }).unwrap_err();
    assert!(matches!(error, StartChildError::Ended(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_supervisor_drops_all_children_and_tasks() {
    let (script, tasks) = (Script::new(), Counted::default());
    let supervisor = TaskSupervisor::with_spawner("test", SupervisorOptions::default(), tasks.clone());
    for child in 1..=3 {
        supervisor.start_child(script.run(child, Manners::IsDeaf)).unwrap();
    }
    settled().await;
    script.end(2, How::Well).await;
    // This one has not run at all.
    supervisor.start_child(script.run(4, Manners::IsDeaf)).unwrap();
    drop(supervisor);
    settled().await;
    assert_eq!((script.gone.all().len(), tasks.alive()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn otp_runtime_shutdown_drops_the_children_once() {
    let script = Script::new();
    let child = script.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let supervisor = TaskSupervisor::new("test");
        runtime.block_on(async {
            for n in 0..100 {
                let started = supervisor.start_child(Child::permanent({
                    let child = child.clone();
                    move || child.run(n, Manners::IsDeaf)
                }));
                started.unwrap();
            }
            tokio::task::yield_now().await;
        });
        drop(runtime);
        assert_eq!(supervisor.count_children().specs, 0);
    })
    .join()
    .unwrap();
    assert_eq!(script.gone.all().len(), script.begun.all().len());
}

#[tokio::test(start_paused = true)]
async fn a_task_hands_over_its_result_or_says_why_there_is_none() {
    let supervisor = TaskSupervisor::new("test");
    assert_eq!(supervisor.start_task(async { 6 * 7 }).unwrap().await.unwrap(), 42);
    let panics = supervisor
        .start_task(async {
            if true {
                panic!("lost it")
            }
        })
        .unwrap();
    assert_eq!(panics.await.unwrap_err().to_string(), "stage \"test\" panicked: lost it");
    let hangs = supervisor.start_task(pending::<()>()).unwrap();
    supervisor.terminate_child(hangs.id()).await.unwrap();
    assert_eq!(hangs.await.unwrap_err().kind(), FailureKind::Killed);
}

/// Panics as it is dropped.
struct Rude(bool);

impl Future for Rude {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result> {
        if self.0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        panic!("rude");
    }
}

#[tokio::test(start_paused = true)]
async fn otp_a_drop_that_panics_is_contained() {
    let options = SupervisorOptions::default().shutdown(Shutdown::Kill);
    let supervisor = TaskSupervisor::with_options("test", options);
    // After it has ended; then it has failed.
    supervisor.start_child(Rude(true)).unwrap();
    settled().await;
    assert_eq!(supervisor.count_children().failed, 1);
    // As it is killed.
    let id = supervisor.start_child(Rude(false)).unwrap();
    settled().await;
    supervisor.terminate_child(id).await.unwrap();
    // Before it has run at all.
    let id = supervisor.start_child(Rude(false)).unwrap();
    supervisor.terminate_child(id).await.unwrap();
    // As its supervisor is dropped.
    supervisor.start_child(Rude(false)).unwrap();
    settled().await;
    supervisor.start_child(Rude(false)).unwrap();
    let counts = supervisor.count_children();
    assert_eq!((counts.specs, counts.failed, counts.killed), (2, 1, 2));
    drop(supervisor);
    settled().await;
}

#[tokio::test(start_paused = true)]
async fn many_children_that_wait_for_each_other_all_run() {
    // No child may wait for another's place.
    let supervisor = TaskSupervisor::new("test");
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(500));
    for _ in 0..500 {
        let barrier = barrier.clone();
        let wait = async move {
            barrier.wait().await;
            Ok(())
        };
        supervisor.start_child(wait).unwrap();
    }
    tokio::time::timeout(SECOND, async {
        while supervisor.count_children().specs > 0 {
            settled().await;
        }
    })
    .await
    .unwrap();
}

#[test]
fn children_run_on_all_threads_and_none_is_forgotten() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let supervisor = std::sync::Arc::new(TaskSupervisor::new("test"));
        let done = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let starters: Vec<_> = (0..4)
            .map(|starter| {
                let (supervisor, done) = (supervisor.clone(), done.clone());
                tokio::spawn(async move {
                    for n in 0..2_000_u64 {
                        let done = done.clone();
                        let child = async move {
                            if (n + starter) % 3 == 0 {
                                tokio::task::yield_now().await;
                            }
                            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            Ok(())
                        };
                        supervisor.start_child(child).unwrap();
                    }
                })
            })
            .collect();
        for starter in starters {
            starter.await.unwrap();
        }
        let counts = tokio::time::timeout(60 * SECOND, supervisor.shutdown()).await.unwrap();
        assert_eq!((counts.started, counts.killed, counts.failed), (8_000, 0, 0));
        assert_eq!(done.load(std::sync::atomic::Ordering::Relaxed), 8_000);
    });
}

#[tokio::test(start_paused = true)]
async fn whatever_works_for_a_child_hears_that_it_is_to_end() {
    let supervisor = TaskSupervisor::new("test");
    let child = async {
        let stopping = Stopping::current();
        let helper = tokio::spawn(async move { stopping.told().await });
        helper.await?;
        Ok(())
    };
    supervisor.start_child(child).unwrap();
    settled().await;
    assert_eq!(supervisor.shutdown().await.killed, 0);
    assert!(!Stopping::current().is_told(), "nobody tells what is not a child");
}
