//! What must hold of answers to single events when streams are cut at any byte: each reaches the publisher's side once and
//! unchanged, in any order of the events; and what is not answered at the end is handed back, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aqueduct_stage::{Answer, Attempt, Demand};

use super::cuts::inbound;
use super::pipes::{Named, Pipes, Random, limits};
use super::{Inbound, InboundEvent, Outbound, OutboundEvent};
use crate::codec::{Columns, Written, decode_behind, encode};
use crate::frame::Frame;

const RUNS: u64 = 150;
const EVENTS: u64 = 300;
const WINDOW: u64 = 24;

#[test]
fn whatever_is_cut_every_answer_is_taken_once() {
    let (mut cuts, mut again, mut returned, mut longest_row) = (0, 0, 0, 0);
    for seed in 0..RUNS {
        let _named = Named::new(seed);
        let mut world = World::new(seed);
        for step in 0_u64.. {
            assert!(step < 100_000, "seed {seed}: stuck, {} of {EVENTS} answered", world.taken.len());
            world.step(step < 1000);
            if world.is_done {
                break;
            }
        }
        assert_eq!(world.said, world.taken, "seed {seed}");
        returned += world.taken.values().filter(|answer| **answer == Answer::Returned).count();
        assert_eq!((world.taken.len() as u64, world.outbound.unacknowledged_bytes()), (EVENTS, 0), "seed {seed}");
        (cuts, again) = (cuts + world.cuts, again + world.answers_again);
        longest_row = longest_row.max(world.longest_row);
    }
    // The schedules are worth something.
    assert!(cuts > 3_000 && again > 500, "{cuts} cuts, {again} answers came again");
    assert!(returned > 500, "{returned} events were given back");
    assert!(longest_row >= 5, "{longest_row} results in a row");
}

#[test]
fn what_is_not_answered_at_the_end_is_handed_back() {
    for seed in 0..RUNS {
        let _named = Named::new(seed);
        let mut world = World::new(seed);
        for _ in 0..100 + seed % 500 {
            world.step(true);
        }
        world.outbound.give_up();
        world.settle();
        let mut handed_back = BTreeSet::new();
        while let Some(run) = world.outbound.poll_unfinished() {
            let mut numbers = Vec::<u64>::new();
            decode_behind(&mut numbers, (run.form, &run.payload, run.count), &limits()).unwrap();
            for number in numbers {
                assert!(handed_back.insert(number), "seed {seed}: twice");
            }
        }
        let expected: BTreeSet<_> = (1..=world.sent).filter(|number| !world.taken.contains_key(number)).collect();
        assert_eq!(handed_back, expected, "seed {seed}");
    }
}

