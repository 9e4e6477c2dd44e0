//! [`patience`]: how long a subscriber that is cut off is waited for; [`Stall`]: how long one that holds back others is; and
//! [`Grace`]: how long a subscriber tries to go on. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::bugs::bug;

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

/// How long a link that was cut off may still go on: from the first cut on, however often it is reconnected, until the other
/// end says that it goes on.
#[derive(Debug)]
pub(crate) struct Grace {
    length: Duration,
    cut_at: Option<Instant>,
}

impl Grace {
    pub(crate) const fn new(length: Duration) -> Self {
        Self { length, cut_at: None }
    }

    pub(crate) const fn length(&self) -> Duration {
        self.length
    }

    /// The link was cut. Returns when it is given up.
    pub(crate) fn cut(&mut self, now: Instant) -> Instant {
        if bug!(GraceAnew) {
            self.cut_at = None;
        }
        *self.cut_at.get_or_insert(now) + self.length
    }

    /// The other end goes on. Returns for how long the link was cut off.
    pub(crate) fn resumed(&mut self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.cut_at.take()?))
    }

    /// When the link is given up, while it is cut off.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.cut_at.map(|cut_at| cut_at + self.length)
    }

    /// For how long it has been cut off.
    pub(crate) fn waited(&self, now: Instant) -> Option<Duration> {
        self.cut_at.map(|cut_at| now.saturating_duration_since(cut_at))
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

    #[test]
    fn the_grace_does_not_begin_anew_at_each_reconnect() {
        let (mut grace, now) = (Grace::new(GRACE), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(grace.cut(at(0)), at(30));
        // Connected again, and cut off again before the other end has said anything.
        assert_eq!((grace.cut(at(20)), grace.ends()), (at(30), Some(at(30))));
        assert_eq!(grace.waited(at(25)), Some(Duration::from_secs(25)));
        // It goes on: what comes after that is another cut.
        assert_eq!((grace.resumed(at(26)), grace.ends()), (Some(Duration::from_secs(26)), None));
        assert_eq!(grace.cut(at(40)), at(70));
    }
}
