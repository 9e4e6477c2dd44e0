//! [`Small`]: bytes that are mostly few.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, of which few take no memory of their own, and many are shared by all clones.
#[derive(Clone)]
pub(crate) enum Small {
    Inline(u8, [u8; INLINE_BYTES]),
    Shared(Bytes),
}

/// So that it is 40 bytes long, as `Bytes` with its tag is.
const INLINE_BYTES: usize = 38;

impl From<&[u8]> for Small {
    fn from(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE_BYTES];
        match inline.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::Inline(bytes.len() as u8, inline)
            }
            None => Self::Shared(Bytes::copy_from_slice(bytes)),
        }
    }
}

impl From<Bytes> for Small {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() > INLINE_BYTES { Self::Shared(bytes) } else { Self::from(&bytes[..]) }
    }
}

impl From<Small> for Bytes {
    fn from(small: Small) -> Self {
        match small {
            Small::Inline(..) => Self::copy_from_slice(&small),
            Small::Shared(bytes) => bytes,
        }
    }
}

impl Deref for Small {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Serialize for Small {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for Small {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Small;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Small, E> {
                Ok(bytes.into())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Small, E> {
                Ok(Bytes::from(bytes).into())
            }
        }

        deserializer.deserialize_bytes(Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_and_many_come_back_and_are_written_alike() {
        for length in [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 1000] {
            let bytes = vec![7; length];
            let small = Small::from(&bytes[..]);
            assert_eq!(matches!(small, Small::Inline(..)), length <= INLINE_BYTES);
            let written = rmp_serde::to_vec(&small).unwrap();
            assert_eq!(written, rmp_serde::to_vec(&Bytes::from(bytes.clone())).unwrap());
            let read: Small = rmp_serde::from_slice(&written).unwrap();
            assert_eq!((&read[..], &small.clone()[..]), (&bytes[..], &bytes[..]));
        }
        assert_eq!(size_of::<Small>(), 40);
    }
}
