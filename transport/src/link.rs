//! A link: the two ends of one subscription between nodes, as state machines without I/O.
//!
//! ```text
//!   consumer ─ ask ─► Inbound ── Subscribe, Credit, Ack, Cancel ► Outbound ─ Demand ─► producer
//!            ◄ Events ─      ◄── Accepted, Events, Done, Failed ──         ◄─ send ──
//! ```
//!
//! Both ends have the shape of quinn-proto's `Connection`: *mutators* for what this node wants, *handlers* for what the
//! other one says, *polls* for what is to be done about it, and *getters*. After a mutator or a handler, a driver calls
//! each poll until it returns `None`.
//!
//! An end knows frames and their order, but not the stream that carries them. What is guaranteed, on a stream that
//! neither reorders nor loses bytes:
//!
//! * events arrive in order, each once, and never more of them than were asked for;
//! * [`Done`](InboundEvent::Done) and [`Failed`](InboundEvent::Failed) come after every event that was sent: a stream
//!   that stops earlier, wherever it is cut, is an error and never a short success;
//! * nothing that the other node sends panics, or takes more memory than the [`Limits`](crate::Limits) and the demand
//!   that was granted.
//!
//! When the stream is cut, the link goes on over another one: the subscriber says the number of the last event that it has,
//! and the publisher, which keeps events until they are acknowledged, sends those behind it. Each stream has a number, and
//! what an older one still brings is ignored.
//!
//! What is on its way when the subscriber cancels, or when a cut link is given up, is lost: *at most once*. A subscriber that
//! says what it has [handled](Inbound::handled) gets *at least once*: the publisher gives the rest to somebody else, and
//! numbers the attempts. Where the publisher takes it, the subscriber [answers](Inbound::answer) each event on its own; an answer
//! that is lost with its stream is said again on the next, and taken once.

#[cfg(test)]
mod answering;
mod answers;
mod bytes;
#[cfg(test)]
mod columns;
#[cfg(test)]
mod cuts;
mod inbound;
#[cfg(test)]
mod laws;
mod log;
mod outbound;
mod patience;
mod pieces;
#[cfg(test)]
mod pipes;
mod reasons;
mod reassembly;
mod timers;
mod words;

pub(crate) use inbound::{Inbound, InboundEvent};
pub(crate) use outbound::{Outbound, OutboundEvent};
pub(crate) use patience::{LOOK_EVERY, Stall, patience};
pub(crate) use reasons::{exit_of_producer, exit_of_subscriber, reason_of_cancel, reason_of_failure};
pub(crate) use reassembly::Reassembly;
pub(crate) use timers::{Due, Timers};

/// The most instances of a producer to which a node subscribes, each of which is a subscription: as many as a node allows
/// another by default.
pub(crate) const MAX_INSTANCES: u64 = 1024;

