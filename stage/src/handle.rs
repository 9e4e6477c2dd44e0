//! [`StageRef`]: sending messages to a stage. [`Handle`]: taking them.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};
use tokio_stream::{Stream, StreamExt};

use crate::counters::Counters;
use crate::members::Shared;
use crate::{BoxFuture, Cx, DemandMode, Never, Result};

/// A stage that takes messages of type `M`: calls, casts, infos, timers and the items of attached streams.
///
/// `O` is the stage's output, so that it can emit: a consumer implements `Handle<M>`, a stage that emits `T`
/// implements `Handle<M, T>`.
#[diagnostic::on_unimplemented(
    message = "stage `{Self}` does not handle messages of type `{M}`",
    label = "no `impl Handle<{M}, {O}> for {Self}`",
    note = "a consumer implements `Handle<M>`; a stage that emits `T` implements `Handle<M, T>`"
)]
pub trait Handle<M, O = Never>: Send + 'static {
    /// What a call is answered with.
    type Reply: Send + 'static;

    /// Takes a message. What it emits is sent before the reply.
    ///
    /// # Errors
    ///
    /// An error ends the stage; the caller learns only that it has stopped.
    fn handle(&mut self, message: M, cx: &mut Cx<'_, O>) -> impl Future<Output = Result<Self::Reply>> + Send;
}

/// [`Handle`] with the message as `Self`, so that the compiler's errors name the message.
#[diagnostic::on_unimplemented(
    message = "stage `{S}` does not handle messages of type `{Self}`",
    label = "`{S}` has no handler for this message",
    note = "a consumer implements `Handle<M>`; a stage that emits `T` implements `Handle<M, T>`"
)]
pub trait Message<S, O>: Send + 'static {
    /// What a call is answered with.
    type Reply: Send + 'static;

    /// Puts the message into an envelope. There is no need to call or implement it.
    #[doc(hidden)]
    fn enclose(self, reply: Option<oneshot::Sender<Self::Reply>>) -> Box<dyn Letter<O>>;
}

impl<M: Send + 'static, O: Send + 'static, S: Handle<M, O>> Message<S, O> for M {
    type Reply = S::Reply;

    fn enclose(self, reply: Option<oneshot::Sender<S::Reply>>) -> Box<dyn Letter<O>> {
        Box::new(Typed::<S, M, _> { message: self, reply, stage: PhantomData })
    }
}

/// Sends messages to one instance of a stage, also after a [restart](crate::Stage::restart). Cheap to clone; dropping it
/// does nothing.
pub struct StageRef<S, O = Never> {
    name: Arc<str>,
    instance: usize,
    inbox: Arc<dyn Inbox<O>>,
    graph: Arc<Shared>,
    stage: PhantomData<fn() -> S>,
}

/// A mailbox, as those see it who send messages.
pub(crate) trait Inbox<O>: Send + Sync {
    fn post(&self, post: Post<O>, sender: Sender) -> Result<(), CallError>;
}

/// Who posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Somebody who is refused when too many messages wait.
    Anybody,
    /// A task of the stage's own that has one message under way at a time: it waits for its turn.
    Helper,
}

/// What can be posted.
pub(crate) enum Post<O> {
    /// To be handled when its turn comes.
    Letter(Box<dyn Letter<O>>),
    /// To be handled behind every event that is buffered now.
    Info(Box<dyn Letter<O>>),
    Demand(DemandMode),
    Status(oneshot::Sender<Status>),
}

/// What a stage tells of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) buffered: usize,
    pub(crate) mode: DemandMode,
}

/// A message with its type erased.
pub trait Letter<O>: Send {
    /// Hands the message to the stage. What it returns sends the reply, after the events.
    fn open<'a>(
        self: Box<Self>,
        stage: &'a mut (dyn Any + Send),
        cx: &'a mut Cx<'_, O>,
    ) -> BoxFuture<'a, Result<Box<dyn FnOnce() + Send>>>;
}

struct Typed<S, M, R> {
    message: M,
    reply: Option<oneshot::Sender<R>>,
    stage: PhantomData<fn(S)>,
}

