//! What ends are called on the wire, and what they mean to who hears of them. Pure.

use aqueduct_stage::{Exit, Failure, FailureKind};

use crate::frame::Reason;

/// How the far producer, or its subscription, has ended.
pub(crate) fn exit_of_producer(name: &str, reason: Reason, origin: &str, message: &str) -> Exit {
    let kind = match reason {
        Reason::AlreadySubscribed => FailureKind::AlreadySubscribed,
        Reason::Ended => FailureKind::AlreadyEnded,
        Reason::Refused => FailureKind::Refused,
        _ => FailureKind::Remote,
    };
    let message = match reason {
        Reason::Normal => return Exit::Normal,
        Reason::Shutdown => return Exit::Shutdown,
        Reason::Panic => format!("stage {origin:?} panicked: {message}"),
        Reason::Error => format!("stage {origin:?} failed: {message}"),
        Reason::AlreadySubscribed | Reason::Ended | Reason::Refused => message.to_owned(),
        other => format!("{origin}: {other}: {message}"),
    };
    Exit::Failed(Failure::new(name, kind, message))
}

/// What a consumer's wish to end is called on the wire.
pub(crate) fn reason_of_cancel(exit: &Exit) -> Reason {
    match exit {
        Exit::Normal => Reason::Normal,
        Exit::Shutdown => Reason::Shutdown,
        Exit::Failed(_) => Reason::Error,
    }
}

/// What a failure is called on the wire.
pub(crate) fn reason_of_failure(kind: FailureKind) -> Reason {
    match kind {
        FailureKind::Panic => Reason::Panic,
        FailureKind::Killed => Reason::Killed,
        FailureKind::Shutdown => Reason::Shutdown,
        FailureKind::Disconnected => Reason::Disconnected,
        FailureKind::Protocol => Reason::Protocol,
        FailureKind::AlreadySubscribed => Reason::AlreadySubscribed,
        FailureKind::AlreadyEnded => Reason::Ended,
        FailureKind::Refused => Reason::Refused,
        _ => Reason::Error,
    }
}

/// Why a subscriber at the node `peer` wants no more.
pub(crate) fn exit_of_subscriber(reason: Reason, peer: &str) -> Exit {
    match reason {
        Reason::Normal => Exit::Normal,
        Reason::Shutdown => Exit::Shutdown,
        Reason::Error => Exit::Failed(Failure::new(peer, FailureKind::Remote, "a consumer there has failed")),
        other => Exit::Failed(Failure::new(peer, FailureKind::Remote, other.to_string())),
    }
}
