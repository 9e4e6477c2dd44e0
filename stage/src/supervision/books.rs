//! [`Books`]: what a supervisor knows of the stages and subscriptions of its graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use aqueduct_dispatcher::{Cancel, SubscriptionId};
use tokio::time::Instant;

use super::driver::{Connect, Declared, Enrolled, How, Work};
use super::{Fate, Supervision};
use crate::error::Origin;
use crate::members::{Control, Fallen, Made, Shared};
use crate::{Exit, Failure, FailureKind, Intensity, Restart};

pub(super) struct Books {
    /// Its children are the stages, by number.
    supervision: Supervision,
    stages: Vec<Entry>,
    numbers: BTreeMap<(usize, usize), usize>,
    /// Declared subscriptions with an end that may be restarted, in the order of declaration.
    wires: Vec<Wire>,
    /// Whether stages are to end when they have nothing left to do.
    is_completing: bool,
    /// Causes that were counted, the latest last.
    causes: VecDeque<Cause>,
    /// Failures that were counted within the period of the intensity.
    recent: VecDeque<(Instant, Failure)>,
    /// Why the graph is being given up, until all stages have stopped.
    reasons: Vec<Failure>,
    exceeded: Option<Intensity>,
}

/// What is known of an instance of a stage.
struct Entry {
    stage: Origin,
    instance: usize,
    restart: Restart,
    control: Arc<dyn Control>,
    /// Its subscriptions, on whichever side.
    wires: Vec<usize>,
    life: Life,
    /// How its former life ended.
    exit: Exit,
    /// Whether its present life was asked to end because of others, and whether its former was.
    is_stopped: bool,
    was_stopped: bool,
    /// How often it was to be started again.
    attempts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Up,
    /// To be started again.
    Down,
    /// Ended for good, unless others take it along.
    Over,
}

struct Wire {
    consumer: usize,
    /// Nothing for a source outside the graph.
    producer: Option<usize>,
    cancel: Cancel,
    connect: Connect,
    /// The subscriptions that were made, the latest last; no more than [`FORMER`].
    former: VecDeque<SubscriptionId>,
    state: WireState,
    /// Whether the consumer has failed to subscribe because this life of the producer was over already.
    was_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WireState {
    /// Nothing yet in this life of the consumer.
    Open,
    Made,
    /// It was made, and the producer has ended since.
    Stale,
}

/// A failure that was counted, and how often each stage has fallen with it.
struct Cause {
    failure: Failure,
    falls: BTreeMap<usize, usize>,
}

impl Books {
    pub(super) fn new(supervision: Supervision) -> Self {
        Self {
            supervision,
            stages: Vec::new(),
            numbers: BTreeMap::new(),
            wires: Vec::new(),
            is_completing: false,
            causes: VecDeque::new(),
            recent: VecDeque::new(),
            reasons: Vec::new(),
            exceeded: None,
        }
    }

    /// So many stages are about to be taken in.
    pub(super) fn make_room(&mut self, stages: usize) {
        self.supervision.make_room(stages);
        self.stages.reserve(stages);
    }

    /// Takes in a stage that is about to be started.
    pub(super) fn enrol(&mut self, enrolled: Enrolled) {
        let Enrolled { number, stage, place, instance, restart, control } = enrolled;
        let child = self.supervision.add(restart);
        debug_assert!(child == number && number == self.stages.len(), "stages are numbered as they are enrolled");
        self.numbers.insert((place, instance), number);
        self.stages.push(Entry {
            stage,
            instance,
            restart,
            control,
            wires: Vec::new(),
            life: Life::Up,
            exit: Exit::Normal,
            is_stopped: false,
            was_stopped: false,
            attempts: 0,
        });
    }

    /// A stage has ended before anything was supervised.
    pub(super) fn is_over(&mut self, number: usize) {
        self.stages[number].life = Life::Over;
        self.supervision.done(number, Instant::now());
    }

