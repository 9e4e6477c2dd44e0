//! What benches of several rows have in common: how often and how long is measured, and what is said in the end.

use std::time::Duration;

use clap::Args;

use crate::measure::{print_machine, print_ratio};

/// How often and how long is measured.
#[derive(Clone, Copy, Debug, Args)]
pub struct Turns {
    /// One short turn of each, to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// Worker threads of each process; 0 for a runtime on one thread
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// Milliseconds that a sample takes
    #[arg(long, value_name = "MS", default_value_t = 300)]
    sample: u64,
    /// Turns that count
    #[arg(long, value_name = "N", default_value_t = 5)]
    turns: usize,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Turns {
    /// How many of them count.
    pub fn count(&self) -> usize {
        if self.quick { 1 } else { self.turns }
    }

    /// How long a sample takes.
    pub fn sample(&self) -> Duration {
        Duration::from_millis(if self.quick { 50 } else { self.sample })
    }

    /// Prints the machine, and this.
    pub fn print(&self) {
        print_machine();
        let (count, sample, workers) = (self.count(), self.sample(), self.workers);
        println!("medians of {count} in turns of {sample:?} each; {workers} worker threads in each process");
    }
}

/// Names and values of `RATIO` lines.
pub type Ratios = Vec<(String, f64)>;

/// Prints the `RATIO` lines.
pub fn print_ratios(ratios: &Ratios) {
    println!();
    ratios.iter().for_each(|(name, ratio)| print_ratio(name, *ratio));
}

/// Whether a row is wanted: everything is if nothing is named.
pub fn wants<Row: PartialEq>(named: &[Row], row: &Row) -> bool {
    named.is_empty() || named.contains(row)
}