impl<S, M, O> Letter<O> for Typed<S, M, S::Reply>
where
    S: Handle<M, O>,
    M: Send + 'static,
    O: Send + 'static,
{
    fn open<'a>(
        self: Box<Self>,
        stage: &'a mut (dyn Any + Send),
        cx: &'a mut Cx<'_, O>,
    ) -> BoxFuture<'a, Result<Box<dyn FnOnce() + Send>>> {
        Box::pin(async move {
            let stage = stage.downcast_mut::<S>().expect("a StageRef<S, O> is made for a stage of type S");
            let Self { message, reply, .. } = *self;
            let answer = stage.handle(message, cx).await?;
            Ok(Box::new(move || {
                if let Some(reply) = reply {
                    // Nobody waits any more.
                    let _ = reply.send(answer);
                }
            }) as Box<dyn FnOnce() + Send>)
        })
    }
}

impl<S: 'static, O: Send + 'static> StageRef<S, O> {
    pub(crate) fn new(name: Arc<str>, instance: usize, inbox: Arc<dyn Inbox<O>>, graph: Arc<Shared>) -> Self {
        Self { name, instance, inbox, graph, stage: PhantomData }
    }

    /// The stage's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a message and waits for the reply, for 5 s unless [`timeout`](Call::timeout) says otherwise.
    ///
    /// What the stage emits while it handles the message is sent before the reply.
    ///
    /// # Errors
    ///
    /// [`CallError`]: the stage has ended or is draining, has too many messages waiting, or does not answer in time.
    ///
    /// # Cancel safety
    ///
    /// The message has been sent as soon as this returns; dropping the future gives up the reply only.
    pub fn call<M>(&self, message: M) -> Call<<M as Message<S, O>>::Reply>
    where
        M: Message<S, O>,
    {
        self.call_as(Sender::Anybody, message)
    }

    /// Sends a message and does not wait.
    ///
    /// # Errors
    ///
    /// [`CallError::Stopped`] or [`CallError::Overloaded`]: the message was not taken. A stage that ends later drops
    /// its messages.
    pub fn cast<M>(&self, message: M) -> Result<(), CallError>
    where
        M: Message<S, O>,
    {
        self.cast_as(Sender::Anybody, message)
    }

    /// Sends a message that is handled after the events that are in the stage's buffer now have left it. On a consumer
    /// it is a [`cast`](Self::cast); in a producer-consumer it also keeps its place among the events that have arrived.
    ///
    /// # Errors
    ///
    /// As for [`cast`](Self::cast).
    pub fn info<M>(&self, message: M) -> Result<(), CallError>
    where
        M: Message<S, O>,
    {
        let letter = message.enclose(None);
        self.inbox.post(Post::Info(letter), Sender::Anybody)
    }

    /// Casts `message` after `delay`, unless the graph has ended by then. Must be called on a tokio runtime.
    pub fn send_after<M>(&self, delay: Duration, message: M)
    where
        M: Message<S, O>,
    {
        let stage = self.clone();
        self.graph.spawn_helper(
            "timer",
            Box::pin(async move {
                sleep(delay).await;
                if let Err(error) = stage.cast_as(Sender::Helper, message) {
                    tracing::debug!(stage = stage.name(), %error, "timer found nobody");
                }
            }),
        );
    }

    /// Sends every item of `stream` as a message. The next item is taken when the stage has handled the one before, so
    /// a busy stage slows the stream down. It ends with the stream, the stage, or the graph.
    pub fn attach<St>(&self, stream: St)
    where
        St: Stream + Send + 'static,
        St::Item: Message<S, O>,
    {
        let stage = self.clone();
        self.graph.spawn_helper(
            "attached stream",
            Box::pin(async move {
                let mut stream = std::pin::pin!(stream);
                while let Some(item) = stream.next().await {
                    if stage.call_as(Sender::Helper, item).timeout(Duration::MAX).await.is_err() {
                        break;
                    }
                }
            }),
        );
    }

    /// Starts a task on behalf of the stage, through the graph's [`Spawner`](crate::Spawner). `name` is for reports and
    /// debuggers.
    ///
    /// It is dropped, wherever it waits, when the graph ends. It outlives the stage: one that is to end with it asks
    /// something of the stage's, a channel for instance, that is dropped with the stage. Nobody waits for it, and its
    /// panic is nobody's failure: what the stage has to know, the task sends as a message. Does nothing once the graph
    /// has ended.
    pub fn spawn(&self, name: &str, task: impl Future<Output = ()> + Send + 'static) {
        self.graph.spawn_helper(name, Box::pin(task));
    }

