//! A look at the structure of MessagePack before serde sees it.
//!
//! Decoders trust what they are given more than bytes from another machine deserve. rmp-serde bounds the nesting of
//! arrays and maps but not of enum variants, so a few hundred kilobytes of a recursive enum overflow the stack, which
//! ends the process; and a byte can decode to a value of any size. This check is one loop without recursion or
//! allocation: it knows nothing of types, and bounds what any type can be made to do.

/// The deepest nesting that can be checked: the size of the stack in [`check`].
pub const MAX_DEPTH: usize = 64;

/// Checks that `bytes` are exactly `values` MessagePack values one after the other, with nothing behind them; that no
/// more than `max_depth` arrays and maps are open at a time, and that there are at most `max_items` values, nested ones
/// counted (a map's keys and values each).
///
/// Text is not checked to be UTF-8: serde does that.
pub fn check(bytes: &[u8], values: u64, max_items: u64, max_depth: usize) -> Result<(), StructureError> {
    let max_depth = max_depth.min(MAX_DEPTH);
    // For each open container around the innermost, how many of its values are still to come.
    let mut outer = [0_u64; MAX_DEPTH];
    let mut depth = 0;
    let mut left = values;
    let mut items = values;
    let mut rest = bytes;

    if items > max_items {
        return Err(StructureError::TooManyItems { bound: max_items });
    }
    loop {
        if left == 0 {
            if depth == 0 {
                break;
            }
            depth -= 1;
            left = outer[depth];
            continue;
        }
        left -= 1;
        let (&marker, after) = rest.split_first().ok_or(StructureError::Truncated)?;
        rest = after;
        let children = match shape(marker, &mut rest)? {
            Shape::Leaf(0) => continue,
            Shape::Leaf(bytes) => {
                rest = usize::try_from(bytes).ok().and_then(|n| rest.get(n..)).ok_or(StructureError::Truncated)?;
                continue;
            }
            Shape::Number(bytes) => {
                rest = rest.get(bytes..).ok_or(StructureError::Truncated)?;
                // Others of the same size often follow: where they begin need not be read from the one before.
                while left > 0 && rest.first() == Some(&marker) {
                    rest = rest.get(1 + bytes..).ok_or(StructureError::Truncated)?;
                    left -= 1;
                }
                continue;
            }
            Shape::Container(children) => children,
        };
        // Each child is a byte at least, so this also keeps `items` from overflowing.
        if children > rest.len() as u64 {
            return Err(StructureError::Truncated);
        }
        items += children;
        if items > max_items {
            return Err(StructureError::TooManyItems { bound: max_items });
        }
        if depth == max_depth {
            return Err(StructureError::TooDeep { bound: max_depth });
        }
        outer[depth] = left;
        depth += 1;
        left = children;
    }
    if rest.is_empty() { Ok(()) } else { Err(StructureError::Trailing { bytes: rest.len() }) }
}

/// What follows a marker.
enum Shape {
    /// So many bytes that belong to the value.
    Leaf(u64),
    /// So many bytes, whatever follows.
    Number(usize),
    /// So many values.
    Container(u64),
}

/// Reads what `marker` says, and the length behind it if it has one.
#[inline(always)]
fn shape(marker: u8, rest: &mut &[u8]) -> Result<Shape, StructureError> {
    Ok(match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Shape::Leaf(0),
        0x80..=0x8f => Shape::Container(2 * u64::from(marker & 0x0f)),
        0x90..=0x9f => Shape::Container(u64::from(marker & 0x0f)),
        0xa0..=0xbf => Shape::Leaf(u64::from(marker & 0x1f)),
        0xc1 => return Err(StructureError::Reserved),
        // bin and str
        0xc4 | 0xd9 => Shape::Leaf(length::<1>(rest)?),
        0xc5 | 0xda => Shape::Leaf(length::<2>(rest)?),
        0xc6 | 0xdb => Shape::Leaf(length::<4>(rest)?),
        // ext: a length, and a byte for the type
        0xc7 => Shape::Leaf(length::<1>(rest)? + 1),
        0xc8 => Shape::Leaf(length::<2>(rest)? + 1),
        0xc9 => Shape::Leaf(length::<4>(rest)? + 1),
        // numbers
        0xcc | 0xd0 => Shape::Number(1),
        0xcd | 0xd1 => Shape::Number(2),
        0xca | 0xce | 0xd2 => Shape::Number(4),
        0xcb | 0xcf | 0xd3 => Shape::Number(8),
        // fixext: a byte for the type, and 1, 2, 4, 8 or 16 of data
        0xd4..=0xd8 => Shape::Leaf(1 + (1 << (marker - 0xd4))),
        0xdc => Shape::Container(length::<2>(rest)?),
        0xdd => Shape::Container(length::<4>(rest)?),
        0xde => Shape::Container(2 * length::<2>(rest)?),
        0xdf => Shape::Container(2 * length::<4>(rest)?),
    })
}

