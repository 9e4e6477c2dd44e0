//! The wire protocol: [`Frame`], its bytes, and its [errors](FrameError). [`FrameDecoder`] reads them.

mod body;
mod decoder;
pub(crate) mod gather;
mod reason;
mod varint;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use body::{
    Accepted, Ack, Answer, Answered, AskFunctions, Cancel, Chunk, Columns, Credit, Done, Events, Failed, FarConsumer,
    FunctionRow, FunctionsPart, Hello, HelloAck, MAX_ROW, OfferedLimits, Refuse, Refused, Results, Resume, Resumed,
    Revoke, Session, Subscribe, Verdict,
};
pub(crate) use decoder::FrameDecoder;
pub(crate) use reason::Reason;

use crate::Limits;
use crate::prescan::{self, StructureError};

/// Everything that nodes say to each other.
///
/// A connection has one *control stream*, opened by the dialer, and one stream per subscription, opened by the
/// subscriber. On each of them, frames follow each other:
///
/// ```text
///   ┌──────────────────┬──────┬────────────────────┐
///   │ length: u32, BE  │ type │ body               │      length = 1 + bytes of the body
///   └──────────────────┴──────┴────────────────────┘
/// ```
///
/// | type | frame | body | stream | sent by |
/// |---|---|---|---|---|
/// | 1 | [`Hello`] | map | control, first | dialer |
/// | 2 | [`HelloAck`] | map | control, first | listener |
/// | 3 | [`Refuse`] | map | control, then the connection closes | listener |
/// | 4 | [`AskFunctions`] | map | control | both |
/// | 5 | [`FunctionsPart`] | map | control | both |
/// | 16 | [`Subscribe`] | map | subscription, first | subscriber |
/// | 17 | [`Accepted`] | map | subscription, first | publisher |
/// | 18 | [`Refused`] | map | subscription, first and last | publisher |
/// | 19 | [`Credit`] | map | subscription | subscriber |
/// | 20 | [`Cancel`] | map | subscription, last | subscriber |
/// | 21 | [`Ack`] | map | subscription | subscriber |
/// | 22 | [`Resume`] | map | subscription, first | subscriber |
/// | 23 | [`Resumed`] | map | subscription, first | publisher |
/// | 24 | [`Answer`] | map | subscription | subscriber |
/// | 25 | [`Answered`] | map | subscription | publisher |
/// | 26 | [`Revoke`] | map | subscription | publisher |
/// | 32 | [`Events`] | `first_seq`, `count`, `attempt`, payload | subscription | publisher |
/// | 33 | [`Chunk`] | `seq`, `attempt`, `index`, `flags`, `total_len`, payload | subscription | publisher |
/// | 34 | [`Done`] | map | subscription, last | publisher |
/// | 35 | [`Failed`] | map | subscription, last | publisher |
/// | 36 | [`Results`] | `number`, `count`, of each result its event and length, payload | subscription | subscriber |
/// | 37 | [`Columns`] | `first_seq`, `count`, `attempt`, payload | subscription | publisher |
///
/// A *map* is a MessagePack map from the names of the fields; unknown ones are ignored, and a field that is added needs
/// a default. Events, chunks, results and columns have no names: numbers are [LEB128](varint), `flags` is a byte (1: the last
/// chunk), and the payload is the rest: MessagePack without field names, but for that of [columns](crate::codec::Columns).
///
/// A frame of an unknown type is skipped if its type is 128 or more (up to 1,000 in a row), and otherwise breaks the stream:
/// what must be understood gets a number below. No frame is longer than the [`Limits`] allow for its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Hello),
    HelloAck(HelloAck),
    Refuse(Refuse),
    AskFunctions(AskFunctions),
    FunctionsPart(FunctionsPart),
    Subscribe(Subscribe),
    Accepted(Accepted),
    Refused(Refused),
    Credit(Credit),
    Cancel(Cancel),
    Ack(Ack),
    Resume(Resume),
    Resumed(Resumed),
    Answer(Answer),
    Answered(Answered),
    Revoke(Revoke),
    Events(Events),
    Chunk(Chunk),
    Done(Done),
    Failed(Failed),
    Results(Results),
    Columns(Columns),
}

/// A frame's bytes. A long payload is not copied behind its header, but stands beside it.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What comes first; never empty.
    pub(crate) head: Bytes,
    /// What follows at once; often empty.
    pub(crate) payload: Bytes,
}

