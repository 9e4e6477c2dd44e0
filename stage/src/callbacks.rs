//! The user's stage with its type erased: the driver is generic in the event types only.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::{
    Batch, BoxFuture, Consumer, Cx, Edge, EndCause, Exit, Failure, FailureKind, Mode, Never, Producer,
    ProducerConsumer, Result,
};

/// What the driver calls. A stage answers those that belong to its role.
pub(crate) trait Callbacks<I, O>: Send {
    fn handle_demand<'a>(&'a mut self, demand: usize, cx: &'a mut Cx<'_, O>) -> BoxFuture<'a, Result> {
        let _ = (demand, cx);
        Box::pin(async { Ok(()) })
    }

    fn handle_events<'a>(&'a mut self, events: Batch<I>, cx: &'a mut Cx<'_, O>) -> BoxFuture<'a, Result> {
        let _ = (events, cx);
        Box::pin(async { Ok(()) })
    }

    fn handle_end<'a>(&'a mut self, cx: &'a mut Cx<'_, O>) -> BoxFuture<'a, Result> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }

    fn handle_subscribe<'a>(&'a mut self, edge: &'a Edge, cx: &'a mut Cx<'_, O>) -> BoxFuture<'a, Result<Mode>>;

    fn handle_cancel<'a>(
        &'a mut self,
        edge: &'a Edge,
        cause: &'a EndCause,
        cx: &'a mut Cx<'_, O>,
    ) -> BoxFuture<'a, Result>;

    fn handle_discarded(&mut self, events: usize) -> bool {
        let _ = events;
        true
    }

    fn terminate<'a>(&'a mut self, exit: &'a Exit) -> BoxFuture<'a>;

    /// The user's stage itself, for messages.
    fn stage(&mut self) -> &mut (dyn Any + Send);
}

/// The three kinds of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Producer,
    ProducerConsumer,
    Consumer,
}

/// Turns a [`Producer`] into [`Callbacks`].
pub(crate) struct ProducerCallbacks<P>(pub(crate) P);

impl<P: Producer> Callbacks<Never, P::Out> for ProducerCallbacks<P> {
    fn handle_demand<'a>(&'a mut self, demand: usize, cx: &'a mut Cx<'_, P::Out>) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_demand(demand, cx).await })
    }

    fn handle_subscribe<'a>(&'a mut self, edge: &'a Edge, cx: &'a mut Cx<'_, P::Out>) -> BoxFuture<'a, Result<Mode>> {
        Box::pin(async move { self.0.handle_subscribe(edge, cx).await.map(|()| Mode::Automatic) })
    }

    fn handle_cancel<'a>(
        &'a mut self,
        edge: &'a Edge,
        cause: &'a EndCause,
        cx: &'a mut Cx<'_, P::Out>,
    ) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_cancel(edge, cause, cx).await })
    }

    fn handle_discarded(&mut self, events: usize) -> bool {
        self.0.handle_discarded(events)
    }

    fn terminate<'a>(&'a mut self, exit: &'a Exit) -> BoxFuture<'a> {
        Box::pin(async move { self.0.terminate(exit).await })
    }

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.0
    }
}

/// Turns a [`ProducerConsumer`] into [`Callbacks`].
pub(crate) struct ProducerConsumerCallbacks<S>(pub(crate) S);

impl<S: ProducerConsumer> Callbacks<S::In, S::Out> for ProducerConsumerCallbacks<S> {
    fn handle_events<'a>(&'a mut self, events: Batch<S::In>, cx: &'a mut Cx<'_, S::Out>) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_events(events, cx).await })
    }

    fn handle_end<'a>(&'a mut self, cx: &'a mut Cx<'_, S::Out>) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_end(cx).await })
    }

    fn handle_subscribe<'a>(&'a mut self, edge: &'a Edge, cx: &'a mut Cx<'_, S::Out>) -> BoxFuture<'a, Result<Mode>> {
        Box::pin(async move { self.0.handle_subscribe(edge, cx).await })
    }

    fn handle_cancel<'a>(
        &'a mut self,
        edge: &'a Edge,
        cause: &'a EndCause,
        cx: &'a mut Cx<'_, S::Out>,
    ) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_cancel(edge, cause, cx).await })
    }

    fn handle_discarded(&mut self, events: usize) -> bool {
        self.0.handle_discarded(events)
    }

    fn terminate<'a>(&'a mut self, exit: &'a Exit) -> BoxFuture<'a> {
        Box::pin(async move { self.0.terminate(exit).await })
    }

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.0
    }
}

/// Turns a [`Consumer`] into [`Callbacks`].
pub(crate) struct ConsumerCallbacks<C>(pub(crate) C);

impl<C: Consumer> Callbacks<C::In, Never> for ConsumerCallbacks<C> {
    fn handle_events<'a>(&'a mut self, events: Batch<C::In>, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_events(events, cx).await })
    }

    fn handle_end<'a>(&'a mut self, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_end(cx).await })
    }

    fn handle_subscribe<'a>(&'a mut self, edge: &'a Edge, cx: &'a mut Cx<'_>) -> BoxFuture<'a, Result<Mode>> {
        Box::pin(async move { self.0.handle_subscribe(edge, cx).await })
    }

    fn handle_cancel<'a>(
        &'a mut self,
        edge: &'a Edge,
        cause: &'a EndCause,
        cx: &'a mut Cx<'_>,
    ) -> BoxFuture<'a, Result> {
        Box::pin(async move { self.0.handle_cancel(edge, cause, cx).await })
    }

    fn terminate<'a>(&'a mut self, exit: &'a Exit) -> BoxFuture<'a> {
        Box::pin(async move { self.0.terminate(exit).await })
    }

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.0
    }
}

/// As [`guarded`], for a callback that answers at once.
pub(crate) fn guarded_now<T>(stage: &str, callback: impl FnOnce() -> T) -> Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(callback))
        .map_err(|panic| Failure::new(stage, FailureKind::Panic, panic_message(&*panic)))
}

/// Runs a callback; its error or panic becomes the stage's failure.
pub(crate) async fn guarded<T>(stage: &str, callback: impl Future<Output = Result<T>> + Send) -> Result<T, Failure> {
    match (CatchPanic { inner: callback }).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::from_callback(stage, &error)),
        Err(panic) => Err(Failure::new(stage, FailureKind::Panic, panic_message(&*panic))),
    }
}

/// Resolves to what the inner future panicked with. The stage's state is not used again after a panic, so nobody sees
/// it half changed.
#[pin_project]
struct CatchPanic<F> {
    #[pin]
    inner: F,
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.project().inner;
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not a string".to_owned()
    }
}