/// The other end of a link broke the protocol, or its stream stopped before its end.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A frame that has no place here.
    #[error("unexpected {frame} frame {place}")]
    Unexpected {
        /// The type of frame.
        frame: &'static str,
        /// Where it came.
        place: &'static str,
    },
    /// An event is missing, or came twice.
    #[error("expected event {expected}, got {got}")]
    Sequence {
        /// The number of the next event.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// More events came than were asked for.
    #[error("expected no event after {bound}, got {got}")]
    BeyondCredit {
        /// The number of the last event that was asked for.
        bound: u64,
        /// The number of the last event that came.
        got: u64,
    },
    /// An event began when as many bytes had been sent as the subscriber allowed.
    #[error("expected no event to begin after {bound} bytes, got one after {got}")]
    BeyondBytes {
        /// How many bytes of events were allowed.
        bound: u64,
        /// How many had come before it.
        got: u64,
    },
    /// A producer of no instances, or of more than anybody subscribes to.
    #[error("expected a producer of 1 to {bound} instances, got {got}")]
    Instances {
        /// The most instances.
        bound: u64,
        /// How many it says that it has.
        got: u64,
    },
    /// Events were acknowledged that had not been sent.
    #[error("expected no acknowledgement after event {bound}, got {got}")]
    NotSent {
        /// The number of the last event that was sent.
        bound: u64,
        /// The number of the last event that was acknowledged.
        got: u64,
    },
    /// An answer is missing, or more of them were confirmed than there were.
    #[error("expected answer {expected}, got {got}")]
    Answer {
        /// The number of the next answer, or of the last that was sent.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// An answer is about no events, or about too many ranges of them.
    #[error("expected an answer about 1 to {bound} ranges of events, got {got}")]
    AnswerRanges {
        /// The most ranges allowed.
        bound: usize,
        /// How many came.
        got: usize,
    },
    /// An answer is about a range that is none, or about several events where each needs its own.
    #[error("not a range of events to answer: {first} to {last}")]
    AnswerRange {
        /// The number of the first event.
        first: u64,
        /// The number of the last event.
        last: u64,
    },
    /// Events were asked back that had not been sent, or not in rising order.
    #[error("expected events of {from} to {to} to be asked back, got {first} to {last}")]
    Revoked {
        /// The number of the first event that can be asked back.
        from: u64,
        /// And of the last.
        to: u64,
        /// The number of the first that was.
        first: u64,
        /// And of the last.
        last: u64,
    },
    /// A frame announces no events, or more of them than it has bytes.
    #[error("expected 1 to {bound} events in {bound} bytes, got {got}")]
    Count {
        /// The number of bytes.
        bound: usize,
        /// The announced number of events.
        got: u64,
    },
    /// A frame announces no numbers, or more of them than a frame may hold.
    #[error("expected 1 to {bound} numbers in a frame, got {got}")]
    Numbers {
        /// The most numbers.
        bound: usize,
        /// The announced number of them.
        got: u64,
    },
    /// An event is longer than [`Limits::max_event_bytes`](crate::Limits::max_event_bytes).
    #[error("expected event {seq} of at most {bound} bytes, got {got}")]
    EventTooLong {
        /// The event's number.
        seq: u64,
        /// The most bytes allowed.
        bound: usize,
        /// The announced length in bytes.
        got: u64,
    },
    /// The pieces of an event disagree on its length.
    #[error("expected event {seq} of {expected} bytes, got {got}")]
    EventLength {
        /// The event's number.
        seq: u64,
        /// The length in bytes that its first piece announced.
        expected: usize,
        /// The length in bytes that came later: announced, or with the last piece.
        got: u64,
    },
    /// What is unfinished of the other node's events and results holds as much as it may:
    /// [`NodeConfig::max_reassembly_bytes`](crate::NodeConfig::max_reassembly_bytes).
    #[error("expected unfinished events of at most {bound} bytes from one node, got {got}")]
    Reassembly {
        /// The most bytes allowed.
        bound: usize,
        /// How many there would be with the next piece.
        got: usize,
    },
    /// A piece of an event is missing, or came twice.
    #[error("expected piece {expected} of event {seq}, got {got}")]
    Piece {
        /// The event's number.
        seq: u64,
        /// The number of the next piece.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// Something came between the pieces of an event.
    #[error("expected the rest of event {seq}, got {frame} frame")]
    Incomplete {
        /// The event's number.
        seq: u64,
        /// The type of frame that came.
        frame: &'static str,
    },
    /// The producer ended, and not all of its events are here.
    #[error("expected the end after {got} events, got {arrived}")]
    Missing {
        /// How many it says that it sent.
        got: u64,
        /// How many arrived.
        arrived: u64,
    },
    /// The stream stopped without the producer's end.
    #[error("stream cut off after {arrived} events")]
    CutOff {
        /// How many events arrived.
        arrived: u64,
    },
}

aqueduct_stage::debug_as_sentence!(LinkError);
