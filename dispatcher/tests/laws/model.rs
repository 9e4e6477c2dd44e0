//! A stage as the laws see it, which knows for each event who may get it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aqueduct_dispatcher::{
    Attempt, Decision, Deliveries, Demand, Dispatcher, Lane, Marker, Overflow, Refused, SubscriptionId,
};

use super::steps::{Step, Taste, When};
use super::subject::{CHANGED, Hash, Place, Rules, Subject};

mod checks;

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

pub(crate) struct Model {
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
    pub(crate) fn new(subject: Subject, seed: u64) -> Self {
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

    pub(crate) fn apply(&mut self, step: Step) {
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
}
