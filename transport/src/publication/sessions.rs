//! [`Sessions`]: the links that a node publishes and that can go on over another connection.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::connection::Offences;
use crate::connection::{CLOSE_GIVEN_UP, FrameStream};
use crate::frame::{Resume, Session};

/// Finds the link that a subscriber resumes.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<Key, Arc<Entrance>>>);

/// A link of a peer. The peer is named by its certificate, so nobody else can resume it.
type Key = (String, Session);

/// Where a link waits for the next stream of its subscriber. It leaves the [`Sessions`] when it is dropped.
pub(crate) struct Door {
    sessions: Arc<Sessions>,
    key: Key,
    entrance: Arc<Entrance>,
}

/// A stream on which a subscriber goes on.
pub(crate) struct Arrival {
    pub(crate) resume: Resume,
    pub(crate) stream: FrameStream,
    /// What its node has done wrong on the connection.
    pub(crate) offences: Arc<Offences>,
}

struct Entrance {
    state: Mutex<State>,
    /// Told when there is something here.
    knock: Arc<Notify>,
}

#[derive(Default)]
struct State {
    arrival: Option<Arrival>,
    is_abandoned: bool,
}

impl Sessions {
    /// Makes a link known. `None` if the peer has `bound` of them already, or one of that name: the new one will not
    /// survive its connection. Links of an earlier start of the peer are abandoned, as nobody will resume them.
    pub(crate) fn open(
        self: &Arc<Self>,
        peer: &str,
        session: Session,
        bound: usize,
        knock: &Arc<Notify>,
    ) -> Option<Door> {
        self.abandon_before(peer, session.incarnation);
        let key = (peer.to_owned(), session);
        let mut all = self.lock();
        if all.contains_key(&key) || all.range(of_peer(peer)).count() >= bound {
            return None;
        }
        let entrance = Arc::new(Entrance { state: Mutex::default(), knock: Arc::clone(knock) });
        all.insert(key.clone(), Arc::clone(&entrance));
        Some(Door { sessions: Arc::clone(self), key, entrance })
    }

    /// Abandons the links of earlier starts of a peer.
    pub(crate) fn abandon_before(&self, peer: &str, incarnation: u64) {
        for ((_, session), entrance) in self.lock().range(of_peer(peer)) {
            if session.incarnation < incarnation {
                entrance.update(|state| state.is_abandoned = true);
            }
        }
    }

    /// Abandons the links of a peer.
    pub(crate) fn abandon(&self, peer: &str) {
        for (_, entrance) in self.lock().range(of_peer(peer)) {
            entrance.update(|state| state.is_abandoned = true);
        }
    }

    /// Hands a stream to the link that it resumes, or back if there is no such link.
    pub(crate) fn resume(&self, peer: &str, arrival: Arrival) -> Option<Arrival> {
        let all = self.lock();
        let Some(entrance) = all.get(&(peer.to_owned(), arrival.resume.session)) else { return Some(arrival) };
        entrance.update(|state| match &mut state.arrival {
            // It overtook one that is older.
            Some(waiting) if waiting.resume.epoch >= arrival.resume.epoch => reset(arrival),
            waiting => {
                if let Some(older) = waiting.replace(arrival) {
                    reset(older);
                }
            }
        });
        None
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Entrance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door {
    /// The stream that has come, if there is one.
    pub(crate) fn take(&self) -> Option<Arrival> {
        self.entrance.lock().arrival.take()
    }

    /// Whether nobody will come any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.entrance.lock().is_abandoned
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.key);
        if let Some(arrival) = self.take() {
            reset(arrival);
        }
    }
}

impl Entrance {
    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.knock.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All links of a peer.
fn of_peer(peer: &str) -> RangeInclusive<Key> {
    let first = Session { incarnation: 0, number: 0 };
    let last = Session { incarnation: u64::MAX, number: u64::MAX };
    (peer.to_owned(), first)..=(peer.to_owned(), last)
}

fn reset(mut arrival: Arrival) {
    arrival.stream.reset(CLOSE_GIVEN_UP);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(incarnation: u64, number: u64) -> Session {
        Session { incarnation, number }
    }

    #[test]
    fn a_peer_has_so_many_links_and_each_once() {
        let (sessions, knock) = (Arc::new(Sessions::default()), Arc::default());
        let open = |peer, number| sessions.open(peer, session(1, number), 2, &knock);
        let first = open("a", 1);
        assert!(first.is_some() && open("a", 1).is_none());
        let second = open("a", 2);
        assert!(second.is_some() && open("a", 3).is_none());
        let other = open("b", 3);
        assert!(other.is_some());
        drop(first);
        assert!(open("a", 3).is_some());
    }

    #[test]
    fn a_peer_that_has_started_again_abandons_its_links() {
        let (sessions, knock) = (Arc::new(Sessions::default()), Arc::default());
        let open = |peer, incarnation| sessions.open(peer, session(incarnation, 1), 9, &knock).unwrap();
        let (old, other) = (open("a", 1), open("b", 1));
        let new = open("a", 2);
        assert_eq!([old, other, new].map(|door| door.is_abandoned()), [true, false, false]);
    }
}
