//! [`Consumer`]: the end of every pipeline.

use std::future::Future;

use crate::{Batch, Cx, Edge, EndCause, Exit, Mode, Result};

/// A stage that asks for events and handles them.
///
/// ```
/// use aqueduct_stage::{Batch, Consumer, Cx, Result};
///
/// #[derive(Default)]
/// struct Sum {
///     total: u64,
/// }
///
/// impl Consumer for Sum {
///     type In = u64;
///
///     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
///         self.total += events.iter().sum::<u64>();
///         Ok(())
///     }
///
///     async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
///         println!("{}", self.total);
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a consumer",
    label = "this stage cannot be the end of a pipeline",
    note = "implement `Consumer` (`type In` and `async fn handle_events`), or make a closure one: `each(async |event| ..)`"
)]
pub trait Consumer: Send + 'static {
    /// The events that it takes.
    type In: Send + 'static;

    /// Called with the events that arrived, at most `max - min` of the subscription's window at a time. More is asked
    /// for after it returns, so however long it takes, no more than `max` events wait.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's. The events of this call are lost with it.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped only when the stage is killed: after the grace of [`Running::stop`](crate::Running::stop).
    fn handle_events(&mut self, events: Batch<Self::In>, cx: &mut Cx<'_>) -> impl Future<Output = Result> + Send;

    /// Called once when the last producer is exhausted and all of its events have been handled. Not called when the
    /// stage ends for any other reason: whoever sees this has seen everything.
    ///
    /// # Errors
    ///
    /// As for [`handle_events`](Self::handle_events).
    fn handle_end(&mut self, cx: &mut Cx<'_>) -> impl Future<Output = Result> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// Called when a subscription to a producer is made, before anything is asked for. The answer says who asks.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> impl Future<Output = Result<Mode>> + Send {
        let _ = (edge, cx);
        async { Ok(Mode::Automatic) }
    }

    /// Called when a subscription has ended, before what that means for the stage is carried out.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    fn handle_cancel(&mut self, edge: &Edge, cause: &EndCause, cx: &mut Cx<'_>) -> impl Future<Output = Result> + Send {
        let _ = (edge, cause, cx);
        async { Ok(()) }
    }

    /// Called once, last, unless the stage is killed.
    fn terminate(&mut self, exit: &Exit) -> impl Future<Output = ()> + Send {
        let _ = exit;
        async {}
    }
}
