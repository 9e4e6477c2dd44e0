//! Tasks for many workers: each done once, by whoever asks.
//!
//! [`Pulling`] is what channels, flows and jobs across nodes have in common. Tasks come in, workers ask for them, and every
//! task ends in exactly one of two ways: it is *finished* by the first valid answer, or it becomes a *dead letter*
//! with the reason.
//!
//! ```text
//!               push                  Decision::Assign                 acknowledge ──► Finished
//!   [ tasks ] ───────► waiting ─────────────────────────► with a worker
//!                         ▲        to one who asked            │ nack, deadline, worker lost or gone
//!                         └────────── attempt + 1 ◄────────────┤
//!                                                              └── the last attempt ──► Decision::Dead
//! ```
//!
//! It is a plain value: it has no clock, does no I/O and starts nothing. Whoever drives it hands in the time with each
//! call, carries out what [`poll_decision`](Pulling::poll_decision) says after it, and calls
//! [`handle_timeout`](Pulling::handle_timeout) at [`poll_timeout`](Pulling::poll_timeout).
//!
//! ```
//! use std::time::Duration;
//!
//! use aqueduct_stage::{Attempt, Demand};
//! use aqueduct_work::pulling::*;
//!
//! let now = tokio::time::Instant::now().into_std();
//! let mut pulling = Pulling::new(PullingOptions::default().ack_wait(Duration::from_secs(30)));
//! let slow = pulling.join(now, Demand::new(1))?;
//! let spare = pulling.join(now, Demand::ZERO)?;
//! pulling.push(now, Task::new(7, "seven"))?;
//! let Some(Decision::Assign(given)) = pulling.poll_decision() else { panic!("slow has asked for one") };
//! assert_eq!((given.worker, given.task, given.attempt), (slow, TaskId::from(7), Attempt::FIRST));
//!
//! // Nothing is heard of it for 30 s, so another one gets it.
//! let later = now + Duration::from_secs(30);
//! assert_eq!(pulling.poll_timeout(), Some(later));
//! pulling.handle_timeout(later);
//! assert!(matches!(pulling.poll_decision(), Some(Decision::Expired(given)) if given.worker == slow));
//! pulling.ask(later, spare, Demand::new(1))?;
//! let Some(Decision::Assign(again)) = pulling.poll_decision() else { panic!("spare has asked for one") };
//! assert_eq!((again.worker, again.attempt.number()), (spare, 2));
//!
//! // The first answer to the present attempt is the answer.
//! assert!(pulling.acknowledge(later, slow, given.task, given.attempt).is_err());
//! assert_eq!(pulling.acknowledge(later, spare, again.task, again.attempt)?.payload, "seven");
//! assert!(pulling.acknowledge(later, spare, again.task, again.attempt).is_err());
//! assert_eq!(pulling.counters().late, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is guaranteed
//!
//! * A task finishes at most once, by an answer to its *present* attempt of the worker that has it. Every other answer is
//!   refused and counted, also where the task has not been given to anybody else yet: a result counts for the attempt
//!   it was made in, or not at all.
//! * A worker is given at most as many tasks as it has asked for since it joined. What it asks for is the sum, so asking
//!   twice for the same is harmless.
//! * A worker that lets a task run out is *silent*: it is given nothing until it is heard of again, so that it does not
//!   use up the attempts of further tasks. Where all workers are silent, tasks wait.
//! * A task is a dead letter when [`max_attempts`](PullingOptions::max_attempts) attempts have failed, when a worker
//!   [ends it for good](Pulling::terminate), or when the time for the end is over. An attempt fails by a nack, by its
//!   deadline, and by the loss of its worker; not when the worker [leaves](Pulling::leave) in an orderly way.
//! * Order is that of pushing, as each [`Assignment`] says. A task that comes back is given out before all that were
//!   pushed after it.
//! * Nothing here grows without a bound: see [`PullingOptions`]. Decisions that are not polled are bounded by the tasks
//!   (and the tasks that ran out) since.
//!
//! [`WorkPool`] drives it for stages: a source's events are the tasks, and subscribers that take them as [`Work`], here or on
//! other nodes, are the workers.
//!
//! A task may be *worked on* more than once, by workers that were too slow or are cut off: what they do must be
//! repeatable, or check the attempt.

