//! Closures are stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aqueduct_stage::{AnyConsumer, Graph, SourceExt, each, each_batch, filter_map, flat_map, map};

use crate::support::{Log, count, sink};

#[tokio::test]
async fn closures_are_consumers_and_producer_consumers() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.iterate("numbers", || 0..10u64);
    let small = graph.stage("small", || filter_map(|n: u64| (n < 5).then_some(n * 2))).subscribe(&numbers, 1..2);
    let twice = graph.stage("twice", || flat_map(|n: u64| [n, n])).subscribe(&small, 1..2);
    let words = graph.stage("words", || map(|n: u64| n.to_string())).subscribe(&twice, 1..2).broadcast();
    let seen = log.clone();
    let collect = move || {
        let seen = seen.clone();
        each(move |word: String| {
            let seen = seen.clone();
            async move {
                seen.push(word);
                Ok(())
            }
        })
    };
    graph.consumer("collect", collect).subscribe(&words, 1..2);
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let count_all = move || {
        let counted = Arc::clone(&counted);
        AnyConsumer::new(each_batch(move |words: aqueduct_stage::Batch<String>| {
            counted.fetch_add(words.len(), Ordering::SeqCst);
            async { Ok(()) }
        }))
    };
    graph.consumer("count", count_all).subscribe(&words, 1..2);
    graph.run().await.unwrap();
    assert_eq!(log.all(), ["0", "0", "2", "2", "4", "4", "6", "6", "8", "8"]);
    assert_eq!(count.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn an_async_closure_is_a_consumer_and_its_error_the_graphs() {
    let graph = Graph::new("test");
    let numbers = graph.iterate("numbers", || 0..10u64);
    let picky = || {
        each(async |n: u64| {
            tokio::task::yield_now().await;
            if n == 7 { Err("seven".into()) } else { Ok(()) }
        })
    };
    graph.consumer("picky", picky).subscribe(&numbers, 1..2);
    assert_eq!(graph.run().await.unwrap_err().to_string(), r#"stage "picky" failed: seven"#);
}

#[tokio::test(start_paused = true)]
async fn a_boxed_consumer_is_told_everything_that_it_would_be() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(3, &Log::new()));
    let make = sink(&log);
    graph.consumer("any", move || AnyConsumer::new(make())).subscribe(&numbers, 5..10);
    graph.run().await.unwrap();
    let kinds: Vec<_> =
        log.all().iter().map(|note| format!("{note:?}").split(['(', ' ']).next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["Subscribed", "Events", "Cancelled", "End", "Terminated"]);
}

/// Where it panicked.
fn panics_in(misuse: impl FnOnce()) -> Option<u32> {
    use std::sync::OnceLock;

    static LINES: OnceLock<()> = OnceLock::new();
    thread_local! { static LINE: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) }; }
    LINES.get_or_init(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let here = panic.location().filter(|at| at.file() == file!());
            LINE.set(here.map(std::panic::Location::line));
            report(panic);
        }));
    });
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(misuse)).unwrap_err();
    LINE.take()
}

#[test]
fn a_window_that_is_none_points_at_the_caller() {
    let graph = Graph::new("test");
    let numbers = graph.iterate("numbers", || 0..3_u64);
    assert_eq!(panics_in(|| drop(numbers.events(0..0))), Some(line!()));
    let sink = || graph.consumer(&format!("sink {}", line!()), || each(async |_: u64| Ok(())));
    assert_eq!(panics_in(|| drop(sink().subscribe(&numbers, 0..0))), Some(line!()));
}
