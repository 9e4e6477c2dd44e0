//! Either end of a link, and a peer that says anything.

use std::collections::BTreeSet;
use std::time::Duration;

use aqueduct_stage::{Answer, Demand};
use bytes::Bytes;

use super::frames::{limits, raw};
use super::input::Input;
use crate::codec::{Columns, Form, NUMBER_BYTES, Written, decode_behind, encode};
use crate::frame::{Frame, FrameDecoder, Reason, Session, Subscribe};
use crate::link::{Inbound, InboundEvent, Outbound, OutboundEvent};

/// What a node and a hostile peer do with a link, one after the other as the bytes say: what the own end tells and sends is
/// in order all the same.
pub fn link(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() { Subscriber::run(&mut input) } else { Publisher::run(&mut input) }
}

/// How much is done at most: some hostile inputs do much with each byte.
const STEPS: usize = 400;

/// A subscriber's end, of a publisher that says anything.
struct Subscriber {
    inbound: Inbound,
    wire: FrameDecoder,
    epoch: u64,
    asked: u64,
    delivered: u64,
    /// What was told and is not taken, if the end knows what is: lengths, and the number of the events.
    waiting: Vec<(u64, usize)>,
    window: Option<u64>,
    /// Nothing follows what was told last.
    is_over: bool,
    is_let_go: bool,
    is_cancelled: bool,
    is_acknowledged: bool,
    /// What the publisher was told last.
    credit: (u64, Option<u64>),
    answer: u64,
}

