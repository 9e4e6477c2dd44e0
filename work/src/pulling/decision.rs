//! [`Decision`]s, and what has happened so far.

use aqueduct_stage::Attempt;

use super::{DeadLetter, TaskId, WorkerId};

/// One thing to be done.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision<T> {
    /// Send a task to a worker. Its [payload](super::Pulling::payload) stays here until the task ends.
    Assign(Given),
    /// Ask a worker for a task that waits there. It answers with [`give_back`](super::Pulling::give_back), or with
    /// [`begin`](super::Pulling::begin) if it has begun. Only workers that [announce](super::Pulling::announces) what they
    /// begin with are asked.
    Revoke(Given),
    /// Nothing was heard of a task in time. It waits for somebody else; the worker may be told to stop.
    Expired(Given),
    /// Nobody will do this task.
    Dead(DeadLetter<T>),
    /// Every task has ended. Comes once, last of all.
    Closed,
}

/// A task in the hands of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Given {
    /// Who has it.
    pub worker: WorkerId,
    /// Which one.
    pub task: TaskId,
    /// Which attempt this is. The worker's messages about the task name it.
    pub attempt: Attempt,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Tasks that were taken.
    pub pushed: u64,
    /// Tasks that were not taken because they had been before.
    pub duplicates: u64,
    /// Tasks given to a worker, each attempt counted.
    pub assigned: u64,
    /// Tasks that were answered.
    pub finished: u64,
    /// Tasks that became dead letters.
    pub dead: u64,
    /// Attempts refused by their workers.
    pub nacked: u64,
    /// Attempts of which nothing was heard in time.
    pub expired: u64,
    /// Attempts whose worker was lost.
    pub lost: u64,
    /// Attempts given back by workers that left.
    pub given_back: u64,
    /// Tasks that waited at a worker and were asked back.
    pub revoked: u64,
    /// Those of them that it gave back.
    pub returned: u64,
    /// Tasks that waited at a worker which had fallen silent, and were taken back without its word.
    pub taken_back: u64,
    /// Messages of workers about earlier attempts or ended tasks.
    pub late: u64,
    /// Messages about tasks that the worker never had.
    pub not_held: u64,
}
