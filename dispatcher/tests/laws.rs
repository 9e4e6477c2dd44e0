//! The laws of [`Dispatcher`], checked on every dispatcher under random sequences of calls.
//!
//! The model is a stage: a producer that answers demand exactly (or now and then with too much), a buffer that is
//! served first, and subscribers that ask, leave, and hand back what they did not finish. It knows for each event who
//! may get it, and holds every answer against that.
//!
//! `LAWS_CASES` sets how many sequences each configuration gets (default 3,200). A failure prints the shortest
//! sequence that was found for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use aqueduct_dispatcher::{
    Attempt, BroadcastDispatcher, Decision, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest, Keep, Lane,
    Marker, Overflow, PartitionDispatcher, Partitions, Refused, RoundRobinDispatcher, SubscriptionId,
};
use aqueduct_watchdog::Watch;

/// A dispatcher with its options.
#[derive(Clone, Copy, Debug)]
enum Subject {
    ByDemand { shuffled: bool },
    RoundRobin,
    Broadcast,
    Partition(Rules),
    FirstCome,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    count: usize,
    capacity: usize,
    overflow: Overflow,
    hash: Hash,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Plain,
    /// Changes each event, and discards some.
    Changing,
    /// Panics at some events, and sends others where nothing is.
    Failing,
}

/// Where an event belongs.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Lane(usize),
    Discarded,
    OutOfRange,
    Panics,
}

/// [`Hash::Changing`] adds this.
const CHANGED: u64 = 1 << 32;

impl Rules {
    fn place(self, event: u64) -> Place {
        let event = event as usize;
        match (self.hash, event % 5, event % 7) {
            (Hash::Changing, 3, _) => Place::Discarded,
            (Hash::Changing, ..) => Place::Lane(event / 2 % self.count),
            (Hash::Failing, _, 2) => Place::Panics,
            (Hash::Failing, _, 5) => Place::OutOfRange,
            _ => Place::Lane(event % self.count),
        }
    }

    fn hash(self, event: u64) -> Option<(u64, usize)> {
        let change = if matches!(self.hash, Hash::Changing) { CHANGED } else { 0 };
        assert!(event < CHANGED, "hashed twice");
        match self.place(event) {
            Place::Lane(lane) => Some((event + change, lane)),
            Place::Discarded => None,
            Place::OutOfRange => Some((event, self.count)),
            Place::Panics => resume_unwind(Box::new("no place")),
        }
    }
}

impl Subject {
    fn make(self, seed: u64) -> Box<dyn Dispatcher<u64>> {
        match self {
            Self::ByDemand { shuffled: false } => Box::new(DemandDispatcher::new()),
            Self::ByDemand { shuffled: true } => Box::new(DemandDispatcher::new().shuffle(seed)),
            Self::RoundRobin => Box::new(RoundRobinDispatcher::new()),
            Self::Broadcast => Box::new(BroadcastDispatcher::new()),
            Self::FirstCome => Box::new(FirstCome::default()),
            Self::Partition(rules) => {
                let partitions = Partitions::numbered(rules.count).expect("at least one");
                let dispatcher = PartitionDispatcher::new(partitions, move |event| rules.hash(event));
                Box::new(dispatcher.capacity(rules.capacity).overflow(rules.overflow))
            }
        }
    }
}

/// A dispatcher as a user might write it: everything to the first who still wants some.
#[derive(Default)]
struct FirstCome(Vec<(SubscriptionId, Demand)>);

impl<T> Dispatcher<T> for FirstCome {
    fn subscribe(&mut self, id: SubscriptionId, _: Interest<T>) -> Result<(), Refused> {
        if self.0.iter().any(|(other, _)| *other == id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.0.push((id, Demand::ZERO));
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        self.0.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, current)| current.add(demand));
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        self.0.retain(|(other, _)| *other != id);
    }

    fn demand(&self) -> Demand {
        self.0.iter().fold(Demand::ZERO, |sum, (_, demand)| sum.saturating_add(*demand))
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        for (id, demand) in &mut self.0 {
            let count = demand.take(Demand::from(events.len())).as_len();
            deliveries.give(*id, events, count, attempt);
        }
    }
}

