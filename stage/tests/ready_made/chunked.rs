//! A future for every so many events, and divide and conquer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::stages::{self, Divide, Split};
use aqueduct_stage::{Cx, Exit, FailureKind, Graph, Producer, Result};

use crate::support::{Counted, Log, count, settled};
use crate::{collect, run};

#[tokio::test(start_paused = true)]
async fn chunks_are_full_but_for_the_last_and_keep_the_order() {
    for (size, window) in [(10, 0..1), (10, 3..7), (10, 500..1000), (1, 5..10), (1000, 5..10), (101, 500..1000)] {
        let (graph, log, sizes) = (Graph::new("test"), Log::new(), Log::new());
        let numbers = graph.producer("numbers", count(101, &Log::new()));
        let seen = sizes.clone();
        let mapped = graph
            .stage("map", move || {
                let sizes = seen.clone();
                stages::chunked(size, 3, move |chunk: Vec<u64>| {
                    sizes.push(chunk.len());
                    async move {
                        tokio::time::sleep(Duration::from_millis(1 + chunk[0] % 5)).await;
                        Ok(chunk.into_iter().flat_map(|number| [number, number]))
                    }
                })
            })
            .subscribe(&numbers, window.clone());
        graph.consumer("collect", collect(&log)).subscribe(&mapped, 5..10);
        run(graph).await.unwrap();
        let (mut sizes, full) = (sizes.all(), 101 / size);
        assert_eq!(log.all(), (0..101).flat_map(|number| [number, number]).collect::<Vec<_>>(), "{size}, {window:?}");
        if 101 % size != 0 {
            assert_eq!(sizes.pop(), Some(101 % size), "{size}, {window:?}");
        }
        assert_eq!(sizes, vec![size; full], "{size}, {window:?}");
    }
}

/// Adds the numbers of a range, and counts who is at it.
#[derive(Clone, Default)]
struct Add {
    fails_at: Option<u64>,
    busy: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Divide for Add {
    type Problem = std::ops::Range<u64>;
    type Solution = Vec<u64>;

    fn split(&self, range: Self::Problem) -> Split<Self::Problem> {
        let length = range.end - range.start;
        if length <= 3 {
            return Split::Small(range);
        }
        let (first, second) = (range.start + length / 3, range.start + length / 2);
        Split::Parts(vec![range.start..first, first..second, second..range.end])
    }

    fn solve(&self, range: Self::Problem) -> Result<Vec<u64>> {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(busy, Ordering::SeqCst);
        std::thread::yield_now();
        self.busy.fetch_sub(1, Ordering::SeqCst);
        match self.fails_at {
            Some(number) if range.contains(&number) && number % 2 == 0 => Err(format!("no {number}").into()),
            Some(number) if range.contains(&number) => panic!("oh {number}"),
            _ => Ok(range.collect()),
        }
    }

    fn merge(&self, parts: Vec<Vec<u64>>) -> Result<Vec<u64>> {
        Ok(parts.concat())
    }
}

/// Emits these, one after the other.
struct Ranges(Vec<std::ops::Range<u64>>);

impl Producer for Ranges {
    type Out = std::ops::Range<u64>;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Self::Out>) -> Result {
        cx.emit_all(self.0.drain(..demand.min(self.0.len())));
        if self.0.is_empty() {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

async fn conquer(tasks: usize, add: &Add, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Vec<u64>>> {
    let (spawner, log) = (Counted::default(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let (add, ranges) = (add.clone(), ranges.to_vec());
    let source = graph.producer("ranges", move || Ranges(ranges.clone()));
    let sums = graph.stage("divide", move || stages::divide(tasks, add.clone())).subscribe(&source, 2..4);
    graph.consumer("collect", collect(&log)).subscribe(&sums, 0..3);
    run(graph).await?;
    settled().await;
    assert_eq!(spawner.alive(), 0);
    Ok(log.all())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_merged_in_order_whatever_the_number_of_tasks() {
    let ranges = [0..1_000, 5..5, 7..8, 0..2_000, 10..40, 0..3, 1..5];
    for tasks in [1, 2, 3, 8, 1_000] {
        let add = Add::default();
        let solved = conquer(tasks, &add, &ranges).await.unwrap();
        assert_eq!(solved, ranges.iter().map(|range| range.clone().collect::<Vec<_>>()).collect::<Vec<_>>());
        assert!(add.most.load(Ordering::SeqCst) <= tasks, "{} of {tasks}", add.most.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn an_error_or_a_panic_in_a_part_is_the_stages() {
    for (fails_at, kind, message) in [(700, FailureKind::Error, "no 700"), (301, FailureKind::Panic, "oh 301")] {
        let add = Add { fails_at: Some(fails_at), ..Add::default() };
        let error = conquer(8, &add, &[0..1_000, 0..2]).await.unwrap_err();
        let error = error.downcast_ref::<aqueduct_stage::GraphError>().unwrap();
        assert_eq!((error.failure.kind(), error.failure.origin()), (kind, "divide"));
        assert!(error.to_string().ends_with(message), "{error}");
    }
}