impl Subscriber {
    fn run(input: &mut Input<'_>) {
        let mode = input.byte();
        let session = (mode & 1 != 0).then_some(Session { incarnation: 1, number: 1 });
        let mut inbound = Inbound::new(limits(), subscribe(session)).expect("the names are short");
        let window = (mode & 2 != 0).then(|| 1 + input.number() % 200);
        if let Some(window) = window {
            inbound.bound_bytes(window);
            inbound.taken(Demand::ZERO);
        }
        let is_acknowledged = mode & 4 != 0;
        if is_acknowledged {
            inbound.handled(Demand::ZERO);
        }
        let mut end = Self {
            inbound,
            wire: FrameDecoder::new(limits()),
            epoch: 0,
            asked: 0,
            delivered: 0,
            waiting: Vec::new(),
            window,
            is_over: false,
            is_let_go: false,
            is_cancelled: false,
            is_acknowledged,
            credit: (0, None),
            answer: 0,
        };
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            end.step(input);
            end.settle();
        }
        let is_told = end.is_over || end.is_cancelled;
        assert!(end.inbound.end_of_stream().is_err() || end.inbound.is_finished() || is_told, "no short success");
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..6 => self.hear(input.frame()),
            6 => raw(input).into_iter().for_each(|frame| self.hear(frame)),
            7 => {
                let up_to = input.number();
                self.asked = self.asked.max(up_to);
                self.inbound.ask(Demand::new(up_to));
            }
            8 => {
                let up_to = input.number().min(self.delivered);
                self.inbound.taken(Demand::new(up_to));
                self.waiting.retain(|(number, _)| *number > up_to);
            }
            9 if self.is_acknowledged => {
                let up_to = input.number();
                self.inbound.handled(Demand::new(up_to));
                self.waiting.retain(|(number, _)| *number > up_to);
            }
            10 => {
                let number = input.number();
                self.inbound.answer(number, answer(input));
                if self.inbound.takes_answers() {
                    self.waiting.retain(|(other, _)| *other != number);
                }
            }
            11 => self.inbound.restate(),
            12 => {
                if let Some(epoch) = self.inbound.resume() {
                    assert_eq!(epoch, self.epoch + 1);
                    (self.epoch, self.wire) = (epoch, FrameDecoder::new(limits()));
                    self.answer = 0;
                }
            }
            13 if input.byte() < 32 => self.is_over |= self.inbound.end_of_stream().is_err(),
            14 if input.byte() < 32 => {
                let unfinished = [(input.number() % 50, input.attempt()), (input.number() % 50, input.attempt())];
                self.settle();
                let reason = input.reason();
                if input.flag() {
                    self.inbound.down(reason, &unfinished);
                } else {
                    self.inbound.cancel(reason, &unfinished);
                }
                self.is_cancelled = true;
            }
            15 => {
                // Of a stream that was cut.
                let other = self.epoch ^ input.number().max(1);
                let heard = self.inbound.handle_frame(other, input.frame());
                assert_eq!((heard, self.inbound.poll_event()), (Ok(()), None));
            }
            _ => {}
        }
    }

    fn hear(&mut self, frame: Frame) {
        let arrived = self.inbound.arrived();
        if let Err(error) = self.inbound.handle_frame(self.epoch, frame) {
            assert!(error.to_string().len() < 200);
            assert_eq!((self.inbound.arrived(), self.inbound.poll_event()), (arrived, None), "an error tells nothing");
            self.is_over = true;
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(event) = self.inbound.poll_event() {
            // Whoever was let go says what it has handled, on other streams as well.
            let is_about_stream = matches!(event, InboundEvent::Resumed | InboundEvent::Lost { .. });
            let may_come = !self.is_over || (self.is_let_go && is_about_stream);
            assert!(may_come && !self.is_cancelled, "nothing follows the end: {event:?}");
            self.is_let_go |= matches!(event, InboundEvent::Failed { is_cancel: true, .. });
            match event {
                InboundEvent::Events { count, form, payload, .. } => {
                    let bytes = match form {
                        Form::Values => payload.len(),
                        Form::Columns => count as usize * NUMBER_BYTES,
                    };
                    assert!(count > 0 && count <= bytes as u64, "an event has a byte at least");
                    assert!(bytes <= limits().data_frame_bytes(), "a frame holds more than its limit");
                    let mut numbers = Vec::<u64>::new();
                    let is_read = decode_behind(&mut numbers, (form, &payload, count), &limits()).is_ok();
                    assert_eq!(numbers.len() as u64, if is_read { count } else { 0 });
                    self.delivered = self.delivered.checked_add(count).expect("they were asked for");
                    self.waiting.push((self.delivered, bytes));
                }
                InboundEvent::Accepted { instances } => assert!((1..=1024).contains(&instances)),
                InboundEvent::Resumed => {}
                InboundEvent::Revoked { number } => {
                    assert!((1..=self.delivered).contains(&number), "nobody is asked for what has not come");
                    self.inbound.answer(number, Answer::Returned);
                }
                _ => self.is_over = true,
            }
        }
        assert_eq!(self.inbound.arrived(), self.delivered);
        assert!(self.delivered <= self.asked, "no more than was asked for");
        if let Some(window) = self.window {
            let all_but_the_last = self.waiting.iter().rev().skip(1).map(|(_, length)| *length as u64).sum::<u64>();
            // What came together is taken together, so whoever answers in part may be ahead of the end.
            assert!(all_but_the_last < window + 255, "{all_but_the_last} bytes wait, of {window}");
        }
        while let Some(bytes) = self.inbound.poll_transmit() {
            self.wire.push(bytes);
        }
        while let Some(frame) = self.wire.next_frame().expect("our own frames can be read") {
            match frame {
                Frame::Credit(credit) => {
                    let said = (credit.up_to, credit.bytes_up_to);
                    assert!(said >= self.credit && credit.up_to <= self.asked, "credit never falls");
                    self.credit = said;
                }
                Frame::Ack(ack) => assert!(ack.up_to <= self.delivered && ack.handled == self.is_acknowledged),
                Frame::Answer(answer) if answer.number > 0 => {
                    assert!(self.answer == 0 || answer.number == self.answer + 1, "answers are numbered");
                    self.answer = answer.number;
                    assert!(answer.ranges.iter().all(|(first, last)| first <= last && *last <= self.delivered));
                }
                Frame::Results(results) => {
                    assert!(self.answer == 0 || results.number == self.answer + 1, "answers are numbered");
                    self.answer = results.number;
                    assert!(results.row.iter().all(|(number, _)| number <= self.delivered));
                }
                Frame::Resume(resume) => {
                    assert_eq!((resume.epoch, resume.arrived), (self.epoch, self.delivered));
                }
                Frame::Subscribe(_) | Frame::Answer(_) | Frame::Cancel(_) => {}
                other => panic!("a subscriber does not say {}", other.name()),
            }
        }
    }
}

/// A publisher's end, of a subscriber that says anything.
struct Publisher {
    outbound: Outbound,
    wire: FrameDecoder,
    epoch: u64,
    demand: u64,
    /// Lengths of the events that were sent.
    sent: Vec<usize>,
    /// The number of the last event that went out on this stream, and of the last that ever did.
    last: u64,
    furthest: u64,
    /// How much of the event after it.
    part: usize,
    /// The highest that were said.
    bytes_up_to: Option<u64>,
    answered: BTreeSet<u64>,
    is_cancelled: bool,
    is_end_sent: bool,
}

