//! [`Columns`]: a batch of numbers, written by the differences between them.
//!
//! ```text
//!   first: 8 bytes | block of 128 | block of 128 | .. | block of the rest
//!   a block:  least: 8 bytes | width: 1 byte | of each of its numbers, `width` bits
//! ```
//!
//! A number is the one before it, and `least`, and its bits, added modulo 2^64. All is least significant first, and the last
//! byte of a block is filled up with zeros. A number of fewer bits is extended as its type says; a `float` is its bits.

use bytes::Bytes;

use super::numbers::{Number, bits_of, read_numbers};

/// Numbers that are written when it is known which of them go out together: a payload may begin and end at any of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Columns(Vec<u64>);

/// What each number counts for where bytes are counted: what it takes where it is kept, and not what it takes on its way,
/// which is next to nothing for some.
pub const NUMBER_BYTES: usize = 8;

impl Columns {
    /// `None` if `events` are not numbers of at most 64 bits.
    pub fn of<T: 'static>(events: &[T]) -> Option<Self> {
        bits_of(events).map(Self)
    }

    /// A copy of those from `from` to before `to`, counted from 0.
    pub fn part(&self, from: usize, to: usize) -> Self {
        Self(self.0[from..to].to_vec())
    }

    /// Those from `from` to before `to`, counted from 0, as they cross.
    pub fn payload(&self, from: usize, to: usize) -> Bytes {
        let numbers = &self.0[from..to];
        let mut bytes = Vec::with_capacity(NUMBER_BYTES + numbers.len().div_ceil(BLOCK) * (HEAD_BYTES + GUESS));
        write(numbers, &mut bytes);
        bytes.into()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Columns({} numbers)", self.0.len())
    }
}

/// Reads `count` numbers behind the events that are there already, if these are numbers.
///
/// # Errors
///
/// [`ColumnsError`]; `events` is as it was then.
pub(super) fn read_behind<T: 'static>(events: &mut Vec<T>, payload: &[u8], count: u64) -> Result<(), ColumnsError> {
    // Before memory is set aside: there are a few bytes at least for so many numbers.
    let (first, blocks, count) = check(payload, count)?;
    let before = events.len();
    let read = read_numbers(events, Reading { first, blocks, count }).unwrap_or(Err(ColumnsError::NotNumbers));
    if read.is_err() {
        events.truncate(before);
    }
    read
}

/// What is to be read, and was checked.
pub(super) struct Reading<'a> {
    first: u64,
    blocks: &'a [u8],
    /// At least 1.
    count: usize,
}

impl Reading<'_> {
    /// Appends the numbers. Some may have been when it fails.
    pub(super) fn read<N: Number>(self, to: &mut Vec<N>) -> Result<(), ColumnsError> {
        let Self { first, blocks: mut rest, count } = self;
        let number = |index, bits| N::of_bits(bits).ok_or(ColumnsError::Range { index, bits });
        if to.is_empty() {
            to.reserve_exact(count);
        } else {
            to.reserve(count);
        }
        to.push(number(0, first)?);
        let (mut last, mut bits) = (first, [0; BLOCK]);
        for start in (1..count).step_by(BLOCK) {
            let numbers = &mut bits[..BLOCK.min(count - start)];
            let Some((head, behind)) = Head::take(rest) else { return Err(ColumnsError::Truncated) };
            let (packed, behind) = behind.split_at(head.packed_bytes(numbers.len()));
            rest = behind;
            unpack(packed, head.width, numbers);
            for number in &mut *numbers {
                last = last.wrapping_add(head.least).wrapping_add(*number);
                *number = last;
            }
            for (index, bits) in (start..).zip(&*numbers) {
                to.push(number(index, *bits)?);
            }
        }
        Ok(())
    }
}

/// The length of each block, and that nothing is missing or left over. Returns the first number, the blocks, and `count`.
fn check(payload: &[u8], count: u64) -> Result<(u64, &[u8], usize), ColumnsError> {
    let count = usize::try_from(count).map_err(|_| ColumnsError::Truncated)?;
    if count == 0 {
        return Err(ColumnsError::None);
    }
    let (first, blocks) = payload.split_first_chunk().ok_or(ColumnsError::Truncated)?;
    let (mut rest, mut left) = (blocks, count - 1);
    while left > 0 {
        let (head, behind) = Head::take(rest).ok_or(ColumnsError::Truncated)?;
        if head.width > u64::BITS {
            return Err(ColumnsError::Width { got: head.width });
        }
        let numbers = left.min(BLOCK);
        let (packed, behind) = behind.split_at_checked(head.packed_bytes(numbers)).ok_or(ColumnsError::Truncated)?;
        let filled = packed.len() as u32 * 8 - numbers as u32 * head.width;
        if packed.last().is_some_and(|last| last.leading_zeros() < filled) {
            return Err(ColumnsError::Filling);
        }
        (rest, left) = (behind, left - numbers);
    }
    if rest.is_empty() {
        Ok((u64::from_le_bytes(*first), blocks, count))
    } else {
        Err(ColumnsError::Trailing { bytes: rest.len() })
    }
}

