//! [`Lifecycle`]: when a stage is done, and how it ends. Pure.
//!
//! ```text
//!            nothing more is handled or emitted          everything is delivered
//!   running ────────────────────────────────► exhausted ─────────────────────────► over
//!      │                                                                             ▲
//!      └─────────────── a failure, a stop, a consumer whose producers are over ──────┘
//! ```
//!
//! The driver tells it what has happened, asks [what is next](Lifecycle::next) whenever that [may be the end](Lifecycle::may_end),
//! and carries out the answer. A stage that is still being made has no lifecycle: that it cannot be made is its end.

use crate::bugs::bug;
use crate::role::Role;
use crate::{Exit, Failure};

#[cfg(test)]
mod table;

/// The life of one stage, from its first callback on.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    role: Role,
    phase: Phase,
    /// It was told to end as soon as there is nothing left to do, rather than wait for somebody to subscribe.
    is_completing: bool,
    /// It was told to end as soon as nothing that was emitted waits, whether anybody has subscribed or not.
    is_draining: bool,
    /// How it ends once it is exhausted and everything is delivered.
    exit: Exit,
    /// How the last subscriber failed that left, unless another one has come since.
    lost_subscriber: Option<Failure>,
    is_abandoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Nothing more is handled or emitted; what was emitted is still delivered.
    Exhausted,
    /// The neighbours were told of the end.
    Over,
}

/// What a stage has still to do, as its two halves know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkLeft {
    /// It is subscribed to somebody.
    pub(crate) has_producers: bool,
    /// Something has arrived and is not handled yet.
    pub(crate) has_arrivals: bool,
    /// As many subscribers as it waits for have come, and all have left.
    pub(crate) is_left_alone: bool,
    /// All subscribers that are to be told of the end have come, and everything that was emitted is delivered.
    pub(crate) is_delivered: bool,
    /// Emitted events wait for demand.
    pub(crate) has_events: bool,
    /// Delivered events may be handed back, and have to be given again.
    pub(crate) may_come_back: bool,
}

/// What is to be done about the end of a stage.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Nothing: it lives on.
    Live,
    /// Find out [what it has seen of its producers](Lifecycle::producers_are_over).
    ProducersAreOver,
    /// Handle and emit nothing more, then ask again.
    Exhaust,
    /// End.
    End(Exit),
}

/// What a stage has seen of its producers, once none is left.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// It has seen everything, and is told so before it [goes on](Lifecycle::has_handled_everything).
    Everything,
    /// It has missed something that it could miss.
    NotAll,
    /// A producer failed before it was exhausted.
    Lost(Failure),
    /// A producer ended in good order before it was exhausted.
    CutShort,
}

impl Lifecycle {
    pub(crate) fn new(role: Role) -> Self {
        let (is_completing, is_draining, is_abandoned) = (false, false, false);
        let (phase, exit, lost_subscriber) = (Phase::Running, Exit::Normal, None);
        Self { role, phase, is_completing, is_draining, exit, lost_subscriber, is_abandoned }
    }

    /// It is to end when there is nothing left to do.
    pub(crate) fn complete(&mut self) {
        self.is_completing = true;
    }

    /// It is to deliver what there is, and end. A producer emits nothing more from now on; others handle what they are given.
    pub(crate) fn drain(&mut self) -> Step {
        self.is_draining = true;
        if self.role == Role::Producer { Step::Exhaust } else { Step::Live }
    }

    /// The stage wants to end by itself. One that has subscribers lives until they have everything, if its work is done.
    pub(crate) fn wants_to_end(&self, exit: Exit) -> Step {
        match exit {
            Exit::Normal if self.role != Role::Consumer => Step::Exhaust,
            exit => Step::End(exit),
        }
    }

    /// A subscriber is there to stay. If others have failed before, it takes what they left.
    pub(crate) fn subscriber_came(&mut self) {
        self.lost_subscriber = None;
    }

