//! [`Ending`]: makes sure that the end of a stage is known, whoever brings it about.

use std::sync::Arc;

use crate::counters::Counters;
use crate::error::Origin;
use crate::latecomer::{Latecomer, Siblings};
use crate::mailbox::{Mailbox, Message};
use crate::{EndCause, Exit, Failure, FailureKind, Subscription, WaitingFor};

/// Closes the stage's mailbox, answers what nobody has read, and reports the end: once, and at the latest when it is
/// dropped, which means that the stage was killed.
pub(crate) struct Ending<I, O> {
    pub(crate) stage: Origin,
    siblings: Arc<dyn Siblings>,
    instance: usize,
    pub(crate) mailbox: Arc<Mailbox<I, O>>,
    pub(crate) counters: Arc<Counters>,
    /// It ends because nobody was left who wants more, and not because there is no more.
    pub(crate) is_abandoned: bool,
    report: Option<Report>,
}

/// Told how a stage ended, once.
pub(crate) type Report = Box<dyn FnOnce(Exit) + Send>;

impl<I, O> Ending<I, O> {
    pub(crate) fn new(
        stage: Origin,
        mailbox: Arc<Mailbox<I, O>>,
        counters: Arc<Counters>,
        (siblings, instance): (Arc<dyn Siblings>, usize),
        report: Report,
    ) -> Self {
        Self { stage, siblings, instance, mailbox, counters, is_abandoned: false, report: Some(report) }
    }

    /// The stage has ended. Returns what nobody has read.
    pub(crate) fn announce(&mut self, exit: Exit) {
        let Some(report) = self.report.take() else { return };
        tracing::debug!(stage = &*self.stage, %exit, "stage ended");
        for message in self.mailbox.close(&exit) {
            self.decline(message, &exit);
        }
        report(exit);
    }

    /// Answers a message that came too late. Whoever waits for a reply learns of it as the message is dropped.
    ///
    /// Somebody who was about to subscribe was there before the end, and shares the stage's fate. But where the stage was
    /// abandoned, and all of its instances have ended, that is not the end of the data.
    pub(crate) fn decline(&self, message: Message<I, O>, exit: &Exit) {
        match message {
            Message::Subscribe(subscription) => {
                let Subscription { id, subscriber, .. } = *subscription;
                let is_over = || self.siblings.latecomer(self.instance, exit) == Latecomer::IsTooLate;
                let exit = match exit {
                    Exit::Normal if self.is_abandoned && is_over() => {
                        Exit::Failed(Failure::at(&self.stage, FailureKind::AlreadyEnded, "it has ended"))
                    }
                    exit => exit.clone(),
                };
                subscriber.ended(id, EndCause::Down(exit));
            }
            Message::Opened(id, Ok(publisher)) => publisher.cancel(id, Exit::Normal),
            Message::Leave(id, _, unfinished) => self.mailbox.keep_returned(id, unfinished),
            _ => {}
        }
    }

    pub(crate) fn killed(&self) -> Exit {
        let waits_for = self.counters.waits.last().filter(|_| self.counters.is_waiting());
        // One that has nothing to do need not have been kept from its end.
        let waits_for = waits_for.filter(|what| *what != WaitingFor::Emission);
        let why = waits_for.map_or_else(String::new, |what| format!(", as it waited {what}"));
        let why = format!("its task was dropped before it had ended{why}");
        Exit::Failed(Failure::at(&self.stage, FailureKind::Killed, why))
    }
}

impl<I, O> Drop for Ending<I, O> {
    fn drop(&mut self) {
        self.announce(self.killed());
    }
}
