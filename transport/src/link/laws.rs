//! What must hold between the two ends of a link, on random schedules over a pipe that splits bytes anywhere.

use std::collections::VecDeque;

use aqueduct_stage::{Attempt, Demand};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Inbound, InboundEvent, LinkError, Outbound, OutboundEvent};
use crate::codec::{decode, encode};
use crate::frame::{Ack, Credit, Frame, FrameDecoder, Reason, Subscribe, tests as frames};
use crate::{FrameError, Limits};

/// Small, so that events of a few kilobytes are cut to pieces: batches of 1 KiB, pieces of 2 KiB.
fn limits() -> Limits {
    Limits::default().max_data_frame_bytes(4096).max_event_bytes(20_000)
}

fn subscribe() -> Subscribe {
    Subscribe {
        producer: "numbers".into(),
        signature: "(u64, bytes)".into(),
        max_demand: 10,
        min_demand: 5,
        session: None,
        selector: None,
        instance: 0,
        consumer: None,
        announces: false,
        takes_columns: false,
    }
}

/// One step of a schedule. Numbers are scaled to what is possible where they are used.
#[derive(Clone, Debug)]
enum Step {
    /// The consumer asks for so many more; a negative number is a stale ask.
    Ask(i64),
    /// The consumer takes so many more of those that have arrived.
    Take(usize),
    /// The publisher hears an old credit again, of so many events less than it had.
    Repeat(u64),
    /// The producer sends events of these lengths, as far as it may.
    Send(Vec<usize>),
    /// So many bytes move towards the subscriber.
    Down(usize),
    /// So many bytes move towards the publisher.
    Up(usize),
    Finish,
    Fail,
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![4 => 0..100_usize, 1 => 900..1100_usize, 1 => 2000..2100_usize, 1 => 0..15_000_usize];
    let step = prop_oneof![
        8 => (-20..40_i64).prop_map(Step::Ask),
        4 => (0..20_usize).prop_map(Step::Take),
        2 => (0..20_u64).prop_map(Step::Repeat),
        8 => vec(length, 0..20).prop_map(Step::Send),
        12 => prop_oneof![1..40_usize, 1..10_000_usize].prop_map(Step::Down),
        12 => (1..40_usize).prop_map(Step::Up),
        1 => Just(Step::Finish),
        1 => Just(Step::Fail),
        1 => Just(Step::Cancel),
    ];
    vec(step, 0..80)
}

/// Both ends, the bytes between them, and what each side has seen.
struct World {
    inbound: Inbound,
    outbound: Outbound,
    to_subscriber: VecDeque<u8>,
    to_publisher: VecDeque<u8>,
    from_publisher: FrameDecoder,
    from_subscriber: FrameDecoder,
    /// How many bytes may wait for the consumer, and how many events it has taken.
    window: Option<u64>,
    taken: usize,
    /// How many the consumer has asked for.
    asked: u64,
    /// How many the producer has been asked for.
    demand: u64,
    /// Lengths of the events that were sent, in order.
    sent: Vec<usize>,
    /// Numbers and lengths of the events that arrived.
    arrived: Vec<(u64, usize)>,
    /// What the producer ended with.
    ended: Option<Reason>,
    /// What the consumer was told of the end.
    told: Option<InboundEvent>,
    has_cancelled: bool,
    is_cancelled: bool,
}

impl World {
    fn new(window: Option<u64>) -> Self {
        let mut inbound = Inbound::new(limits(), subscribe()).unwrap();
        if let Some(window) = window {
            inbound.bound_bytes(window);
            inbound.taken(Demand::ZERO);
        }
        Self {
            inbound,
            window,
            taken: 0,
            outbound: Outbound::new(limits()),
            to_subscriber: VecDeque::new(),
            to_publisher: VecDeque::new(),
            from_publisher: FrameDecoder::new(limits()),
            from_subscriber: FrameDecoder::new(limits()),
            asked: 0,
            demand: 0,
            sent: Vec::new(),
            arrived: Vec::new(),
            ended: None,
            told: None,
            has_cancelled: false,
            is_cancelled: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(more) => {
                let up_to = self.asked.saturating_add_signed(more);
                self.asked = self.asked.max(up_to);
                self.inbound.ask(Demand::new(up_to));
            }
            Step::Take(more) => {
                self.taken = (self.taken + more).min(self.arrived.len());
                self.inbound.taken(Demand::from(self.taken));
            }
            Step::Repeat(less) => {
                let up_to = self.demand.saturating_sub(less);
                self.outbound.handle_frame(0, &Frame::Credit(Credit { up_to, bytes_up_to: None })).unwrap();
            }
            Step::Send(lengths) => self.send(&lengths),
            Step::Down(bytes) => self.down(bytes).unwrap(),
            Step::Up(bytes) => self.up(bytes),
            Step::Finish => {
                self.outbound.finish();
                self.ended = self.ended.or(Some(Reason::Normal));
            }
            Step::Fail => {
                self.outbound.fail(Reason::Error, "numbers", "boom");
                self.ended = self.ended.or(Some(Reason::Error));
            }
            Step::Cancel => {
                self.inbound.cancel(Reason::Normal, &[]);
                self.has_cancelled |= self.told.is_none();
            }
        }
        self.settle();
    }

