//! The user's stage as its driver sees it, whichever of the three kinds it is.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tracing::Span;

use crate::error::Origin;
use crate::{
    Batch, Consumer, Cx, Edge, EndCause, Exit, Failure, FailureKind, Mode, Never, Producer, ProducerConsumer, Result,
};

/// What the driver calls. A stage answers those that belong to its role.
pub(crate) trait Callbacks: Send + 'static {
    type In: Send + 'static;
    type Out: Send + 'static;
    const ROLE: Role;
    /// Whether the stage has events of its own that come when they come: then [`poll_events`](Self::poll_events) is called.
    const POLLED: bool = false;

    fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Self::Out>) -> impl Future<Output = Result> + Send {
        let _ = (demand, cx);
        async { Ok(()) }
    }

    fn handle_events(
        &mut self,
        events: Batch<Self::In>,
        cx: &mut Cx<'_, Self::Out>,
    ) -> impl Future<Output = Result> + Send {
        let _ = (events, cx);
        async { Ok(()) }
    }

    fn handle_end(&mut self, cx: &mut Cx<'_, Self::Out>) -> impl Future<Output = Result> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    fn handle_subscribe(
        &mut self,
        edge: &Edge,
        cx: &mut Cx<'_, Self::Out>,
    ) -> impl Future<Output = Result<Mode>> + Send;

    fn handle_cancel(
        &mut self,
        edge: &Edge,
        cause: &EndCause,
        cx: &mut Cx<'_, Self::Out>,
    ) -> impl Future<Output = Result> + Send;

    fn handle_discarded(&mut self, events: usize) -> bool {
        let _ = events;
        true
    }

    /// Emits what is there, at most [`Cx::demand`], or has `task` woken when there is something. Called only while that
    /// is more than zero, between messages; so it emits and asks for nothing if it is not ready, and a call is short.
    fn poll_events(&mut self, cx: &mut Cx<'_, Self::Out>, task: &mut Context<'_>) -> Poll<Result> {
        let _ = (cx, task);
        Poll::Pending
    }

    fn terminate(&mut self, exit: &Exit) -> impl Future<Output = ()> + Send;

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

impl<P: Producer> Callbacks for ProducerCallbacks<P> {
    type In = Never;
    type Out = P::Out;
    const ROLE: Role = Role::Producer;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, P::Out>) -> Result {
        self.0.handle_demand(demand, cx).await
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, P::Out>) -> Result<Mode> {
        self.0.handle_subscribe(edge, cx).await.map(|()| Mode::Automatic)
    }

    async fn handle_cancel(&mut self, edge: &Edge, cause: &EndCause, cx: &mut Cx<'_, P::Out>) -> Result {
        self.0.handle_cancel(edge, cause, cx).await
    }

    fn handle_discarded(&mut self, events: usize) -> bool {
        self.0.handle_discarded(events)
    }

    async fn terminate(&mut self, exit: &Exit) {
        self.0.terminate(exit).await;
    }

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.0
    }
}

/// Turns a [`ProducerConsumer`] into [`Callbacks`].
pub(crate) struct ProducerConsumerCallbacks<S>(pub(crate) S);

impl<S: ProducerConsumer> Callbacks for ProducerConsumerCallbacks<S> {
    type In = S::In;
    type Out = S::Out;
    const ROLE: Role = Role::ProducerConsumer;

    async fn handle_events(&mut self, events: Batch<S::In>, cx: &mut Cx<'_, S::Out>) -> Result {
        self.0.handle_events(events, cx).await
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, S::Out>) -> Result {
        self.0.handle_end(cx).await
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, S::Out>) -> Result<Mode> {
        self.0.handle_subscribe(edge, cx).await
    }

    async fn handle_cancel(&mut self, edge: &Edge, cause: &EndCause, cx: &mut Cx<'_, S::Out>) -> Result {
        self.0.handle_cancel(edge, cause, cx).await
    }

    fn handle_discarded(&mut self, events: usize) -> bool {
        self.0.handle_discarded(events)
    }

    async fn terminate(&mut self, exit: &Exit) {
        self.0.terminate(exit).await;
    }

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.0
    }
}

/// Turns a [`Consumer`] into [`Callbacks`].
pub(crate) struct ConsumerCallbacks<C>(pub(crate) C);

impl<C: Consumer> Callbacks for ConsumerCallbacks<C> {
    type In = C::In;
    type Out = Never;
    const ROLE: Role = Role::Consumer;

    async fn handle_events(&mut self, events: Batch<C::In>, cx: &mut Cx<'_>) -> Result {
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

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.0
    }
}

/// As [`guarded`], for a callback that answers at once.
pub(crate) fn guarded_now<T>(origin: &Origin, callback: impl FnOnce() -> T) -> Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(callback))
        .map_err(|panic| Failure::at(origin, FailureKind::Panic, panic_message(&*panic)))
}

/// Runs a callback; its error or panic becomes the stage's failure.
pub(crate) async fn guarded<T>(
    origin: &Origin,
    callback: impl Future<Output = Result<T>> + Send,
) -> Result<T, Failure> {
    guarded_in(Span::none(), origin, callback).await
}

/// As [`guarded`], with `span` entered while the callback runs.
pub(crate) async fn guarded_in<T>(
    span: Span,
    origin: &Origin,
    callback: impl Future<Output = Result<T>> + Send,
) -> Result<T, Failure> {
    match (CatchPanic { span, inner: callback }).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::from_callback(origin, &error)),
        Err(panic) => Err(Failure::at(origin, FailureKind::Panic, panic_message(&*panic))),
    }
}

/// Resolves to what the inner future panicked with. The stage's state is not used again after a panic, so nobody sees
/// it half changed.
#[pin_project]
struct CatchPanic<F> {
    span: Span,
    #[pin]
    inner: F,
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Most of the time nobody listens, and then a span is nothing to enter.
        let _entered = (!this.span.is_none()).then(|| this.span.enter());
        match std::panic::catch_unwind(AssertUnwindSafe(|| this.inner.poll(cx))) {
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
