//! Pure: [`Line`], the slowest part of the way from one host to another, where datagrams queue.

use std::time::Duration;

use crate::conditions::LinkConditions;

/// One direction between two hosts. It carries one datagram after the other at the bandwidth of the conditions; those that
/// have to wait are its queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line {
    /// When the last datagram it took has left.
    free_at: Duration,
}

impl Line {
    /// Takes a datagram: when its last byte has left. `None` if the queue has no room for it, and it is dropped.
    pub(crate) fn take(&mut self, now: Duration, conditions: &LinkConditions, bytes: usize) -> Option<Duration> {
        let Some(bandwidth) = conditions.bandwidth else { return Some(now) };
        let waits = self.free_at.saturating_sub(now);
        let queued_bytes = waits.as_secs_f64() * bandwidth as f64;
        // The one that is leaving does not wait: an idle line takes a datagram of any length.
        if queued_bytes > 0.0 && queued_bytes + bytes as f64 > conditions.queue_bytes as f64 {
            return None;
        }
        self.free_at = now + waits + Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
        Some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn slow() -> LinkConditions {
        LinkConditions::default().bandwidth(1_000_000).queue_bytes(3000)
    }

    #[test]
    fn without_a_bandwidth_nothing_waits() {
        let mut line = Line::default();
        assert_eq!([(); 3].map(|()| line.take(MS, &LinkConditions::default(), 1 << 20)), [Some(MS); 3]);
    }

    #[test]
    fn one_datagram_leaves_after_the_other() {
        let mut line = Line::default();
        assert_eq!(line.take(MS, &slow(), 1000), Some(2 * MS));
        assert_eq!(line.take(MS, &slow(), 1000), Some(3 * MS));
        assert_eq!(line.take(10 * MS, &slow(), 500), Some(10 * MS + MS / 2), "it was idle between");
    }

    #[test]
    fn a_full_queue_drops_the_last() {
        let mut line = Line::default();
        let leave = [(); 5].map(|()| line.take(Duration::ZERO, &slow(), 1000));
        assert_eq!(leave, [Some(MS), Some(2 * MS), Some(3 * MS), None, None]);
        assert_eq!(line.take(MS, &slow(), 1000), Some(4 * MS), "there is room again");
    }

    #[test]
    fn an_idle_line_takes_what_is_longer_than_its_queue() {
        let mut line = Line::default();
        assert_eq!(line.take(Duration::ZERO, &slow().queue_bytes(0), 1000), Some(MS));
        assert_eq!(line.take(Duration::ZERO, &slow().queue_bytes(0), 1), None);
    }
}
