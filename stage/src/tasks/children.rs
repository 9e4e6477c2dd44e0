//! [`Children`]: which children a supervisor has, what the end of one means, and what demand that returns. Pure.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use aqueduct_dispatcher::{SubscriptionId, Window};
use tokio::time::Instant;

use super::child::{ChildCounts, ChildId, ChildInfo, ChildNotFound, ChildState, Shutdown};
use crate::restart::Restarts;
use crate::{Backoff, Exit, Failure, Intensity, Restart};

/// What a supervisor holds to, over all of its children.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How many restarts are borne, over all children; any number without.
    pub(crate) intensity: Option<Intensity>,
    /// How often one child is started in all; any number of times without.
    pub(crate) max_attempts: Option<NonZeroU32>,
    pub(crate) backoff: Backoff,
    pub(crate) max_children: usize,
}

/// What is to be done with one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) restart: Restart,
    pub(crate) shutdown: Shutdown,
}

/// The children of one supervisor.
///
/// A child is here from its start until it is gone for good: while it waits for a restart and while it is told to end it
/// counts, so that there are never more than the demand allowed. As it goes, and only then, it returns one event of
/// demand to the subscription it came through, if that still stands.
#[derive(Debug)]
pub(crate) struct Children {
    rules: Rules,
    slots: Vec<Option<Child>>,
    /// The slots without a child.
    free: Vec<u32>,
    feeds: BTreeMap<SubscriptionId, Feed>,
    restarts: Restarts,
    counts: ChildCounts,
    /// Why the first child failed that is gone.
    first_failure: Option<Failure>,
    /// Nothing is started any more, or started again.
    closed: bool,
    /// There were more restarts than are borne.
    given_up: bool,
}

#[derive(Debug)]
struct Child {
    id: ChildId,
    spec: Spec,
    from: Option<SubscriptionId>,
    state: ChildState,
    /// How often it was started, and is to be.
    attempts: u32,
}

impl Child {
    /// Whether it is to be started again when it ends like this, if that is borne.
    fn returns(&self, ended: &Ended) -> bool {
        self.state != ChildState::Stopping
            && match ended {
                Ended::Done => self.spec.restart == Restart::Permanent,
                Ended::Failed(failure) => self.spec.restart.applies_to(&Exit::Failed(failure.clone())),
                // What could never be started is not tried again: its own account would not bring it further.
                Ended::NotStarted(_) => self.state != ChildState::Active,
                Ended::Killed => false,
            }
    }
}

/// The demand of one subscription.
#[derive(Debug)]
struct Feed {
    /// Demand is asked for again when so much of it was returned.
    threshold: usize,
    returned: usize,
}

/// How a child has ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// By itself, with success.
    Done,
    /// By itself, with an error or a panic.
    Failed(Failure),
    /// It could not even be started.
    NotStarted(Failure),
    /// It was dropped.
    Killed,
}

/// What the end of a child means.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// It is gone. With `true` there is demand to be [asked for](Children::returned) again.
    Gone(bool),
    /// It is to be started again, after so long.
    Restart(Duration),
    /// It is gone, and the supervisor gives up: all others are to [end](Children::close).
    GiveUp,
}

