//! Question: how many events per second does one producer hand to a thousand consumers?
//!
//!     cargo bench -p aqueduct-benches --bench many
//!
//! A producer counts as many `u64` as it is asked for, the consumers share them by demand and sum them by reference;
//! every sample checks the sum. The reference is a task that answers demand from one bounded `tokio::sync::mpsc` with
//! batches over a thousand others.
//!
//! Nanoseconds per event. On two worker threads and on one thread (`_current_thread`), the machine is printed. Ours and
//! the reference take turns, one pair to warm up, then nine that count; the figures are medians. A sample starts and
//! ends its stages, here a thousand of them, as does the reference with its tasks.
//!
//! `RATIO` lines: events per second, ours over the reference; bigger is better. They are named after max and min.

use std::ops::Range;

use aqueduct_benches::measure::{Comparison, Table, runtimes};
use aqueduct_benches::stages::sum_below;
use aqueduct_benches::{edges, stages};

const CONSUMERS: usize = 1000;
/// Windows, and how many events make a sample.
const WINDOWS: [(Range<usize>, u64); 2] = [(500..1000, 50_000_000), (50..100, 10_000_000)];

fn main() {
    let mut table = Table::start();
    for (suffix, runtime) in runtimes() {
        for (window, events) in WINDOWS {
            let compared = Comparison::of_sums(
                &runtime,
                events,
                sum_below(events),
                || stages::shared(events, CONSUMERS, window.clone()),
                || edges::shared(events, CONSUMERS, window.clone()),
            );
            table.row(format!("many_{}_{}{suffix}", window.end, window.start), &compared);
        }
    }
    table.finish();
}