    /// Makes a subscription for the first time.
    pub(super) fn declare(&mut self, declared: Declared, work: &mut Work) {
        let Declared { consumer, producer, cancel, connect } = declared;
        let consumer = self.numbers.get(&consumer).copied();
        let producer = producer.and_then(|producer| self.numbers.get(&producer).copied());
        let may_restart = |number: &usize| self.stages[*number].restart != Restart::Temporary;
        match consumer {
            Some(consumer) if [Some(consumer), producer].iter().flatten().any(may_restart) => {
                let number = self.wires.len();
                self.stages[consumer].wires.push(number);
                if let Some(producer) = producer.filter(|producer| *producer != consumer) {
                    self.stages[producer].wires.push(number);
                }
                let (former, state) = (VecDeque::new(), WireState::Open);
                self.wires.push(Wire { consumer, producer, cancel, connect, former, state, was_late: false });
                self.connect(number, work);
            }
            _ => work.openings.push(connect(How::Once).1),
        }
    }

    /// A stage has ended.
    pub(super) fn fell(&mut self, fallen: Fallen, now: Instant, shared: &Shared, work: &mut Work) {
        let Fallen { number, exit, was_made } = fallen;
        // Before it is known that it was asked to.
        let follows = self.follows_one_that_was_stopped(number, &exit);
        let is_done = exit.is_graceful() && self.has_nothing_left(number);
        let entry = &mut self.stages[number];
        entry.was_stopped = std::mem::take(&mut entry.is_stopped);
        entry.exit = exit.clone();
        let wires = entry.wires.clone();
        for wire in wires {
            let wire = &mut self.wires[wire];
            if wire.producer == Some(number) && wire.state == WireState::Made {
                wire.state = WireState::Stale;
            }
        }
        let was_late = self.was_late(number, &exit);
        let was_giving_up = self.supervision.is_giving_up();
        let fate = if !was_made {
            self.supervision.start_failed(number, now)
        } else if is_done {
            self.supervision.done(number, now)
        } else if let Some(failure) = follows {
            self.supervision.exited(number, &Exit::Failed(failure), true, now)
        } else {
            let counted = was_late || self.counts_already(number, &exit, now);
            self.supervision.exited(number, &exit, counted, now)
        };
        if !was_giving_up && self.supervision.is_giving_up() {
            self.begin_to_give_up(number, &exit, was_made);
        }
        match fate {
            Fate::Returns => self.stages[number].life = Life::Down,
            Fate::Ends => self.conclude(number, exit, shared, work),
        }
    }

    /// Makes a stage anew. Returns what is to run, if it could be made and is to.
    pub(super) fn start(&mut self, number: usize, now: Instant, shared: &Shared, work: &mut Work) -> Option<Made> {
        let entry = &mut self.stages[number];
        entry.attempts += 1;
        let Entry { stage, instance, attempts, exit, .. } = &*entry;
        let span = tracing::info_span!("stage.restart", stage = &**stage, instance, attempt = attempts, reason = %exit);
        let _entered = span.enter();
        match entry.control.make() {
            Ok(made) => {
                if !shared.begin_anew(number) {
                    return None;
                }
                tracing::info!("stage restarted");
                entry.life = Life::Up;
                for wire in &entry.wires {
                    let wire = &mut self.wires[*wire];
                    if wire.consumer == number {
                        wire.state = WireState::Open;
                    } else {
                        wire.was_late = false;
                    }
                }
                Some(made)
            }
            Err(failure) => {
                tracing::warn!(%failure, "stage could not be restarted");
                let exit = Exit::Failed(failure);
                entry.exit = exit.clone();
                shared.could_not_begin(number, exit.clone());
                self.counts_already(number, &exit, now);
                match self.supervision.start_failed(number, now) {
                    Fate::Returns => self.stages[number].life = Life::Down,
                    Fate::Ends => {
                        self.begin_to_give_up(number, &exit, true);
                        self.conclude(number, exit, shared, work);
                    }
                }
                None
            }
        }
    }

    /// Makes the subscriptions of stages that have been made anew, in the order in which they were declared.
    pub(super) fn connect_started(&mut self, started: impl Iterator<Item = usize> + Clone, work: &mut Work) {
        let wires: BTreeSet<_> = started.clone().flat_map(|number| self.stages[number].wires.iter().copied()).collect();
        for wire in wires {
            self.connect(wire, work);
        }
        for number in started {
            self.tell_complete(number);
        }
    }

