//! [`WaitingFor`]: what a stage waits for; and whether it waits in vain. Pure, but for the place where it is shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_dispatcher::{PartitionName, SubscriptionId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bugs::bug;
use crate::role::Role;

/// What a stage waits for, while it does.
///
/// [`Snapshot`](crate::Snapshot) shows it at any time. What only somebody can end who is not there is said aloud after
/// [a while](crate::Graph::patience): by a warning, and by the error of a graph in which nobody can come any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitingFor {
    /// Subscribers: it gives out nothing, and does not end, before so many more have come.
    Subscribers {
        /// How many.
        missing: usize,
    },
    /// The next subscriber: those that it had have left, and more may be emitted for the next.
    NextSubscriber,
    /// A consumer of one of its partitions, which has none: it cannot end, or give the others anything, before.
    Partition {
        /// Which.
        partition: PartitionName,
        /// How many events that partition holds.
        events: usize,
    },
    /// Somebody who has it [forward](crate::StageRef::set_demand) the demand that it accumulates.
    Forwarding,
    /// Its subscribers to ask for more.
    Demand {
        /// How many events it has for them.
        events: usize,
    },
    /// Its subscribers to have handled what they were given: what they do not handle is given to others.
    Handling,
    /// Somebody who subscribes it to a producer: it has none.
    Producers,
    /// A producer that it is being subscribed to.
    Subscription {
        /// What that is called.
        producer: Arc<str>,
    },
    /// Events from its producers.
    Events,
    /// Events of its own: it was asked for some, and has emitted none yet.
    Emission,
}

/// The two halves of a stage, each with what it waits for.
#[derive(Clone, Debug)]
pub(crate) struct Halves {
    pub(crate) role: Role,
    /// It handles and emits nothing more.
    pub(crate) is_exhausted: bool,
    /// Events have arrived and are not handled before somebody asks.
    pub(crate) has_arrivals: bool,
    /// Nothing where it has no output, or where that waits for nothing.
    pub(crate) downstream: Option<WaitingFor>,
    pub(crate) upstream: WaitingFor,
}

impl WaitingFor {
    /// What a whole stage waits for. What is missing comes first, as everything else may come of it.
    pub(crate) fn of(halves: Halves) -> Self {
        let Halves { role, is_exhausted, has_arrivals, downstream, upstream } = halves;
        match (downstream, upstream) {
            (Some(missing), _) if missing.needs_somebody() => missing,
            (downstream, _) if is_exhausted => downstream.unwrap_or(Self::Handling),
            (downstream, _) if role == Role::Producer => downstream.unwrap_or(Self::Emission),
            (_, missing) if missing.needs_somebody() => missing,
            (downstream, _) if has_arrivals => downstream.unwrap_or(Self::Demand { events: 0 }),
            (_, upstream) => upstream,
        }
    }

    /// Whether it is for somebody who is not there. Everything else comes by itself, sooner or later.
    pub(crate) fn needs_somebody(&self) -> bool {
        match self {
            Self::Subscribers { .. }
            | Self::Partition { .. }
            | Self::Forwarding
            | Self::Producers
            | Self::Subscription { .. } => true,
            Self::NextSubscriber | Self::Demand { .. } | Self::Handling | Self::Events | Self::Emission => false,
        }
    }

    /// Whether it is for a subscriber that is not there.
    fn needs_a_subscriber(&self) -> bool {
        matches!(self, Self::Subscribers { .. } | Self::Partition { .. })
    }

    /// Whether only another stage of the graph can end it, or a subscriber. The rest is done by the stage itself, by
    /// whoever has a reference to it, or by the network.
    fn depends_on_stages(&self) -> bool {
        match self {
            Self::Forwarding | Self::Subscription { .. } | Self::Emission => false,
            Self::Subscribers { .. }
            | Self::NextSubscriber
            | Self::Partition { .. }
            | Self::Demand { .. }
            | Self::Handling
            | Self::Producers
            | Self::Events => true,
        }
    }