#[inline(always)]
fn length<const N: usize>(rest: &mut &[u8]) -> Result<u64, StructureError> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(StructureError::Truncated)?;
    *rest = after;
    Ok(bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
}

/// Why bytes are not the MessagePack that they should be.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StructureError {
    /// A value ends, or must end, behind the last byte.
    #[error("values are longer than the bytes that hold them")]
    Truncated,
    /// There is something behind the last value.
    #[error("{bytes} bytes after the last value")]
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
    /// Arrays and maps are nested too deep.
    #[error("nested deeper than {bound} levels")]
    TooDeep {
        /// The most levels allowed.
        bound: usize,
    },
    /// There are too many values, nested ones counted.
    #[error("more than {bound} values")]
    TooManyItems {
        /// The most values allowed.
        bound: u64,
    },
    /// The one byte that MessagePack does not use, 0xc1, stands where a value should begin.
    #[error("reserved marker 0xc1")]
    Reserved,
}

aqueduct_stage::debug_as_sentence!(StructureError);

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: u64 = 1 << 20;

    fn one(bytes: &[u8]) -> Result<(), StructureError> {
        check(bytes, 1, ITEMS, MAX_DEPTH)
    }

    fn claimed(marker: u8, length: u32, then: &[u8]) -> Vec<u8> {
        [&[marker][..], &length.to_be_bytes(), then].concat()
    }

    #[test]
    fn a_run_of_numbers_is_counted_and_bounded() {
        for (marker, length) in [(0xcc, 1), (0xcd, 2), (0xca, 4), (0xcf, 8)] {
            let number = [vec![marker], vec![marker; length]].concat();
            for count in [1, 2, 100] {
                let numbers = number.repeat(count);
                let counted = |values| check(&numbers, values, ITEMS, 0);
                assert_eq!(counted(count as u64), Ok(()));
                assert_eq!(counted(count as u64 - 1), Err(StructureError::Trailing { bytes: number.len() }));
                assert_eq!(counted(count as u64 + 1), Err(StructureError::Truncated));
                let cut = &numbers[..numbers.len() - 1];
                assert_eq!(check(cut, count as u64, ITEMS, 0), Err(StructureError::Truncated));
                let mixed = [&numbers[..], &[0xc0], &numbers].concat();
                assert_eq!(check(&mixed, 2 * count as u64 + 1, ITEMS, 0), Ok(()));
            }
        }
    }

    #[test]
    fn claims_beyond_the_bytes_are_refused() {
        for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
            assert_eq!(one(&claimed(marker, u32::MAX, b"12345")), Err(StructureError::Truncated), "{marker:x}");
        }
    }

    #[test]
    fn a_million_nested_arrays_are_refused() {
        assert_eq!(one(&vec![0x91; 1_000_000]), Err(StructureError::TooDeep { bound: 64 }));
    }

    #[test]
    fn a_recursive_enum_is_refused() {
        // `enum List { End, Node(Box<List>) }`: rmp-serde recurses once for each of these and counts none of them.
        let bomb = b"\x81\xa4Node".repeat(100_000);
        assert_eq!(one(&bomb), Err(StructureError::TooDeep { bound: 64 }));
    }

    #[test]
    fn a_flood_of_small_values_is_refused() {
        for value in [0xc0, 0xa0, 0x90] {
            let bomb = claimed(0xdd, 1 << 20, &vec![value; 1 << 20]);
            assert_eq!(check(&bomb, 1, 1 << 16, MAX_DEPTH), Err(StructureError::TooManyItems { bound: 65_536 }));
        }
    }

    #[test]
    fn depth_counts_open_arrays_and_maps() {
        let nested = |levels| [vec![0x91; levels], vec![0xc0]].concat();
        assert_eq!(one(&nested(64)), Ok(()));
        assert_eq!(one(&nested(65)), Err(StructureError::TooDeep { bound: 64 }));
        assert_eq!(check(&nested(3), 1, ITEMS, 2), Err(StructureError::TooDeep { bound: 2 }));
        // Closed ones do not count.
        assert_eq!(check(&nested(2).repeat(100), 100, ITEMS, 2), Ok(()));
    }

    #[test]
    fn there_are_exactly_as_many_values_as_announced() {
        assert_eq!(check(&[1, 2, 3], 3, ITEMS, 64), Ok(()));
        assert_eq!(check(&[1, 2, 3], 4, ITEMS, 64), Err(StructureError::Truncated));
        assert_eq!(check(&[1, 2, 3], 1, ITEMS, 64), Err(StructureError::Trailing { bytes: 2 }));
        assert_eq!(check(&[], 0, ITEMS, 64), Ok(()));
        assert_eq!(check(&[1], u64::MAX, u64::MAX, 64), Err(StructureError::Truncated));
        assert_eq!(check(&[1, 2, 3], 3, 2, 64), Err(StructureError::TooManyItems { bound: 2 }));
    }

    #[test]
    fn the_reserved_marker_is_refused() {
        assert_eq!(one(&[0x92, 1, 0xc1]), Err(StructureError::Reserved));
    }

    #[test]
    fn every_kind_of_value_has_its_length() {
        // (marker and length, bytes that follow)
        let leaves: [(&[u8], usize); 25] = [
            (&[0x00], 0),
            (&[0x7f], 0),
            (&[0xe0], 0),
            (&[0xff], 0),
            (&[0xc0], 0),
            (&[0xc3], 0),
            (&[0xbf], 31),
            (&[0xc4, 3], 3),
            (&[0xc5, 1, 0], 256),
            (&[0xc6, 0, 1, 0, 0], 65_536),
            (&[0xc7, 3], 4),
            (&[0xc8, 1, 0], 257),
            (&[0xc9, 0, 1, 0, 0], 65_537),
            (&[0xca], 4),
            (&[0xcb], 8),
            (&[0xcc], 1),
            (&[0xcd], 2),
            (&[0xce], 4),
            (&[0xcf], 8),
            (&[0xd3], 8),
            (&[0xd4], 2),
            (&[0xd5], 3),
            (&[0xd6], 5),
            (&[0xd7], 9),
            (&[0xd8], 17),
        ];
        for (head, body) in leaves {
            let value = [head, &vec![0xc1; body]].concat();
            assert_eq!(one(&value), Ok(()), "{head:x?}");
            for shorter in 0..value.len().min(300) {
                assert_eq!(one(&value[..shorter]), Err(StructureError::Truncated), "{head:x?}");
            }
            let doubled = [value.clone(), value].concat();
            assert_eq!(check(&doubled, 2, ITEMS, 0), Ok(()), "{head:x?}");
        }
        let containers: [(&[u8], usize); 6] = [
            (&[0x8f], 30),
            (&[0x9f], 15),
            (&[0xdc, 1, 0], 256),
            (&[0xdd, 0, 1, 0, 0], 65_536),
            (&[0xde, 1, 0], 512),
            (&[0xdf, 0, 1, 0, 0], 131_072),
        ];
        for (head, values) in containers {
            assert_eq!(one(&[head, &vec![0xc0; values]].concat()), Ok(()), "{head:x?}");
            assert_eq!(one(&[head, &vec![0xc0; values - 1]].concat()), Err(StructureError::Truncated), "{head:x?}");
        }
    }
}
