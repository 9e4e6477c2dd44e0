//! [`check_dispatcher`]: whether a dispatcher keeps the contract.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use aqueduct_dispatcher::{
    Attempt, Decision, Deliveries, Demand, Dispatcher, Interest, Lane, Marker, PartitionName, Refused, SubscriptionId,
};

/// Checks that a dispatcher of one's own keeps the contract of [`Dispatcher`], under 500 sequences of calls as a stage
/// might make them: subscribers come, ask, leave, and hand back what they did not finish; events come when there is
/// demand, and when there is none. The sequences are the same in every run.
///
/// `make` makes the dispatcher, and `partition` says which partition the subscriber of that number wants, if there are
/// any. Subscribers have no selectors, and the dispatcher must not change the events.
///
/// ```
/// use aqueduct_stage::RoundRobinDispatcher;
/// use aqueduct_stage::testing::check_dispatcher;
///
/// check_dispatcher(RoundRobinDispatcher::new, |_| None);
/// ```
///
/// # Panics
///
/// With the law that was broken, and the calls up to there:
///
/// * a subscriber is never given more than it asked for, nothing after it has left, and no empty batch;
/// * an event is given out, held, left, discarded or failed, and counted as one of them; never lost, never doubled;
/// * each subscriber gets its events in order, with the attempt's number;
/// * as many events are taken as the dispatcher's demand promised;
/// * when everybody has asked and nothing is held, there is demand;
/// * a subscription that is there is refused, and one that is not neither asks nor leaves;
/// * a marker passes what was not held before it, and nothing else;
/// * the same calls have the same answers.
#[track_caller]
pub fn check_dispatcher<D: Dispatcher<u64>>(make: impl Fn() -> D, partition: impl Fn(usize) -> Option<PartitionName>) {
    for seed in 0..SEQUENCES {
        let first = Model::new(make(), &partition).play(Random(seed));
        let second = Model::new(make(), &partition).play(Random(seed));
        assert!(first == second, "sequence {seed}: the same calls had other answers the second time");
    }
}

/// Takes well under a second without optimisation, and finds the usual mistakes within the first few.
const SEQUENCES: u64 = 500;
/// Calls in a sequence.
const LENGTH: usize = 40;
/// A producer that is asked for more answers with so many at a time.
const AT_ONCE: u64 = 64;

/// A stage around a dispatcher.
struct Model<'a, D> {
    dispatcher: D,
    partition: &'a dyn Fn(usize) -> Option<PartitionName>,
    deliveries: Deliveries<u64>,
    live: Vec<Seen>,
    gone: Vec<SubscriptionId>,
    subscribed: usize,
    next: u64,
    /// Given back and not taken, oldest first.
    returned: VecDeque<(Attempt, VecDeque<u64>)>,
    buffer: VecDeque<u64>,
    markers: VecDeque<Marker>,
    /// Who got what.
    answers: Vec<(usize, Vec<u64>)>,
    /// What was called, for the failure.
    calls: Vec<String>,
}

/// A subscriber.
struct Seen {
    number: usize,
    id: SubscriptionId,
    /// Asked and not given yet.
    open: Demand,
    got: Vec<(u64, Attempt)>,
}

impl<'a, D: Dispatcher<u64>> Model<'a, D> {
    fn new(dispatcher: D, partition: &'a dyn Fn(usize) -> Option<PartitionName>) -> Self {
        Self {
            dispatcher,
            partition,
            deliveries: Deliveries::new(),
            live: Vec::new(),
            gone: Vec::new(),
            subscribed: 0,
            next: 0,
            returned: VecDeque::new(),
            buffer: VecDeque::new(),
            markers: VecDeque::new(),
            answers: Vec::new(),
            calls: Vec::new(),
        }
    }

