//! A future per event, many at once.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{FailureKind, Graph, Mode, Result, stages};
use tokio::time::{Instant, sleep};

use crate::support::{Counted, Log, count, endless, settled, sink, sink_with, with};
use crate::{collect, run};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How many there are, and how many there were at most.
#[derive(Default)]
struct Alive {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One of them.
struct One(Arc<Alive>);

impl One {
    fn of(alive: &Arc<Alive>) -> Self {
        let now = alive.now.fetch_add(1, Ordering::SeqCst) + 1;
        alive.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(alive))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits longer for some than for others.
async fn uneven(alive: Arc<Alive>, number: u64) -> Result<u64> {
    let _one = One::of(&alive);
    sleep(Duration::from_millis(1 + number * 7919 % 31)).await;
    Ok(number)
}

#[tokio::test(start_paused = true)]
async fn results_keep_the_order_and_no_more_run_at_once_than_may() {
    for (at_once, window) in [(1, 0..1), (4, 0..1), (4, 3..4), (7, 7..14), (100, 50..100), (3, 500..1000)] {
        let (graph, log, alive) = (Graph::new("test"), Log::new(), Arc::<Alive>::default());
        let numbers = graph.producer("numbers", count(500, &Log::new()));
        let running = Arc::clone(&alive);
        let mapped = graph
            .stage("map", move || {
                let alive = Arc::clone(&running);
                stages::pmap(at_once, move |number| uneven(Arc::clone(&alive), number))
            })
            .subscribe(&numbers, window.clone());
        graph.consumer("collect", collect(&log)).subscribe(&mapped, 5..10);
        run(graph).await.unwrap();
        assert_eq!(log.all(), (0..500).collect::<Vec<_>>(), "{at_once} at once, {window:?}");
        assert_eq!(alive.most.load(Ordering::SeqCst), at_once.min(window.end), "{at_once} at once, {window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_place_is_busy_whatever_the_batches() {
    let (graph, log, start) = (Graph::new("test"), Log::new(), Instant::now());
    let numbers = graph.producer("numbers", count(400, &Log::new()));
    let mapped = graph
        .stage("map", || {
            stages::pmap(4, |number: u64| async move {
                sleep(10 * MILLISECOND).await;
                Ok(number)
            })
        })
        .subscribe(&numbers, 4..8);
    graph.consumer("collect", collect(&log)).subscribe(&mapped, 5..10);
    run(graph).await.unwrap();
    assert_eq!(start.elapsed(), 100 * 10 * MILLISECOND);
}

#[tokio::test(start_paused = true)]
async fn a_slow_event_holds_the_results_behind_it_but_not_their_work() {
    for (order, expected) in [("kept", (0..9).collect::<Vec<_>>()), ("none", (1..9).chain([0]).collect())] {
        let (graph, log, start) = (Graph::new("test"), Log::new(), Instant::now());
        let numbers = graph.producer("numbers", count(9, &Log::new()));
        let work = |number: u64| async move {
            sleep(if number == 0 { 9 } else { 1 } * SECOND).await;
            Ok(number)
        };
        let mapped = match order {
            "kept" => graph.stage("map", move || stages::pmap(2, work)).subscribe(&numbers, 10..20),
            _ => graph.stage("map", move || stages::farm(2, work)).subscribe(&numbers, 10..20),
        };
        graph.consumer("collect", collect(&log)).subscribe(&mapped, 50..100);
        run(graph).await.unwrap();
        assert_eq!((log.all(), start.elapsed()), (expected, 9 * SECOND), "{order}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_work_on_two_threads_loses_nothing() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(20_000, &Log::new()));
    let doubled = graph
        .stage("double", || {
            stages::pmap(64, |number: u64| async move {
                if number.is_multiple_of(3) {
                    tokio::task::yield_now().await;
                }
                Ok(number * 2)
            })
        })
        .subscribe(&numbers, 500..1000);
    let halved = graph
        .stage("halve", || stages::farm(3, |number: u64| async move { Ok(number / 2) }))
        .subscribe(&doubled, 50..100);
    graph.consumer("sink", sink(&log)).subscribe(&halved, 500..1000);
    tokio::time::timeout(60 * SECOND, graph.run()).await.unwrap().unwrap();
    let seen = log.events();
    assert_eq!(seen.len(), 20_000);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), (0..20_000).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_events_are_worked_on_by_two_threads() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let (to_second, first) = std::sync::mpsc::channel();
    let (to_first, second) = std::sync::mpsc::channel();
    let ends = Arc::new(Mutex::new(vec![(to_first, first), (to_second, second)]));
    let numbers = graph.producer("numbers", count(2, &Log::new()));
    let met = graph
        .stage("meet", move || {
            let ends = Arc::clone(&ends);
            stages::pmap(2, move |number: u64| {
                let (to_other, mine) = ends.lock().unwrap().pop().unwrap();
                async move {
                    // Neither returns before the other has begun.
                    to_other.send(number)?;
                    Ok(mine.recv_timeout(30 * SECOND)?)
                }
            })
        })
        .subscribe(&numbers, 2..4);
    graph.consumer("collect", collect(&log)).subscribe(&met, 0..10);
    run(graph).await.unwrap();
    assert_eq!(log.all(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_first_error_in_order_ends_the_stage_behind_what_came_before() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let mapped = graph
        .stage("map", || {
            stages::pmap(8, |number: u64| async move {
                match number {
                    // Fails last, and is the first all the same.
                    5 => sleep(SECOND).await,
                    6 => panic!("later"),
                    _ => return Ok(number),
                }
                Err(format!("no {number}").into())
            })
        })
        .subscribe(&numbers, 8..16);
    graph.consumer("collect", collect(&log)).subscribe(&mapped, 0..1);
    let error = run(graph).await.unwrap_err();
    assert_eq!(error.to_string(), r#"stage "map" failed: no 5"#);
    assert!(log.all().len() <= 5);
    assert_eq!(log.all(), (0..log.all().len() as u64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn results_before_an_error_are_emitted() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let mapped = graph
        .stage("map", || {
            stages::pmap(8, |number: u64| async move { if number < 5 { Ok(number) } else { Err("enough".into()) } })
        })
        .subscribe(&numbers, 8..16);
    graph.consumer("collect", collect(&log)).subscribe(&mapped, 50..100);
    assert_eq!(run(graph).await.unwrap_err().to_string(), r#"stage "map" failed: enough"#);
    assert_eq!(log.all(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_future_or_before_it_is_the_stages() {
    for early in [true, false] {
        let (graph, log) = (Graph::new("test"), Log::new());
        let numbers = graph.producer("numbers", count(10, &Log::new()));
        let mapped = graph
            .stage("map", move || {
                stages::farm(2, move |number: u64| {
                    assert!(!early || number != 7, "seven");
                    async move {
                        sleep(MILLISECOND).await;
                        assert!(number != 7, "seven");
                        Ok(number)
                    }
                })
            })
            .subscribe(&numbers, 2..4);
        graph.consumer("collect", collect(&log)).subscribe(&mapped, 0..1);
        let error = run(graph).await.unwrap_err();
        assert_eq!((error.failure.kind(), error.failure.origin()), (FailureKind::Panic, "map"));
        assert_eq!(error.to_string(), r#"stage "map" panicked: seven"#);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_that_nobody_asked_for_beyond_the_window() {
    let (graph, log, begun) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let work = begun.clone();
    let mapped = graph
        .stage("map", move || {
            let begun = work.clone();
            stages::pmap(4, move |number: u64| {
                begun.push(number);
                async move { Ok(number) }
            })
        })
        .subscribe(&numbers, 4..8);
    let taker = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&mapped, 0..9);
    let mut running = graph.start();
    let edge = log.first_subscribed().await;
    settled().await;
    assert_eq!(begun.all(), [] as [u64; 0]);
    for taken in 1..5 {
        taker.stage_ref().cast(with(move |cx| cx.ask(edge, 1))).unwrap();
        assert_eq!(log.events_reach(taken).await.len(), taken);
        settled().await;
        assert!(begun.all().len() <= taken + 8, "{:?} for {taken}", begun.all());
    }
    running.stop(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_dropped_with_the_stage() {
    let (spawner, alive) = (Counted::default(), Arc::<Alive>::default());
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let running = Arc::clone(&alive);
    let mapped = graph
        .stage("map", move || {
            let alive = Arc::clone(&running);
            stages::pmap(5, move |_: u64| {
                let one = One::of(&alive);
                async move {
                    let _one = one;
                    pending::<Result>().await
                }
            })
        })
        .subscribe(&numbers, 8..16);
    graph.consumer("collect", collect(&Log::new())).subscribe(&mapped, 0..1);
    let mut running = graph.start();
    settled().await;
    assert_eq!(alive.now.load(Ordering::SeqCst), 5);
    running.stop(SECOND).await.unwrap();
    assert_eq!((alive.now.load(Ordering::SeqCst), spawner.alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn several_producers_have_windows_of_their_own() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let (few, many) =
        (graph.producer("few", count(50, &Log::new())), graph.producer("many", count(5_000, &Log::new())));
    let mapped = graph
        .stage("map", || stages::pmap(3, |number: u64| uneven(Arc::default(), number)))
        .subscribe(&few, 0..1)
        .subscribe(&many, 5..10);
    graph.consumer("collect", collect(&log)).subscribe(&mapped, 50..100);
    run(graph).await.unwrap();
    let mut seen = log.all();
    seen.sort_unstable();
    let mut expected: Vec<_> = (0..50).chain(0..5_000).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}
