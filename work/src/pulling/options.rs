//! [`PullingOptions`] and [`Assignment`]: how tasks are given out, and every bound.

use std::num::NonZeroU32;
use std::time::Duration;

/// To which worker a task goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assignment {
    /// To the one that has most room left of what it asked for; of two with as much, to the one that joined first. While every
    /// worker has something to do, it is given a thirty-second of that room in one row. Tasks are handed out in the order in
    /// which they were pushed, those that come back before the others. The default: a slow worker asks less often, and so gets
    /// less.
    #[default]
    ByDemand,
    /// To each in turn, in the order in which they joined. Strictly: a worker without demand is waited for, and the others
    /// wait with it. A worker that has let a task run out is passed over until it is heard of again. In the same order
    /// as by demand.
    RoundRobin,
    /// Tasks of one [key](crate::pulling::Task::key) to one worker, in the order in which they were pushed, as long as
    /// nobody joins or leaves and none of them comes back. A joining or leaving worker moves only its share of the keys
    /// (rendezvous hashing over 1024 lanes). Tasks of a worker that does not ask wait for it. A task without a key is
    /// placed by its id.
    ByKey,
}

/// How tasks are given out and for how long one waits for their answers. Every bound is here.
///
/// ```
/// use std::time::Duration;
///
/// use aqueduct_work::pulling::{Assignment, PullingOptions};
///
/// let options = PullingOptions::default().assignment(Assignment::ByKey).ack_wait(Duration::from_secs(5));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct PullingOptions {
    pub(super) assignment: Assignment,
    /// Within [`ACK_WAIT`].
    pub(super) ack_wait: Duration,
    pub(super) max_attempts: NonZeroU32,
    pub(super) max_attempt_time: Duration,
    pub(super) max_delay: Duration,
    pub(super) max_waiting: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_in_flight_per_worker: usize,
    pub(super) max_workers: usize,
    pub(super) max_remembered: usize,
}

impl Default for PullingOptions {
    fn default() -> Self {
        Self {
            assignment: Assignment::ByDemand,
            ack_wait: Duration::from_mins(30),
            max_attempts: const { NonZeroU32::new(5).expect("not zero") },
            max_attempt_time: Duration::from_hours(24),
            max_delay: Duration::from_hours(1),
            max_waiting: 10_000,
            max_in_flight: 100_000,
            max_in_flight_per_worker: 10_000,
            max_workers: 1024,
            max_remembered: 65_536,
        }
    }
}

impl PullingOptions {
    /// How often a task is tried: what [`max_attempts`](Self::max_attempts) has set.
    pub fn attempts(&self) -> NonZeroU32 {
        self.max_attempts
    }

    /// How many workers there may be: what [`max_workers`](Self::max_workers) has set.
    pub fn workers(&self) -> usize {
        self.max_workers
    }

    /// Sets to which worker a task goes. Default [`Assignment::ByDemand`].
    #[must_use]
    pub fn assignment(mut self, assignment: Assignment) -> Self {
        self.assignment = assignment;
        self
    }