    /// Sets whether demand is passed on or kept, for a stage with output.
    ///
    /// # Errors
    ///
    /// As for [`cast`](Self::cast).
    pub fn set_demand(&self, mode: DemandMode) -> Result<(), CallError> {
        self.inbox.post(Post::Demand(mode), Sender::Anybody)
    }

    /// Whether demand is passed on or kept.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn demand_mode(&self) -> Result<DemandMode, CallError> {
        Ok(self.status().await?.mode)
    }

    /// How many events wait in the stage for somebody to ask for them: in its buffer, and in its dispatcher. What a
    /// producer-consumer has received and not handled is not among them. Other than in GenStage, what was emitted
    /// while demand accumulates is.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn estimate_buffered(&self) -> Result<usize, CallError> {
        Ok(self.status().await?.buffered)
    }

    fn call_as<M>(&self, sender: Sender, message: M) -> Call<<M as Message<S, O>>::Reply>
    where
        M: Message<S, O>,
    {
        let (reply, answer) = oneshot::channel();
        let letter = message.enclose(Some(reply));
        let refused = self.inbox.post(Post::Letter(letter), sender).err();
        Call { answer, refused, limit: DEFAULT_TIMEOUT, sleep: None }
    }

    fn cast_as<M>(&self, sender: Sender, message: M) -> Result<(), CallError>
    where
        M: Message<S, O>,
    {
        let letter = message.enclose(None);
        self.inbox.post(Post::Letter(letter), sender)
    }

    /// As [`cast`](Self::cast), by a task of the stage's own that has one message under way at a time.
    pub(crate) fn cast_as_helper<M>(&self, message: M) -> Result<(), CallError>
    where
        M: Message<S, O>,
    {
        self.cast_as(Sender::Helper, message)
    }

    /// What the stage has done so far.
    pub(crate) fn counters(&self) -> Option<Arc<Counters>> {
        self.graph.counters(&self.name, self.instance)
    }

    /// The reference to what works for the stage besides its own task.
    pub(crate) fn companion(&self) -> Option<Box<dyn Any>> {
        self.graph.reference(&self.name, self.instance)
    }

    /// Which of the stage's instances it is, from 0.
    pub(crate) fn instance(&self) -> usize {
        self.instance
    }

    fn status(&self) -> Call<Status> {
        let (reply, answer) = oneshot::channel();
        let refused = self.inbox.post(Post::Status(reply), Sender::Anybody).err();
        Call { answer, refused, limit: DEFAULT_TIMEOUT, sleep: None }
    }
}

impl<S, O> Clone for StageRef<S, O> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            instance: self.instance,
            inbox: Arc::clone(&self.inbox),
            graph: Arc::clone(&self.graph),
            stage: PhantomData,
        }
    }
}

impl<S, O> fmt::Debug for StageRef<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StageRef").field(&self.name).finish()
    }
}

/// The reply to a [call](StageRef::call), to be awaited.
#[pin_project]
#[must_use = "the reply comes when it is awaited; to send without waiting, use `cast`"]
#[derive(Debug)]
pub struct Call<R> {
    #[pin]
    answer: oneshot::Receiver<R>,
    refused: Option<CallError>,
    limit: Duration,
    /// Made when it is first awaited.
    #[pin]
    sleep: Option<Sleep>,
}

impl<R> Call<R> {
    /// Sets how long to wait for the reply. Default 5 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl<R> Future for Call<R> {
    type Output = Result<R, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(error) = this.refused.take() {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(answer) = this.answer.poll(cx) {
            return Poll::Ready(answer.map_err(|_| CallError::Stopped));
        }
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep(*this.limit)));
        }
        if let Some(sleep) = this.sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        Poll::Ready(Err(CallError::Timeout(*this.limit)))
    }
}

/// Why a message was not answered, or not taken.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The stage has ended, or is draining, or failed while it handled the message, or waits for its restart.
    #[error("the stage has stopped")]
    Stopped,
    /// It has more messages waiting than it should.
    #[error("more than {bound} messages wait for the stage")]
    Overloaded {
        /// How many may wait.
        bound: usize,
    },
    /// No reply came in time. The message may still be handled.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
}

aqueduct_dispatcher::debug_as_sentence!(CallError);

/// How long a call waits, as in OTP.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
