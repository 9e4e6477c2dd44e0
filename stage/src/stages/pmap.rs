//! [`pmap`] and [`farm`]: a future per event, many at once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::bell::Ring;
use super::work::Order;
use super::workers::Workers;
use crate::{Batch, Cx, Edge, EndCause, Handle, Mode, ProducerConsumer, Result};

/// A stage that runs `work` on each event, up to `at_once` of them at the same time and on all threads of the runtime,
/// and emits the results in the order of the events.
///
/// There are two bounds. `at_once` is how many futures are under way. The window of the subscription is how many events
/// are in the stage: those that wait for a future, those under way, and results that wait for an earlier one. As with
/// any stage, more is asked for when no more than the window's minimum are left: a minimum of at least `at_once` keeps
/// every place busy, `16..32` for `at_once` of 8 for instance. Nothing is handled before consumers have asked for
/// something.
///
/// The first error or panic, in the order of the events, ends the stage; the results before it are emitted. When the
/// stage ends, futures under way are dropped. At the end of the source the stage waits for the last of them, and what
/// is left is emitted together.
///
/// Work that computes is fine, as events are spread over the runtime's threads, and small ones are handed to a thread
/// many at a time. Work that *blocks* belongs on a thread that may be blocked: call
/// [`spawn_blocking`](tokio::task::spawn_blocking) within the future and await it.
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// use std::time::Duration;
/// use aqueduct_stage::stages;
/// # struct Numbers;
/// # impl Producer for Numbers {
/// #     type Out = u64;
/// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
/// #         cx.emit_all(0..100);
/// #         cx.stop(Exit::Normal);
/// #         Ok(())
/// #     }
/// # }
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = u64;
/// #     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
/// #         assert!(events.is_sorted());
/// #         Ok(())
/// #     }
/// # }
/// async fn look_up(number: u64) -> Result<u64> {
///     tokio::time::sleep(Duration::from_millis(10)).await;
///     Ok(number * number)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let graph = Graph::new("demo");
/// # let numbers = graph.producer("numbers", || Numbers);
/// let squares = graph.stage("look up", || stages::pmap(8, look_up)).subscribe(&numbers, 16..32);
/// graph.consumer("print", || Print).subscribe(&squares, 5..10);
/// # graph.run().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If `at_once` is 0.
#[track_caller]
pub fn pmap<I, O, F, Fut>(at_once: usize, work: F) -> Parallel<I, O, F>
where
    I: Send + 'static,
    O: Send + 'static,
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O>> + Send + 'static,
{
    Parallel::new(Order::Kept, at_once, work)
}

/// As [`pmap`], but results are emitted as they come: `at_once` workers, of whom the quick do not wait for the slow.
///
/// # Panics
///
/// If `at_once` is 0.
#[track_caller]
pub fn farm<I, O, F, Fut>(at_once: usize, work: F) -> Parallel<I, O, F>
where
    I: Send + 'static,
    O: Send + 'static,
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O>> + Send + 'static,
{
    Parallel::new(Order::None, at_once, work)
}

/// The stage made by [`pmap`] and [`farm`].
pub struct Parallel<I, O, F> {
    workers: Workers<I, O>,
    work: Arc<F>,
}

impl<I: Send + 'static, O: Send + 'static, F> Parallel<I, O, F> {
    #[track_caller]
    fn new(order: Order, at_once: usize, work: F) -> Self {
        assert!(at_once > 0, "expected at least 1 future at once, got 0");
        Self { workers: Workers::new(order, at_once), work: Arc::new(work) }
    }
}

impl<I, O, F, Fut> ProducerConsumer for Parallel<I, O, F>
where
    I: Send + 'static,
    O: Send + 'static,
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O>> + Send + 'static,
{
    type In = I;
    type Out = O;

    async fn handle_events(&mut self, events: Batch<I>, cx: &mut Cx<'_, O>) -> Result {
        self.workers.start("pmap", &cx.stage_ref::<Self>(), &self.work);
        self.workers.hand_in_each(events);
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, O>) -> Result {
        self.workers
            .finish(cx, |cx, result| {
                cx.emit(result);
            })
            .await
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, O>) -> Result<Mode> {
        Ok(self.workers.opened(edge, cx))
    }

    async fn handle_cancel(&mut self, edge: &Edge, _cause: &EndCause, _cx: &mut Cx<'_, O>) -> Result {
        self.workers.ended(edge.id);
        Ok(())
    }
}

/// There are results.
#[diagnostic::do_not_recommend]
impl<I, O, F, Fut> Handle<Ring, O> for Parallel<I, O, F>
where
    I: Send + 'static,
    O: Send + 'static,
    F: Fn(I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O>> + Send + 'static,
{
    type Reply = ();

    async fn handle(&mut self, _: Ring, cx: &mut Cx<'_, O>) -> Result {
        self.workers.serve(cx, |cx, result| {
            cx.emit(result);
        })
    }
}

impl<I, O, F> fmt::Debug for Parallel<I, O, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parallel").finish_non_exhaustive()
    }
}