    /// Sets how long a worker may take for a task without a word about it, from when it begins. Default 30 min. Then somebody
    /// else gets it.
    ///
    /// It is there for a worker whose process lives and whose task never ends; one that dies, stops or is cut off is noticed by
    /// its connection, within seconds. Nothing tells a stuck task from a long one but time, so the default is longer than most
    /// tasks take. A lower value finds a stuck worker sooner, and repeats the work of one that is merely slow: let such a worker
    /// [report progress](crate::pulling::Pulling::progress) every third of this.
    ///
    /// What waits at a worker, as it has asked for several tasks, has not begun and does not run out. It is asked back when
    /// another worker has nothing to do, when a task of its worker runs out, and when its worker begins with nothing for so
    /// long as this. A worker that cannot [say](crate::pulling::Pulling::announces) what it begins with is taken to do one
    /// task after the other, or one piece after the other if it acknowledges pieces.
    ///
    /// # Panics
    ///
    /// Unless it is of 1 ms to 30 days.
    #[must_use]
    #[track_caller]
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        assert!(ACK_WAIT.contains(&wait), "expected ack_wait to be of {ACK_WAIT:?}, got {wait:?}");
        self.ack_wait = wait;
        self
    }

    /// Sets how often a task may fail before it is a dead letter. Default 5: an unlucky task survives the loss of several
    /// workers in a row, and one that kills its workers is stopped soon.
    #[must_use]
    pub fn max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets how long one attempt may be kept up by reports of progress. Default 24 h, which is longer than nearly every
    /// task: it is there so that a worker which reports for ever, and does nothing, cannot keep its task.
    #[must_use]
    pub fn max_attempt_time(mut self, time: Duration) -> Self {
        self.max_attempt_time = time;
        self
    }

    /// Sets for how long a worker can put a task off. Default 1 h; longer delays are cut to it, so that no worker can put a
    /// task off for ever.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets how many tasks may wait to be given out before no more are taken. Default 10,000, the demand of one far consumer:
    /// a worker that asks is served at once. Tasks that come back wait too, whatever this bound.
    ///
    /// # Panics
    ///
    /// When it is 0.
    #[must_use]
    #[track_caller]
    pub fn max_waiting(mut self, tasks: usize) -> Self {
        assert!((1..MAX_TASKS).contains(&tasks), "expected max_waiting to be in 1..{MAX_TASKS}, got {tasks}");
        self.max_waiting = tasks;
        self
    }

    /// Sets how many tasks may be with workers. Default 100,000: ten workers at their bound. At most so many and
    /// [`max_waiting`](Self::max_waiting) are held in memory.
    ///
    /// # Panics
    ///
    /// When it is 0.
    #[must_use]
    #[track_caller]
    pub fn max_in_flight(mut self, tasks: usize) -> Self {
        assert!((1..MAX_TASKS).contains(&tasks), "expected max_in_flight to be in 1..{MAX_TASKS}, got {tasks}");
        self.max_in_flight = tasks;
        self
    }

    /// Sets how many tasks may be with one worker, however many it asks for. Default 10,000, which is what a far consumer
    /// asks for unless told otherwise. It bounds what has to be done again when that worker is lost.
    ///
    /// # Panics
    ///
    /// When it is 0.
    #[must_use]
    #[track_caller]
    pub fn max_in_flight_per_worker(mut self, tasks: usize) -> Self {
        assert!(tasks > 0, "expected max_in_flight_per_worker to be at least 1, got 0");
        self.max_in_flight_per_worker = tasks;
        self
    }

    /// Sets how many workers may have joined at a time. Default 1024, as many as a connection has subscriptions.
    #[must_use]
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.max_workers = workers;
        self
    }

    /// Sets how many ids of ended tasks are remembered. Default 65,536, of about 50 bytes each. As long as an id is
    /// remembered, the task is not taken a second time, and another answer to it counts as late and not as unknown. A
    /// [`WorkPool`](super::WorkPool) remembers 1,024 at most: its source gives each event once.
    #[must_use]
    pub fn max_remembered(mut self, ids: usize) -> Self {
        self.max_remembered = ids;
        self
    }
}

/// The shortest and the longest `ack_wait`: a shorter one is below what timers can tell apart, a longer one is never.
const ACK_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(30 * 24);
/// Slots are numbered in 32 bits, and waiting tasks and those with workers share them.
const MAX_TASKS: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "expected ack_wait to be of 1ms..=2592000s, got 0ns")]
    fn a_wait_of_nothing_is_refused() {
        let _ = PullingOptions::default().ack_wait(Duration::ZERO);
    }

    #[test]
    #[should_panic(expected = "expected max_waiting to be in 1..1073741824, got 0")]
    fn some_task_may_wait() {
        let _ = PullingOptions::default().max_waiting(0);
    }
}
