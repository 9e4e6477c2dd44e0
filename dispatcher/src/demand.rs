//! How much may be sent: [`Demand`], and the [`Window`] that says when a consumer asks again.

use std::fmt;
use std::ops::Range;

/// A count of events that a consumer has asked for.
///
/// Sums saturate instead of wrapping, so demand "without bound" is simply [`Demand::MAX`] (Reactive Streams 3.17).
/// Demand counts events; sizes in bytes are a different quantity.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand(u64);

impl Demand {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// As much as can be asked for; adding to it changes nothing.
    pub const MAX: Self = Self(u64::MAX);

    /// A demand of `events`.
    pub const fn new(events: u64) -> Self {
        Self(events)
    }

    /// The number of events.
    pub const fn count(self) -> u64 {
        self.0
    }

    /// The number of events as a length, capped at what this machine can address.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Whether nothing is asked for.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, [`Demand::MAX`] at most.
    #[must_use]
    pub const fn saturating_add(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }

    /// The difference, zero at least.
    #[must_use]
    pub const fn saturating_sub(self, less: Self) -> Self {
        Self(self.0.saturating_sub(less.0))
    }

    /// The difference, or `None` where `less` is larger.
    #[must_use]
    pub const fn checked_sub(self, less: Self) -> Option<Self> {
        match self.0.checked_sub(less.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// Takes up to `at_most` out of this demand and returns what was taken.
    pub fn take(&mut self, at_most: Self) -> Self {
        let taken = (*self).min(at_most);
        self.0 -= taken.0;
        taken
    }

    /// Adds `more`, saturating.
    pub fn add(&mut self, more: Self) {
        *self = self.saturating_add(more);
    }
}

impl From<usize> for Demand {
    fn from(events: usize) -> Self {
        Self(events as u64)
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::MAX { f.write_str("unbounded") } else { self.0.fmt(f) }
    }
}

/// When a consumer asks its producer again, and for how much: GenStage's `min_demand..max_demand`.
///
/// A consumer asks for `max` when it subscribes. What arrives is handled in pieces of at most `max - min` events; once
/// no more than `min` events are still outstanding it asks for as many as bring it back to `max`. So at most `max`
/// events are ever on their way, and a producer is asked about once for every `max - min` events.
///
/// | window | piece | first ask | later asks |
/// |---|---|---|---|
/// | `500..1000` (the default) | 500 | 1000 | 500 after every 500 |
/// | `750..1000` | 250 | 1000 | 250 after every 250 |
/// | `0..1` | 1 | 1 | 1 after each event |
///
/// It is not a pace. Asks that come while the producer is busy are answered together: with `80..100`, one that was busy
/// while 100 events were handled is asked for 100 at once, not five times for 20; and a stage in between has asked for
/// its `max` before it was asked itself. What a producer is asked for at a time is bounded by the sum of the `max` of its
/// consumers and by nothing else. Where a source is to be used evenly, `Rate` of `aqueduct-stage` does that.
///
/// A larger `max` costs memory and fairness, a smaller distance between the two costs a wake for fewer events.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    min: u64,
    max: u64,
}

impl Window {
    /// The default between stages of one process: `500..1000`.
    pub const NEAR: Self = Self { min: 500, max: 1000 };
    /// The default between processes: `5000..10000`, because a wake across processes costs as much as thousands of
    /// events.
    pub const FAR: Self = Self { min: 5_000, max: 10_000 };

    /// A window of `min..max` events.
    ///
    /// # Errors
    ///
    /// [`WindowError`] names the range: `min` must be below `max`.
    pub const fn new(min: usize, max: usize) -> Result<Self, WindowError> {
        if min >= max {
            return Err(WindowError { min, max });
        }
        Ok(Self { min: min as u64, max: max as u64 })
    }

    /// The most events that are on their way at one time.
    pub const fn max(self) -> Demand {
        Demand::new(self.max)
    }

    /// The number of outstanding events at which the consumer asks again.
    pub const fn min(self) -> Demand {
        Demand::new(self.min)
    }

    /// The most events that are handled in one piece: `max - min`.
    pub const fn piece(self) -> Demand {
        Demand::new(self.max - self.min)
    }
}

impl TryFrom<Range<usize>> for Window {
    type Error = WindowError;

    fn try_from(range: Range<usize>) -> Result<Self, WindowError> {
        Self::new(range.start, range.end)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

/// Not a [`Window`]: the consumer would never ask, or never again.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a window min..max with min below max, such as 500..1000, got {min}..{max}")]
#[non_exhaustive]
pub struct WindowError {
    /// The lower bound that was given.
    pub min: usize,
    /// The upper bound that was given.
    pub max: usize,
}

crate::debug_as_sentence!(WindowError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_saturate_and_never_wrap() {
        assert_eq!(Demand::MAX.saturating_add(Demand::new(1)), Demand::MAX);
        assert_eq!(Demand::new(1).saturating_sub(Demand::MAX), Demand::ZERO);
        assert_eq!(Demand::new(1).checked_sub(Demand::new(2)), None);
        let mut rest = Demand::new(5);
        assert_eq!(rest.take(Demand::new(3)), Demand::new(3));
        assert_eq!(rest.take(Demand::MAX), Demand::new(2));
        assert!(rest.is_zero());
    }

    #[test]
    fn what_is_no_window_is_refused_as_it_was_written() {
        let refused = |min, max| Window::new(min, max).expect_err("out of bounds").to_string();
        let expected = "expected a window min..max with min below max, such as 500..1000, got ";
        for (min, max) in [(0, 0), (2000, 1000), (1, 1)] {
            assert_eq!(refused(min, max), format!("{expected}{min}..{max}"));
        }
        assert_eq!(Window::try_from(500..1000), Ok(Window::NEAR));
    }
}