/// What a subscriber takes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Taste {
    /// Everything; it has no selector.
    All,
    /// Everything; it has a selector.
    Selected,
    Even,
    Odd,
    Third,
    Nothing,
    /// Everything, but its selector panics at some events.
    Panics,
}

impl Taste {
    /// Those that leave events to others are there more often: what waits for one of them is in front of the others.
    const EACH: [Self; 10] = [
        Self::All,
        Self::Selected,
        Self::Even,
        Self::Odd,
        Self::Even,
        Self::Odd,
        Self::Third,
        Self::Third,
        Self::Nothing,
        Self::Panics,
    ];

    /// `None` where the selector panics.
    fn accepts(self, event: u64) -> Option<bool> {
        match self {
            Self::All | Self::Selected => Some(true),
            Self::Even => Some(event.is_multiple_of(2)),
            Self::Odd => Some(!event.is_multiple_of(2)),
            Self::Third => Some(event.is_multiple_of(3)),
            Self::Nothing => Some(false),
            Self::Panics => (event % 20 != 17).then_some(true),
        }
    }

    fn interest(self, lane: Option<usize>) -> Interest<u64> {
        let partition = lane.map(Into::into);
        if self == Self::All {
            return Interest { selector: None, partition };
        }
        let selector = move |event: &u64| self.accepts(*event).unwrap_or_else(|| resume_unwind(Box::new("taste")));
        Interest { selector: Some(Arc::new(selector)), partition }
    }
}

/// What happens to a dispatcher. Numbers are reduced to whoever is there.
#[derive(Clone, Copy, Debug)]
enum Step {
    Subscribe(Taste, usize),
    Ask(usize, u64),
    /// The producer answers all of its demand.
    Produce,
    /// The producer emits events that nobody asked for.
    Surprise(u64),
    /// A subscriber leaves and hands the last `n` of its events back: at once, or when the others have been served.
    Leave(usize, usize, When),
    /// Asking and leaving once more after the end.
    Ghost(usize),
    Info,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    AtOnce,
    Later,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn steps(&mut self, selectors: bool) -> Vec<Step> {
        (0..self.below(40)).map(|_| self.step(selectors)).collect()
    }

    fn step(&mut self, selectors: bool) -> Step {
        let who = self.below(1 << 16) as usize;
        match self.below(34) {
            0..4 => Step::Subscribe(if selectors { Taste::EACH[self.below(10) as usize] } else { Taste::All }, who),
            4..16 => Step::Ask(who, self.below(30)),
            16 if self.below(10) == 0 => Step::Ask(who, u64::MAX),
            16..24 => Step::Produce,
            24..26 => Step::Surprise(1 + self.below(19)),
            26 => Step::Leave(who, self.below(20) as usize, When::AtOnce),
            27..30 => Step::Leave(who, self.below(20) as usize, When::Later),
            30..32 => Step::Ghost(who),
            _ => Step::Info,
        }
    }
}

/// One subscriber, as the model sees it.
struct Seen {
    /// Counts the subscribers: names it in the digest.
    number: usize,
    taste: Taste,
    lane: usize,
    /// Asked and not yet given.
    unserved: Demand,
    /// Event and attempt, in the order in which they came.
    got: Vec<(u64, u32)>,
    /// What a broadcast owes it: what it accepts of all that was taken since it came.
    due: Vec<u64>,
}

struct Model {
    subject: Subject,
    dispatcher: Box<dyn Dispatcher<u64>>,
    deliveries: Deliveries<u64>,
    live: BTreeMap<SubscriptionId, Seen>,
    gone: Vec<SubscriptionId>,
    subscribed: usize,
    /// Passed up to the producer and not answered.
    open: Demand,
    next: u64,
    /// Given back and not taken, oldest first, with the attempt that is to follow.
    returned: VecDeque<(Attempt, VecDeque<u64>)>,
    buffer: VecDeque<u64>,
    /// Finished by subscribers that have left.
    finished: Vec<(u64, u32)>,
    times_returned: BTreeMap<u64, u32>,
    /// Of each partition what is queued, in order, and what was handed back to it, where nothing is dropped.
    queued: Vec<VecDeque<u64>>,
    handed_back: BTreeSet<u64>,
    /// The number of events in queues; below zero only within a dispatch.
    held: i64,
    /// The newest event of each partition.
    newest: Vec<Option<u64>>,
    discarded: u64,
    failed: u64,
    markers: VecDeque<(Marker, BTreeSet<u64>)>,
    /// Of everything that was decided.
    digest: u64,
}

