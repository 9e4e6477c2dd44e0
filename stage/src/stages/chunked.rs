//! [`chunked`]: a future for every so many events.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::bell::Ring;
use super::work::{Order, Origin};
use super::workers::Workers;
use crate::{Batch, Cx, Edge, EndCause, Handle, Mode, ProducerConsumer, Result, SubscriptionId};

/// As [`pmap`](super::pmap()), with chunks of `size` consecutive events: `work` makes events of each chunk, and up to
/// `at_once` chunks are under way. What it makes of them is emitted in the order of the chunks.
///
/// For work that is cheaper together than one by one: a query for a hundred keys, or arithmetic that a compiler
/// vectorizes. The last chunk may be smaller. Up to `size - 1` events wait for a chunk to be full; where the source may
/// pause for long, put events together by time as well, with [`batches`](super::batches()), and `pmap` those.
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// use aqueduct_stage::stages;
/// # struct Numbers;
/// # impl Producer for Numbers {
/// #     type Out = u64;
/// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
/// #         cx.emit_all(0..250);
/// #         cx.stop(Exit::Normal);
/// #         Ok(())
/// #     }
/// # }
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = u64;
/// #     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let graph = Graph::new("demo");
/// # let numbers = graph.producer("numbers", || Numbers);
/// let sums = graph
///     .stage("sums", || stages::chunked(100, 4, |chunk: Vec<u64>| async move { Ok([chunk.iter().sum::<u64>()]) }))
///     .subscribe(&numbers, 500..1000);
/// graph.consumer("print", || Print).subscribe(&sums, 5..10);
/// # graph.run().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If `size` or `at_once` is 0.
#[track_caller]
pub fn chunked<I, R, F, Fut>(size: usize, at_once: usize, work: F) -> Chunked<I, R, F>
where
    I: Send + 'static,
    R: IntoIterator<Item: Send + 'static> + Send + 'static,
    F: Fn(Vec<I>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'static,
{
    assert!(size > 0, "expected chunks of at least 1 event, got 0");
    assert!(at_once > 0, "expected at least 1 chunk at once, got 0");
    Chunked { size, chunk: Vec::new(), from: None, workers: Workers::new(Order::Kept, at_once), work: Arc::new(work) }
}

/// The stage made by [`chunked`].
pub struct Chunked<I, R, F> {
    size: usize,
    /// Fewer than `size` events. Its window counts them as handled, so that a chunk may be larger than the window.
    chunk: Vec<I>,
    /// Where events came from last.
    from: Option<SubscriptionId>,
    workers: Workers<Vec<I>, R>,
    work: Arc<F>,
}

impl<I, R, F, Fut> ProducerConsumer for Chunked<I, R, F>
where
    I: Send + 'static,
    R: IntoIterator<Item: Send + 'static> + Send + 'static,
    F: Fn(Vec<I>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'static,
{
    type In = I;
    type Out = R::Item;

    async fn handle_events(&mut self, events: Batch<I>, cx: &mut Cx<'_, R::Item>) -> Result {
        self.workers.start("chunked", &cx.stage_ref::<Self>(), &self.work);
        let (from, mut events) = (events.from(), events.into_iter());
        self.from = Some(from);
        let mut jobs = Vec::new();
        while self.chunk.len() + events.len() >= self.size {
            let missing = self.size - self.chunk.len();
            self.chunk.extend(events.by_ref().take(missing));
            jobs.push((Origin { from, events: missing }, std::mem::take(&mut self.chunk)));
        }
        self.workers.hand_in(jobs);
        let rest = Origin { from, events: events.len() };
        self.chunk.extend(events);
        self.workers.skip(rest, cx);
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, R::Item>) -> Result {
        if let Some(from) = self.from.filter(|_| !self.chunk.is_empty()) {
            self.workers.hand_in([(Origin { from, events: 0 }, std::mem::take(&mut self.chunk))]);
        }
        self.workers
            .finish(cx, |cx, results| {
                cx.emit_all(results);
            })
            .await
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, R::Item>) -> Result<Mode> {
        Ok(self.workers.opened(edge, cx))
    }

    async fn handle_cancel(&mut self, edge: &Edge, _cause: &EndCause, _cx: &mut Cx<'_, R::Item>) -> Result {
        self.workers.ended(edge.id);
        Ok(())
    }
}

/// There are results.
#[diagnostic::do_not_recommend]
impl<I, R, F, Fut> Handle<Ring, R::Item> for Chunked<I, R, F>
where
    I: Send + 'static,
    R: IntoIterator<Item: Send + 'static> + Send + 'static,
    F: Fn(Vec<I>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'static,
{
    type Reply = ();

    async fn handle(&mut self, _: Ring, cx: &mut Cx<'_, R::Item>) -> Result {
        self.workers.serve(cx, |cx, results| {
            cx.emit_all(results);
        })
    }
}

impl<I, R, F> fmt::Debug for Chunked<I, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunked").field("size", &self.size).field("waiting", &self.chunk.len()).finish_non_exhaustive()
    }
}
