//! The bugs that are planted in this crate, as `bugs` of `aqueduct-dispatcher` explains.
//!
//! | bug | what is wrong | found by | with |
//! |---|---|---|---|
//! | `AnswerOfAnotherAttempt` | an answer counts whichever attempt it is about | pulling::laws | seed 1 |
//! | `OneAttemptTooMany` | a task is tried once more than it may be | pulling::laws | seed 0 |
//! | `DuplicateTaken` | a task that is known is taken again | pulling::laws | seed 0 |
//! | `ForgottenStaysEnded` | a task that was forgotten and pushed again is forgotten as one that has ended | pulling::tests | at once |
//! | `WaitingRunsOut` | what waits at a worker has the deadline of what was begun | pulling::laws | seed 0 |
//! | `NotBegunIsAttempt` | an entry that its reader has not begun with counts as attempted | durable::lending::tests | no seed |
//! | `CancelledReaderForgotten` | what a reader has in hand is forgotten as soon as it cancels | durable::lending::tests | no seed |
//! | `LentForgotten` | a file that is opened anew after a failure forgets what is lent | transport damaged, what_an_effect_panics_with | no seed |
//! | `ChecksumIgnored` | the checksum of an entry is not compared | durable::redb::records::tests | no seed |
//! | `AckNotFlushed` | an acknowledgement is not written to the file | transport durable, after_kill_9 | no seed |

#[cfg(aqueduct_bugs)]
pub use aqueduct_stage::bugs::{bug, is_on};

/// Whether a planted bug is on: never.
#[cfg(not(aqueduct_bugs))]
macro_rules! bug {
    ($bug:ident) => {
        false
    };
}

#[cfg(not(aqueduct_bugs))]
pub(crate) use bug;
