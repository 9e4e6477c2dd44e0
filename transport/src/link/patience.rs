//! What time decides for the publisher's half of a link: [`patience`], how long a subscriber that is cut off is waited for, and
//! [`Stall`], how long one that holds back others is. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// After how long to look again for a subscriber that has been cut off for `cut_for`; `None` if it is given up now.
///
/// It has the whole `grace` to come back, and only `lag_limit` of it while it `holds_back` others. Whether it does can change
/// at any time and nobody tells, so once the lag limit is over it is looked at every [`LOOK_EVERY`].
pub(crate) fn patience(cut_for: Duration, grace: Duration, lag_limit: Duration, holds_back: bool) -> Option<Duration> {
    let left = grace.saturating_sub(cut_for);
    let before_limit = lag_limit.saturating_sub(cut_for);
    if left.is_zero() || (holds_back && before_limit.is_zero()) {
        return None;
    }
    Some(left.min(if before_limit.is_zero() { LOOK_EVERY } else { before_limit }))
}

/// Since when a live subscriber holds back others.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    since: Option<Instant>,
}

impl Stall {
    /// Whether it has held back others for `limit` by now, at every look in that time.
    pub(crate) fn look(&mut self, holds_back: bool, limit: Duration, now: Instant) -> bool {
        self.since = holds_back.then(|| self.since.unwrap_or(now));
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }
}

/// Others wait so much longer at most, and a subscriber that is cut off costs four wakes a second.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);
    const LIMIT: Duration = Duration::from_secs(5);

    /// In milliseconds.
    fn left(cut_for: u64, lag_limit: Duration, holds_back: bool) -> Option<u128> {
        patience(Duration::from_millis(cut_for), GRACE, lag_limit, holds_back).map(|left| left.as_millis())
    }

    #[test]
    fn who_holds_others_back_is_given_up_at_the_lag_limit() {
        let at = |cut_for| left(cut_for, LIMIT, true);
        assert_eq!([0, 4999, 5000, 29_000].map(at), [Some(5000), Some(1), None, None]);
    }

    #[test]
    fn who_holds_nobody_back_has_the_whole_grace_and_is_looked_at_from_the_lag_limit_on() {
        let at = |cut_for| left(cut_for, LIMIT, false);
        assert_eq!([0, 4999, 5000, 29_900, 30_000].map(at), [Some(5000), Some(1), Some(250), Some(100), None]);
    }

    #[test]
    fn a_lag_limit_beyond_the_grace_changes_nothing() {
        for holds_back in [false, true] {
            let at = |cut_for| left(cut_for, Duration::MAX, holds_back);
            assert_eq!([0, 29_999, 30_000].map(at), [Some(30_000), Some(1), None]);
        }
    }

    #[test]
    fn without_a_lag_limit_nobody_waits_for_who_is_cut_off() {
        assert_eq!([left(0, Duration::ZERO, true), left(0, Duration::ZERO, false)], [None, Some(250)]);
    }

    #[test]
    fn who_holds_back_others_at_every_look_for_so_long_is_given_up() {
        let (mut stall, now) = (Stall::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let looks = [(true, 0), (true, 4), (false, 5), (true, 6), (true, 10), (true, 11)];
        let given_up = looks.map(|(holds_back, at_second)| stall.look(holds_back, LIMIT, at(at_second)));
        assert_eq!(given_up, [false, false, false, false, false, true]);
    }
}
