//! The attacks that are nothing but frames, each of them correct, as fast as the other node takes them. Each kind of frame that
//! there is stands in a row.

use serde::Serialize;

use crate::publishing::leb128;
use crate::working::{BEGUN, DONE, IN_PROGRESS, RETRY, answer, answer_64_times};
use crate::world::*;

/// A frame that is said again and again.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) name: &'static str,
    /// The kind of frame that it is about.
    pub(crate) kind: u8,
    pub(crate) place: Place,
    /// The bytes of the nth, from 1. What comes before it to make it correct is in there as well.
    pub(crate) bytes: fn(u64) -> Vec<u8>,
}

/// Where it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To the target, which was dialled: beside the subscriptions.
    Control,
    /// At the start of a stream, which is left when it is answered.
    Opening,
    /// On a subscription.
    Subscription,
    /// As a worker of a channel, of its tasks over and over.
    Open,
    /// As a worker of a channel, of each task once, as it comes.
    Settling,
    /// By a publisher, to the target that has dialled: in answer to its introduction, and the connection is closed.
    Greeting,
    /// By a publisher, beside the subscriptions.
    PublisherControl,
    /// By a publisher, in answer to a subscription, which is dropped then; where it goes on, its connection is closed again.
    Answer,
    /// By a publisher, on a subscription.
    Publisher,
    /// By a publisher, on a subscription, of each event that the target has asked for.
    Events,
    /// The same, of each task of a channel.
    Tasks,
}

impl Place {
    /// Whether the target dials the attacker.
    pub(crate) fn is_of_publisher(self) -> bool {
        use Place::{Answer, Events, Greeting, Publisher, PublisherControl, Tasks};
        matches!(self, Greeting | PublisherControl | Answer | Publisher | Events | Tasks)
    }
}

const fn row(name: &'static str, kind: u8, place: Place, bytes: fn(u64) -> Vec<u8>) -> Frames {
    Frames { name, kind, place, bytes }
}

pub(crate) const ALL: &[Frames] = &[
    row("beside: a second hello", HELLO, Place::Control, |_| hello("test", "hostile")),
    row("beside: asks for functions", ASK_FUNCTIONS, Place::Control, |_| frame(ASK_FUNCTIONS, EMPTY)),
    row("beside: unknown frames", UNKNOWN, Place::Control, |_| frame(UNKNOWN, &[7; 10])),
    row("refused subscriptions", SUBSCRIBE, Place::Opening, |_| frame(SUBSCRIBE, &subscribe("nothing"))),
    row("subscribes and leaves", SUBSCRIBE, Place::Opening, |_| frame(SUBSCRIBE, &subscribe("numbers"))),
    row("subscribes and cancels", CANCEL, Place::Opening, |_| {
        [frame(SUBSCRIBE, &subscribe("numbers")), frame(CANCEL, &numbers([("reason", 0)]))].concat()
    }),
    row("resumes unknown links", RESUME, Place::Opening, |_| resume()),
    row("subscribes a second time", SUBSCRIBE, Place::Subscription, |_| frame(SUBSCRIBE, &subscribe("numbers"))),
    row("credits", CREDIT, Place::Subscription, |n| frame(CREDIT, &numbers([("up_to", n)]))),
    row("acknowledgements", ACK, Place::Subscription, |_| frame(ACK, &numbers([("up_to", 0)]))),
    row("unknown frames", UNKNOWN, Place::Subscription, |_| frame(UNKNOWN, &[7; 10])),
    row("worker: in progress", ANSWER, Place::Open, |n| answer_64_times(0, n, IN_PROGRESS)),
    row("worker: begun", ANSWER, Place::Open, |n| answer_64_times(0, n, BEGUN)),
    row("worker: old answers", ANSWER, Place::Open, |_| answer_64_times(1, 1, DONE)),
    row("worker: rows of old results", RESULTS, Place::Open, |_| old_results()),
    row("worker: one result a row", RESULTS, Place::Settling, |n| {
        // One result, of event n, which is 2 (n - 1) from the first.
        let numbers = [n, 1, 2 * (n - 1), VALUE.len() as u64].map(leb128);
        frame(RESULTS, &[&numbers.concat()[..], &VALUE].concat())
    }),
    row("worker: to be tried again", ANSWER, Place::Settling, |n| answer(n, n, RETRY, None)),
    row("publisher: refuses to be dialled", REFUSE, Place::Greeting, |_| frame(REFUSE, &numbers([("reason", 7)]))),
    row("publisher: greets a second time", HELLO_ACK, Place::PublisherControl, |_| hello_ack()),
    row("publisher: unasked functions", FUNCTIONS_PART, Place::PublisherControl, |_| functions_part()),
    row("publisher: refuses", REFUSED_SUBSCRIPTION, Place::Answer, |_| {
        frame(REFUSED_SUBSCRIPTION, &numbers([("reason", 7)]))
    }),
    row("publisher: is done at once", DONE_FRAME, Place::Answer, |_| {
        [accepted(), frame(DONE_FRAME, &numbers([("last_seq", 0)]))].concat()
    }),
    row("publisher: fails at once", FAILED, Place::Answer, |_| {
        [accepted(), frame(FAILED, &numbers([("last_seq", 0), ("reason", 2)]))].concat()
    }),
    row("publisher: goes on and is cut again", RESUMED, Place::Answer, |_| frame(RESUMED, EMPTY)),
    row("publisher: accepts a second time", ACCEPTED, Place::Publisher, |_| accepted()),
    row("publisher: answers taken", ANSWERED, Place::Publisher, |_| frame(ANSWERED, &numbers([("up_to", 0)]))),
    row("publisher: unknown frames", UNKNOWN, Place::Publisher, |_| frame(UNKNOWN, &[7; 10])),
    row("publisher: one event a frame", EVENTS, Place::Events, |n| event(n, &VALUE)),
    row("publisher: pieces of one byte", CHUNK, Place::Publisher, |n| {
        // Of event 1, the first attempt, not the last piece.
        frame(CHUNK, &[leb128(1), leb128(1), leb128(n - 1), vec![0], leb128(8 << 20), vec![7]].concat())
    }),
    row("publisher: numbers of no bits", COLUMNS, Place::Publisher, |n| columns(5000 * (n - 1) + 1, 5000, 40)),
    row("publisher: claims numbers without bytes", COLUMNS, Place::Publisher, |_| columns(1, 10_000, 1)),
    row("publisher: claims more numbers than there are", COLUMNS, Place::Publisher, |_| columns(1, u64::MAX, 1)),
    row("publisher: breaks every link", CREDIT, Place::Publisher, |_| frame(CREDIT, EMPTY)),
    row("publisher: asks every task back", REVOKE, Place::Tasks, |n| [event(n, &VALUE), revoke(n)].concat()),
];