impl Frame {
    /// The frame's bytes, in one or two parts.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`], which happens only with names that are too long: whatever else is variable is cut to
    /// fit before it gets here.
    pub(crate) fn encode(&self, limits: &Limits) -> Result<Parts, FrameError> {
        let kind = self.kind();
        let mut head = vec![0, 0, 0, 0, kind as u8];
        let payload = match self {
            Self::Hello(body) => map(body, &mut head),
            Self::HelloAck(body) => map(body, &mut head),
            Self::Refuse(body) => map(body, &mut head),
            Self::AskFunctions(body) => map(body, &mut head),
            Self::FunctionsPart(body) => map(body, &mut head),
            Self::Subscribe(body) => map(body, &mut head),
            Self::Accepted(body) => map(body, &mut head),
            Self::Refused(body) => map(body, &mut head),
            Self::Credit(body) => map(body, &mut head),
            Self::Cancel(body) => map(body, &mut head),
            Self::Ack(body) => map(body, &mut head),
            Self::Resume(body) => map(body, &mut head),
            Self::Resumed(body) => map(body, &mut head),
            Self::Answer(body) => map(body, &mut head),
            Self::Answered(body) => map(body, &mut head),
            Self::Revoke(body) => map(body, &mut head),
            Self::Events(events) => events.write(&mut head),
            Self::Chunk(chunk) => chunk.write(&mut head),
            Self::Done(body) => map(body, &mut head),
            Self::Failed(body) => map(body, &mut head),
            Self::Results(results) => results.write(&mut head),
            Self::Columns(columns) => columns.write(&mut head),
        };
        let got = head.len() - LENGTH_BYTES + payload.len();
        let bound = kind.bound(limits);
        let length = u32::try_from(got).ok().filter(|_| got <= bound);
        let length = length.ok_or(FrameError::TooLong { frame: kind.name(), got, bound })?;
        head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        if payload.len() >= APART_BYTES {
            return Ok(Parts { head: head.into(), payload });
        }
        head.extend_from_slice(&payload);
        Ok(Parts { head: head.into(), payload: Bytes::new() })
    }

    /// What the frame is called.
    pub(crate) fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Reads the body of a frame.
    fn decode(kind: Kind, body: &Bytes, limits: &Limits) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::Hello => Self::Hello(read_map(kind, body, limits)?),
            Kind::HelloAck => Self::HelloAck(read_map(kind, body, limits)?),
            Kind::Refuse => Self::Refuse(read_map(kind, body, limits)?),
            Kind::AskFunctions => Self::AskFunctions(read_map(kind, body, limits)?),
            Kind::FunctionsPart => Self::FunctionsPart(read_map(kind, body, limits)?),
            Kind::Subscribe => Self::Subscribe(read_map(kind, body, limits)?),
            Kind::Accepted => Self::Accepted(read_map(kind, body, limits)?),
            Kind::Refused => Self::Refused(read_map(kind, body, limits)?),
            Kind::Credit => Self::Credit(read_map(kind, body, limits)?),
            Kind::Cancel => Self::Cancel(read_map(kind, body, limits)?),
            Kind::Ack => Self::Ack(read_map(kind, body, limits)?),
            Kind::Resume => Self::Resume(read_map(kind, body, limits)?),
            Kind::Resumed => Self::Resumed(read_map(kind, body, limits)?),
            Kind::Answer => Self::Answer(read_map(kind, body, limits)?),
            Kind::Answered => Self::Answered(read_map(kind, body, limits)?),
            Kind::Revoke => Self::Revoke(read_map(kind, body, limits)?),
            Kind::Events => Self::Events(Events::read(body).ok_or(FrameError::Header { frame: kind.name() })?),
            Kind::Chunk => Self::Chunk(Chunk::read(body).ok_or(FrameError::Header { frame: kind.name() })?),
            Kind::Done => Self::Done(read_map(kind, body, limits)?),
            Kind::Failed => Self::Failed(read_map(kind, body, limits)?),
            Kind::Results => Self::Results(Results::read(body).ok_or(FrameError::Header { frame: kind.name() })?),
            Kind::Columns => Self::Columns(Columns::read(body).ok_or(FrameError::Header { frame: kind.name() })?),
        })
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::HelloAck(_) => Kind::HelloAck,
            Self::Refuse(_) => Kind::Refuse,
            Self::AskFunctions(_) => Kind::AskFunctions,
            Self::FunctionsPart(_) => Kind::FunctionsPart,
            Self::Subscribe(_) => Kind::Subscribe,
            Self::Accepted(_) => Kind::Accepted,
            Self::Refused(_) => Kind::Refused,
            Self::Credit(_) => Kind::Credit,
            Self::Cancel(_) => Kind::Cancel,
            Self::Ack(_) => Kind::Ack,
            Self::Resume(_) => Kind::Resume,
            Self::Resumed(_) => Kind::Resumed,
            Self::Answer(_) => Kind::Answer,
            Self::Answered(_) => Kind::Answered,
            Self::Revoke(_) => Kind::Revoke,
            Self::Events(_) => Kind::Events,
            Self::Chunk(_) => Kind::Chunk,
            Self::Done(_) => Kind::Done,
            Self::Failed(_) => Kind::Failed,
            Self::Results(_) => Kind::Results,
            Self::Columns(_) => Kind::Columns,
        }
    }
}

fn map(body: &impl Serialize, head: &mut Vec<u8>) -> Bytes {
    rmp_serde::encode::write_named(head, body).expect("text and numbers can be written to a vector");
    Bytes::new()
}

