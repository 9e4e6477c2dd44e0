//! What can go wrong with a channel.

use std::time::Duration;

use aqueduct_stage::{EndCause, SubscribeError};

use super::codec::CodecError;
use crate::{EncodeErrorCause, StoreError};

/// Why a channel has ended otherwise than by being closed and everything done.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The two ends have other types, applications or transformers.
    #[error("channel {name:?} at {at} is \"{served}\", and was joined as \"{joined}\"")]
    Mismatch {
        /// The channel's name.
        name: String,
        /// The server's address.
        at: String,
        /// What the server serves.
        served: String,
        /// What the worker expects.
        joined: String,
    },
    /// The node was reached, and has not served a channel of that name for as long as the worker has patience.
    #[error("no channel {name:?} is served at {at}")]
    NotServed {
        /// The channel's name.
        name: String,
        /// The node that was asked.
        at: String,
    },
    /// The server could not be reached, or refused, for as long as the worker has patience; or it
    /// [denies](SubscribeError::Denied) the worker, which is not tried again.
    #[error("cannot join the channel: {0}")]
    Unreachable(SubscribeError),
    /// The channel was closed while values waited, and no worker came for them in time. They are dead letters.
    #[error("channel {name:?} was closed, and no worker came for {missing} values within {waited:?}")]
    NoWorkers {
        /// The channel's name.
        name: String,
        /// How many values were not answered.
        missing: u64,
        /// How long there was no worker: [`wait_for_workers`](super::ChannelOptions::wait_for_workers).
        waited: Duration,
    },
    /// Values became [dead letters](super::ChannelMonitor::dead_letters), and nobody reads those.
    #[error(
        "{missing} of the values of channel {name:?} were not answered in all their attempts: its dead letters tell why"
    )]
    Dead {
        /// The channel's name.
        name: String,
        /// How many values were not answered.
        missing: u64,
    },
    /// It ended before everything was done.
    #[error("channel {name:?} ended early: {cause}")]
    Ended {
        /// The channel's name.
        name: String,
        /// Why.
        cause: EndCause,
    },
}

aqueduct_stage::debug_as_sentence!(ChannelError);

/// A value was not sent. It comes back with the error.
#[derive(thiserror::Error)]
#[error("the value was not sent: {cause}")]
pub struct SendError<T> {
    /// The value.
    pub value: T,
    /// Why.
    pub cause: SendErrorCause,
}

aqueduct_stage::debug_as_sentence!(SendError<T>);

/// Why a value was not sent.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorCause {
    /// The channel has ended, or was closed.
    #[error("the channel is closed")]
    Closed,
    /// As many values are on their way as may; only when one does not want to wait.
    #[error("{capacity} values are on their way already")]
    Full {
        /// The bound, [`capacity`](super::ChannelOptions::capacity).
        capacity: usize,
    },
    /// It cannot be written.
    #[error(transparent)]
    Encode(EncodeErrorCause),
    /// A transformer failed.
    #[error("{0}")]
    Transform(String),
    /// The queue of a [durable](crate::Node::serve_durable_channel) channel has failed. Unless it is
    /// [full](StoreError::Full), it is unknown whether the value is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server of a channel of [results only](crate::Node::serve_results) is lost, or does not take this sender.
    #[error(transparent)]
    Ended(#[from] ChannelError),
}

aqueduct_stage::debug_as_sentence!(SendErrorCause);

impl From<CodecError> for SendErrorCause {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Encode(cause) => Self::Encode(cause),
            other => Self::Transform(other.to_string()),
        }
    }
}

/// A result cannot be written. Its task is given up, with this as the reason.
#[derive(thiserror::Error)]
#[error("the result cannot be sent: {0}")]
pub struct AnswerError(pub(super) CodecError);

aqueduct_stage::debug_as_sentence!(AnswerError);

/// There are not enough workers yet.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} workers within {within:?}, got {got}")]
pub struct NotReady {
    /// How many were waited for.
    pub expected: usize,
    /// How many there are.
    pub got: usize,
    /// How long it was waited.
    pub within: Duration,
}

aqueduct_stage::debug_as_sentence!(NotReady);
