//! [`Silence`]: when a peer of which nothing is heard may be gone. Pure.
//!
//! A peer that lives sends a sign of life on an idle connection, so that something is heard in any such interval. One that is
//! late is nothing yet. After two of them the machine at the other end is asked whether a process is still there.

/// What was heard of a peer, looked at once in each interval between two signs of life.
#[derive(Debug)]
pub(crate) struct Silence {
    /// In all.
    heard: u64,
    /// How many intervals have passed since it grew.
    intervals: u32,
}

impl Silence {
    /// So many packets have come so far.
    pub(crate) const fn new(heard: u64) -> Self {
        Self { heard, intervals: 0 }
    }

    /// Another interval has passed, and so many packets have come in all. Whether it is to be asked if the peer is there.
    pub(crate) const fn look(&mut self, heard: u64) -> bool {
        self.intervals = if heard == self.heard { self.intervals.saturating_add(1) } else { 0 };
        self.heard = heard;
        self.intervals >= MISSED
    }
}

/// After so many signs of life that did not come.
const MISSED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_heard_between_two_looks_is_not_asked_for() {
        let mut silence = Silence::new(3);
        assert!((4..100).all(|heard| !silence.look(heard)));
        assert!(!silence.look(99), "one sign of life is late");
        assert!(!silence.look(100) && !silence.look(100));
    }

    #[test]
    fn a_silent_peer_is_asked_for_again_and_again_until_it_is_heard() {
        let mut silence = Silence::new(3);
        assert_eq!([3, 3, 3, 3].map(|heard| silence.look(heard)), [false, true, true, true]);
        assert_eq!([4, 4, 4].map(|heard| silence.look(heard)), [false, false, true]);
    }
}
