//! [`Outcome`]: what each stage of a graph did.

use std::fmt;

use crate::Exit;
use crate::error::Origin;

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
