//! The steps that [`Pulling`] is made of: a task's way from one state to the next.

use std::time::{Duration, Instant};

use aqueduct_stage::Attempt;

use super::{
    Assignment, Closing, DeadLetter, DeadReason, Decision, Entry, Given, Hold, Pending, Place, Pulling, Refused, State,
    Task, TaskId, WorkerId,
};
use crate::bugs::bug;

impl<T> Pulling<T> {
    /// Time does not go back, whatever is handed in.
    pub(super) fn advance(&mut self, now: Instant) -> Instant {
        *self.now.insert(self.now.map_or(now, |before| before.max(now)))
    }

    /// The slot of a task, if this worker has it in this attempt. Any message is a sign of life.
    pub(super) fn held(&mut self, worker: WorkerId, task: TaskId, attempt: Attempt) -> Result<u32, Refused> {
        let was_silent = self.is_silent(worker);
        self.workers.hear(worker).ok_or(Refused::NoWorker(worker))?;
        let found = self.find(worker, task, attempt);
        if was_silent && found.is_err() {
            self.is_unsettled = true;
        }
        found
    }

    /// As [`held`](Self::held), of a message that is no sign of life.
    pub(super) fn find(&mut self, worker: WorkerId, task: TaskId, attempt: Attempt) -> Result<u32, Refused> {
        if self.workers.get(worker).is_none() {
            return Err(Refused::NoWorker(worker));
        }
        let is_late = match self.places.get(task) {
            None => false,
            Some(Place::Ended) => true,
            Some(Place::Slot(slot)) => {
                if self.has(Given { worker, task, attempt }, slot) {
                    return Ok(slot);
                }
                self.entries[slot as usize].as_ref().is_some_and(|entry| attempt < entry.attempt)
            }
        };
        if is_late {
            self.counters.late += 1;
            Err(Refused::Late { task, attempt })
        } else {
            self.counters.not_held += 1;
            Err(Refused::NotHeld { worker, task, attempt })
        }
    }

    pub(super) fn has(&self, given: Given, slot: u32) -> bool {
        self.entries[slot as usize].as_ref().is_some_and(|entry| {
            let State::With { worker, .. } = entry.state else { return false };
            let is_attempt = entry.attempt == given.attempt || bug!(AnswerOfAnotherAttempt);
            (worker, entry.task.id) == (given.worker, given.task) && is_attempt
        })
    }

    pub(super) fn first_expired(&self, now: Instant) -> Option<(u32, Given)> {
        let slot = self.begun.first()?;
        let entry = self.entries[slot as usize].as_ref()?;
        let State::With { worker, hold: Hold::Begun { deadline, .. } } = entry.state else { return None };
        (deadline <= now).then_some((slot, Given { worker, task: entry.task.id, attempt: entry.attempt }))
    }

    /// The first task that was asked back and of which nothing was heard.
    pub(super) fn first_unreturned(&self, now: Instant) -> Option<(u32, WorkerId)> {
        let slot = self.revoked.first()?;
        let entry = self.entries[slot as usize].as_ref()?;
        let State::With { worker, hold: Hold::Revoked { until } } = entry.state else { return None };
        (until <= now).then_some((slot, worker))
    }

    /// The oldest task of a worker, and whether that has begun with it.
    pub(super) fn first_of(&self, worker: WorkerId) -> Option<(u32, bool)> {
        let slot = self.workers.get(worker)?.held.first()?;
        let entry = self.entries[slot as usize].as_ref()?;
        Some((slot, matches!(entry.state, State::With { hold: Hold::Begun { .. }, .. })))
    }

    /// Takes a task from its worker.
    pub(super) fn release(&mut self, now: Instant, slot: u32) {
        let entry = self.entries[slot as usize].as_mut().expect("a held task has an entry");
        let State::With { worker, hold } = std::mem::replace(&mut entry.state, State::Waiting) else { return };
        self.in_flight -= 1;
        match hold {
            Hold::Lent => self.workers.unlend(worker, &mut self.by_line, slot),
            Hold::Revoked { .. } => self.revoked.remove(&mut self.by_deadline, slot),
            Hold::Begun { .. } => {
                self.begun.remove(&mut self.by_deadline, slot);
                self.workers.ended_one(now, worker);
            }
        }
        self.workers.take(worker, &mut self.by_worker, slot);
        self.start_next(now, worker);
    }

    /// A worker has begun with a task that it has.
    pub(super) fn start(&mut self, now: Instant, slot: u32) {
        let entry = self.entries[slot as usize].as_mut().expect("a held task has an entry");
        let State::With { worker, hold } = &mut entry.state else { return };
        let (worker, before) = (*worker, *hold);
        if let Hold::Begun { .. } = before {
            return;
        }
        *hold = Hold::Begun { since: now, deadline: now + self.options.ack_wait };
        match before {
            Hold::Revoked { .. } => self.revoked.remove(&mut self.by_deadline, slot),
            _ => self.workers.unlend(worker, &mut self.by_line, slot),
        }
        self.begun.push_back(&mut self.by_deadline, slot);
        self.workers.began_one(now, worker);
    }