    /// Whether it is for the same, although a number in it may have changed.
    fn continues(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Partition { partition: one, .. }, Self::Partition { partition: other, .. }) => one == other,
            (Self::Subscription { producer: one }, Self::Subscription { producer: other }) => one == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// Completes "the stage waits".
impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribers { missing: 1 } => f.write_str("for a subscriber"),
            Self::Subscribers { missing } => write!(f, "for {missing} more subscribers"),
            Self::NextSubscriber => f.write_str("for its next subscriber"),
            Self::Partition { partition, events } => {
                write!(f, "for a consumer of partition {partition}, which holds {events} events")
            }
            Self::Forwarding => f.write_str("for `set_demand` to forward the demand that it accumulates"),
            Self::Demand { events: 0 } => f.write_str("for its subscribers to ask"),
            Self::Demand { events } => write!(f, "for its subscribers to ask for {events} events"),
            Self::Handling => f.write_str("for its subscribers to have handled what they were given"),
            Self::Producers => f.write_str("to be subscribed to a producer"),
            Self::Subscription { producer } => write!(f, "for its subscription to {producer:?}"),
            Self::Events => f.write_str("for events from its producers"),
            Self::Emission => f.write_str("for events of its own"),
        }
    }
}

/// What is known of one stage of a graph that is being joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'a> {
    /// Nothing if it is at work, or may be started again.
    pub(crate) waits_for: Option<&'a WaitingFor>,
    /// It has waited for so long that this was said.
    pub(crate) is_overdue: bool,
    /// Somebody outside the graph is its neighbour, or may become one.
    pub(crate) is_reached_from_outside: bool,
}

/// Which stages wait in vain for a subscriber: those who could subscribe have ended or wait as well, all of them, and
/// nobody else can.
pub(crate) fn in_vain<'a>(stages: impl Iterator<Item = Standing<'a>> + Clone) -> Vec<usize> {
    let is_stuck = |stage: Standing<'_>| {
        !stage.is_reached_from_outside && stage.waits_for.is_some_and(WaitingFor::depends_on_stages)
    };
    if !stages.clone().all(is_stuck) {
        return Vec::new();
    }
    let lacks = |stage: &Standing<'_>| stage.is_overdue && stage.waits_for.is_some_and(WaitingFor::needs_a_subscriber);
    let stages = stages.filter(|_| !bug!(WaitsInSilence));
    stages.enumerate().filter(|(_, stage)| lacks(stage)).map(|(number, _)| number).collect()
}

/// The subscriptions of which only one end is in the graph. `edges` are the ends that its stages hold.
pub(crate) fn crossing(edges: impl Iterator<Item = SubscriptionId>) -> impl Fn(SubscriptionId) -> bool {
    let mut ends = BTreeMap::<SubscriptionId, usize>::new();
    edges.for_each(|id| *ends.entry(id).or_default() += 1);
    move |id| ends.get(&id) == Some(&1)
}

/// What a stage shows of its waiting. Written by its driver alone, whenever it begins to wait.
#[derive(Debug)]
pub(crate) struct Waits {
    now: Mutex<Option<Wait>>,
    /// Notified when what only somebody who is missing can end begins or is over.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Wait {
    what: WaitingFor,
    /// Since when it was for nothing else, whatever the stage did in between; only where somebody is missing.
    since: Option<Instant>,
    is_said: bool,
}

/// A wait of which somebody should hear.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It has lasted for too long, and is said for the first time.
    Now(WaitingFor),
    /// It was said.
    Said,
    /// It will have lasted for too long then.
    At(Instant),
}

