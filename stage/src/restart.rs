//! [`Restart`], [`Intensity`], [`Backoff`]: whether, how often and when something that has ended is started again. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::Exit;
use crate::bugs::bug;

/// Which ends are followed by a new start: OTP's restart types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Restart {
    /// All of them.
    Permanent,
    /// Those that are not [graceful](Exit::is_graceful): errors and panics.
    Transient,
    /// None.
    #[default]
    Temporary,
}

impl Restart {
    /// Whether something that ended like this is started again.
    pub fn applies_to(self, exit: &Exit) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !exit.is_graceful(),
            Self::Temporary => false,
        }
    }
}

/// How many restarts are borne before a supervisor gives up. Default: 3 in 5 s, as in OTP.
///
/// Exactly `max_restarts` within any period of this length are allowed, one more is not; with 0 the first failure
/// is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    max_restarts: usize,
    within: Duration,
}

impl Intensity {
    /// At most `max_restarts` within any period of length `within`. A restart exactly so long ago still counts.
    pub const fn new(max_restarts: usize, within: Duration) -> Self {
        Self { max_restarts, within }
    }

    /// The number of restarts that is allowed.
    pub const fn max_restarts(self) -> usize {
        self.max_restarts
    }

    /// The length of the period.
    pub const fn within(self) -> Duration {
        self.within
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self::new(3, Duration::from_secs(5))
    }
}

/// How long to wait before a restart: exponentially longer each time, less a random part, so that what failed together
/// does not come back together.
///
/// Or [constant](Self::constant). The wait before the first restart is at most `first`, and doubles up to `max`. The jitter takes away up to half of
/// it. The number of the restart is counted over the period of the [`Intensity`]: what has run longer than that starts
/// anew. Default: no wait, as in OTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    /// Without jitter.
    is_exact: bool,
}

impl Backoff {
    /// No wait at all.
    pub const NONE: Self = Self::constant(Duration::ZERO);

    /// Waits from at most `first` up to at most `max`. A `max` below `first` counts as `first`.
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        Self { first, max, is_exact: false }
    }

    /// Waits so long each time, no less and no longer: without jitter, so that what failed together comes back together.
    pub const fn constant(wait: Duration) -> Self {
        Self { first: wait, max: wait, is_exact: true }
    }

    /// The wait before restart `number`, from 1, drawn with `entropy`.
    pub(crate) fn delay(self, number: usize, entropy: u64) -> Duration {
        let doublings = u32::try_from(number.saturating_sub(1)).unwrap_or(u32::MAX).min(31);
        let longest = self.first.saturating_mul(1 << doublings).min(self.max.max(self.first));
        if self.is_exact {
            return longest;
        }
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos - entropy % (nanos / 2 + 1))
    }
}

/// The restarts that an [`Intensity`] still remembers.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    at: VecDeque<Instant>,
}

impl Restarts {
    /// Counts a restart. Returns its number within the period, from 1, or nothing if it is one too many.
    pub(crate) fn count(&mut self, intensity: Intensity, now: Instant) -> Option<usize> {
        while self.at.pop_front_if(|at| now.saturating_duration_since(*at) > intensity.within).is_some() {}
        if self.at.len() >= intensity.max_restarts + usize::from(bug!(OneRestartTooMany)) {
            return None;
        }
        self.at.push_back(now);
        Some(self.at.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_so_many_restarts_are_allowed_within_the_period() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let intensity = Intensity::new(2, 5 * second);
        let mut restarts = Restarts::default();
        let mut count = |after: u32| restarts.count(intensity, start + after * second);
        assert_eq!([count(0), count(1)], [Some(1), Some(2)]);
        assert_eq!(count(5), None, "the first is exactly one period old, and counts");
        assert_eq!(count(6), Some(2), "the first is older");
    }

    #[test]
    fn with_no_restarts_allowed_the_first_is_too_many() {
        assert_eq!(Restarts::default().count(Intensity::new(0, Duration::ZERO), Instant::now()), None);
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound_less_at_most_half() {
        let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_millis(350));
        let longest = |number| backoff.delay(number, 0).as_millis();
        assert_eq!([1, 2, 3, 4, usize::MAX].map(longest), [100, 200, 350, 350, 350]);
        for entropy in [1, u64::MAX / 3, u64::MAX - 1, u64::MAX] {
            let delay = backoff.delay(1, entropy).as_nanos();
            assert!((50_000_000..=100_000_000).contains(&delay), "{delay}");
        }
        assert_eq!(Backoff::NONE.delay(7, u64::MAX), Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!([1, 2, 99].map(|number| Backoff::constant(second).delay(number, u64::MAX)), [second; 3]);
    }
}
