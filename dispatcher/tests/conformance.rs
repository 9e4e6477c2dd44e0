//! GenStage's own scenarios for its broadcast and demand dispatchers, in our terms.
//!
//! Its dispatchers return the demand to pass up, and keep `pending` or `requested` to get that right. Ours say what they
//! could assign now, and a stage passes up what exceeds the account of what it has asked for. So what GenStage's tests
//! read from the state is read here from what is passed up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aqueduct_dispatcher::{
    Attempt, BroadcastDispatcher, Decision, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest, Marker,
    Refused, SubscriptionId,
};

/// A stage's account of demand around a dispatcher. It has no buffer: what is left over is returned.
struct Stage {
    dispatcher: Box<dyn Dispatcher<u32>>,
    deliveries: Deliveries<u32>,
    /// Passed up and not answered: GenStage's `requested`, and `pending` with what subscribers still want.
    owed: u64,
}

impl Stage {
    fn broadcast() -> Self {
        Self::new(BroadcastDispatcher::new())
    }

    fn by_demand() -> Self {
        Self::new(DemandDispatcher::new())
    }

    fn new(dispatcher: impl Dispatcher<u32> + 'static) -> Self {
        Self { dispatcher: Box::new(dispatcher), deliveries: Deliveries::new(), owed: 0 }
    }

    fn join(&mut self) -> SubscriptionId {
        self.join_with(Interest::ALL)
    }

    fn join_with(&mut self, interest: Interest<u32>) -> SubscriptionId {
        let id = SubscriptionId::new();
        self.dispatcher.subscribe(id, interest).expect("a new one");
        id
    }

    /// What is passed up.
    fn ask(&mut self, id: SubscriptionId, n: u64) -> u64 {
        self.dispatcher.ask(id, Demand::new(n), &mut self.deliveries);
        self.pass_up()
    }

    /// What is passed up.
    fn leave(&mut self, id: SubscriptionId) -> u64 {
        self.dispatcher.cancel(id, &mut self.deliveries);
        self.pass_up()
    }

    fn pass_up(&mut self) -> u64 {
        let more = self.waiting().saturating_sub(self.owed);
        self.owed += more;
        more
    }

    /// What could be given out now: GenStage's `waiting`.
    fn waiting(&self) -> u64 {
        self.dispatcher.demand().count()
    }

    /// Events come from the producer; what is left over.
    fn dispatch(&mut self, events: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut events: VecDeque<_> = events.into_iter().collect();
        self.owed = self.owed.saturating_sub(events.len() as u64);
        self.dispatcher.dispatch(&mut events, Attempt::FIRST, &mut self.deliveries);
        events.into()
    }

    fn given(&mut self) -> Vec<(SubscriptionId, Vec<u32>)> {
        let decisions = std::iter::from_fn(|| self.deliveries.pop());
        let deliveries = decisions.map(|decision| match decision {
            Decision::Deliver(delivery) => (delivery.to, delivery.events.into_vec()),
            other => panic!("{other:?}"),
        });
        deliveries.collect()
    }

    fn passes_at_once(&mut self) -> bool {
        self.dispatcher.info(Marker(7), &mut self.deliveries);
        matches!(self.deliveries.pop(), Some(Decision::Pass(Marker(7)))) && self.deliveries.is_empty()
    }
}

/// Subscribing asks for nothing, and leaving leaves nothing.
#[test]
fn genstage_169_broadcast_subscribes_and_cancels() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    assert_eq!(stage.waiting(), 0);
    assert_eq!((stage.leave(a), stage.waiting(), stage.owed), (0, 0, 0));
}

/// Ten are asked for and leave with their subscriber; what comes then is left over.
#[test]
fn genstage_170_broadcast_subscribes_asks_and_cancels() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    assert_eq!((stage.ask(a, 10), stage.waiting(), stage.owed), (10, 10, 10));
    assert_eq!((stage.leave(a), stage.waiting(), stage.owed), (0, 0, 10));
    assert_eq!(stage.dispatch(0..3), [0, 1, 2]);
}

