//! Question: what does it cost to hand the events of one producer to four consumers?
//!
//!     cargo bench -p aqueduct-benches --bench one_to_four
//!
//! A producer counts as many `u64` as it is asked for, four consumers with the window `500..1000` sum them by reference;
//! every sample checks the sum. `by_demand` gives each event to one of the four, whoever asks; by hand that is a task
//! that answers demand from one bounded `tokio::sync::mpsc` with batches over four others. `broadcast` gives everything to
//! each of the four; by hand, a batch is an `Arc<Vec>` sent when the last of the four has asked. `partition` gives each
//! event to the one that its number says; by hand, a vector for each is sent when it is full.
//!
//! Nanoseconds per event that the producer emits. On two worker threads and on one thread (`_current_thread`), the
//! machine is printed. Ours and the reference take turns, one pair to warm up, then nine that count; the figures are
//! medians.
//!
//! `RATIO` lines: events per second, ours over the reference; bigger is better.

use std::ops::Range;

use aqueduct_benches::measure::{Comparison, Table, runtimes};
use aqueduct_benches::stages::sum_below;
use aqueduct_benches::{edges, stages};
use tokio::runtime::Runtime;

const EVENTS: u64 = 30_000_000;
const CONSUMERS: usize = 4;
const WINDOW: Range<usize> = 500..1000;

/// A way of dispatching, by its name.
type Shape = (&'static str, fn(&Runtime) -> Comparison);

const SHAPES: [Shape; 3] = [("by_demand", by_demand), ("broadcast", broadcast), ("partition", partition)];

fn main() {
    let mut table = Table::start();
    for (suffix, runtime) in runtimes() {
        for (name, compare) in SHAPES {
            table.row(format!("one_to_four_{name}{suffix}"), &compare(&runtime));
        }
    }
    table.finish();
}

fn broadcast(runtime: &Runtime) -> Comparison {
    Comparison::of_sums(
        runtime,
        EVENTS,
        sum_below(EVENTS).wrapping_mul(CONSUMERS as u64),
        || stages::broadcast(EVENTS, CONSUMERS, WINDOW),
        || edges::broadcast(EVENTS, CONSUMERS, WINDOW),
    )
}

fn partition(runtime: &Runtime) -> Comparison {
    Comparison::of_sums(
        runtime,
        EVENTS,
        sum_below(EVENTS),
        || stages::partition(EVENTS, CONSUMERS, WINDOW),
        || edges::partition(EVENTS, CONSUMERS, WINDOW),
    )
}

fn by_demand(runtime: &Runtime) -> Comparison {
    Comparison::of_sums(
        runtime,
        EVENTS,
        sum_below(EVENTS),
        || stages::shared(EVENTS, CONSUMERS, WINDOW),
        || edges::shared(EVENTS, CONSUMERS, WINDOW),
    )
}