    fn send(&mut self, lengths: &[usize]) {
        if self.ended.is_some() || self.is_cancelled {
            return;
        }
        let free = usize::try_from(self.demand).unwrap() - self.sent.len();
        let lengths = &lengths[..lengths.len().min(free)];
        let first = self.sent.len() as u64 + 1;
        let events: Vec<_> =
            (first..).zip(lengths).map(|(number, length)| (number, Bytes::from(vec![7; *length]))).collect();
        self.outbound.send(encode(&events, &limits()).unwrap(), Attempt::FIRST);
        self.sent.extend_from_slice(lengths);
    }

    /// Moves bytes to the subscriber; cutting the input there is what a stream of packets does.
    fn down(&mut self, bytes: usize) -> Result<(), LinkError> {
        let bytes = bytes.min(self.to_subscriber.len());
        self.from_publisher.push(self.to_subscriber.drain(..bytes).collect());
        while let Some(frame) = self.from_publisher.next_frame().unwrap() {
            self.inbound.handle_frame(0, frame)?;
        }
        Ok(())
    }

    fn up(&mut self, bytes: usize) {
        let bytes = bytes.min(self.to_publisher.len());
        self.from_subscriber.push(self.to_publisher.drain(..bytes).collect());
        while let Some(frame) = self.from_subscriber.next_frame().unwrap() {
            if !matches!(frame, Frame::Subscribe(_)) {
                self.outbound.handle_frame(0, &frame).unwrap();
            }
        }
    }

    /// Polls everything, and checks what must hold at any time.
    fn settle(&mut self) {
        while let Some(event) = self.outbound.poll_event() {
            assert!(!self.is_cancelled, "nothing follows a cancel");
            match event {
                OutboundEvent::Demand { up_to } => {
                    assert!(up_to.count() > self.demand, "demand only grows");
                    self.demand = up_to.count();
                }
                OutboundEvent::Handled { .. } => assert_eq!(self.demand, 0, "it chooses before it asks"),
                OutboundEvent::Cancelled { .. } => self.is_cancelled = true,
                OutboundEvent::Answered { .. } | OutboundEvent::Results { .. } => panic!("nobody answers"),
            }
        }
        while let Some(event) = self.inbound.poll_event() {
            assert_eq!(self.told, None, "nothing follows the end");
            match event {
                InboundEvent::Accepted { .. } => assert!(self.arrived.is_empty()),
                InboundEvent::Events { count, payload, .. } => {
                    let events: Vec<(u64, Bytes)> = decode(&payload, count, &limits()).unwrap();
                    self.arrived.extend(events.iter().map(|(number, bytes)| (*number, bytes.len())));
                }
                end => self.told = Some(end),
            }
        }
        self.to_publisher.extend(std::iter::from_fn(|| self.inbound.poll_transmit()).flatten());
        self.to_subscriber.extend(std::iter::from_fn(|| self.outbound.poll_transmit()).flatten());

        assert!(self.demand <= self.asked, "no demand that nobody asked for");
        assert!(self.arrived.len() as u64 <= self.asked, "never more than asked");
        if let Some(window) = self.window {
            let waiting: Vec<u64> = self.arrived[self.taken..].iter().map(|(_, length)| *length as u64).collect();
            let all_but_the_last = waiting.iter().rev().skip(1).sum::<u64>();
            assert!(all_but_the_last < window, "less than the window waits, and one event");
        }
        let numbered: Vec<_> = (1..).zip(self.sent.iter().copied()).collect();
        assert!(numbered.starts_with(&self.arrived), "in order, nothing lost and nothing twice");
    }

    /// Lets everything arrive that is on its way.
    fn flush(&mut self) {
        // What has arrived before may be all that keeps the publisher from going on.
        self.step(Step::Take(usize::MAX / 2));
        while !self.to_publisher.is_empty() || !self.to_subscriber.is_empty() {
            self.step(Step::Up(usize::MAX));
            self.step(Step::Down(usize::MAX));
            self.step(Step::Take(usize::MAX / 2));
        }
    }
}

