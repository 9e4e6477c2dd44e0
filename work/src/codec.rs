//! Events to bytes and back: MessagePack values one after the other, checked before they are decoded; or, of numbers, their
//! [differences](Columns).
//!
//! Structures are written without the names of their fields. An event that is not read so as it was written, for instance
//! because serde has skipped a field, is written with names, and refused if that does not do either.

mod blobs;
mod columns;
mod numbers;
mod shapes;
#[cfg(test)]
mod table;
mod watched;
mod writing;
mod written;

use std::any::Any;
use std::fmt;

use bytes::Bytes;
pub use columns::{Columns, ColumnsError, NUMBER_BYTES};
pub use numbers::is_number;
use rmp_serde::decode::{Deserializer, Error as ValueError};
use serde::Deserialize;

use crate::prescan::{self, StructureError};
use crate::{Limits, Wire};
use shapes::Shapes;
use writing::write;
pub use written::{Form, Written};

/// A batch of events, encoded once; cloning and slicing it copies nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    bytes: Bytes,
    /// Where each event ends in `bytes`: rising, and the last is `bytes.len()`. No batch is as long as 4 GiB.
    ends: Vec<u32>,
}

/// Encodes `events`, in their order.
///
/// # Errors
///
/// [`EncodeError`] tells which event cannot be encoded. Those before it can: `encode(&events[..error.index], ..)`.
pub fn encode<T: Wire>(events: &[T], limits: &Limits) -> Result<Encoded, EncodeError> {
    let mut bytes = Vec::with_capacity(events.len().saturating_mul(size_of::<T>().min(MAX_GUESS) + 1));
    let mut ends = Vec::with_capacity(events.len());
    Shapes::with::<T, _>(|shapes| {
        events.iter().enumerate().try_for_each(|(index, event)| {
            let written = write(event, &mut bytes, shapes, limits).and_then(|()| end_at(bytes.len()));
            ends.push(written.map_err(|cause| EncodeError { index, cause })?);
            Ok(())
        })
    })?;
    Ok(Encoded { bytes: bytes.into(), ends })
}

/// The end of an event in its batch.
fn end_at(got: usize) -> Result<u32, EncodeErrorCause> {
    u32::try_from(got).map_err(|_| EncodeErrorCause::TooLarge { got, bound: u32::MAX as usize })
}

/// Appends one event to `bytes`.
///
/// # Errors
///
/// Why it cannot be encoded; nothing is appended then.
pub fn encode_one<T: Wire>(event: &T, bytes: &mut Vec<u8>, limits: &Limits) -> Result<(), EncodeErrorCause> {
    Shapes::with::<T, _>(|shapes| write(event, bytes, shapes, limits))
}

/// Decodes a payload of exactly one event.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_one<T: Wire>(payload: &[u8], limits: &Limits) -> Result<T, DecodeError> {
    prescan::check(payload, 1, limits.items(), limits.depth())?;
    let mut deserializer = Deserializer::from_read_ref(payload);
    let value = T::deserialize(&mut deserializer);
    let event = value.map_err(|cause| DecodeError::Value { index: 0, signature: T::signature(), cause })?;
    match bool::deserialize(&mut deserializer) {
        Err(ValueError::InvalidMarkerRead(_)) => Ok(event),
        _ => Err(DecodeError::Unused { signature: T::signature() }),
    }
}

/// Decodes a payload of exactly `count` events.
///
/// # Errors
///
/// [`DecodeError`]: the payload's structure, or a value, is not what it should be. Nothing of it is delivered then.
pub fn decode<T: Wire>(payload: &[u8], count: u64, limits: &Limits) -> Result<Vec<T>, DecodeError> {
    let mut events = Vec::new();
    decode_values(&mut events, payload, count, limits)?;
    Ok(events)
}

/// As [`decode`], of either form, behind the events that are there already.
///
/// # Errors
///
/// As [`decode`]; `events` is as it was then.
pub fn decode_behind<T: Wire>(
    events: &mut Vec<T>,
    (form, payload, count): (Form, &[u8], u64),
    limits: &Limits,
) -> Result<(), DecodeError> {
    match form {
        Form::Values => decode_values(events, payload, count, limits),
        Form::Columns => columns::read_behind(events, payload, count).map_err(DecodeError::Columns),
    }
}

fn decode_values<T: Wire>(events: &mut Vec<T>, payload: &[u8], count: u64, limits: &Limits) -> Result<(), DecodeError> {
    prescan::check(payload, count, limits.items(), limits.depth())?;
    if let Some(events) = (events as &mut dyn Any).downcast_mut()
        && blobs::read_behind(events, payload).is_some()
    {
        return Ok(());
    }
    // There really are so many values, of a byte each at least.
    let count = usize::try_from(count).map_err(|_| StructureError::Truncated)?;
    let before = events.len();
    // The first ones are often the only ones.
    if before == 0 {
        events.reserve_exact(count);
    } else {
        events.reserve(count);
    }
    let mut deserializer = Deserializer::from_read_ref(payload);
    for index in 0..count {
        match T::deserialize(&mut deserializer) {
            Ok(event) => events.push(event),
            Err(cause) => {
                events.truncate(before);
                return Err(DecodeError::Value { index, signature: T::signature(), cause });
            }
        }
    }
    // rmp-serde does not tell where it stands in a slice, but a further value must find nothing to read.
    match bool::deserialize(&mut deserializer) {
        Err(ValueError::InvalidMarkerRead(_)) => Ok(()),
        _ => {
            events.truncate(before);
            Err(DecodeError::Unused { signature: T::signature() })
        }
    }
}

