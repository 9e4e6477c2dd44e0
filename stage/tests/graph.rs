//! Whole graphs: how they end, and what is reported when they do not end well.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/count.rs"]
mod count;
#[path = "graph/stages.rs"]
mod stages;
mod support;

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Batch, BoxFuture, Cancel, Consumer, Cx, Exit, FailureKind, Graph, Keep, Producer, Result, Running,
    SubscribeOptions, each,
};

use count::{Count, count};
use stages::{Seen, Tally, Upset};
use support::Counted;

#[tokio::test]
async fn a_finite_source_is_handled_to_its_end() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(12_345));
    graph.consumer("collect", seen.collect()).subscribe(&numbers, 500..1000);
    let outcome = graph.run().await.unwrap();
    assert_eq!(seen.events(), (0..12_345).collect::<Vec<_>>());
    assert_eq!(seen.calls(), ["end", "terminate"]);
    let collect = outcome.stage("collect").unwrap();
    assert_eq!((collect.events_in, collect.discarded), (12_345, 0));
    assert_eq!(outcome.stage("numbers").unwrap().events_out, 12_345);
}

#[tokio::test]
async fn every_window_gives_the_same_result() {
    for (min, max) in [(0, 1), (0, 2), (1, 2), (9, 10), (0, 10_000), (750, 1000)] {
        let (graph, seen) = (Graph::new("test"), Seen::default());
        let numbers = graph.producer("numbers", count(1_003));
        let passed = graph.stage("tally", Tally::default).subscribe(&numbers, min..max);
        graph.consumer("collect", seen.collect()).subscribe(&passed, min..max);
        graph.run().await.unwrap();
        assert_eq!(seen.events(), [1_003; 3], "{min}..{max}");
    }
}

#[tokio::test]
async fn what_handle_end_emits_is_delivered_before_the_stage_ends() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(100));
    let tally = graph.stage("tally", Tally::default).subscribe(&numbers, 0..10);
    // One at a time, so that two of the three wait in the buffer for the next ask.
    graph.consumer("collect", seen.collect()).subscribe(&tally, 0..1);
    graph.run().await.unwrap();
    assert_eq!(seen.events(), [100, 100, 100]);
}

