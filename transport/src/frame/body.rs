//! What each type of frame says: the fields of the maps, and the frames that carry events.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::Arc;

use aqueduct_stage::{Attempt, ResultRow};
use bytes::Bytes;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Reason, varint};
use crate::Signature;

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
    /// What it can do beyond the version. Unknown ones are ignored, and so are those behind the first 64.
    #[serde(default, deserialize_with = "first::<_, _, 64>")]
    pub(crate) features: Vec<String>,
    /// How large anything may be that it is sent.
    #[serde(default)]
    pub(crate) limits: Option<OfferedLimits>,
    /// The [digest](crate::FunctionsDigest) of what can be called there; `None` if it cannot be asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) functions: Option<[u8; 16]>,
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
    #[serde(default, deserialize_with = "first::<_, _, 64>")]
    pub(crate) features: Vec<String>,
    /// How large anything may be that either of them is sent.
    #[serde(default)]
    pub(crate) limits: Option<OfferedLimits>,
    /// The [digest](crate::FunctionsDigest) of what can be called there; `None` if it cannot be asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) functions: Option<[u8; 16]>,
}

/// How large anything may be that a node is sent. The smaller limit of two nodes holds for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferedLimits {
    pub(crate) data_frame_bytes: u64,
    pub(crate) control_frame_bytes: u64,
    pub(crate) event_bytes: u64,
}

/// The connection is not wanted, and is closed after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refuse {
    pub(crate) reason: Reason,
    /// For people.
    #[serde(default)]
    pub(crate) message: String,
}

/// Asks what can be called at the other node: once on a connection, and only if that has said a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskFunctions {}

/// A part of the answer. Each has a function at least, unless there is none at all; together they are what the digest of
/// the introduction says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionsPart {
    pub(crate) functions: Vec<FunctionRow>,
    pub(crate) is_last: bool,
}

/// A function: its name, its version, and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionRow(pub(crate) String, pub(crate) u32, pub(crate) Signature);

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
    /// What to call the link when it is to go on over another connection; `None` if it is not to survive this one.
    #[serde(default)]
    pub(crate) session: Option<Session>,
    /// Only the events that the producer's selector of this name accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selector: Option<String>,
    /// Which of the producer's instances, from 0. How many there are is said by [`Accepted`].
    #[serde(default)]
    pub(crate) instance: u64,
    /// Who subscribes: a broadcast takes a consumer only once. `None` if the subscriber's node does not say, and then it is
    /// somebody else each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) consumer: Option<FarConsumer>,
    /// The subscriber says when it begins with an event, and can be asked for what it has not begun. Only with the feature
    /// [`REVOKE`](crate::protocol::introduction::REVOKE).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) announces: bool,
    /// The subscriber takes [`Columns`], too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) takes_columns: bool,
}

/// Names a consumer among those that a node has ever had subscriptions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FarConsumer {
    /// Rises with each start of the subscriber's node.
    pub(crate) incarnation: u64,
    /// The node's choice.
    pub(crate) number: u64,
}

/// Names a link among all that a node has ever made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Rises with each start of the subscriber's node.
    pub(crate) incarnation: u64,
    /// Rises with each of its links.
    pub(crate) number: u64,
}

/// A link goes on: its subscriber has a new stream, on another connection. What it wants, and what it has, follows in the
/// frames that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resume {
    pub(crate) session: Session,
    /// Rises with each stream of the link; the first was 0. An older stream does not count any more.
    pub(crate) epoch: u64,
    /// The number of the last event that has arrived: the next one is to follow.
    pub(crate) arrived: u64,
}

/// The link goes on, with the event that the subscriber does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resumed {}

/// The edge is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// How many instances the producer has: a subscriber that wants all events subscribes to each.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(crate) instances: u64,
    /// The publisher takes an [`Answer`] to each event.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) takes_answers: bool,
    /// It takes [`Results`], too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) takes_rows: bool,
}

impl Default for Accepted {
    fn default() -> Self {
        Self { instances: one(), takes_answers: false, takes_rows: false }
    }
}

const fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_one(instances: &u64) -> bool {
    *instances == 1
}

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
    /// No event is begun once events of so many bytes have been sent, counted from the start. It never falls either;
    /// without it, there is no such bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_up_to: Option<u64>,
}

/// The subscriber has the events up to number `up_to`, so the publisher need not keep them. It never falls: repeated and
/// lower values are ignored.
///
/// The first one with `handled` chooses *at least once* for the whole subscription, and comes before the first
/// [`Credit`]: from then on, events that are not acknowledged at the end are given to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) up_to: u64,
    /// The consumer has handled them; otherwise they have only arrived.
    #[serde(default)]
    pub(crate) handled: bool,
}

