//! Question: how long does it take from asking for one event to asking for the next?
//!
//!     cargo bench -p aqueduct-benches --bench round_trip
//!
//! A producer and a consumer with the window `0..1`: the consumer asks, the producer emits one event, the consumer
//! handles it and asks again. The producer notes the time between two asks. The reference is a ping-pong between two
//! tasks over two `tokio::sync::mpsc` of one event each, timed in the same place. Reading the clock, some 25 ns, is part
//! of both.
//!
//! Nanoseconds. On two worker threads and on one thread (`_current_thread`), the machine is printed. Ours and the
//! reference take turns of 50,000 round trips: one each to warm up, then nine that count, all in one histogram.
//!
//! `RATIO` lines: the reference over ours, for the median, the 99th and the 99.9th percentile; bigger is better.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Producer};
use aqueduct_benches::measure::{PAIRS, as_ns, print_machine, print_ratio, runtimes};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

const ROUND_TRIPS: u64 = 50_000;
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];

fn main() -> Result<()> {
    print_machine();
    println!("ns per round trip, {PAIRS} times {ROUND_TRIPS} in turns\n");
    println!("{:<34} {:>10} {:>10} {:>7}", "", "stages", "by hand", "ratio");
    let mut ratios = Vec::new();
    for (suffix, runtime) in runtimes() {
        let mut ours = times();
        let mut by_hand = times();
        for turn in 0..=PAIRS {
            ours.add(runtime.block_on(between_stages())?)?;
            by_hand.add(runtime.block_on(between_tasks())?)?;
            if turn == 0 {
                ours.clear();
                by_hand.clear();
            }
        }
        for (percentile, quantile) in PERCENTILES {
            let name = format!("round_trip_{percentile}{suffix}");
            let (ours, by_hand) = (ours.value_at_quantile(quantile), by_hand.value_at_quantile(quantile));
            let ratio = by_hand as f64 / ours as f64;
            println!("{name:<34} {ours:>10} {by_hand:>10} {ratio:>7.2}");
            ratios.push((name, ratio));
        }
    }
    println!();
    ratios.iter().for_each(|(name, ratio)| print_ratio(name, *ratio));
    Ok(())
}

/// Notes the time between one ask and the next.
struct Clock {
    last: Option<Instant>,
    times: Histogram<u64>,
}

impl Clock {
    fn new() -> Self {
        Self { last: None, times: times() }
    }

    /// Returns whether there are to be more.
    fn tick(&mut self) -> bool {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.times.saturating_record(as_ns(now - last) as u64);
        }
        self.times.len() < ROUND_TRIPS
    }
}

/// From 1 ns to 1 s, three digits.
fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("the bounds are in order")
}

struct Answers {
    clock: Clock,
    result: Arc<Mutex<Histogram<u64>>>,
}

impl Producer for Answers {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        if self.clock.tick() {
            cx.emit(1);
        } else {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }

    async fn terminate(&mut self, _exit: &Exit) {
        std::mem::swap(&mut *self.result.lock().unwrap_or_else(PoisonError::into_inner), &mut self.clock.times);
    }
}

struct Asks;

impl Consumer for Asks {
    type In = u64;

    async fn handle_events(&mut self, _events: Batch<u64>, _cx: &mut Cx<'_>) -> aqueduct::Result {
        Ok(())
    }
}

async fn between_stages() -> Result<Histogram<u64>> {
    let result = Arc::new(Mutex::new(times()));
    let graph = Graph::new("round trip");
    let shared = Arc::clone(&result);
    let answers = graph.producer("answers", move || Answers { clock: Clock::new(), result: Arc::clone(&shared) });
    graph.consumer("asks", || Asks).subscribe(&answers, 0..1);
    graph.run().await?;
    let times = result.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(times)
}

async fn between_tasks() -> Result<Histogram<u64>> {
    let (asks, mut asked) = mpsc::channel::<()>(1);
    let (answers, mut arriving) = mpsc::channel::<u64>(1);
    let producer = tokio::spawn(async move {
        let mut clock = Clock::new();
        while asked.recv().await.is_some() && clock.tick() {
            if answers.send(1).await.is_err() {
                break;
            }
        }
        clock.times
    });
    let consumer = tokio::spawn(async move { while asks.send(()).await.is_ok() && arriving.recv().await.is_some() {} });
    consumer.await?;
    Ok(producer.await?)
}
