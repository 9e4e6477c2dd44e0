//! The laws of [`Dispatcher`], checked on every dispatcher under random sequences of calls.
//!
//! The model is a stage: a producer that answers demand exactly (or now and then with too much), a buffer that is
//! served first, and subscribers that ask, leave, and hand back what they did not finish.

use std::collections::{BTreeMap, VecDeque};

use aqueduct_dispatcher::{
    Attempt, Decision, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest, Lane, SubscriptionId,
};
use proptest::prelude::*;

/// What happens to a dispatcher. Numbers are reduced to whoever is there.
#[derive(Clone, Debug)]
enum Step {
    Subscribe,
    Ask(usize, u64),
    /// The producer answers all of its demand.
    Produce,
    /// The producer emits events that nobody asked for.
    Surprise(usize),
    /// A subscriber leaves and hands the last `n` of its events back.
    Leave(usize, usize),
    /// Asking and leaving once more after the end.
    Ghost(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Subscribe),
        6 => (any::<usize>(), prop_oneof![9 => 1..40_u64, 1 => Just(u64::MAX)]).prop_map(|(who, n)| Step::Ask(who, n)),
        4 => Just(Step::Produce),
        1 => (1..20_usize).prop_map(Step::Surprise),
        2 => (any::<usize>(), 0..20_usize).prop_map(|(who, n)| Step::Leave(who, n)),
        1 => any::<usize>().prop_map(Step::Ghost),
    ]
}

/// One subscriber, as the oracle sees it.
#[derive(Default)]
struct Seen {
    asked: Demand,
    /// Event and attempt, in the order in which they came.
    got: Vec<(u64, u32)>,
}

struct Model<D> {
    dispatcher: D,
    deliveries: Deliveries<u64>,
    live: BTreeMap<SubscriptionId, Seen>,
    gone: Vec<SubscriptionId>,
    /// Passed up to the producer and not answered.
    open: Demand,
    next: u64,
    /// Given back and not taken, oldest first, with the attempt that is to follow.
    returned: VecDeque<(Attempt, VecDeque<u64>)>,
    buffer: VecDeque<u64>,
    /// Finished by subscribers that have left.
    finished: Vec<u64>,
    /// How often each event was handed back.
    times_returned: BTreeMap<u64, u32>,
}

/// A producer that was asked "without bound" answers with this many at a time.
const STEP: u64 = 64;

