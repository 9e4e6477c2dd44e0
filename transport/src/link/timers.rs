//! [`Timers`]: what time decides for the subscriber's half of a link. Pure: the driver says what time it is.
//!
//! While a link is carried, what is wanted is said again now and then, in case it was lost. While it is cut off, its publisher
//! is tried to be reached, until the [grace](Grace) is over. The grace ends when the publisher says that it goes on.

use std::time::Duration;

use tokio::time::Instant;

use crate::bugs::bug;
use crate::pauses::Pauses;

/// All timers of a link.
#[derive(Debug)]
pub(crate) struct Timers {
    grace: Grace,
    idle: Idle,
    /// Before each attempt to reach the publisher again.
    pauses: Pauses,
    /// How long the first attempt after a cut may take, and the next one.
    first_patience: Duration,
    patience: Duration,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// To say again what is wanted.
    Restate,
    /// To give the link up: the publisher does not say that it goes on.
    GiveUp,
}

/// An attempt to reach the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) begins: Instant,
    /// When it has come to nothing.
    pub(crate) ends: Instant,
}

impl Timers {
    /// Those of a link that may be cut off for `grace`, to a publisher from which an answer takes `round_trip`.
    pub(crate) fn new(grace: Duration, round_trip: Duration, now: Instant) -> Self {
        let patience = (round_trip * ROUND_TRIPS).max(SHORTEST_PATIENCE);
        Self {
            grace: Grace::new(grace),
            idle: Idle::new(now),
            pauses: Pauses::new(FIRST_PAUSE, LAST_PAUSE),
            first_patience: patience,
            patience,
        }
    }

    /// A stream carries the link from now on.
    pub(crate) fn carried(&mut self, now: Instant) {
        self.idle = Idle::new(now);
        self.patience = self.first_patience;
    }

    /// A frame has come, or the consumer wants something. What is only said again does not count.
    pub(crate) fn interrupt(&mut self) {
        self.idle.is_busy = true;
    }

    /// When something may be due, on a stream.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.grace.ends().map_or(self.idle.due, |ends| ends.min(self.idle.due))
    }

    /// What is due by `now`, if so many datagrams have come from the peer so far.
    pub(crate) fn handle_timeout(&mut self, now: Instant, heard: u64) -> Option<Due> {
        if self.grace.ends().is_some_and(|ends| ends <= now) {
            return Some(Due::GiveUp);
        }
        (self.idle.due <= now && self.idle.begin_next(now, heard)).then_some(Due::Restate)
    }

    /// The stream was lost. Returns the grace.
    pub(crate) fn cut(&mut self, now: Instant) -> Duration {
        self.grace.cut(now);
        self.grace.length
    }

    /// The next attempt to reach the publisher, after a [cut](Self::cut) or another attempt that came to nothing; `None` if the
    /// link is to be given up.
    pub(crate) fn reach(&mut self, now: Instant) -> Option<Reach> {
        let until = self.grace.ends().filter(|ends| now < *ends)?;
        let begins = now + self.pauses.lost(now);
        let ends = begins + self.patience;
        // Where packets are lost, a short attempt hardly ever succeeds.
        self.patience = (self.patience * 2).min(self.first_patience * LONGEST_PATIENCE);
        Some(Reach { begins: begins.min(until), ends: ends.min(until) })
    }

    /// The publisher says that it goes on. Returns for how long the link was cut off.
    pub(crate) fn resumed(&mut self, now: Instant) -> Option<Duration> {
        self.pauses.goes_on(|| now);
        self.grace.resumed(now)
    }

    /// Whether the publisher has yet to say that it goes on.
    pub(crate) fn is_cut(&self) -> bool {
        self.grace.cut_at.is_some()
    }

    /// For how long it has been cut off.
    pub(crate) fn cut_for(&self, now: Instant) -> Option<Duration> {
        self.grace.cut_at.map(|cut_at| now.saturating_duration_since(cut_at))
    }

    /// How long the link may be cut off.
    pub(crate) fn grace(&self) -> Duration {
        self.grace.length
    }
}