fn read_map<T: DeserializeOwned>(kind: Kind, body: &[u8], limits: &Limits) -> Result<T, FrameError> {
    let frame = kind.name();
    // Their number is bounded by that of the bytes; a limit meant for events does not apply.
    let items = body.len() as u64;
    prescan::check(body, 1, items, limits.depth()).map_err(|cause| FrameError::Structure { frame, cause })?;
    // serde would also take the fields as an array, in an order that is nobody's promise.
    if !matches!(body, [0x80..=0x8f | 0xde | 0xdf, ..]) {
        return Err(FrameError::NotAMap { frame });
    }
    rmp_serde::from_slice(body).map_err(|cause| FrameError::Body { frame, cause })
}

/// A frame's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Hello = 1,
    HelloAck = 2,
    Refuse = 3,
    AskFunctions = 4,
    FunctionsPart = 5,
    Subscribe = 16,
    Accepted = 17,
    Refused = 18,
    Credit = 19,
    Cancel = 20,
    Ack = 21,
    Resume = 22,
    Resumed = 23,
    Answer = 24,
    Answered = 25,
    Revoke = 26,
    Events = 32,
    Chunk = 33,
    Done = 34,
    Failed = 35,
    Results = 36,
    Columns = 37,
}

impl Kind {
    const ALL: [Self; 22] = [
        Self::Hello,
        Self::HelloAck,
        Self::Refuse,
        Self::AskFunctions,
        Self::FunctionsPart,
        Self::Subscribe,
        Self::Accepted,
        Self::Refused,
        Self::Credit,
        Self::Cancel,
        Self::Ack,
        Self::Resume,
        Self::Resumed,
        Self::Answer,
        Self::Answered,
        Self::Revoke,
        Self::Events,
        Self::Chunk,
        Self::Done,
        Self::Failed,
        Self::Results,
        Self::Columns,
    ];

    fn new(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::HelloAck => "hello ack",
            Self::Refuse => "refuse",
            Self::AskFunctions => "ask functions",
            Self::FunctionsPart => "functions part",
            Self::Subscribe => "subscribe",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Credit => "credit",
            Self::Cancel => "cancel",
            Self::Ack => "ack",
            Self::Resume => "resume",
            Self::Resumed => "resumed",
            Self::Answer => "answer",
            Self::Answered => "answered",
            Self::Revoke => "revoke",
            Self::Events => "events",
            Self::Chunk => "chunk",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Results => "results",
            Self::Columns => "columns",
        }
    }

    /// The longest that such a frame may be, in bytes, its type included.
    fn bound(self, limits: &Limits) -> usize {
        match self {
            Self::Events | Self::Chunk | Self::Results | Self::Columns => limits.data_frame_bytes(),
            _ => limits.control_frame_bytes(),
        }
    }
}

/// What another node sent, or we would send, is not a frame.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame without even a type.
    #[error("expected a frame of at least 1 byte, got 0")]
    Empty,
    /// A frame is longer than the [`Limits`] allow.
    #[error("expected {frame} frame of at most {bound} bytes, got {got}")]
    TooLong {
        /// The type of frame.
        frame: &'static str,
        /// Its length in bytes, its type included.
        got: usize,
        /// The most bytes allowed.
        bound: usize,
    },
    /// A frame of a type that must be understood, and is not.
    #[error("unknown type of frame {got}")]
    UnknownType {
        /// The number of the type.
        got: u8,
    },
    /// Nothing but frames that may be ignored.
    #[error("more than {bound} frames of unknown types in a row")]
    TooManyUnknown {
        /// The most that may come.
        bound: u32,
    },
    /// The numbers at the front of an events, chunk, results or columns frame are malformed.
    #[error("malformed header of {frame} frame")]
    Header {
        /// The type of frame.
        frame: &'static str,
    },
    /// The body is not one MessagePack value.
    #[error("malformed body of {frame} frame: {cause}")]
    Structure {
        /// The type of frame.
        frame: &'static str,
        /// What is wrong with it.
        cause: StructureError,
    },
    /// The body is a MessagePack value, and no map.
    #[error("malformed body of {frame} frame: expected a map")]
    NotAMap {
        /// The type of frame.
        frame: &'static str,
    },
    /// A field of the body is missing, or is not what it should be.
    #[error("malformed body of {frame} frame: {cause}")]
    Body {
        /// The type of frame.
        frame: &'static str,
        /// What serde says of it.
        cause: rmp_serde::decode::Error,
    },
}

aqueduct_stage::debug_as_sentence!(FrameError);

/// The `u32` in front of each frame, which does not count itself.
const LENGTH_BYTES: usize = 4;
/// From this length on, in bytes, a payload stands apart: copying a shorter one is cheaper than handling two pieces.
const APART_BYTES: usize = 4096;

#[cfg(test)]
pub(crate) mod tests;
