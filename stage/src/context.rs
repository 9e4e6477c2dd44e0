//! [`Cx`]: what a callback may do besides touching its own state.

use std::any::Any;
use std::fmt;

use aqueduct_dispatcher::{Demand, SubscriptionId};

use crate::{Exit, StageRef};

/// The output of a stage that has none: there are no values of it, so a consumer cannot emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Never {}

/// An event that a stage with output `O` can emit: an `O`. It is there for the sake of the compiler's message.
#[diagnostic::on_unimplemented(
    message = "cannot emit `{Self}`: the output of this stage is `{O}`",
    label = "not an event of this stage",
    note = "the output of a consumer is `Never`: it cannot emit; what emits is a `Producer` or a `ProducerConsumer`"
)]
pub trait EventOf<O> {
    /// The event itself.
    #[doc(hidden)]
    fn into_event(self) -> O;
}

impl<O> EventOf<O> for O {
    fn into_event(self) -> O {
        self
    }
}

/// Handed to every callback: emits events, tells the open demand, asks, cancels, ends the stage.
///
/// What is emitted leaves when the callback returns. If the callback fails, what it emitted before is dropped with it.
pub struct Cx<'a, O = Never> {
    out: &'a mut Vec<O>,
    demand: Demand,
    wishes: &'a mut Wishes,
    stage_ref: &'a (dyn Any + Send + Sync),
}

/// What a callback asked for, besides emitting.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) stop: Option<Exit>,
    pub(crate) asks: Vec<(SubscriptionId, Demand)>,
    pub(crate) cancels: Vec<(SubscriptionId, Exit)>,
    pub(crate) again: bool,
}

impl<'a, O> Cx<'a, O> {
    pub(crate) fn new(
        out: &'a mut Vec<O>,
        demand: Demand,
        wishes: &'a mut Wishes,
        stage_ref: &'a (dyn Any + Send + Sync),
    ) -> Self {
        Self { out, demand, wishes, stage_ref }
    }

    /// Emits one event.
    ///
    /// Events beyond the open [`demand`](Self::demand) go into the stage's buffer.
    pub fn emit<E: EventOf<O>>(&mut self, event: E) {
        self.out.push(event.into_event());
    }

    /// Emits events in order.
    pub fn emit_all(&mut self, events: impl IntoIterator<Item = O>) {
        self.out.extend(events);
    }

    /// How many more events consumers have asked for and not been given, this callback's emissions already counted.
    ///
    /// A producer that answered an ask with fewer events finds here what it still owes: nobody asks for the same
    /// events twice.
    pub fn demand(&self) -> usize {
        self.demand.saturating_sub(Demand::from(self.out.len())).as_len()
    }

    /// Has [`handle_demand`](crate::Producer::handle_demand) called once more, with what is still owed, if anything is:
    /// for producers that read a page or a row at a time.
    pub fn again(&mut self) {
        self.wishes.again = true;
    }

    /// Asks the producer of a subscription in [manual mode](crate::Mode::Manual) for `events` more. 0 does nothing, and
    /// so does asking through a subscription that has ended or is automatic.
    pub fn ask(&mut self, id: SubscriptionId, events: usize) {
        if events > 0 {
            self.wishes.asks.push((id, Demand::from(events)));
        }
    }

    /// Ends a subscription of this stage, on either side. Nothing more is asked for from now on, and a subscriber is given
    /// nothing more; what a consumer was given it still handles, and acknowledges if it does so. What the end means for the
    /// consumer depends on its [`Cancel`](crate::Cancel) policy.
    pub fn cancel(&mut self, id: SubscriptionId, reason: Exit) {
        self.wishes.cancels.push((id, reason));
    }

    /// Ends the stage after this callback.
    ///
    /// With [`Exit::Normal`] a stage with an output emits nothing more, is not called for demand or events any more, and
    /// leaves its producers; it has ended as soon as everything emitted so far is delivered. A producer says so when its
    /// source is exhausted, and its consumers then end in their turn. Delivered means: given to consumers that asked for
    /// it, and handled by those that [acknowledge](crate::Stage::subscribe_acknowledged). So the stage still waits for
    /// consumers that have not asked, for one of each partition that has events, and, if it never had a subscriber, for
    /// its [first](crate::Stage::wait_for_subscribers), even with nothing to deliver: nobody would know of its end
    /// otherwise. [`WaitingFor`](crate::WaitingFor) says for which, and [`Graph::patience`](crate::Graph::patience) what
    /// comes of it if nobody does.
    ///
    /// A consumer ends at once, and so does any stage with another exit: what is in its buffer is dropped. The first
    /// call counts.
    pub fn stop(&mut self, exit: Exit) {
        self.wishes.stop.get_or_insert(exit);
    }

    /// The reference to this very instance of the stage, to send itself messages: `cx.stage_ref::<Self>()`. It ends with
    /// this life of the instance, and so do timers set through it, also if the stage is restarted.
    ///
    /// # Panics
    ///
    /// If `S` is not the type of this stage.
    #[track_caller]
    pub fn stage_ref<S: 'static>(&self) -> StageRef<S, O>
    where
        O: Send + 'static,
    {
        match self.stage_ref.downcast_ref::<StageRef<S, O>>() {
            Some(stage) => stage.clone(),
            None => {
                panic!("`{}` is not the type of this stage: write `stage_ref::<Self>()`", std::any::type_name::<S>())
            }
        }
    }
}

impl<O> fmt::Debug for Cx<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("demand", &self.demand()).field("emitted", &self.out.len()).finish_non_exhaustive()
    }
}
