//! The steps that [`Pulling`] is made of: a task's way from one state to the next.

use std::time::{Duration, Instant};

use aqueduct_stage::Attempt;

use super::{
    Closing, DeadLetter, DeadReason, Decision, Entry, Given, Pending, Place, Pulling, Refused, State, Task, TaskId,
    WorkerId,
};
use crate::bugs::bug;

impl<T> Pulling<T> {
    /// Time does not go back, whatever is handed in.
    pub(super) fn advance(&mut self, now: Instant) -> Instant {
        *self.now.insert(self.now.map_or(now, |before| before.max(now)))
    }

    /// The slot of a task, if this worker has it in this attempt. Any message is a sign of life.
    pub(super) fn held(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<u32, Refused> {
        let was_silent = self.is_silent(worker);
        self.workers.hear(worker).ok_or(Refused::NoWorker(worker))?;
        let is_late = match self.places.get(&task) {
            None => false,
            Some(Place::Ended) => true,
            Some(Place::Slot(slot)) => {
                let slot = *slot;
                if self.has(Given { worker, task, attempt }, slot) {
                    return Ok(slot);
                }
                self.entries[slot as usize].as_ref().is_some_and(|entry| attempt < entry.attempt)
            }
        };
        if was_silent {
            self.assign(now);
        }
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
        let slot = self.in_flight.first()?;
        let entry = self.entries[slot as usize].as_ref()?;
        let State::With { worker, deadline, .. } = entry.state else { return None };
        (deadline <= now).then_some((slot, Given { worker, task: entry.task.id, attempt: entry.attempt }))
    }

    /// Takes a task from its worker.
    pub(super) fn release(&mut self, slot: u32) {
        let entry = self.entries[slot as usize].as_mut().expect("a held task has an entry");
        if let State::With { worker, .. } = std::mem::replace(&mut entry.state, State::Waiting) {
            self.in_flight.remove(&mut self.by_deadline, slot);
            self.workers.take(worker, &mut self.by_worker, slot);
        }
    }

    /// The attempt of a task that is with a worker has failed.
    pub(super) fn fail(&mut self, now: Instant, slot: u32, delay: Duration, reason: impl FnOnce() -> DeadReason) {
        self.release(slot);
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
    pub(super) fn give_up(&mut self) {
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
            self.release(slot);
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
            self.places.remove(&oldest);
        }
        entry
    }

    /// Gives out what can be, and notices the end.
    pub(super) fn settle(&mut self, now: Instant) {
        self.assign(now);
        let is_empty = self.in_flight.len() == 0 && self.waiting() == 0;
        if is_empty && matches!(self.closing, Closing::Draining(_)) {
            self.closing = Closing::Closed;
            self.decisions.push_back(Pending::Decided(Decision::Closed));
        }
    }

    pub(super) fn assign(&mut self, now: Instant) {
        while self.lanes.len() > 0 && self.in_flight.len() < self.options.max_in_flight {
            let Some((worker, lane)) = self.workers.next() else { return };
            let slot = self.lanes.pop(lane).expect("only lanes with tasks are next");
            self.workers.give(worker, lane, &self.lanes, &mut self.by_worker, slot);
            self.in_flight.push_back(&mut self.by_deadline, slot);
            let entry = self.entries[slot as usize].as_mut().expect("a task that waits has an entry");
            entry.state = State::With { worker, since: now, deadline: now + self.options.ack_wait };
            let given = Given { worker, task: entry.task.id, attempt: entry.attempt };
            self.counters.assigned += 1;
            self.decisions.push_back(Pending::Assign { given, slot });
        }
    }
}
