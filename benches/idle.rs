//! Question: what does a stage cost that does nothing, and a subscription over which nothing comes?
//!
//!     cargo bench -p aqueduct-benches --bench idle
//!
//! A graph of 10,000 producer-consumers, the largest kind of stage, is started on two worker threads and left until
//! nothing moves: once without subscriptions, and once with one subscription each to a producer that never emits.
//! Stages have names of 11 letters. The allocator counts the bytes that were asked of it and not given back; the first
//! figure divided by the stages is the cost of a stage, the difference of the two that of a subscription with its two
//! ends. Beside them stands the time it took to declare the graph, to start it and to reach the idle state. The plain
//! alternative is a task that waits on a bounded `tokio::sync::mpsc` of batches, with a second channel for demand. One
//! run of each to warm up, then three that count; the figures are medians, the machine is printed.
//!
//! `RATIO` lines: the goals, 4096 bytes a stage and 2048 bytes a subscription, over ours; bigger is better.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use aqueduct::{Batch, Cx, Graph, Producer, ProducerConsumer, Running};
use aqueduct_benches::measure::{median, print_machine, print_ratio, runtimes};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const STAGES: usize = 10_000;
const RUNS: usize = 3;
const GOAL_STAGE_BYTES: f64 = 4096.0;
const GOAL_SUBSCRIPTION_BYTES: f64 = 2048.0;
/// Nothing was allocated or freed for so long: the graph is idle.
const QUIET: Duration = Duration::from_millis(50);

#[global_allocator]
static ALLOCATOR: Counting = Counting { bytes: AtomicUsize::new(0) };

fn main() -> Result<()> {
    print_machine();
    println!("{STAGES} of each, medians of {RUNS}\n");
    let [(_, runtime), _] = runtimes();
    let rows = [
        Row::measure("stages", &runtime, || start_stages(false))?,
        Row::measure("stages, subscribed", &runtime, || start_stages(true))?,
        Row::measure("tasks with channels, by hand", &runtime, || Ok(start_tasks()))?,
    ];
    println!("{:<30} {:>9} {:>10}", "", "bytes", "start µs");
    for Row { name, bytes, start_us } in &rows {
        println!("{name:<30} {bytes:>9.0} {start_us:>10.2}");
    }
    let [alone, subscribed, _] = rows;
    println!("\na subscription: {:.0} bytes", subscribed.bytes - alone.bytes);
    println!();
    print_ratio("idle_stage_bytes", GOAL_STAGE_BYTES / alone.bytes);
    print_ratio("idle_subscription_bytes", GOAL_SUBSCRIPTION_BYTES / (subscribed.bytes - alone.bytes));
    Ok(())
}

/// Medians, for one stage.
struct Row {
    name: &'static str,
    bytes: f64,
    start_us: f64,
}

impl Row {
    /// Measures what `start` brings to life. Dropping its answer ends it.
    fn measure<T>(name: &'static str, runtime: &Runtime, start: impl Fn() -> Result<T>) -> Result<Self> {
        let (mut bytes, mut start_us) = (Vec::new(), Vec::new());
        for run in 0..=RUNS {
            let _inside = runtime.enter();
            let before = ALLOCATOR.bytes();
            let started = Instant::now();
            let alive = start()?;
            let ready = until_quiet(runtime, started);
            let after = ALLOCATOR.bytes();
            drop(alive);
            until_quiet(runtime, Instant::now());
            if run > 0 {
                bytes.push((after - before) as f64 / STAGES as f64);
                start_us.push(ready.as_secs_f64() * 1e6 / STAGES as f64);
            }
        }
        Ok(Self { name, bytes: median(&bytes), start_us: median(&start_us) })
    }
}

/// Waits until the allocator has been left alone for a while; returns the time until then, without that while.
fn until_quiet(runtime: &Runtime, started: Instant) -> Duration {
    let mut last = (ALLOCATOR.bytes(), started.elapsed());
    loop {
        runtime.block_on(tokio::time::sleep(Duration::from_millis(1)));
        if ALLOCATOR.bytes() != last.0 {
            last = (ALLOCATOR.bytes(), started.elapsed());
        } else if started.elapsed() - last.1 > QUIET {
            return last.1;
        }
    }
}

fn start_stages(subscribed: bool) -> Result<Running> {
    let graph = Graph::new("idle");
    let silent = graph.producer("silent", || Silent);
    for n in 0..STAGES {
        let stage = graph.stage(&format!("stage {n:05}"), || Silent);
        if subscribed {
            drop(stage.subscribe(&silent, 500..1000));
        }
    }
    Ok(graph.start())
}

/// Never emits, and is never given anything.
struct Silent;

impl Producer for Silent {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        Ok(())
    }
}

impl ProducerConsumer for Silent {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, _events: Batch<u64>, _cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        Ok(())
    }
}

type Channels = (mpsc::Sender<Vec<u64>>, mpsc::Receiver<u64>);

fn start_tasks() -> Vec<Channels> {
    let start = |_| {
        let (batches, mut arriving) = mpsc::channel(2);
        let (asks, asked) = mpsc::channel(2);
        tokio::spawn(async move {
            let _ = asks.send(1000).await;
            while arriving.recv().await.is_some() {
                let _ = asks.send(500).await;
            }
        });
        (batches, asked)
    };
    (0..STAGES).map(start).collect()
}

/// The system's allocator, with a count of the bytes that are in use.
struct Counting {
    bytes: AtomicUsize,
}

impl Counting {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[expect(unsafe_code, reason = "an allocator cannot be written without; this one only counts")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.bytes.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
