//! The subscriptions a stage holds: when to ask its producers again, and for how much. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use aqueduct_dispatcher::{Cancel, Demand, SubscriptionId, Window};
use tokio::time::Instant;

use crate::bugs::bug;
use crate::by_id::ById;
use crate::growth::Growth;
use crate::{Edge, EndCause, Exit, FailureKind, Mode, Peer, WaitingFor};

/// All subscriptions of one stage.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    subscriptions: ById<Subscribed>,
    /// A permanent producer was exhausted: the stage ends when no subscription is left.
    ends_when_empty: bool,
    /// A subscription ended before its producer was exhausted.
    missed_something: bool,
    /// How the first producer ended that ended before it was exhausted.
    lost: Option<Exit>,
    /// The same of subscriptions that may be made again, until they are: how the producer ended, if it has.
    awaited: BTreeMap<SubscriptionId, Option<Exit>>,
    is_draining: bool,
    is_growing: bool,
}

#[derive(Debug)]
struct Subscribed {
    window: Window,
    /// What decides how large that is, if it may grow.
    growth: Option<Box<Growth>>,
    cancel: Cancel,
    mode: Mode,
    /// Asked for and not yet handled; in automatic mode at most `window.max()`.
    outstanding: Demand,
    /// Asked for in all.
    asked: Demand,
    /// The producer has taken it.
    is_open: bool,
    renewal: Renewal,
    /// The stage is about to end it by itself: it asks for nothing more, handles what has arrived, and is told the end behind
    /// that.
    is_leaving: bool,
}

/// Whether a subscription that ends early is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    Never,
    Perhaps,
    /// It was, before its end was known here.
    Done,
}

/// One call of `handle_events`, and the ask that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// How many of the arrived events.
    pub(crate) events: usize,
    /// What to ask afterwards: cumulative.
    pub(crate) then_ask: Option<Demand>,
}

/// Events that arrived together, and are handled piece by piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Not cut off yet.
    rest: usize,
    /// How many of them, the last, were not asked for.
    pub(crate) excess: usize,
    /// They are to be one piece, which is still to come.
    whole: bool,
}

/// What the end of a subscription means for the stage.
#[derive(Clone, Debug)]
pub(crate) enum AfterEnd {
    /// It goes on.
    Live,
    /// The last producer is exhausted: the stage has seen everything.
    Exhausted,
    /// It ends, for this reason.
    Exit(Exit),
}

impl Subscribed {
    fn ask(&mut self, more: Demand) -> Option<Demand> {
        if self.is_leaving {
            return None;
        }
        self.outstanding.add(more);
        self.asked.add(more);
        Some(self.asked)
    }
}

impl Upstream {
    /// Takes in a subscription that is being made.
    pub(crate) fn subscribe(&mut self, id: SubscriptionId, window: Window, cancel: Cancel) {
        let (mode, outstanding, asked) = (Mode::Automatic, Demand::ZERO, Demand::ZERO);
        let (is_open, renewal, is_leaving) = (false, Renewal::Never, false);
        let growth = None;
        let subscribed = Subscribed { window, growth, cancel, mode, outstanding, asked, is_open, renewal, is_leaving };
        self.subscriptions.insert(id, subscribed);
    }

    /// Lets the window of a subscription grow.
    pub(crate) fn let_grow(&mut self, id: SubscriptionId, most: usize) {
        if let Some(subscribed) = self.subscriptions.get_mut(id) {
            subscribed.growth = Some(Box::new(Growth::new(subscribed.window, most)));
            self.is_growing = true;
        }
    }

    /// The widest of all windows.
    pub(crate) fn widest(&self) -> Option<Window> {
        self.subscriptions.values().map(|one| one.window).max_by_key(|window| window.max())
    }

    /// Whether any window may grow: only then it matters when the consumer [waits](Self::waits).
    pub(crate) fn is_growing(&self) -> bool {
        self.is_growing
    }

    /// The consumer has nothing to handle.
    pub(crate) fn waits(&mut self, now: Instant) {
        self.subscriptions.values_mut().filter_map(|one| one.growth.as_mut()).for_each(|growth| growth.waits(now));
    }

    /// An event was taken back before the consumer has begun with it.
    pub(crate) fn is_taken_back(&mut self, id: SubscriptionId) {
        if let Some(growth) = self.subscriptions.get_mut(id).and_then(|one| one.growth.as_mut()) {
            growth.is_taken_back();
        }
    }

