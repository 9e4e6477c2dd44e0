//! Stages that are restarted: which, how often, when, and what becomes of their events and subscriptions.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

#[path = "supervision/edges.rs"]
mod edges;
#[path = "supervision/otp.rs"]
mod otp;
#[path = "supervision/random.rs"]
mod random;
#[path = "supervision/traces.rs"]
mod traces;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Backoff, Batch, CallError, Cancel, Consumer, Cx, Exit, FailureKind, Graph, GraphError, Handle, Intensity, Outcome,
    Producer, Restart, Result, Strategy, SubscribeOptions,
};
use tokio::time::Instant;

use support::{Counted, Log, Say, oops, with};

/// Fails rather than hang.
async fn limited<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10_000), future).await.expect("it hangs")
}

/// More restarts than any test needs.
const PLENTY: Intensity = Intensity::new(1_000, Duration::from_secs(5));

/// Writes down its lives: when it is made and how it ends. Produces nothing, and consumes.
struct Named {
    name: &'static str,
    log: Log<String>,
    /// Where it says that it is stuck, for ever.
    is_stuck: bool,
}

fn named(name: &'static str, log: &Log<String>) -> impl Fn() -> Named + use<> {
    let log = log.clone();
    move || {
        log.push(format!("{name} made"));
        Named { name, log: log.clone(), is_stuck: false }
    }
}

impl Consumer for Named {
    type In = u64;

    async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
        if self.is_stuck {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn terminate(&mut self, exit: &Exit) {
        self.log.push(format!("{}: {exit}", self.name));
    }
}

impl Handle<Say> for Named {
    type Reply = &'static str;