impl<D: Dispatcher<u64>> Model<D> {
    fn new(dispatcher: D) -> Self {
        Self {
            dispatcher,
            deliveries: Deliveries::new(),
            live: BTreeMap::new(),
            gone: Vec::new(),
            open: Demand::ZERO,
            next: 0,
            returned: VecDeque::new(),
            buffer: VecDeque::new(),
            finished: Vec::new(),
            times_returned: BTreeMap::new(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Subscribe => {
                let id = SubscriptionId::new();
                self.dispatcher.subscribe(id, Interest::ALL).expect("a new one");
                self.live.insert(id, Seen::default());
                assert!(self.dispatcher.subscribe(id, Interest::ALL).is_err(), "the same one again is refused");
            }
            Step::Ask(who, n) => {
                let Some(id) = self.pick(who) else { return };
                let n = Demand::new(n);
                self.live.get_mut(&id).expect("live").asked.add(n);
                self.dispatcher.ask(id, n, &mut self.deliveries);
            }
            Step::Produce => {
                let count = self.open.count().min(STEP);
                self.emit(count);
            }
            Step::Surprise(count) => self.emit(count as u64),
            Step::Leave(who, unfinished) => {
                let Some(id) = self.pick(who) else { return };
                let lane = self.dispatcher.lane(id);
                self.dispatcher.cancel(id, &mut self.deliveries);
                let seen = self.live.remove(&id).expect("live");
                self.gone.push(id);
                self.hand_back(lane, seen, unfinished);
            }
            Step::Ghost(who) => {
                let Some(&id) = self.gone.get(who % self.gone.len().max(1)) else { return };
                let before = self.dispatcher.demand();
                self.dispatcher.ask(id, Demand::new(5), &mut self.deliveries);
                self.dispatcher.cancel(id, &mut self.deliveries);
                assert_eq!(self.dispatcher.demand(), before, "who has left can neither ask nor leave");
            }
        }
        self.pull();
    }

    fn pick(&self, who: usize) -> Option<SubscriptionId> {
        self.live.keys().nth(who % self.live.len().max(1)).copied()
    }

    fn emit(&mut self, count: u64) {
        self.open = self.open.saturating_sub(Demand::new(count));
        self.buffer.extend(self.next..self.next + count);
        self.next += count;
    }

    /// As a stage does: serves what waits, then asks the producer for what is missing.
    fn pull(&mut self) {
        self.deliver();
        while let Some((attempt, events)) = self.returned.front_mut() {
            self.dispatcher.dispatch(events, *attempt, &mut self.deliveries);
            if !events.is_empty() {
                break;
            }
            self.returned.pop_front();
        }
        if self.returned.is_empty() {
            let (before, demand) = (self.buffer.len(), self.dispatcher.demand());
            self.dispatcher.dispatch(&mut self.buffer, Attempt::FIRST, &mut self.deliveries);
            let took = before - self.buffer.len();
            assert_eq!(took, before.min(demand.as_len()), "takes what it said it would");
        }
        self.deliver();
        let more = self.dispatcher.demand().saturating_sub(self.open);
        self.open.add(more);
    }

    fn hand_back(&mut self, lane: Lane, mut seen: Seen, unfinished: usize) {
        let at = seen.got.len() - unfinished.min(seen.got.len());
        let mut back = seen.got.split_off(at);
        self.finished.extend(seen.got.iter().map(|(event, _)| *event));
        // One call for each run of one attempt, the last first, so that the oldest ends up at the head.
        while let Some(&(_, attempt)) = back.last() {
            let from = back.iter().rposition(|(_, other)| *other != attempt).map_or(0, |at| at + 1);
            let mut events: VecDeque<_> = back.drain(from..).map(|(event, _)| event).collect();
            for event in &events {
                *self.times_returned.entry(*event).or_default() += 1;
            }
            let next = (0..attempt).fold(Attempt::FIRST, |attempt, _| attempt.next());
            self.dispatcher.give_back(lane, &mut events, next, &mut self.deliveries);
            assert_eq!(self.deliveries.take_counts(), (0, 0), "somebody can still take them");
            if !events.is_empty() {
                self.returned.push_front((next, events));
            }
            self.deliver();
        }
    }

    /// Carries out what was decided, and checks it.
    fn deliver(&mut self) {
        while let Some(decision) = self.deliveries.pop() {
            let Decision::Deliver(delivery) = decision else { panic!("{decision:?}") };
            assert!(!delivery.events.is_empty(), "an empty batch");
            let attempt = delivery.attempt.number();
            let seen = self.live.get_mut(&delivery.to).expect("events for somebody who is not there");
            seen.got.extend(delivery.events.into_iter().map(|event| (event, attempt)));
            assert!(Demand::from(seen.got.len()) <= seen.asked, "{} of {}", seen.got.len(), seen.asked);
        }
    }

    /// Lets the producer answer until nothing is open, and holds the end against the laws.
    fn check(mut self) {
        for seen in self.live.values() {
            let fresh: Vec<_> = seen.got.iter().filter(|(_, attempt)| *attempt == 1).map(|(event, _)| *event).collect();
            assert!(fresh.is_sorted(), "order: {fresh:?}");
        }
        // Demand is conserved: a producer that answers what it is asked serves every ask, unless one has no bound.
        let starves = |seen: &Seen| Demand::from(seen.got.len()) < seen.asked;
        if self.live.values().all(|seen| seen.asked < Demand::MAX) {
            while self.live.values().any(starves) {
                assert!(!self.open.is_zero(), "somebody waits, and the producer was not asked");
                self.apply(&Step::Produce);
            }
        }
        // Somebody with more demand than there are events gets whatever is left.
        self.apply(&Step::Subscribe);
        self.apply(&Step::Ask(self.live.len() - 1, 1_000_000));
        assert_eq!((self.dispatcher.held(), self.returned.len(), self.buffer.len()), (0, 0, 0));
        // Nothing is lost and nothing is there twice.
        let mut all = self.finished;
        all.extend(self.live.values().flat_map(|seen| &seen.got).map(|(event, _)| *event));
        all.sort_unstable();
        assert_eq!(all, (0..self.next).collect::<Vec<_>>());
        // The attempt says how often an event came back.
        for (event, attempt) in self.live.values().flat_map(|seen| &seen.got) {
            assert_eq!(*attempt, 1 + self.times_returned.get(event).copied().unwrap_or(0), "attempt of {event}");
        }
    }
}

fn run<D: Dispatcher<u64>>(dispatcher: D, steps: &[Step]) {
    let mut model = Model::new(dispatcher);
    for step in steps {
        model.apply(step);
    }
    model.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn by_demand_keeps_the_laws(steps in prop::collection::vec(step(), 0..60)) {
        run(DemandDispatcher::new(), &steps);
    }
}
