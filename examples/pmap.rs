//! Maps events in parallel, and keeps their order.
//!
//! ```text
//!                         ┌── look up 1 ──┐
//!   [ numbers ] ──► [ pmap ── look up 2 ──── ] ──► [ print ]
//!                         └── look up 3 ──┘
//! ```
//!
//! Later numbers are looked up faster here, and would overtake the others. Three are under way at a time, and as soon as
//! one is done the next begins. Then a number that cannot be looked up: its error is the graph's, behind the results
//! before it.
//!
//! `cargo run --release --example pmap` prints
//!
//! ```text
//! 1 is odd
//! 2 is even
//! 3 is odd
//! 4 is even
//! 5 is odd
//! 6 is even
//! no more than 3 at once
//! 7 is odd
//! 8 is even
//! stage "look up" failed: 9 is unknown
//! ```

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct::{Graph, GraphError, Result, each, stages};

const UNKNOWN: u64 = 9;

/// How many look-ups are under way, and were at most.
#[derive(Default)]
struct Busy {
    now: AtomicUsize,
    most: AtomicUsize,
}

async fn look_up(number: u64, busy: Arc<Busy>) -> Result<String> {
    let now = busy.now.fetch_add(1, Ordering::Relaxed) + 1;
    busy.most.fetch_max(now, Ordering::Relaxed);
    // 60 ms for the first, 10 ms less for each of the others; and long for what there is not.
    let takes = if number == UNKNOWN { 200 } else { 70 - 10 * number.min(6) };
    tokio::time::sleep(Duration::from_millis(takes)).await;
    busy.now.fetch_sub(1, Ordering::Relaxed);
    match number {
        UNKNOWN => Err(format!("{number} is unknown").into()),
        number => Ok(format!("{number} is {}", if number % 2 == 0 { "even" } else { "odd" })),
    }
}

async fn print_all(numbers: RangeInclusive<u64>, busy: &Arc<Busy>) -> Result<(), GraphError> {
    let (graph, busy) = (Graph::new("pmap"), Arc::clone(busy));
    let numbers = graph.iterate("numbers", move || numbers.clone());
    let mapped = graph.stage("look up", move || {
        let busy = Arc::clone(&busy);
        stages::pmap(3, move |number| look_up(number, Arc::clone(&busy)))
    });
    // Up to 6 numbers in the stage, and always 3 to choose from.
    let mapped = mapped.subscribe(&numbers, 3..6);
    let print = || {
        each(async |line: String| {
            println!("{line}");
            Ok(())
        })
    };
    graph.consumer("print", print).subscribe(&mapped, 0..6);
    graph.run().await.map(drop)
}

#[tokio::main]
async fn main() -> Result {
    let busy = Arc::default();
    print_all(1..=6, &busy).await?;
    println!("no more than {} at once", busy.most.load(Ordering::Relaxed));
    if let Err(error) = print_all(7..=20, &busy).await {
        println!("{error}");
    }
    Ok(())
}