#[tokio::test]
async fn a_permanent_consumer_takes_all_of_every_producer() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let (short, long) = (graph.producer("short", count(3)), graph.producer("long", count(5_000)));
    graph.consumer("collect", seen.collect()).subscribe(&short, 5..10).subscribe(&long, 5..10);
    graph.run().await.unwrap();
    assert_eq!(seen.events().len(), 5_003);
    assert_eq!(seen.calls(), ["end", "terminate"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_consumers_share_the_events() {
    let (graph, first, second) = (Graph::new("test"), Seen::default(), Seen::default());
    let numbers = graph.producer("numbers", count(50_000));
    graph.consumer("first", first.collect()).subscribe(&numbers, 50..100);
    graph.consumer("second", second.collect()).subscribe(&numbers, 50..100);
    graph.run().await.unwrap();
    let mut all = [first.events(), second.events()].concat();
    assert!(first.events().is_sorted() && second.events().is_sorted());
    all.sort_unstable();
    assert_eq!(all, (0..50_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_error_is_the_graphs_error_and_names_the_stage() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(u64::MAX));
    graph
        .consumer("upset", || {
            Upset(3, |_: &mut Cx<'_>| Box::pin(async { Err("no more room".into()) }) as BoxFuture<'_, _>)
        })
        .subscribe(&numbers, 5..10);
    let error = graph.run().await.unwrap_err();
    assert_eq!(error.to_string(), r#"stage "upset" failed: no more room"#);
    assert_eq!((error.failure.kind(), error.failure.origin()), (FailureKind::Error, "upset"));
    assert!(error.others.is_empty());
}

#[tokio::test]
async fn a_panic_is_the_graphs_error_and_reaches_downstream_once() {
    struct Bomb;
    impl Producer for Bomb {
        type Out = u64;
        async fn handle_demand(&mut self, _: usize, _: &mut Cx<'_, u64>) -> Result {
            panic!("boom {}", 1)
        }
    }
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let bomb = graph.producer("bomb", || Bomb);
    let tally = graph.stage("tally", Tally::default).subscribe(&bomb, 5..10);
    graph.consumer("collect", seen.collect()).subscribe(&tally, 5..10);
    let error = graph.run().await.unwrap_err();
    assert_eq!(error.to_string(), r#"stage "bomb" panicked: boom 1"#);
    assert!(error.others.is_empty(), "the others only followed: {:?}", error.others);
    assert_eq!((seen.events(), seen.calls()), (vec![], vec!["terminate failed"]), "no end was seen");
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "they are what is refused")]
fn every_mistake_in_a_description_points_at_the_line_that_makes_it() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(1));
    let sink = || graph.consumer(&format!("sink {}", graph.to_dot().len()), || each(|_: u64| async { Ok(()) }));
    let (gone, late) = (Graph::new("gone"), sink());
    let orphan = gone.consumer("orphan", || each(|_: u64| async { Ok(()) }));
    drop(gone);
    let parts = graph.producer("parts", count(1)).partition(2, |_| 0);
    type Mistake<'a> = (&'static str, Box<dyn FnOnce() + 'a>);
    let mistakes: Vec<Mistake<'_>> = vec![
        ("got 1000..500", Box::new(|| drop(sink().subscribe(&numbers, 1000..500)))),
        ("got 0..0", Box::new(|| drop(sink().subscribe_acknowledged(&numbers, 0..0)))),
        ("got 5..5", Box::new(|| drop(sink().subscribe_each(&parts, 5..5)))),
        (
            "got 2..1",
            Box::new(|| {
                let _ = SubscribeOptions::demand(2..1);
            }),
        ),
        ("stage \"orphan\" is gone", Box::new(|| drop(orphan.subscribe(&numbers, 0..1)))),
        ("got 0", Box::new(|| drop(late.concurrency(0)))),
        ("expected 1 to 65536 partitions, got 0", Box::new(|| drop(graph.producer("p", count(1)).partition(0, |_| 0)))),
        ("a stage \"numbers\" already", Box::new(|| drop(graph.producer("numbers", count(1))))),
        ("a stage \"numbers\" already", Box::new(|| drop(graph.iterate("numbers", || 0..1_u64)))),
        ("got 0ns", Box::new(|| drop(aqueduct_stage::stages::interval(Duration::ZERO)))),
    ];
    let (points, this) = (Arc::new(Mutex::new(Vec::new())), std::thread::current().id());
    let (told, former) = (Arc::clone(&points), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| match info.location() {
        Some(at) if std::thread::current().id() == this => told.lock().unwrap().push(at.file().to_owned()),
        _ => former(info),
    }));
    let said: Vec<_> = mistakes
        .into_iter()
        .map(|(says, mistake)| (says, std::panic::catch_unwind(std::panic::AssertUnwindSafe(mistake)).unwrap_err()))
        .collect();
    drop(std::panic::take_hook());
    for (says, panic) in &said {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap();
        assert!(text.contains(says), "{text:?} does not say {says:?}");
    }
    let points = std::mem::take(&mut *points.lock().unwrap());
    assert_eq!(points, vec![file!(); said.len()]);
}

#[tokio::test]
async fn the_failure_of_one_of_several_instances_says_which() {
    struct Picky(usize);
    impl Consumer for Picky {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            if self.0 == 2 { Err("not mine".into()) } else { Ok(()) }
        }
    }
    let (graph, made) = (Graph::new("test"), AtomicUsize::new(0));
    let numbers = graph.producer("numbers", count(100));
    let picky = move || Picky(made.fetch_add(1, Ordering::Relaxed));
    graph.consumer("picky", picky).concurrency(3).subscribe(&numbers, 0..1);
    let failure = graph.run().await.unwrap_err().failure;
    assert_eq!(failure.to_string(), r#"instance 2 of stage "picky" failed: not mine"#);
    assert_eq!((failure.origin(), failure.instance()), ("picky", Some(2)));
}

