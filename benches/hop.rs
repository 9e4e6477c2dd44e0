//! Question: what does it cost to move one event from one stage to the next, beside two tasks and two channels?
//!
//!     cargo bench -p aqueduct-benches --bench hop
//!
//! A producer counts as many `u64` as it is asked for, a consumer sums them by reference; every sample checks the sum.
//! The reference does the same by hand: a task that sends batches of `max - min` over a bounded `tokio::sync::mpsc`,
//! against messages of demand over another; with the window `0..1` both carry one event at a time. `three_stages` has
//! one more stage between the two, which adds one.
//!
//! Nanoseconds per event. On two worker threads and on one thread (`_current_thread`), the machine is printed. Ours and
//! the reference take turns, one pair to warm up, then nine that count; the figures are medians. A sample starts and
//! ends its stages, which takes some 10 µs of its 20 ms or more.
//!
//! `RATIO` lines: events per second, ours over the reference; bigger is better. They are named after max and min.

use std::ops::Range;

use aqueduct_benches::measure::{Comparison, Table, runtimes};
use aqueduct_benches::stages::sum_below;
use aqueduct_benches::{edges, stages};

/// Windows, and how many events make a sample.
const WINDOWS: [(Range<usize>, u64); 5] =
    [(500..1000, 50_000_000), (50..100, 20_000_000), (5..10, 2_000_000), (0..1, 200_000), (5000..10_000, 100_000_000)];
const THREE_STAGES: (Range<usize>, u64) = (500..1000, 30_000_000);

fn main() {
    let mut table = Table::start();
    for (suffix, runtime) in runtimes() {
        for (window, events) in WINDOWS {
            let compared = Comparison::of_sums(
                &runtime,
                events,
                sum_below(events),
                || stages::shared(events, 1, window.clone()),
                || edges::one_to_one(events, window.clone()),
            );
            table.row(format!("hop_{}_{}{suffix}", window.end, window.start), &compared);
        }
        let (window, events) = THREE_STAGES;
        let compared = Comparison::of_sums(
            &runtime,
            events,
            sum_below(events) + events,
            || stages::three_in_a_row(events, window.clone()),
            || edges::three_in_a_row(events, window.clone()),
        );
        table.row(format!("three_stages{suffix}"), &compared);
    }
    table.finish();
}