mod chain;
mod decision;
mod lanes;
#[cfg(any(test, fuzzing, feature = "laws"))]
#[doc(hidden)]
pub mod laws;
mod options;
mod places;
mod pool;
mod rising;
mod steps;
mod task;
#[cfg(test)]
mod tests;
mod work;
mod workers;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aqueduct_stage::{Attempt, Demand};

use chain::{Chain, Links};
use lanes::Lanes;
use places::Places;
use workers::Workers;

use crate::bugs::bug;

pub use decision::{Counters, Decision, Given};
pub use options::{Assignment, PullingOptions};
pub use pool::{DeadLetters, Results, WorkPool};
pub use task::{DeadLetter, DeadReason, Finished, JoinError, PushError, Refused, Task, TaskId, WorkerId};
pub use work::{Work, WorkSource, Works};

/// Gives tasks to workers that ask, and sees to it that each is answered once. The [module](self) says how.
///
/// Its methods are, in this order: what brings tasks in, what workers say, the passing of time, the end, what it answers,
/// and what can be looked at.
pub struct Pulling<T> {
    options: PullingOptions,
    /// The latest time that was handed in: time never goes back.
    now: Option<Instant>,
    /// Tasks that have not ended, by slot.
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    places: Places,
    /// Ids of ended tasks, oldest first; each is in `places` as ended.
    ended: VecDeque<TaskId>,
    pushed: u64,
    lanes: Lanes,
    workers: Workers,
    /// How many tasks are with workers.
    in_flight: usize,
    /// Those that were begun, earliest deadline first: `ack_wait` is the same for all, so a new deadline is the last.
    begun: Chain,
    /// Those that were asked back, earliest end of the wait first.
    revoked: Chain,
    /// Of both: a task is in one of them at most.
    by_deadline: Links,
    by_worker: Links,
    /// Of those that wait at their workers.
    by_line: Links,
    /// When to look again for tasks that wait where they should not, and whether that is for somebody who has nothing to do.
    /// It may be too early, and is never too late.
    look: Option<(Instant, bool)>,
    /// Tasks that are put off, with their numbers and slots.
    delayed: BTreeSet<(Instant, u64, u32)>,
    decisions: VecDeque<Pending<T>>,
    /// Something has changed since tasks were last given out.
    is_unsettled: bool,
    closing: Closing,
    counters: Counters,
}

struct Entry<T> {
    task: Task<T>,
    /// As the how-manieth it was pushed.
    number: u64,
    lane: usize,
    /// The present attempt, or the next.
    attempt: Attempt,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Or put off.
    Waiting,
    With {
        worker: WorkerId,
        hold: Hold,
    },
}

/// How far a worker is with a task that it was given.
#[derive(Clone, Copy)]
enum Hold {
    /// It waits there, among what the worker has asked for.
    Lent,
    /// It waits there, and was asked back.
    Revoked {
        until: Instant,
    },
    Begun {
        since: Instant,
        deadline: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Slot(u32),
    Ended,
}

enum Pending<T> {
    /// Not told any more when the task has been taken back meanwhile.
    Assign {
        given: Given,
        slot: u32,
    },
    Decided(Decision<T>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    Open,
    /// With the time at which what is left is given up.
    Draining(Option<Instant>),
    /// Nothing is given out any more.
    Stopping,
    Closed,
}

impl<T> Pulling<T> {
    /// Nothing to do, and nobody to do it.
    #[must_use]
    pub fn new(options: PullingOptions) -> Self {
        Self {
            now: None,
            entries: Vec::new(),
            free: Vec::new(),
            places: Places::default(),
            ended: VecDeque::new(),
            pushed: 0,
            lanes: Lanes::new(workers::lane_count(options.assignment)),
            workers: Workers::new(options.assignment, options.max_in_flight_per_worker),
            in_flight: 0,
            begun: Chain::default(),
            revoked: Chain::default(),
            by_deadline: Links::default(),
            by_worker: Links::default(),
            by_line: Links::default(),
            look: None,
            delayed: BTreeSet::new(),
            decisions: VecDeque::new(),
            is_unsettled: false,
            closing: Closing::Open,
            counters: Counters::default(),
            options,
        }
    }

