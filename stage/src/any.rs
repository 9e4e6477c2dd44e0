//! [`AnyConsumer`]: consumers of different types as one type.

use std::fmt;

use crate::{Batch, BoxFuture, Consumer, Cx, Edge, EndCause, Exit, Mode, Result};

/// A consumer of events of type `T` whose own type is forgotten: for plug-ins, and for collections of several kinds.
///
/// It costs one more allocation for each call, which means for each batch. Messages cannot be sent to what is inside, as
/// that has no type any more.
///
/// ```
/// use aqueduct_stage::{AnyConsumer, Graph, each, each_batch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let plugins: Vec<(&str, fn() -> AnyConsumer<u64>)> = vec![
///     ("each", || AnyConsumer::new(each(|n| async move { Ok(println!("{n}")) }))),
///     ("count", || AnyConsumer::new(each_batch(|batch| async move { Ok(println!("{} more", batch.len())) }))),
/// ];
/// let graph = Graph::new("plug-ins");
/// let numbers = graph.iterate("numbers", || 0..10).broadcast();
/// for (name, make) in plugins {
///     graph.consumer(name, make).subscribe(&numbers, 5..10);
/// }
/// graph.run().await?;
/// # Ok(())
/// # }
/// ```
pub struct AnyConsumer<T>(Box<dyn Erased<T>>);

impl<T: Send + 'static> AnyConsumer<T> {
    /// Forgets the type of `consumer`.
    pub fn new(consumer: impl Consumer<In = T>) -> Self {
        Self(Box::new(consumer))
    }
}

impl<T: Send + 'static> Consumer for AnyConsumer<T> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_>) -> Result {
        self.0.handle_events(events, cx).await
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_>) -> Result {
        self.0.handle_end(cx).await
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> Result<Mode> {
        self.0.handle_subscribe(edge, cx).await
    }

    async fn handle_cancel(&mut self, edge: &Edge, cause: &EndCause, cx: &mut Cx<'_>) -> Result {
        self.0.handle_cancel(edge, cause, cx).await
    }

    async fn terminate(&mut self, exit: &Exit) {
        self.0.terminate(exit).await;
    }
}

impl<T> fmt::Debug for AnyConsumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyConsumer").finish_non_exhaustive()
    }
}

/// [`Consumer`] with its futures boxed.
trait Erased<T>: Send {
    fn handle_events<'a>(&'a mut self, events: Batch<T>, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result>;
    fn handle_end<'a>(&'a mut self, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result>;
    fn handle_subscribe<'a>(&'a mut self, edge: &'a Edge, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result<Mode>>;
    fn handle_cancel<'a>(
        &'a mut self,
        edge: &'a Edge,
        cause: &'a EndCause,
        cx: &'a mut Cx<'_>,
    ) -> BoxFuture<'a, Result>;
    fn terminate<'a>(&'a mut self, exit: &'a Exit) -> BoxFuture<'a>;
}

impl<C: Consumer> Erased<C::In> for C {
    fn handle_events<'a>(&'a mut self, events: Batch<C::In>, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result> {
        Box::pin(Consumer::handle_events(self, events, cx))
    }

    fn handle_end<'a>(&'a mut self, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result> {
        Box::pin(Consumer::handle_end(self, cx))
    }

    fn handle_subscribe<'a>(&'a mut self, edge: &'a Edge, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result<Mode>> {
        Box::pin(Consumer::handle_subscribe(self, edge, cx))
    }

    fn handle_cancel<'a>(
        &'a mut self,
        edge: &'a Edge,
        cause: &'a EndCause,
        cx: &'a mut Cx<'_>,
    ) -> BoxFuture<'a, Result> {
        Box::pin(Consumer::handle_cancel(self, edge, cause, cx))
    }

    fn terminate<'a>(&'a mut self, exit: &'a Exit) -> BoxFuture<'a> {
        Box::pin(Consumer::terminate(self, exit))
    }
}
