//! [`FromStream`]: a stream as a producer.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use aqueduct_dispatcher::Buffer;
use pin_project::pin_project;
use tokio_stream::Stream;

use super::MOST_AT_A_TIME;
use crate::callbacks::Callbacks;
use crate::role::Role;
use crate::{BoxError, Cx, Edge, EndCause, Exit, Graph, Mode, Never, Result, Stage};

impl Graph {
    /// Declares a producer that emits the items of a stream.
    ///
    /// The stream is polled only while there is demand, in the stage's task. While it has nothing, the stage takes
    /// messages, subscriptions and its end at once; so the stream may be as slow as it likes. What is ready is emitted in
    /// one batch, as far as it was asked for: a slow stream does not hold back what is there. When the stream ends, the
    /// stage ends normally and its consumers have seen everything.
    ///
    /// Unless [`on_cancel`](Stage::on_cancel) says otherwise the stage lives on when its last consumer has left, is not
    /// polled, and goes on for the next one where it was.
    ///
    /// A value can be run once: such a stage can neither have several instances nor be restarted; it then fails. See
    /// [`stream_with`](Self::stream_with). For a stream of `Result`s see [`try_stream`](Self::try_stream).
    ///
    /// ```
    /// use aqueduct_stage::{Graph, each};
    /// use tokio_stream::StreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> aqueduct_stage::Result {
    /// let graph = Graph::new("squares");
    /// let squares = graph.stream("squares", tokio_stream::iter(1..=3).map(|n| n * n));
    /// graph.consumer("print", || each(|n: u64| async move { Ok(println!("{n}")) })).subscribe(&squares, 5..10);
    /// graph.run().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn stream<St>(&self, name: &str, stream: St) -> Stage<FromStream<St>, Never, St::Item>
    where
        St: Stream<Item: Send> + Send + 'static,
    {
        self.stream_with(name, once(stream))
    }

    /// As [`stream`](Self::stream), of a factory: the stage can have several instances, each with a stream of its own,
    /// and can be restarted.
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn stream_with<St>(
        &self,
        name: &str,
        mut make: impl FnMut() -> St + Send + 'static,
    ) -> Stage<FromStream<St>, Never, St::Item>
    where
        St: Stream<Item: Send> + Send + 'static,
    {
        let capacity = Buffer::<St::Item>::DEFAULT_CAPACITY;
        self.declare(name, capacity, move || StreamCallbacks::new(make(), Ok))
    }

    /// As [`stream`](Self::stream), for a stream that can fail: its first error ends the stage, behind the items before
    /// it, and is reported as the graph's. An [`EventStream`](crate::EventStream) is such a stream.
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn try_stream<St, T, E>(&self, name: &str, stream: St) -> Stage<FromStream<St>, Never, T>
    where
        St: Stream<Item = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.try_stream_with(name, once(stream))
    }

    /// As [`try_stream`](Self::try_stream), of a factory: the stage can have several instances, each with a stream of its
    /// own, and can be restarted.
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn try_stream_with<St, T, E>(
        &self,
        name: &str,
        mut make: impl FnMut() -> St + Send + 'static,
    ) -> Stage<FromStream<St>, Never, T>
    where
        St: Stream<Item = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let capacity = Buffer::<T>::DEFAULT_CAPACITY;
        self.declare(name, capacity, move || {
            StreamCallbacks::new(make(), |item: Result<T, E>| item.map_err(Into::into))
        })
    }
}

/// A factory that can be used once.
fn once<St>(stream: St) -> impl FnMut() -> St {
    let mut stream = Some(stream);
    move || stream.take().expect("a stream that was given as a value runs once: `stream_with` takes a factory")
}

/// The stage that [`Graph::stream`] makes.
pub struct FromStream<St>(Pin<Box<Feed<St>>>);

impl<St> fmt::Debug for FromStream<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromStream").field("has_ended", &self.0.stream.is_none()).finish()
    }
}

#[pin_project]
struct Feed<St> {
    /// Dropped at its end.
    #[pin]
    stream: Option<St>,
    /// Came behind items that had to be emitted first.
    failed: Option<BoxError>,
}

impl<St: Stream> Feed<St> {
    fn poll_events<T>(
        self: Pin<&mut Self>,
        into_event: fn(St::Item) -> Result<T>,
        cx: &mut Cx<'_, T>,
        task: &mut Context<'_>,
    ) -> Poll<Result> {
        let mut this = self.project();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut emitted = 0;
        let most = cx.demand().min(MOST_AT_A_TIME);
        while emitted < most {
            let Some(stream) = this.stream.as_mut().as_pin_mut() else { break };
            match stream.poll_next(task).map(|item| item.map(into_event)) {
                Poll::Ready(Some(Ok(event))) => cx.emit(event),
                Poll::Ready(Some(Err(error))) => {
                    *this.failed = Some(error);
                    break;
                }
                Poll::Ready(None) => {
                    this.stream.set(None);
                    cx.stop(Exit::Normal);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => break,
            }
            emitted += 1;
        }
        match this.failed.take_if(|_| emitted == 0) {
            Some(error) => Poll::Ready(Err(error)),
            None if emitted > 0 => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}

/// Turns a stream into [`Callbacks`].
struct StreamCallbacks<St: Stream, T> {
    stage: FromStream<St>,
    into_event: fn(St::Item) -> Result<T>,
}

impl<St: Stream, T> StreamCallbacks<St, T> {
    fn new(stream: St, into_event: fn(St::Item) -> Result<T>) -> Self {
        Self { stage: FromStream(Box::pin(Feed { stream: Some(stream), failed: None })), into_event }
    }
}

impl<St: Stream + Send + 'static, T: Send + 'static> Callbacks for StreamCallbacks<St, T> {
    type In = Never;
    type Out = T;
    const ROLE: Role = Role::Producer;
    const POLLED: bool = true;

    fn poll_events(&mut self, cx: &mut Cx<'_, T>, task: &mut Context<'_>) -> Poll<Result> {
        self.stage.0.as_mut().poll_events(self.into_event, cx, task)
    }

    async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_, T>) -> Result<Mode> {
        Ok(Mode::Automatic)
    }

    async fn handle_cancel(&mut self, _: &Edge, _: &EndCause, _: &mut Cx<'_, T>) -> Result {
        Ok(())
    }

    async fn terminate(&mut self, _: &Exit) {}

    fn stage(&mut self) -> &mut (dyn Any + Send) {
        &mut self.stage
    }
}
