//! [`Ending`]: makes sure that the end of a stage is known, whoever brings it about.

use std::sync::Arc;

use crate::graph::Report;
use crate::mailbox::{Mailbox, Message};
use crate::outcome::StageOutcome;
use crate::{EndCause, Exit, Failure, FailureKind, Subscription};

/// Closes the stage's mailbox, answers what nobody has read, and reports the outcome: once, and at the latest when it
/// is dropped, which means that the stage was killed.
pub(crate) struct Ending<I, O> {
    pub(crate) stage: String,
    pub(crate) mailbox: Arc<Mailbox<I, O>>,
    report: Option<Report>,
}

/// What a stage did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) events_in: u64,
    pub(crate) events_out: u64,
    pub(crate) discarded: u64,
}

impl<I, O> Ending<I, O> {
    pub(crate) fn new(stage: String, mailbox: Arc<Mailbox<I, O>>, report: Report) -> Self {
        Self { stage, mailbox, report: Some(report) }
    }

    /// The stage has ended.
    pub(crate) fn announce(&mut self, exit: Exit, counts: Counts) {
        let Some(report) = self.report.take() else { return };
        tracing::debug!(stage = self.stage, %exit, "stage ended");
        for message in self.mailbox.close() {
            self.decline(message);
        }
        let Counts { events_in, events_out, discarded } = counts;
        report(StageOutcome { stage: self.stage.clone(), exit, events_in, events_out, discarded });
    }

    /// Answers a message that came too late.
    pub(crate) fn decline(&self, message: Message<I, O>) {
        match message {
            Message::Subscribe(Subscription { id, subscriber, .. }) => {
                let failure = Failure::new(&self.stage, FailureKind::Subscribe, "it has ended");
                subscriber.ended(id, EndCause::Down(Exit::Failed(failure)));
            }
            Message::Opened(id, Ok(publisher)) => publisher.cancel(id, Exit::Normal),
            _ => {}
        }
    }

    pub(crate) fn killed(&self) -> Exit {
        Exit::Failed(Failure::new(&self.stage, FailureKind::Killed, "its task was dropped before it had ended"))
    }
}

impl<I, O> Drop for Ending<I, O> {
    fn drop(&mut self) {
        self.announce(self.killed(), Counts::default());
    }
}
