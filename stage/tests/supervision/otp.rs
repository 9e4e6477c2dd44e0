//! OTP's checklist for supervisors, with stages for children. The decisions alone are tested beside the supervisor.

use super::*;
use aqueduct_stage::{BoxFuture, Spawner, TokioSpawner};

/// What happens to three stages when the second fails.
async fn lives(strategy: Strategy) -> Vec<String> {
    let log = Log::new();
    let graph = Graph::new("demo").strategy(strategy);
    let [_, b, _] = three(&graph, &log, Restart::Permanent);
    let mut running = graph.start();
    made(&log, 3).await;
    log.clear();
    assert_eq!(b.call(Say("fail")).await, Err(CallError::Stopped));
    support::settled().await;
    let lines = log.all();
    limited(running.stop(Duration::from_secs(1))).await.unwrap();
    lines
}

const FAILS: &str = r#"b: stage "b" failed: oops"#;

#[tokio::test(start_paused = true)]
async fn otp_one_for_one_restarts_the_failed_stage_only() {
    assert_eq!(limited(lives(Strategy::OneForOne)).await, [FAILS, "b made"]);
}

#[tokio::test(start_paused = true)]
async fn otp_rest_for_one_restarts_the_failed_stage_and_those_declared_after_it() {
    assert_eq!(limited(lives(Strategy::RestForOne)).await, [FAILS, "c: shutdown", "b made", "c made"]);
}

#[tokio::test(start_paused = true)]
async fn otp_one_for_all_stops_in_reverse_and_starts_in_order() {
    let expected = [FAILS, "c: shutdown", "a: shutdown", "a made", "b made", "c made"];
    assert_eq!(limited(lives(Strategy::OneForAll)).await, expected);
}

#[tokio::test(start_paused = true)]
async fn otp_permanent_stages_restart_after_any_end_transient_after_a_failure_temporary_never() {
    for (restart, how, returns) in [
        (Restart::Permanent, "stop", true),
        (Restart::Permanent, "fail", true),
        (Restart::Transient, "stop", false),
        (Restart::Transient, "fail", true),
        (Restart::Temporary, "stop", false),
        (Restart::Temporary, "fail", false),
    ] {
        let (log, graph) = (Log::new(), Graph::new("demo"));
        let [a, ..] = three(&graph, &log, restart);
        let running = graph.start();
        let _ = a.call(Say(how)).await;
        support::settled().await;
        let snapshot = running.snapshot();
        let a = snapshot.stage("a").unwrap();
        assert_eq!((a.restarts, a.ended), (u64::from(returns), !returns), "{restart:?} {how}");
    }
}

#[tokio::test(start_paused = true)]
async fn otp_beyond_the_intensity_all_stages_stop_in_reverse_though_nobody_joins() {
    let log = Log::new();
    let graph = Graph::new("demo").intensity(Intensity::new(0, Duration::from_secs(5)));
    let [_, b, _] = three(&graph, &log, Restart::Permanent);
    let mut running = graph.start();
    made(&log, 3).await;
    log.clear();
    let _ = b.call(Say("fail")).await;
    support::settled().await;
    assert_eq!(log.all(), [FAILS, "c: shutdown", "a: shutdown"]);
    assert!(running.snapshot().stages.iter().all(|stage| stage.ended));
    let error = limited(running.join()).await.unwrap_err();
    assert_eq!((error.failure.origin(), error.exceeded.map(Intensity::max_restarts)), ("b", Some(0)));
}

#[tokio::test(start_paused = true)]
async fn otp_a_stage_that_does_not_stop_in_time_is_killed_and_then_all_start() {
    let log = Log::new();
    let graph = Graph::new("demo").strategy(Strategy::OneForAll);
    let numbers = graph.producer("numbers", support::count(5, &Log::new())).restart(Restart::Transient);
    let stuck = {
        let (make, first) = (named("stuck", &log), std::cell::Cell::new(true));
        move || Named { is_stuck: first.replace(false), ..make() }
    };
    graph.consumer("stuck", stuck).subscribe(&numbers, 0..10).restart(Restart::Permanent);
    let idle = graph.producer("idle", support::idle(&Log::new())).restart(Restart::Transient);
    let other = graph.consumer("other", named("other", &log)).subscribe(&idle, 0..10).restart(Restart::Permanent);
    let running = graph.start();
    support::settled().await;
    let start = Instant::now();
    let _ = other.stage_ref().call(Say("fail")).await;
    made(&log, 4).await;
    assert_eq!(start.elapsed().as_secs(), 5);
    support::settled().await;
    assert_eq!(running.snapshot().stages.iter().map(|stage| stage.restarts).collect::<Vec<_>>(), [1; 4]);
}

