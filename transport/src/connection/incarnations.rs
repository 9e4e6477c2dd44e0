//! [`Incarnations`]: which start of each other node is the last one that was seen.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bugs::bug;

/// The last start of every node that is connected, or was lately. `C` stands for a connection.
///
/// A process that was replaced, and does not know it (it was stopped, or cut off), must not come back beside its
/// successor. Several connections of one incarnation are fine: two nodes may each dial the other, and each uses the one it
/// dialled.
#[derive(Debug)]
pub(crate) struct Incarnations<C> {
    nodes: BTreeMap<String, Known<C>>,
    /// How many nodes without a connection are remembered.
    bound: usize,
    next: u64,
}

#[derive(Debug)]
struct Known<C> {
    incarnation: u64,
    /// By the number they were given.
    connections: BTreeMap<u64, (Way, C)>,
    /// When the last of them ended. `None` while there is one.
    gone: Option<Instant>,
}

/// Who has made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The other node: it may have so many.
    In { bound: usize },
    /// This one.
    Out,
}

/// What became of a connection that was let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entered<C> {
    /// What to [leave](Incarnations::leave) with.
    pub(crate) number: u64,
    /// Those of earlier incarnations, which are to be closed.
    pub(crate) superseded: Vec<C>,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotEntered {
    /// A later start of the node was seen.
    #[error(
        "incarnation {got} is superseded by incarnation {last}: a node of this name was started later, and each process needs \
         a name of its own"
    )]
    Superseded { got: u64, last: u64 },
    /// The node has enough of them.
    #[error("expected at most {bound} connections of one node at a time, got one more")]
    TooMany { bound: usize },
}

aqueduct_stage::debug_as_sentence!(NotEntered);

impl<C> Incarnations<C> {
    pub(crate) fn new() -> Self {
        Self { nodes: BTreeMap::new(), bound: MAX_REMEMBERED, next: 0 }
    }

    /// Lets a connection of `node` in, unless a later incarnation of it is known, or it has made as many as it may.
    pub(crate) fn enter(
        &mut self,
        node: &str,
        incarnation: u64,
        (way, connection): (Way, C),
        now: Instant,
    ) -> Result<Entered<C>, NotEntered> {
        self.forget(now);
        let of_others = if bug!(ShareOfAllNodes) { self.made_by_others(node) } else { 0 };
        let fresh = || Known { incarnation, connections: BTreeMap::new(), gone: None };
        let known = self.nodes.entry(node.to_owned()).or_insert_with(fresh);
        if incarnation < known.incarnation {
            return Err(NotEntered::Superseded { got: incarnation, last: known.incarnation });
        }
        let mut superseded = Vec::new();
        if incarnation > known.incarnation {
            let replaced = std::mem::replace(known, fresh()).connections;
            superseded.extend(replaced.into_values().map(|(_, connection)| connection));
        }
        if let Way::In { bound } = way
            && known.made() + of_others >= bound
        {
            return Err(NotEntered::TooMany { bound });
        }
        let number = self.next;
        self.next += 1;
        known.gone = None;
        known.connections.insert(number, (way, connection));
        Ok(Entered { number, superseded })
    }

    /// A connection has ended. One that was superseded counts no more.
    pub(crate) fn leave(&mut self, node: &str, number: u64, now: Instant) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        if known.connections.remove(&number).is_some() && known.connections.is_empty() {
            known.gone = Some(now);
        }
        self.forget(now);
    }

    /// The connections of a node, in both directions.
    pub(crate) fn of(&self, node: &str) -> impl Iterator<Item = &C> {
        self.nodes.get(node).into_iter().flat_map(|known| known.connections.values().map(|(_, connection)| connection))
    }

    /// How many connections all other nodes have made.
    fn made_by_others(&self, node: &str) -> usize {
        self.nodes.iter().filter(|(name, _)| *name != node).map(|(_, known)| known.made()).sum()
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |gone: Instant| now.saturating_duration_since(gone) >= MEMORY;
        self.nodes.retain(|_, known| !known.gone.is_some_and(is_old));
        let gone = |known: &Known<C>| known.gone.is_some();
        while self.nodes.values().filter(|known| gone(known)).count() > self.bound {
            let longest = self.nodes.iter().filter(|(_, known)| gone(known)).min_by_key(|(_, known)| known.gone);
            let Some(name) = longest.map(|(name, _)| name.clone()) else { return };
            self.nodes.remove(&name);
        }
    }
}