    /// The consumer has something to handle again.
    pub(crate) fn goes_on(&mut self, now: Instant) {
        self.subscriptions.values_mut().filter_map(|one| one.growth.as_mut()).for_each(|growth| growth.goes_on(now));
    }

    /// A subscription may be made again should it end early: until then something is missing, and afterwards no more.
    /// It is itself in the place of `former`, if there was one.
    pub(crate) fn renew(&mut self, id: SubscriptionId, former: Option<SubscriptionId>) {
        if let Some(subscribed) = self.subscriptions.get_mut(id) {
            subscribed.renewal = Renewal::Perhaps;
        }
        let Some(former) = former else { return };
        self.awaited.remove(&former);
        if let Some(subscribed) = self.subscriptions.get_mut(former) {
            subscribed.renewal = Renewal::Done;
        }
    }

    /// What callbacks are told of a subscription.
    pub(crate) fn edge(&self, id: SubscriptionId) -> Option<Edge> {
        let Subscribed { window, cancel, .. } = self.subscriptions.get(id)?;
        Some(Edge { id, peer: Peer::Producer, window: *window, cancel: *cancel })
    }

    /// The edge is there: what to ask first, all in all. Nothing in manual mode, or if it has ended in the meantime.
    pub(crate) fn opened(&mut self, id: SubscriptionId, mode: Mode) -> Option<Demand> {
        let subscribed = self.subscriptions.get_mut(id)?;
        (subscribed.mode, subscribed.is_open) = (mode, true);
        match mode {
            Mode::Automatic => subscribed.ask(subscribed.window.max()),
            Mode::Manual => None,
        }
    }

    /// The consumer asks for more by itself: what to ask, all in all. Nothing unless it is in manual mode.
    pub(crate) fn ask(&mut self, id: SubscriptionId, more: Demand) -> Option<Demand> {
        self.subscriptions.get_mut(id).filter(|subscribed| subscribed.mode == Mode::Manual)?.ask(more)
    }

    /// The stage is about to end this subscription: it asks for nothing more, and handles what has arrived.
    pub(crate) fn leave(&mut self, id: SubscriptionId) {
        if let Some(subscribed) = self.subscriptions.get_mut(id) {
            subscribed.is_leaving = true;
        }
    }

    /// Whether nothing more is to be asked through this subscription, as the stage is about to end it.
    pub(crate) fn is_leaving(&self, id: SubscriptionId) -> bool {
        self.subscriptions.get(id).is_some_and(|subscribed| subscribed.is_leaving)
    }

    /// The graph drains: from now on every producer that ends in good order counts as exhausted, whatever the policies say of
    /// an early end, so that the stage handles what comes from the others.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// From now on the end of this subscription does not concern the stage: another takes its place.
    pub(crate) fn abandon(&mut self, id: SubscriptionId) {
        if let Some(subscribed) = self.subscriptions.get_mut(id) {
            (subscribed.cancel, subscribed.renewal) = (Cancel::Temporary, Renewal::Done);
        }
    }

    /// Takes note of `count` events that arrived. The answer is to be cut into [pieces](Self::next_piece). Events that were
    /// not asked for are to be handled all the same; those of an unknown subscription, or of one that has ended, are not.
    pub(crate) fn receive(&self, id: SubscriptionId, count: usize) -> Option<Arrived> {
        let Subscribed { mode, outstanding, .. } = self.subscriptions.get(id)?;
        let excess = Demand::from(count).saturating_sub(*outstanding).as_len();
        Some(Arrived { rest: count, excess, whole: *mode == Mode::Manual })
    }

