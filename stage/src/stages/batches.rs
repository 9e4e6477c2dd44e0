//! [`batches`]: puts events together, by count and by time.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Batch, Cx, Handle, ProducerConsumer, Result};

/// A stage that puts `count` events together and emits them as one `Vec`, in order; fewer when `after` has passed since
/// the first of them came, and what is left at the end.
///
/// Demand for what it emits counts batches: a consumer that subscribes with `0..4` has at most four of them. Up to
/// `count - 1` events wait in the stage. With [`Duration::MAX`] only the count matters. Time is measured by tokio's
/// timers, in milliseconds.
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// use std::time::Duration;
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
/// # struct Store;
/// # impl Consumer for Store {
/// #     type In = Vec<u64>;
/// #     async fn handle_events(&mut self, events: Batch<Vec<u64>>, _cx: &mut Cx<'_>) -> Result {
/// #         assert!(events.iter().all(|batch| batch.len() == 100 || batch.len() == 50));
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let graph = Graph::new("demo");
/// # let numbers = graph.producer("numbers", || Numbers);
/// let rows = graph.stage("rows", || stages::batches(100, Duration::from_secs(1))).subscribe(&numbers, 500..1000);
/// graph.consumer("store", || Store).subscribe(&rows, 0..4);
/// # graph.run().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If `count` is 0.
#[track_caller]
pub fn batches<T: Send + 'static>(count: usize, after: Duration) -> Batches<T> {
    assert!(count > 0, "expected batches of at least 1 event, got 0");
    Batches { count, after, pending: Vec::new(), due: None, has_timer: false }
}

/// The stage made by [`batches`].
#[derive(Debug)]
pub struct Batches<T> {
    count: usize,
    after: Duration,
    /// Fewer than `count`.
    pending: Vec<T>,
    /// When what is pending leaves at the latest. Nothing if that is too far away to be told.
    due: Option<Instant>,
    /// Whether a timer is running: one at a time, so that batches which fill up fast do not leave timers behind.
    has_timer: bool,
}

/// The timer has run out.
#[derive(Clone, Copy, Debug)]
struct Due;

impl<T: Send + 'static> ProducerConsumer for Batches<T> {
    type In = T;
    type Out = Vec<T>;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_, Vec<T>>) -> Result {
        let mut events = events.into_iter();
        while !events.as_slice().is_empty() {
            if self.pending.is_empty() {
                self.due = Instant::now().checked_add(self.after);
            }
            let missing = self.count - self.pending.len();
            self.pending.extend(events.by_ref().take(missing));
            if self.pending.len() == self.count {
                cx.emit(std::mem::take(&mut self.pending));
            }
        }
        self.set_timer(cx);
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, Vec<T>>) -> Result {
        self.flush(cx);
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<T: Send + 'static> Handle<Due, Vec<T>> for Batches<T> {
    type Reply = ();

    async fn handle(&mut self, _: Due, cx: &mut Cx<'_, Vec<T>>) -> Result {
        self.has_timer = false;
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.flush(cx);
        }
        self.set_timer(cx);
        Ok(())
    }
}

impl<T: Send + 'static> Batches<T> {
    fn flush(&mut self, cx: &mut Cx<'_, Vec<T>>) {
        if !self.pending.is_empty() {
            cx.emit(std::mem::take(&mut self.pending));
        }
    }

    fn set_timer(&mut self, cx: &Cx<'_, Vec<T>>) {
        if self.has_timer || self.pending.is_empty() {
            return;
        }
        if let Some(due) = self.due {
            self.has_timer = true;
            cx.stage_ref::<Self>().send_after(due.saturating_duration_since(Instant::now()), Due);
        }
    }
}
