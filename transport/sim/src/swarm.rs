//! [`swarm`]: many seeds on all cores.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::net::{SimNet, lock};
use crate::run::{Outcome, Report, Sim};
use crate::stats::Stats;
use crate::trace::{TextLog, first_divergence};

/// Every how many seeds one is run twice and compared.
const VERIFY_EVERY: u64 = 10;

/// Failures that are listed; the others are counted.
const LISTED_FAILURES: usize = 10;

/// Runs `scenario` with every seed, with the default options of [`Sim`]. See [`Sim::swarm`].
///
/// # Panics
/// If a seed failed.
#[track_caller]
pub fn swarm(seeds: Range<u64>, scenario: impl AsyncFn(SimNet) -> Outcome + Sync) -> SwarmReport {
    Sim::new().swarm(seeds, scenario)
}

impl Sim {
    /// Runs `scenario` with every seed, on as many threads as there are cores. Every tenth seed is run twice, and the
    /// hashes of the traces must be equal. Prints a report at the end.
    ///
    /// Environment variables change what is run: `SIM_SEED=n` runs that seed only, and prints its trace to standard error as
    /// it happens; `SIM_SEEDS=count` changes the number of seeds; `SIM_SEEDS_TIMES=n` runs so many times the seeds that the
    /// test has, unless they are [costly](Self::costly): for long runs of many tests, each of which has its own number.
    ///
    /// # Panics
    /// If a seed failed, or a variable is not a number. The message lists the failed seeds with their reasons, and the
    /// command that replays one.
    #[track_caller]
    pub fn swarm(&self, seeds: Range<u64>, scenario: impl AsyncFn(SimNet) -> Outcome + Sync) -> SwarmReport {
        if let Some(seed) = number_from_env("SIM_SEED") {
            return self.text_log(TextLog::Print).try_swarm(seed..seed + 1, scenario).expect_ok();
        }
        let own = seeds.end.saturating_sub(seeds.start);
        let count = self.count(own, number_from_env("SIM_SEEDS"), number_from_env("SIM_SEEDS_TIMES"));
        self.try_swarm(seeds.start..seeds.start + count, scenario).expect_ok()
    }

    /// How many seeds to run where a test has so many of its own.
    fn count(&self, own: u64, count: Option<u64>, times: Option<u64>) -> u64 {
        let times = times.filter(|_| !self.is_costly).unwrap_or(1);
        count.unwrap_or_else(|| own.saturating_mul(times))
    }

    /// As [`swarm`](Self::swarm), but gives failures back instead of panicking, and does not read the environment: for
    /// tests of the oracles, which plant a bug and expect it to be found.
    #[must_use = "failed seeds are in the report only"]
    pub fn try_swarm(&self, seeds: Range<u64>, scenario: impl AsyncFn(SimNet) -> Outcome + Sync) -> SwarmReport {
        #[expect(clippy::disallowed_methods, reason = "how long it really took")]
        let start = Instant::now();
        let next = AtomicU64::new(seeds.start);
        let total = Mutex::new(SwarmReport::default());
        let work = || {
            while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| seeds.contains(seed)) {
                let report = self.run(seed, &scenario);
                let verified = (seed % VERIFY_EVERY == 0).then(|| self.verify(&report, &scenario));
                lock(&total).add(report, verified);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        total.failures.sort();
        total.real_time = start.elapsed();
        total
    }

    /// Runs the seed of `first` again: it must do the same. `None` where the platform cannot promise that.
    fn verify(
        &self,
        first: &Report,
        scenario: &(impl AsyncFn(SimNet) -> Outcome + Sync),
    ) -> Option<Result<(), String>> {
        if !first.entropy_is_seeded {
            return None;
        }
        let second = self.run(first.seed, scenario);
        if first.hash == second.hash {
            return Some(Ok(()));
        }
        let log = || self.text_log(TextLog::Keep).run(first.seed, scenario).log;
        let divergence = first_divergence(&log(), &log());
        let divergence = divergence.unwrap_or("two further runs were equal: it is rare, run it again".to_owned());
        Some(Err(format!("two runs differ {divergence}")))
    }
}

/// What a swarm did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SwarmReport {
    /// Seeds run.
    pub seeds: u64,
    /// Of these, run twice and compared.
    pub verified: u64,
    /// Virtual time of all runs together.
    pub virtual_time: Duration,
    /// How long it really took.
    pub real_time: Duration,
    /// What the networks did.
    pub stats: Stats,
    /// The seeds that failed, lowest first, with the reason.
    pub failures: Vec<(u64, String)>,
}

impl SwarmReport {
    /// Prints the report. Gives it back if no seed failed.
    ///
    /// # Panics
    /// If one did, with a message that lists the failed seeds and the command that replays one.
    #[track_caller]
    pub fn expect_ok(self) -> Self {
        println!("{self}");
        let Some((seed, _)) = self.failures.first() else { return self };
        let list = self.failures.iter().take(LISTED_FAILURES);
        let list: String = list.map(|(seed, message)| format!("\n  SIM_SEED={seed}: {message}")).collect();
        let command = replay_command(*seed);
        panic!("{} of {} seeds failed:{list}\nreplay one with\n  {command}", self.failures.len(), self.seeds);
    }

    fn add(&mut self, report: Report, verified: Option<Option<Result<(), String>>>) {
        self.seeds += 1;
        self.virtual_time += report.virtual_time;
        self.stats += report.stats;
        self.failures.extend(report.outcome.err().map(|message| (report.seed, message)));
        if let Some(Some(verdict)) = verified {
            self.verified += 1;
            self.failures.extend(verdict.err().map(|message| (report.seed, message)));
        }
    }
}

impl fmt::Display for SwarmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (real, per_second) = (self.real_time.as_secs_f64(), self.seeds as f64 / self.real_time.as_secs_f64());
        write!(f, "{} seeds in {real:.2} s ({per_second:.1} seeds/s), ", self.seeds)?;
        write!(f, "{} of them run twice, {} failed; ", self.verified, self.failures.len())?;
        write!(f, "{:.0} virtual s; {}", self.virtual_time.as_secs_f64(), self.stats)
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Cargo tells a test the package; the test harness names the thread after the test.
fn replay_command(seed: u64) -> String {
    let package = std::env::var("CARGO_PKG_NAME").map_or(String::new(), |name| format!(" -p {name}"));
    let thread = thread::current();
    let test = thread.name().filter(|name| *name != "main").map_or(String::new(), |name| format!(" {name} -- --exact"));
    let separator = if test.is_empty() { " --" } else { "" };
    format!("SIM_SEED={seed} cargo test{package}{test}{separator} --nocapture")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_replaces_and_a_factor_multiplies_unless_seeds_are_costly() {
        let (cheap, costly) = (Sim::new(), Sim::new().costly());
        assert_eq!([cheap.count(300, None, None), costly.count(4, None, None)], [300, 4]);
        assert_eq!([cheap.count(300, None, Some(3)), costly.count(4, None, Some(3))], [900, 4]);
        assert_eq!([cheap.count(300, Some(20), Some(3)), costly.count(4, Some(20), None)], [20, 20]);
    }
}
