//! Measuring two ways of doing the same work on a machine that others use too.

use std::fmt::Debug;
use std::fs;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// How many times each of the two is measured; the figures are medians.
pub const PAIRS: usize = 9;

/// Ours and the reference, measured in turns.
#[derive(Clone, Debug)]
pub struct Comparison {
    ours: Vec<f64>,
    reference: Vec<f64>,
}

impl Comparison {
    /// Calls both in turns, A B A B …: one pair to warm up, then `pairs` that count. They answer what one sample cost,
    /// in any unit; less is better.
    pub fn alternate(pairs: usize, mut ours: impl FnMut() -> f64, mut reference: impl FnMut() -> f64) -> Self {
        ours();
        reference();
        let (ours, reference) = (0..pairs).map(|_| (ours(), reference())).unzip();
        Self { ours, reference }
    }

    /// Lets both move `events` on `runtime`, and checks that each answers the `expected` sum. In nanoseconds per event.
    ///
    /// # Panics
    ///
    /// If one of them fails or answers another sum.
    pub fn of_sums<A, B, AE: Debug, BE: Debug>(
        runtime: &Runtime,
        events: u64,
        expected: u64,
        ours: impl Fn() -> A,
        reference: impl Fn() -> B,
    ) -> Self
    where
        A: Future<Output = Result<u64, AE>>,
        B: Future<Output = Result<u64, BE>>,
    {
        Self::alternate(
            PAIRS,
            || ns_per_event(events, || assert_eq!(runtime.block_on(ours()).expect("ours ends well"), expected)),
            || ns_per_event(events, || assert_eq!(runtime.block_on(reference()).expect("by hand, too"), expected)),
        )
    }

    /// The median of ours.
    pub fn ours(&self) -> f64 {
        median(&self.ours)
    }

    /// The median of the reference.
    pub fn reference(&self) -> f64 {
        median(&self.reference)
    }

    /// The cost of the reference over ours: above 1 ours is the faster one.
    pub fn ratio(&self) -> f64 {
        self.reference() / self.ours()
    }
}

/// Rows of comparisons in nanoseconds per event, and a `RATIO` line for each at the end.
#[derive(Debug, Default)]
pub struct Table {
    ratios: Vec<(String, f64)>,
}

impl Table {
    /// Prints the machine and the head of the table.
    pub fn start() -> Self {
        print_machine();
        println!("medians of {PAIRS} in turns\n");
        println!("{:<34} {:>12} {:>12} {:>12} {:>7}", "", "stages ns", "by hand ns", "stages M/s", "ratio");
        Self::default()
    }

    /// Prints one row.
    pub fn row(&mut self, name: impl Into<String>, compared: &Comparison) {
        let (name, ours, ratio) = (name.into(), compared.ours(), compared.ratio());
        println!("{name:<34} {ours:>12.3} {:>12.3} {:>12.2} {ratio:>7.2}", compared.reference(), 1e3 / ours);
        self.ratios.push((name, ratio));
    }

    /// Prints the `RATIO` lines.
    pub fn finish(self) {
        println!();
        self.ratios.iter().for_each(|(name, ratio)| print_ratio(name, *ratio));
    }
}

/// The middle one of `samples`, the upper of two.
///
/// # Panics
///
/// If there are none.
pub fn median(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The time that `work` takes per event, in nanoseconds.
pub fn ns_per_event(events: u64, work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    as_ns(started.elapsed()) / events as f64
}

/// A duration in nanoseconds.
pub fn as_ns(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// The line that scripts read. `ratio` is ours over the reference in a measure where bigger is better.
pub fn print_ratio(name: &str, ratio: f64) {
    println!("RATIO {name} {ratio:.3}");
}

/// Prints what the figures were measured on.
pub fn print_machine() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let file = |path| fs::read_to_string(path).unwrap_or_default();
    let info = file("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let load = file("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    println!("machine: {cores} cores, {model}, {}; load {load} at the start", std::env::consts::OS);
}

/// The two runtimes that stages are measured on, with what to append to the name of a figure.
///
/// # Panics
///
/// If a runtime cannot be started.
pub fn runtimes() -> [(&'static str, Runtime); 2] {
    let start = |mut builder: Builder| builder.enable_all().build().expect("a runtime can be started");
    let mut two_workers = Builder::new_multi_thread();
    two_workers.worker_threads(2);
    [("", start(two_workers)), ("_current_thread", start(Builder::new_current_thread()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_untouched_by_one_slow_sample() {
        assert_eq!(median(&[3.0, 1.0, 900.0, 2.0, 2.5]), 2.5);
    }

    #[test]
    fn the_first_pair_does_not_count() {
        let (mut ours, mut reference) = ([100.0, 4.0, 4.0, 4.0].into_iter(), [100.0, 2.0, 2.0, 2.0].into_iter());
        let comparison = Comparison::alternate(3, || ours.next().unwrap(), || reference.next().unwrap());
        assert_eq!((comparison.ours(), comparison.reference(), comparison.ratio()), (4.0, 2.0, 0.5));
    }
}
