//! [`Pace`]: how often something may happen. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// So many times a second, of which some seconds' worth may come at once.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: u32,
    /// How much may come at once.
    ahead: Duration,
    /// When what has come would be over at that rate.
    full_at: Option<Instant>,
}

impl Pace {
    /// At least once a second, and a second's worth at once.
    pub(crate) const fn new(per_second: u32) -> Self {
        Self { per_second, ahead: Duration::from_secs(1), full_at: None }
    }

    /// So many seconds' worth may come at once.
    pub(crate) const fn at_once(self, seconds: u64) -> Self {
        Self { ahead: Duration::from_secs(seconds), ..self }
    }

    /// Counts what has happened; `false` if it was too often, and then it does not count.
    pub(crate) fn count(&mut self, times: u64, now: Instant) -> bool {
        let Some(full_at) = self.after(times, now) else { return false };
        let is_kept = full_at <= now + self.ahead;
        if is_kept {
            self.full_at = Some(full_at);
        }
        is_kept
    }

    /// Counts what is to happen once; returns how long it has to wait.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.full_at = self.after(1, now);
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now + self.ahead))
    }

    /// Whether it is as if nothing had ever come.
    pub(crate) fn is_rested(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }

    fn after(&self, times: u64, now: Instant) -> Option<Instant> {
        let times = u32::try_from(times).ok()?;
        let taken = Duration::from_secs(1) * times / self.per_second;
        Some(self.full_at.map_or(now, |full_at| full_at.max(now)) + taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_may_come_at_once_and_a_long_silence_saves_up_no_more() {
        let (mut pace, now) = (Pace::new(100), Instant::now());
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        assert!(pace.count(100, now) && pace.count(10, at(100)));
        assert!(pace.count(100, at(60_000)));
        assert!((1..=1000).all(|late| pace.count(1, at(60_000 + 10 * late))));
        assert!(!pace.count(1, at(70_000)) && !pace.count(u64::MAX, at(90_000)));
        // What was too often did not count.
        assert!(pace.count(1, at(70_010)));
    }

    #[test]
    fn who_waits_keeps_the_pace() {
        let (mut pace, now) = (Pace::new(10).at_once(2), Instant::now());
        assert!((0..20).all(|_| pace.wait(now).is_zero()));
        let waits = [pace.wait(now), pace.wait(now)].map(|wait| wait.as_millis());
        assert_eq!(waits, [100, 200]);
        assert_eq!(pace.wait(now + Duration::from_secs(60)), Duration::ZERO);
    }
}
