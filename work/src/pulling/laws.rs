//! The laws of work-pulling on random schedules, against a naive model of what every task and worker has been told.
//!
//! Workers are good, slow, stuck, lost, or lie about attempts and tasks. A failure names its seed; `SEED=n` runs that alone.
#![allow(clippy::unwrap_used, reason = "a model for tests, and for the fuzzer as well")]

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aqueduct_stage::Demand;

use super::*;

/// Any time will do: nothing here depends on when it is.
#[expect(clippy::disallowed_methods, reason = "an origin for times that are all handed in")]
pub(super) fn start() -> Instant {
    Instant::now() + Duration::from_secs(1000)
}

/// Where decisions come from.
enum Rng<'a> {
    /// A seed (splitmix64).
    #[cfg_attr(not(test), expect(dead_code, reason = "the fuzzer has bytes"))]
    Seed(u64),
    /// Bytes, one for each decision or a few. When they are used up, all decisions are 0.
    Bytes(&'a [u8]),
}

impl Rng<'_> {
    fn is_used_up(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }

    fn next(&mut self) -> u64 {
        let state = match self {
            Self::Seed(state) => state,
            Self::Bytes(bytes) => {
                let Some((&first, rest)) = bytes.split_first() else { return 0 };
                *bytes = rest;
                return first.into();
            }
        };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        let next = self.next();
        // A byte is too few for some of them.
        if below > 256 && matches!(self, Self::Bytes(_)) { (next << 8 | self.next()) % below } else { next % below }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len().max(1) as u64);
        from.get(usize::try_from(at).unwrap())
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Where {
    Waiting,
    Delayed(Instant),
    With { worker: WorkerId, hold: Hold },
    Finished,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hold {
    Lent,
    Revoked { until: Instant },
    Begun { since: Instant, deadline: Instant },
}

#[derive(Debug)]
struct ModelTask {
    key: u64,
    state: Where,
    /// How often it was given out.
    given: u32,
    failures: u32,
    /// It was given out, and came back.
    has_come_back: bool,
}

#[derive(Debug, Default)]
struct ModelWorker {
    asked: u64,
    given: u64,
    is_silent: bool,
    announces: bool,
    /// When its line has moved last.
    moved_at: Option<Instant>,
}

/// What must be the case, kept in the plainest way.
struct World {
    pulling: Pulling<u64>,
    options: PullingOptions,
    now: Instant,
    /// By id, which is the order of pushing.
    tasks: BTreeMap<u64, ModelTask>,
    workers: BTreeMap<WorkerId, ModelWorker>,
    gone: Vec<WorkerId>,
    /// What every worker was ever given, the source of answers right and wrong.
    history: Vec<Given>,
    /// In turn: who was given something last.
    last: Option<WorkerId>,
    /// By key: who was given something of a key last, and which; emptied when somebody joins or leaves.
    keys: BTreeMap<u64, (WorkerId, u64)>,
    expected: VecDeque<(u64, DeadReason)>,
    /// What was just given back, and by whom.
    returned: Option<(u64, WorkerId)>,
    close_at: Option<Option<Instant>>,
    /// Nothing is given out any more.
    stopped: bool,
    closed: bool,
}

impl World {
    fn new(rng: &mut Rng<'_>) -> Self {
        let assignment = [Assignment::ByDemand, Assignment::RoundRobin, Assignment::ByKey];
        let options = PullingOptions::default()
            .assignment(*rng.pick(&assignment).unwrap())
            .ack_wait(Duration::from_secs(1 + rng.below(20)))
            .max_attempts(NonZeroU32::new(1 + rng.below(4) as u32).unwrap())
            .max_attempt_time(Duration::from_secs(30))
            .max_delay(Duration::from_secs(20))
            .max_waiting(1 + rng.below(20) as usize)
            .max_in_flight(1 + rng.below(20) as usize)
            .max_in_flight_per_worker(1 + rng.below(10) as usize)
            .max_workers(6);
        let pulling = Pulling::new(options.clone());
        Self {
            pulling,
            options,
            now: start(),
            tasks: BTreeMap::new(),
            workers: BTreeMap::new(),
            gone: Vec::new(),
            history: Vec::new(),
            last: None,
            keys: BTreeMap::new(),
            expected: VecDeque::new(),
            returned: None,
            close_at: None,
            stopped: false,
            closed: false,
        }
    }

    fn step(&mut self, rng: &mut Rng<'_>) {
        match rng.below(100) {
            0..30 => self.push(rng),
            30..34 => self.join(rng.below(8), rng.below(2) == 0),
            34..46 => self.ask(rng),
            46..72 => self.answer(rng, false),
            72..81 => self.answer(rng, true),
            81..83 => self.pass(Duration::from_millis(100)),
            83..95 => self.pass(Duration::from_millis(rng.below(5000))),
            95..97 => {
                // A whole wait, so that something runs out.
                self.pass(self.options.ack_wait);
            }
            97..99 => self.go(rng),
            _ => {
                // A clock that goes back is taken for one that stands still.
                self.time_out(self.now - Duration::from_secs(rng.below(10)));
            }
        }
        self.settle();
    }

    fn push(&mut self, rng: &mut Rng<'_>) {
        let id = if rng.below(10) == 0 { rng.below(1 + self.tasks.len() as u64) } else { self.tasks.len() as u64 };
        let waiting = self.waiting();
        let key = rng.below(5);
        let result = self.pulling.push(self.now, Task::new(id, id).key(key.to_le_bytes()));
        if self.close_at.is_some() || self.stopped {
            assert!(matches!(result, Err(PushError::Closed(_))));
        } else if self.tasks.contains_key(&id) {
            assert!(matches!(result, Err(PushError::Duplicate(_))));
        } else if waiting >= self.options.max_waiting {
            assert!(matches!(result, Err(PushError::Full { .. })));
        } else {
            assert!(result.is_ok());
            let task = ModelTask { key, state: Where::Waiting, given: 0, failures: 0, has_come_back: false };
            self.tasks.insert(id, task);
        }
    }

    fn join(&mut self, demand: u64, announces: bool) {
        let joined = self.pulling.join(self.now, Demand::ZERO);
        if self.closed {
            assert_eq!(joined, Err(JoinError::Closed));
        } else if self.workers.len() == 6 {
            assert_eq!(joined, Err(JoinError::TooMany { bound: 6 }));
        } else {
            let worker = joined.unwrap();
            assert!(!announces || self.pulling.announces(worker));
            self.workers.insert(worker, ModelWorker { asked: demand, announces, ..ModelWorker::default() });
            self.keys.clear();
            self.pulling.ask(self.now, worker, Demand::new(demand)).unwrap();
        }
    }

    fn ask(&mut self, rng: &mut Rng<'_>) {
        let Some(worker) = self.some_worker(rng) else { return };
        let up_to = (self.workers.get(&worker).map_or(0, |worker| worker.asked) + rng.below(12)).saturating_sub(3);
        let result = self.pulling.ask(self.now, worker, Demand::new(up_to));
        if let Some(model) = self.workers.get_mut(&worker) {
            assert_eq!(result, Ok(()));
            if up_to > model.asked {
                (model.asked, model.is_silent) = (up_to, false);
            }
        } else {
            assert_eq!(result, Err(Refused::NoWorker(worker)));
        }
    }

    /// Somebody present, and now and then somebody who has left.
    fn some_worker(&self, rng: &mut Rng<'_>) -> Option<WorkerId> {
        let present: Vec<_> = self.workers.keys().copied().collect();
        let from = if rng.below(10) == 0 { &self.gone } else { &present };
        rng.pick(from).copied()
    }

    /// A worker says something of a task: of one that it has, or any lie.
    fn answer(&mut self, rng: &mut Rng<'_>, is_lie: bool) {
        let what = rng.below(13);
        let mut present: Vec<_> = self.history.iter().copied().filter(|given| self.has(*given)).collect();
        if what == 12 && present.iter().any(|given| self.is_revoked(*given)) {
            present.retain(|given| self.is_revoked(*given));
        }
        let Some(mut given) = rng.pick(if is_lie { &self.history } else { &present }).copied() else { return };
        if is_lie {
            match rng.below(4) {
                0 => given.attempt = given.attempt.next(),
                1 => given.worker = self.some_worker(rng).unwrap_or(given.worker),
                2 => given.task = TaskId::from(1_000_000 + rng.below(10)),
                _ => {}
            }
        }
        let refused = self.refusal(given);
        let Given { worker, task, attempt } = given;
        let id = u64::try_from(task.number()).unwrap();
        if what == 12 {
            return self.give_back(given, refused);
        }
        if let Some(model) = self.workers.get_mut(&worker) {
            model.is_silent = false;
        }
        match what {
            0..5 => {
                let result = self.pulling.acknowledge(self.now, worker, task, attempt);
                let finished = result.map(|finished| (finished.task, finished.payload, finished.attempt));
                assert_eq!(finished, refused.map_or(Ok((task, id, attempt)), Err));
                if refused.is_none() {
                    self.take(id, Where::Finished);
                }
            }
            5..7 => {
                let delay = Duration::from_secs(rng.below(3) * 15);
                let result = self.pulling.nack(self.now, worker, task, attempt, delay, "no");
                assert_eq!(result, refused.map_or(Ok(()), Err));
                if refused.is_none() {
                    self.fail(id, DeadReason::Refused("no".into()), delay);
                }
            }
            7..9 => {
                let result = self.pulling.progress(self.now, worker, task, attempt);
                let mut expected = refused.map_or(Ok(()), Err);
                if refused.is_none() {
                    self.begin(id);
                }
                let state = self.tasks.get_mut(&id).map(|task| &mut task.state);
                if let (None, Some(Where::With { hold: Hold::Begun { since, deadline }, .. })) = (refused, state) {
                    if self.now - *since >= Duration::from_secs(30) {
                        expected = Err(Refused::TooLong { task, attempt });
                    } else {
                        *deadline = self.now + self.options.ack_wait;
                    }
                }
                assert_eq!(result, expected);
            }
            9 => {
                let result = self.pulling.terminate(self.now, worker, task, attempt, "never");
                assert_eq!(result, refused.map_or(Ok(()), Err));
                if refused.is_none() {
                    self.kill(id, DeadReason::Terminated("never".into()));
                }
            }
            _ => {
                let result = self.pulling.begin(self.now, worker, task, attempt);
                assert_eq!(result, refused.map_or(Ok(()), Err));
                if refused.is_none() {
                    self.begin(id);
                }
            }
        }
    }

    /// A worker gives a task back, if it was asked for it.
    fn give_back(&mut self, given: Given, refused: Option<Refused>) {
        let Given { worker, task, attempt, .. } = given;
        let result = self.pulling.give_back(self.now, worker, task, attempt);
        if refused.is_some() || !self.is_revoked(given) {
            return assert_eq!(result, Err(refused.unwrap_or(Refused::NotHeld { worker, task, attempt })));
        }
        assert_eq!(result, Ok(()));
        let id = u64::try_from(task.number()).unwrap();
        self.returned = Some((id, worker));
        self.return_untouched(id);
    }

    /// A task comes back with which nobody has begun: it was no attempt.
    fn return_untouched(&mut self, id: u64) {
        self.take(id, Where::Waiting);
        let task = self.tasks.get_mut(&id).unwrap();
        (task.given, task.has_come_back) = (task.given - 1, true);
    }

    fn is_revoked(&self, given: Given) -> bool {
        let task = u64::try_from(given.task.number()).ok().and_then(|id| self.tasks.get(&id));
        self.has(given) && task.is_some_and(|task| matches!(task.state, Where::With { hold: Hold::Revoked { .. }, .. }))
    }

    /// The worker that has a task begins with it, if it has not.
    fn begin(&mut self, id: u64) {
        let (now, wait) = (self.now, self.options.ack_wait);
        let Where::With { worker, hold } = &mut self.tasks.get_mut(&id).unwrap().state else { return };
        if !matches!(hold, Hold::Begun { .. }) {
            *hold = Hold::Begun { since: now, deadline: now + wait };
            self.workers.get_mut(worker).unwrap().moved_at = Some(now);
        }
    }

    /// Takes a task from its worker.
    fn take(&mut self, id: u64, state: Where) {
        let before = std::mem::replace(&mut self.tasks.get_mut(&id).unwrap().state, state);
        if let Where::With { worker, hold } = before
            && let Some(model) = self.workers.get_mut(&worker)
        {
            if let Hold::Begun { .. } = hold {
                model.moved_at = Some(self.now);
            }
            self.begin_next(worker);
        }
    }

    /// One that does not say what it begins with does one after the other.
    fn begin_next(&mut self, worker: WorkerId) {
        let Some(ModelWorker { announces: false, is_silent: false, .. }) = self.workers.get(&worker) else { return };
        if let Some(id) = self.held(worker).first() {
            self.begin(*id);
        }
    }

    /// What a worker has, in the order in which it was given.
    fn held(&self, worker: WorkerId) -> Vec<u64> {
        let mut held = self.ids(|state| matches!(state, Where::With { worker: who, .. } if *who == worker));
        held.sort_by_key(|id| self.history.iter().rposition(|given| given.task == TaskId::from(*id)));
        held
    }

    fn worker(&self, id: u64) -> WorkerId {
        let Where::With { worker, .. } = self.tasks[&id].state else { panic!("{id} is with nobody") };
        worker
    }

    fn hold(&self, id: u64) -> Option<Hold> {
        if let Where::With { hold, .. } = self.tasks[&id].state { Some(hold) } else { None }
    }

    /// Whether a worker has a task in this attempt.
    fn has(&self, given: Given) -> bool {
        let task = u64::try_from(given.task.number()).ok().and_then(|id| self.tasks.get(&id));
        task.is_some_and(|task| {
            matches!(task.state, Where::With { worker, .. } if worker == given.worker)
                && task.given == given.attempt.number()
        })
    }

    /// How a message is to be refused, if it is.
    fn refusal(&self, given: Given) -> Option<Refused> {
        let Given { worker, task, attempt } = given;
        if !self.workers.contains_key(&worker) {
            return Some(Refused::NoWorker(worker));
        }
        if self.has(given) {
            return None;
        }
        let model = u64::try_from(task.number()).ok().and_then(|id| self.tasks.get(&id));
        let is_late = model.is_some_and(|model| match model.state {
            Where::Finished | Where::Dead => true,
            Where::With { .. } => attempt.number() < model.given,
            Where::Waiting | Where::Delayed(_) => attempt.number() <= model.given,
        });
        Some(if is_late { Refused::Late { task, attempt } } else { Refused::NotHeld { worker, task, attempt } })
    }

    fn fail(&mut self, id: u64, reason: DeadReason, delay: Duration) {
        let attempts = self.options.max_attempts.get();
        let task = self.tasks.get_mut(&id).unwrap();
        task.failures += 1;
        if task.failures == attempts {
            self.kill(id, reason);
        } else {
            self.put_back(id, delay);
        }
    }

    fn put_back(&mut self, id: u64, delay: Duration) {
        let until = self.now + delay.min(Duration::from_secs(20));
        self.take(id, if delay.is_zero() { Where::Waiting } else { Where::Delayed(until) });
        self.tasks.get_mut(&id).unwrap().has_come_back = true;
    }

    fn kill(&mut self, id: u64, reason: DeadReason) {
        self.take(id, Where::Dead);
        self.expected.push_back((id, reason));
    }

    fn go(&mut self, rng: &mut Rng<'_>) {
        let Some(worker) = self.some_worker(rng) else { return };
        let is_lost = rng.below(2) == 0;
        let was_there = self.workers.contains_key(&worker);
        let result = if is_lost { self.pulling.lost(self.now, worker) } else { self.pulling.leave(self.now, worker) };
        assert_eq!(result, was_there);
        if was_there {
            self.gone(worker, is_lost);
        }
    }

    /// A worker is gone, and what it had goes to others.
    fn gone(&mut self, worker: WorkerId, is_lost: bool) {
        let held = self.held(worker);
        let model = self.workers.remove(&worker).unwrap();
        self.gone.push(worker);
        self.keys.clear();
        let is_begun = |hold| matches!(hold, Some(Hold::Begun { .. }));
        let is_any_begun = held.iter().any(|id| is_begun(self.hold(*id)));
        for (place, id) in held.into_iter().enumerate() {
            let is_attempt = !model.announces || is_begun(self.hold(id)) || (is_lost && !is_any_begun && place == 0);
            match (is_lost, is_attempt) {
                (true, true) => self.fail(id, DeadReason::WorkerLost, Duration::ZERO),
                // Whether it had begun is not known.
                (true, false) | (false, true) => self.put_back(id, Duration::ZERO),
                (false, false) => self.return_untouched(id),
            }
        }
    }

    /// Lets time pass, each timeout at its time.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let timeout = self.pulling.poll_timeout();
            let states = self.tasks.values().filter_map(|task| match task.state {
                Where::With { hold: Hold::Begun { deadline: until, .. } | Hold::Revoked { until }, .. } => Some(until),
                Where::Delayed(until) => Some(until),
                _ => None,
            });
            let end = self.close_at.flatten().filter(|_| !self.closed);
            let stalled = self.workers.keys().filter_map(|worker| self.stalls_at(*worker));
            let due = states.chain(end).chain(stalled).min();
            assert!(due.is_none_or(|due| timeout.is_some_and(|timeout| timeout <= due)), "{timeout:?} for {due:?}");
            let Some(next) = timeout.filter(|next| *next <= until) else { break };
            self.now = next.max(self.now);
            self.time_out(self.now);
            assert!(self.pulling.poll_timeout().is_none_or(|again| again > next), "once for each time");
        }
        self.now = until;
    }

    /// Hands in `at`, which may lie before the present.
    fn time_out(&mut self, at: Instant) {
        self.pulling.handle_timeout(at);
        let now = self.now;
        loop {
            match self.pulling.decisions.front() {
                Some(Pending::Decided(Decision::Dead(_))) if !self.expected.is_empty() => self.dead_letter(),
                Some(Pending::Decided(Decision::Expired(_) | Decision::Revoke(_))) => {
                    match self.pulling.poll_decision() {
                        Some(Decision::Expired(given)) => self.expired(given),
                        Some(Decision::Revoke(given)) => self.asked_back(given),
                        other => panic!("{other:?}"),
                    }
                }
                _ => break,
            }
        }
        let is_due = |state: &Where| matches!(state, Where::With { hold: Hold::Begun { deadline: until, .. } | Hold::Revoked { until }, .. } if *until <= now);
        for id in self.ids(is_due) {
            let Where::With { worker, hold: Hold::Revoked { .. } } = self.tasks[&id].state else {
                panic!("{id} is late")
            };
            self.workers.get_mut(&worker).unwrap().is_silent = true;
            self.put_back(id, Duration::ZERO);
        }
        for id in self.ids(|state| matches!(state, Where::Delayed(until) if *until <= now)) {
            self.tasks.get_mut(&id).unwrap().state = Where::Waiting;
        }
        if self.close_at.flatten().is_some_and(|at| at <= now) {
            for id in self.ids(|state| !matches!(state, Where::Finished | Where::Dead)) {
                self.kill(id, DeadReason::Closed);
            }
        }
        self.settle();
    }

    /// A task runs out: its worker is silent, and loses what waits there.
    fn expired(&mut self, given: Given) {
        let (id, now) = (u64::try_from(given.task.number()).unwrap(), self.now);
        assert!(self.has(given));
        assert!(matches!(self.hold(id), Some(Hold::Begun { deadline, .. }) if deadline <= now));
        let model = self.workers.get_mut(&given.worker).unwrap();
        model.is_silent = true;
        let announces = model.announces;
        self.fail(id, DeadReason::Expired, Duration::ZERO);
        if !announces {
            for id in
                self.held(given.worker).into_iter().filter(|id| self.hold(*id) == Some(Hold::Lent)).collect::<Vec<_>>()
            {
                self.put_back(id, Duration::ZERO);
            }
        }
    }

    /// A task is asked back: it waits at one that is silent, or somebody else has nothing to do.
    fn asked_back(&mut self, given: Given) {
        let (id, worker) = (u64::try_from(given.task.number()).unwrap(), given.worker);
        assert!(self.has(given) && self.workers[&worker].announces);
        if self.stopped && !self.pulling.is_silent(worker) {
            // Everything is asked back that can be.
        } else if self.pulling.is_silent(worker) {
            if !self.workers[&worker].is_silent {
                let is_late = |id| matches!(self.hold(id), Some(Hold::Revoked { until }) if until <= self.now);
                let is_stalled = self.stalls_at(worker).is_some_and(|at| at <= self.now);
                assert!(is_stalled || self.held(worker).into_iter().any(is_late), "it is not silent");
                self.workers.get_mut(&worker).unwrap().is_silent = true;
            }
        } else {
            let rests = self.workers[&worker].moved_at.is_some_and(|at| self.now - at >= Duration::from_millis(100));
            let is_idle = |other: &WorkerId| self.room(*other) > 0 && self.held(*other).is_empty();
            assert!(rests && self.workers.keys().any(is_idle), "nobody is idle");
            assert_eq!(self.options.assignment, Assignment::ByDemand);
        }
        let Where::With { hold, .. } = &mut self.tasks.get_mut(&id).unwrap().state else { unreachable!() };
        assert_eq!(std::mem::replace(hold, Hold::Revoked { until: self.now + Duration::from_secs(30) }), Hold::Lent);
    }

    /// When a worker has begun with nothing for too long.
    fn stalls_at(&self, worker: WorkerId) -> Option<Instant> {
        let model = &self.workers[&worker];
        let holds: Vec<_> = self.held(worker).into_iter().filter_map(|id| self.hold(id)).collect();
        let is_begun = holds.iter().any(|hold| matches!(hold, Hold::Begun { .. }));
        let stalls = model.announces && holds.contains(&Hold::Lent) && !is_begun;
        Some(model.moved_at.filter(|_| stalls)? + self.options.ack_wait)
    }

    /// Tasks in some state, in the order in which they were pushed.
    fn ids(&self, is: impl Fn(&Where) -> bool) -> Vec<u64> {
        self.tasks.iter().filter(|(_, task)| is(&task.state)).map(|(id, _)| *id).collect()
    }

    fn waiting(&self) -> usize {
        self.ids(|state| matches!(state, Where::Waiting | Where::Delayed(_))).len()
    }

    fn room(&self, worker: WorkerId) -> u64 {
        let held = self.ids(|state| matches!(state, Where::With { worker: who, .. } if *who == worker)).len();
        let model = &self.workers[&worker];
        if model.is_silent {
            return 0;
        }
        (model.asked - model.given).min((self.options.max_in_flight_per_worker - held) as u64)
    }

    /// Takes a dead letter, which must be the one that is due.
    fn dead_letter(&mut self) {
        let Some(Decision::Dead(letter)) = self.pulling.poll_decision() else { panic!("{:?} is due", self.expected) };
        let (id, reason) = self.expected.pop_front().unwrap_or_else(|| panic!("{letter:?} is not due"));
        let task = &self.tasks[&id];
        assert_eq!((letter.task, letter.payload, &letter.reason), (TaskId::from(id), id, &reason));
        assert_eq!(letter.attempts, task.given);
        if !matches!(reason, DeadReason::Terminated(_) | DeadReason::Closed) {
            assert_eq!(task.failures, self.options.max_attempts.get());
        }
    }

    /// Carries out all decisions, and checks what must hold whenever there are none.
    fn settle(&mut self) {
        loop {
            while let Some(Pending::Decided(Decision::Dead(_))) = self.pulling.decisions.front() {
                self.dead_letter();
            }
            match self.pulling.poll_decision() {
                None => break,
                Some(Decision::Assign(given)) => self.assigned(given),
                Some(Decision::Revoke(given)) => self.asked_back(given),
                Some(Decision::Closed) => {
                    assert!(!self.closed && (self.close_at.is_some() || self.stopped), "closed once, and when asked");
                    self.closed = true;
                }
                Some(other) => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(self.expected, [], "dead letters are told at once");
        let in_flight = self.ids(|state| matches!(state, Where::With { .. })).len();
        assert_eq!((self.pulling.waiting(), self.pulling.in_flight()), (self.waiting(), in_flight));
        assert!(in_flight <= self.options.max_in_flight);
        assert!(self.pulling.entries.len() <= self.options.max_waiting + self.options.max_in_flight, "bounded");
        assert_eq!(self.pulling.workers(), self.workers.len());
        self.returned = None;
        for (worker, model) in &self.workers {
            assert_eq!(self.pulling.is_silent(*worker), model.is_silent);
            let waits = self.held(*worker).into_iter().any(|id| self.hold(id) == Some(Hold::Lent));
            assert!(!(waits && model.is_silent), "nothing waits at one that is silent");
        }
        if self.stopped {
            assert_eq!(self.closed, in_flight == 0);
            let lent = self.ids(|state| matches!(state, Where::With { hold: Hold::Lent, .. }));
            assert!(lent.into_iter().all(|id| !self.workers[&self.worker(id)].announces), "what can be asked back was");
            return;
        }
        let is_over = self.close_at.is_some() && in_flight + self.waiting() == 0;
        assert_eq!(self.closed, is_over);
        self.nothing_waits_in_vain(in_flight);
    }

    /// What waits is what nobody may be given.
    fn nothing_waits_in_vain(&self, in_flight: usize) {
        let waits = self.ids(|state| *state == Where::Waiting);
        if waits.is_empty() || in_flight == self.options.max_in_flight {
            return;
        }
        match self.options.assignment {
            Assignment::ByDemand => assert!(self.workers.keys().all(|worker| self.room(*worker) == 0)),
            Assignment::RoundRobin => assert!(self.turn().is_none_or(|worker| self.room(worker) == 0)),
            Assignment::ByKey => {
                for id in waits {
                    if let Some((owner, _)) = self.keys.get(&self.tasks[&id].key) {
                        assert_eq!(self.room(*owner), 0);
                    }
                }
                assert!(self.workers.is_empty() || self.workers.keys().any(|worker| self.room(*worker) == 0));
            }
        }
    }

    /// In turn: who is next.
    fn turn(&self) -> Option<WorkerId> {
        let speaking = || self.workers.iter().filter(|(_, model)| !model.is_silent).map(|(id, _)| *id);
        speaking().find(|id| Some(*id) > self.last).or_else(|| speaking().next())
    }

    fn assigned(&mut self, given: Given) {
        assert!(!self.stopped, "nothing is given out any more");
        let id = u64::try_from(given.task.number()).unwrap();
        let room = self.room(given.worker);
        assert!(room > 0, "only what was asked for, and only to those who are there");
        let waits = self.ids(|state| *state == Where::Waiting);
        assert!(waits.contains(&id));
        // Those that came back are first, and otherwise it is the order of pushing.
        let first = |ids: &[u64]| {
            ids.iter().copied().min_by_key(|id| (!self.tasks[id].has_come_back, *id)).expect("somebody waits")
        };
        match self.options.assignment {
            Assignment::ByDemand => {
                assert_eq!(id, first(&waits));
                let is_idle = |other: &WorkerId| self.room(*other) > 0 && self.held(*other).is_empty();
                let from = self.returned.filter(|(returned, _)| *returned == id).map(|(_, from)| from);
                if from.is_some()
                    && waits.len() == 1
                    && self.workers.keys().any(|other| is_idle(other) && Some(*other) != from)
                {
                    assert!(is_idle(&given.worker) && Some(given.worker) != from, "to who has nothing to do");
                } else {
                    assert!(self.workers.keys().all(|other| self.room(*other) <= room), "to who wants most");
                }
            }
            Assignment::RoundRobin => {
                assert_eq!(id, first(&waits));
                assert_eq!(Some(given.worker), self.turn());
            }
            Assignment::ByKey => {
                let key = self.tasks[&id].key;
                let of_key: Vec<_> = waits.into_iter().filter(|other| self.tasks[other].key == key).collect();
                assert_eq!(id, first(&of_key));
                let before = self.keys.insert(key, (given.worker, id));
                assert!(before.is_none_or(|(owner, _)| owner == given.worker), "a key keeps its worker");
            }
        }
        self.last = Some(given.worker);
        let has_line = self.held(given.worker).into_iter().any(|id| self.hold(id) == Some(Hold::Lent));
        let model = self.workers.get_mut(&given.worker).unwrap();
        model.given += 1;
        if !has_line {
            model.moved_at = Some(self.now);
        }
        let task = self.tasks.get_mut(&id).unwrap();
        task.given += 1;
        assert_eq!(task.given, given.attempt.number());
        assert_eq!(self.pulling.payload(given.task), Some(&id));
        task.state = Where::With { worker: given.worker, hold: Hold::Lent };
        self.history.push(given);
        self.begin_next(given.worker);
    }

    #[cfg(test)]
    fn stop(&mut self) {
        self.stopped = true;
        self.pulling.stop(self.now);
        self.settle();
    }

    fn close(&mut self, grace: Option<Duration>) {
        self.pulling.close(self.now, grace);
        self.close_at = Some(grace.map(|grace| self.now + grace));
        self.settle();
    }
}

/// The laws on the schedule that the bytes say.
pub fn obey(schedule: &[u8]) {
    run(&mut Rng::Bytes(schedule));
}

fn run(rng: &mut Rng<'_>) -> Counters {
    let mut world = World::new(rng);
    for _ in 0..rng.below(300) {
        if rng.is_used_up() {
            break;
        }
        world.step(rng);
    }
    let has_grace = rng.below(2) == 0;
    world.close(has_grace.then(|| Duration::from_secs(rng.below(60))));
    for _ in 0..rng.below(100) {
        if rng.is_used_up() {
            break;
        }
        world.step(rng);
    }
    if has_grace {
        world.pass(Duration::from_secs(60));
    } else {
        // Somebody good comes along.
        for worker in world.workers.keys().copied().collect::<Vec<_>>() {
            world.pulling.leave(world.now, worker);
            world.gone(worker, false);
            world.settle();
        }
        world.join(1_000_000, false);
        world.settle();
        for _ in 0..1000 {
            // All at once, or it would be taken for silent.
            while let Some(given) = world.history.iter().copied().rfind(|given| world.has(*given)) {
                world.pulling.acknowledge(world.now, given.worker, given.task, given.attempt).unwrap();
                let id = u64::try_from(given.task.number()).unwrap();
                world.take(id, Where::Finished);
                world.settle();
            }
            if world.closed {
                break;
            }
            world.pass(Duration::from_secs(1));
        }
    }
    assert!(world.closed, "there is an end");
    assert!(world.tasks.values().all(|task| matches!(task.state, Where::Finished | Where::Dead)), "for every task");
    let counters = world.pulling.counters();
    assert_eq!(counters.pushed, counters.finished + counters.dead, "in one way");
    assert_eq!(world.pulling.poll_timeout(), None);
    counters
}

/// The laws where it is stopped in the middle.
#[cfg(test)]
fn run_and_stop(rng: &mut Rng<'_>) -> Counters {
    let mut world = World::new(rng);
    for _ in 0..rng.below(300) {
        world.step(rng);
    }
    if rng.below(4) == 0 {
        world.close(None);
    }
    world.stop();
    for _ in 0..rng.below(100) {
        world.step(rng);
    }
    // Nothing is heard any more of what is still with workers.
    while !world.closed {
        world.pass(Duration::from_secs(1));
    }
    for (id, task) in &world.tasks {
        let next = world.pulling.next_attempt(TaskId::from(*id)).map(Attempt::number);
        let is_left = matches!(task.state, Where::Waiting | Where::Delayed(_));
        assert_eq!(next, is_left.then_some(task.given + 1), "{id}");
    }
    let counters = world.pulling.counters();
    let left = world.waiting() as u64;
    assert_eq!(counters.pushed, counters.finished + counters.dead + left, "what has not ended is left");
    counters
}

#[cfg(test)]
#[test]
fn every_task_ends_once_whatever_the_workers_do() {
    let sum = over_seeds(run);
    // The schedules do what they are meant to.
    let all = [sum.finished, sum.dead, sum.late, sum.expired, sum.lost, sum.given_back];
    assert!(all.iter().all(|count| *count > 2000), "{sum:?}");
    assert!([sum.revoked, sum.returned, sum.taken_back].iter().all(|count| *count > 500), "{sum:?}");
}

#[cfg(test)]
#[test]
fn what_nobody_has_begun_with_is_left_untouched_by_a_stop() {
    let sum = over_seeds(run_and_stop);
    assert!([sum.finished, sum.revoked, sum.returned].iter().all(|count| *count > 500), "{sum:?}");
}

/// The sum of what happens with each seed.
#[cfg(test)]
fn over_seeds(run: impl Fn(&mut Rng<'_>) -> Counters + std::panic::RefUnwindSafe) -> Counters {
    if let Ok(seed) = std::env::var("SEED") {
        return run(&mut Rng::Seed(seed.parse().unwrap()));
    }
    let mut sum = Counters::default();
    let watch = aqueduct_watchdog::Watch::over("SEED=");
    for seed in 0..2000 {
        watch.begin(seed);
        let result = std::panic::catch_unwind(|| run(&mut Rng::Seed(seed)));
        let Ok(counters) = result else { panic!("SEED={seed}") };
        sum.finished += counters.finished;
        sum.dead += counters.dead;
        sum.late += counters.late;
        sum.expired += counters.expired;
        sum.lost += counters.lost;
        sum.given_back += counters.given_back;
        sum.revoked += counters.revoked;
        sum.returned += counters.returned;
        sum.taken_back += counters.taken_back;
    }
    sum
}