impl Encoded {
    /// All events, one after the other.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where each event ends in [`bytes`](Self::bytes).
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The length of the first `count` events, in bytes.
    pub fn end(&self, count: usize) -> usize {
        if count == 0 { 0 } else { self.ends[count - 1] as usize }
    }

    /// A copy of the events `from..to`, counted from 0, that holds no more memory than they need.
    pub fn part(&self, from: usize, to: usize) -> Self {
        let (start, end) = (self.end(from), self.end(to));
        let ends = self.ends[from..to].iter().map(|end| end - start as u32).collect();
        Self { bytes: Bytes::copy_from_slice(&self.bytes[start..end]), ends }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} events, {} bytes)", self.ends.len(), self.bytes.len())
    }
}

/// An event of a batch cannot be sent to another node.
#[derive(thiserror::Error)]
#[error("event {index} of the batch cannot be encoded: {cause}")]
pub struct EncodeError {
    /// Which one of the batch, from 0.
    pub index: usize,
    /// Why.
    pub cause: EncodeErrorCause,
}

aqueduct_stage::debug_as_sentence!(EncodeError);

/// Why an event cannot be sent to another node.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EncodeErrorCause {
    /// It is longer than [`Limits::max_event_bytes`].
    #[error("expected at most {bound} bytes, got {got}")]
    TooLarge {
        /// The length of its encoding, in bytes.
        got: usize,
        /// The most bytes allowed.
        bound: usize,
    },
    /// Its `Serialize` failed.
    #[error("its value cannot be written: {0}")]
    Value(rmp_serde::encode::Error),
    /// It goes beyond the [`Limits`], and would be refused where it arrives.
    #[error("it would be refused where it arrives: {0}")]
    Structure(StructureError),
    /// Its `Deserialize` does not read what its `Serialize` writes: see the table at [`Wire`].
    #[error("a value of {signature:?} would not be read as it is written, {place}: {reason}")]
    Unreadable {
        /// What its type is called: [`Wire::signature`].
        signature: String,
        /// Where in the type, by the names of the field and of the structure or variant.
        place: String,
        /// How what is read differs.
        reason: String,
    },
}

impl From<StructureError> for EncodeErrorCause {
    fn from(error: StructureError) -> Self {
        Self::Structure(error)
    }
}

aqueduct_stage::debug_as_sentence!(EncodeErrorCause);

/// What came from another node is not a list of events of the type that was agreed upon.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not the announced number of values, or go beyond the [`Limits`].
    #[error("malformed events: {0}")]
    Structure(StructureError),
    /// An event is not a value of its type. Both ends call the type the same, so one of them has changed it and not its
    /// version.
    #[error(
        "event {index} of the batch cannot be decoded as {signature:?}: {cause}; \
         if the type was changed, its version must be, too, and where it is written as well as where it is read"
    )]
    Value {
        /// Which one of the batch, from 0.
        index: usize,
        /// What the type is called: [`Wire::signature`].
        signature: String,
        /// What serde says of it.
        cause: ValueError,
    },
    /// Every event was decoded, and something is left: a type reads less than it writes, or than another program does under
    /// the same version.
    #[error(
        "bytes are left that no event has used, read as {signature:?}; if the type was changed, its version must be, too"
    )]
    Unused {
        /// What the type is called: [`Wire::signature`].
        signature: String,
    },
    /// The bytes are not the announced numbers.
    #[error("malformed numbers: {0}")]
    Columns(ColumnsError),
}

impl DecodeError {
    /// What it says of a single event that was not written by another program.
    fn of_one(&self) -> String {
        match self {
            Self::Structure(error) => error.to_string(),
            Self::Value { cause, .. } => cause.to_string(),
            Self::Unused { .. } => "not everything is read".to_owned(),
            Self::Columns(error) => error.to_string(),
        }
    }
}

impl From<StructureError> for DecodeError {
    fn from(error: StructureError) -> Self {
        Self::Structure(error)
    }
}

aqueduct_stage::debug_as_sentence!(DecodeError);