/// What stands before the bits of a block.
struct Head {
    least: u64,
    /// `<= 64`, once that is checked
    width: u32,
}

impl Head {
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[least @ .., width], rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        Some((Self { least: u64::from_le_bytes(least), width: width.into() }, rest))
    }

    /// How many bytes the bits of so many numbers take.
    fn packed_bytes(&self, numbers: usize) -> usize {
        (numbers * self.width as usize).div_ceil(8)
    }
}

fn write(numbers: &[u64], to: &mut Vec<u8>) {
    let Some((first, rest)) = numbers.split_first() else { return };
    to.extend_from_slice(&first.to_le_bytes());
    let mut before = numbers;
    for block in rest.chunks(BLOCK) {
        let differences = || block.iter().zip(before).map(|(number, before)| number.wrapping_sub(*before) as i64);
        let (least, most) =
            differences().fold((i64::MAX, i64::MIN), |(least, most), one| (least.min(one), most.max(one)));
        let least = least as u64;
        let width = u64::BITS - (most as u64).wrapping_sub(least).leading_zeros();
        to.extend_from_slice(&least.to_le_bytes());
        to.push(width as u8);
        pack(differences().map(|difference| (difference as u64).wrapping_sub(least)), width, to);
        before = &before[block.len()..];
    }
}

/// Appends the `width` lowest bits of each number; the others are zeros.
fn pack(numbers: impl Iterator<Item = u64>, width: u32, to: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let (mut bits, mut filled) = (0_u128, 0);
    for number in numbers {
        bits |= u128::from(number) << filled;
        filled += width;
        if filled >= u64::BITS {
            to.extend_from_slice(&(bits as u64).to_le_bytes());
            bits >>= u64::BITS;
            filled -= u64::BITS;
        }
    }
    to.extend_from_slice(&(bits as u64).to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// Reads the numbers of a block; `packed` holds as many bits.
fn unpack(packed: &[u8], width: u32, numbers: &mut [u64]) {
    if width == 0 {
        return numbers.fill(0);
    }
    let mask = u64::MAX >> (u64::BITS - width);
    let (mut bits, mut filled, mut words) = (0_u128, 0, packed.chunks(8));
    for number in numbers {
        if filled < width {
            let word = words.next().unwrap_or_default();
            bits |= u128::from(little_endian(word)) << filled;
            filled += u64::BITS;
        }
        *number = bits as u64 & mask;
        bits >>= width;
        filled -= width;
    }
}

/// Up to eight bytes as a number.
fn little_endian(word: &[u8]) -> u64 {
    match word.try_into() {
        Ok(whole) => u64::from_le_bytes(whole),
        Err(_) => word.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

/// Why bytes are not the numbers that they should be.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// None were announced.
    #[error("expected at least one number")]
    None,
    /// The numbers end, or must end, behind the last byte.
    #[error("numbers are longer than the bytes that hold them")]
    Truncated,
    /// There is something behind the last number.
    #[error("{bytes} bytes after the last number")]
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
    /// The numbers of a block are said to have more bits than there are.
    #[error("expected numbers of at most 64 bits, got {got}")]
    Width {
        /// How many bits.
        got: u32,
    },
    /// The last byte of a block is not filled up with zeros.
    #[error("a block of numbers is not filled up with zeros")]
    Filling,
    /// A number does not fit into the type.
    #[error("number {index} is out of range: {bits:#x}")]
    Range {
        /// Which one of the batch, from 0.
        index: usize,
        /// Its 64 bits.
        bits: u64,
    },
    /// The type is none of numbers.
    #[error("the events are no numbers")]
    NotNumbers,
}

aqueduct_stage::debug_as_sentence!(ColumnsError);

/// How many numbers share a width: a large one makes only its own block wide, and what stands before the bits is little beside
/// them. It bounds how many numbers a few bytes can announce, too.
const BLOCK: usize = 128;
/// `least` and `width`.
const HEAD_BYTES: usize = 9;
/// So many bytes are set aside for the bits of a block before they are known; it grows where they are more.
const GUESS: usize = 16;

#[cfg(test)]
mod tests;
