//! [`Outcome`]: what each stage of a graph did.

use std::fmt;

use crate::Exit;

/// What each stage of a graph did, in the order in which they were declared.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// One entry for each stage.
    pub stages: Vec<StageOutcome>,
}

/// What one stage did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StageOutcome {
    /// Its name.
    pub stage: String,
    /// How it ended.
    pub exit: Exit,
    /// How many events it handled.
    pub events_in: u64,
    /// How many events it sent to subscribers.
    pub events_out: u64,
    /// How many events it emitted that were dropped: because its buffer was full, or because it ended with events in
    /// its buffer that nobody had asked for.
    pub discarded: u64,
}

impl Outcome {
    /// The entry of the stage called `name`.
    pub fn stage(&self, name: &str) -> Option<&StageOutcome> {
        self.stages.iter().find(|outcome| outcome.stage == name)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for StageOutcome { stage, exit, events_in, events_out, discarded } in &self.stages {
            writeln!(f, "{stage}: {exit}, {events_in} in, {events_out} out, {discarded} discarded")?;
        }
        Ok(())
    }
}
