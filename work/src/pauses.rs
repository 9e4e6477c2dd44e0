//! [`Pauses`]: how long to wait before something that was lost is tried again. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// At once after the first loss, and ever later after each further one, until it has held for [`HELD`]. Success alone does not
/// count: a peer that lets a link go on and cuts it again would be dialled as fast as both can, and a dial is a handshake.
#[derive(Debug)]
pub struct Pauses {
    first: Duration,
    last: Duration,
    next: Duration,
    /// Since when it goes on, while it does.
    since: Option<Instant>,
}

impl Pauses {
    /// None, then `first`, and twice as long each time, up to `last`.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: Duration::ZERO, since: None }
    }

    /// It goes on. Said of what goes on already, it changes nothing, and nobody looks at the clock.
    pub fn goes_on(&mut self, now: impl FnOnce() -> Instant) {
        self.since.get_or_insert_with(now);
    }

    /// It was lost, or an attempt came to nothing. Returns how long to wait before the next.
    pub fn lost(&mut self, now: Instant) -> Duration {
        let has_held = |since| now.saturating_duration_since(since) >= HELD;
        if self.since.take().is_some_and(has_held) {
            self.next = Duration::ZERO;
        }
        let next = (self.next * 2).clamp(self.first, self.last);
        std::mem::replace(&mut self.next, next)
    }
}

/// Whoever lets something go on for so long each time causes a dial a second. What breaks by itself rarely breaks so soon.
const HELD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn pauses() -> (Pauses, impl Fn(u64) -> Instant) {
        let now = Instant::now();
        (Pauses::new(millis(50), millis(250)), move |at| now + millis(at))
    }

    #[test]
    fn the_first_attempt_is_at_once_and_further_ones_are_ever_later() {
        let (mut pauses, at) = pauses();
        let waited = [0, 1, 2, 3, 4, 5].map(|now| pauses.lost(at(now)).as_millis());
        assert_eq!(waited, [0, 50, 100, 200, 250, 250]);
    }

    #[test]
    fn what_is_lost_again_at_once_is_tried_ever_later_however_often_it_goes_on() {
        let (mut pauses, at) = pauses();
        let waited = [0, 1000, 2000, 3000, 4000, 5000].map(|now| {
            pauses.goes_on(|| at(now));
            pauses.lost(at(now + 999)).as_millis()
        });
        assert_eq!(waited, [0, 50, 100, 200, 250, 250]);
    }

    #[test]
    fn what_has_held_for_a_while_is_tried_again_at_once() {
        let (mut pauses, at) = pauses();
        for now in [0, 1, 2] {
            pauses.lost(at(now));
        }
        pauses.goes_on(|| at(10));
        // It is heard of again and again.
        pauses.goes_on(|| at(1000));
        assert_eq!(pauses.lost(at(1010)), Duration::ZERO);
        // And is not counted as going on after it was lost.
        assert_eq!(pauses.lost(at(9000)), millis(50));
    }
}