/// A map without fields.
const EMPTY: &[u8] = &[0x80];
/// One byte, and the number 7 as a task.
const VALUE: [u8; 3] = [0xc4, 1, 7];

/// One event, the first attempt.
fn event(number: u64, payload: &[u8]) -> Vec<u8> {
    frame(EVENTS, &[&leb128(number), &leb128(1), &leb128(1), payload].concat())
}

/// So many numbers, the first attempt: the first of them, and blocks of which all are equal.
fn columns(first: u64, count: u64, blocks: usize) -> Vec<u8> {
    frame(COLUMNS, &[&leb128(first)[..], &leb128(count), &leb128(1), &vec![0; 8 + 9 * blocks]].concat())
}

/// A row of 1,024 results of the first event, each without a byte.
fn old_results() -> Vec<u8> {
    let again = [1, 0].repeat(1023);
    frame(RESULTS, &[leb128(1), leb128(1024), vec![0, 0], again].concat())
}

fn revoke(number: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Revoke {
        ranges: [(u64, u64); 1],
    }
    frame(REVOKE, &rmp_serde::to_vec_named(&Revoke { ranges: [(number, number)] }).unwrap())
}

fn resume() -> Vec<u8> {
    #[derive(Serialize)]
    struct Session {
        incarnation: u64,
        number: u64,
    }
    #[derive(Serialize)]
    struct Resume {
        session: Session,
        epoch: u64,
        arrived: u64,
    }
    let resume = Resume { session: Session { incarnation: 1, number: 1 }, epoch: 1, arrived: 0 };
    frame(RESUME, &rmp_serde::to_vec_named(&resume).unwrap())
}

fn functions_part() -> Vec<u8> {
    #[derive(Serialize)]
    struct FunctionsPart {
        functions: [(); 0],
        is_last: bool,
    }
    frame(FUNCTIONS_PART, &rmp_serde::to_vec_named(&FunctionsPart { functions: [], is_last: true }).unwrap())
}

/// The page of the protocol names all kinds.
#[test]
fn each_kind_of_frame_is_said_too_often_in_a_row_of_the_table() {
    let page = include_str!("../../src/frame.rs");
    let kinds = page.lines().filter_map(|line| {
        let (number, name) = line.strip_prefix("/// | ")?.split_once(" | [`")?;
        Some((number.parse::<u8>().ok()?, name.split_once('`')?.0))
    });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds.len(), 22, "{kinds:?}");
    let is_missing = |(number, _): &&(u8, &str)| !ALL.iter().any(|row| row.kind == *number);
    let missing: Vec<_> = kinds.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "no row is about {missing:?}");
}
