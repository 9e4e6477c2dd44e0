//! [`Producer`]: the start of every pipeline.

use std::future::Future;

use crate::{Cx, Edge, EndCause, Exit, Result};

/// A stage that emits events when they are asked for.
///
/// ```
/// use aqueduct_stage::{Cx, Exit, Producer, Result};
///
/// /// Counts to a million.
/// struct Counter {
///     next: u64,
/// }
///
/// impl Producer for Counter {
///     type Out = u64;
///
///     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
///         let end = (self.next + demand as u64).min(1_000_000);
///         cx.emit_all(self.next..end);
///         self.next = end;
///         if end == 1_000_000 {
///             cx.stop(Exit::Normal);
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a producer",
    label = "this stage cannot be a source of the graph",
    note = "implement `Producer` (`type Out` and `async fn handle_demand`), or declare a `ProducerConsumer` with `Graph::stage`"
)]
pub trait Producer: Send + 'static {
    /// The events that it emits.
    type Out: Send + 'static;

    /// Called when consumers have asked for `demand` more events, at least 1.
    ///
    /// It may emit fewer now and the rest later, from a message or a timer: the same events are not asked for twice, and
    /// [`Cx::demand`] tells what is still owed. **A producer that answers with fewer events and nothing else is not called
    /// again** until its consumers have handled enough to ask for more, which may be never: it calls [`Cx::again`] to be
    /// called once more for the rest, or [`Cx::stop`] with [`Exit::Normal`] when there is nothing more to come. It may
    /// also emit more, which the stage keeps in its buffer.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped only when the stage is killed: after the grace of [`Running::stop`](crate::Running::stop).
    fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Self::Out>) -> impl Future<Output = Result> + Send;

    /// Called when a consumer has subscribed, before it is given anything: one that is [cancelled](Cx::cancel) here gets
    /// nothing.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal) refuses the subscriber, and the stage goes on. Any other error ends the stage and is
    /// reported as the graph's.
    fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, Self::Out>) -> impl Future<Output = Result> + Send {
        let _ = (edge, cx);
        async { Ok(()) }
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
