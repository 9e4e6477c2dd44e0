//! [`Input`]: decisions out of bytes.

use std::num::NonZeroU32;
use std::sync::Arc;

use aqueduct_stage::{Attempt, ResultRow};
use bytes::Bytes;

use crate::frame::{
    Accepted, Ack, Answer, Answered, Cancel, Chunk, Columns, Credit, Done, Events, Failed, Frame, Reason, Refused,
    Results, Resume, Resumed, Session, Verdict,
};

/// Bytes that decide what happens. When they are used up, all decisions are 0.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    /// The next bytes, as many as there are.
    pub(super) fn bytes(&mut self, at_most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(at_most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// Mostly a small number, as those that matter are near to what was said before; now and then any.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..224 => u64::from(small % 32),
            edge @ 224..240 => EDGES[usize::from(edge) % EDGES.len()],
            _ => self.bytes(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        }
    }

    pub(super) fn attempt(&mut self) -> Attempt {
        NonZeroU32::new(self.number() as u32).map_or(Attempt::FIRST, Attempt::new)
    }

    pub(super) fn text(&mut self) -> String {
        let bytes = self.byte() as usize;
        String::from_utf8_lossy(self.bytes(bytes)).into_owned()
    }

    pub(super) fn reason(&mut self) -> Reason {
        Reason::from(self.byte())
    }

    fn payload(&mut self) -> Bytes {
        let bytes = self.byte() as usize;
        Bytes::copy_from_slice(self.bytes(bytes))
    }

    fn session(&mut self) -> Session {
        Session { incarnation: self.number(), number: self.number() }
    }

    /// A frame of those that belong on the stream of a subscription.
    pub(super) fn frame(&mut self) -> Frame {
        let kind = self.byte();
        match kind % 15 {
            0 => {
                let (instances, takes_answers) = (self.number(), self.flag());
                Frame::Accepted(Accepted { instances, takes_answers, takes_rows: takes_answers })
            }
            1 => {
                let published = self.flag().then(|| self.text());
                Frame::Refused(Refused { reason: self.reason(), message: self.text(), published })
            }
            2 => Frame::Credit(Credit { up_to: self.number(), bytes_up_to: self.flag().then(|| self.number()) }),
            3 => Frame::Cancel(Cancel { reason: self.reason(), begun: self.number(), is_down: self.flag() }),
            4 => Frame::Ack(Ack { up_to: self.number(), handled: self.flag() }),
            5 => Frame::Resume(Resume { session: self.session(), epoch: self.number(), arrived: self.number() }),
            6 => Frame::Resumed(Resumed {}),
            7 => Frame::Answer(self.answer()),
            8 => Frame::Answered(Answered { up_to: self.number() }),
            9 | 10 if kind >= 195 => Frame::Columns(Columns {
                first_seq: self.number(),
                count: self.number(),
                attempt: self.attempt(),
                payload: self.payload(),
            }),
            9 | 10 => Frame::Events(Events {
                first_seq: self.number(),
                count: self.number(),
                attempt: self.attempt(),
                payload: self.payload(),
            }),
            11 => Frame::Chunk(Chunk {
                seq: self.number(),
                attempt: self.attempt(),
                index: self.number(),
                is_last: self.flag(),
                total_len: self.number(),
                payload: self.payload(),
            }),
            12 => Frame::Done(Done { last_seq: self.number() }),
            13 => Frame::Results(self.results()),
            _ => Frame::Failed(Failed {
                last_seq: self.number(),
                reason: self.reason(),
                origin: self.text(),
                message: self.text(),
                is_cancel: self.flag(),
            }),
        }
    }

    fn results(&mut self) -> Results {
        let (number, mut row) = (self.number(), ResultRow::default());
        for _ in 0..=self.byte() % 5 {
            row.push(self.number(), &self.payload());
        }
        Results { number, row: Arc::new(row) }
    }

    fn answer(&mut self) -> Answer {
        let all = [Verdict::Done, Verdict::Retry, Verdict::GiveUp, Verdict::InProgress, Verdict::Part];
        let verdict = all[self.byte() as usize % all.len()];
        let count = self.byte() % 70;
        let ranges = (0..count).map(|_| (self.number(), self.number())).collect();
        let result = self.flag().then(|| self.payload());
        Answer { number: self.number(), ranges, verdict, delay_ms: self.number(), message: self.text(), result }
    }
}

/// Numbers at which something overflows, or might.
pub(super) const EDGES: [u64; 12] = [
    0,
    1,
    64,
    127,
    128,
    4096,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 1,
    u64::MAX,
];