impl<C> Known<C> {
    /// How many connections the node has made.
    fn made(&self) -> usize {
        self.connections.values().filter(|(way, _)| *way != Way::Out).count()
    }
}

/// How many nodes that are gone are remembered. Each is a name and some numbers; there may be as many more as there may be
/// connections.
const MAX_REMEMBERED: usize = 1024;
/// How long a node that is gone is remembered: much longer than a link waits for it, and not so long that a machine whose
/// clock was put back (incarnations are start times) stays out for ever.
const MEMORY: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnations() -> (Incarnations<&'static str>, Instant) {
        (Incarnations { bound: 2, ..Incarnations::new() }, Instant::now())
    }

    #[test]
    fn two_connections_of_one_incarnation_are_fine() {
        let (mut all, now) = incarnations();
        assert!(all.enter("a", 5, (Way::Out, "dialled"), now).unwrap().superseded.is_empty());
        assert!(all.enter("a", 5, (Way::Out, "accepted"), now).unwrap().superseded.is_empty());
    }

    #[test]
    fn a_later_incarnation_replaces_all_connections_and_an_earlier_one_is_refused() {
        let (mut all, now) = incarnations();
        let old = all.enter("a", 5, (Way::Out, "dialled"), now).unwrap().number;
        all.enter("a", 5, (Way::Out, "accepted"), now).unwrap();
        all.enter("b", 1, (Way::Out, "other"), now).unwrap();
        assert_eq!(all.enter("a", 6, (Way::Out, "new"), now).unwrap().superseded, ["dialled", "accepted"]);
        let error = all.enter("a", 5, (Way::Out, "again"), now).unwrap_err();
        assert!(error.to_string().starts_with("incarnation 5 is superseded by incarnation 6: "));
        // The end of what was replaced does not count for what replaced it.
        all.leave("a", old, now);
        assert_eq!(all.enter("a", 7, (Way::Out, "newer"), now).unwrap().superseded, ["new"]);
    }

    #[test]
    fn a_node_makes_so_many_connections_and_a_start_of_it_makes_room() {
        let (mut all, now) = incarnations();
        let way = Way::In { bound: 2 };
        let first = all.enter("a", 5, (way, "first"), now).unwrap().number;
        all.enter("a", 5, (way, "second"), now).unwrap();
        assert_eq!(all.enter("a", 5, (way, "third"), now), Err(NotEntered::TooMany { bound: 2 }));
        all.enter("a", 5, (Way::Out, "ours"), now).unwrap();
        all.enter("b", 5, (way, "of another"), now).unwrap();
        all.leave("a", first, now);
        all.enter("a", 5, (way, "third"), now).unwrap();
        assert_eq!(all.enter("a", 6, (way, "restarted"), now).unwrap().superseded, ["second", "ours", "third"]);
    }

    #[test]
    fn what_is_gone_is_remembered_for_a_while() {
        let (mut all, now) = incarnations();
        let number = all.enter("a", 5, (Way::Out, "old"), now).unwrap().number;
        all.leave("a", number, now);
        assert!(all.enter("a", 4, (Way::Out, "older"), now + MEMORY - Duration::from_secs(1)).is_err());
        assert!(all.enter("a", 4, (Way::Out, "older"), now + MEMORY).is_ok());
    }

    #[test]
    fn only_so_many_that_are_gone_are_remembered_and_those_that_are_here_always() {
        let (mut all, now) = incarnations();
        all.enter("here", 5, (Way::Out, "here"), now).unwrap();
        for (second, name) in ["a", "b", "c"].into_iter().enumerate() {
            let at = now + Duration::from_secs(second as u64);
            let number = all.enter(name, 5, (Way::Out, name), at).unwrap().number;
            all.leave(name, number, at);
        }
        let mut is_known = |name| all.enter(name, 4, (Way::Out, name), now + Duration::from_secs(9)).is_err();
        assert_eq!(["here", "b", "c", "a"].map(&mut is_known), [true, true, true, false]);
    }
}