struct World {
    random: Random,
    inbound: Inbound,
    outbound: Outbound,
    pipes: Pipes,
    demand: u64,
    sent: u64,
    /// What the consumer has and has not answered.
    inbox: Vec<u64>,
    /// Those of it that it has begun with, as it has said.
    begun: BTreeSet<u64>,
    /// Final answers: those that the consumer gave, and those that came.
    said: BTreeMap<u64, Answer>,
    taken: BTreeMap<u64, Answer>,
    is_done: bool,
    cuts: u64,
    answers_again: u64,
    /// The numbers of the answers that have reached the publisher.
    numbers: BTreeSet<u64>,
    longest_row: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let (mut inbound, mut outbound) = (inbound(0), Outbound::new(limits()));
        outbound.take_answers();
        outbound.announced();
        inbound.handled(Demand::ZERO);
        inbound.ask(Demand::new(WINDOW));
        Self {
            random: Random(seed),
            inbound,
            outbound,
            pipes: Pipes::new(),
            demand: 0,
            sent: 0,
            inbox: Vec::new(),
            begun: BTreeSet::new(),
            said: BTreeMap::new(),
            taken: BTreeMap::new(),
            is_done: false,
            cuts: 0,
            answers_again: 0,
            numbers: BTreeSet::new(),
            longest_row: 0,
        }
    }

    fn step(&mut self, in_trouble: bool) {
        let at_most = if self.below(3) == 0 { 20 } else { 500 };
        let last = self.pipes.last();
        if self.sent > 0 && self.below(8) == 0 {
            let number = 1 + self.below(self.sent);
            self.outbound.revoke(number);
        }
        match self.below(if in_trouble { 195 } else { 187 }) {
            0..60 => self.carry_up(last, at_most),
            60..110 => self.carry_down(last, at_most),
            110..140 => self.produce(),
            140..175 => self.answer(),
            175..183 => (0..WINDOW).for_each(|_| self.answer()),
            183..186 => {
                let at = self.below(last as u64 + 1) as usize;
                if at < last {
                    self.carry_up(at, at_most);
                    self.carry_down(at, at_most);
                }
            }
            186 => self.inbound.restate(),
            _ => self.cut(),
        }
        self.settle();
    }

    fn produce(&mut self) {
        let count = (1 + self.below(8)).min(self.demand - self.sent).min(EVENTS - self.sent);
        let events: Vec<_> = (self.sent + 1..=self.sent + count).collect();
        // In both forms, in turns.
        let columns = Columns::of(&events).filter(|_| self.sent.is_multiple_of(2)).map(Written::Columns);
        self.outbound.send(columns.unwrap_or_else(|| encode(&events, &limits()).unwrap().into()), Attempt::FIRST);
        self.sent += count;
        if self.taken.len() as u64 == EVENTS {
            self.outbound.finish();
        }
    }

    /// Of any event that is here, the oldest more seldom than the others.
    fn answer(&mut self) {
        if self.inbox.is_empty() {
            return;
        }
        let at = self.below(self.inbox.len() as u64) as usize;
        let message = format!("{at}");
        let answer = match self.below(10) {
            0 => Answer::Retry { delay: Duration::from_millis(self.below(100)), message },
            1 => Answer::GiveUp { message },
            2 => return self.inbound.answer(self.inbox[at], Answer::InProgress),
            4 => {
                self.begun.insert(self.inbox[at]);
                return self.inbound.answer(self.inbox[at], Answer::Begun);
            }
            // Some in several pieces, and many in rows, whose frames are longer than what stands apart.
            3 => Answer::DoneWith(vec![7; self.below(9000) as usize]),
            5..8 => Answer::DoneWith(vec![at as u8; self.below(300) as usize]),
            _ => Answer::Done,
        };
        let number = self.inbox.remove(at);
        match &answer {
            Answer::DoneWith(result) => self.inbound.result(number, result),
            answer => self.inbound.answer(number, answer.clone()),
        }
        // The first one counts.
        self.inbound.answer(number, Answer::Done);
        self.said.insert(number, answer);
        self.inbound.ask(Demand::new(self.said.len() as u64 + WINDOW));
    }

    /// Gives an event back, and lets go of it later.
    fn give_back(&mut self, number: u64) {
        let at = self.inbox.iter().position(|other| *other == number).expect("it has no answer");
        self.inbox.remove(at);
        self.inbound.answer(number, Answer::Returned);
        self.inbound.answer(number, Answer::Returned);
        self.said.insert(number, Answer::Returned);
        self.inbound.ask(Demand::new(self.said.len() as u64 + WINDOW));
    }

    fn cut(&mut self) {
        let is_cut = self.pipes.cut(&mut self.inbound, &mut self.outbound, &mut self.random);
        self.cuts += u64::from(is_cut);
    }

    fn carry_up(&mut self, at: usize, bytes: usize) {
        self.pipes.up(at, bytes, &mut self.outbound, |frame| {
            let number = match frame {
                Frame::Answer(answer) => answer.number,
                Frame::Results(results) => {
                    self.longest_row = self.longest_row.max(results.row.len());
                    results.number
                }
                _ => 0,
            };
            self.answers_again += u64::from(number > 0 && !self.numbers.insert(number));
        });
    }

    fn carry_down(&mut self, at: usize, bytes: usize) {
        self.pipes.down(at, bytes, &mut self.inbound);
    }

    fn settle(&mut self) {
        while let Some(event) = self.outbound.poll_event() {
            match event {
                OutboundEvent::Handled { up_to } => assert_eq!(up_to, Demand::ZERO),
                OutboundEvent::Demand { up_to } => self.demand = up_to.count(),
                OutboundEvent::Answered { first, last, answer } if answer.is_final() => {
                    for number in first..=last {
                        assert_eq!(self.taken.insert(number, answer.clone()), None, "event {number} answered twice");
                    }
                }
                OutboundEvent::Results { row } => {
                    for (number, result) in row.iter() {
                        let before = self.taken.insert(number, Answer::DoneWith(result.to_vec()));
                        assert_eq!(before, None, "event {number} answered twice");
                    }
                }
                OutboundEvent::Answered { first, answer, .. } => {
                    assert!(answer != Answer::Begun || self.begun.contains(&first), "event {first} was not begun");
                    assert!(!self.taken.contains_key(&first), "event {first} is in progress after its answer");
                }
                OutboundEvent::Cancelled { .. } => {}
            }
        }
        while let Some(event) = self.inbound.poll_event() {
            match event {
                InboundEvent::Events { count, form, payload, .. } => {
                    decode_behind(&mut self.inbox, (form, &payload, count), &limits()).unwrap();
                }
                InboundEvent::Revoked { number } if self.begun.contains(&number) => {
                    self.inbound.answer(number, Answer::Begun);
                }
                InboundEvent::Revoked { number } => self.give_back(number),
                InboundEvent::Done => self.is_done = true,
                InboundEvent::Accepted { .. } | InboundEvent::Resumed => {}
                other => panic!("{other:?}"),
            }
        }
        self.pipes.transmit(&mut self.inbound, &mut self.outbound);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }
}