    /// Cuts the next piece of at most `max - min` events from what arrived, and says what to ask after it: GenStage's
    /// rule. In manual mode everything is one piece, even if it is empty.
    ///
    /// `now` is called only if the window may grow.
    pub(crate) fn next_piece(
        &mut self,
        id: SubscriptionId,
        arrived: &mut Arrived,
        now: impl FnOnce() -> Instant,
    ) -> Option<Piece> {
        if arrived.rest == 0 && !arrived.whole {
            return None;
        }
        let whole = std::mem::take(&mut arrived.whole);
        let subscribed = self.subscriptions.get_mut(id).filter(|subscribed| subscribed.mode == Mode::Automatic);
        let Some(Subscribed { window, growth, outstanding, asked, is_leaving, .. }) = subscribed.filter(|_| !whole)
        else {
            let events = std::mem::take(&mut arrived.rest);
            if let Some(manual) = self.subscriptions.get_mut(id) {
                manual.outstanding = manual.outstanding.saturating_sub(Demand::from(events));
            }
            return Some(Piece { events, then_ask: None });
        };
        let events = arrived.rest.min(window.piece().as_len());
        let asked_for = events.min(arrived.rest.saturating_sub(arrived.excess));
        arrived.rest -= events;
        *outstanding = outstanding.saturating_sub(Demand::from(asked_for));
        let is_low = *outstanding < window.min() || (*outstanding == window.min() && !bug!(MinOffByOne));
        let then_ask = (!*is_leaving && is_low).then(|| {
            if let Some(growth) = growth.as_mut() {
                *window = growth.asks(now());
            }
            let still = if bug!(OutstandingAskedAgain) { Demand::ZERO } else { *outstanding };
            asked.add(window.max().saturating_sub(still));
            *outstanding = window.max().max(still);
            *asked
        });
        if let Some(growth) = growth {
            growth.begins(events);
        }
        Some(Piece { events, then_ask })
    }

    /// The edge has ended. What it means depends on its [`Cancel`] policy.
    pub(crate) fn ended(&mut self, id: SubscriptionId, cause: &EndCause) -> AfterEnd {
        let Some(subscribed) = self.subscriptions.remove(id) else { return AfterEnd::Live };
        let reason = cause.reason();
        let is_drained = self.is_draining && reason.is_graceful();
        if !cause.is_exhausted() {
            let down = if let EndCause::Down(exit) = cause { Some(exit.clone()) } else { None };
            let down = down.filter(|_| !is_drained);
            match subscribed.renewal {
                Renewal::Never => {
                    self.missed_something = !bug!(EarlyEndIsComplete);
                    self.lost = self.lost.take().or(down);
                }
                Renewal::Perhaps => drop(self.awaited.insert(id, down)),
                Renewal::Done => {}
            }
        }
        if matches!(reason, Exit::Failed(failure) if failure.kind() == FailureKind::AlreadySubscribed) {
            return AfterEnd::Live;
        }
        match subscribed.cancel {
            _ if is_drained => self.ends_when_empty = true,
            Cancel::Permanent if cause.is_exhausted() => self.ends_when_empty = true,
            Cancel::Permanent => return AfterEnd::Exit(reason.clone()),
            Cancel::Transient if !reason.is_graceful() => return AfterEnd::Exit(reason.clone()),
            Cancel::Transient | Cancel::Temporary => {}
        }
        if self.ends_when_empty && self.is_empty() { AfterEnd::Exhausted } else { AfterEnd::Live }
    }

    /// Whether every subscription that has ended did so because its producer was exhausted.
    pub(crate) fn saw_everything(&self) -> bool {
        !self.missed_something && self.awaited.is_empty()
    }

    /// How a producer ended that was not exhausted: then something is missing, whatever the policy of its subscription.
    pub(crate) fn lost(&self) -> Option<Exit> {
        self.lost.clone().or_else(|| self.awaited.values().flatten().next().cloned())
    }

    /// What it waits for. `name` says what the producer of a subscription is called.
    pub(crate) fn waits_for(&self, name: impl Fn(SubscriptionId) -> Option<Arc<str>>) -> WaitingFor {
        if self.is_empty() {
            return WaitingFor::Producers;
        }
        let opening = self.subscriptions.iter().find(|(_, subscribed)| !subscribed.is_open);
        opening
            .and_then(|(id, _)| name(id))
            .map_or(WaitingFor::Events, |producer| WaitingFor::Subscription { producer })
    }

    /// Asked for and not yet handled, over all subscriptions.
    pub(crate) fn outstanding(&self) -> Demand {
        self.subscriptions.values().fold(Demand::ZERO, |sum, one| sum.saturating_add(one.outstanding))
    }

