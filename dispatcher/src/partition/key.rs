//! [`StableKey`]: keys whose partition is the same in every run, version and process.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::bugs::bug;

/// A key that always hashes to the same number: in every run, on every machine, in every version of this crate.
///
/// The hash is XXH3 (64 bits, seed 0) over the bytes of the key. Integers count as their value in little-endian order,
/// widened to 64 bits (or 128), so that a key keeps its partition when its type grows. `std::hash::Hash` promises none
/// of this, which is why it does not suffice.
///
/// Spreading is as good as the keys: if half of all events have one key, one partition gets them all.
pub trait StableKey {
    /// The hash.
    fn stable_hash(&self) -> u64;
}

/// The one of `0..partitions` that a hash belongs to.
///
/// It is the hash as a fraction of 2⁶⁴, times `partitions`: a multiplication, where the usual remainder would be a
/// division for every event.
pub(crate) fn place(hash: u64, partitions: usize) -> usize {
    let place = (u128::from(hash) * partitions as u128 + (u128::from(bug!(HashRoundedUp)) << 63)) >> 64;
    usize::try_from(place).expect("it is less than `partitions`")
}

macro_rules! integers {
    ($($key:ty as $wide:ty),*) => {$(
        impl StableKey for $key {
            fn stable_hash(&self) -> u64 {
                xxh3_64(&(*self as $wide).to_le_bytes())
            }
        }
    )*};
}

integers!(u8 as u64, u16 as u64, u32 as u64, u64 as u64, usize as u64, u128 as u128);
integers!(i8 as i64, i16 as i64, i32 as i64, i64 as i64, isize as i64, i128 as i128);

macro_rules! bytes {
    ($($key:ty),*) => {$(
        impl StableKey for $key {
            fn stable_hash(&self) -> u64 {
                xxh3_64(self.as_ref())
            }
        }
    )*};
}

bytes!([u8], Vec<u8>, Arc<[u8]>);

impl<const N: usize> StableKey for [u8; N] {
    fn stable_hash(&self) -> u64 {
        self[..].stable_hash()
    }
}

macro_rules! text {
    ($($key:ty),*) => {$(
        impl StableKey for $key {
            fn stable_hash(&self) -> u64 {
                xxh3_64(self.as_bytes())
            }
        }
    )*};
}

text!(str, String, Arc<str>);

impl<K: StableKey + ?Sized> StableKey for &K {
    fn stable_hash(&self) -> u64 {
        (**self).stable_hash()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_never_change() {
        assert_eq!(b"N14228".stable_hash(), 0x045b_f808_ce81_96a6);
        assert_eq!("N14228".stable_hash(), 0x045b_f808_ce81_96a6);
        assert_eq!(String::from("N14228").stable_hash(), 0x045b_f808_ce81_96a6);
        assert_eq!("".stable_hash(), 0x2d06_8005_38d3_94c2);
        assert_eq!(1_u8.stable_hash(), 1_i64.stable_hash());
    }

    #[test]
    fn places_never_change_and_are_spread() {
        let mut counts = [0; 4];
        (0..4_000_u64).for_each(|key| counts[place(key.stable_hash(), 4)] += 1);
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
        assert_eq!((place(0, 3), place(u64::MAX, 3), place(u64::MAX / 2 + 1, 2), place(u64::MAX, 1)), (0, 2, 1, 0));
        assert_eq!([0_u64, 1, 2, 3, 4, 5, 6, 7].map(|key| place(key.stable_hash(), 8)), [6, 1, 1, 2, 6, 4, 3, 4]);
    }
}
