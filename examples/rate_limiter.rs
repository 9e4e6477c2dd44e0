//! Limits how fast events are asked for, and changes that while the graph runs.
//!
//! ```text
//!   [ numbers ] ◄── no more than 5, later 2, in 50 ms ── [ limited ] ──► [ print ]
//! ```
//!
//! The limit is on demand, so nothing is dropped and nothing piles up: the source is called for five events, and not
//! again before 50 ms have passed. What is asked for at once arrives as one batch, so each line is one period.
//!
//! `cargo run --release --example rate_limiter` prints
//!
//! ```text
//! [1, 2, 3, 4, 5]
//! [6, 7, 8, 9, 10]
//! [11, 12, 13, 14, 15]
//! slower
//! [16, 17]
//! [18, 19]
//! [20]
//! in no less than 250 ms: true
//! ```

use std::time::Duration;

use aqueduct::stages::Rate;
use aqueduct::{Batch, Graph, Result, each_batch};
use tokio::time::Instant;

const PERIOD: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let (rate, started) = (Rate::new(5, PERIOD), Instant::now());
    let graph = Graph::new("rate limiter");
    let numbers = graph.iterate("numbers", || 1..=20);
    let limit = rate.clone();
    let limited = graph.stage("limited", move || limit.limit()).subscribe(&numbers, 5..10);
    let print = move || {
        let rate = rate.clone();
        each_batch(move |batch: Batch<u32>| {
            println!("{batch:?}");
            if batch.contains(&15) {
                println!("slower");
                rate.set(2, PERIOD);
            }
            async { Ok(()) }
        })
    };
    graph.consumer("print", print).subscribe(&limited, 5..10);
    graph.run().await?;
    println!("in no less than 250 ms: {}", started.elapsed() >= 5 * PERIOD);
    Ok(())
}