    /// Takes a task.
    ///
    /// # Errors
    ///
    /// [`PushError`], with the task in it, if it is [known](PullingOptions::max_remembered) already, if there is no
    /// [`room`](Self::room), or after [`close`](Self::close). Nothing has changed then.
    pub fn push(&mut self, now: Instant, task: Task<T>) -> Result<(), PushError<T>> {
        self.advance(now);
        if self.closing != Closing::Open {
            return Err(PushError::Closed(task));
        }
        if self.places.get(task.id).is_some() && !bug!(DuplicateTaken) {
            self.counters.duplicates += 1;
            return Err(PushError::Duplicate(task));
        }
        if self.room() == 0 {
            return Err(PushError::Full { task, bound: self.options.max_waiting });
        }
        self.pushed += 1;
        self.counters.pushed += 1;
        let lane = self.lanes.lane_of(task.key.unwrap_or_else(|| hash(task.id)));
        let (id, failures) = (task.id, task.failures);
        let entry = Entry { number: self.pushed, lane, attempt: attempt_after(failures), state: State::Waiting, task };
        let slot = self.insert(entry);
        self.places.insert(id, Place::Slot(slot));
        if failures >= self.options.max_attempts.get() {
            self.die(slot, DeadReason::NoAttemptLeft);
            return Ok(());
        }
        let was_empty = self.lanes.is_lane_empty(lane);
        self.lanes.push(lane, slot);
        if was_empty {
            self.workers.fill(lane);
        }
        self.is_unsettled = true;
        Ok(())
    }

    /// Forgets a task that has ended, so that it can be pushed again, for instance a dead letter that is to be tried once
    /// more (with its [attempts](Task::attempts_made), so that answers to old ones stay refused). Returns whether an
    /// ended task of this id was remembered.
    pub fn forget(&mut self, task: TaskId) -> bool {
        let is_ended = matches!(self.places.get(task), Some(Place::Ended));
        if is_ended {
            self.places.remove(task);
            self.ended.retain(|other| *other != task || bug!(ForgottenStaysEnded));
        }
        is_ended
    }

    /// Lets a worker in, which asks for `demand` tasks to begin with.
    ///
    /// # Errors
    ///
    /// [`JoinError`] when there are as many workers as may be, or when everything has ended. While the last tasks are
    /// being done, workers are welcome.
    pub fn join(&mut self, now: Instant, demand: Demand) -> Result<WorkerId, JoinError> {
        self.advance(now);
        if self.closing == Closing::Closed {
            return Err(JoinError::Closed);
        }
        if self.workers.len() >= self.options.max_workers {
            return Err(JoinError::TooMany { bound: self.options.max_workers });
        }
        let worker = self.workers.join(&self.lanes);
        self.workers.ask(worker, demand.count());
        self.is_unsettled = true;
        Ok(worker)
    }

    /// A worker asks for `up_to` tasks in all, counted since it joined. A number that is not higher than before changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Refused::NoWorker`].
    pub fn ask(&mut self, now: Instant, worker: WorkerId, up_to: Demand) -> Result<(), Refused> {
        self.advance(now);
        self.workers.ask(worker, up_to.count()).ok_or(Refused::NoWorker(worker))?;
        self.is_unsettled = true;
        Ok(())
    }

    /// From now on a worker says when it [begins](Self::begin) with a task, and [gives back](Self::give_back) what it was
    /// asked for and has not begun. To be said before it is given anything. Returns whether it is there.
    ///
    /// Of any other worker it is taken that it does one task after the other: the oldest that it has is the one that it has
    /// begun with, and has a deadline. If it is gone, nobody can say what it had begun with, and everything counts as begun.
    pub fn announces(&mut self, worker: WorkerId) -> bool {
        self.workers.announces(worker)
    }

    /// A worker begins with a task, which has waited there: the deadline is [`ack_wait`](PullingOptions::ack_wait) from now.
    /// Said again, it changes nothing. Any other word about the task says it, too.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing has changed.
    pub fn begin(&mut self, now: Instant, worker: WorkerId, task: TaskId, attempt: Attempt) -> Result<(), Refused> {
        let now = self.advance(now);
        let slot = self.held(worker, task, attempt)?;
        self.start(now, slot);
        self.is_unsettled = true;
        Ok(())
    }