    /// Asks a stage to end because of others.
    pub(super) fn stop(&mut self, number: usize) {
        let entry = &mut self.stages[number];
        entry.is_stopped = true;
        entry.control.stop();
    }

    /// Tells every stage to end when it has nothing left to do, unless it has to wait for others.
    pub(super) fn complete(&mut self) {
        self.is_completing = true;
        (0..self.stages.len()).for_each(|number| self.tell_complete(number));
    }

    /// Why the graph was given up, if it was.
    pub(super) fn take_reasons(&mut self) -> (Vec<Failure>, Option<Intensity>) {
        (std::mem::take(&mut self.reasons), self.exceeded)
    }

    pub(super) fn supervision(&mut self) -> &mut Supervision {
        &mut self.supervision
    }

    pub(super) fn control(&self, number: usize) -> &Arc<dyn Control> {
        &self.stages[number].control
    }

    /// Makes a subscription if that is to be done, and both ends are up.
    fn connect(&mut self, number: usize, work: &mut Work) {
        let wire = &self.wires[number];
        let consumer = &self.stages[wire.consumer];
        let producer = wire.producer.map(|producer| &self.stages[producer]);
        if consumer.life != Life::Up || consumer.control.is_down() {
            return;
        }
        let how = match (wire.state, producer) {
            (WireState::Made, _) => return,
            (WireState::Stale, Some(producer)) if !wire.outlives(&producer.exit) => return,
            (WireState::Open, Some(producer)) if producer.life == Life::Over && producer.exit.is_graceful() => {
                How::Remainder(wire.former.iter().copied().collect())
            }
            // One that has ended and of which that is not known yet is waited for.
            (_, Some(producer)) if producer.life != Life::Up || producer.control.is_down() => return,
            (_, _) => How::Anew(wire.former.back().copied()),
        };
        let (id, opening) = (wire.connect)(how);
        work.openings.push(opening);
        let wire = &mut self.wires[number];
        if wire.former.len() == FORMER {
            wire.former.pop_front();
        }
        wire.former.push_back(id);
        wire.state = WireState::Made;
    }

    /// A stage has ended for good.
    fn conclude(&mut self, number: usize, exit: Exit, shared: &Shared, work: &mut Work) {
        self.stages[number].life = Life::Over;
        if let Exit::Failed(failure) = &exit
            && self.supervision.is_giving_up()
            && !self.reasons.iter().any(|known| known.is(failure))
        {
            self.reasons.push(failure.clone());
        }
        shared.conclude_stage(number, exit, !self.supervision.is_giving_up());
        for wire in self.stages[number].wires.clone() {
            let Wire { consumer, producer, .. } = self.wires[wire];
            self.connect(wire, work);
            let other = if consumer == number { producer } else { Some(consumer) };
            other.into_iter().for_each(|other| self.tell_complete(other));
        }
    }

    /// The first failure of those that led to it comes first, and the one that was too much second.
    fn begin_to_give_up(&mut self, number: usize, exit: &Exit, exceeded: bool) {
        self.exceeded = exceeded.then_some(self.supervision.intensity);
        let last = match exit {
            Exit::Failed(failure) => failure.clone(),
            exit => {
                let why = format!("it is to run always, and its end was: {exit}");
                Failure::at(&self.stages[number].stage, FailureKind::Ended, why)
            }
        };
        let first =
            self.recent.front().map(|(_, failure)| failure.clone()).filter(|first| exceeded && !first.is(&last));
        self.reasons = first.into_iter().chain([last]).collect();
    }

    /// Tells a stage to end when it has nothing left to do, if all are told so, its subscriptions are made, and no
    /// neighbour of it may come back.
    fn tell_complete(&self, number: usize) {
        let entry = &self.stages[number];
        let may_come_back = |other: usize| {
            let other = &self.stages[other];
            other.restart != Restart::Temporary && other.life != Life::Over
        };
        let is_open = |wire: &usize| self.wires[*wire].consumer == number && self.wires[*wire].state == WireState::Open;
        if !self.is_completing || entry.life != Life::Up || entry.wires.iter().any(is_open) {
            return;
        }
        let mut neighbours = entry.wires.iter().flat_map(|wire| {
            let Wire { consumer, producer, .. } = &self.wires[*wire];
            [Some(*consumer), *producer].into_iter().flatten().filter(|other| *other != number)
        });
        if !neighbours.any(may_come_back) {
            entry.control.complete();
        }
    }

