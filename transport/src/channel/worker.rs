//! [`ChannelWorker`]: a worker's end of a channel.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aqueduct_stage::{Attempt, Window, notice};
use tokio_stream::Stream;

use super::codec::{Codec, Value};
use super::rejoining::{Joined, Rejoining};
use super::{AnswerError, ChannelError};
use crate::Wire;
use crate::pulling::Work;

/// A worker's end of a channel: a stream of the values that it is to answer, made by
/// [`Node::join_channel`](crate::Node::join_channel).
///
/// It ends when the channel is closed and everything is done, also if that was before the worker came. Its last item is an
/// error if it did not join for other types, or could not for longer than it has
/// [patience](super::JoinOptions::patience); everything else that happens on the way it deals with itself. Dropping it leaves the
/// channel: what it was given and has not answered goes to others, tasks included that are still held, whose answers do not
/// count then.
///
/// It runs nothing but when it is polled, and asks for more only then: a worker that does its tasks one after the other
/// needs nothing else.
pub struct ChannelWorker<Job, Answer> {
    server: Rejoining,
    codec: Codec,
    types: PhantomData<fn() -> (Job, Answer)>,
}

impl<Job: Wire, Answer: Wire> ChannelWorker<Job, Answer> {
    pub(super) fn new(server: Rejoining, codec: Codec) -> Self {
        Self { server, codec, types: PhantomData }
    }

    /// The next task; `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// On cancel nothing was taken.
    pub async fn recv(&mut self) -> Option<Result<ChannelTask<Job, Answer>, ChannelError>> {
        std::future::poll_fn(|task| Pin::new(&mut *self).poll_next(task)).await
    }

    /// How many values it lets be on their way or wait here now: what it was told to, or, where that
    /// [grows](super::JoinOptions::values), what it has come to.
    pub fn window(&self) -> Window {
        self.server.window()
    }

    /// Reads a value. One that cannot be read goes back, and costs an attempt.
    fn open(&mut self, work: Work<Value>) -> Option<ChannelTask<Job, Answer>> {
        match self.codec.decode(&work.event().bytes) {
            Ok(value) => Some(ChannelTask { value, work, codec: self.codec.clone(), answers: PhantomData }),
            Err(error) => {
                notice!(self.server.notices(), warn, "a value cannot be read", channel = self.server.name(), %error);
                work.retry(UNREADABLE_DELAY, format!("cannot be read: {error}"));
                None
            }
        }
    }
}

impl<Job: Wire, Answer: Wire> Stream for ChannelWorker<Job, Answer> {
    type Item = Result<ChannelTask<Job, Answer>, ChannelError>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match ready!(this.server.poll_next(task)) {
                Some(Ok(Joined::Given(work))) => {
                    if let Some(opened) = this.open(work) {
                        return Poll::Ready(Some(Ok(opened)));
                    }
                }
                Some(Ok(Joined::Lost)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The generated one would ask that types be.
impl<Job, Answer> Unpin for ChannelWorker<Job, Answer> {}

impl<Job, Answer> fmt::Debug for ChannelWorker<Job, Answer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelWorker").field("source", &self.server).finish_non_exhaustive()
    }
}

/// A value that a worker is to answer. It can go to another task, and be answered in any order with others.
///
/// What is dropped without an answer is tried again, at once after the first attempt and ever later after others, as with
/// [`Work`](crate::pulling::Work). There is no word back: an answer
/// that comes too late, because somebody else has the value by now, does not count.
pub struct ChannelTask<Job, Answer> {
    value: Job,
    work: Work<Value>,
    codec: Codec,
    answers: PhantomData<fn(Answer)>,
}

impl<Job, Answer: Wire> ChannelTask<Job, Answer> {
    /// What there is to do.
    pub fn value(&self) -> &Job {
        &self.value
    }

    /// Which attempt this is.
    pub fn attempt(&self) -> Attempt {
        self.work.attempt()
    }

    /// Answers it: the result crosses and the task is done, in one step. Returns the value.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if the result cannot be written. The task is given up then, with the reason.
    pub fn answer(self, result: &Answer) -> Result<Job, AnswerError> {
        let Self { value, work, codec, .. } = self;
        match codec.encode(result) {
            Ok(bytes) => {
                work.done_with(&bytes);
                Ok(value)
            }
            Err(error) => {
                let error = AnswerError(error);
                work.give_up(error.to_string());
                Err(error)
            }
        }
    }

    /// It could not be done, and is to be tried again by whoever asks, not before `delay` is over. If this was the last
    /// attempt, it is a dead letter, with the message; at most 1 KiB of that is kept.
    pub fn retry(self, delay: Duration, message: impl Into<String>) {
        self.work.retry(delay, message);
    }

    /// It can never be done: it is a dead letter at once, with the message; at most 1 KiB of that is kept.
    pub fn give_up(self, message: impl Into<String>) {
        self.work.give_up(message);
    }

    /// It takes longer: the time for the answer begins anew. To be said every third of
    /// [`ack_wait`](super::ChannelOptions::ack_wait).
    pub fn in_progress(&self) {
        self.work.in_progress();
    }
}

impl<Job> ChannelTask<Job, ()> {
    /// It is done, and there is nothing to say. Returns the value.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] if a transformer of the channel fails.
    pub fn done(self) -> Result<Job, AnswerError> {
        self.answer(&())
    }
}

impl<Job: fmt::Debug, Answer> fmt::Debug for ChannelTask<Job, Answer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempt = self.work.attempt().number();
        f.debug_struct("ChannelTask").field("value", &self.value).field("attempt", &attempt).finish()
    }
}

/// What one worker cannot read, another may.
const UNREADABLE_DELAY: Duration = Duration::from_millis(10);