    /// A worker gives a task back that it was [asked for](Decision::Revoke) and has not begun with. It was no attempt. That a
    /// worker does so is no sign that it works: one that is silent stays so.
    ///
    /// # Errors
    ///
    /// [`Refused`], also if the worker was not asked, and nothing has changed.
    pub fn give_back(&mut self, now: Instant, worker: WorkerId, task: TaskId, attempt: Attempt) -> Result<(), Refused> {
        let now = self.advance(now);
        let slot = self.find(worker, task, attempt)?;
        let entry = self.entries[slot as usize].as_ref().expect("a held task has an entry");
        if !matches!(entry.state, State::With { hold: Hold::Revoked { .. }, .. }) {
            self.counters.not_held += 1;
            return Err(Refused::NotHeld { worker, task, attempt });
        }
        self.counters.returned += 1;
        self.release(now, slot);
        self.hand_on(now, worker, slot);
        self.is_unsettled = true;
        Ok(())
    }

    /// A worker has done a task: its answer is to be delivered, exactly if this succeeds.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the answer is late or was made up, and is to be dropped. It has been counted.
    pub fn acknowledge(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<Finished<T>, Refused> {
        let now = self.advance(now);
        let slot = self.held(worker, task, attempt)?;
        self.release(now, slot);
        let entry = self.end(slot);
        self.counters.finished += 1;
        self.is_unsettled = true;
        Ok(Finished { task, payload: entry.task.payload, attempt })
    }

    /// A worker could not do a task, which is tried again after `delay`
    /// ([at most 1 h](PullingOptions::max_delay)), unless this was the last attempt. The message is for the dead letter;
    /// at most 1 KiB of it is kept.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing has changed.
    pub fn nack(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
        delay: Duration,
        message: &str,
    ) -> Result<(), Refused> {
        let now = self.advance(now);
        let slot = self.held(worker, task, attempt)?;
        self.counters.nacked += 1;
        self.fail(now, slot, delay, || DeadReason::Refused(cut(message)));
        self.is_unsettled = true;
        Ok(())
    }

    /// A worker is still at it: the deadline is [`ack_wait`](PullingOptions::ack_wait) from now.
    ///
    /// # Errors
    ///
    /// [`Refused`]; [`Refused::TooLong`] when it goes on for too long already.
    pub fn progress(&mut self, now: Instant, worker: WorkerId, task: TaskId, attempt: Attempt) -> Result<(), Refused> {
        let now = self.advance(now);
        let slot = self.held(worker, task, attempt)?;
        self.start(now, slot);
        let entry = self.entries[slot as usize].as_mut().expect("a held task has an entry");
        if let State::With { hold: Hold::Begun { since, deadline }, .. } = &mut entry.state {
            if now.duration_since(*since) >= self.options.max_attempt_time {
                return Err(Refused::TooLong { task, attempt });
            }
            *deadline = now + self.options.ack_wait;
            self.begun.remove(&mut self.by_deadline, slot);
            self.begun.push_back(&mut self.by_deadline, slot);
        }
        // It may have been silent.
        self.is_unsettled = true;
        Ok(())
    }

    /// A worker knows that a task can never be done: it is a dead letter at once.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing has changed.
    pub fn terminate(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
        message: &str,
    ) -> Result<(), Refused> {
        let now = self.advance(now);
        let slot = self.held(worker, task, attempt)?;
        self.release(now, slot);
        self.die(slot, DeadReason::Terminated(cut(message)));
        self.is_unsettled = true;
        Ok(())
    }

    /// A worker wants no more. It is given nothing from now on, and what it has stays its own until it has answered or
    /// [leaves](Self::leave). Returns whether it was there.
    pub fn retire(&mut self, now: Instant, worker: WorkerId) -> bool {
        self.advance(now);
        let was_there = self.workers.retire(worker, &self.lanes).is_some();
        self.is_unsettled = true;
        was_there
    }

    /// A worker leaves in an orderly way. What it had goes to others, without counting against the tasks; for what it had not
    /// begun with, as far as it [says](Self::announces) so, it was no attempt either. Returns whether it was there.
    pub fn leave(&mut self, now: Instant, worker: WorkerId) -> bool {
        let now = self.advance(now);
        while let Some((slot, was_begun)) = self.first_of(worker) {
            self.counters.given_back += 1;
            self.release(now, slot);
            if was_begun {
                self.retry(now, slot, Duration::ZERO);
            } else {
                self.wait(slot);
            }
        }
        let was_there = self.workers.remove(worker, &self.lanes);
        self.is_unsettled = true;
        was_there
    }

    /// A worker that is about to leave, or was lost, has said that it has not begun with these. For them it was no attempt, also if
    /// it does not [announce](Self::announces) what it begins with, and was taken to do one task after the other. It is given
    /// nothing more.
    pub(crate) fn hand_back(
        &mut self,
        now: Instant,
        worker: WorkerId,
        untouched: impl IntoIterator<Item = (TaskId, Attempt)>,
    ) {
        let now = self.advance(now);
        let _was_there = self.workers.retire(worker, &self.lanes);
        for (task, attempt) in untouched {
            if let Ok(slot) = self.find(worker, task, attempt) {
                self.counters.given_back += 1;
                self.release(now, slot);
                self.wait(slot);
            }
        }
        self.is_unsettled = true;
    }

    /// A worker is known to be gone. What it had goes to others. It counts as a failed attempt for what it had begun with: that
    /// may be what ended the worker. If nothing is known to be begun, it counts for the oldest, as its last word may be lost
    /// with it. For the others, which waited there, it does not count. Of a worker that does not [say](Self::announces) what it
    /// begins with, it counts for all. Returns whether it was there.
    pub fn lost(&mut self, now: Instant, worker: WorkerId) -> bool {
        let now = self.advance(now);
        let mut is_first = !self.has_begun(worker);
        while let Some((slot, was_begun)) = self.first_of(worker) {
            self.counters.lost += 1;
            if was_begun || std::mem::take(&mut is_first) {
                self.fail(now, slot, Duration::ZERO, || DeadReason::WorkerLost);
            } else {
                self.release(now, slot);
                self.retry(now, slot, Duration::ZERO);
            }
        }
        let was_there = self.workers.remove(worker, &self.lanes);
        self.is_unsettled = true;
        was_there
    }

    /// Does what is due at `now`: to be called at [`poll_timeout`](Self::poll_timeout), or later.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        while let Some((slot, given)) = self.first_expired(now) {
            self.counters.expired += 1;
            self.decisions.push_back(Pending::Decided(Decision::Expired(given)));
            self.workers.silence(given.worker);
            self.fail(now, slot, Duration::ZERO, || DeadReason::Expired);
            self.clear_line(now, given.worker);
        }
        while let Some((slot, worker)) = self.first_unreturned(now) {
            self.counters.taken_back += 1;
            self.workers.silence(worker);
            self.release(now, slot);
            self.retry(now, slot, Duration::ZERO);
            self.clear_line(now, worker);
        }
        self.stalled(now);
        while let Some(&(until, number, slot)) = self.delayed.first() {
            if until > now {
                break;
            }
            self.delayed.remove(&(until, number, slot));
            self.wait(slot);
        }
        if matches!(self.closing, Closing::Draining(Some(until)) if until <= now) {
            self.give_up(now);
        }
        self.is_unsettled = true;
    }