/// What a subscriber wanted before a dispatch.
struct Wanted {
    number: usize,
    taste: Taste,
    /// What it had asked for, and what of that is left.
    demand: Demand,
    left: Demand,
}

/// A producer that was asked "without bound" answers with this many at a time.
const AT_ONCE: u64 = 64;

impl Model {
    fn new(subject: Subject, seed: u64) -> Self {
        let lanes = if let Subject::Partition(rules) = subject { rules.count } else { 1 };
        Self {
            subject,
            dispatcher: subject.make(seed),
            deliveries: Deliveries::new(),
            live: BTreeMap::new(),
            gone: Vec::new(),
            subscribed: 0,
            open: Demand::ZERO,
            next: 0,
            returned: VecDeque::new(),
            buffer: VecDeque::new(),
            finished: Vec::new(),
            times_returned: BTreeMap::new(),
            queued: vec![VecDeque::new(); lanes],
            handed_back: BTreeSet::new(),
            held: 0,
            newest: vec![None; lanes],
            discarded: 0,
            failed: 0,
            markers: VecDeque::new(),
            digest: 0,
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Subscribe(taste, lane) => drop(self.subscribe(taste, lane)),
            Step::Ask(who, n) => {
                if let Some(id) = self.pick(who) {
                    self.ask(id, n);
                }
            }
            Step::Produce => self.emit(self.open.count().min(AT_ONCE)),
            Step::Surprise(count) => self.emit(count),
            Step::Leave(who, unfinished, when) => {
                if let Some(id) = self.pick(who) {
                    self.leave(id, unfinished, when);
                }
            }
            Step::Ghost(who) => {
                let Some(&id) = self.gone.get(who % self.gone.len().max(1)) else { return };
                let before = self.dispatcher.demand();
                self.dispatcher.ask(id, Demand::new(5), &mut self.deliveries);
                self.dispatcher.cancel(id, &mut self.deliveries);
                assert_eq!(self.dispatcher.demand(), before, "who has left can neither ask nor leave");
                assert!(self.deliveries.is_empty());
            }
            Step::Info => self.info(),
        }
        self.pull();
        self.check_state();
    }

    fn subscribe(&mut self, taste: Taste, lane: usize) -> SubscriptionId {
        let id = SubscriptionId::new();
        let lane = lane % self.queued.len();
        let interest = taste.interest(matches!(self.subject, Subject::Partition(_)).then_some(lane));
        self.dispatcher.subscribe(id, interest.clone()).expect("a new one");
        assert_eq!(self.dispatcher.subscribe(id, interest), Err(Refused::AlreadySubscribed));
        let number = self.subscribed;
        self.subscribed += 1;
        self.live.insert(id, Seen { number, taste, lane, unserved: Demand::ZERO, got: Vec::new(), due: Vec::new() });
        id
    }

    fn ask(&mut self, id: SubscriptionId, n: u64) {
        self.live.get_mut(&id).expect("live").unserved.add(Demand::new(n));
        self.dispatcher.ask(id, Demand::new(n), &mut self.deliveries);
        self.deliver();
    }

    fn leave(&mut self, id: SubscriptionId, unfinished: usize, when: When) {
        let lane = self.dispatcher.lane(id);
        self.dispatcher.cancel(id, &mut self.deliveries);
        let seen = self.live.remove(&id).expect("live");
        self.gone.push(id);
        self.deliver();
        if when == When::Later {
            self.pull();
        }
        self.hand_back(lane, seen, unfinished, when);
    }

    fn info(&mut self) {
        let marker = Marker(self.next);
        let before = self.queued.iter().flatten().copied().collect();
        self.markers.push_back((marker, before));
        self.dispatcher.info(marker, &mut self.deliveries);
        self.deliver();
        assert!(self.markers.is_empty() || self.held > 0, "nothing is in front of the marker");
    }

