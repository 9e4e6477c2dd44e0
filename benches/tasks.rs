//! Question: what does a supervised task for each event cost beside tasks that are spawned by hand?
//!
//!     cargo bench -p aqueduct-benches --bench tasks
//!
//! A producer and `Graph::tasks` with the windows `25..50` and `500..1000`: at most 50 or 1,000 tasks are alive. Two
//! references, both a loop over the same numbers with the same limit:
//!
//! * `joinset`: a `tokio::task::JoinSet`; when it is full, one task is joined before the next is spawned;
//! * `counter`: bare `tokio::spawn`, and one counter of tasks alive that wakes the loop when it is down to half the
//!   limit. It has no supervision at all: nothing is known of a task but that it ended, and a panic stops the count.
//!
//! A task adds its number to a sum, either at once or (`waiting`) after it has waited once, as tasks do that have
//! anything to wait for. Ours runs tasks that end at once one after the other where a runner is awake already.
//!
//! Nanoseconds per event. On two worker threads and on one thread (`_current_thread`), the machine is printed. Ours and
//! the reference take turns of 100,000 events: one each to warm up, then nine that count.
//!
//! `RATIO` lines: the reference over ours, bigger is better.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aqueduct::{Graph, Result};
use aqueduct_benches::measure::{Comparison, Table, runtimes};
use aqueduct_benches::stages::Numbers;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const EVENTS: u64 = 100_000;
const EXPECTED: u64 = EVENTS * (EVENTS - 1) / 2;

fn main() {
    let mut table = Table::start();
    for (suffix, runtime) in runtimes() {
        for limit in [50, 1000] {
            for (kind, waits) in [("", false), ("_waiting", true)] {
                let ours = || supervised(limit, waits);
                let compared = Comparison::of_sums(&runtime, EVENTS, EXPECTED, ours, || joined(limit, waits));
                table.row(format!("tasks_{limit}{kind}_joinset{suffix}"), &compared);
                let compared = Comparison::of_sums(&runtime, EVENTS, EXPECTED, ours, || counted(limit, waits));
                table.row(format!("tasks_{limit}{kind}_counter{suffix}"), &compared);
            }
        }
    }
    table.finish();
}

/// What a task does.
fn add(total: &Arc<AtomicU64>, number: u64, waits: bool) -> impl Future<Output = ()> + Send + use<> {
    let total = Arc::clone(total);
    async move {
        if waits {
            tokio::task::yield_now().await;
        }
        total.fetch_add(number, Ordering::Relaxed);
    }
}

async fn supervised(limit: usize, waits: bool) -> Result<u64> {
    let total = Arc::default();
    let graph = Graph::new("tasks");
    let numbers = graph.producer("numbers", || Numbers::below(EVENTS));
    let shared = Arc::clone(&total);
    let task = move |number| {
        let adding = add(&shared, number, waits);
        async move {
            adding.await;
            Ok(())
        }
    };
    graph.tasks("add", task).subscribe(&numbers, limit / 2..limit);
    graph.run().await?;
    Ok(total.load(Ordering::Relaxed))
}

async fn joined(limit: usize, waits: bool) -> Result<u64> {
    let total = Arc::default();
    let mut tasks = JoinSet::new();
    for number in 0..EVENTS {
        if tasks.len() == limit
            && let Some(joined) = tasks.join_next().await
        {
            joined?;
        }
        tasks.spawn(add(&total, number, waits));
    }
    while let Some(joined) = tasks.join_next().await {
        joined?;
    }
    Ok(total.load(Ordering::Relaxed))
}

async fn counted(limit: usize, waits: bool) -> Result<u64> {
    let (total, alive, half) = (Arc::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut spawned = 0;
    while spawned < EVENTS {
        let room = (limit - alive.load(Ordering::Acquire)).min((EVENTS - spawned) as usize);
        alive.fetch_add(room, Ordering::AcqRel);
        for number in spawned..spawned + room as u64 {
            let (adding, alive, half) = (add(&total, number, waits), Arc::clone(&alive), Arc::clone(&half));
            tokio::spawn(async move {
                adding.await;
                if alive.fetch_sub(1, Ordering::AcqRel) == limit / 2 + 1 {
                    half.notify_one();
                }
            });
        }
        spawned += room as u64;
        if alive.load(Ordering::Acquire) > limit / 2 {
            half.notified().await;
        }
    }
    while alive.load(Ordering::Acquire) > 0 {
        tokio::task::yield_now().await;
    }
    Ok(total.load(Ordering::Relaxed))
}
