//! What stands in the file: each entry and each position with a checksum over its name and its bytes.
//!
//! redb looks at the checksums of its own pages after a crash only. A bit that has turned on the disk since would be read as
//! another payload, or as another position, without a word.

use bytes::Bytes;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use xxhash_rust::xxh3::Xxh3;

use super::file::storage;
use crate::StoreError;
use crate::bugs::bug;

/// How often an entry was taken.
pub(super) struct Attempts;

impl Attempts {
    pub(super) fn write(queue: &str, id: u64, attempts: u32) -> (u32, u64) {
        (attempts, checksum(ATTEMPTS_SEED, queue, &[id, attempts.into()], &[]))
    }

    pub(super) fn read(queue: &str, id: u64, stored: (u32, u64)) -> Result<u32, StoreError> {
        if stored == Self::write(queue, id, stored.0) { Ok(stored.0) } else { Err(damaged_entry(queue, id)) }
    }
}

/// What an entry holds.
pub(super) struct Payload;

impl Payload {
    pub(super) fn write(queue: &str, id: u64, payload: &[u8]) -> Vec<u8> {
        [&checksum(PAYLOAD_SEED, queue, &[id], payload).to_le_bytes(), payload].concat()
    }

    pub(super) fn read(queue: &str, id: u64, stored: &[u8]) -> Result<Bytes, StoreError> {
        let (sum, payload) = stored.split_first_chunk().ok_or_else(|| damaged_entry(queue, id))?;
        if u64::from_le_bytes(*sum) == checksum(PAYLOAD_SEED, queue, &[id], payload) || bug!(ChecksumIgnored) {
            Ok(Bytes::copy_from_slice(payload))
        } else {
            Err(damaged_entry(queue, id))
        }
    }
}

/// How far a subscription has come.
pub(super) struct Position;

impl Position {
    fn write(subscription: &str, position: u64) -> (u64, u64) {
        (position, checksum(POSITION_SEED, subscription, &[position], &[]))
    }

    pub(super) fn read(subscription: &str, stored: (u64, u64)) -> Result<u64, StoreError> {
        if stored == Self::write(subscription, stored.0) {
            Ok(stored.0)
        } else {
            Err(StoreError::Damaged(format!("the position of {subscription:?}")))
        }
    }
}

/// Stores a position.
pub(super) fn put_position(
    transaction: &WriteTransaction,
    subscription: &str,
    position: u64,
) -> Result<(), StoreError> {
    let mut positions = transaction.open_table(POSITIONS).map_err(storage)?;
    let is_new = positions.insert(subscription, Position::write(subscription, position)).map_err(storage)?.is_none();
    if is_new {
        let mut tallies = transaction.open_table(TALLIES).map_err(storage)?;
        let Tally { len, .. } = Tally::get(&tallies, ALL_POSITIONS)?;
        Tally { next: 0, len: len + 1 }.put(&mut tallies, ALL_POSITIONS)?;
    }
    Ok(())
}

/// Removes a position, and answers whether there was one.
pub(super) fn remove_position(transaction: &WriteTransaction, subscription: &str) -> Result<bool, StoreError> {
    let mut positions = transaction.open_table(POSITIONS).map_err(storage)?;
    let was_there = positions.remove(subscription).map_err(storage)?.is_some();
    if was_there {
        let mut tallies = transaction.open_table(TALLIES).map_err(storage)?;
        let Tally { len, .. } = Tally::get(&tallies, ALL_POSITIONS)?;
        Tally { next: 0, len: len.saturating_sub(1) }.put(&mut tallies, ALL_POSITIONS)?;
    }
    Ok(was_there)
}

