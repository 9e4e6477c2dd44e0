//! What each type of frame says: the fields of the maps, and the two frames that carry events.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Reason, varint};

/// The dialer introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The oldest version of the protocol that it speaks.
    pub(crate) proto_min: u16,
    /// The newest.
    pub(crate) proto_max: u16,
    /// The cluster it belongs to.
    pub(crate) cluster: String,
    /// Its node id.
    pub(crate) node: String,
    /// Rises with each start of that node.
    pub(crate) incarnation: u64,
    /// What it can do beyond the version. Unknown ones are ignored.
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// The listener's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HelloAck {
    /// The version that both will speak.
    pub(crate) proto: u16,
    /// Its node id.
    pub(crate) node: String,
    /// Rises with each start of that node.
    pub(crate) incarnation: u64,
    /// What both can do.
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// The connection is not wanted, and is closed after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refuse {
    pub(crate) reason: Reason,
    /// For people.
    #[serde(default)]
    pub(crate) message: String,
}

/// Asks for an edge from a producer of the other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscribe {
    /// The producer's name.
    pub(crate) producer: String,
    /// The [signature](crate::Wire::signature) of the events that the subscriber takes.
    pub(crate) signature: String,
    /// The subscriber's window, in events, for the producer's information. Nothing is asked for by it.
    pub(crate) max_demand: u64,
    /// The lower bound of the window.
    pub(crate) min_demand: u64,
}

/// The edge is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {}

/// The edge is not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// For people.
    #[serde(default)]
    pub(crate) message: String,
    /// The signature that the producer publishes, after a [`Reason::TypeMismatch`].
    #[serde(default)]
    pub(crate) published: Option<String>,
}

/// The subscriber allows `up_to` events in all, counted from the start. It never falls: repeated and lower values are
/// ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credit {
    pub(crate) up_to: u64,
}

/// The subscriber wants no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {
    pub(crate) reason: Reason,
}

/// Events `first_seq`, `first_seq + 1`, ..., `count` of them. The first of a subscription has number 1; there are no
/// gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    pub(crate) payload: Bytes,
}

/// A piece of event `seq`, which is too long for a frame. Its pieces follow each other, with nothing of the same
/// subscription between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) seq: u64,
    /// Counts the pieces from 0.
    pub(crate) index: u64,
    pub(crate) is_last: bool,
    /// The length of the whole event, in bytes: the same in all its pieces.
    pub(crate) total_len: u64,
    pub(crate) payload: Bytes,
}

/// The producer is exhausted, and `last_seq` events were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) last_seq: u64,
}

/// The producer ended otherwise, after `last_seq` events were sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) last_seq: u64,
    pub(crate) reason: Reason,
    /// Where it began: the name of a stage, or what stands for it.
    #[serde(default)]
    pub(crate) origin: String,
    /// For people.
    #[serde(default)]
    pub(crate) message: String,
}

impl Events {
    /// Appends the numbers in front of the payload, and returns the payload.
    pub(super) fn write(&self, head: &mut Vec<u8>) -> Bytes {
        varint::write(self.first_seq, head);
        varint::write(self.count, head);
        self.payload.clone()
    }

    /// Reads numbers and payload; `None` if the numbers are malformed.
    pub(super) fn read(body: &Bytes) -> Option<Self> {
        let mut rest = &body[..];
        let first_seq = varint::read(&mut rest)?;
        let count = varint::read(&mut rest)?;
        Some(Self { first_seq, count, payload: body.slice_ref(rest) })
    }
}

impl Chunk {
    /// Appends the numbers in front of the payload, and returns the payload.
    pub(super) fn write(&self, head: &mut Vec<u8>) -> Bytes {
        varint::write(self.seq, head);
        varint::write(self.index, head);
        head.push(self.is_last.into());
        varint::write(self.total_len, head);
        self.payload.clone()
    }

    /// Reads numbers and payload; `None` if the numbers are malformed.
    pub(super) fn read(body: &Bytes) -> Option<Self> {
        let mut rest = &body[..];
        let seq = varint::read(&mut rest)?;
        let index = varint::read(&mut rest)?;
        let (&flags, after) = rest.split_first()?;
        rest = after;
        let is_last = match flags {
            0 => false,
            1 => true,
            _ => return None,
        };
        let total_len = varint::read(&mut rest)?;
        Some(Self { seq, index, is_last, total_len, payload: body.slice_ref(rest) })
    }
}