impl Publisher {
    fn run(input: &mut Input<'_>) {
        let mut outbound = Outbound::new(limits());
        if input.flag() {
            outbound.take_answers();
            outbound.announced();
        }
        let mut end = Self {
            outbound,
            wire: FrameDecoder::new(limits()),
            epoch: 0,
            demand: 0,
            sent: Vec::new(),
            last: 0,
            furthest: 0,
            part: 0,
            bytes_up_to: None,
            answered: BTreeSet::new(),
            is_cancelled: false,
            is_end_sent: false,
        };
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            end.step(input);
            end.settle();
        }
        end.outbound.give_up();
        end.settle();
        end.hand_back();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..6 => self.hear(&input.frame()),
            6 => raw(input).iter().for_each(|frame| self.hear(frame)),
            7..10 => self.send(input),
            10 => self.outbound.accept_one_of(input.number()),
            11 => match input.byte() {
                0..8 => self.outbound.finish(),
                8..16 => self.outbound.fail(input.reason(), &input.text(), &input.text()),
                16..20 => self.outbound.refuse(input.reason(), &input.text(), None),
                20..24 => self.outbound.end_of_stream(),
                _ => {}
            },
            12 => self.outbound.cut(),
            13 | 14 => {
                let (epoch, arrived) = (self.epoch.saturating_add(input.number() % 4), input.number());
                let arrived = if input.flag() { arrived } else { self.last };
                match self.outbound.resume(epoch, arrived) {
                    Ok(()) => {
                        assert!(epoch > self.epoch && arrived <= self.furthest);
                        (self.epoch, self.wire) = (epoch, FrameDecoder::new(limits()));
                        (self.last, self.part, self.is_end_sent) = (arrived, 0, false);
                    }
                    Err(reason) => assert!([Reason::NoSession, Reason::Superseded, Reason::Protocol].contains(&reason)),
                }
            }
            _ => {
                let heard = self.outbound.handle_frame(self.epoch ^ input.number().max(1), &input.frame());
                assert_eq!((heard, self.outbound.poll_event()), (Ok(()), None), "of another stream");
            }
        }
    }

    fn hear(&mut self, frame: &Frame) {
        let kept = self.outbound.unacknowledged_bytes();
        match self.outbound.handle_frame(self.epoch, frame) {
            Ok(()) => {
                if let Frame::Credit(credit) = frame {
                    self.bytes_up_to = self.bytes_up_to.max(credit.bytes_up_to);
                }
            }
            Err(error) => {
                assert!(error.to_string().len() < 200);
                assert_eq!((self.outbound.poll_event(), self.outbound.unacknowledged_bytes()), (None, kept));
            }
        }
        self.settle();
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let count = (self.demand - self.sent.len() as u64).min(u64::from(input.byte() % 8));
        let kind = input.byte();
        let before = self.outbound.unacknowledged_bytes();
        if let Some(numbers) = (kind >= 200 && count > 0).then(|| self.numbers(count)).flatten() {
            self.outbound.send(Written::Columns(numbers), input.attempt());
            if self.outbound.unacknowledged_bytes() > before {
                self.sent.extend(vec![NUMBER_BYTES; count as usize]);
            }
            return;
        }
        let long = if kind < 16 { 9000 } else { 1 };
        let events: Vec<_> = (0..count).map(|_| Bytes::from(vec![7; usize::from(input.byte() % 40) * long])).collect();
        let events: Vec<_> = events.into_iter().map(|event| event.slice(..event.len().min(39_000))).collect();
        let Ok(encoded) = encode(&events, &limits()) else { panic!("they are short enough") };
        let lengths: Vec<_> = (0..encoded.len()).map(|index| encoded.end(index + 1) - encoded.end(index)).collect();
        self.outbound.send(encoded, input.attempt());
        // After the end it does nothing.
        if self.outbound.unacknowledged_bytes() > before {
            self.sent.extend(lengths);
        }
    }

    /// The numbers of the next events.
    fn numbers(&self, count: u64) -> Option<Columns> {
        let first = self.sent.len() as u64 + 1;
        Columns::of(&(first..first + count).collect::<Vec<_>>())
    }

    fn settle(&mut self) {
        while let Some(event) = self.outbound.poll_event() {
            assert!(!self.is_cancelled, "nothing follows a cancel");
            match event {
                OutboundEvent::Handled { up_to } => {
                    assert!(up_to.count() <= self.furthest, "nobody handles what was not sent");
                }
                OutboundEvent::Demand { up_to } => {
                    assert!(up_to.count() > self.demand);
                    self.demand = up_to.count();
                }
                OutboundEvent::Answered { first, last, answer } => {
                    assert!(1 <= first && first <= last && last <= self.furthest, "nobody answers what was not sent");
                    for number in first..=last {
                        let is_first = !self.answered.contains(&number);
                        assert!(is_first || !answer.is_final(), "event {number} was answered twice");
                        if answer.is_final() {
                            self.answered.insert(number);
                        }
                    }
                }
                OutboundEvent::Results { row } => {
                    for (number, _) in row.iter() {
                        assert!((1..=self.furthest).contains(&number), "nobody answers what was not sent");
                        assert!(self.answered.insert(number), "event {number} was answered twice");
                    }
                }
                OutboundEvent::Cancelled { .. } => self.is_cancelled = true,
            }
        }
        let total = self.sent.iter().sum::<usize>();
        assert!(self.outbound.unacknowledged_bytes() <= total, "it keeps more than there is");
        assert!(self.outbound.lost() <= self.furthest);
        // As much as a driver takes at a time; half a frame is never all.
        let mut polls = 0;
        while polls < 3 || self.wire.is_mid_frame() {
            polls += 1;
            let Some(bytes) = self.outbound.poll_transmit() else { break };
            self.wire.push(bytes);
            while let Some(frame) = self.wire.next_frame().expect("our own frames can be read") {
                self.went_out(frame);
            }
        }
    }

    fn went_out(&mut self, frame: Frame) {
        assert!(!self.is_end_sent || matches!(frame, Frame::Resumed(_)), "nothing follows the end");
        let before = self.sent[..self.last as usize].iter().sum::<usize>() as u64;
        let may_begin = self.bytes_up_to.is_none_or(|bytes| before < bytes);
        match frame {
            Frame::Events(events) => {
                assert!(may_begin && self.part == 0);
                assert_eq!(events.first_seq, self.last + 1, "in order");
                let first = self.last as usize;
                let lengths = &self.sent[first..first + events.count as usize];
                assert_eq!(events.payload.len(), lengths.iter().sum::<usize>());
                self.last += events.count;
            }
            Frame::Columns(columns) => {
                assert!(may_begin && self.part == 0);
                assert_eq!(columns.first_seq, self.last + 1, "in order");
                let mut numbers = Vec::<u64>::new();
                let payload = (Form::Columns, &columns.payload[..], columns.count);
                decode_behind(&mut numbers, payload, &limits()).expect("our own numbers can be read");
                self.last += columns.count;
                assert!(numbers.into_iter().eq(columns.first_seq..=self.last));
            }
            Frame::Chunk(chunk) => {
                assert!(may_begin || self.part > 0);
                assert_eq!(chunk.seq, self.last + 1, "in order");
                let length = self.sent[self.last as usize];
                self.part += chunk.payload.len();
                assert_eq!((chunk.total_len, chunk.is_last), (length as u64, self.part == length));
                if chunk.is_last {
                    (self.last, self.part) = (self.last + 1, 0);
                }
            }
            Frame::Done(_) | Frame::Failed(_) => {
                assert_eq!((self.last, self.part), (self.sent.len() as u64, 0), "the end comes behind all events");
                self.is_end_sent = true;
            }
            Frame::Accepted(_) | Frame::Refused(_) | Frame::Resumed(_) => assert_eq!(self.part, 0),
            Frame::Answered(_) => assert_eq!(self.part, 0),
            other => panic!("a publisher does not say {}", other.name()),
        }
        assert!(self.last <= self.demand, "never more than was asked for");
        self.furthest = self.furthest.max(self.last);
    }

    /// What nobody has handled goes to somebody else, each once.
    fn hand_back(&mut self) {
        let mut next = 1;
        while let Some(run) = self.outbound.poll_unfinished() {
            assert!(run.first >= next && run.count > 0, "in order, each once");
            next = run.first + run.count;
            assert!(next - 1 <= self.sent.len() as u64);
            assert!((run.first..next).all(|number| !self.answered.contains(&number)), "it was answered");
        }
        assert!(self.outbound.is_acknowledged() || next == 1, "only whoever acknowledges leaves something");
    }
}

fn answer(input: &mut Input<'_>) -> Answer {
    match input.byte() % 4 {
        0 => Answer::Done,
        1 => Answer::Retry { delay: Duration::from_millis(input.number()), message: input.text() },
        2 => Answer::GiveUp { message: input.text() },
        _ => Answer::InProgress,
    }
}

fn subscribe(session: Option<Session>) -> Subscribe {
    let (producer, signature) = ("numbers".to_owned(), "bytes".to_owned());
    let (selector, consumer) = (None, None);
    Subscribe {
        producer,
        signature,
        max_demand: 10,
        min_demand: 5,
        session,
        selector,
        instance: 0,
        consumer,
        announces: true,
        takes_columns: true,
    }
}
