//! [`Reason`]: why something ended or was refused, as a number on the wire.

use serde::{Deserialize, Serialize};

/// Why a link or a connection ends, or is refused. A reason that this version does not know is kept as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub(crate) enum Reason {
    /// The work is done.
    Normal,
    /// Somebody asked for the end.
    Shutdown,
    /// A callback returned an error.
    Error,
    /// A callback panicked.
    Panic,
    /// A stage's task was ended from outside.
    Killed,
    /// Something took too long.
    Timeout,
    /// It is not allowed.
    Unauthorized,
    /// There is no room for more.
    Overloaded,
    /// The producer publishes another type.
    TypeMismatch,
    /// A connection, or the other end of the link, was lost.
    Disconnected,
    /// There is no producer of that name.
    UnknownProducer,
    /// The producer has ended.
    Ended,
    /// A rule of the protocol was broken.
    Protocol,
    /// There is no version of the protocol that both sides speak.
    Version,
    /// A later incarnation of the same node is known.
    Superseded,
    /// The other end of the link does not know it any more.
    NoSession,
    /// The producer takes a consumer only once.
    AlreadySubscribed,
    /// The producer does not want this consumer.
    Refused,
    /// A reason of a later version.
    Unknown(u8),
}

/// Every reason and its number. Numbers are never given a second time.
const NUMBERS: [(Reason, u8); 18] = [
    (Reason::Normal, 0),
    (Reason::Shutdown, 1),
    (Reason::Error, 2),
    (Reason::Panic, 3),
    (Reason::Killed, 4),
    (Reason::Timeout, 5),
    (Reason::Unauthorized, 6),
    (Reason::Overloaded, 7),
    (Reason::TypeMismatch, 8),
    (Reason::Disconnected, 9),
    (Reason::UnknownProducer, 10),
    (Reason::Ended, 11),
    (Reason::Protocol, 12),
    (Reason::Version, 13),
    (Reason::Superseded, 14),
    (Reason::NoSession, 15),
    (Reason::AlreadySubscribed, 16),
    (Reason::Refused, 17),
];

impl From<u8> for Reason {
    fn from(number: u8) -> Self {
        NUMBERS.iter().find(|known| known.1 == number).map_or(Self::Unknown(number), |known| known.0)
    }
}

impl From<Reason> for u8 {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unknown(number) => number,
            known => NUMBERS.iter().find(|entry| entry.0 == known).map_or(Self::MAX, |entry| entry.1),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Shutdown => "shutdown",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Killed => "killed",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Overloaded => "overloaded",
            Self::TypeMismatch => "type mismatch",
            Self::Disconnected => "disconnected",
            Self::UnknownProducer => "unknown producer",
            Self::Ended => "ended",
            Self::Protocol => "protocol error",
            Self::Version => "no common version",
            Self::Superseded => "superseded",
            Self::NoSession => "no such link",
            Self::AlreadySubscribed => "already subscribed",
            Self::Refused => "refused",
            Self::Unknown(number) => return write!(f, "unknown reason {number}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for number in 0..=u8::MAX {
            assert_eq!(u8::from(Reason::from(number)), number);
        }
        assert_eq!(Reason::from(18), Reason::Unknown(18));
    }

    #[test]
    fn every_known_reason_has_a_number_of_its_own() {
        for (position, (reason, number)) in NUMBERS.into_iter().enumerate() {
            assert_eq!(usize::from(number), position);
            assert_eq!((Reason::from(number), u8::from(reason)), (reason, number));
        }
    }
}