/// How long a link that was cut off may still go on: from the first cut on, however often it is reconnected, until the other
/// end says that it goes on.
#[derive(Debug)]
struct Grace {
    length: Duration,
    cut_at: Option<Instant>,
}

impl Grace {
    const fn new(length: Duration) -> Self {
        Self { length, cut_at: None }
    }

    fn cut(&mut self, now: Instant) {
        if bug!(GraceAnew) {
            self.cut_at = None;
        }
        self.cut_at.get_or_insert(now);
    }

    fn resumed(&mut self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.cut_at.take()?))
    }

    fn ends(&self) -> Option<Instant> {
        self.cut_at.map(|cut_at| cut_at + self.length)
    }
}

/// Notices when nothing has happened for a while: after 0.25 s, 0.5 s, 1 s and so on, and then every 30 s; and every 0.25 s
/// while nothing at all comes on the connection.
#[derive(Debug)]
struct Idle {
    /// The end of the present pause.
    due: Instant,
    pause: Duration,
    /// Something has happened in it.
    is_busy: bool,
    /// How many datagrams had come at the end of the last pause.
    heard: u64,
}

impl Idle {
    fn new(now: Instant) -> Self {
        Self { due: now + FIRST_IDLE, pause: FIRST_IDLE, is_busy: false, heard: 0 }
    }

    /// The pause is over: whether nothing has happened in it, or nothing was heard of the peer.
    fn begin_next(&mut self, now: Instant, heard: u64) -> bool {
        let was_busy = std::mem::take(&mut self.is_busy);
        let is_silent = std::mem::replace(&mut self.heard, heard) == heard;
        self.pause = match (is_silent, was_busy) {
            (true, _) => SILENT,
            (false, true) => FIRST_IDLE,
            (false, false) => (self.pause * 2).min(LAST_IDLE),
        };
        self.due = now + self.pause;
        is_silent || !was_busy
    }
}