/// A newcomer takes over the demand of one that left, since the ten are on their way.
#[test]
fn genstage_171_broadcast_newcomer_inherits_what_is_on_its_way() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    assert_eq!(stage.ask(a, 10), 10);
    let b = stage.join();
    assert_eq!((stage.waiting(), stage.owed), (0, 10));
    assert_eq!(stage.leave(a), 0);
    assert_eq!((stage.ask(b, 10), stage.waiting(), stage.owed), (0, 10, 10));
}

/// Demand that only the slower held back is passed up when that one leaves.
#[test]
fn genstage_172_broadcast_slower_one_leaves() {
    let mut stage = Stage::broadcast();
    let (a, b) = (stage.join(), stage.join());
    assert_eq!(stage.ask(a, 10), 0);
    assert_eq!(stage.leave(b), 10);
    assert_eq!((stage.ask(a, 10), stage.waiting()), (10, 20));
}

/// Asks, batches and a late subscriber: always as far as the slowest allows.
#[test]
fn genstage_173_broadcast_dispatches_as_far_as_the_slowest_allows() {
    let mut stage = Stage::broadcast();
    let (a, b) = (stage.join(), stage.join());
    assert_eq!((stage.ask(a, 3), stage.ask(b, 2), stage.waiting()), (0, 2, 2));
    assert!(stage.dispatch([1, 2]).is_empty());
    assert_eq!(stage.given(), [(a, vec![1, 2]), (b, vec![1, 2])]);
    assert_eq!((stage.waiting(), stage.ask(b, 2)), (0, 1));
    assert_eq!(stage.dispatch([3, 4]), [4]);
    assert_eq!(stage.given(), [(a, vec![3]), (b, vec![3])]);
    assert_eq!(stage.dispatch([5, 6]), [5, 6]);
    let c = stage.join();
    assert_eq!((stage.waiting(), stage.dispatch([7, 8])), (0, vec![7, 8]));
    assert_eq!((stage.ask(a, 2), stage.ask(b, 2), stage.waiting()), (0, 0, 0));
    assert_eq!(stage.ask(c, 3), 2);
    assert_eq!(stage.ask(a, 1), 1);
    assert!(stage.dispatch([9, 10, 11]).is_empty());
    assert_eq!(stage.given(), [a, b, c].map(|id| (id, vec![9, 10, 11])));
}

/// What was asked for before a newcomer came is given when that one has asked for it too.
#[test]
fn genstage_174_broadcast_newcomer_asks_for_more_than_is_on_its_way() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    assert_eq!(stage.ask(a, 10), 10);
    assert!(stage.dispatch([1, 2, 3]).is_empty());
    assert_eq!((stage.given(), stage.waiting(), stage.owed), (vec![(a, vec![1, 2, 3])], 7, 7));
    let b = stage.join();
    assert_eq!((stage.waiting(), stage.owed), (0, 7));
    assert_eq!((stage.ask(b, 20), stage.waiting(), stage.owed), (0, 7, 7));
    assert!(stage.dispatch(4..11).is_empty());
    assert_eq!(stage.given(), [a, b].map(|id| (id, (4..11).collect())));
}

/// What was on its way for one that left serves the next.
#[test]
fn genstage_175_broadcast_next_one_asks_for_less_than_is_on_its_way() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    assert_eq!(stage.ask(a, 10), 10);
    stage.leave(a);
    let b = stage.join();
    assert_eq!((stage.ask(b, 5), stage.waiting(), stage.owed), (0, 5, 10));
    assert!(stage.dispatch([1, 2, 3]).is_empty());
    assert_eq!((stage.waiting(), stage.owed), (2, 7));
}