/// The subscriber says what became of single events. It chooses that with an [`Ack`] of nothing before the first
/// [`Credit`], and only where the publisher [takes](Accepted::takes_answers) answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Rises by one with each answer of the link, from 1: those that come again after a cut are known by it. 0 for
    /// [`Verdict::InProgress`], which is not said again.
    pub(crate) number: u64,
    /// The first and last numbers of the events: 1 to 64 ranges. They are of one event each unless they are done.
    #[serde(deserialize_with = "first::<_, _, 65>")]
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) verdict: Verdict,
    /// For [`Verdict::Retry`]: not before so much time has passed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) delay_ms: u64,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) message: String,
    /// For [`Verdict::Done`], of one event: what came of it, or the last piece of that. For [`Verdict::Part`]: a piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Bytes>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub(crate) enum Verdict {
    /// Acknowledged.
    Done = 1,
    /// To be tried again.
    Retry = 2,
    /// Never to be tried again.
    GiveUp = 3,
    /// Another answer follows.
    InProgress = 4,
    /// A piece of a result that is too long for a frame. The next answer is the next piece; the last one is done.
    Part = 5,
    /// The consumer begins with it. Another answer follows.
    Begun = 6,
    /// It was asked back, and was not begun.
    Returned = 7,
}

/// The publisher wants events back that the consumer has not begun, for somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoke {
    /// First and last numbers, in rising order.
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// The publisher has taken the answers up to number `up_to`: they need not be said again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) up_to: u64,
}

/// The subscriber wants no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {
    pub(crate) reason: Reason,
    /// How many events after the last that was handled the consumer had begun with: it was an attempt for them, and for
    /// those behind them it was none.
    #[serde(default)]
    pub(crate) begun: u64,
    /// The consumer has ended itself; otherwise it lives on without this subscription.
    #[serde(default)]
    pub(crate) is_down: bool,
}

/// Events `first_seq`, `first_seq + 1`, ..., `count` of them. The first of a subscription has number 1; there are no
/// gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    /// Which attempt it is for all of them.
    pub(crate) attempt: Attempt,
    pub(crate) payload: Bytes,
}

/// As [`Events`], of events that are numbers, by the differences between them. Only for a subscriber that
/// [takes](Subscribe::takes_columns) it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    pub(crate) attempt: Attempt,
    pub(crate) payload: Bytes,
}

/// A piece of event `seq`, which is too long for a frame. Its pieces follow each other, with nothing of the same
/// subscription between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) seq: u64,
    /// Which attempt it is: the same in all its pieces.
    pub(crate) attempt: Attempt,
    /// Counts the pieces from 0.
    pub(crate) index: u64,
    pub(crate) is_last: bool,
    /// The length of the whole event, in bytes: the same in all its pieces.
    pub(crate) total_len: u64,
    pub(crate) payload: Bytes,
}

/// What came of events that are done: an [`Answer`] with a result to each of them, in one step and with one number. Only
/// where the publisher [takes](Accepted::takes_rows) it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Results {
    /// As that of an [`Answer`], and counted with them.
    pub(crate) number: u64,
    /// 1 to [`MAX_ROW`] results.
    pub(crate) row: Arc<ResultRow>,
}

/// The most results in a row: their numbers take 16 bytes each where they arrive.
pub(crate) const MAX_ROW: usize = 1024;

/// The producer is exhausted, and `last_seq` events were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) last_seq: u64,
}

/// The producer ended otherwise, or it cancelled this subscription, after `last_seq` events were sent.
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
    /// The producer lives on without this subscriber; otherwise it has ended itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_cancel: bool,
}

impl From<Verdict> for u8 {
    fn from(verdict: Verdict) -> Self {
        verdict as Self
    }
}

impl TryFrom<u8> for Verdict {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let all = [Self::Done, Self::Retry, Self::GiveUp, Self::InProgress, Self::Part, Self::Begun, Self::Returned];
        all.into_iter().find(|verdict| *verdict as u8 == number).ok_or_else(|| format!("unknown verdict {number}"))
    }
}

/// Reads the first `MOST` of a list, and reads over the others: of short values, many more bytes would be needed than they
/// came in.
fn first<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error> {
    struct First<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for First<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut first = Vec::new();
            while first.len() < MOST {
                let Some(next) = list.next_element()? else { return Ok(first) };
                first.push(next);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }

    from.deserialize_seq(First::<T, MOST>(PhantomData))
}

