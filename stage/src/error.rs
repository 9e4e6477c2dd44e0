//! How stages end and what can go wrong: [`Exit`], [`Failure`], [`SubscribeError`].

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use aqueduct_dispatcher::Sentence;

/// What a callback may fail with: any error, so that `?` works.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What callbacks return.
pub type Result<T = (), E = BoxError> = std::result::Result<T, E>;

/// Why a stage or an edge ends. Ending is not an error; failing is.
#[derive(Clone, Debug)]
pub enum Exit {
    /// The work is done: the source is exhausted, or enough was taken.
    Normal,
    /// Somebody asked for the end.
    Shutdown,
    /// Something went wrong; [`Failure`] says what, and where it began.
    Failed(Failure),
}

impl Exit {
    /// Whether it is [`Normal`](Self::Normal) or [`Shutdown`](Self::Shutdown).
    pub fn is_graceful(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

/// What went wrong, and in which stage it began. Cheap to clone: it travels along the edges to whoever is affected.
#[derive(Clone)]
pub struct Failure(Arc<Inner>);

struct Inner {
    origin: Origin,
    kind: FailureKind,
    message: String,
}

/// Where a failure begins: a stage, and which of its instances if it has several.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    stage: Arc<str>,
    instance: Option<usize>,
}

impl Origin {
    pub(crate) fn stage(stage: impl Into<Arc<str>>) -> Self {
        Self { stage: stage.into(), instance: None }
    }

    /// One of `count` instances.
    pub(crate) fn instance(stage: impl Into<Arc<str>>, instance: usize, count: usize) -> Self {
        Self { stage: stage.into(), instance: Some(instance).filter(|_| count > 1) }
    }

    /// For a message. No `Display`, or `to_string` would be this and not the name.
    fn describe(&self) -> String {
        match self.instance {
            Some(instance) => format!("instance {instance} of stage {:?}", self.stage),
            None => format!("stage {:?}", self.stage),
        }
    }
}

/// The stage's name.
impl Deref for Origin {
    type Target = str;

    fn deref(&self) -> &str {
        &self.stage
    }
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// A callback returned an error.
    Error,
    /// A callback panicked.
    Panic,
    /// A stage's task was ended from outside before it could finish.
    Killed,
    /// The producer could not be subscribed to.
    Subscribe,
    /// The consumer is subscribed to this producer already, and may not be twice. It never ends a consumer.
    AlreadySubscribed,
    /// A selector panicked.
    Selector,
    /// The stage's buffer is full, and is not to drop anything.
    Overflow,
    /// A producer refused a subscription.
    Refused,
    /// The producer had ended before the consumer could subscribe.
    AlreadyEnded,
    /// Events could not be dispatched, because the function that says where panicked or named no partition.
    Dispatch,
    /// A stage was shut down before its work was done.
    Shutdown,
    /// A stage that is to run always ended without a failure, and more often than it may be restarted.
    Ended,
    /// A stage waited for a subscriber, and nobody was left who could come.
    Waiting,
    /// Tasks of a supervisor have failed, or it has given up restarting them.
    Tasks,
    /// The connection to the producer's or consumer's node was lost.
    Disconnected,
    /// The other node broke the protocol, or sent what could not be decoded.
    Protocol,
    /// A stage on another node failed.
    Remote,
}

impl Failure {
    /// A failure that began at `origin`: a stage's name, or what stands for it.
    pub fn new(origin: impl Into<String>, kind: FailureKind, message: impl Into<String>) -> Self {
        Self::at(&Origin::stage(origin.into()), kind, message)
    }

