//! [`FromIter`]: an iterator as a producer.

use std::any::Any;
use std::fmt;
use std::task::{Context, Poll};

use aqueduct_dispatcher::Buffer;

use super::MOST_AT_A_TIME;
use crate::callbacks::Callbacks;
use crate::role::Role;
use crate::{Cx, Edge, EndCause, Exit, Graph, Mode, Never, Result, Stage};

impl Graph {
    /// Declares a producer that emits the items of an iterator: GenStage's `from_enumerable`.
    ///
    /// As many items are taken as were asked for. When the iterator ends, the stage ends normally and its consumers have
    /// seen everything. Unless [`on_cancel`](Stage::on_cancel) says otherwise the stage lives on when its last consumer has
    /// left, and goes on for the next one where it was.
    ///
    /// The iterator runs in the stage's task and is not to block: what waits for something is a
    /// [`stream`](Self::stream).
    ///
    /// ```
    /// use aqueduct_stage::{Graph, each};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> aqueduct_stage::Result {
    /// let graph = Graph::new("primes");
    /// let primes = graph.iterate("primes", || [2, 3, 5, 7, 11]);
    /// graph.consumer("print", || each(|n: u64| async move { Ok(println!("{n}")) })).subscribe(&primes, 5..10);
    /// graph.run().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[doc(alias = "from_enumerable")]
    #[track_caller]
    pub fn iterate<It>(
        &self,
        name: &str,
        mut make: impl FnMut() -> It + Send + 'static,
    ) -> Stage<FromIter<It::IntoIter>, Never, It::Item>
    where
        It: IntoIterator<Item: Send + 'static, IntoIter: Send + 'static>,
    {
        let capacity = Buffer::<It::Item>::DEFAULT_CAPACITY;
        self.declare(name, capacity, move || FromIter(make().into_iter()))
    }
}

/// The stage that [`Graph::iterate`] makes.
pub struct FromIter<I>(I);

impl<I> fmt::Debug for FromIter<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromIter").finish_non_exhaustive()
    }
}

impl<I: Iterator> FromIter<I> {
    fn emit(&mut self, cx: &mut Cx<'_, I::Item>) {
        let demand = cx.demand();
        let most = demand.min(MOST_AT_A_TIME);
        cx.emit_all(self.0.by_ref().take(most));
        // Where it is known that nothing follows, nobody has to ask for it.
        if cx.demand() > demand - most || self.0.size_hint().1 == Some(0) {
            cx.stop(Exit::Normal);
        }
    }
}

impl<I: Iterator<Item: Send + 'static> + Send + 'static> Callbacks for FromIter<I> {
    type In = Never;
    type Out = I::Item;
    const ROLE: Role = Role::Producer;
    /// For what is left of a large demand: between two pieces of it the stage takes messages.
    const POLLED: bool = true;

    async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, I::Item>) -> Result {
        self.emit(cx);
        Ok(())
    }

    fn poll_events(&mut self, cx: &mut Cx<'_, I::Item>, _: &mut Context<'_>) -> Poll<Result> {
        self.emit(cx);
        Poll::Ready(Ok(()))
    }

    async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_, I::Item>) -> Result<Mode> {
        Ok(Mode::Automatic)
    }

    async fn handle_cancel(&mut self, _: &Edge, _: &EndCause, _: &mut Cx<'_, I::Item>) -> Result {
        Ok(())
    }

    async fn terminate(&mut self, _: &Exit) {}

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        self
    }
}