/// The most bytes that an event is guessed to need before it is encoded: what it points to is not known.
const MAX_GUESS: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::fmt::Debug;
    use std::sync::Arc;

    use serde::Serialize;

    use super::*;

    fn round_trip<T: Wire + PartialEq + Debug>(events: &[T]) {
        let encoded = encode(events, &Limits::default()).unwrap();
        assert_eq!(encoded.len(), events.len());
        assert_eq!(encoded.end(encoded.len()), encoded.bytes().len());
        let decoded: Vec<T> = decode(encoded.bytes(), events.len() as u64, &Limits::default()).unwrap();
        assert_eq!(decoded, events);
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        note: Option<String>,
        kind: Kind,
    }
    crate::wire!(Order, "order", 1);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Plain,
        Nested(Box<Self>),
        Named { x: i8 },
    }
    crate::wire!(Kind, "kind", 1);

    #[test]
    fn every_built_in_type_comes_back() {
        round_trip(&[(), ()]);
        round_trip(&[true, false]);
        round_trip(&[0, 127, 128, 65_536, u64::MAX]);
        round_trip(&[i64::MIN, -33, -1, 0, i64::MAX]);
        round_trip(&[(u128::MAX, i128::MIN, usize::MAX, isize::MIN)]);
        round_trip(&[(u8::MAX, i8::MIN, u16::MAX, i16::MIN, u32::MAX, i32::MIN)]);
        round_trip(&[(1.5_f32, f64::MAX)]);
        round_trip(&['a', '€', '🦀']);
        round_trip(&[String::new(), "x".repeat(70_000)]);
        round_trip(&[Arc::<str>::from("shared")]);
        round_trip(&[Bytes::new(), Bytes::from(vec![7; 65_536])]);
        round_trip(&[Some(1), None]);
        round_trip(&[vec![1, 2], vec![]]);
        round_trip(&[Box::new((1,))]);
        round_trip(&[BTreeMap::from([("a".to_owned(), 1)])]);
        round_trip(&[HashMap::from([("a".to_owned(), 1)])]);
    }

    #[test]
    fn users_types_come_back() {
        let order = |kind| Order { id: 7, note: Some("fragile".into()), kind };
        round_trip(&[order(Kind::Plain), order(Kind::Nested(Box::new(Kind::Named { x: -1 })))]);
        round_trip::<Order>(&[]);
    }

    #[test]
    fn an_event_ends_where_the_next_begins() {
        let encoded = encode(&[1_u64, 1000, 100_000], &Limits::default()).unwrap();
        assert_eq!(encoded.ends(), [1, 4, 9]);
        assert_eq!(decode::<u64>(&encoded.bytes()[1..4], 1, &Limits::default()).unwrap(), [1000]);
    }

    #[test]
    fn bytes_are_one_value_and_not_a_list() {
        let encoded = encode(&[Bytes::from(vec![0xff; 65_536])], &Limits::default()).unwrap();
        assert_eq!(encoded.bytes().len(), 65_536 + 5);
    }

    #[test]
    fn an_event_that_is_too_large_is_named() {
        let limits = Limits::default().max_event_bytes(10);
        let error = encode(&["short".to_owned(), "much longer".to_owned()], &limits).unwrap_err();
        assert_eq!(error.index, 1);
        assert_eq!(error.cause.to_string(), "expected at most 10 bytes, got 12");
    }

    #[test]
    fn an_event_that_cannot_be_written_is_named() {
        #[derive(Deserialize)]
        struct Odd(bool);
        impl Serialize for Odd {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if self.0 { Err(serde::ser::Error::custom("odd")) } else { serializer.serialize_bool(false) }
            }
        }
        crate::wire!(Odd, "odd", 1);
        let events = [Odd(false), Odd(true)];
        let error = encode(&events, &Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "event 1 of the batch cannot be encoded: its value cannot be written: odd");
        assert_eq!(encode(&events[..error.index], &Limits::default()).unwrap().len(), 1);
    }

    #[test]
    fn a_wrong_count_is_refused() {
        let three = encode(&[1_u64, 2, 3], &Limits::default()).unwrap();
        let with = |count| decode::<u64>(three.bytes(), count, &Limits::default()).map_err(|error| error.to_string());
        assert_eq!(with(3), Ok(vec![1, 2, 3]));
        assert_eq!(with(2), Err("malformed events: 1 bytes after the last value".to_owned()));
        assert_eq!(
            with(u64::MAX),
            Err("malformed events: more than 1048576 values".to_owned()),
            "refused before any memory is set aside"
        );
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        let encoded = encode(&[(1_u64, true), (2, false)], &Limits::default()).unwrap();
        let error = decode::<(u64, u64)>(encoded.bytes(), 2, &Limits::default()).unwrap_err();
        assert!(matches!(error, DecodeError::Value { index: 0, .. }), "{error}");
    }

    #[test]
    fn a_recursive_enum_cannot_exhaust_the_stack() {
        let bomb = [b"\x81\xa6Nested".repeat(100_000), b"\xa5Plain".to_vec()].concat();
        let error = decode::<Kind>(&bomb, 1, &Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "malformed events: nested deeper than 64 levels");
    }

    #[test]
    fn a_type_that_reads_less_than_it_writes_is_found_out() {
        #[derive(Debug, Serialize)]
        struct Lazy;
        impl<'de> Deserialize<'de> for Lazy {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                Ok(Self)
            }
        }
        crate::wire!(Lazy, "lazy", 1);
        let error = decode::<Lazy>(&[1, 2], 2, &Limits::default()).unwrap_err();
        assert!(error.to_string().starts_with("bytes are left that no event has used"), "{error}");
    }
}
