//! [`interval`]: a tick every so often.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;

/// A stream of ticks: their numbers, from 1. Tick `n` is due `n` periods after the stream was first polled.
///
/// **Ticks that were missed are skipped.** Who is late, because nobody asked or it was busy, gets the latest tick that
/// is due, and then waits for the next one on the same schedule: no ticks pile up, and none drift. The number tells how
/// many were missed. It never ends.
///
/// Time is measured by tokio's timers, in milliseconds, and only while it is polled on a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use aqueduct_stage::stages;
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let mut ticks = stages::interval(Duration::from_secs(1));
/// assert_eq!(ticks.next().await, Some(1));
/// tokio::time::sleep(Duration::from_millis(2500)).await;
/// assert_eq!(ticks.next().await, Some(3)); // at once; the second was missed
/// assert_eq!(ticks.next().await, Some(4)); // 4 s after the start
/// # }
/// ```
///
/// # Panics
///
/// If `period` is zero.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "expected a period longer than zero, got {period:?}");
    Interval { period, started: None, last: 0, sleep: None }
}

/// The stream made by [`interval`].
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    /// When it was first polled.
    started: Option<Instant>,
    /// The tick that was handed out last.
    last: u64,
    /// Made when it is first needed.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stream for Interval {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        let Self { period, started, last, sleep } = &mut *self;
        let started = *started.get_or_insert_with(Instant::now);
        let Some(due) = due(started, *period, *last + 1) else { return Poll::Pending };
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        ready!(sleep.as_mut().poll(cx));
        let passed = started.elapsed().as_nanos() / period.as_nanos();
        *last = u64::try_from(passed).unwrap_or(u64::MAX).max(*last + 1);
        Poll::Ready(Some(*last))
    }
}

/// When a tick is due; nothing if that is beyond all time.
fn due(started: Instant, period: Duration, tick: u64) -> Option<Instant> {
    let nanos = period.as_nanos().checked_mul(u128::from(tick))?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    started.checked_add(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_keep_their_schedule_and_missed_ones_are_skipped() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let mut ticks = interval(millis(100));
        let mut seen = Vec::new();
        for busy in [0, 30, 99, 100, 350, 0, 1] {
            let tick = ticks.next().await.expect("it never ends");
            seen.push((tick, start.elapsed().as_millis()));
            tokio::time::sleep(millis(busy)).await;
        }
        assert_eq!(seen, [(1, 100), (2, 200), (3, 300), (4, 400), (5, 500), (8, 850), (9, 900)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_beyond_all_time_never_comes() {
        let mut ticks = interval(Duration::MAX);
        let waited = tokio::time::timeout(Duration::from_secs(1_000_000), ticks.next()).await;
        assert!(waited.is_err());
    }
}
