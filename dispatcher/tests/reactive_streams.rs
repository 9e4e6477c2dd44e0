//! The rules of Reactive Streams that a dispatcher alone can show, each for every dispatcher.
//!
//! Its `request(n)` is an ask, its `onNext` an event of a delivery. The rules' numbers are in the names.

use std::sync::{Arc, Weak};

use aqueduct_dispatcher::{
    Attempt, BroadcastDispatcher, Decision, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest,
    PartitionDispatcher, Partitions, RoundRobinDispatcher, Selector, SubscriptionId,
};

/// A dispatcher and what it decided.
struct Subject {
    dispatcher: Box<dyn Dispatcher<u32>>,
    deliveries: Deliveries<u32>,
    /// Its subscribers must name a partition; here it is always the first.
    partitioned: bool,
}

impl Subject {
    fn new(dispatcher: impl Dispatcher<u32> + 'static, partitioned: bool) -> Self {
        Self { dispatcher: Box::new(dispatcher), deliveries: Deliveries::new(), partitioned }
    }

    fn join(&mut self) -> SubscriptionId {
        self.join_with(None)
    }

    fn join_with(&mut self, selector: Option<Selector<u32>>) -> SubscriptionId {
        let id = SubscriptionId::new();
        let partition = self.partitioned.then(|| 0.into());
        self.dispatcher.subscribe(id, Interest { selector, partition }).expect("a new one");
        id
    }

    fn ask(&mut self, id: SubscriptionId, n: u64) {
        self.dispatcher.ask(id, Demand::new(n), &mut self.deliveries);
    }

    fn cancel(&mut self, id: SubscriptionId) {
        self.dispatcher.cancel(id, &mut self.deliveries);
    }

    fn dispatch(&mut self, events: impl IntoIterator<Item = u32>) {
        let mut events = events.into_iter().collect();
        self.dispatcher.dispatch(&mut events, Attempt::FIRST, &mut self.deliveries);
    }

    /// The events given to `id` since this was called last, for anybody.
    fn given(&mut self, id: SubscriptionId) -> Vec<u32> {
        let mut given = Vec::new();
        while let Some(decision) = self.deliveries.pop() {
            match decision {
                Decision::Deliver(delivery) if delivery.to == id => given.extend(delivery.events),
                Decision::Deliver(_) => {}
                other => panic!("{other:?}"),
            }
        }
        given
    }
}

/// At every moment no more events than were asked for.
fn never_more_than_asked(mut s: Subject) {
    let id = s.join();
    let mut got = 0;
    for (round, ask) in [1, 5, 0, 2, 9].into_iter().enumerate() {
        s.ask(id, ask);
        s.dispatch(round as u32 * 20..round as u32 * 20 + 4);
        got += s.given(id).len() as u64;
        assert!(got <= [1, 6, 6, 8, 17][round]);
    }
}

/// Fewer events than were asked for are delivered without waiting for the rest.
fn fewer_than_asked_are_delivered(mut s: Subject) {
    let id = s.join();
    s.ask(id, 10);
    s.dispatch(0..3);
    assert_eq!((s.given(id), s.dispatcher.demand()), (vec![0, 1, 2], Demand::new(7)));
}

/// Nothing is given to a subscription that has ended.
fn nothing_after_the_end(mut s: Subject) {
    let id = s.join();
    s.ask(id, 10);
    s.dispatch(0..2);
    s.given(id);
    s.cancel(id);
    s.dispatch(2..5);
    let other = s.join();
    s.ask(other, 10);
    s.dispatch(5..8);
    assert!(s.given(id).is_empty());
}

/// After a cancel no events come, whatever had been asked for.
fn cancel_stops_the_events(mut s: Subject) {
    let id = s.join();
    s.ask(id, u64::MAX);
    s.cancel(id);
    assert_eq!(s.dispatcher.demand(), Demand::ZERO);
    s.dispatch(0..5);
    assert!(s.deliveries.is_empty());
}

/// Several may subscribe, and each gets its events in order.
fn several_may_subscribe(mut s: Subject) {
    let ids = [(); 3].map(|()| s.join());
    ids.iter().for_each(|id| s.ask(*id, 4));
    s.dispatch(0..4);
    s.dispatch(4..12);
    while let Some(decision) = s.deliveries.pop() {
        let Decision::Deliver(delivery) = decision else { panic!("{decision:?}") };
        assert!(ids.contains(&delivery.to) && delivery.events.is_sorted());
    }
}

/// Without demand there are no events.
fn no_demand_no_events(mut s: Subject) {
    s.join();
    s.dispatch(0..5);
    assert!(s.deliveries.is_empty());
}

/// Asking after a cancel does nothing.
fn asking_after_a_cancel_does_nothing(mut s: Subject) {
    let id = s.join();
    s.cancel(id);
    s.ask(id, 5);
    s.dispatch(0..5);
    assert!(s.deliveries.is_empty() && s.dispatcher.demand().is_zero());
}

/// Cancelling again does nothing.
fn cancelling_again_does_nothing(mut s: Subject) {
    let (id, other) = (s.join(), s.join());
    s.ask(other, 3);
    s.cancel(id);
    s.cancel(id);
    assert_eq!(s.dispatcher.demand(), Demand::new(3));
    s.dispatch(0..3);
    assert_eq!(s.given(other), [0, 1, 2]);
}

/// Asks add up.
fn asks_add_up(mut s: Subject) {
    let id = s.join();
    (0..10).for_each(|_| s.ask(id, 3));
    assert_eq!(s.dispatcher.demand(), Demand::new(30));
    s.dispatch(0..40);
    assert_eq!(s.given(id), (0..30).collect::<Vec<_>>());
}