impl Children {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            slots: Vec::new(),
            free: Vec::new(),
            feeds: BTreeMap::new(),
            restarts: Restarts::default(),
            counts: ChildCounts::default(),
            first_failure: None,
            closed: false,
            given_up: false,
        }
    }

    /// Takes in a subscription. What to ask of it first is its `max`.
    pub(crate) fn subscribe(&mut self, id: SubscriptionId, window: Window) {
        self.feeds.insert(id, Feed { threshold: window.min().as_len().max(1), returned: 0 });
    }

    /// A subscription has ended. Its children go on, and return nothing as they end.
    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        self.feeds.remove(&id);
    }

    /// Takes in a child that came through a subscription, or through none. `None` if nothing is started any more.
    pub(crate) fn start(&mut self, spec: Spec, from: Option<SubscriptionId>) -> Option<ChildId> {
        if self.closed {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("there is no memory for so many children")
        });
        self.counts.started += 1;
        self.counts.specs += 1;
        let id = ChildId { number: self.counts.started, slot };
        self.slots[slot as usize] = Some(Child { id, spec, from, state: ChildState::Active, attempts: 1 });
        Some(id)
    }

    /// Whether there are as many children as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.counts.specs >= self.rules.max_children
    }

    /// A child that was to be started again runs.
    pub(crate) fn restarted(&mut self, id: ChildId) {
        if let Some(child) = self.child(id)
            && child.state == ChildState::Restarting
        {
            child.state = ChildState::Active;
        }
    }

    /// A child has ended. `now` is read only where a restart is counted, `entropy` where there is a wait before it.
    pub(crate) fn ended(
        &mut self,
        id: ChildId,
        ended: Ended,
        now: impl FnOnce() -> Instant,
        entropy: impl FnOnce() -> u64,
    ) -> Next {
        let (closed, Rules { intensity, max_attempts, backoff, .. }) = (self.closed, self.rules);
        let Some(child) = self.child(id) else {
            debug_assert!(false, "child {id} ends twice");
            return Next::Gone(false);
        };
        let is_left = max_attempts.is_none_or(|max| child.attempts < max.get());
        if !closed && is_left && child.returns(&ended) {
            child.state = ChildState::Restarting;
            // The wait grows with the failures of this one where those are counted, else with those of all.
            let own = child.attempts as usize;
            child.attempts = child.attempts.saturating_add(1);
            let number = match intensity {
                Some(intensity) => self.restarts.count(intensity, now()),
                None => Some(own),
            };
            if let Some(number) = number {
                let number = if max_attempts.is_some() { own } else { number };
                self.counts.restarts += 1;
                let delay = if backoff == Backoff::NONE { Duration::ZERO } else { backoff.delay(number, entropy()) };
                return Next::Restart(delay);
            }
            (self.closed, self.given_up) = (true, true);
            self.gone(id, ended);
            return Next::GiveUp;
        }
        Next::Gone(self.gone(id, ended))
    }

    /// Whether a child that fails like this is not started again because it has been often enough, or cannot be: then it
    /// is known how often it was.
    pub(crate) fn dies(&mut self, id: ChildId, ended: &Ended) -> Option<u32> {
        let (closed, max_attempts) = (self.closed, self.rules.max_attempts);
        let child = self.child(id).filter(|child| !closed && child.state != ChildState::Stopping)?;
        let is_left = max_attempts.is_none_or(|max| child.attempts < max.get());
        let failed = matches!(ended, Ended::Failed(_) | Ended::NotStarted(_));
        (failed && !(is_left && child.returns(ended))).then_some(child.attempts)
    }

    /// Takes a child off the books. Returns whether there is demand to be asked for.
    fn gone(&mut self, id: ChildId, ended: Ended) -> bool {
        let Some(child) = self.slots[id.slot as usize].take() else { return false };
        self.free.push(id.slot);
        self.counts.specs -= 1;
        match ended {
            Ended::Done => {}
            // It was told to end, and did.
            Ended::Failed(_) if child.state == ChildState::Stopping => {}
            Ended::Failed(failure) | Ended::NotStarted(failure) => {
                self.counts.failed += 1;
                self.first_failure.get_or_insert(failure);
            }
            Ended::Killed => self.counts.killed += 1,
        }
        let Some(feed) = child.from.and_then(|from| self.feeds.get_mut(&from)) else { return false };
        feed.returned += 1;
        feed.returned >= feed.threshold
    }

    /// A child is to end. Returns how long it is given.
    pub(crate) fn terminate(&mut self, id: ChildId) -> Result<Shutdown, ChildNotFound> {
        let child = self.child(id).ok_or(ChildNotFound(id))?;
        child.state = ChildState::Stopping;
        Ok(child.spec.shutdown)
    }

    /// All children are to end, and no other is started. Returns how long each is given; nothing for those that were
    /// told before.
    pub(crate) fn close(&mut self) -> Vec<(ChildId, Shutdown)> {
        self.closed = true;
        let told = self.slots.iter_mut().flatten().filter(|child| child.state != ChildState::Stopping);
        let mut told: Vec<_> = told
            .map(|child| {
                child.state = ChildState::Stopping;
                (child.id, child.spec.shutdown)
            })
            .collect();
        told.sort_unstable_by_key(|(id, _)| *id);
        told
    }

    /// The subscriptions that have had enough demand returned, and how much: it is to be asked for again now.
    pub(crate) fn returned(&mut self) -> impl Iterator<Item = (SubscriptionId, usize)> {
        let feeds = self.feeds.iter_mut().filter(|(_, feed)| feed.returned >= feed.threshold);
        feeds.map(|(id, feed)| (*id, std::mem::take(&mut feed.returned)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.specs == 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up
    }

    pub(crate) fn counts(&self) -> ChildCounts {
        let waiting = self.slots.iter().flatten().filter(|child| child.state == ChildState::Restarting).count();
        let specs = self.counts.specs;
        ChildCounts { active: specs - waiting, workers: specs, ..self.counts }
    }

    /// All children, in the order in which they were started.
    pub(crate) fn which(&self) -> Vec<ChildInfo> {
        let mut children: Vec<_> =
            self.slots.iter().flatten().map(|Child { id, state, .. }| ChildInfo { id: *id, state: *state }).collect();
        children.sort_unstable_by_key(|child| child.id);
        children
    }

    /// Why the first child failed that is gone.
    pub(crate) fn first_failure(&self) -> Option<&Failure> {
        self.first_failure.as_ref()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    fn child(&mut self, id: ChildId) -> Option<&mut Child> {
        self.slots.get_mut(id.slot as usize)?.as_mut().filter(|child| child.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureKind;

    const TEMPORARY: Spec = Spec { restart: Restart::Temporary, shutdown: Shutdown::Kill };
    const TRANSIENT: Spec = Spec { restart: Restart::Transient, shutdown: Shutdown::Unlimited };

    fn children(max_restarts: usize) -> Children {
        let intensity = Some(Intensity::new(max_restarts, Duration::from_secs(5)));
        Children::new(Rules { intensity, max_attempts: None, backoff: Backoff::NONE, max_children: usize::MAX })
    }

    fn boom() -> Ended {
        Ended::Failed(Failure::new("child", FailureKind::Error, "boom"))
    }

    fn end(children: &mut Children, id: ChildId, ended: Ended) -> Next {
        children.ended(id, ended, Instant::now, || 0)
    }

    fn asks(children: &mut Children) -> Vec<usize> {
        children.returned().map(|(_, events)| events).collect()
    }

    #[test]
    fn demand_is_asked_for_again_when_min_of_it_was_returned() {
        let (mut children, feed) = (children(0), SubscriptionId::new());
        children.subscribe(feed, Window::new(2, 3).expect("a window"));
        let ids: Vec<_> = (0..3).map(|_| children.start(TEMPORARY, Some(feed)).expect("open")).collect();
        assert!(matches!(end(&mut children, ids[1], Ended::Done), Next::Gone(false)));
        assert_eq!(asks(&mut children), []);
        assert!(matches!(end(&mut children, ids[0], boom()), Next::Gone(true)), "a failure returns it too");
        assert_eq!(asks(&mut children), [2]);
        assert!(matches!(end(&mut children, ids[2], Ended::Killed), Next::Gone(false)), "counted from 0 again");
    }

    #[test]
    fn with_a_min_of_0_each_end_is_answered() {
        let (mut children, feed) = (children(0), SubscriptionId::new());
        children.subscribe(feed, Window::new(0, 3).expect("a window"));
        assert_eq!(asks(&mut children), [], "nothing has ended");
        let id = children.start(TEMPORARY, Some(feed)).expect("open");
        assert!(matches!(end(&mut children, id, Ended::Done), Next::Gone(true)));
        assert_eq!(asks(&mut children), [1]);
    }

    #[test]
    fn a_child_that_restarts_keeps_its_demand() {
        let (mut children, feed) = (children(2), SubscriptionId::new());
        children.subscribe(feed, Window::new(0, 1).expect("a window"));
        let id = children.start(TRANSIENT, Some(feed)).expect("open");
        assert!(matches!(end(&mut children, id, boom()), Next::Restart(Duration::ZERO)));
        assert_eq!((children.counts().workers, children.counts().active, asks(&mut children)), (1, 0, vec![]));
        children.restarted(id);
        assert_eq!((children.counts().workers, children.counts().active), (1, 1));
        assert!(matches!(end(&mut children, id, Ended::Done), Next::Gone(true)));
        assert_eq!(asks(&mut children), [1]);
    }

    #[test]
    fn a_start_that_fails_is_tried_again_only_in_a_restart() {
        let mut children = children(2);
        let not_started = || Ended::NotStarted(Failure::new("child", FailureKind::Panic, "no"));
        let id = children.start(TRANSIENT, None).expect("open");
        assert!(matches!(end(&mut children, id, not_started()), Next::Gone(false)));
        let id = children.start(TRANSIENT, None).expect("open");
        assert!(matches!(end(&mut children, id, boom()), Next::Restart(_)));
        assert!(matches!(end(&mut children, id, not_started()), Next::Restart(_)));
        assert_eq!(children.which()[0].state, ChildState::Restarting);
        assert!(matches!(end(&mut children, id, not_started()), Next::GiveUp), "each try counts");
        assert!(children.start(TEMPORARY, None).is_none());
    }

    #[test]
    fn a_child_that_was_started_often_enough_dies_and_the_others_do_not() {
        let max_attempts = NonZeroU32::new(3);
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
        let rules = Rules { intensity: None, max_attempts, backoff, max_children: usize::MAX };
        let mut children = Children::new(rules);
        for _ in 0..100 {
            let id = children.start(TRANSIENT, None).expect("open");
            for wait in [1, 2] {
                assert_eq!(children.dies(id, &boom()), None);
                let next = end(&mut children, id, boom());
                assert!(matches!(next, Next::Restart(delay) if delay == Duration::from_secs(wait)), "{next:?}");
                children.restarted(id);
            }
            assert_eq!((children.dies(id, &Ended::Done), children.dies(id, &boom())), (None, Some(3)));
            assert!(matches!(end(&mut children, id, boom()), Next::Gone(false)));
        }
        assert_eq!((children.counts().restarts, children.counts().failed, children.has_given_up()), (200, 100, false));
    }

    #[test]
    fn what_was_told_to_end_is_not_restarted() {
        let mut children = children(9);
        let (one, other) = (children.start(TRANSIENT, None), children.start(TRANSIENT, None));
        let (one, other) = (one.expect("open"), other.expect("open"));
        assert_eq!(children.terminate(one), Ok(Shutdown::Unlimited));
        assert!(matches!(end(&mut children, one, boom()), Next::Gone(false)));
        assert_eq!(children.terminate(one), Err(ChildNotFound(one)), "its slot is free, its id is not used again");
        assert_eq!(children.close(), [(other, Shutdown::Unlimited)]);
        assert_eq!(children.close(), []);
        assert!(matches!(end(&mut children, other, boom()), Next::Gone(false)));
        assert!(children.is_empty());
    }

    #[test]
    fn a_child_of_an_ended_subscription_returns_nothing() {
        let (mut children, feed) = (children(0), SubscriptionId::new());
        children.subscribe(feed, Window::new(0, 1).expect("a window"));
        let id = children.start(TEMPORARY, Some(feed)).expect("open");
        children.unsubscribe(feed);
        assert!(matches!(end(&mut children, id, Ended::Done), Next::Gone(false)));
        assert_eq!(asks(&mut children), []);
    }
}
