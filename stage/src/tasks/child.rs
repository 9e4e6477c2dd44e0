//! [`ChildId`], [`ChildInfo`], [`ChildCounts`], [`Shutdown`]: what is said of a supervisor's children.

use std::fmt;
use std::time::Duration;

/// Names a child of a supervisor, over all of its restarts. Children are numbered in the order in which they were
/// started, from 1; a number is not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId {
    // First, so that ids are ordered by it.
    pub(crate) number: u64,
    /// Where the supervisor keeps it.
    pub(crate) slot: u32,
}

impl ChildId {
    /// Its number.
    pub fn number(self) -> u64 {
        self.number
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.number)
    }
}

/// A child, as its supervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildInfo {
    /// Its id.
    pub id: ChildId,
    /// What it is doing.
    pub state: ChildState,
}

/// What a child is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildState {
    /// It runs, or is about to.
    Active,
    /// It has failed and will be started again.
    Restarting,
    /// It was told to end.
    Stopping,
}

/// How many children a supervisor has, and what became of those that it had: OTP's `count_children`, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildCounts {
    /// Children there are, whether they run or wait to be started again.
    pub specs: usize,
    /// Children that run.
    pub active: usize,
    /// Children that are supervisors: none.
    pub supervisors: usize,
    /// Children that are not supervisors: all.
    pub workers: usize,
    /// Children that were ever started, restarts not counted.
    pub started: u64,
    /// Restarts.
    pub restarts: u64,
    /// Children that are gone because of an error or a panic, or that could not be started. What a child answers that
    /// was told to end does not count.
    pub failed: u64,
    /// Children that were dropped before they had ended: at once, or because their shutdown time was over.
    pub killed: u64,
}

/// How long a child that is told to end is given, before it is dropped where it waits.
///
/// A child hears of it through [`Stopping`](crate::Stopping). One that does not listen has this time to finish what it
/// is doing. (In Elixir a process that does not trap exits dies at once: choose [`Kill`](Self::Kill) for that.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// None: it is dropped at once, and not told. OTP's `:brutal_kill`.
    Kill,
    /// So long.
    After(Duration),
    /// As long as it takes. OTP's `:infinity`.
    Unlimited,
}

impl Default for Shutdown {
    /// 5 s, as for OTP's workers.
    fn default() -> Self {
        Self::After(Duration::from_secs(5))
    }
}

/// Why a child was not started.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StartChildError {
    /// There are as many as there may be.
    #[error("supervisor {supervisor:?} has {max_children} children, as many as it may")]
    MaxChildren {
        /// The supervisor's name.
        supervisor: String,
        /// How many it may have.
        max_children: usize,
    },
    /// The supervisor has been shut down, or has given up.
    #[error("supervisor {0:?} has ended")]
    Ended(String),
}

aqueduct_dispatcher::debug_as_sentence!(StartChildError);

/// There is no child of this id: there never was, or it is gone.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("child {0} not found")]
pub struct ChildNotFound(pub ChildId);

aqueduct_dispatcher::debug_as_sentence!(ChildNotFound);