/// Panics in the given lives, counted from 0.
fn unmakeable(lives: &'static [usize], log: &Log<String>) -> impl Fn() -> Named + use<> {
    let (make, life) = (named("x", log), std::cell::Cell::new(0));
    move || {
        let now = life.replace(life.get() + 1);
        assert!(!lives.contains(&now), "no parts");
        make()
    }
}

#[tokio::test(start_paused = true)]
async fn otp_a_stage_that_cannot_be_made_at_first_fails_the_graph_whatever_it_may() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let idle = graph.producer("idle", support::idle(&Log::new()));
    graph.consumer("x", unmakeable(&[0], &log)).subscribe(&idle, 0..10).restart(Restart::Permanent);
    graph.consumer("y", named("y", &log)).subscribe(&idle, 0..10).restart(Restart::Permanent);
    let error = limited(graph.run()).await.unwrap_err();
    assert_eq!((error.failure.kind(), error.failure.message()), (FailureKind::Panic, "no parts"));
    assert!(error.exceeded.is_none());
    assert_eq!(log.all(), ["y made", "y: shutdown"]);
}

#[tokio::test(start_paused = true)]
async fn otp_a_restart_that_fails_counts_and_is_tried_again() {
    for (max, succeeds) in [(3, true), (2, false)] {
        let log = Log::new();
        let graph = Graph::new("demo").intensity(Intensity::new(max, Duration::from_secs(5)));
        let idle = graph.producer("idle", support::idle(&Log::new()));
        let x = graph.consumer("x", unmakeable(&[1, 2], &log)).subscribe(&idle, 0..10).restart(Restart::Permanent);
        let mut running = graph.start();
        made(&log, 1).await;
        let _ = x.stage_ref().call(Say("fail")).await;
        support::settled().await;
        assert_eq!(running.snapshot().stage("x").unwrap().ended, !succeeds);
        if succeeds {
            assert_eq!(limited(x.stage_ref().call(Say("who"))).await.unwrap(), "x");
        } else {
            let error = limited(running.join()).await.unwrap_err();
            assert_eq!(error.failure.message(), "oops", "the first");
            assert_eq!(error.others.iter().map(aqueduct_stage::Failure::message).collect::<Vec<_>>(), ["no parts"]);
        }
    }
}

/// A spawner whose first task of a name can be killed.
#[derive(Clone, Default)]
struct Assassin(Arc<Mutex<Option<tokio::sync::oneshot::Sender<()>>>>);

impl Spawner for Assassin {
    fn spawn(&self, name: &str, task: BoxFuture<'static>) {
        let mut victim = self.0.lock().unwrap();
        if name != "a" || victim.is_some() {
            return TokioSpawner.spawn(name, task);
        }
        let (kill, killed) = tokio::sync::oneshot::channel();
        *victim = Some(kill);
        TokioSpawner.spawn(
            name,
            Box::pin(async move {
                tokio::select! {
                    _ = killed => {}
                    () = task => {}
                }
            }),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn otp_a_stage_that_is_killed_from_outside_is_restarted() {
    let (log, assassin) = (Log::new(), Assassin::default());
    let [a, ..] = {
        let graph = Graph::with_spawner("demo", assassin.clone());
        let refs = three(&graph, &log, Restart::Transient);
        std::mem::forget(graph.start());
        refs
    };
    made(&log, 3).await;
    assassin.0.lock().unwrap().take().unwrap().send(()).unwrap();
    made(&log, 4).await;
    assert_eq!(limited(a.call(Say("who"))).await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn otp_a_permanent_producer_that_always_ends_is_too_much_at_some_time() {
    let graph = Graph::new("demo");
    let numbers = graph.producer("numbers", support::count(10, &Log::new())).restart(Restart::Permanent);
    graph.consumer("sink", support::sink(&Log::new())).subscribe(&numbers, 0..10).restart(Restart::Permanent);
    let error = limited(graph.run()).await.unwrap_err();
    assert_eq!(error.failure.kind(), FailureKind::Ended);
    assert!(error.exceeded.is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_consumer_whose_producers_are_exhausted_is_done() {
    let graph = Graph::new("demo");
    let numbers = graph.producer("numbers", support::count(100, &Log::new())).restart(Restart::Transient);
    let relay = graph.stage("relay", support::relay(&Log::new())).subscribe(&numbers, 0..10);
    let relay = relay.restart(Restart::Permanent);
    graph.consumer("sink", support::sink(&Log::new())).subscribe(&relay, 0..10).restart(Restart::Permanent);
    let outcome: Result<Outcome, GraphError> = limited(graph.run()).await;
    assert!(outcome.unwrap().stages.iter().all(|stage| stage.restarts == 0));
}
