//! The user's stage as its driver sees it, whichever of the three kinds it is.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tracing::Span;
use tracing::span::Entered;

use crate::error::Origin;
use crate::role::Role;
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

/// Turns a [`Producer`] into [`Callbacks`].
pub(crate) struct ProducerCallbacks<P>(pub(crate) P);

impl<P: Producer> Callbacks for ProducerCallbacks<P> {
    type In = Never;
    type Out = P::Out;
    const ROLE: Role = Role::Producer;

    fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, P::Out>) -> impl Future<Output = Result> + Send {
        self.0.handle_demand(demand, cx)
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

    fn handle_events(&mut self, events: Batch<S::In>, cx: &mut Cx<'_, S::Out>) -> impl Future<Output = Result> + Send {
        self.0.handle_events(events, cx)
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

    fn handle_events(&mut self, events: Batch<C::In>, cx: &mut Cx<'_>) -> impl Future<Output = Result> + Send {
        self.0.handle_events(events, cx)
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
pub(crate) fn guarded<C: FnOnce() -> F, F>(origin: &Origin, callback: C) -> Guarded<'_, C, F> {
    guarded_in(Span::none(), origin, callback)
}

/// As [`guarded`], with `span` entered while the callback runs.
pub(crate) fn guarded_in<C: FnOnce() -> F, F>(span: Span, origin: &Origin, callback: C) -> Guarded<'_, C, F> {
    Guarded { span, origin, callback: Callback::New(Some(callback)) }
}

/// A callback that is [`guarded`]. The stage's state is not used again after a panic, so nobody sees it half changed.
///
/// It is no `async fn`, which would hold what it is given twice, in every stage.
#[pin_project]
pub(crate) struct Guarded<'a, C, F> {
    span: Span,
    origin: &'a Origin,
    #[pin]
    callback: Callback<C, F>,
}

#[pin_project(project = CallbackProjection)]
enum Callback<C, F> {
    /// Not called yet; empty if it has panicked then.
    New(Option<C>),
    Begun(#[pin] F),
}

impl<C: FnOnce() -> F, T, F: Future<Output = Result<T>>> Future for Guarded<'_, C, F> {
    type Output = Result<T, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = entered(this.span);
        let poll = || {
            if let CallbackProjection::New(callback) = this.callback.as_mut().project() {
                let begun = callback.take().expect("it is not polled again after a panic")();
                this.callback.set(Callback::Begun(begun));
            }
            match this.callback.project() {
                CallbackProjection::Begun(callback) => callback.poll(cx),
                CallbackProjection::New(_) => unreachable!("it has begun"),
            }
        };
        match std::panic::catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(answer))) => Poll::Ready(Ok(answer)),
            Ok(Poll::Ready(Err(error))) => Poll::Ready(Err(Failure::from_callback(this.origin, &error))),
            Err(panic) => Poll::Ready(Err(Failure::at(this.origin, FailureKind::Panic, panic_message(&*panic)))),
        }
    }
}

/// Most of the time nobody listens, and then a span is nothing to enter.
fn entered(span: &Span) -> Option<Entered<'_>> {
    (!span.is_none()).then(|| span.enter())
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