    /// Whether no subscription is left, or none was ever made.
    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, FailureKind};

    /// A subscription with the first ask made.
    fn subscribed(min: usize, max: usize, cancel: Cancel) -> (Upstream, SubscriptionId) {
        let mut upstream = Upstream::default();
        let id = add(&mut upstream, min, max, cancel);
        (upstream, id)
    }

    fn add(upstream: &mut Upstream, min: usize, max: usize, cancel: Cancel) -> SubscriptionId {
        let id = SubscriptionId::new();
        upstream.subscribe(id, Window::new(min, max).expect("a window"), cancel);
        assert_eq!(upstream.opened(id, Mode::Automatic), Some(Demand::from(max)));
        id
    }

    /// The pieces of one arrival: how many events, and the cumulative ask after it.
    fn receive(upstream: &mut Upstream, id: SubscriptionId, count: usize) -> (Vec<(usize, Option<u64>)>, usize) {
        let mut arrived = upstream.receive(id, count).expect("a known subscription");
        let excess = arrived.excess;
        let pieces = std::iter::from_fn(|| upstream.next_piece(id, &mut arrived, || unreachable!("it does not grow")));
        (pieces.map(|p| (p.events, p.then_ask.map(Demand::count))).collect(), excess)
    }

    fn failed() -> Exit {
        Exit::Failed(Failure::new("far", FailureKind::Error, "boom"))
    }

    #[test]
    fn a_piece_is_at_most_max_minus_min() {
        let (mut up, id) = subscribed(500, 1000, Cancel::Permanent);
        assert_eq!(receive(&mut up, id, 1000), (vec![(500, Some(1500)), (500, Some(2000))], 0));
        let (mut up, id) = subscribed(20, 100, Cancel::Permanent);
        assert_eq!(receive(&mut up, id, 100), (vec![(80, Some(180)), (20, None)], 0));
        assert_eq!(receive(&mut up, id, 80), (vec![(80, Some(280))], 0));
    }

    #[test]
    fn asks_again_at_min_and_for_as_many_as_reach_max() {
        // GenStage's documentation says otherwise of this window; this is what its code does.
        let (mut up, id) = subscribed(750, 1000, Cancel::Permanent);
        assert_eq!(receive(&mut up, id, 100).0, [(100, None)]);
        assert_eq!(receive(&mut up, id, 100).0, [(100, None)]);
        assert_eq!(receive(&mut up, id, 100).0, [(100, Some(1300))]);
        let (mut up, id) = subscribed(0, 1, Cancel::Permanent);
        assert_eq!(receive(&mut up, id, 1).0, [(1, Some(2))]);
    }

    #[test]
    fn events_in_excess_are_handled_but_not_counted() {
        let (mut up, id) = subscribed(2, 4, Cancel::Permanent);
        let (pieces, excess) = receive(&mut up, id, 7);
        assert_eq!((pieces, excess), (vec![(2, Some(6)), (2, Some(8)), (2, None), (1, None)], 3));
    }

    #[test]
    fn in_manual_mode_a_batch_is_handled_whole_and_nothing_is_asked() {
        let mut up = Upstream::default();
        let id = SubscriptionId::new();
        up.subscribe(id, Window::NEAR, Cancel::Permanent);
        assert_eq!(up.opened(id, Mode::Manual), None);
        assert_eq!(
            (up.ask(id, Demand::new(3)), up.ask(id, Demand::new(2))),
            (Some(Demand::new(3)), Some(Demand::new(5)))
        );
        assert_eq!(receive(&mut up, id, 5), (vec![(5, None)], 0));
        assert_eq!(receive(&mut up, id, 0), (vec![(0, None)], 0));
        let (mut automatic, id) = subscribed(0, 1, Cancel::Permanent);
        assert_eq!(automatic.ask(id, Demand::new(3)), None);
    }

    #[test]
    fn a_permanent_consumer_ends_with_its_last_exhausted_producer() {
        let (mut up, first) = subscribed(0, 1, Cancel::Permanent);
        let second = add(&mut up, 0, 1, Cancel::Permanent);
        let exhausted = EndCause::Down(Exit::Normal);
        assert!(matches!(up.ended(first, &exhausted), AfterEnd::Live));
        assert!(matches!(up.ended(second, &exhausted), AfterEnd::Exhausted));
    }

    #[test]
    fn the_policies_say_who_survives_what() {
        let normal = || Exit::Normal;
        for (cancel, cause, survives) in [
            (Cancel::Permanent, EndCause::Cancelled(normal()), false),
            (Cancel::Permanent, EndCause::Down(Exit::Shutdown), false),
            (Cancel::Permanent, EndCause::Down(failed()), false),
            (Cancel::Transient, EndCause::Cancelled(normal()), true),
            (Cancel::Transient, EndCause::Down(normal()), true),
            (Cancel::Transient, EndCause::Down(failed()), false),
            (Cancel::Temporary, EndCause::Cancelled(failed()), true),
            (Cancel::Temporary, EndCause::Down(failed()), true),
        ] {
            let (mut up, id) = subscribed(0, 1, cancel);
            let after = up.ended(id, &cause);
            assert_eq!(matches!(after, AfterEnd::Live), survives, "{cancel:?} {cause:?}: {after:?}");
        }
    }

    #[test]
    fn what_was_lost_with_a_subscription_is_made_good_when_it_is_made_again() {
        let (mut up, first) = subscribed(0, 1, Cancel::Temporary);
        up.renew(first, None);
        up.ended(first, &EndCause::Down(failed()));
        assert!(up.lost().is_some() && !up.saw_everything());
        let second = add(&mut up, 0, 1, Cancel::Temporary);
        up.renew(second, Some(first));
        assert!(up.lost().is_none() && up.saw_everything());
        // The next one comes before the end of this is known.
        let third = add(&mut up, 0, 1, Cancel::Temporary);
        up.renew(third, Some(second));
        up.ended(second, &EndCause::Down(failed()));
        assert!(up.lost().is_none() && up.saw_everything());
        up.ended(third, &EndCause::Cancelled(Exit::Normal));
        assert!(up.lost().is_none() && !up.saw_everything(), "nothing failed, but something was missed");
    }

    #[test]
    fn waits_for_the_producer_that_is_not_there_yet() {
        let name = |_: SubscriptionId| Some("far".into());
        let (mut up, id) = subscribed(0, 1, Cancel::Temporary);
        assert_eq!(up.waits_for(name), WaitingFor::Events);
        let second = SubscriptionId::new();
        up.subscribe(second, Window::NEAR, Cancel::Temporary);
        assert_eq!(up.waits_for(name), WaitingFor::Subscription { producer: "far".into() });
        up.opened(second, Mode::Manual);
        assert_eq!(up.waits_for(name), WaitingFor::Events);
        [id, second].iter().for_each(|id| drop(up.ended(*id, &EndCause::Down(Exit::Normal))));
        assert_eq!(up.waits_for(name), WaitingFor::Producers);
    }

    #[test]
    fn who_leaves_asks_for_nothing_more_and_handles_what_arrives() {
        let (mut up, id) = subscribed(5, 10, Cancel::Permanent);
        assert_eq!(receive(&mut up, id, 5).0, [(5, Some(15))]);
        up.leave(id);
        assert_eq!(receive(&mut up, id, 10), (vec![(5, None), (5, None)], 0));
        assert!(matches!(up.ended(id, &EndCause::Cancelled(Exit::Normal)), AfterEnd::Exit(Exit::Normal)));
        let (mut manual, id) = (Upstream::default(), SubscriptionId::new());
        manual.subscribe(id, Window::NEAR, Cancel::Permanent);
        assert_eq!(manual.opened(id, Mode::Manual), None);
        manual.leave(id);
        assert_eq!(manual.ask(id, Demand::new(3)), None);
    }

    #[test]
    fn who_ends_in_good_order_while_the_stage_drains_counts_as_exhausted() {
        for cancel in [Cancel::Permanent, Cancel::Transient, Cancel::Temporary] {
            let (mut up, id) = subscribed(5, 10, cancel);
            let other = add(&mut up, 5, 10, cancel);
            up.drain();
            let after = up.ended(id, &EndCause::Cancelled(Exit::Shutdown));
            assert!(matches!(after, AfterEnd::Live), "{cancel:?} {after:?}: the other is still to be drained");
            let after = up.ended(other, &EndCause::Down(Exit::Shutdown));
            assert!(matches!(after, AfterEnd::Exhausted), "{cancel:?} {after:?}");
            assert!(!up.saw_everything() && up.lost().is_none());
        }
        let (mut up, id) = subscribed(5, 10, Cancel::Permanent);
        up.drain();
        assert!(matches!(up.ended(id, &EndCause::Down(failed())), AfterEnd::Exit(Exit::Failed(_))));
    }

    #[test]
    fn what_comes_after_the_end_is_unknown() {
        let (mut up, id) = subscribed(0, 1, Cancel::Temporary);
        up.ended(id, &EndCause::Down(Exit::Normal));
        assert!(up.receive(id, 1).is_none(), "not handled");
        assert_eq!(up.opened(id, Mode::Automatic), None);
        assert!(matches!(up.ended(id, &EndCause::Down(failed())), AfterEnd::Live));
    }
}