/// The first attempt to reach the publisher again may take so many round trips, but so long at least; later ones up to four
/// times as long.
const ROUND_TRIPS: u32 = 8;
const SHORTEST_PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PATIENCE: u32 = 4;
/// Before the second attempt, and before the last ones; the first is at once, unless the link had only just gone on.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// After so long without a word, what is wanted is said again.
const FIRST_IDLE: Duration = SILENT;
const LAST_IDLE: Duration = Duration::from_secs(30);
/// While nothing is heard of the peer, it is said so often: a node that was killed and started again answers that it knows of
/// no such connection, and QUIC's own probes come ever more seldom.
const SILENT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::pipes::Random;

    const GRACE: Duration = Duration::from_secs(30);

    fn timers() -> (Timers, impl Fn(u64) -> Instant) {
        let now = Instant::now();
        (Timers::new(GRACE, Duration::from_millis(1), now), move |at| now + Duration::from_millis(at))
    }

    #[test]
    fn what_is_wanted_is_said_again_ever_more_seldom_unless_nothing_is_heard() {
        let (mut timers, _) = timers();
        let said = [(false, 1), (false, 2), (false, 2), (true, 2), (false, 3), (true, 4), (false, 5)].map(
            |(is_busy, heard)| {
                if is_busy {
                    timers.interrupt();
                }
                let now = timers.poll_timeout();
                let due = timers.handle_timeout(now, heard);
                ((timers.poll_timeout() - now).as_millis(), due == Some(Due::Restate))
            },
        );
        let silent = (250, true);
        assert_eq!(said, [(500, true), (1000, true), silent, silent, (500, true), (250, false), (500, true)]);
    }

    #[test]
    fn the_grace_does_not_begin_anew_at_each_reconnect() {
        let (mut timers, at) = timers();
        timers.cut(at(0));
        assert!(timers.reach(at(0)).is_some());
        // Connected again, and cut off again before the other end has said anything.
        timers.carried(at(20_000));
        timers.cut(at(20_500));
        assert_eq!(timers.cut_for(at(25_000)), Some(Duration::from_secs(25)));
        timers.carried(at(29_900));
        assert_eq!((timers.poll_timeout(), timers.handle_timeout(at(30_000), 1)), (at(30_000), Some(Due::GiveUp)));
        assert_eq!(timers.reach(at(30_000)), None);
        // It goes on: what comes after that is another cut.
        assert_eq!(timers.resumed(at(26_000)), Some(Duration::from_secs(26)));
        assert!(!timers.is_cut());
        timers.cut(at(40_000));
        assert!(timers.reach(at(69_999)).is_some() && timers.reach(at(70_000)).is_none());
    }

    #[test]
    fn an_attempt_takes_ever_longer_and_none_goes_beyond_the_grace() {
        let (mut timers, at) = timers();
        timers.cut(at(0));
        let mut now = at(0);
        let mut attempts = Vec::new();
        while let Some(Reach { begins, ends }) = timers.reach(now) {
            attempts.push(((begins - at(0)).as_millis(), (ends - at(0)).as_millis()));
            now = ends;
        }
        assert_eq!(attempts[..4], [(0, 1000), (1050, 3050), (3150, 7150), (7350, 11_350)]);
        assert_eq!(attempts.last(), Some(&(28_600, 30_000)));
    }

    /// Cuts, answers and silence as a seed has them: whatever happens, and in which order.
    #[test]
    fn whatever_happens_nothing_is_due_too_late_and_nothing_too_often() {
        let mut seen = (0, 0, 0);
        for seed in 0..500 {
            let (mut timers, at) = timers();
            let (mut random, mut now, mut heard, mut cut_since) = (Random(seed), at(0), 0, None::<Instant>);
            let mut attempts = Vec::new();
            for _ in 0..200 {
                // A stream carries the link until it is cut, and the publisher answers, or does not.
                timers.carried(now);
                let cut = now + up_to(&mut random, 3000);
                // One of four publishers is gone for good.
                let answers = (seed % 4 != 0 && random.below(2) == 0)
                    .then(|| now + up_to(&mut random, 500))
                    .filter(|at| *at < cut);
                loop {
                    let due = timers.poll_timeout();
                    assert!(due <= now + LAST_IDLE && cut_since.is_none_or(|since| due <= since + GRACE));
                    if let Some(answers) = answers.filter(|at| cut_since.is_some() && *at <= due) {
                        now = now.max(answers);
                        assert_eq!(timers.resumed(now), cut_since.take().map(|since| now - since));
                        attempts.clear();
                        continue;
                    }
                    if due >= cut {
                        break;
                    }
                    now = now.max(due);
                    heard += random.below(2);
                    match timers.handle_timeout(now, heard) {
                        Some(Due::GiveUp) => break,
                        Some(Due::Restate) => seen.0 += 1,
                        None => {}
                    }
                }
                if cut_since.is_some_and(|since| since + GRACE <= now) {
                    seen.2 += 1;
                    break;
                }
                now = now.max(cut);
                timers.cut(now);
                let since = *cut_since.get_or_insert(now);
                // Most attempts come to nothing, soon.
                let is_reached = loop {
                    let Some(reach) = timers.reach(now) else { break false };
                    assert!(now <= reach.begins && reach.begins <= reach.ends, "seed {seed}: {reach:?}");
                    assert!(reach.begins <= now + LAST_PAUSE && reach.ends <= since + GRACE, "seed {seed}: {reach:?}");
                    attempts.push(reach.begins);
                    // Nobody is dialled more often than eight times in a second.
                    let last_second = attempts.iter().filter(|begun| **begun + Duration::from_secs(1) > reach.begins);
                    assert!(last_second.count() <= 8, "seed {seed}: {attempts:?}");
                    seen.1 += 1;
                    now = reach.begins + up_to(&mut random, 20).min(reach.ends - reach.begins);
                    if random.below(4) == 0 {
                        break true;
                    }
                };
                if !is_reached {
                    assert!(since + GRACE <= now, "seed {seed}: given up too early");
                    seen.2 += 1;
                    break;
                }
            }
        }
        assert!(seen.0 > 10_000 && seen.1 > 10_000 && seen.2 > 100, "{seen:?}");
    }

    fn up_to(random: &mut Random, millis: u64) -> Duration {
        Duration::from_millis(random.below(millis))
    }
}
