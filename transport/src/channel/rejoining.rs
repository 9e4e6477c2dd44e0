//! [`Rejoining`]: a worker's subscription to its channel, made again whenever the server was lost.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aqueduct_stage::notice;
use aqueduct_stage::notices::Notices;
use aqueduct_stage::{
    EndCause, EventStream, EventStreamError, Exit, FailureKind, Source, SourceExt, SubscribeError, SubscribeOptions,
    Window,
};
use tokio::time::{Instant, Sleep, sleep};

use super::ChannelError;
use super::codec::Value;
use crate::pauses::Pauses;
use crate::pulling::{Work, WorkSource, Works};
use crate::remote::Remote;
use crate::{Node, Retrying};

/// What comes from the server, over all subscriptions.
pub(super) struct Rejoining {
    node: Node,
    source: Retrying<Works<Remote<Value>>>,
    window: SubscribeOptions,
    state: State,
    /// Before each further subscription.
    pauses: Pauses,
}

enum State {
    Joined(Box<EventStream<Work<Value>>>),
    /// Cut off, and not yet on the way back.
    Pausing(Pin<Box<Sleep>>),
    Ended,
}

/// What a worker has to know.
pub(super) enum Joined {
    Given(Work<Value>),
    /// The server was lost, with everything that was given and not answered. It is looked for.
    Lost,
}

impl Rejoining {
    pub(super) fn new(node: Node, remote: &Remote<Value>, window: SubscribeOptions, patience: Duration) -> Self {
        let source = Retrying::new(&remote.work(), patience).unless_denied();
        let state = State::Joined(Box::new(source.events(window)));
        Self { node, source, window, state, pauses: Pauses::new(FIRST_PAUSE, LAST_PAUSE) }
    }

    pub(super) fn name(&self) -> String {
        self.source.name()
    }

    /// The present window.
    pub(super) fn window(&self) -> Window {
        match &self.state {
            State::Joined(stream) => stream.window(),
            State::Pausing(_) | State::Ended => self.window.window_or(Window::FAR),
        }
    }

    /// `None` at the end of the channel; an error is the last but that.
    pub(super) fn poll_next(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Joined, ChannelError>>> {
        loop {
            match &mut self.state {
                State::Joined(stream) => match ready!(tokio_stream::Stream::poll_next(Pin::new(&mut **stream), task)) {
                    Some(Ok(work)) => {
                        self.pauses.goes_on(Instant::now);
                        return Poll::Ready(Some(Ok(Joined::Given(work))));
                    }
                    Some(Err(error)) => {
                        let Some(end) = self.lost(error) else {
                            let pause = self.pauses.lost(Instant::now());
                            self.state = State::Pausing(Box::pin(sleep(pause)));
                            return Poll::Ready(Some(Ok(Joined::Lost)));
                        };
                        self.state = State::Ended;
                        return Poll::Ready(end.err().map(Err));
                    }
                    None => {
                        self.state = State::Ended;
                        return Poll::Ready(None);
                    }
                },
                State::Pausing(pause) => {
                    ready!(pause.as_mut().poll(task));
                    self.state = State::Joined(Box::new(self.source.events(self.window)));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    /// Of the node: what its peers can cause to be logged.
    pub(super) fn notices(&self) -> &Notices {
        self.node.notices()
    }

    /// What follows the early end of a subscription: an error, the end, or another one.
    fn lost(&mut self, error: EventStreamError) -> Option<Result<(), ChannelError>> {
        let end = match error {
            EventStreamError::Subscribe(SubscribeError::Ended(_)) => Ok(()),
            EventStreamError::Subscribe(SubscribeError::TypeMismatch { name, at, published, expected }) => {
                Err(ChannelError::Mismatch { name, at, served: published, joined: expected })
            }
            EventStreamError::Subscribe(SubscribeError::Unknown { name, at }) => {
                Err(ChannelError::NotServed { name, at })
            }
            EventStreamError::Subscribe(error) => Err(ChannelError::Unreachable(error)),
            EventStreamError::Failed(failure)
                if failure.kind() == FailureKind::Protocol || self.node.is_shutting_down() =>
            {
                Err(ChannelError::Ended { name: self.name(), cause: EndCause::Down(Exit::Failed(failure)) })
            }
            error => {
                notice!(self.notices(), info, "lost the channel's server", channel = self.name(), %error);
                return None;
            }
        };
        Some(end)
    }
}

impl fmt::Debug for Rejoining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// Before the second further subscription, and before the last ones, if little time has passed since something came.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);