    /// A subscriber left that had taken something, or would have. If it was the last and has failed, the work is not done.
    pub(crate) fn subscriber_left(&mut self, reason: &Exit) {
        if let Exit::Failed(failure) = reason
            && !bug!(LostSubscriberForgotten)
        {
            self.lost_subscriber = Some(failure.clone());
        }
    }

    /// No producer is left, and everything they sent was handled. `lost` is how one ended that was not exhausted, if that may
    /// not be; `saw_everything` says that all were.
    pub(crate) fn producers_are_over(&self, lost: Option<Exit>, saw_everything: bool) -> Seen {
        match lost {
            Some(Exit::Failed(failure)) => Seen::Lost(failure),
            Some(_) => Seen::CutShort,
            None if saw_everything => Seen::Everything,
            None => Seen::NotAll,
        }
    }

    /// The stage has taken note of that.
    pub(crate) fn has_handled_everything(&mut self, saw_everything: bool) -> Step {
        if self.role == Role::Consumer {
            return Step::End(Exit::Normal);
        }
        if self.is_draining && !saw_everything {
            // Subscribers must not take what is delivered now for the end of the data.
            self.exit = Exit::Shutdown;
        }
        Step::Exhaust
    }

    /// Nothing more is handled or emitted.
    pub(crate) fn exhaust(&mut self) {
        self.phase = Phase::Exhausted;
    }

    /// What follows from what it has still to do.
    pub(crate) fn next(&mut self, left: WorkLeft) -> Step {
        match self.phase {
            Phase::Running if self.is_completing => self.next_of_running(left),
            Phase::Exhausted => self.next_of_exhausted(left),
            Phase::Running | Phase::Over => Step::Live,
        }
    }

    fn next_of_running(&mut self, left: WorkLeft) -> Step {
        if self.role != Role::Consumer && left.is_left_alone {
            // The subscribers that failed would have taken more: the work is not done.
            if let Some(failure) = self.lost_subscriber.take() {
                return Step::End(Exit::Failed(failure));
            }
            self.is_abandoned = true;
            return Step::Exhaust;
        }
        let has_input = left.has_producers || left.has_arrivals;
        if self.role != Role::Producer && !has_input { Step::ProducersAreOver } else { Step::Live }
    }

    fn next_of_exhausted(&mut self, left: WorkLeft) -> Step {
        let nothing_waits = !left.has_events && (!left.may_come_back || bug!(EndBeforeAcknowledged));
        if nothing_waits && (left.is_delivered || self.is_draining) {
            return Step::End(self.exit.clone());
        }
        if self.is_completing && left.is_left_alone {
            self.is_abandoned = true;
            return Step::End(self.lost_subscriber.take().map_or(Exit::Normal, Exit::Failed));
        }
        Step::Live
    }

    /// How it ends at last: a failure while it says goodbye is one, unless it has failed already.
    pub(crate) fn after_goodbye(exit: Exit, failure: Option<Failure>) -> Exit {
        failure.filter(|_| exit.is_graceful()).map_or(exit, Exit::Failed)
    }

    /// The neighbours are about to be told of the end. Returns whether that is to be done: it is once.
    pub(crate) fn end(&mut self) -> bool {
        std::mem::replace(&mut self.phase, Phase::Over) != Phase::Over
    }

    /// Whether callbacks are called.
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether it only delivers what it has emitted.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.phase == Phase::Exhausted
    }

    /// Whether it ends because nobody was left who wanted more, and not because there is no more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    /// Whether [`next`](Self::next) may answer anything but that it lives on: after most messages it does not.
    pub(crate) fn may_end(&self, has_producers: bool, is_left_alone: bool) -> bool {
        let may_be_done = match self.role {
            Role::Producer => is_left_alone,
            Role::ProducerConsumer => !has_producers || is_left_alone,
            Role::Consumer => !has_producers,
        };
        !self.is_running() || (self.is_completing && may_be_done)
    }
}
