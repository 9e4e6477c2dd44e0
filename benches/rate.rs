//! Rates: how many a second, counted for a while.

use std::time::{Duration, Instant};

/// Counts for a while, from the first that arrives on. That one only starts the clock.
#[derive(Clone, Debug)]
pub struct Meter {
    limit: Duration,
    started: Option<Instant>,
    first: u64,
    count: u64,
}

/// What a [`Meter`] has counted.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many a second.
    pub per_second: f64,
    /// How many in all, the first ones too.
    pub count: u64,
}

impl Meter {
    /// Counts for so long.
    pub fn new(limit: Duration) -> Self {
        Self { limit, started: None, first: 0, count: 0 }
    }

    /// Counts `count` more that have arrived together. The rate, when the time is over.
    pub fn take(&mut self, count: u64) -> Option<Rate> {
        let Some(started) = self.started else {
            (self.started, self.first) = (Some(Instant::now()), count);
            return None;
        };
        self.count += count;
        let elapsed = started.elapsed();
        let per_second = self.count as f64 / elapsed.as_secs_f64();
        (elapsed >= self.limit).then_some(Rate { per_second, count: self.count + self.first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_starts_the_clock() {
        let mut meter = Meter::new(Duration::ZERO);
        assert!(meter.take(1_000_000).is_none());
        let rate = meter.take(10).unwrap();
        assert_eq!(rate.count, 1_000_010);
        assert!(rate.per_second.is_finite());
    }
}