    /// A worker that does not say what it begins with has begun with the oldest task it has.
    fn start_next(&mut self, now: Instant, worker: WorkerId) {
        let in_order = self.workers.get(worker).filter(|worker| !worker.announces && !worker.is_silent);
        if let Some(slot) = in_order.and_then(|worker| worker.held.first()) {
            self.start(now, slot);
        }
    }

    /// Whether a worker is known to have begun with something.
    pub(super) fn has_begun(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.begun > 0)
    }

    /// Asks for a task back that waits at its worker.
    fn revoke(&mut self, now: Instant, slot: u32) {
        let entry = self.entries[slot as usize].as_mut().expect("a task that was lent has an entry");
        let State::With { worker, hold } = &mut entry.state else { return };
        let worker = *worker;
        *hold = Hold::Revoked { until: now + RETURN_WAIT };
        let given = Given { worker, task: entry.task.id, attempt: entry.attempt };
        self.workers.unlend(worker, &mut self.by_line, slot);
        self.revoked.push_back(&mut self.by_deadline, slot);
        self.counters.revoked += 1;
        self.decisions.push_back(Pending::Decided(Decision::Revoke(given)));
    }

    /// Takes everything from a worker that waits there. One that cannot be asked is silent, and does without.
    pub(super) fn clear_line(&mut self, now: Instant, worker: WorkerId) {
        while let Some(slot) = self.workers.get(worker).and_then(|worker| worker.line.first()) {
            if self.workers.get(worker).is_some_and(|worker| worker.announces) {
                self.revoke(now, slot);
            } else {
                self.counters.taken_back += 1;
                self.release(now, slot);
                self.retry(now, slot, Duration::ZERO);
            }
        }
    }

    /// Workers that have begun with nothing for so long, although something waits there, are silent.
    pub(super) fn stalled(&mut self, now: Instant) {
        if self.look.is_none_or(|(at, _)| at > now) {
            return;
        }
        self.look = None;
        for worker in self.workers.stalled(now, self.options.ack_wait) {
            self.workers.silence(worker);
            self.clear_line(now, worker);
        }
    }

    /// If somebody has nothing to do while something waits at a worker that does not get on, asks for that back.
    fn rebalance(&mut self, now: Instant) {
        loop {
            if self.workers.lent() == 0 {
                return;
            }
            let wanted = self.options.assignment == Assignment::ByDemand
                && self.lanes.len() == 0
                && self.workers.idle() > self.revoked.len();
            if self.look.is_some_and(|(at, was_wanted)| at > now && (was_wanted || !wanted)) {
                return;
            }
            let pause = wanted.then_some(LINE_PAUSE);
            let (from, next) = self.workers.look(now, self.options.ack_wait, pause);
            // Whatever begins to wait later is not due before that.
            let latest = now + pause.map_or(self.options.ack_wait, |pause| pause.min(self.options.ack_wait));
            self.look = Some((next.map_or(latest, |next| next.min(latest)), wanted));
            let Some(slot) = from.and_then(|worker| self.workers.get(worker)?.line.last()) else { return };
            self.look = None;
            self.revoke(now, slot);
        }
    }

    /// Gives a task that `from` has returned to somebody who has nothing to do, for whom it was asked back.
    pub(super) fn hand_on(&mut self, now: Instant, from: WorkerId, slot: u32) {
        let next =
            self.workers.most_idle_but(from).filter(|_| self.lanes.len() == 0 && self.closing != Closing::Stopping);
        match next.filter(|_| self.in_flight < self.options.max_in_flight) {
            Some(worker) => {
                self.give(now, worker, 0, slot);
                self.workers.rank(worker);
            }
            None => self.wait(slot),
        }
    }

    /// The attempt of a task that is with a worker has failed.
    pub(super) fn fail(&mut self, now: Instant, slot: u32, delay: Duration, reason: impl FnOnce() -> DeadReason) {
        self.release(now, slot);
        let entry = self.entries[slot as usize].as_mut().expect("a held task has an entry");
        entry.task.failures += 1;
        if entry.task.failures >= self.options.max_attempts.get() + u32::from(bug!(OneAttemptTooMany)) {
            self.die(slot, reason());
        } else {
            self.retry(now, slot, delay);
        }
    }

    /// Lets a task wait that was with a worker, as its next attempt.
    pub(super) fn retry(&mut self, now: Instant, slot: u32, delay: Duration) {
        let entry = self.entries[slot as usize].as_mut().expect("a task that is tried again has an entry");
        entry.attempt = entry.attempt.next();
        let delay = delay.min(self.options.max_delay);
        match now.checked_add(delay) {
            Some(until) if !delay.is_zero() => {
                self.delayed.insert((until, entry.number, slot));
            }
            _ => self.wait(slot),
        }
    }

    /// Puts a task back among those that wait.
    pub(super) fn wait(&mut self, slot: u32) {
        let entry = self.entries[slot as usize].as_mut().expect("a task that waits has an entry");
        entry.state = State::Waiting;
        let (lane, number) = (entry.lane, entry.number);
        let was_empty = self.lanes.is_lane_empty(lane);
        self.lanes.push_back(lane, number, slot);
        if was_empty {
            self.workers.fill(lane);
        }
    }

    /// Makes a dead letter of a task that neither waits nor is with a worker.
    pub(super) fn die(&mut self, slot: u32, reason: DeadReason) {
        let entry = self.end(slot);
        let was_given = match reason {
            // These two come when the next attempt has been numbered already.
            DeadReason::NoAttemptLeft => entry.task.failures,
            DeadReason::Closed => entry.attempt.number() - 1,
            _ => entry.attempt.number(),
        };
        self.counters.dead += 1;
        let Task { id, payload, .. } = entry.task;
        let letter = DeadLetter { task: id, payload, attempts: was_given, reason };
        self.decisions.push_back(Pending::Decided(Decision::Dead(letter)));
    }

    /// Makes dead letters of all tasks, in the order in which they were pushed.
    pub(super) fn give_up(&mut self, now: Instant) {
        let mut left: Vec<_> =
            (0..).zip(&self.entries).filter_map(|(slot, entry)| Some((entry.as_ref()?.number, slot))).collect();
        left.sort_unstable();
        self.lanes.clear();
        self.delayed.clear();
        for (_, slot) in left {
            let entry = self.entries[slot as usize].as_mut().expect("listed above");
            if matches!(entry.state, State::With { .. }) {
                entry.attempt = entry.attempt.next();
            }
            self.release(now, slot);
            self.die(slot, DeadReason::Closed);
        }
    }

    pub(super) fn insert(&mut self, entry: Entry<T>) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = Some(entry);
            return slot;
        }
        self.entries.push(Some(entry));
        u32::try_from(self.entries.len() - 1).expect("the bounds of the options are below")
    }

    /// Frees the slot of a task that has ended, and remembers its id for a while.
    pub(super) fn end(&mut self, slot: u32) -> Entry<T> {
        let entry = self.entries[slot as usize].take().expect("a task ends once");
        self.free.push(slot);
        self.ended.push_back(entry.task.id);
        self.places.insert(entry.task.id, Place::Ended);
        if self.ended.len() > self.options.max_remembered
            && let Some(oldest) = self.ended.pop_front()
        {
            self.places.remove(oldest);
        }
        entry
    }

    /// Gives out what can be, and notices the end.
    pub(super) fn settle(&mut self) {
        // Nothing can have changed before a first call with the time.
        let Some(now) = self.now else { return };
        self.assign(now);
        let is_over = match self.closing {
            Closing::Draining(_) => self.in_flight == 0 && self.waiting() == 0,
            Closing::Stopping => self.in_flight == 0,
            Closing::Open | Closing::Closed => false,
        };
        if is_over {
            self.closing = Closing::Closed;
            self.decisions.push_back(Pending::Decided(Decision::Closed));
        }
    }

    fn assign(&mut self, now: Instant) {
        if matches!(self.closing, Closing::Stopping | Closing::Closed) {
            return;
        }
        while self.lanes.len() > 0 && self.in_flight < self.options.max_in_flight {
            let Some((worker, lane)) = self.workers.next() else { break };
            let run = self.workers.run().min(self.lanes.len()).min(self.options.max_in_flight - self.in_flight);
            for _ in 0..run {
                let slot = self.lanes.pop(lane).expect("only lanes with tasks are next");
                self.give(now, worker, lane, slot);
            }
            self.workers.rank(worker);
        }
        self.rebalance(now);
    }

    /// Gives a task to a worker, which is to be ranked again after that.
    fn give(&mut self, now: Instant, worker: WorkerId, lane: usize, slot: u32) {
        self.workers.give(now, worker, lane, &self.lanes, &mut self.by_worker, &mut self.by_line, slot);
        self.in_flight += 1;
        let entry = self.entries[slot as usize].as_mut().expect("a task that waits has an entry");
        entry.state = State::With { worker, hold: Hold::Lent };
        let given = Given { worker, task: entry.task.id, attempt: entry.attempt };
        self.counters.assigned += 1;
        self.decisions.push_back(Pending::Assign { given, slot });
        self.start_next(now, worker);
        if bug!(WaitingRunsOut) {
            self.start(now, slot);
        }
    }
}

/// What waits at a worker is asked back for another one if the worker has neither begun nor ended anything for so long: a fast
/// one gets there sooner than the question.
pub(super) const LINE_PAUSE: Duration = Duration::from_millis(100);
/// How long a worker may take to give back what it was asked for. Its end of a link does that by itself, so this is for one
/// that is cut off.
pub(super) const RETURN_WAIT: Duration = Duration::from_secs(30);