/// Whether a field need not be sent.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Events {
    /// Appends the numbers in front of the payload, and returns the payload.
    pub(super) fn write(&self, head: &mut Vec<u8>) -> Bytes {
        write_run((self.first_seq, self.count, self.attempt), head);
        self.payload.clone()
    }

    /// Reads numbers and payload; `None` if the numbers are malformed.
    pub(super) fn read(body: &Bytes) -> Option<Self> {
        let ((first_seq, count, attempt), payload) = read_run(body)?;
        Some(Self { first_seq, count, attempt, payload })
    }
}

impl Columns {
    /// Appends the numbers in front of the payload, and returns the payload.
    pub(super) fn write(&self, head: &mut Vec<u8>) -> Bytes {
        write_run((self.first_seq, self.count, self.attempt), head);
        self.payload.clone()
    }

    /// Reads numbers and payload; `None` if the numbers are malformed.
    pub(super) fn read(body: &Bytes) -> Option<Self> {
        let ((first_seq, count, attempt), payload) = read_run(body)?;
        Some(Self { first_seq, count, attempt, payload })
    }
}

/// Appends what stands in front of events in a row.
fn write_run((first_seq, count, attempt): (u64, u64, Attempt), head: &mut Vec<u8>) {
    varint::write(first_seq, head);
    varint::write(count, head);
    write_attempt(attempt, head);
}

/// Reads it, and returns the events.
fn read_run(body: &Bytes) -> Option<((u64, u64, Attempt), Bytes)> {
    let mut rest = &body[..];
    let first_seq = varint::read(&mut rest)?;
    let count = varint::read(&mut rest)?;
    let attempt = read_attempt(&mut rest)?;
    Some(((first_seq, count, attempt), body.slice_ref(rest)))
}

impl Chunk {
    /// Appends the numbers in front of the payload, and returns the payload.
    pub(super) fn write(&self, head: &mut Vec<u8>) -> Bytes {
        varint::write(self.seq, head);
        write_attempt(self.attempt, head);
        varint::write(self.index, head);
        head.push(self.is_last.into());
        varint::write(self.total_len, head);
        self.payload.clone()
    }

    /// Reads numbers and payload; `None` if the numbers are malformed.
    pub(super) fn read(body: &Bytes) -> Option<Self> {
        let mut rest = &body[..];
        let seq = varint::read(&mut rest)?;
        let attempt = read_attempt(&mut rest)?;
        let index = varint::read(&mut rest)?;
        let (&flags, after) = rest.split_first()?;
        rest = after;
        let is_last = match flags {
            0 => false,
            1 => true,
            _ => return None,
        };
        let total_len = varint::read(&mut rest)?;
        Some(Self { seq, attempt, index, is_last, total_len, payload: body.slice_ref(rest) })
    }
}

impl Results {
    /// Appends everything.
    pub(super) fn write(&self, head: &mut Vec<u8>) -> Bytes {
        varint::write(self.number, head);
        varint::write(self.row.len() as u64, head);
        let mut last = 0_u64;
        for (seq, result) in self.row.iter() {
            // Mostly in the order of the events: the difference to the next one is zero then.
            varint::write(zigzag(seq.wrapping_sub(last).wrapping_sub(1)), head);
            varint::write(result.len() as u64, head);
            last = seq;
        }
        head.extend_from_slice(self.row.bytes());
        Bytes::new()
    }

    /// Reads everything; `None` if the numbers are malformed, or are not those of the bytes behind them.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let number = varint::read(&mut rest)?;
        let count = usize::try_from(varint::read(&mut rest)?).ok().filter(|count| (1..=MAX_ROW).contains(count))?;
        let mut table = Vec::with_capacity(count);
        let mut last = 0_u64;
        for _ in 0..count {
            last = last.wrapping_add(unzigzag(varint::read(&mut rest)?)).wrapping_add(1);
            table.push((last, usize::try_from(varint::read(&mut rest)?).ok()?));
        }
        let mut row = ResultRow::with_capacity(count, rest.len());
        for (seq, length) in table {
            let (result, behind) = rest.split_at_checked(length)?;
            row.push(seq, result);
            rest = behind;
        }
        rest.is_empty().then(|| Self { number, row: Arc::new(row) })
    }
}

/// Small numbers of either sign as small ones.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ ((difference as i64 >> 63) as u64)
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

fn write_attempt(attempt: Attempt, head: &mut Vec<u8>) {
    varint::write(attempt.number().into(), head);
}

/// Reads the number of an attempt; `None` if it is none.
fn read_attempt(rest: &mut &[u8]) -> Option<Attempt> {
    NonZeroU32::new(u32::try_from(varint::read(rest)?).ok()?).map(Attempt::new)
}
