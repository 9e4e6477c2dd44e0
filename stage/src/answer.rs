//! [`Answer`]: what a subscriber says of a single event; and [`ResultRow`], what it says of many at once.

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

/// What came of some events, each of them done: as many answers [with a result](Answer::DoneWith), in a row.
///
/// The results stand one after the other in one piece of memory, so that a short one costs no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultRow {
    /// The number of each event, and where its result ends in `bytes`: rising.
    ends: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

impl ResultRow {
    /// Room for so many results of so many bytes together.
    #[must_use]
    pub fn with_capacity(results: usize, bytes: usize) -> Self {
        Self { ends: Vec::with_capacity(results), bytes: Vec::with_capacity(bytes) }
    }

    /// Adds what came of event `number`.
    pub fn push(&mut self, number: u64, result: &[u8]) {
        self.bytes.extend_from_slice(result);
        self.ends.push((number, self.bytes.len()));
    }

    /// How many results there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All results, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of each event with its result, in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(number, end)| (*number, &self.bytes[std::mem::replace(&mut start, *end)..*end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_was_put_in() {
        let mut row = ResultRow::with_capacity(2, 2);
        let results = [(7, &b"ab"[..]), (3, b""), (8, b"c")];
        results.into_iter().for_each(|(number, result)| row.push(number, result));
        assert_eq!(row.iter().collect::<Vec<_>>(), results);
        assert_eq!((row.len(), row.bytes(), row.is_empty()), (3, &b"abc"[..], false));
    }
}