    #[track_caller]
    fn play(mut self, mut random: Random) -> Vec<(usize, Vec<u64>)> {
        for _ in 0..LENGTH {
            let who = random.below(self.live.len().max(1) as u64) as usize;
            match random.below(32) {
                0..4 => self.subscribe(),
                4..16 if who < self.live.len() => self.ask(who, random.below(30)),
                16..22 => self.emit(self.dispatcher.demand().count().min(AT_ONCE)),
                22..24 => self.emit(1 + random.below(19)),
                24..28 if who < self.live.len() => self.leave(who, random.below(20) as usize),
                28..30 => self.ghost(),
                _ => self.info(),
            }
            self.pull();
            let all_have_asked = !self.live.is_empty() && self.live.iter().all(|seen| !seen.open.is_zero());
            if all_have_asked && self.dispatcher.held() == 0 {
                self.law(!self.dispatcher.demand().is_zero(), "everybody has asked, and there is no demand");
            }
        }
        self.answers
    }

    #[track_caller]
    fn subscribe(&mut self) {
        let (id, number) = (SubscriptionId::new(), self.subscribed);
        self.calls.push(format!("subscribe {number}"));
        self.subscribed += 1;
        let interest = || Interest { selector: None, partition: (self.partition)(number) };
        let taken = self.dispatcher.subscribe(id, interest());
        let again = self.dispatcher.subscribe(id, interest());
        self.law(taken.is_ok(), format_args!("a new subscriber was refused: {taken:?}"));
        self.law(again == Err(Refused::AlreadySubscribed), "a subscription that is there was not refused");
        self.live.push(Seen { number, id, open: Demand::ZERO, got: Vec::new() });
    }

    #[track_caller]
    fn ask(&mut self, who: usize, count: u64) {
        let Seen { number, id, open, .. } = &mut self.live[who];
        self.calls.push(format!("{number} asks for {count}"));
        open.add(Demand::new(count));
        let id = *id;
        self.account(&mut VecDeque::new(), |dispatcher, _, deliveries| {
            dispatcher.ask(id, Demand::new(count), deliveries);
        });
    }

    /// Events come, whether there is demand or not.
    fn emit(&mut self, count: u64) {
        self.calls.push(format!("{count} events come"));
        self.buffer.extend(self.next..self.next + count);
        self.next += count;
    }

    /// A subscriber leaves, and hands back the last of its events.
    #[track_caller]
    fn leave(&mut self, who: usize, unfinished: usize) {
        let Seen { number, id, mut got, .. } = self.live.remove(who);
        let back = got.split_off(got.len() - unfinished.min(got.len()));
        self.calls.push(format!("{number} leaves and hands {} events back", back.len()));
        self.gone.push(id);
        let lane = self.dispatcher.lane(id);
        self.account(&mut VecDeque::new(), |dispatcher, _, deliveries| dispatcher.cancel(id, deliveries));
        let mut left = Vec::new();
        for run in back.chunk_by(|one, other| one.1 == other.1) {
            left.extend(self.give_back(lane, run));
        }
        left.into_iter().rev().for_each(|run| self.returned.push_front(run));
    }

    /// Returns what stays, and is offered again.
    #[track_caller]
    fn give_back(&mut self, lane: Lane, run: &[(u64, Attempt)]) -> Option<(Attempt, VecDeque<u64>)> {
        let attempt = run.first()?.1.next();
        let mut events: VecDeque<u64> = run.iter().map(|(event, _)| *event).collect();
        self.account(&mut events, |dispatcher, events, deliveries| {
            dispatcher.give_back(lane, events, attempt, deliveries);
        });
        (!events.is_empty()).then_some((attempt, events))
    }

    /// One that has left asks and leaves.
    #[track_caller]
    fn ghost(&mut self) {
        let Some(&id) = self.gone.last() else { return };
        self.calls.push("one that has left asks and leaves".to_owned());
        let before = self.dispatcher.demand();
        self.dispatcher.ask(id, Demand::new(5), &mut self.deliveries);
        self.dispatcher.cancel(id, &mut self.deliveries);
        self.law(self.dispatcher.demand() == before, "one that has left has changed the demand");
        self.law(self.deliveries.is_empty(), "one that has left has caused something");
    }

    #[track_caller]
    fn info(&mut self) {
        let marker = Marker(self.next);
        self.calls.push("a marker comes".to_owned());
        self.markers.push_back(marker);
        self.account(&mut VecDeque::new(), |dispatcher, _, deliveries| dispatcher.info(marker, deliveries));
    }