    /// Takes no more tasks, and ends when all that are here have ended: [`Decision::Closed`] comes then. After `grace`, or
    /// never with `None`, those that are left become dead letters, so that the end comes also without any worker. Workers may
    /// join meanwhile.
    ///
    /// A second call can only bring the end forward.
    pub fn close(&mut self, now: Instant, grace: Option<Duration>) {
        let now = self.advance(now);
        let until = grace.and_then(|grace| now.checked_add(grace));
        match &mut self.closing {
            Closing::Open => self.closing = Closing::Draining(until),
            Closing::Draining(Some(before)) => *before = until.map_or(*before, |until| until.min(*before)),
            Closing::Draining(before) => *before = until,
            Closing::Stopping | Closing::Closed => {}
        }
        self.is_unsettled = true;
    }

    /// Takes no more tasks and gives none out, and asks back what waits at workers that [announce](Self::announces) what they
    /// begin with. Workers may still answer what they have, or give it back. [`Decision::Closed`] comes when they have nothing
    /// any more. What waits then has not ended, and [`next_attempt`](Self::next_attempt) says how it would go on.
    pub fn stop(&mut self, now: Instant) {
        let now = self.advance(now);
        if self.closing == Closing::Closed {
            return;
        }
        self.closing = Closing::Stopping;
        for worker in self.workers.announcing() {
            self.clear_line(now, worker);
        }
        self.is_unsettled = true;
    }

