//! [`Growth`]: a demand window that follows the pace of its consumer. Pure.

use std::time::Duration;

use aqueduct_dispatcher::Window;
use tokio::time::Instant;

/// How large a window is that its user has let [grow](aqueduct_dispatcher::SubscribeOptions::growing_to).
///
/// It is doubled with an ask if its consumer has waited for events since the one before, and is never so large that what is in
/// it would take its consumer longer than a *line* may be: 20 ms, or twice what was waited, up to 200 ms. So it covers the way
/// to a far producer where events are handled fast, and is what it was at the start where they are not. It is that again, too,
/// where something is taken back: somebody else had nothing to do while it waited here.
#[derive(Debug)]
pub(crate) struct Growth {
    start: Window,
    most: u64,
    window: Window,
    /// How many events were begun with since the last ask.
    events: u64,
    /// When that was.
    asked_at: Option<Instant>,
    /// Since when the consumer waits.
    waits_since: Option<Instant>,
    /// How long it has waited since the last ask.
    waited: Duration,
    /// Something was taken back since then.
    is_too_large: bool,
}

impl Growth {
    /// A window that is `start` at first, and never larger than `most` unless it begins so.
    pub(crate) fn new(start: Window, most: usize) -> Self {
        let (asked_at, waits_since, waited) = (None, None, Duration::ZERO);
        Self { start, most: most as u64, window: start, events: 0, asked_at, waits_since, waited, is_too_large: false }
    }

    /// The consumer has nothing to handle.
    pub(crate) fn waits(&mut self, now: Instant) {
        self.waits_since.get_or_insert(now);
    }

    /// The consumer has something to handle again.
    pub(crate) fn goes_on(&mut self, now: Instant) {
        if let Some(since) = self.waits_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// The consumer begins with so many events more.
    pub(crate) fn begins(&mut self, events: usize) {
        self.events += events as u64;
    }

    /// An event was taken back before the consumer has begun with it.
    pub(crate) fn is_taken_back(&mut self) {
        self.is_too_large = true;
    }

    /// The consumer asks again: with which window.
    pub(crate) fn asks(&mut self, now: Instant) -> Window {
        self.goes_on(now);
        let events = std::mem::take(&mut self.events);
        let waited = std::mem::take(&mut self.waited);
        let Some(before) = self.asked_at.replace(now) else { return self.window };
        if std::mem::take(&mut self.is_too_large) {
            self.window = self.start;
            return self.window;
        }
        let busy = now.saturating_duration_since(before).saturating_sub(waited);
        let line = (2 * waited).clamp(SHORTEST_LINE, LONGEST_LINE);
        // At the pace of these.
        let in_line = line.as_nanos() * u128::from(events) / busy.as_nanos().max(1);
        let in_line = u64::try_from(in_line).unwrap_or(u64::MAX);
        let max = self.window.max().count();
        let wanted = if waited.is_zero() { max } else { max.saturating_mul(2) };
        self.window = self.of(wanted.min(in_line).min(self.most).max(self.start.max().count()));
        self.window
    }

    /// The window of so many events, in which the consumer asks again at the same share of them as at the start.
    fn of(&self, max: u64) -> Window {
        let (start_min, start_max) = (self.start.min().count(), self.start.max().count());
        let min = u128::from(start_min) * u128::from(max) / u128::from(start_max);
        let len = |events: u64| usize::try_from(events).unwrap_or(usize::MAX);
        // It is below `max`, as at the start.
        Window::new(len(u64::try_from(min).unwrap_or(0)), len(max)).unwrap_or(self.start)
    }
}

/// How long what is in a window may take, if little or nothing is waited for.
const SHORTEST_LINE: Duration = Duration::from_millis(20);
/// However long the way to the producer is: what stands behind a slow event is to wait no longer.
const LONGEST_LINE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    /// The most events of the windows, of a consumer that needs `each` for an event and gets the next `way` after its ask.
    fn windows(start: Window, most: usize, each: Duration, way: Duration, asks: usize) -> Vec<u64> {
        let (mut growth, mut now) = (Growth::new(start, most), Instant::now());
        let mut window = growth.asks(now);
        let mut windows = Vec::new();
        for _ in 0..asks {
            let piece = window.piece().as_len();
            growth.begins(piece);
            now += each * piece as u32;
            // While it asks, there is still something to do for so long.
            let here = each * window.min().as_len() as u32;
            if way > here {
                growth.waits(now + here);
                growth.goes_on(now + way);
                now += way - here;
            }
            window = growth.asks(now);
            windows.push(window.max().count());
        }
        windows
    }

    fn window(min: usize, max: usize) -> Window {
        Window::new(min, max).expect("a window")
    }

    #[test]
    fn it_is_doubled_while_its_consumer_waits_and_stays_when_it_does_not() {
        let (each, way) = (Duration::from_micros(1), Duration::from_micros(100));
        assert_eq!(windows(window(8, 16), 8192, each, way, 6), [32, 64, 128, 256, 256, 256]);
        let far = Duration::from_millis(50);
        assert_eq!(windows(window(8, 16), 8192, each, far, 20).last(), Some(&8192));
        assert_eq!(windows(window(8, 16), 100, each, far, 20).last(), Some(&100));
    }

    #[test]
    fn slow_work_leaves_it_at_its_start() {
        for (min, max) in [(8, 16), (0, 1), (500, 1000)] {
            for way in [Duration::from_micros(50), Duration::from_millis(100), Duration::from_mins(1)] {
                let windows = windows(window(min, max), 65_536, Duration::from_secs(1), way, 20);
                assert!(windows.iter().all(|window| *window == max as u64), "{min}..{max}, {way:?}: {windows:?}");
            }
        }
    }

    #[test]
    fn what_is_in_it_takes_no_longer_than_a_line() {
        for each in [1, 10, 100, 1000, 5000].map(Duration::from_micros) {
            for way in [10, 1000, 50_000, 1_000_000].map(Duration::from_micros) {
                let largest = *windows(window(8, 16), 65_536, each, way, 40).iter().max().expect("there are some");
                let line = each * largest as u32;
                assert!(largest == 16 || line <= LONGEST_LINE, "{largest} events of {each:?} over {way:?}");
                assert!(way >= SHORTEST_LINE / 2 || largest == 16 || line <= SHORTEST_LINE, "{line:?} for {way:?}");
            }
        }
    }

    /// A window that has grown as far as it may.
    fn grown() -> (Growth, Instant) {
        let (mut growth, mut now) = (Growth::new(window(8, 16), 8192), Instant::now());
        growth.asks(now);
        for _ in 0..12 {
            growth.begins(4000);
            growth.waits(now);
            now += Duration::from_millis(1);
            growth.goes_on(now);
            growth.asks(now);
        }
        assert_eq!(growth.window, window(4096, 8192));
        (growth, now)
    }

    #[test]
    fn it_is_as_at_the_start_when_something_is_taken_back() {
        let (mut growth, mut now) = grown();
        for expected in [window(8, 16), window(16, 32)] {
            growth.begins(16);
            growth.waits(now);
            now += Duration::from_millis(1);
            if expected == window(8, 16) {
                growth.is_taken_back();
            }
            assert_eq!(growth.asks(now), expected);
        }
    }

    #[test]
    fn it_shrinks_with_the_next_ask_when_work_becomes_slow() {
        let (mut growth, mut now) = grown();
        growth.begins(10);
        now += Duration::from_secs(10);
        assert_eq!(growth.asks(now), window(8, 16));
    }
}
