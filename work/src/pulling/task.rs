//! [`Task`], its ids, its ends, and why something about it is refused.

use std::fmt;

use aqueduct_stage::Attempt;
use xxhash_rust::xxh3::xxh3_64;

/// What a task is known by, unique for its whole life and chosen by whoever pushes it: a sequence number, or a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u128);

impl TaskId {
    /// The id with this number.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u128 {
        self.0
    }
}

impl From<u64> for TaskId {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker is known by from when it joins until it leaves. No id is ever given out again: a worker that comes back
/// is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub(super) u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something to be done once. What it is, in the payload, is of no concern here: it is held and given back at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task<T> {
    pub(super) id: TaskId,
    pub(super) key: Option<u64>,
    pub(super) failures: u32,
    pub(super) payload: T,
}

impl<T> Task<T> {
    /// A task without a key.
    pub fn new(id: impl Into<TaskId>, payload: T) -> Self {
        Self { id: id.into(), key: None, failures: 0, payload }
    }

    /// Sets its key, for [`Assignment::ByKey`](super::Assignment::ByKey). What is hashed is these bytes, with xxh3, so that
    /// every node and every version sees the same.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(xxh3_64(key.as_ref()));
        self
    }

    /// Sets how many attempts were made already, before a restart: the next is numbered after them, and they count.
    #[must_use]
    pub fn attempts_made(mut self, attempts: u32) -> Self {
        self.failures = attempts;
        self
    }

    /// Its id.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// What it is about.
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// What it is about.
    pub fn into_payload(self) -> T {
        self.payload
    }
}

/// A task that was answered, for the first and only time. Whoever gets this delivers the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished<T> {
    /// Which one.
    pub task: TaskId,
    /// What was pushed with it.
    pub payload: T,
    /// Which attempt was answered.
    pub attempt: Attempt,
}

/// A task that nobody will do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter<T> {
    /// Which one.
    pub task: TaskId,
    /// What was pushed with it.
    pub payload: T,
    /// How often it was given to a worker.
    pub attempts: u32,
    /// What happened last.
    pub reason: DeadReason,
}

impl<T> DeadLetter<T> {
    /// The same with another payload, or why there is none.
    ///
    /// # Errors
    ///
    /// That of `map`.
    pub fn try_map<U, E>(self, map: impl FnOnce(T) -> Result<U, E>) -> Result<DeadLetter<U>, E> {
        let Self { task, payload, attempts, reason } = self;
        Ok(DeadLetter { task, payload: map(payload)?, attempts, reason })
    }
}

/// Why a task is a dead letter.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeadReason {
    /// The worker of the last attempt refused it.
    #[error("refused in the last attempt: {0}")]
    Refused(String),
    /// Nothing was heard of the last attempt in time.
    #[error("the last attempt was not answered in time")]
    Expired,
    /// The worker of the last attempt was lost.
    #[error("the worker of the last attempt was lost")]
    WorkerLost,
    /// A worker ended it for good.
    #[error("given up by a worker: {0}")]
    Terminated(String),
    /// All attempts had been made when it was pushed.
    #[error("all attempts were made before the restart")]
    NoAttemptLeft,
    /// The time that [`close`](super::Pulling::close) gave was over.
    #[error("not answered before the end")]
    Closed,
}

aqueduct_stage::debug_as_sentence!(DeadReason);

/// Why a worker's message about a task has no effect. The message still counts as a sign of life.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is about an earlier attempt, or the task has ended: another answer came first, or it took too long.
    #[error("task {task} is past attempt {attempt}", attempt = .attempt.number())]
    Late {
        /// The task.
        task: TaskId,
        /// The attempt of the message.
        attempt: Attempt,
    },
    /// This worker was never given this attempt of this task (or it is long ago). A correct worker does not say so.
    #[error("worker {worker} does not have attempt {attempt} of task {task}", attempt = .attempt.number())]
    NotHeld {
        /// Who said so.
        worker: WorkerId,
        /// The task.
        task: TaskId,
        /// The attempt of the message.
        attempt: Attempt,
    },
    /// The attempt has been kept up for [`max_attempt_time`](super::PullingOptions::max_attempt_time); its deadline stands.
    #[error("attempt {attempt} of task {task} has taken too long", attempt = .attempt.number())]
    TooLong {
        /// The task.
        task: TaskId,
        /// The attempt of the message.
        attempt: Attempt,
    },
    /// No worker of this id has joined, or it has left.
    #[error("there is no worker {0}")]
    NoWorker(WorkerId),
}

aqueduct_stage::debug_as_sentence!(Refused);

/// Why a task was not taken. It comes back with the error.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PushError<T> {
    /// As many tasks wait as may. There is room again when a worker has taken one.
    #[error("{bound} tasks wait already")]
    Full {
        /// The task.
        task: Task<T>,
        /// The bound, [`max_waiting`](super::PullingOptions::max_waiting).
        bound: usize,
    },
    /// A task of this id is here, or was.
    #[error("task {} was pushed before", .0.id)]
    Duplicate(Task<T>),
    /// No more tasks are taken.
    #[error("closed")]
    Closed(Task<T>),
}

aqueduct_stage::debug_as_sentence!(PushError<T>);

impl<T> PushError<T> {
    /// The task.
    pub fn into_task(self) -> Task<T> {
        match self {
            Self::Full { task, .. } | Self::Duplicate(task) | Self::Closed(task) => task,
        }
    }
}

/// Why a worker was not let in.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// As many have joined as may.
    #[error("{bound} workers have joined already")]
    TooMany {
        /// The bound, [`max_workers`](super::PullingOptions::max_workers).
        bound: usize,
    },
    /// Everything has come to its end.
    #[error("closed")]
    Closed,
}

aqueduct_stage::debug_as_sentence!(JoinError);