    fn pick(&self, who: usize) -> Option<SubscriptionId> {
        self.live.keys().nth(who % self.live.len().max(1)).copied()
    }

    fn emit(&mut self, count: u64) {
        self.open = self.open.saturating_sub(Demand::new(count));
        self.buffer.extend(self.next..self.next + count);
        self.next += count;
        self.pull();
    }

    /// As a stage does: serves what waits, then asks the producer for what is missing.
    fn pull(&mut self) {
        while let Some((attempt, mut events)) = self.returned.pop_front() {
            self.offer(&mut events, attempt);
            if !events.is_empty() {
                self.returned.push_front((attempt, events));
                break;
            }
        }
        if self.returned.is_empty() {
            let mut events = std::mem::take(&mut self.buffer);
            self.offer(&mut events, Attempt::FIRST);
            self.buffer = events;
        }
        let more = self.dispatcher.demand().saturating_sub(self.open);
        self.open.add(more);
    }

    /// Dispatches, and holds what became of every event against what should.
    fn offer(&mut self, events: &mut VecDeque<u64>, attempt: Attempt) {
        let before: Vec<_> = events.iter().copied().collect();
        let (demand, live) = (self.dispatcher.demand().as_len(), self.live.len());
        let wanted = self.wanted();
        self.dispatcher.dispatch(events, attempt, &mut self.deliveries);
        let (taken, rest) = before.split_at(before.len() - events.len());
        assert!(*events == rest, "what stays is the rest");
        let given = self.deliver();
        self.check_order(wanted, taken, &given);
        let delivered: Vec<_> = given.keys().copied().collect();
        let (discarded, failed) = self.deliveries.take_counts();
        (self.discarded, self.failed) = (self.discarded + discarded, self.failed + failed);
        if self.live.len() == live && self.live.values().all(|seen| seen.taste == Taste::All) {
            assert!(taken.len() >= before.len().min(demand), "takes what it said it would");
        }
        let refused = |event: &u64| self.live.values().all(|seen| seen.taste.accepts(*event) == Some(false));
        match self.subject {
            Subject::Broadcast => {
                assert_eq!((discarded, failed), (taken.iter().filter(|event| refused(event)).count() as u64, 0));
                for seen in self.live.values_mut() {
                    let accepted = taken.iter().filter(|event| seen.taste.accepts(**event) == Some(true));
                    seen.due.extend(accepted);
                    assert!(
                        seen.got.iter().map(|(event, _)| event).eq(&seen.due),
                        "{:?}, not {:?}",
                        seen.got,
                        seen.due
                    );
                }
            }
            Subject::Partition(rules) => self.took(rules, taken, &delivered, (discarded, failed)),
            Subject::ByDemand { .. } | Subject::RoundRobin | Subject::FirstCome => {
                let nobodys: Vec<_> = taken.iter().filter(|event| !delivered.contains(event)).collect();
                assert!(nobodys.iter().all(|event| refused(event)), "{nobodys:?} were wanted");
                assert_eq!((discarded, failed), (nobodys.len() as u64, 0));
            }
        }
    }

    fn took(&mut self, rules: Rules, taken: &[u64], delivered: &[u64], (discarded, failed): (u64, u64)) {
        let places = || taken.iter().map(|event| rules.place(*event));
        let failing = |place: &Place| matches!(place, Place::Panics | Place::OutOfRange);
        assert_eq!(failed, places().filter(failing).count() as u64);
        let by_decision = places().filter(|place| *place == Place::Discarded).count() as u64;
        let dropped = discarded.checked_sub(by_decision).expect("every discarded event is counted");
        let placed = places().filter(|place| matches!(place, Place::Lane(_))).count();
        self.held += placed as i64 - dropped as i64;
        if rules.overflow == Overflow::Block {
            assert_eq!(dropped, 0, "nothing is dropped");
            for event in taken.iter().filter(|event| !delivered.contains(event)) {
                if let Place::Lane(lane) = rules.place(*event) {
                    self.queued[lane].push_back(*event);
                }
            }
        }
    }