#[tokio::test]
async fn a_factory_that_panics_is_reported() {
    let graph = Graph::new("test");
    let numbers = graph.producer::<Count>("numbers", || panic!("no file"));
    graph.consumer("collect", Seen::default().collect()).subscribe(&numbers, 5..10);
    assert_eq!(graph.run().await.unwrap_err().to_string(), r#"stage "numbers" panicked: no file"#);
}

#[tokio::test]
async fn a_temporary_consumer_survives_but_the_graph_still_fails() {
    struct Broken;
    impl Producer for Broken {
        type Out = u64;
        async fn handle_demand(&mut self, _: usize, _: &mut Cx<'_, u64>) -> Result {
            Err("broken".into())
        }
    }
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let broken = graph.producer("broken", || Broken);
    graph
        .consumer("collect", seen.collect())
        .subscribe(&broken, SubscribeOptions::demand(5..10).cancel(Cancel::Temporary));
    assert_eq!(graph.run().await.unwrap_err().to_string(), r#"stage "broken" failed: broken"#);
    // It lived on until the graph was to end, and then something was missing.
    assert_eq!(seen.calls(), ["terminate failed"]);
}

#[tokio::test]
async fn a_consumer_that_has_enough_ends_the_graph() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(u64::MAX));
    let take = |cx: &mut Cx<'_>| -> BoxFuture<'static, Result> {
        cx.stop(Exit::Normal);
        Box::pin(async { Ok(()) })
    };
    graph.consumer("take", move || Upset(4, take)).subscribe(&numbers, 5..10);
    let outcome = graph.run().await.unwrap();
    assert_eq!(outcome.stage("take").unwrap().events_in, 25);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_everything_and_kills_what_does_not_end() {
    let spawner = Counted::default();
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", count(u64::MAX));
    let stuck = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&stuck);
    let hang = move || {
        let calls = Arc::clone(&calls);
        Upset(0, move |_: &mut Cx<'_>| -> BoxFuture<'static, Result> {
            calls.fetch_add(1, Ordering::SeqCst);
            Box::pin(pending())
        })
    };
    graph.consumer("stuck", hang).subscribe(&numbers, 5..10);
    let seen = Seen::default();
    graph.consumer("collect", seen.collect()).subscribe(&numbers, 5..10);
    let mut running = graph.start();
    while stuck.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let started = tokio::time::Instant::now();
    let error = running.stop(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    assert_eq!((error.failure.kind(), error.failure.origin()), (FailureKind::Killed, "stuck"));
    assert_eq!(seen.calls(), ["terminate"]);
    assert_eq!(spawner.alive(), 0);
}

#[tokio::test]
async fn nothing_is_left_of_a_graph_that_ended_or_was_dropped() {
    let spawner = Counted::default();
    let start = |end| -> Running {
        let graph = Graph::with_spawner("test", spawner.clone());
        let numbers = graph.producer("numbers", count(end));
        graph.consumer("collect", Seen::default().collect()).subscribe(&numbers, 5..10);
        graph.start()
    };
    start(100).join().await.unwrap();
    assert_eq!(spawner.alive(), 0);
    let endless = start(u64::MAX);
    assert_eq!(spawner.alive(), 2);
    drop(endless);
    while spawner.alive() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_join_that_is_dropped_can_be_repeated() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(100_000));
    graph.consumer("collect", Seen::default().collect()).subscribe(&numbers, 5..10);
    let mut running = graph.start();
    tokio::select! {
        biased;
        _ = running.join() => panic!("too early"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(running.join().await.unwrap().stage("collect").unwrap().events_in, 100_000);
}

#[tokio::test]
async fn without_join_a_transient_consumer_outlives_its_producer() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(10));
    graph
        .consumer("collect", seen.collect())
        .subscribe(&numbers, SubscribeOptions::demand(5..10).cancel(Cancel::Transient));
    let mut running = graph.start();
    while seen.events().len() < 10 {
        tokio::task::yield_now().await;
    }
    assert!(seen.calls().is_empty());
    let outcome = running.join().await.unwrap();
    assert_eq!(seen.calls(), ["end", "terminate"]);
    assert_eq!(outcome.stage("numbers").unwrap().events_out, 10);
}

#[tokio::test]
async fn a_graph_that_serves_outlives_its_subscribers_and_not_its_stages() {
    struct Until(Arc<AtomicUsize>);
    impl Producer for Until {
        type Out = u64;
        async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
            cx.emit_all(vec![7; demand]);
            if self.0.load(Ordering::Relaxed) > 0 { Err("worn out".into()) } else { Ok(()) }
        }
    }
    let (graph, is_worn_out) = (Graph::new("serving"), Arc::new(AtomicUsize::new(0)));
    let flag = Arc::clone(&is_worn_out);
    let sevens = graph.producer("sevens", move || Until(Arc::clone(&flag)));
    let mut serving = graph.start();
    let subscriber = || {
        let graph = Graph::new("subscriber");
        let enough = |cx: &mut Cx<'_>| -> BoxFuture<'static, Result> {
            cx.stop(Exit::Normal);
            Box::pin(async { Ok(()) })
        };
        graph.consumer("enough", move || Upset(2, enough)).subscribe(&sevens, 5..10);
        graph.run()
    };
    for _ in 0..2 {
        tokio::select! {
            biased;
            ended = serving.serve() => panic!("nothing has failed: {ended:?}"),
            ended = subscriber() => drop(ended.unwrap()),
        }
    }
    is_worn_out.store(1, Ordering::Relaxed);
    let (error, _) = tokio::join!(serving.serve(), subscriber());
    assert_eq!(error.unwrap_err().to_string(), r#"stage "sevens" failed: worn out"#);
}

