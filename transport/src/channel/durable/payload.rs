//! What an entry of a durable channel's queue holds: a mark, the key if there is one, and the value as it crosses.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::channel::codec::{Codec, Value};

/// Says of which type a value is and through which transformers it went, so that it is not taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark([u8; 8]);

impl Mark {
    /// The application is not in it: a new version of a program reads what the one before has left.
    pub(super) fn new(job: &str, codec: &Codec) -> Self {
        let mut text = format!("channel {job}");
        for name in codec.names() {
            text.push_str(&format!(", through {name:?}"));
        }
        Self(xxh3_64(text.as_bytes()).to_le_bytes())
    }

    pub(super) fn write(self, value: &Value) -> Bytes {
        match value.key {
            None => [&self.0[..], &[0], &value.bytes[..]].concat().into(),
            Some(key) => [&self.0[..], &[1], &key.to_le_bytes(), &value.bytes[..]].concat().into(),
        }
    }

    /// `None` if it was not written like this.
    pub(super) fn read(self, mut payload: Bytes) -> Option<Value> {
        let rest = payload.strip_prefix(&self.0)?;
        let (key, header) = match rest.first()? {
            0 => (None, 9),
            1 => (Some(u64::from_le_bytes(rest.get(1..9)?.try_into().ok()?)), 17),
            _ => return None,
        };
        Some(Value::new(key, payload.split_off(header)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let codec = Codec::new(Limits::default(), Vec::new());
        let (mark, other) = (Mark::new("u64", &codec), Mark::new("string", &codec));
        for key in [None, Some(7)] {
            let written = mark.write(&Value::new(key, Bytes::from_static(b"value")));
            let read = mark.read(written.clone()).unwrap();
            assert_eq!((read.key, &read.bytes[..]), (key, &b"value"[..]));
            assert!(other.read(written.clone()).is_none());
            for len in 0..written.len() - 5 {
                assert!(mark.read(written.slice(..len)).is_none(), "{len} bytes");
            }
        }
    }
}
