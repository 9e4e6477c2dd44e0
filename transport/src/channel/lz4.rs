//! [`Lz4`]: messages of a channel, compressed.

use aqueduct_stage::BoxError;
use bytes::Bytes;
use lz4_flex::block::{compress_prepend_size, decompress_into, uncompressed_size};

use super::Transformer;

/// Compresses each message of a channel with LZ4 (the block format, behind the length of what it becomes): cheap, and
/// worth it for text and the like from some hundred bytes on. What cannot be compressed gets a little longer.
///
/// The length that a message announces is checked before memory is set aside: against the longest event, and against what
/// LZ4 can make of so many bytes at most.
///
/// ```
/// use aqueduct_transport::{ChannelOptions, JoinOptions, Lz4};
///
/// let (server, worker) = (ChannelOptions::default().transformer(Lz4), JoinOptions::default().transformer(Lz4));
/// # let _ = (server, worker);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lz4;

impl Transformer for Lz4 {
    fn name(&self) -> &'static str {
        "lz4"
    }

    fn encode(&self, bytes: Bytes) -> Result<Bytes, BoxError> {
        Ok(compress_prepend_size(&bytes).into())
    }

    fn decode(&self, bytes: Bytes, max_bytes: usize) -> Result<Bytes, BoxError> {
        let (announced, block) = uncompressed_size(&bytes)?;
        let bound = max_bytes.min(block.len().saturating_mul(MAX_RATIO));
        if announced > bound {
            return Err(format!("expected at most {bound} bytes, got a length of {announced}").into());
        }
        let mut output = vec![0; announced];
        let got = decompress_into(block, &mut output)?;
        if got != announced {
            return Err(format!("expected {announced} bytes, got {got}").into());
        }
        Ok(output.into())
    }
}

/// A byte of a block stands for 255 bytes at most: each byte of a long match adds so many.
const MAX_RATIO: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn says(bytes: &[u8], max_bytes: usize) -> String {
        Lz4.decode(Bytes::copy_from_slice(bytes), max_bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for bytes in [Bytes::new(), Bytes::from_static(b"x"), vec![7; 100_000].into(), (0..=255).collect()] {
            let encoded = Lz4.encode(bytes.clone()).unwrap();
            assert_eq!(Lz4.decode(encoded, 100_000).unwrap(), bytes);
        }
        assert!(Lz4.encode(vec![7; 100_000].into()).unwrap().len() < 1000);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_set_aside() {
        let encoded = Lz4.encode(vec![7; 100_000].into()).unwrap();
        assert_eq!(says(&encoded, 99_999), "expected at most 99999 bytes, got a length of 100000");
        assert_eq!(
            says(&[0xff, 0xff, 0xff, 0x7f, 0], 1 << 40),
            "expected at most 255 bytes, got a length of 2147483647"
        );
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [&[][..], &[1, 0], &[9, 0, 0, 0, 0xf0], &[2, 0, 0, 0, 0x10, 7], &[4, 0, 0, 0, 0x0f, 9, 9, 9]] {
            assert!(Lz4.decode(Bytes::copy_from_slice(garbage), 1000).is_err(), "{garbage:?}");
        }
    }
}