    /// Whether whatever it could consume has ended for good, all of it in the graph.
    fn has_nothing_left(&self, number: usize) -> bool {
        let mut sources = self.stages[number].wires.iter().map(|wire| &self.wires[*wire]);
        let mut sources = sources.by_ref().filter(|wire| wire.consumer == number).peekable();
        let is_over = |wire: &Wire| {
            wire.producer.is_some_and(|producer| {
                let Entry { life, restart, control, .. } = &self.stages[producer];
                // Its end may not have been reported yet.
                *life == Life::Over || (*life == Life::Up && *restart != Restart::Permanent && control.is_down())
            })
        };
        sources.peek().is_some() && sources.all(is_over)
    }

    /// Whether a stage could not subscribe only because it came as a producer ended, which is no cause of its own.
    fn was_late(&mut self, number: usize, exit: &Exit) -> bool {
        if !matches!(exit, Exit::Failed(failure) if matches!(failure.kind(), FailureKind::Subscribe | FailureKind::AlreadyEnded))
        {
            return false;
        }
        let wires = self.stages[number].wires.iter().copied();
        let late = wires.filter(|wire| {
            let Wire { consumer, producer, was_late, .. } = self.wires[*wire];
            consumer == number && !was_late && producer.is_some_and(|producer| self.stages[producer].control.is_down())
        });
        let late: Vec<usize> = late.collect();
        late.iter().for_each(|wire| self.wires[*wire].was_late = true);
        !late.is_empty()
    }

    /// A stage that was not stopped has ended because its producer was: not by its own will.
    fn follows_one_that_was_stopped(&self, number: usize, exit: &Exit) -> Option<Failure> {
        let entry = &self.stages[number];
        if entry.is_stopped || !matches!(exit, Exit::Shutdown) {
            return None;
        }
        let sources = entry.wires.iter().map(|wire| &self.wires[*wire]).filter(|wire| wire.consumer == number);
        let mut stopped = sources.filter_map(|wire| {
            let producer = &self.stages[wire.producer?];
            (producer.is_stopped || (producer.was_stopped && wire.state == WireState::Stale)).then_some(producer)
        });
        let why = format!("its producer {:?} was stopped to be restarted", &*stopped.next()?.stage);
        Some(Failure::at(&entry.stage, FailureKind::Shutdown, why))
    }

    /// Whether this is the consequence of an end that was counted; otherwise it is the one that counts.
    ///
    /// A stage can fall with one cause once through each of its subscriptions. More often than that it is a cause of its
    /// own, even if it fails with the very same value each time.
    fn counts_already(&mut self, number: usize, exit: &Exit, now: Instant) -> bool {
        let Exit::Failed(failure) = exit else { return false };
        if !self.stages[number].restart.applies_to(exit) {
            return false;
        }
        if let Some(cause) = self.causes.iter_mut().find(|cause| cause.failure.is(failure)) {
            let falls = cause.falls.entry(number).or_default();
            *falls += 1;
            return *falls <= self.stages[number].wires.len().max(1);
        }
        if self.causes.len() == CAUSES {
            self.causes.pop_front();
        }
        self.causes.push_back(Cause { failure: failure.clone(), falls: BTreeMap::from([(number, 1)]) });
        let within = self.supervision.intensity.within();
        while self.recent.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > within).is_some() {}
        self.recent.push_back((now, failure.clone()));
        false
    }
}

impl Wire {
    /// Whether the consumer goes on when its producer ends like this.
    fn outlives(&self, exit: &Exit) -> bool {
        match self.cancel {
            Cancel::Permanent => matches!(exit, Exit::Normal),
            Cancel::Transient => exit.is_graceful(),
            Cancel::Temporary => true,
        }
    }
}

/// How many former subscriptions are remembered. A producer that ends may still be left by the consumer's former life
/// while the next subscribes in vain, and what comes back then comes back through an earlier one; more than a few cannot
/// be under way.
const FORMER: usize = 16;

/// How many causes are remembered: those that still reach a stage late, through one that was busy or had no demand.
const CAUSES: usize = 256;
