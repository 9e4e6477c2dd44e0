//! [`ProducerConsumer`]: the middle of a pipeline.

use std::future::Future;

use crate::{Batch, Cx, Edge, EndCause, Exit, Mode, Result};

/// A stage that takes events and emits others: one for one, fewer, or more.
///
/// It asks for its own window of events as soon as it is subscribed, and handles them only while its consumers have
/// asked for something: so back-pressure passes through it, with one window of events in hand.
///
/// ```
/// use aqueduct_stage::{Batch, Cx, ProducerConsumer, Result};
///
/// struct Double;
///
/// impl ProducerConsumer for Double {
///     type In = u64;
///     type Out = u64;
///
///     async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
///         cx.emit_all(events.into_iter().map(|n| n * 2));
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a producer-consumer",
    label = "this stage cannot stand in the middle of a pipeline",
    note = "implement `ProducerConsumer` (`type In`, `type Out` and `async fn handle_events`), or make a closure one: `map(|event| ..)`"
)]
pub trait ProducerConsumer: Send + 'static {
    /// The events that it takes.
    type In: Send + 'static;
    /// The events that it emits.
    type Out: Send + 'static;

    /// Called with the events that arrived, at most `max - min` of the subscription's window at a time.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's. The events of this call are lost with it.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped only when the stage is killed: after the grace of [`Running::stop`](crate::Running::stop).
    fn handle_events(
        &mut self,
        events: Batch<Self::In>,
        cx: &mut Cx<'_, Self::Out>,
    ) -> impl Future<Output = Result> + Send;

    /// Called once when the last producer is exhausted and all of its events have been handled. What it emits is
    /// delivered before the stage ends: this is where totals leave. Not called when the stage ends for any other
    /// reason.
    ///
    /// # Errors
    ///
    /// As for [`handle_events`](Self::handle_events).
    fn handle_end(&mut self, cx: &mut Cx<'_, Self::Out>) -> impl Future<Output = Result> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// Called when a subscription is made, on either side: [`Edge::peer`] tells which. To a producer, the answer says who
    /// asks; to a consumer it does not matter.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    fn handle_subscribe(
        &mut self,
        edge: &Edge,
        cx: &mut Cx<'_, Self::Out>,
    ) -> impl Future<Output = Result<Mode>> + Send {
        let _ = (edge, cx);
        async { Ok(Mode::Automatic) }
    }

    /// Called when a subscription has ended, before what that means for the stage is carried out.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    fn handle_cancel(
        &mut self,
        edge: &Edge,
        cause: &EndCause,
        cx: &mut Cx<'_, Self::Out>,
    ) -> impl Future<Output = Result> + Send {
        let _ = (edge, cause, cx);
        async { Ok(()) }
    }

    /// Called with the number of events that were dropped because the stage's buffer is full. With `true`, the default,
    /// a warning is logged as well.
    fn handle_discarded(&mut self, events: usize) -> bool {
        let _ = events;
        true
    }

    /// Called once, last, unless the stage is killed.
    fn terminate(&mut self, exit: &Exit) -> impl Future<Output = ()> + Send {
        let _ = exit;
        async {}
    }
}