    /// What is to be done next, in order. To be called until it is `None`, after each call of another method or after several:
    /// then tasks are given out in longer rows.
    pub fn poll_decision(&mut self) -> Option<Decision<T>> {
        loop {
            match self.decisions.pop_front() {
                Some(Pending::Decided(decision)) => return Some(decision),
                Some(Pending::Assign { given, slot }) if self.has(given, slot) => return Some(Decision::Assign(given)),
                Some(Pending::Assign { .. }) => {}
                None if std::mem::take(&mut self.is_unsettled) => self.settle(),
                None => return None,
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` if nothing is.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let until = |slot: u32| match self.entries[slot as usize].as_ref()?.state {
            State::With { hold: Hold::Begun { deadline: until, .. } | Hold::Revoked { until }, .. } => Some(until),
            _ => None,
        };
        let (deadline, returned) = (self.begun.first().and_then(until), self.revoked.first().and_then(until));
        let delayed = self.delayed.first().map(|(until, ..)| *until);
        let end = if let Closing::Draining(until) = self.closing { until } else { None };
        let look = self.look.map(|(at, _)| at).filter(|_| self.workers.lent() > 0);
        [deadline, returned, delayed, end, look].into_iter().flatten().min()
    }

    /// What was pushed with a task that has not ended.
    pub fn payload(&self, task: TaskId) -> Option<&T> {
        match self.places.get(task)? {
            Place::Slot(slot) => self.entries[slot as usize].as_ref().map(|entry| &entry.task.payload),
            Place::Ended => None,
        }
    }

    /// In which attempt a task that has not ended is given out next. What is with a worker counts as begun.
    pub fn next_attempt(&self, task: TaskId) -> Option<Attempt> {
        let Place::Slot(slot) = self.places.get(task)? else { return None };
        let entry = self.entries[slot as usize].as_ref()?;
        Some(if let State::With { .. } = entry.state { entry.attempt.next() } else { entry.attempt })
    }

    /// How many more tasks are taken now: what a source may be asked for.
    pub fn room(&self) -> usize {
        if self.closing == Closing::Open { self.options.max_waiting.saturating_sub(self.waiting()) } else { 0 }
    }

    /// How many tasks wait to be given out, those that are put off included.
    pub fn waiting(&self) -> usize {
        self.lanes.len() + self.delayed.len()
    }

    /// How many tasks are with workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many tasks a worker has; `None` if it is not there.
    pub fn held_by(&self, worker: WorkerId) -> Option<usize> {
        self.workers.get(worker).map(|worker| worker.held.len())
    }

    /// Whether a worker is passed over until it is heard of again, because it let a task run out.
    pub fn is_silent(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.is_silent)
    }

    /// Whether everything has ended after [`close`](Self::close).
    pub fn is_closed(&self) -> bool {
        self.closing == Closing::Closed
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl<T> fmt::Debug for Pulling<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulling")
            .field("waiting", &self.waiting())
            .field("in_flight", &self.in_flight())
            .field("workers", &self.workers())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// The attempt that follows so many.
fn attempt_after(attempts: u32) -> Attempt {
    NonZeroU32::new(attempts.saturating_add(1)).map_or(Attempt::FIRST, Attempt::new)
}

fn hash(task: TaskId) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&task.number().to_le_bytes())
}

/// As much of a message as is kept.
fn cut(message: &str) -> String {
    message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned()
}

/// Enough for an error and where it happened; a hundred thousand dead letters of it are a hundred megabytes.
const MAX_MESSAGE_BYTES: usize = 1024;