    fn hand_back(&mut self, lane: Lane, mut seen: Seen, unfinished: usize, when: When) {
        let at = seen.got.len() - unfinished.min(seen.got.len());
        let mut back = seen.got.split_off(at);
        self.finished.append(&mut seen.got);
        let (mut is_settled, live) = (when == When::Later, self.live.len());
        // One call for each run of one attempt, the last first, so that the oldest ends up at the head.
        while let Some(&(_, attempt)) = back.last() {
            let from = back.iter().rposition(|(_, other)| *other != attempt).map_or(0, |at| at + 1);
            let run: Vec<_> = back.drain(from..).map(|(event, _)| event).collect();
            let next = (0..attempt).fold(Attempt::FIRST, |attempt, _| attempt.next());
            self.give_back(lane, seen.lane, &run, next);
            // Others may have waited for the subscriber that failed.
            is_settled &= self.live.len() == live;
            if is_settled {
                // What waited before still does: nothing newer passes it.
                self.check_state();
            }
        }
    }

    fn give_back(&mut self, lane: Lane, place: usize, run: &[u64], next: Attempt) {
        run.iter().for_each(|event| *self.times_returned.entry(*event).or_default() += 1);
        let mut events: VecDeque<_> = run.iter().copied().collect();
        match self.subject {
            Subject::Broadcast => {
                self.dispatcher.give_back(lane, &mut events, next, &mut self.deliveries);
                assert_eq!(self.deliveries.take_counts(), (run.len() as u64, 0), "nobody else lacks them");
                assert!(events.is_empty());
                self.finished.extend(run.iter().map(|event| (*event, 1)));
            }
            Subject::Partition(Rules { hash, overflow, .. }) => {
                if matches!(hash, Hash::Changing) {
                    events.iter_mut().for_each(|event| *event += CHANGED);
                }
                self.held += run.len() as i64;
                self.handed_back.extend(run);
                if overflow == Overflow::Block {
                    run.iter().rev().for_each(|event| self.queued[place].push_front(*event));
                }
                self.dispatcher.give_back(lane, &mut events, next, &mut self.deliveries);
                assert!(events.is_empty(), "its partition keeps them");
                assert_eq!(self.deliveries.take_counts(), (0, 0), "somebody can still take them");
                self.deliver();
            }
            Subject::ByDemand { .. } | Subject::RoundRobin | Subject::FirstCome => {
                let wanted = self.wanted();
                self.dispatcher.give_back(lane, &mut events, next, &mut self.deliveries);
                let delivered = self.deliver();
                self.check_order(wanted, run, &delivered);
                let discarded = self.deliveries.take_counts().0;
                self.discarded += discarded;
                assert_eq!(delivered.len() + events.len() + discarded as usize, run.len());
                if !events.is_empty() {
                    self.returned.push_front((next, events));
                }
            }
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let wanted = |Seen { number, taste, unserved, .. }: &Seen| Wanted {
            number: *number,
            taste: *taste,
            demand: *unserved,
            left: *unserved,
        };
        self.live.values().map(wanted).collect()
    }

    /// By demand, each event goes to the subscriber that wants the most when it is dispatched, of those that accept it.
    fn check_order(&self, mut wanted: Vec<Wanted>, events: &[u64], given: &BTreeMap<u64, usize>) {
        let is_known = wanted.iter().all(|wanted| wanted.taste != Taste::Panics);
        if !matches!(self.subject, Subject::ByDemand { shuffled: false }) || !is_known {
            return;
        }
        for event in events {
            let Some(number) = given.get(event) else { continue };
            let could = wanted.iter().filter(|one| !one.left.is_zero() && one.taste.accepts(*event) == Some(true));
            let most = could.map(|one| one.demand).max();
            let to = wanted.iter_mut().find(|one| one.number == *number).expect("somebody who is there");
            assert_eq!(Some(to.demand), most, "{event} to somebody who wanted less");
            to.left = to.left.saturating_sub(Demand::new(1));
        }
    }

    /// Carries out what was decided, and checks it. Returns the events that were given out, and to whom.
    fn deliver(&mut self) -> BTreeMap<u64, usize> {
        let mut delivered = BTreeMap::new();
        while let Some(decision) = self.deliveries.pop() {
            match decision {
                Decision::Deliver(delivery) => {
                    assert!(!delivery.events.is_empty(), "an empty batch");
                    self.record(delivery.to, delivery.attempt.number(), delivery.events.into_vec(), &mut delivered);
                }
                Decision::Fail(id, why) => {
                    let mut seen = self.live.remove(&id).expect("a failure of somebody who is not there");
                    assert!(seen.taste == Taste::Panics && why.contains("taste"), "{why}");
                    self.finished.append(&mut seen.got);
                    self.gone.push(id);
                    self.dispatcher.cancel(id, &mut self.deliveries);
                }
                Decision::Pass(marker) => {
                    let (first, before) = self.markers.pop_front().expect("a marker that was not sent");
                    assert_eq!((marker, before), (first, BTreeSet::new()), "events stood in front of the marker");
                }
            }
        }
        delivered
    }

    fn record(&mut self, to: SubscriptionId, attempt: u32, events: Vec<u64>, delivered: &mut BTreeMap<u64, usize>) {
        let seen = self.live.get_mut(&to).expect("events for somebody who is not there");
        let left = seen.unserved.checked_sub(Demand::from(events.len()));
        seen.unserved = left.unwrap_or_else(|| panic!("{} events, and {} asked for", events.len(), seen.unserved));
        for mut event in events {
            self.digest = self.digest.rotate_left(5).wrapping_mul(31) ^ event ^ (seen.number as u64 + 1);
            if let Subject::Partition(rules) = self.subject {
                if matches!(rules.hash, Hash::Changing) {
                    event = event.checked_sub(CHANGED).expect("it was changed");
                }
                assert!(rules.place(event) == Place::Lane(seen.lane), "{event} in {}", seen.lane);
                let newest = &mut self.newest[seen.lane];
                assert!(attempt > 1 || newest.is_none_or(|newest| newest < event), "{event} after {newest:?}");
                *newest = (*newest).max(Some(event));
                self.held -= 1;
                let first = self.queued[seen.lane].pop_front().unwrap_or(event);
                assert_eq!(event, first, "it was not the first in the queue");
                self.handed_back.remove(&event);
                self.markers.iter_mut().for_each(|(_, before)| _ = before.remove(&event));
            }
            assert_eq!(seen.taste.accepts(event), Some(true), "it was not wanted");
            let newer = seen.got.iter().rev().find(|(_, attempt)| *attempt == 1).is_some_and(|(last, _)| *last > event);
            assert!(attempt > 1 || !newer, "{event} out of order");
            assert_eq!(attempt, 1 + self.times_returned.get(&event).copied().unwrap_or(0), "attempt of {event}");
            seen.got.push((event, attempt));
            delivered.insert(event, seen.number);
        }
    }

    /// What must hold between any two calls.
    fn check_state(&self) {
        let demand = self.dispatcher.demand();
        let unserved = || self.live.values().map(|seen| seen.unserved);
        let sum = unserved().fold(Demand::ZERO, Demand::saturating_add);
        let waiting = self.returned.front().and_then(|(_, events)| events.front()).or(self.buffer.front());
        assert_eq!(self.dispatcher.held() as i64, self.held);
        assert!(self.open >= demand, "the producer was asked for all of it");
        match self.subject {
            Subject::Broadcast => {
                assert_eq!(demand, unserved().min().unwrap_or_default());
                assert!(demand.is_zero() || waiting.is_none(), "held back");
            }
            Subject::Partition(rules) => self.check_partitions(rules, demand, sum, waiting.is_some()),
            Subject::ByDemand { .. } | Subject::RoundRobin | Subject::FirstCome => match waiting {
                Some(event) if !sum.is_zero() => {
                    let accepts = |seen: &&Seen| seen.taste.accepts(*event) != Some(false);
                    assert!(self.live.values().any(|seen| accepts(&seen)), "nobody wants {event}");
                    assert!(self.live.values().filter(accepts).all(|seen| seen.unserved.is_zero()), "held back");
                    assert_eq!(demand, Demand::ZERO, "the producer cannot help");
                }
                _ => assert_eq!(demand, sum),
            },
        }
    }

    fn check_partitions(&self, rules: Rules, demand: Demand, sum: Demand, is_waiting: bool) {
        assert!(demand.is_zero() || !is_waiting, "held back");
        let bound = rules.capacity * rules.count + self.handed_back.len();
        assert!(self.held as usize <= bound, "{} are held, bound {bound}", self.held);
        if rules.overflow != Overflow::Block {
            return assert_eq!(demand, sum);
        }
        let mut fits = sum;
        for (lane, queued) in self.queued.iter().enumerate() {
            let of_lane = self.live.values().filter(|seen| seen.lane == lane);
            let unserved = of_lane.fold(Demand::ZERO, |sum, seen| sum.saturating_add(seen.unserved));
            assert!(unserved.is_zero() || queued.is_empty(), "held back in {lane}");
            let back = queued.iter().filter(|event| self.handed_back.contains(event)).count();
            assert!(queued.len() <= rules.capacity + back, "{} in {lane}", queued.len());
            fits = fits.min(unserved.saturating_add(Demand::from(rules.capacity.saturating_sub(queued.len()))));
        }
        assert_eq!(demand, fits);
    }

    /// Lets the producer answer until nothing is open, and holds the end against the laws. Returns the digest.
    fn check(mut self) -> u64 {
        let is_bounded = |seen: &Seen| seen.taste == Taste::All && seen.unserved < Demand::new(1_000_000);
        if self.live.values().all(is_bounded) {
            self.serve_everybody();
        }
        self.empty();
        let mut all: Vec<_> = self.finished.iter().chain(self.live.values().flat_map(|seen| &seen.got)).collect();
        if matches!(self.subject, Subject::Broadcast) {
            return self.digest;
        }
        // Nothing is lost and nothing is there twice.
        all.sort_unstable();
        assert!(all.windows(2).all(|two| two[0].0 < two[1].0), "twice");
        assert_eq!(all.len() as u64 + self.discarded + self.failed, self.next, "lost");
        self.digest
    }

    /// Demand is conserved: a producer that answers what it is asked serves every ask.
    fn serve_everybody(&mut self) {
        if matches!(self.subject, Subject::Broadcast) {
            // The slowest must ask for as much as the others.
            let most = self.live.values().map(|seen| seen.unserved).max().unwrap_or_default();
            let missing = |(id, seen): (&SubscriptionId, &Seen)| (*id, most.saturating_sub(seen.unserved).count());
            for (id, count) in self.live.iter().map(missing).collect::<Vec<_>>() {
                self.ask(id, count);
            }
            self.pull();
        }
        let mut idle = 0;
        while self.live.values().any(|seen| !seen.unserved.is_zero()) {
            if !self.open.is_zero() {
                self.apply(Step::Produce);
                idle = 0;
                continue;
            }
            // What waits in the buffer fills the room that is made, until it is empty.
            assert!(idle < 100, "somebody waits, and the producer was not asked");
            self.make_room();
            idle += 1;
        }
    }

    /// Takes what every partition holds.
    fn make_room(&mut self) {
        for lane in 0..self.queued.len() {
            if !self.queued[lane].is_empty() {
                let id = self.subscribe(Taste::All, lane);
                self.ask(id, self.queued[lane].len() as u64);
                self.leave(id, 0, When::AtOnce);
            }
        }
        self.pull();
    }

    /// Somebody with more demand than there are events gets whatever is left.
    fn empty(&mut self) {
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            self.leave(id, 0, When::AtOnce);
        }
        for lane in 0..self.queued.len() {
            let id = self.subscribe(Taste::All, lane);
            self.ask(id, 1_000_000);
        }
        self.pull();
        self.check_state();
        assert_eq!((self.dispatcher.held(), self.returned.len(), self.buffer.len()), (0, 0, 0));
        assert!(self.markers.is_empty(), "a marker was lost");
    }
}