proptest! {
    #[test]
    fn everything_arrives_once_in_order_and_within_the_demand(
        steps in steps(),
        window in proptest::option::of(prop_oneof![1..50_u64, 1..5000_u64]),
    ) {
        let _watch = aqueduct_watchdog::Watch::over(format!("window {window:?}, {steps:?} "));
        let mut world = World::new(window);
        for step in steps {
            world.step(step);
        }
        world.flush();
        if !world.has_cancelled {
            prop_assert_eq!(world.demand, if world.ended.is_none() { world.asked } else { world.demand });
            world.step(Step::Finish);
            world.flush();
            prop_assert_eq!(world.arrived.len(), world.sent.len());
            match world.ended {
                Some(Reason::Normal) => prop_assert_eq!(world.told, Some(InboundEvent::Done)),
                _ => prop_assert!(matches!(world.told, Some(InboundEvent::Failed { .. })), "{:?}", world.told),
            }
        } else {
            prop_assert_eq!(world.told, None);
            prop_assert!(world.is_cancelled || world.ended.is_some());
            prop_assert!(world.inbound.is_finished() && world.outbound.is_finished());
        }
        prop_assert_eq!(world.inbound.end_of_stream(), Ok(()));
    }

    #[test]
    fn a_stream_cut_anywhere_is_never_a_short_success(
        lengths in vec(prop_oneof![0..50_usize, 0..6000_usize], 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new(None);
        world.step(Step::Ask(100));
        world.flush();
        world.step(Step::Send(lengths));
        world.step(Step::Finish);
        let cut = cut.index(world.to_subscriber.len());
        world.step(Step::Down(cut));
        prop_assert_eq!(&world.told, &None, "the end is the last byte");
        let arrived = world.arrived.len() as u64;
        prop_assert_eq!(world.inbound.end_of_stream(), Err(LinkError::CutOff { arrived }));
    }

    #[test]
    fn a_damaged_stream_never_panics_nor_brings_more_than_was_asked_for(
        lengths in vec(0..3000_usize, 1..10),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut world = World::new(None);
        world.step(Step::Ask(10));
        world.flush();
        world.step(Step::Send(lengths));
        world.step(Step::Finish);
        for (at, with) in damage {
            let at = at.index(world.to_subscriber.len());
            world.to_subscriber[at] = with;
        }
        let mut decoder = FrameDecoder::new(limits());
        decoder.push(world.to_subscriber.into_iter().collect());
        let mut arrived = 0;
        while let Ok(Some(frame)) = decoder.next_frame() {
            let _ = world.inbound.handle_frame(0, frame);
            while let Some(event) = world.inbound.poll_event() {
                if let InboundEvent::Events { count, payload, .. } = event {
                    arrived += count;
                    let _ = decode::<(u64, Bytes)>(&payload, count, &limits());
                }
            }
        }
        prop_assert!(arrived <= 10);
        let _ = world.inbound.end_of_stream();
    }

    #[test]
    fn arbitrary_frames_never_panic(
        sent in vec((0..frames::examples().len(), 0..4_u64, 0..4_u64, any::<bool>()), 0..20),
        up_to: u64,
    ) {
        let mut inbound = Inbound::new(limits(), subscribe()).unwrap();
        let mut outbound = Outbound::new(limits());
        outbound.take_answers();
        inbound.ask(Demand::new(up_to));
        while inbound.poll_transmit().is_some() {}
        let _ = inbound.handle_frame(0, frames::examples().swap_remove(4));
        for (kind, a, b, flag) in sent {
            let mut frame = frames::examples().swap_remove(kind);
            match &mut frame {
                Frame::Credit(credit) => credit.up_to = a,
                Frame::Ack(ack) => *ack = Ack { up_to: a, handled: flag },
                Frame::Cancel(cancel) => cancel.begun = a,
                Frame::Answer(answer) => (answer.number, answer.ranges) = (a, vec![(a, b); 1 + usize::from(flag)]),
                Frame::Answered(answered) => answered.up_to = a,
                Frame::Events(events) => (events.first_seq, events.count) = (a, b),
                Frame::Chunk(chunk) => {
                    (chunk.seq, chunk.index, chunk.is_last, chunk.total_len) = (a, b, flag, a + b);
                }
                Frame::Done(done) => done.last_seq = a,
                Frame::Failed(failed) => failed.last_seq = a,
                _ => {}
            }
            let _ = outbound.handle_frame(0, &frame);
            let _ = inbound.handle_frame(0, frame);
        }
        let _ = inbound.end_of_stream();
        outbound.end_of_stream();
        outbound.give_up();
    }

    #[test]
    fn arbitrary_payloads_never_panic(payload: Vec<u8>, count in prop_oneof![0..5_u64, any::<u64>()]) {
        let _ = decode::<(u64, Option<String>)>(&payload, count, &limits());
        let _ = decode::<Vec<(f64, Bytes)>>(&payload, count, &limits());
        let _ = decode::<u64>(&payload, count, &limits());
    }
}

#[test]
fn names_that_fit_into_no_frame_are_refused() {
    let subscribe = Subscribe { producer: "x".repeat(70_000), ..subscribe() };
    assert!(matches!(Inbound::new(limits(), subscribe), Err(FrameError::TooLong { frame: "subscribe", .. })));
}
