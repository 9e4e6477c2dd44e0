//! [`Written`]: a batch of events as it is kept until it is acknowledged, in one of two forms.

use bytes::Bytes;

use super::{Columns, EncodeError, Encoded, NUMBER_BYTES, encode};
use crate::{Limits, Wire};

/// How the events of a payload are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One MessagePack value after the other.
    Values,
    /// Numbers, by the differences between them: [`Columns`].
    Columns,
}

/// A batch of events in one of the forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// [`Form::Values`]
    Values(Encoded),
    /// [`Form::Columns`]
    Columns(Columns),
}

impl Written {
    /// Writes `events` for somebody who takes both forms, in the shorter one.
    ///
    /// # Errors
    ///
    /// As [`encode`].
    pub fn of<T: Wire>(events: &[T], limits: &Limits) -> Result<Self, EncodeError> {
        match Columns::of(events).filter(|_| events.len() >= FEWEST) {
            Some(columns) => Ok(Self::Columns(columns)),
            None => encode(events, limits).map(Self::Values),
        }
    }

    /// How they are written.
    pub fn form(&self) -> Form {
        match self {
            Self::Values(_) => Form::Values,
            Self::Columns(_) => Form::Columns,
        }
    }

    /// The events from `from` to before `to`, counted from 0, as they cross.
    pub fn payload(&self, from: usize, to: usize) -> Bytes {
        match self {
            Self::Values(events) => events.bytes().slice(self.end(from)..self.end(to)),
            Self::Columns(numbers) => numbers.payload(from, to),
        }
    }

    /// A copy of the events `from..to`, counted from 0, that holds no more memory than they need.
    pub fn part(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Values(events) => Self::Values(events.part(from, to)),
            Self::Columns(numbers) => Self::Columns(numbers.part(from, to)),
        }
    }

    /// The length of the first `count` events, in bytes, where bytes are counted.
    pub fn end(&self, count: usize) -> usize {
        match self {
            Self::Values(events) => events.end(count),
            Self::Columns(_) => count * NUMBER_BYTES,
        }
    }

    /// How many of the events from `from` to before `to` are at most `at_most_bytes` long together; one at least.
    pub fn count_within(&self, from: usize, to: usize, at_most_bytes: usize) -> usize {
        let count = match self {
            Self::Values(events) => {
                let start = events.end(from);
                events.ends()[from..to].partition_point(|end| *end as usize - start <= at_most_bytes)
            }
            Self::Columns(_) => (at_most_bytes / NUMBER_BYTES).min(to - from),
        };
        count.max(1)
    }

    /// The length of all of them, where bytes are counted.
    pub fn byte_len(&self) -> usize {
        self.end(self.len())
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        match self {
            Self::Values(events) => events.len(),
            Self::Columns(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Encoded> for Written {
    fn from(events: Encoded) -> Self {
        Self::Values(events)
    }
}

/// As columns, fewer numbers are often longer than as values.
const FEWEST: usize = 16;
