//! [`Allowance`]: how many events may be asked for now. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// At most `events` within any stretch of time as long as `per`. It remembers what was taken within the last one.
#[derive(Debug)]
pub(super) struct Allowance {
    events: usize,
    per: Duration,
    /// When how many were taken, oldest first: no more entries than events.
    taken: VecDeque<(Instant, usize)>,
    /// The sum of what was taken.
    total: usize,
}

impl Allowance {
    pub(super) fn new(events: usize, per: Duration) -> Self {
        Self { events, per, taken: VecDeque::new(), total: 0 }
    }

    /// Sets another rate. What was taken before counts by it.
    pub(super) fn set(&mut self, events: usize, per: Duration) {
        (self.events, self.per) = (events, per);
    }

    /// Takes up to `wanted`, as many as are allowed.
    pub(super) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        self.forget(now);
        let allowed = wanted.min(self.events.saturating_sub(self.total));
        if allowed > 0 {
            self.total += allowed;
            match self.taken.back_mut() {
                Some((at, count)) if *at == now => *count += allowed,
                _ => self.taken.push_back((now, allowed)),
            }
        }
        allowed
    }

    /// When there will be more to take. Nothing if there is now, or never will be.
    pub(super) fn more_at(&self, now: Instant) -> Option<Instant> {
        if self.events == 0 || self.total < self.events {
            return None;
        }
        let mut left = self.total;
        for (at, count) in &self.taken {
            left -= count;
            if left < self.events {
                return at.checked_add(self.per).map(|then| then.max(now));
            }
        }
        None
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, count)) = self.taken.front()
            && now.saturating_duration_since(*at) >= self.per
        {
            self.total -= count;
            self.taken.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn any_stretch_of_a_period_holds_no_more_than_the_limit() {
        let (start, mut allowance) = (Instant::now(), Allowance::new(10, SECOND));
        let mut taken = Vec::new();
        for millis in (0..5_000).step_by(70) {
            let now = start + Duration::from_millis(millis);
            taken.push((millis, allowance.take(1 + millis as usize % 4, now)));
        }
        for (from, _) in &taken {
            let within = taken.iter().filter(|(at, _)| (*from..from + 1_000).contains(at));
            assert!(within.map(|(_, count)| count).sum::<usize>() <= 10, "from {from} ms");
        }
        assert!(taken.iter().map(|(_, count)| count).sum::<usize>() >= 45);
    }

    #[test]
    fn what_was_taken_comes_back_after_a_period() {
        let (start, mut allowance) = (Instant::now(), Allowance::new(3, SECOND));
        assert_eq!((allowance.take(2, start), allowance.more_at(start)), (2, None));
        let later = start + SECOND / 2;
        assert_eq!((allowance.take(5, later), allowance.more_at(later)), (1, Some(start + SECOND)));
        assert_eq!((allowance.take(5, start + SECOND), allowance.take(5, later + SECOND)), (2, 1));
    }

    #[test]
    fn another_limit_counts_what_was_taken_before() {
        let (start, mut allowance) = (Instant::now(), Allowance::new(10, SECOND));
        assert_eq!(allowance.take(10, start), 10);
        allowance.set(4, SECOND);
        assert_eq!((allowance.take(1, start), allowance.more_at(start)), (0, Some(start + SECOND)));
        allowance.set(12, SECOND);
        assert_eq!((allowance.take(5, start), allowance.more_at(start)), (2, Some(start + SECOND)));
        allowance.set(12, SECOND / 4);
        assert_eq!(allowance.take(20, start + SECOND / 4), 12);
    }

    #[test]
    fn of_nothing_there_is_never_more() {
        let (start, mut allowance) = (Instant::now(), Allowance::new(0, SECOND));
        assert_eq!((allowance.take(1, start), allowance.more_at(start)), (0, None));
    }
}
