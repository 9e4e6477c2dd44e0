//! [`Partitions`]: how many there are, and what they are called.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{Interest, PartitionName, Refused};

/// The partitions of a [`PartitionDispatcher`](crate::PartitionDispatcher): at least one, each with a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions {
    names: Vec<PartitionName>,
}

impl Partitions {
    /// The most partitions there may be. Each costs about 300 bytes, and a glance at every dispatch.
    pub const MAX: usize = 65_536;

    /// `count` partitions named `0..count`.
    ///
    /// # Errors
    ///
    /// [`PartitionsError::Count`] unless there are 1 to [`MAX`](Self::MAX).
    pub fn numbered(count: usize) -> Result<Self, PartitionsError> {
        check(count)?;
        Ok(Self { names: (0..count).map(PartitionName::Number).collect() })
    }

    /// One partition for each name. A hash function speaks of them by their place in this list.
    ///
    /// # Errors
    ///
    /// [`PartitionsError::Count`] unless there are 1 to [`MAX`](Self::MAX), [`PartitionsError::Twice`] if a name is
    /// there twice.
    pub fn named<N: Into<Arc<str>>>(names: impl IntoIterator<Item = N>) -> Result<Self, PartitionsError> {
        let names: Vec<_> = names.into_iter().map(|name| PartitionName::Name(name.into())).collect();
        check(names.len())?;
        let mut seen = BTreeSet::new();
        match names.iter().find(|name| !seen.insert(*name)) {
            Some(twice) => Err(PartitionsError::Twice { name: twice.clone() }),
            None => Ok(Self { names }),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// What the partition at a place is called.
    pub(super) fn name(&self, place: usize) -> PartitionName {
        self.names[place].clone()
    }

    /// The place of the partition that a subscriber wants.
    pub(super) fn find<T>(&self, interest: &Interest<T>) -> Result<usize, Refused> {
        let Some(got) = &interest.partition else {
            return Err(Refused::NoPartition { partitions: self.describe() });
        };
        let place = match (got, &self.names[0]) {
            // Numbered ones need no search.
            (PartitionName::Number(number), PartitionName::Number(_)) => Some(*number).filter(|n| *n < self.count()),
            _ => self.names.iter().position(|name| name == got),
        };
        place.ok_or_else(|| Refused::UnknownPartition { got: got.clone(), partitions: self.describe() })
    }

    /// For a message: all of them, or the first few.
    fn describe(&self) -> String {
        const SHOWN: usize = 8;
        match &*self.names {
            [PartitionName::Number(_), ..] => format!("0..{}", self.names.len()),
            names => {
                let shown: Vec<_> = names.iter().take(SHOWN).map(ToString::to_string).collect();
                let more = if names.len() > SHOWN { ", …" } else { "" };
                format!("{}{more}", shown.join(", "))
            }
        }
    }
}

fn check(count: usize) -> Result<(), PartitionsError> {
    if (1..=Partitions::MAX).contains(&count) { Ok(()) } else { Err(PartitionsError::Count { got: count }) }
}

/// Why there can be no such [`Partitions`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionsError {
    /// There are none, or too many.
    #[error("expected 1 to {} partitions, got {got}", Partitions::MAX)]
    Count {
        /// How many were wanted.
        got: usize,
    },
    /// Two have the same name.
    #[error("expected every partition to have a name of its own, got {name} twice")]
    Twice {
        /// The name.
        name: PartitionName,
    },
}

crate::debug_as_sentence!(PartitionsError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_partitions_are_refused_with_value_and_bound() {
        let sentence = |refused: Result<Partitions, PartitionsError>| refused.expect_err("bad").to_string();
        assert_eq!(sentence(Partitions::numbered(0)), "expected 1 to 65536 partitions, got 0");
        assert_eq!(sentence(Partitions::numbered(65_537)), "expected 1 to 65536 partitions, got 65537");
        assert_eq!(sentence(Partitions::named::<&str>([])), "expected 1 to 65536 partitions, got 0");
        let twice = Partitions::named(["a", "b", "a"]);
        assert_eq!(sentence(twice), "expected every partition to have a name of its own, got \"a\" twice");
    }

    #[test]
    fn an_unknown_or_missing_partition_is_refused() {
        let refused = |partitions: &Partitions, partition: Option<PartitionName>| {
            partitions.find(&Interest::<u32> { selector: None, partition }).map_err(|refused| refused.to_string())
        };
        let numbered = Partitions::numbered(3).unwrap();
        assert_eq!(refused(&numbered, Some(2.into())), Ok(2));
        assert_eq!(refused(&numbered, Some(3.into())), Err("expected a partition, one of 0..3, got 3".into()));
        assert_eq!(refused(&numbered, None), Err("expected a partition, one of 0..3, got none".into()));
        let named = Partitions::named(["odd", "even"]).unwrap();
        assert_eq!(refused(&named, Some("even".into())), Ok(1));
        let unknown = refused(&named, Some("big".into()));
        assert_eq!(unknown, Err("expected a partition, one of \"odd\", \"even\", got \"big\"".into()));
        assert!(refused(&named, Some(0.into())).is_err(), "names are not numbers");
    }
}
