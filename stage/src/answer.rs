//! [`Answer`]: what a subscriber says of a single event.

use std::time::Duration;

/// What became of a single event: given to [`Publisher::answer`](crate::Publisher::answer).
///
/// Further answers may come, so a `match` needs an arm for them; whoever does not know one takes no note of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It is done: an acknowledgement.
    Done,
    /// It is done, and this came of it, encoded as its publisher expects.
    DoneWith(Vec<u8>),
    /// It could not be done this time, and is to be tried again: a negative acknowledgement.
    Retry {
        /// Not before so much time has passed. The publisher bounds it.
        delay: Duration,
        /// Why, for people.
        message: String,
    },
    /// It can never be done, and is not to be tried again.
    GiveUp {
        /// Why, for people.
        message: String,
    },
    /// It is being worked on, and takes longer. Another answer follows.
    InProgress,
    /// Its subscriber begins with it; what was not begun has been waiting. Another answer follows.
    Begun,
    /// It was [asked back](crate::Subscriber::revoke) before it was begun, and can go to somebody else: not an attempt.
    Returned,
}

impl Answer {
    /// Whether nothing is to be said of the event any more.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::InProgress | Self::Begun)
    }
}
