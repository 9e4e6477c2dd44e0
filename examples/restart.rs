//! A consumer that crashes, is restarted after a while, and loses nothing.
//!
//! The consumer fails at two of the numbers when it sees them for the first time, once by an error and once by a panic.
//! It may be restarted, so neither is the end of the graph: its factory makes a new one, which is subscribed again. As it
//! acknowledges what it has handled, the batch in which it failed comes to it once more, with the number of the attempt.
//!
//! `cargo run --release --example restart` prints
//!
//! ```text
//! life 1: 0..=99, attempt 1
//! ...
//! life 2: 400..=499, attempt 2
//! ...
//! sum of all: 499500
//! numbers: normal, 0 in, 1300 out, 0 discarded, 0 failed
//! sum: normal, 1200 in, 0 out, 0 discarded, 0 failed, 2 restarts
//! ```
//!
//! and, on standard error, the report of the panic.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct::{Backoff, Batch, Consumer, Cx, Exit, Graph, Intensity, Producer, Restart, Result};

/// Emits what is left of a range.
struct Numbers(Range<u64>);

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(self.0.by_ref().take(demand));
        if self.0.is_empty() {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Adds up what it gets, in an account that outlives it.
struct Sum {
    life: u64,
    account: Arc<AtomicU64>,
}

impl Consumer for Sum {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        let attempt = events.attempt().number();
        if attempt == 1 && events.contains(&450) {
            return Err("450 is too much at once".into());
        }
        assert!(attempt > 1 || !events.contains(&700), "700 is a surprise");
        self.account.fetch_add(events.iter().sum(), Ordering::Relaxed);
        if let [first, .., last] = events[..] {
            println!("life {}: {first}..={last}, attempt {attempt}", self.life);
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let account = Arc::new(AtomicU64::new(0));
    let graph = Graph::new("restart")
        .intensity(Intensity::new(3, Duration::from_secs(5)))
        .backoff(Backoff::exponential(Duration::from_millis(10), Duration::from_secs(1)));
    let numbers = graph.producer("numbers", || Numbers(0..1_000));
    let (mut life, of_all_lives) = (0, Arc::clone(&account));
    graph
        .consumer("sum", move || {
            life += 1;
            Sum { life, account: Arc::clone(&of_all_lives) }
        })
        .subscribe_acknowledged(&numbers, 100..200)
        .restart(Restart::Transient);
    let outcome = graph.run().await?;
    println!("sum of all: {}", account.load(Ordering::Relaxed));
    print!("{outcome}");
    Ok(())
}
