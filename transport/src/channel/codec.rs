//! [`Codec`]: values to bytes and back, through the transformers of a channel.

use std::cell::Cell;
use std::sync::Arc;

use aqueduct_stage::{Attempt, BoxError, Sentence};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::small::Small;
use crate::codec::{decode_one, encode_one};
use crate::{EncodeErrorCause, Limits, Wire};

/// Turns the bytes of each message of a channel into others before they leave, and back where they arrive: to compress
/// or to seal them. TLS is there in any case.
///
/// Both ends must name the same chain, in the same order, or a worker is refused when it joins. What only differs in a
/// key shows later: a message that cannot be turned back is not delivered, and its task is tried again.
pub trait Transformer: Send + Sync + 'static {
    /// What it is called between nodes, with a version if that changes.
    fn name(&self) -> &str;

    /// What leaves. It is called for values at the server and for results at workers.
    ///
    /// # Errors
    ///
    /// Any; the message is not sent, and whoever sends it is told.
    fn encode(&self, bytes: Bytes) -> Result<Bytes, BoxError>;

    /// What arrives. It comes from another node: check a length that it announces against `max_bytes` before memory is set
    /// aside for it. A longer output is refused afterwards.
    ///
    /// # Errors
    ///
    /// Any; the message is not delivered.
    fn decode(&self, bytes: Bytes, max_bytes: usize) -> Result<Bytes, BoxError>;
}

/// How the messages of a channel are written and read.
#[derive(Clone)]
pub(super) struct Codec {
    limits: Limits,
    transformers: Arc<[Arc<dyn Transformer>]>,
}

impl Codec {
    pub(super) fn new(limits: Limits, transformers: Vec<Arc<dyn Transformer>>) -> Self {
        Self { limits, transformers: transformers.into() }
    }

    pub(super) fn encode<T: Wire>(&self, value: &T) -> Result<Small, CodecError> {
        // Taken, as `Serialize` may encode something, too.
        let mut written = SCRATCH.take();
        written.clear();
        encode_one(value, &mut written, &self.limits).map_err(CodecError::Encode)?;
        let mut bytes = if written.len() > SCRATCH_BYTES {
            Small::from(Bytes::from(written))
        } else {
            let bytes = Small::from(&written[..]);
            SCRATCH.set(written);
            bytes
        };
        for transformer in self.transformers.iter() {
            let turned = transformer.encode(bytes.into()).map_err(|error| transform_error(&**transformer, error))?;
            bytes = turned.into();
        }
        let (bound, got) = (self.bound(), bytes.len());
        if got > bound {
            return Err(CodecError::Encode(EncodeErrorCause::TooLarge { got, bound }));
        }
        Ok(bytes)
    }

    pub(super) fn decode<T: Wire>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        if self.transformers.is_empty() {
            return self.read(bytes);
        }
        let (mut bytes, bound) = (Bytes::copy_from_slice(bytes), self.limits.event_bytes());
        for transformer in self.transformers.iter().rev() {
            bytes = transformer.decode(bytes, bound).map_err(|error| transform_error(&**transformer, error))?;
            if bytes.len() > bound {
                return Err(CodecError::Encode(EncodeErrorCause::TooLarge { got: bytes.len(), bound }));
            }
        }
        self.read(&bytes)
    }

    fn read<T: Wire>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        decode_one(bytes, &self.limits).map_err(|error| CodecError::Decode(Sentence(&error).to_string()))
    }

    /// What its transformers are called.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.transformers.iter().map(|transformer| transformer.name())
    }

    /// The longest message, which is one event with a header of its own.
    fn bound(&self) -> usize {
        self.limits.event_bytes().saturating_sub(HEADER_BYTES)
    }
}

/// A message cannot be written or read.
#[derive(thiserror::Error)]
pub(super) enum CodecError {
    #[error(transparent)]
    Encode(EncodeErrorCause),
    #[error("{0}")]
    Decode(String),
    #[error("transformer {name:?} failed: {}", Sentence(&**error))]
    Transform { name: String, error: BoxError },
}

aqueduct_stage::debug_as_sentence!(CodecError);

fn transform_error(transformer: &dyn Transformer, error: BoxError) -> CodecError {
    CodecError::Transform { name: transformer.name().to_owned(), error }
}

/// What both ends of a channel must agree on, in words.
pub(super) fn signature<Job: Wire, Answer: Wire>(application: &str, codec: &Codec) -> String {
    signature_of(&format!("channel {} -> {}", Job::signature(), Answer::signature()), application, codec)
}

/// The same for any form of channel.
pub(super) fn signature_of(form: &str, application: &str, codec: &Codec) -> String {
    let mut signature = form.to_owned();
    if !application.is_empty() {
        signature.push_str(&format!(", application {application:?}"));
    }
    for name in codec.names() {
        signature.push_str(&format!(", through {name:?}"));
    }
    signature
}

/// A value on its way: an event of the channel's link.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// For whom it is, where that is decided by key. It does not cross.
    pub(super) key: Option<u64>,
    /// As which attempt it comes to the pool. It does not cross.
    pub(super) attempt: Attempt,
    pub(super) bytes: Small,
}

impl Value {
    /// One that nobody has tried.
    pub(super) fn new(key: Option<u64>, bytes: impl Into<Small>) -> Self {
        Self { key, attempt: Attempt::FIRST, bytes: bytes.into() }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(None, Small::deserialize(deserializer)?))
    }
}

/// Of what it holds, the ends of a channel tell each other themselves.
impl Wire for Value {
    fn signature() -> String {
        "channel".to_owned()
    }
}

thread_local! {
    /// Where values are written before it is known how long they are.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is longer is not copied out of the scratch, but keeps it.
const SCRATCH_BYTES: usize = 4096;
/// Of a MessagePack value of bytes.
const HEADER_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    struct Xor(u8);

    impl Transformer for Xor {
        fn name(&self) -> &str {
            "xor"
        }

        fn encode(&self, bytes: Bytes) -> Result<Bytes, BoxError> {
            Ok(bytes.iter().map(|byte| byte ^ self.0).collect())
        }

        fn decode(&self, bytes: Bytes, _: usize) -> Result<Bytes, BoxError> {
            self.encode(bytes)
        }
    }

    fn xor(keys: &[u8]) -> Codec {
        let transformers = keys.iter().map(|key| Arc::new(Xor(*key)) as Arc<dyn Transformer>).collect();
        Codec::new(Limits::default().max_event_bytes(100), transformers)
    }

    #[test]
    fn what_goes_through_a_chain_comes_back() {
        let codec = xor(&[1, 7]);
        let bytes = codec.encode(&"text".to_owned()).unwrap();
        assert_eq!(codec.decode::<String>(&bytes).unwrap(), "text");
        assert!(xor(&[1, 8]).decode::<String>(&bytes).is_err());
    }

    #[test]
    fn the_length_is_bounded_in_both_directions() {
        let codec = xor(&[]);
        let error = codec.encode(&"x".repeat(200)).unwrap_err();
        assert_eq!(error.to_string(), "expected at most 100 bytes, got 202");
        let text = signature::<String, u64>("7", &xor(&[1]));
        assert_eq!(text, "channel string -> u64, application \"7\", through \"xor\"");
    }
}