fn run(subject: Subject, seed: u64, steps: &[Step]) -> u64 {
    let mut model = Model::new(subject, seed);
    for step in steps {
        model.apply(*step);
    }
    model.check()
}

/// Leaves steps out as long as the rest still fails.
fn shorten(subject: Subject, seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let fails = |steps: &[Step]| catch_unwind(AssertUnwindSafe(|| run(subject, seed, steps))).is_err();
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if fails(&fewer) {
            steps = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    steps
}

fn check(subject: Subject, selectors: bool) {
    let cases = std::env::var("LAWS_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3_200);
    let watch = Watch::over(format!("{subject:?}, seed "));
    for seed in 0..cases {
        watch.begin(seed);
        let steps = Random(seed).steps(selectors);
        let Ok(digest) = catch_unwind(AssertUnwindSafe(|| run(subject, seed, &steps))) else {
            let shortest = shorten(subject, seed, steps);
            panic!("{subject:?}, seed {seed}, fails (see the last panic above) after {shortest:#?}");
        };
        if seed % 8 == 0 {
            assert_eq!(run(subject, seed, &steps), digest, "{subject:?}, seed {seed}: the same calls, another run");
        }
    }
}

/// Every hash, with queues that fill up and queues that do not.
fn check_partitions(count: usize, overflow: Overflow) {
    for (hash, capacity) in [(Hash::Plain, 7), (Hash::Changing, 3), (Hash::Failing, 50)] {
        check(Subject::Partition(Rules { count, capacity, overflow, hash }), false);
    }
}

macro_rules! laws {
    ($($name:ident: $check:expr;)*) => {$(
        #[test]
        fn $name() {
            $check;
        }
    )*};
}

laws! {
    by_demand: check(Subject::ByDemand { shuffled: false }, false);
    by_demand_shuffled: check(Subject::ByDemand { shuffled: true }, false);
    by_demand_with_selectors: check(Subject::ByDemand { shuffled: false }, true);
    by_demand_shuffled_with_selectors: check(Subject::ByDemand { shuffled: true }, true);
    round_robin: check(Subject::RoundRobin, false);
    round_robin_with_selectors: check(Subject::RoundRobin, true);
    broadcast: check(Subject::Broadcast, false);
    broadcast_with_selectors: check(Subject::Broadcast, true);
    user_written: check(Subject::FirstCome, false);
    one_partition_that_blocks: check_partitions(1, Overflow::Block);
    one_partition_that_keeps_the_first: check_partitions(1, Overflow::Keep(Keep::First));
    one_partition_that_keeps_the_last: check_partitions(1, Overflow::Keep(Keep::Last));
    three_partitions_that_block: check_partitions(3, Overflow::Block);
    three_partitions_that_keep_the_first: check_partitions(3, Overflow::Keep(Keep::First));
    three_partitions_that_keep_the_last: check_partitions(3, Overflow::Keep(Keep::Last));
    eight_partitions_that_block: check_partitions(8, Overflow::Block);
    eight_partitions_that_keep_the_first: check_partitions(8, Overflow::Keep(Keep::First));
    eight_partitions_that_keep_the_last: check_partitions(8, Overflow::Keep(Keep::Last));
    the_same_seed_shuffles_the_same_way: check_shuffle();
}

fn check_shuffle() {
    let order = |seed| {
        let mut dispatcher = DemandDispatcher::new().shuffle(seed);
        let mut deliveries = Deliveries::new();
        let ids = [(); 8].map(|()| SubscriptionId::new());
        for id in ids {
            dispatcher.subscribe(id, Interest::ALL).expect("a new one");
            dispatcher.ask(id, Demand::new(1), &mut deliveries);
        }
        dispatcher.dispatch(&mut (0..8_u64).collect(), Attempt::FIRST, &mut deliveries);
        let batches = std::iter::from_fn(|| deliveries.pop()).map(|decision| match decision {
            Decision::Deliver(delivery) => (delivery.events[0], ids.iter().position(|id| *id == delivery.to)),
            other => panic!("{other:?}"),
        });
        let mut batches: Vec<_> = batches.collect();
        batches.sort_unstable();
        batches
    };
    assert_eq!(order(7), order(7));
    let orders: BTreeSet<_> = (0..100).map(order).collect();
    assert!(orders.len() > 95, "{} orders of 100 seeds", orders.len());
}