/// Surplus of one counts when the other, that never asked, leaves.
#[test]
fn genstage_176_broadcast_newcomer_leaves_without_having_asked() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    assert_eq!(stage.ask(a, 10), 10);
    let b = stage.join();
    assert_eq!(stage.ask(a, 5), 0);
    assert_eq!((stage.leave(b), stage.waiting()), (5, 15));
}

/// Of four events one selector takes three and the other two; what they refused is asked for again in their names.
#[test]
fn genstage_177_broadcast_selectors() {
    let mut stage = Stage::broadcast();
    let selecting = |wanted: &'static [u32]| Interest {
        selector: Some(Arc::new(move |event: &u32| wanted.contains(event))),
        partition: None,
    };
    let (a, b) = (stage.join_with(selecting(&[1, 2, 3])), stage.join_with(selecting(&[3, 4])));
    assert_eq!((stage.ask(a, 4), stage.ask(b, 4)), (0, 4));
    assert!(stage.dispatch(1..5).is_empty());
    assert_eq!(stage.given(), [(a, vec![1, 2, 3]), (b, vec![3, 4])]);
    assert_eq!((stage.pass_up(), stage.waiting()), (1, 1), "one is left to a, two to b: the slowest counts");
    assert_eq!(stage.ask(a, 1), 1);
}

/// A marker passes at once and changes nothing.
#[test]
fn genstage_178_broadcast_info() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    stage.ask(a, 3);
    assert!(stage.passes_at_once());
    assert_eq!((stage.waiting(), stage.owed), (3, 3));
}

/// The same subscription twice is refused, and nothing has changed.
#[test]
fn genstage_179_broadcast_same_twice() {
    let mut stage = Stage::broadcast();
    let a = stage.join();
    stage.ask(a, 3);
    assert_eq!(stage.dispatcher.subscribe(a, Interest::ALL), Err(Refused::AlreadySubscribed));
    assert_eq!((stage.waiting(), stage.dispatch([1]).len(), stage.given()), (3, 0, vec![(a, vec![1])]));
}

/// Subscribing asks for nothing, and leaving leaves nothing.
#[test]
fn genstage_190_demand_subscribes_and_cancels() {
    let mut stage = Stage::by_demand();
    let a = stage.join();
    assert_eq!((stage.waiting(), stage.leave(a), stage.owed), (0, 0, 0));
}

/// What one that left had asked for is not asked for again; what comes while nobody is there is left over.
#[test]
fn genstage_191_demand_asks_cancels_and_rejoins() {
    let mut stage = Stage::by_demand();
    let a = stage.join();
    assert_eq!((stage.ask(a, 10), stage.leave(a), stage.owed), (10, 0, 10));
    let again = stage.join();
    assert_eq!((stage.ask(again, 5), stage.owed), (0, 10));
    assert_eq!((stage.leave(again), stage.owed), (0, 10));
    assert_eq!((stage.dispatch(0..3), stage.owed), (vec![0, 1, 2], 7));
    assert_eq!((stage.dispatch(3..13).len(), stage.owed), (10, 0));
}

/// One of two leaves: the other gets its three, and the demand for the last of the six stays on its way.
#[test]
fn genstage_192_demand_one_of_two_leaves() {
    let mut stage = Stage::by_demand();
    let (a, b) = (stage.join(), stage.join());
    assert_eq!((stage.ask(a, 3), stage.ask(b, 3), stage.leave(a)), (3, 3, 0));
    assert_eq!(stage.dispatch(0..5), [3, 4]);
    assert_eq!((stage.given(), stage.owed), (vec![(b, vec![0, 1, 2])], 1));
}

/// Demand adds up, and what exceeds it is left over.
#[test]
fn genstage_193_demand_dispatches_to_one() {
    let mut stage = Stage::by_demand();
    let a = stage.join();
    stage.ask(a, 3);
    assert!(stage.dispatch([1]).is_empty());
    assert_eq!((stage.given(), stage.waiting()), (vec![(a, vec![1])], 2));
    stage.ask(a, 3);
    assert_eq!((stage.waiting(), stage.dispatch(2..9)), (5, vec![7, 8]));
    assert_eq!(stage.given(), [(a, vec![2, 3, 4, 5, 6])]);
    assert_eq!(stage.dispatch([9, 10]), [9, 10]);
    assert!(stage.given().is_empty());
}

