//! [`Outcome`]: what each stage of a graph did. [`GraphError`]: why it did not complete.

use std::fmt;

use crate::error::{Origin, Result};
use crate::{Exit, Failure, Intensity};

/// What each stage of a graph did, in the order in which they were declared.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// One entry for each instance of each stage.
    pub stages: Vec<StageOutcome>,
}

/// What one instance of a stage did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StageOutcome {
    /// Its name.
    pub stage: String,
    /// Which of the stage's instances it was, from 0.
    pub instance: usize,
    /// How it ended.
    pub exit: Exit,
    /// How many events it handled.
    pub events_in: u64,
    /// How many events it sent to subscribers. A broadcast counts an event once for each of them.
    pub events_out: u64,
    /// How many events it emitted that nobody got: because a buffer was full, because the dispatcher was told to discard
    /// them, or because the stage ended while they waited for somebody to ask. And how many it was given and did not
    /// handle to the end, because it failed or was stopped, unless they were
    /// [handed back](crate::Stage::subscribe_acknowledged) to somebody.
    pub discarded: u64,
    /// How many events could not be dispatched, because the function that says where to panicked or named no partition.
    pub failed: u64,
    /// How often it was [restarted](crate::Stage::restart), and how often [tasks](crate::Graph::tasks_with) of it were. The
    /// numbers above are those of all its lives together.
    pub restarts: u64,
}

impl Outcome {
    /// The entry of the first instance of the stage called `name`.
    pub fn stage(&self, name: &str) -> Option<&StageOutcome> {
        self.stages.iter().find(|outcome| outcome.stage == name)
    }

    /// Where a failure of an instance begins.
    pub(crate) fn origin(&self, of: &StageOutcome) -> Origin {
        let count = self.stages.iter().filter(|other| other.stage == of.stage).count();
        Origin::instance(&*of.stage, of.instance, count)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for StageOutcome { stage, instance, exit, events_in, events_out, discarded, failed, restarts, .. } in
            &self.stages
        {
            let several = self.stages.iter().filter(|other| other.stage == *stage).count() > 1;
            let number = if several { format!(" {instance}") } else { String::new() };
            write!(
                f,
                "{stage}{number}: {exit}, {events_in} in, {events_out} out, {discarded} discarded, {failed} failed"
            )?;
            match restarts {
                0 => writeln!(f)?,
                1 => writeln!(f, ", 1 restart")?,
                _ => writeln!(f, ", {restarts} restarts")?,
            }
        }
        Ok(())
    }
}

/// Why a graph did not complete. Its message is that of the failure in which it began.
///
/// `Debug` says the same, so that `fn main() -> Result` prints a sentence.
#[derive(Clone)]
#[non_exhaustive]
pub struct GraphError {
    /// The first failure. If restarts were given up, the first of those that led to it.
    pub failure: Failure,
    /// Failures of other origin, in the order in which they came. Stages that only followed are not among them.
    pub others: Vec<Failure>,
    /// The bound on restarts, if the graph was given up because one more would have been needed.
    pub exceeded: Option<Intensity>,
    /// What each stage did until it ended; empty if none was started.
    pub outcome: Outcome,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)?;
        self.exceeded.map_or(Ok(()), |intensity| {
            let (max, within) = (intensity.max_restarts(), intensity.within());
            write!(f, " (restart intensity exceeded: more than {max} within {within:?})")
        })
    }
}

impl std::error::Error for GraphError {}

impl fmt::Debug for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.others.iter().try_for_each(|other| write!(f, "; and {other}"))
    }
}

impl GraphError {
    /// The outcome, if nothing has failed.
    pub(crate) fn unless_empty(
        failures: Vec<Failure>,
        exceeded: Option<Intensity>,
        outcome: Outcome,
    ) -> Result<Outcome, Self> {
        let mut failures = failures.into_iter();
        match failures.next() {
            Some(failure) => Err(Self { failure, others: failures.collect(), exceeded, outcome }),
            None => Ok(outcome),
        }
    }
}