    /// As a stage does: offers what was handed back, and then what waits.
    #[track_caller]
    fn pull(&mut self) {
        while let Some((attempt, mut events)) = self.returned.pop_front() {
            self.offer(&mut events, attempt);
            if !events.is_empty() {
                self.returned.push_front((attempt, events));
                return;
            }
        }
        let mut events = std::mem::take(&mut self.buffer);
        self.offer(&mut events, Attempt::FIRST);
        self.buffer = events;
    }

    #[track_caller]
    fn offer(&mut self, events: &mut VecDeque<u64>, attempt: Attempt) {
        let before: Vec<u64> = events.iter().copied().collect();
        let promised = self.dispatcher.demand().as_len().min(before.len());
        self.account(events, |dispatcher, events, deliveries| dispatcher.dispatch(events, attempt, deliveries));
        let taken = before.len().saturating_sub(events.len());
        self.law(
            *events == &before[taken..],
            format_args!("of {before:?} it left {events:?}, which is not the end of it"),
        );
        self.law(taken >= promised, format_args!("its demand promised to take {promised} events, it took {taken}"));
    }

    /// Makes a call, carries out what was decided, and holds the events against it.
    #[track_caller]
    fn account(
        &mut self,
        events: &mut VecDeque<u64>,
        call: impl FnOnce(&mut D, &mut VecDeque<u64>, &mut Deliveries<u64>),
    ) {
        let before = events.len() + self.dispatcher.held();
        call(&mut self.dispatcher, events, &mut self.deliveries);
        let given = self.carry_out();
        let (discarded, failed) = self.deliveries.take_counts();
        let (left, held) = (events.len(), self.dispatcher.held());
        let after = given + left + held + (discarded + failed) as usize;
        self.law(
            before == after,
            format_args!(
                "of {before} events {given} were given out, {held} are held, {left} left, {discarded} discarded, {failed} \
                 failed"
            ),
        );
        self.law(held > 0 || self.markers.is_empty(), "nothing is held, and a marker has not passed");
    }

    /// Returns how many events were given out, to one subscriber or to several.
    #[track_caller]
    fn carry_out(&mut self) -> usize {
        let mut given = BTreeSet::new();
        while let Some(decision) = self.deliveries.pop() {
            match decision {
                Decision::Deliver(delivery) => {
                    let events = delivery.events.into_vec();
                    given.extend(events.iter().copied());
                    self.receive(delivery.to, events, delivery.attempt);
                }
                Decision::Fail(id, why) => self.law(false, format_args!("it ended {id}, which has no selector: {why}")),
                Decision::Pass(marker) => {
                    let first = self.markers.pop_front();
                    self.law(first == Some(marker), "a marker passed that was not the first");
                }
            }
        }
        given.len()
    }

    #[track_caller]
    fn receive(&mut self, to: SubscriptionId, events: Vec<u64>, attempt: Attempt) {
        let Some(at) = self.live.iter().position(|seen| seen.id == to) else {
            self.law(false, "events for somebody who is not there");
            return;
        };
        let Seen { number, open, got, .. } = &self.live[at];
        let given = Demand::from(events.len());
        self.law(!events.is_empty(), "an empty batch");
        self.law(given <= *open, format_args!("{number} was given {given} events, and had asked for {open}"));
        let newest = got.iter().rev().find(|(_, attempt)| *attempt == Attempt::FIRST).map(|(event, _)| *event);
        let in_order = events.is_sorted_by(|one, next| one < next) && newest.is_none_or(|newest| newest < events[0]);
        self.law(in_order || attempt > Attempt::FIRST, format_args!("{number} was given {events:?} after {newest:?}"));
        let again = events.iter().find(|event| got.contains(&(**event, attempt)));
        self.law(again.is_none(), format_args!("{number} was given {again:?} twice"));
        self.answers.push((*number, events.clone()));
        let seen = &mut self.live[at];
        seen.open.take(given);
        seen.got.extend(events.into_iter().map(|event| (event, attempt)));
    }

    #[track_caller]
    fn law(&self, kept: bool, otherwise: impl fmt::Display) {
        assert!(kept, "{otherwise}; after: {}", self.calls.join(", "));
    }
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
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aqueduct_dispatcher::{
        BroadcastDispatcher, DemandDispatcher, PartitionDispatcher, Partitions, RoundRobinDispatcher,
    };

    use super::*;