/// Asking for nothing does nothing (less than nothing cannot be said).
fn asking_for_nothing_does_nothing(mut s: Subject) {
    let id = s.join();
    s.ask(id, 0);
    assert!(s.dispatcher.demand().is_zero());
    s.dispatch(0..5);
    assert!(s.deliveries.is_empty());
}

/// After a cancel nothing of the subscriber is kept.
fn cancel_drops_every_reference(mut s: Subject) {
    let selector: Selector<u32> = Arc::new(|_| true);
    let weak: Weak<_> = Arc::downgrade(&selector);
    let id = s.join_with(Some(selector));
    s.ask(id, 5);
    s.dispatch(0..2);
    s.given(id);
    assert!(weak.upgrade().is_some());
    s.cancel(id);
    assert!(weak.upgrade().is_none());
}

/// Neither asking nor cancelling panics: unknown, twice, or without bound.
fn asking_and_cancelling_never_panic(mut s: Subject) {
    let stranger = SubscriptionId::new();
    for n in [0, 1, u64::MAX] {
        s.ask(stranger, n);
        s.cancel(stranger);
    }
    let id = s.join();
    for _ in 0..3 {
        s.ask(id, u64::MAX);
        s.dispatch(0..3);
    }
    s.cancel(id);
    s.cancel(id);
}

/// Demand goes up to any number, and sums do not wrap.
fn demand_without_bound(mut s: Subject) {
    let ids = [s.join(), s.join()];
    for id in ids {
        s.ask(id, u64::MAX);
        s.ask(id, u64::MAX);
    }
    assert!(s.dispatcher.demand() >= Demand::new(i64::MAX as u64));
    s.dispatch(0..1000);
    let given = std::iter::from_fn(|| s.deliveries.pop()).map(|decision| match decision {
        Decision::Deliver(delivery) => delivery.events.len(),
        other => panic!("{other:?}"),
    });
    assert!(given.sum::<usize>() >= 1000);
}

macro_rules! every_rule {
    ($($subject:ident: $new:expr;)*) => {$(
        mod $subject {
            use super::*;

            every_rule! { @ $new,
                rs_1_01_never_more_than_asked: never_more_than_asked,
                rs_1_02_fewer_than_asked_are_delivered: fewer_than_asked_are_delivered,
                rs_1_07_nothing_after_the_end: nothing_after_the_end,
                rs_1_08_cancel_stops_the_events: cancel_stops_the_events,
                rs_1_11_several_may_subscribe: several_may_subscribe,
                rs_2_01_no_demand_no_events: no_demand_no_events,
                rs_3_06_asking_after_a_cancel_does_nothing: asking_after_a_cancel_does_nothing,
                rs_3_07_cancelling_again_does_nothing: cancelling_again_does_nothing,
                rs_3_08_asks_add_up: asks_add_up,
                rs_3_09_asking_for_nothing_does_nothing: asking_for_nothing_does_nothing,
                rs_3_13_cancel_drops_every_reference: cancel_drops_every_reference,
                rs_3_15_and_16_asking_and_cancelling_never_panic: asking_and_cancelling_never_panic,
                rs_3_17_demand_without_bound: demand_without_bound,
            }
        }
    )*};
    (@ $new:expr, $($rule:ident: $check:ident,)*) => {$(
        #[test]
        fn $rule() {
            $check($new);
        }
    )*};
}

every_rule! {
    by_demand: Subject::new(DemandDispatcher::new(), false);
    by_demand_shuffled: Subject::new(DemandDispatcher::new().shuffle(3), false);
    round_robin: Subject::new(RoundRobinDispatcher::new(), false);
    broadcast: Subject::new(BroadcastDispatcher::new(), false);
    partition: {
        let one = Partitions::numbered(1).expect("at least one");
        Subject::new(PartitionDispatcher::by(one, |_| 0).capacity(0), true)
    };
}

/// What three subscribers of a broadcast get, each asked in its way.
fn same_sequence(ask: impl Fn(&mut Subject, &[SubscriptionId]), rounds: u32) {
    let mut s = Subject::new(BroadcastDispatcher::new(), false);
    let ids = [(); 3].map(|()| s.join());
    let mut got = [(); 3].map(|()| Vec::new());
    for round in 0..rounds {
        ask(&mut s, &ids);
        let size = 12 / rounds;
        s.dispatch(round * size..(round + 1) * size);
        while let Some(decision) = s.deliveries.pop() {
            let Decision::Deliver(delivery) = decision else { panic!("{decision:?}") };
            let at = ids.iter().position(|id| *id == delivery.to).expect("a subscriber");
            got[at].extend(delivery.events);
        }
    }
    assert_eq!(got, [(); 3].map(|()| (0..12).collect::<Vec<_>>()));
}

#[test]
fn rs_1_11_broadcast_same_sequence_asking_one_by_one() {
    same_sequence(|s, ids| ids.iter().for_each(|id| s.ask(*id, 1)), 12);
}

#[test]
fn rs_1_11_broadcast_same_sequence_asking_for_many_up_front() {
    same_sequence(|s, ids| ids.iter().for_each(|id| s.ask(*id, 100)), 3);
}

#[test]
fn rs_1_11_broadcast_same_sequence_asking_for_exactly_all_up_front() {
    same_sequence(|s, ids| ids.iter().for_each(|id| s.ask(*id, 12)), 1);
}