/// Subscribers stand in the order of their demand, shown by whom a batch for all of them reaches in which order.
#[test]
fn genstage_194_demand_orders_subscribers() {
    for (more, expected) in [([0, 0, 0], [4, 3, 2]), ([0, 0, 2], [5, 4, 2]), ([0, 4, 2], [6, 5, 4])] {
        let mut stage = Stage::by_demand();
        let ids = [4, 2, 3].map(|n| (stage.join(), n));
        for (id, n) in ids {
            stage.ask(id, n);
        }
        stage.ask(ids[2].0, more[2]);
        stage.ask(ids[1].0, more[1]);
        stage.dispatch(0..expected.iter().sum());
        let sizes: Vec<_> = stage.given().iter().map(|(_, events)| events.len() as u32).collect();
        assert_eq!(sizes, expected);
    }
}

/// A batch is split by demand, and equals take turns.
#[test]
fn genstage_195_demand_dispatches_to_several() {
    let mut stage = Stage::by_demand();
    let (a, b) = (stage.join(), stage.join());
    stage.ask(a, 3);
    stage.ask(b, 2);
    assert!(stage.dispatch(1..6).is_empty());
    assert_eq!(stage.given(), [(a, vec![1, 2, 3]), (b, vec![4, 5])]);
    assert_eq!(stage.dispatch([6, 7]), [6, 7]);
    stage.ask(a, 3);
    stage.ask(b, 3);
    assert!(stage.dispatch([8, 9]).is_empty());
    assert!(stage.dispatch([10, 11]).is_empty());
    assert_eq!(stage.given(), [(a, vec![8, 9]), (b, vec![10, 11])]);
    assert_eq!(stage.dispatch([12, 13, 14]), [14]);
    assert_eq!(stage.given(), [(a, vec![12]), (b, vec![13])]);
}

/// The first dispatch serves subscribers in either order, later ones by demand.
#[test]
fn genstage_196_demand_shuffles_before_the_first_dispatch() {
    let first_sizes = (0..20).map(|seed| {
        let mut stage = Stage::new(DemandDispatcher::new().shuffle(seed));
        let (a, b) = (stage.join(), stage.join());
        stage.ask(a, 3);
        stage.ask(b, 2);
        assert!(stage.dispatch(0..5).is_empty());
        let first = stage.given().into_iter().find(|(_, events)| events[0] == 0).expect("somebody got it").0;
        stage.ask(a, 2);
        stage.ask(b, 3);
        assert!(stage.dispatch(5..10).is_empty());
        assert_eq!(stage.given(), [(b, vec![5, 6, 7]), (a, vec![8, 9])]);
        first == a
    });
    let first_sizes: Vec<_> = first_sizes.collect();
    assert!(first_sizes.contains(&true) && first_sizes.contains(&false));
}

/// A marker passes at once.
#[test]
fn genstage_197_demand_info() {
    let mut stage = Stage::by_demand();
    assert!(stage.passes_at_once());
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = event.metadata().level().to_string();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            text += &format!(" {field}={value:?}");
        });
        self.0.lock().expect("nobody panics with it").push(text);
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// An ask above the most that is expected is remarked upon and passed up.
#[test]
fn genstage_198_demand_warns_of_an_ask_above_max_demand() {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let mut stage = Stage::new(DemandDispatcher::new().max_demand(Demand::new(3)));
        let a = stage.join();
        assert_eq!((stage.ask(a, 3), stage.ask(a, 4)), (3, 4));
    });
    let lines = log.0.lock().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("at most 3") && lines[0].contains("got 4"), "{lines:?}");
}