    #[test]
    fn the_dispatchers_that_there_are_keep_the_contract() {
        check_dispatcher(DemandDispatcher::new, |_| None);
        check_dispatcher(RoundRobinDispatcher::new, |_| None);
        check_dispatcher(BroadcastDispatcher::new, |_| None);
        check_dispatcher(|| InOrder::with(Fault::None), |_| None);
        let partitions =
            || PartitionDispatcher::by(Partitions::numbered(3).unwrap(), |event: &u64| *event as usize % 3);
        check_dispatcher(partitions, |number| Some((number % 3).into()));
        check_dispatcher(move || partitions().capacity(4), |number| Some((number % 3).into()));
    }

    #[test]
    fn each_fault_is_found() {
        for (fault, law) in [
            (Fault::TooMany, "and had asked for"),
            (Fault::Loses, "were given out"),
            (Fault::Doubles, "was given ["),
            (Fault::Backwards, "was given"),
            (Fault::HoldsBack, "its demand promised"),
            (Fault::Asleep, "there is no demand"),
            (Fault::Forgets, "has changed the demand"),
            (Fault::TakesTwice, "was not refused"),
            (Fault::KeepsMarkers, "a marker has not passed"),
            (Fault::Moody, "had other answers the second time"),
        ] {
            let check = || check_dispatcher(move || InOrder::with(fault), |_| None);
            let panic = catch_unwind(check).expect_err("it should have been found");
            let text = panic.downcast_ref::<String>().unwrap();
            assert!(text.contains(law), "{fault:?}: {text}");
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        None,
        TooMany,
        Loses,
        Doubles,
        Backwards,
        HoldsBack,
        Asleep,
        Forgets,
        TakesTwice,
        KeepsMarkers,
        Moody,
    }

    /// Everything to the first who wants some, with or without a fault.
    struct InOrder(Vec<(SubscriptionId, Demand)>, Fault);

    impl InOrder {
        fn with(fault: Fault) -> Self {
            Self(Vec::new(), fault)
        }
    }

    impl Dispatcher<u64> for InOrder {
        fn subscribe(&mut self, id: SubscriptionId, _: Interest<u64>) -> Result<(), Refused> {
            if self.1 != Fault::TakesTwice && self.0.iter().any(|(other, _)| *other == id) {
                return Err(Refused::AlreadySubscribed);
            }
            self.0.push((id, Demand::ZERO));
            Ok(())
        }

        fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<u64>) {
            self.0.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, open)| open.add(demand));
        }

        fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<u64>) {
            if self.1 != Fault::Forgets {
                self.0.retain(|(other, _)| *other != id);
            }
        }

        fn demand(&self) -> Demand {
            let sum = self.0.iter().fold(Demand::ZERO, |sum, (_, open)| sum.saturating_add(*open));
            if self.1 == Fault::Asleep { Demand::ZERO } else { sum }
        }

        fn dispatch(&mut self, events: &mut VecDeque<u64>, attempt: Attempt, deliveries: &mut Deliveries<u64>) {
            if self.1 == Fault::Loses && events.len() > 9 {
                events.pop_front();
            }
            if self.1 == Fault::Moody && !self.0.is_empty() {
                static MOOD: AtomicUsize = AtomicUsize::new(0);
                let mood = MOOD.fetch_add(1, Ordering::Relaxed) % self.0.len();
                self.0.rotate_left(mood);
            }
            for (id, open) in &mut self.0 {
                let wanted = if self.1 == Fault::HoldsBack { events.len() / 2 } else { events.len() };
                let mut count = open.take(Demand::from(wanted)).as_len();
                if self.1 == Fault::TooMany && count > 0 {
                    count = events.len();
                }
                let mut batch: Vec<u64> = events.drain(..count).collect();
                match self.1 {
                    Fault::Backwards => batch.reverse(),
                    Fault::Doubles if count > 1 => batch[1] = batch[0],
                    _ => {}
                }
                if count > 0 {
                    deliveries.give_events(*id, batch, attempt);
                }
            }
        }

        fn info(&mut self, marker: Marker, deliveries: &mut Deliveries<u64>) {
            if self.1 != Fault::KeepsMarkers {
                deliveries.pass(marker);
            }
        }
    }
}
