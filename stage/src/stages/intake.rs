//! [`Intake`]: the window of a stage that asks by itself. Pure.

use std::collections::BTreeMap;

use crate::{Edge, SubscriptionId, Window};

/// What a stage has asked of each of its producers and is not done with. It is asked for again by GenStage's rule: when
/// no more than `min` are left, up to `max`.
#[derive(Debug, Default)]
pub(super) struct Intake {
    edges: BTreeMap<SubscriptionId, Open>,
    /// Who was not given all it wanted the last time, and comes first now: so that scarce demand goes around.
    first: Option<SubscriptionId>,
}

#[derive(Debug)]
struct Open {
    window: Window,
    /// Asked for and not done with.
    left: usize,
}

impl Intake {
    /// A subscription was made.
    pub(super) fn opened(&mut self, edge: &Edge) {
        self.edges.insert(edge.id, Open { window: edge.window, left: 0 });
    }

    /// A subscription has ended.
    pub(super) fn ended(&mut self, id: SubscriptionId) {
        self.edges.remove(&id);
    }

    /// The stage is done with `events` of a subscription.
    pub(super) fn done(&mut self, id: SubscriptionId, events: usize) {
        if let Some(open) = self.edges.get_mut(&id) {
            // A producer may send more than it was asked for.
            open.left = open.left.saturating_sub(events);
        }
    }

    /// What to ask of whom; `allowed` says how many of those wanted.
    pub(super) fn asks(&mut self, mut allowed: impl FnMut(usize) -> usize, mut ask: impl FnMut(SubscriptionId, usize)) {
        let first = self.first.take();
        // With nobody to come first, they come in order.
        let (before, after): (Vec<_>, Vec<_>) =
            self.edges.iter_mut().partition(|(id, _)| first.is_some_and(|first| **id < first));
        for (id, open) in after.into_iter().chain(before) {
            if open.left <= open.window.min().as_len() {
                let wanted = open.window.max().as_len() - open.left;
                let count = allowed(wanted);
                open.left += count;
                if count < wanted {
                    self.first.get_or_insert(*id);
                }
                if count > 0 {
                    ask(*id, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cancel, Peer};

    fn opened(intake: &mut Intake, min: usize, max: usize) -> SubscriptionId {
        let (id, window) = (SubscriptionId::new(), Window::new(min, max).expect("a window"));
        intake.opened(&Edge { id, peer: Peer::Producer, window, cancel: Cancel::Permanent });
        id
    }

    fn asks(intake: &mut Intake, at_most: usize) -> Vec<(SubscriptionId, usize)> {
        let mut asks = Vec::new();
        intake.asks(|wanted| wanted.min(at_most), |id, count| asks.push((id, count)));
        asks
    }

    #[test]
    fn asks_at_min_for_as_many_as_reach_max() {
        let mut intake = Intake::default();
        let id = opened(&mut intake, 4, 10);
        assert_eq!(asks(&mut intake, 100), [(id, 10)]);
        intake.done(id, 5);
        assert_eq!(asks(&mut intake, 100), []);
        intake.done(id, 1);
        assert_eq!(asks(&mut intake, 100), [(id, 6)]);
        intake.done(id, 99);
        assert_eq!(asks(&mut intake, 100), [(id, 10)]);
    }

    #[test]
    fn what_was_not_allowed_is_wanted_still() {
        let mut intake = Intake::default();
        let id = opened(&mut intake, 4, 10);
        assert_eq!(asks(&mut intake, 3), [(id, 3)]);
        assert_eq!(asks(&mut intake, 3), [(id, 3)]);
        assert_eq!(asks(&mut intake, 3), []);
        intake.ended(id);
        intake.done(id, 6);
        assert_eq!(asks(&mut intake, 3), []);
    }

    #[test]
    fn who_was_given_nothing_comes_first_the_next_time() {
        let mut intake = Intake::default();
        let (one, two) = (opened(&mut intake, 1, 2), opened(&mut intake, 1, 2));
        let mut given = [0, 0];
        for _ in 0..20 {
            let mut left = 2;
            let mut asks = Vec::new();
            let take = |wanted: usize| {
                let count = wanted.min(left);
                left -= count;
                count
            };
            intake.asks(take, |id, count| asks.push((id, count)));
            for (id, count) in asks {
                intake.done(id, count);
                given[usize::from(id == two)] += count;
            }
        }
        assert_eq!((given, one < two), ([20, 20], true));
    }
}
