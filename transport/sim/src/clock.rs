//! Pure: [`Clock`], the clock of a host that does not run as fast as time does.

use std::time::Duration;

use tokio::time::Instant;

/// Translates between true time and what a host takes for it. It never jumps and never goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// At this true time …
    truth: Instant,
    /// … it showed this, …
    shown: Instant,
    /// … and runs so much faster than time since.
    rate: f64,
}

impl Clock {
    /// A clock that is right at `now`.
    pub(crate) fn new(now: Instant, rate: f64) -> Self {
        Self { truth: now, shown: now, rate }
    }

    /// The same clock, which runs at another rate from `now` on.
    pub(crate) fn at_rate(self, now: Instant, rate: f64) -> Self {
        Self { truth: now, shown: self.shows(now), rate }
    }

    /// What it shows at a true time.
    pub(crate) fn shows(&self, truth: Instant) -> Instant {
        self.shown + truth.saturating_duration_since(self.truth).mul_f64(self.rate)
    }

    /// The true time at which it shows `shown`, or a moment later: a timer that fired before its time would be set again
    /// to the same time for ever.
    pub(crate) fn true_time(&self, shown: Instant) -> Instant {
        self.truth + shown.saturating_duration_since(self.shown).div_f64(self.rate) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_fast_clock_shows_more_and_its_timers_fire_early() {
        let now = Instant::now();
        let clock = Clock::new(now, 2.0);
        assert_eq!(clock.shows(now + SECOND), now + 2 * SECOND);
        let fires = clock.true_time(now + 2 * SECOND);
        assert!(fires >= now + SECOND && fires < now + SECOND + Duration::from_millis(1));
    }

    #[test]
    fn another_rate_counts_from_then_on() {
        let now = Instant::now();
        let clock = Clock::new(now, 2.0).at_rate(now + SECOND, 0.5);
        assert_eq!(clock.shows(now + SECOND), now + 2 * SECOND);
        assert_eq!(clock.shows(now + 3 * SECOND), now + 3 * SECOND);
    }

    #[test]
    fn no_timer_fires_before_the_clock_shows_its_time() {
        let now = Instant::now();
        for rate in [0.3, 0.999_9, 1.000_1, 1.7] {
            let clock = Clock::new(now, rate);
            for nanos in (0..5000).map(|n| n * 999_983) {
                let at = now + Duration::from_nanos(nanos);
                assert!(clock.shows(clock.true_time(at)) >= at, "{rate} {nanos}");
            }
        }
    }
}