    pub(crate) fn at(origin: &Origin, kind: FailureKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { origin: origin.clone(), kind, message: message.into() }))
    }

    /// A callback's error, with its causes.
    pub(crate) fn from_callback(origin: &Origin, error: &BoxError) -> Self {
        Self::at(origin, FailureKind::Error, Sentence(&**error).to_string())
    }

    /// Whether the two are the same failure, seen at different places.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The stage in which it began.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Which of the stage's instances it was, from 0, if it has several here.
    pub fn instance(&self) -> Option<usize> {
        self.0.origin.instance
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// What the error or the panic said.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { origin, kind, message } = &*self.0;
        let (name, origin) = (&*origin.stage, origin.describe());
        match kind {
            FailureKind::Error => write!(f, "{origin} failed: {message}"),
            FailureKind::Panic => write!(f, "{origin} panicked: {message}"),
            FailureKind::Killed => write!(f, "{origin} was killed: {message}"),
            FailureKind::Subscribe => write!(f, "{origin} could not subscribe: {message}"),
            FailureKind::Refused | FailureKind::AlreadyEnded => {
                write!(f, "{origin} refused a subscription: {message}")
            }
            FailureKind::Dispatch => write!(f, "{origin} could not dispatch: {message}"),
            FailureKind::AlreadySubscribed => write!(f, "{origin} refused a subscription: {message}"),
            FailureKind::Selector => write!(f, "a subscription to {origin} failed: {message}"),
            FailureKind::Overflow => write!(f, "{origin} overflowed: {message}"),
            FailureKind::Shutdown => write!(f, "{origin} was shut down early: {message}"),
            FailureKind::Ended => write!(f, "{origin} ended: {message}"),
            FailureKind::Waiting => write!(f, "{origin} waits in vain {message}"),
            FailureKind::Tasks => write!(f, "tasks of {name:?}: {message}"),
            FailureKind::Disconnected => write!(f, "connection to {name} lost: {message}"),
            FailureKind::Protocol => write!(f, "protocol error from {name}: {message}"),
            FailureKind::Remote => write!(f, "on {name}: {message}"),
        }
    }
}

impl std::error::Error for Failure {}

aqueduct_dispatcher::debug_as_sentence!(Failure);

/// What [`handle_subscribe`](crate::Producer::handle_subscribe) of a stage with an output fails with to refuse a subscriber,
/// and not to fail itself.
///
/// The subscriber is given nothing, and is told [`FailureKind::Refused`] with the reason; what that means for it is for its
/// [`Cancel`](crate::Cancel) policy to say. It does not count as a subscriber that has come.
///
/// ```
/// use aqueduct_stage::{Cx, Edge, Producer, Refusal, Result};
///
/// struct Small {
///     places: usize,
/// }
///
/// impl Producer for Small {
///     type Out = u64;
///     async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, u64>) -> Result {
///         Ok(())
///     }
///     async fn handle_subscribe(&mut self, _edge: &Edge, _cx: &mut Cx<'_, u64>) -> Result {
///         self.places = self.places.checked_sub(1).ok_or(Refusal::new("all places are taken"))?;
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    reason: String,
}

impl Refusal {
    /// A refusal for this reason, which the subscriber is told.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    pub(crate) fn into_reason(self) -> String {
        self.reason
    }
}

aqueduct_dispatcher::debug_as_sentence!(Refusal);

/// Why a subscription was not made.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The producer has ended, with all of its instances.
    #[error("producer {0:?} has ended")]
    Ended(String),
    /// The other node has no producer of that name.
    #[error("no producer named {name:?} at {at}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The node that was asked.
        at: String,
    },
    /// The producer's events have another type than the consumer expects.
    #[error("producer {name:?} at {at} publishes {published:?}, not {expected:?}")]
    TypeMismatch {
        /// The producer's name.
        name: String,
        /// Its node.
        at: String,
        /// The type that it publishes.
        published: String,
        /// The type that the consumer takes.
        expected: String,
    },
    /// The other node could not be reached, or was lost while subscribing.
    #[error("cannot reach {at}: {reason}")]
    Unreachable {
        /// The node.
        at: String,
        /// What went wrong.
        reason: String,
    },
    /// The other side does not take the subscription now.
    #[error("refused by {at}: {reason}")]
    Refused {
        /// Who refused.
        at: String,
        /// The reason that was given.
        reason: String,
    },
    /// It is not allowed, and to ask again will not change that: a right is missing, a certificate is not accepted, or the
    /// node speaks another version or has been started anew elsewhere.
    #[error("refused by {at}: {reason}")]
    Denied {
        /// Who refused.
        at: String,
        /// The reason that was given.
        reason: String,
    },
}

aqueduct_dispatcher::debug_as_sentence!(SubscribeError);