/// Looks at every position, and whether one is missing.
pub(super) fn check_positions(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let positions = transaction.open_table(POSITIONS).map_err(storage)?;
    let mut found = 0;
    for row in positions.iter().map_err(storage)? {
        let (name, stored) = row.map_err(storage)?;
        Position::read(name.value(), stored.value())?;
        found += 1;
    }
    let tallies = transaction.open_table(TALLIES).map_err(storage)?;
    let mut expected = 0;
    for row in tallies.iter().map_err(storage)? {
        let (name, stored) = row.map_err(storage)?;
        let tally = Tally::read(name.value(), stored.value())?;
        if name.value() == ALL_POSITIONS {
            expected = tally.len;
        }
    }
    if found == expected {
        Ok(())
    } else {
        Err(StoreError::Damaged(format!("the table of positions: expected {expected}, got {found}")))
    }
}

/// How many entries a queue has, and the id of its next one, so that one that is missing is noticed and no id comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) next: u64,
    pub(super) len: u64,
}

impl Tally {
    /// That of a queue.
    pub(super) fn of(
        tallies: &impl ReadableTable<&'static str, (u64, u64, u64)>,
        queue: &str,
    ) -> Result<Self, StoreError> {
        Self::get(tallies, &key(queue))
    }

    /// Sets that of a queue.
    pub(super) fn set(self, transaction: &WriteTransaction, queue: &str) -> Result<(), StoreError> {
        self.put(&mut transaction.open_table(TALLIES).map_err(storage)?, &key(queue))
    }

    fn get(tallies: &impl ReadableTable<&'static str, (u64, u64, u64)>, key: &str) -> Result<Self, StoreError> {
        let stored = tallies.get(key).map_err(storage)?;
        stored.map_or(Ok(Self { next: 1, len: 0 }), |stored| Self::read(key, stored.value()))
    }

    fn put(self, tallies: &mut redb::Table<'_, &'static str, (u64, u64, u64)>, key: &str) -> Result<(), StoreError> {
        tallies.insert(key, self.write(key)).map_err(storage)?;
        Ok(())
    }

    fn write(self, key: &str) -> (u64, u64, u64) {
        (self.next, self.len, checksum(TALLY_SEED, key, &[self.next, self.len], &[]))
    }

    fn read(key: &str, stored: (u64, u64, u64)) -> Result<Self, StoreError> {
        let tally = Self { next: stored.0, len: stored.1 };
        if stored == tally.write(key) { Ok(tally) } else { Err(StoreError::Damaged(format!("the tally {key:?}"))) }
    }
}

fn damaged_entry(queue: &str, id: u64) -> StoreError {
    StoreError::Damaged(format!("entry {id} of queue {queue:?}"))
}

fn key(queue: &str) -> String {
    format!("queue/{queue}")
}

fn checksum(seed: u64, name: &str, numbers: &[u64], bytes: &[u8]) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(bytes);
    hasher.digest()
}

/// The format of the file; it is the same in all of them.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const POSITIONS: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("positions");
/// The payloads, by queue and id.
pub(super) const ENTRIES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("entries");
/// How often each entry was taken; apart from the payloads, which are not written again for it.
pub(super) const ATTEMPTS: TableDefinition<'_, (&str, u64), (u32, u64)> = TableDefinition::new("attempts");
pub(super) const TALLIES: TableDefinition<'_, &str, (u64, u64, u64)> = TableDefinition::new("tallies");

const ALL_POSITIONS: &str = "positions";
/// So that a row of one table does not pass for one of another.
const PAYLOAD_SEED: u64 = 1;
const ATTEMPTS_SEED: u64 = 2;
const POSITION_SEED: u64 = 3;
const TALLY_SEED: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_otherwise_or_elsewhere_is_damaged() {
        let written = Payload::write("q", 7, b"payload");
        assert_eq!(Payload::read("q", 7, &written).unwrap(), "payload");
        assert!(Payload::read("q", 8, &written).is_err() && Payload::read("r", 7, &written).is_err());
        for bit in 0..8 * written.len() {
            let mut damaged = written.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Payload::read("q", 7, &damaged).is_err(), "bit {bit}");
        }
        assert!((0..written.len()).all(|end| Payload::read("q", 7, &written[..end]).is_err()));
    }
}