#[tokio::test]
async fn a_graph_that_serves_ends_with_its_last_stage() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(10));
    graph.consumer("collect", seen.collect()).subscribe(&numbers, 5..10);
    let outcome = graph.start().serve().await.unwrap();
    assert_eq!(outcome.stage("collect").unwrap().events_in, 10);
}

#[tokio::test]
async fn who_subscribes_to_a_graph_that_is_never_started_learns_of_it() {
    for is_early in [true, false] {
        let (never, graph) = (Graph::new("never"), Graph::new("test"));
        let numbers = never.producer("numbers", count(10));
        graph.consumer("collect", Seen::default().collect()).subscribe(&numbers, 5..10);
        let mut never = Some(never).filter(|_| is_early);
        let mut running = graph.start();
        if is_early {
            // Until it waits for the other graph.
            tokio::task::yield_now().await;
        }
        drop(never.take());
        let error = running.join().await.unwrap_err();
        assert!(error.to_string().contains("numbers"), "early: {is_early}: {error}");
    }
}

#[tokio::test]
async fn a_late_subscriber_still_learns_of_the_end() {
    let (graph, late) = (Graph::new("early"), Graph::new("late"));
    let numbers = graph.producer("numbers", count(100));
    let tally = graph.stage("tally", Tally::default).subscribe(&numbers, 0..10);
    let seen = Seen::default();
    late.consumer("collect", seen.collect()).subscribe(&tally, 0..10);
    let mut early = graph.start();
    tokio::select! {
        biased;
        _ = early.join() => panic!("nobody has seen the result"),
        () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
    }
    late.run().await.unwrap();
    early.join().await.unwrap();
    assert_eq!(seen.events(), [100, 100, 100]);
}

#[tokio::test]
async fn a_full_buffer_drops_the_oldest_and_counts_them() {
    struct Flood;
    impl Producer for Flood {
        type Out = u64;
        async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, u64>) -> Result {
            cx.emit_all(0..15_000);
            cx.stop(Exit::Normal);
            Ok(())
        }
    }
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let flood = graph.producer("flood", || Flood).buffer(10_000, Keep::Last);
    graph.consumer("collect", seen.collect()).subscribe(&flood, 0..1000);
    let outcome = graph.run().await.unwrap();
    assert_eq!(outcome.stage("flood").unwrap().discarded, 4_000);
    assert_eq!(seen.events(), (0..1_000).chain(5_000..15_000).collect::<Vec<_>>());

    let graph = Graph::new("test");
    let flood = graph.producer("flood", || Flood);
    graph.consumer("collect", Seen::default().collect()).subscribe(&flood, 0..1000);
    let error = graph.run().await.unwrap_err();
    assert!(error.to_string().contains("4000 events were dropped"), "{error}");
}

#[test]
#[should_panic(expected = r#"graph "test" has a stage "numbers" already"#)]
fn a_name_is_taken_once() {
    let graph = Graph::new("test");
    graph.producer("numbers", count(1));
    graph.producer("numbers", count(1));
}

#[tokio::test(start_paused = true)]
async fn what_a_factory_has_captured_goes_with_the_graph() {
    let (results, mut received) = tokio::sync::mpsc::unbounded_channel();
    let graph = Graph::new("test");
    let numbers = graph.iterate("numbers", || 0..3_u64);
    let sink = move || {
        let results = results.clone();
        each(move |n: u64| {
            let results = results.clone();
            async move { Ok(results.send(n)?) }
        })
    };
    let sink = graph.consumer("sink", sink).subscribe(&numbers, 0..10);
    graph.run().await.unwrap();
    let mut all = Vec::new();
    while let Some(n) = received.recv().await {
        all.push(n);
    }
    assert_eq!((all, sink.name()), (vec![0, 1, 2], "sink"));
}