    async fn handle(&mut self, Say(text): Say, cx: &mut Cx<'_>) -> Result<&'static str> {
        match text {
            "fail" => Err("oops".into()),
            "stop" => {
                cx.stop(Exit::Normal);
                Ok(text)
            }
            _ => Ok(self.name),
        }
    }
}

/// Three consumers of an idle producer that outlives them.
fn three(graph: &Graph, log: &Log<String>, restart: Restart) -> [aqueduct_stage::StageRef<Named>; 3] {
    let idle = graph.producer("idle", support::idle(&Log::new())).restart(Restart::Transient);
    ["a", "b", "c"]
        .map(|name| graph.consumer(name, named(name, log)).subscribe(&idle, 0..10).restart(restart).stage_ref())
}

async fn made(log: &Log<String>, count: usize) {
    log.until(|lines| lines.iter().filter(|line| line.ends_with("made")).count() >= count).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_panics_is_restarted_and_the_graph_completes_without_its_batch() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let numbers = graph.producer("numbers", support::count(1_000, &Log::new()));
    let sink = support::sink_with(&log, |sink| sink.poison = Some(305));
    graph.consumer("sink", sink).subscribe(&numbers, 0..10).restart(Restart::Transient);
    let outcome = limited(graph.run()).await.unwrap();
    let expected: Vec<u64> = (0..300).chain(310..1_000).collect();
    assert_eq!(log.events(), expected);
    let sink = outcome.stage("sink").unwrap();
    assert_eq!((sink.restarts, sink.events_in, sink.discarded), (1, 1_000, 10));
    assert!(outcome.to_string().contains("10 discarded, 0 failed, 1 restart\n"), "{outcome}");
    assert!(matches!(sink.exit, Exit::Normal));
}

#[tokio::test(start_paused = true)]
async fn with_acknowledgement_nothing_is_lost_even_if_the_producer_was_exhausted_before_the_crash() {
    for (count, poison) in [(1_000, 305), (1_000, 999), (5, 3), (1, 0)] {
        let (log, graph) = (Log::new(), Graph::new("demo"));
        let numbers = graph.producer("numbers", support::count(count, &Log::new()));
        let sink = support::sink_with(&log, |sink| sink.poison = Some(poison));
        graph.consumer("sink", sink).subscribe_acknowledged(&numbers, 500..1_000).restart(Restart::Transient);
        let outcome = limited(graph.run()).await.unwrap();
        assert_eq!(log.events(), (0..count).collect::<Vec<_>>());
        let sink = outcome.stage("sink").unwrap();
        assert_eq!((sink.restarts, sink.discarded), (1, 0), "{count} {poison}");
        assert_eq!(outcome.stage("numbers").unwrap().discarded, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_crashes_after_its_producer_was_exhausted_finds_the_end() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let numbers = graph.producer("numbers", support::count(5, &Log::new()));
    let sink = support::sink_with(&log, |sink| sink.poison = Some(3));
    graph.consumer("sink", sink).subscribe(&numbers, 500..1_000).restart(Restart::Permanent);
    let outcome = limited(graph.run()).await.unwrap();
    assert_eq!(log.all().last(), Some(&support::Note::Terminated("normal".into())));
    assert!(log.all().contains(&support::Note::End));
    let sink = outcome.stage("sink").unwrap();
    assert_eq!((sink.restarts, sink.discarded), (1, 5));
}

/// Emits the numbers from where it is told to, and fails once at 500.
struct Fragile {
    next: u64,
    failed: Arc<AtomicU64>,
}

fn fragile(failures: u64) -> impl Fn() -> Fragile {
    let left = Arc::new(AtomicU64::new(failures));
    move || Fragile { next: 0, failed: Arc::clone(&left) }
}

impl Producer for Fragile {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let may_fail = self.failed.load(Ordering::SeqCst) > 0;
        if may_fail && self.next >= 500 {
            self.failed.fetch_sub(1, Ordering::SeqCst);
            return Err("worn out".into());
        }
        let to = 1_000.min(self.next + demand as u64);
        cx.emit_all(self.next..to);
        self.next = to;
        if to == 1_000 {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_cascade_is_one_cause_and_counts_once() {
    let (log, graph) = (Log::new(), Graph::new("demo").intensity(Intensity::new(1, Duration::from_secs(5))));
    let numbers = graph.producer("numbers", fragile(1)).restart(Restart::Transient);
    let relay =
        graph.stage("relay", support::relay(&Log::new())).restart(Restart::Transient).subscribe(&numbers, 0..10);
    for name in ["a", "b", "c"] {
        graph.consumer(name, support::sink(&log)).subscribe(&relay, 0..10).restart(Restart::Transient);
    }
    let outcome = limited(graph.run()).await.unwrap();
    assert!(outcome.stages.iter().all(|stage| stage.restarts == 1), "{outcome}");
    let last: Vec<u64> = log.events().into_iter().rev().take(1_000).collect();
    let mut last = last;
    last.sort_unstable();
    assert_eq!(last, (0..1_000).collect::<Vec<_>>(), "the second life is whole");
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_may_not_be_restarted_fails_the_graph_when_it_falls_with_one_that_may() {
    let graph = Graph::new("demo");
    let numbers = graph.producer("numbers", fragile(1)).restart(Restart::Transient);
    graph.consumer("sink", support::sink(&Log::new())).subscribe(&numbers, 0..10);
    let error = limited(graph.run()).await.unwrap_err();
    assert_eq!((error.failure.origin(), error.failure.message()), ("numbers", "worn out"));
    assert!(error.exceeded.is_none() && error.others.is_empty());
}

#[tokio::test(start_paused = true)]
async fn beyond_the_intensity_the_graph_fails_with_the_first_failure_and_says_so() {
    let graph = Graph::new("demo").intensity(Intensity::new(2, Duration::from_secs(5)));
    let numbers = graph.producer("numbers", fragile(u64::MAX)).restart(Restart::Transient);
    graph.consumer("sink", support::sink(&Log::new())).subscribe(&numbers, 0..10).restart(Restart::Transient);
    let error = limited(graph.run()).await.unwrap_err();
    assert_eq!(error.exceeded.map(Intensity::max_restarts), Some(2));
    let text = r#"stage "numbers" failed: worn out (restart intensity exceeded: more than 2 within 5s)"#;
    assert_eq!(error.to_string(), text);
    assert_eq!(error.others.len(), 1, "the first, and the one too many: {error:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_far_enough_apart_are_borne_for_ever() {
    let log = Log::new();
    let graph = Graph::new("demo").intensity(Intensity::new(1, Duration::from_secs(5)));
    let [a, ..] = three(&graph, &log, Restart::Permanent);
    let mut running = graph.start();
    for life in 1..20 {
        made(&log, 3 + life - 1).await;
        let _ = a.call(Say("fail")).await;
        tokio::time::sleep(Duration::from_millis(5_001)).await;
    }
    assert_eq!(running.snapshot().stage("a").unwrap().restarts, 19);
    let outcome = limited(running.stop(Duration::from_secs(1))).await.unwrap();
    assert_eq!(outcome.stage("a").unwrap().restarts, 19);
}

#[tokio::test(start_paused = true)]
async fn references_survive_a_restart_and_calls_fail_at_once_while_the_stage_is_down() {
    let (log, second) = (Log::new(), Duration::from_secs(1));
    let graph = Graph::new("demo").backoff(Backoff::exponential(second, second));
    let [a, ..] = three(&graph, &log, Restart::Permanent);
    let running = graph.start();
    assert_eq!(a.call(Say("who")).await.unwrap(), "a");
    assert_eq!(a.call(Say("fail")).await, Err(CallError::Stopped));
    let start = Instant::now();
    assert_eq!(a.call(Say("who")).await, Err(CallError::Stopped));
    assert_eq!(a.cast(Say("who")), Err(CallError::Stopped));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(!running.snapshot().stage("a").unwrap().ended);
    made(&log, 4).await;
    assert!((second / 2..=second).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(limited(a.call(Say("who"))).await.unwrap(), "a");
}

/// When the fourth and following lives began, with this seed.
async fn times_of_restarts(seed: u64) -> Vec<Duration> {
    let (log, milli) = (Log::new(), Duration::from_millis(1));
    let graph = Graph::new("demo").backoff(Backoff::exponential(100 * milli, 1_000 * milli)).backoff_seed(seed);
    let graph = graph.intensity(PLENTY);
    let [a, ..] = three(&graph, &log, Restart::Permanent);
    let _running = graph.start();
    let mut times = Vec::new();
    for life in 1..=6 {
        made(&log, 2 + life).await;
        let start = Instant::now();
        let _ = a.call(Say("fail")).await;
        made(&log, 3 + life).await;
        times.push(start.elapsed());
    }
    times
}

#[tokio::test(start_paused = true)]
async fn the_wait_before_a_restart_grows_with_jitter_that_the_seed_decides() {
    let times = limited(times_of_restarts(1)).await;
    for (time, longest) in times.iter().zip([100, 200, 400, 800, 1_000, 1_000]) {
        // The clock moves in milliseconds.
        let longest = Duration::from_millis(longest + 1);
        assert!((longest / 2 - Duration::from_millis(1)..=longest).contains(time), "{times:?}");
    }
    assert_eq!(times, limited(times_of_restarts(1)).await);
    assert_ne!(times, limited(times_of_restarts(2)).await);
}

#[tokio::test(start_paused = true)]
async fn a_graph_that_is_shut_down_starts_nothing_and_what_was_down_has_failed() {
    let (log, minute) = (Log::new(), Duration::from_secs(60));
    let graph = Graph::new("demo").backoff(Backoff::exponential(minute, minute));
    let [a, ..] = three(&graph, &log, Restart::Permanent);
    let mut running = graph.start();
    let _ = a.call(Say("fail")).await;
    let start = Instant::now();
    let error = limited(running.shutdown(minute)).await.unwrap_err();
    assert_eq!((error.failure.origin(), error.exceeded), ("a", None));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(log.all().iter().filter(|line| line.ends_with("made")).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_instance_is_a_child_of_its_own() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let idle = graph.producer("idle", support::idle(&Log::new()));
    let many = graph.consumer("many", named("many", &log)).concurrency(3);
    let many = many.subscribe(&idle, 0..10).restart(Restart::Transient);
    let running = graph.start();
    made(&log, 3).await;
    let _ = many.instances()[1].call(Say("fail")).await;
    made(&log, 4).await;
    support::settled().await;
    let restarts: Vec<u64> = running.snapshot().stages.iter().map(|stage| stage.restarts).collect();
    assert_eq!(restarts, [0, 0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_supervisor_is_a_task_of_the_graph_and_there_only_if_it_is_needed() {
    for (restart, tasks) in [(Restart::Temporary, 2), (Restart::Transient, 3)] {
        let (counted, log) = (Counted::default(), Log::new());
        let graph = Graph::with_spawner("demo", counted.clone());
        let numbers = graph.producer("numbers", support::count(100, &log));
        graph.consumer("sink", support::sink(&log)).subscribe(&numbers, 0..10).restart(restart);
        let mut running = graph.start();
        assert_eq!(counted.alive(), tasks);
        limited(running.join()).await.unwrap();
        assert_eq!(counted.alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_ends_a_graph_that_waits_for_a_restart() {
    let (counted, log, minute) = (Counted::default(), Log::new(), Duration::from_secs(60));
    let graph = Graph::with_spawner("demo", counted.clone()).backoff(Backoff::exponential(minute, minute));
    let [a, ..] = three(&graph, &log, Restart::Permanent);
    let running = graph.start();
    let _ = a.call(Say("fail")).await;
    drop(running);
    support::settled().await;
    assert_eq!(counted.alive(), 0);
}

/// Fails with the very same value each time.
struct Stubborn(aqueduct_stage::Failure);

impl Consumer for Stubborn {
    type In = u64;

    async fn handle_events(&mut self, _: Batch<u64>, cx: &mut Cx<'_>) -> Result {
        cx.stop(Exit::Failed(self.0.clone()));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_always_fails_with_the_same_value_is_not_restarted_for_ever() {
    let Exit::Failed(failure) = oops() else { unreachable!() };
    let graph = Graph::new("demo");
    let numbers = graph.producer("numbers", support::endless(&Log::new()));
    let stubborn = graph.consumer("stubborn", move || Stubborn(failure.clone()));
    stubborn.subscribe(&numbers, 0..10).restart(Restart::Permanent);
    assert!(limited(graph.run()).await.unwrap_err().exceeded.is_some());
}

#[tokio::test(start_paused = true)]
async fn stages_that_are_added_later_are_supervised_too() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let numbers = graph.producer("numbers", support::count(100, &Log::new()));
    graph.consumer("first", support::sink(&Log::new())).subscribe(&numbers, 0..10);
    let mut running = graph.start();
    support::settled().await;
    running.add(|graph| {
        let numbers = graph.producer("more", support::count(100, &Log::new()));
        let sink = support::sink_with(&log, |sink| sink.poison = Some(50));
        graph.consumer("sink", sink).subscribe(&numbers, 0..10).restart(Restart::Transient);
    });
    let outcome = limited(running.join()).await.unwrap();
    assert_eq!(log.events().len(), 90);
    assert_eq!(outcome.stage("sink").unwrap().restarts, 1);
}