impl Waits {
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self { now: Mutex::new(None), changed }
    }

    /// The stage waits.
    pub(crate) fn begin(&self, what: WaitingFor) {
        let mut now = self.lock();
        if let Some(wait) = &mut *now
            && wait.what.continues(&what)
        {
            wait.what = what;
            return;
        }
        let is_news = what.needs_somebody() || now.as_ref().is_some_and(|wait| wait.what.needs_somebody());
        let since = what.needs_somebody().then(Instant::now);
        *now = Some(Wait { what, since, is_said: false });
        drop(now);
        if is_news {
            self.changed.notify_one();
        }
    }

    /// The stage has ended.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    /// What it waits for, or waited for last.
    pub(crate) fn last(&self) -> Option<WaitingFor> {
        self.lock().as_ref().map(|wait| wait.what.clone())
    }

    /// Whether it waits for somebody who is missing, and has for too long. Nothing is said of a stage that `is_at_work`: it
    /// may not have seen yet who has come.
    pub(crate) fn overdue(&self, now: Instant, patience: Duration, is_at_work: bool) -> Option<Overdue> {
        let mut wait = self.lock();
        let wait = wait.as_mut()?;
        let since = wait.since?;
        if wait.is_said {
            return Some(Overdue::Said);
        }
        let due = since.checked_add(patience)?;
        if due > now {
            return Some(Overdue::At(due));
        }
        if is_at_work {
            return now.checked_add(patience.max(SHORTEST_LOOK)).map(Overdue::At);
        }
        wait.is_said = true;
        Some(Overdue::Now(wait.what.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Wait>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where there is less patience, it is not looked at more often.
pub(crate) const SHORTEST_LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(role: Role, downstream: Option<WaitingFor>, upstream: WaitingFor) -> Halves {
        Halves { role, is_exhausted: false, has_arrivals: false, downstream, upstream }
    }

    #[test]
    fn what_is_missing_comes_before_what_comes_by_itself() {
        let missing = WaitingFor::Subscribers { missing: 1 };
        let of = |role, downstream, upstream| WaitingFor::of(halves(role, downstream, upstream));
        for (is, expected) in [
            (of(Role::Producer, Some(missing.clone()), WaitingFor::Producers), missing.clone()),
            (of(Role::Producer, None, WaitingFor::Producers), WaitingFor::Emission),
            (
                of(Role::Producer, Some(WaitingFor::Demand { events: 3 }), WaitingFor::Producers),
                WaitingFor::Demand { events: 3 },
            ),
            (of(Role::Consumer, None, WaitingFor::Producers), WaitingFor::Producers),
            (of(Role::Consumer, None, WaitingFor::Events), WaitingFor::Events),
            (of(Role::ProducerConsumer, Some(missing.clone()), WaitingFor::Events), missing.clone()),
            (
                of(Role::ProducerConsumer, Some(WaitingFor::Demand { events: 0 }), WaitingFor::Producers),
                WaitingFor::Producers,
            ),
            (
                of(Role::ProducerConsumer, Some(WaitingFor::Demand { events: 0 }), WaitingFor::Events),
                WaitingFor::Events,
            ),
        ] {
            assert_eq!(is, expected);
        }
        let arrived = Halves {
            has_arrivals: true,
            ..halves(Role::ProducerConsumer, Some(WaitingFor::Demand { events: 0 }), WaitingFor::Events)
        };
        assert_eq!(WaitingFor::of(arrived), WaitingFor::Demand { events: 0 });
        let exhausted =
            |downstream| Halves { is_exhausted: true, ..halves(Role::Producer, downstream, WaitingFor::Events) };
        assert_eq!(WaitingFor::of(exhausted(None)), WaitingFor::Handling);
        assert_eq!(WaitingFor::of(exhausted(Some(missing.clone()))), missing);
    }

    #[test]
    fn nobody_waits_in_vain_while_one_stage_may_still_move() {
        let (lacks, events) = (WaitingFor::Subscribers { missing: 1 }, WaitingFor::Events);
        let stands = |waits_for| Standing { waits_for, is_overdue: true, is_reached_from_outside: false };
        let alone = [stands(Some(&lacks)), stands(Some(&events))];
        assert_eq!(in_vain(alone.iter().copied()), [0]);
        for other in [
            stands(None),
            stands(Some(&WaitingFor::Emission)),
            stands(Some(&WaitingFor::Forwarding)),
            Standing { is_reached_from_outside: true, ..stands(Some(&events)) },
        ] {
            assert!(in_vain([alone[0], other].iter().copied()).is_empty(), "{other:?}");
        }
        let patient = Standing { is_overdue: false, ..alone[0] };
        assert!(in_vain([patient].iter().copied()).is_empty(), "it has not waited for long");
        assert!(in_vain([alone[1]].iter().copied()).is_empty(), "nobody is missing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_said_once_for_as_long_as_it_is() {
        let waits = Waits::new(Arc::default());
        let patience = Duration::from_secs(5);
        let overdue = || waits.overdue(Instant::now(), patience, false);
        let held = |events| WaitingFor::Partition { partition: 1.into(), events };
        waits.begin(held(3));
        let due = Instant::now() + patience;
        assert_eq!(overdue(), Some(Overdue::At(due)));
        tokio::time::sleep(patience).await;
        waits.begin(held(4));
        let at_work = waits.overdue(Instant::now(), patience, true);
        assert_eq!(at_work, Some(Overdue::At(due + patience)), "it may not know yet");
        assert_eq!((overdue(), overdue()), (Some(Overdue::Now(held(4))), Some(Overdue::Said)));
        waits.begin(WaitingFor::Events);
        assert_eq!(overdue(), None);
        waits.begin(held(4));
        assert_eq!(overdue(), Some(Overdue::At(due + patience)), "it has begun anew");
        assert_eq!(waits.overdue(Instant::now(), Duration::MAX, false), None, "that is never");
    }
}
