//! Question: what does an ordered parallel map cost as a stage, beside `buffered` of the crate `futures`?
//!
//!     cargo bench -p aqueduct-benches --bench pmap
//!
//! Ours is a producer, `stages::pmap(64, work)` subscribed with `500..1000`, and a consumer that sums. The reference is
//! `stream::iter(..).map(work).buffered(64)` and a loop that sums, in one task. Every sample checks the sum. The work:
//!
//! * `ready`: a future that is ready at once
//! * `yields`: one that lets others run once
//! * `cpu`: some 5 µs of arithmetic
//! * `sleeps`: 1 ms of tokio's time; here 64 at a time are the whole of it
//!
//! `buffered` runs its futures in the one task it is polled by, so it computes on one core; `pmap` has a worker for each
//! thread of the runtime. `cpu_spawned` gives each future of the reference a task of its own, as one does to use several
//! cores with `buffered`. On two worker threads and on one thread (`_current_thread`).
//!
//! Nanoseconds per event; ours and the reference take turns, one pair to warm up, then nine that count; medians.
//!
//! `RATIO` lines: events per second, ours over the reference; bigger is better.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aqueduct::{Graph, Result, stages};
use aqueduct_benches::measure::{Comparison, Table, runtimes};
use aqueduct_benches::stages::{Numbers, Sum, sum_below};
use futures::{StreamExt, stream};

const AT_ONCE: usize = 64;

fn main() {
    let mut table = Table::start();
    for (suffix, runtime) in runtimes() {
        macro_rules! compare {
            ($name:literal, $events:expr, $work:expr, $reference:expr) => {
                let compared = Comparison::of_sums(
                    &runtime,
                    $events,
                    sum_below($events),
                    || ours($events, $work),
                    || buffered($events, $reference),
                );
                table.row(format!("pmap_{}{suffix}", $name), &compared);
            };
        }
        compare!("ready", 1_000_000, ready, ready);
        compare!("yields", 200_000, yields, yields);
        compare!("cpu", 20_000, cpu, cpu);
        compare!("cpu_spawned", 20_000, cpu, |number| async move { tokio::spawn(cpu(number)).await? });
        compare!("sleeps", 10_000, sleeps, sleeps);
    }
    table.finish();
}

async fn ready(number: u64) -> Result<u64> {
    Ok(number)
}

async fn yields(number: u64) -> Result<u64> {
    tokio::task::yield_now().await;
    Ok(number)
}

async fn cpu(number: u64) -> Result<u64> {
    let mut hash = number;
    for _ in 0..5_000 {
        hash = black_box(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(7));
    }
    black_box(hash);
    Ok(number)
}

async fn sleeps(number: u64) -> Result<u64> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(number)
}

async fn ours<Fut>(events: u64, work: impl Fn(u64) -> Fut + Copy + Send + Sync + 'static) -> Result<u64>
where
    Fut: Future<Output = Result<u64>> + Send + 'static,
{
    let total = Arc::default();
    let graph = Graph::new("pmap");
    let numbers = graph.producer("numbers", move || Numbers::below(events));
    let mapped = graph.stage("map", move || stages::pmap(AT_ONCE, work)).subscribe(&numbers, 500..1000);
    let sum = Arc::clone(&total);
    graph.consumer("sum", move || Sum::into(&sum)).subscribe(&mapped, 500..1000);
    graph.run().await?;
    Ok(total.load(std::sync::atomic::Ordering::Relaxed))
}

async fn buffered<Fut>(events: u64, work: impl Fn(u64) -> Fut + Send + Sync + 'static) -> Result<u64>
where
    Fut: Future<Output = Result<u64>> + Send + 'static,
{
    // In a task, as what `block_on` runs itself is slower to wake.
    let task = tokio::spawn(async move {
        let mut sum = 0_u64;
        let mut results = stream::iter(0..events).map(work).buffered(AT_ONCE);
        while let Some(result) = results.next().await {
            sum = sum.wrapping_add(result?);
        }
        Ok(sum)
    });
    task.await?
}
