//! What must hold of numbers that go by their differences, when streams are cut at any byte and consumers crash at any moment:
//! they may be cut between any two by a frame, the credit, a stream or a crash, and come all the same, once and in order; and
//! what waits for the consumer is bounded by what it takes there.

use std::collections::VecDeque;

use aqueduct_stage::{Attempt, Demand};

use super::cuts::inbound;
use super::pipes::{Named, Pipes, Random, limits, mixed};
use super::{Inbound, InboundEvent, Outbound, OutboundEvent};
use crate::codec::{Form, NUMBER_BYTES, Written, decode_behind};

const RUNS: u64 = 300;
const EVENTS: u64 = 3000;
const WINDOW: u64 = 400;

#[test]
fn whatever_is_cut_and_crashes_every_number_comes_once_in_order_and_within_the_window() {
    let (mut cuts, mut crashes, mut values, mut columns, mut longest) = (0, 0, 0, 0, 0);
    for seed in 0..RUNS {
        let _named = Named::new(seed);
        let mut world = World::new(seed);
        for step in 0_u64.. {
            assert!(step < 100_000, "seed {seed}: stuck at number {} of {EVENTS}", world.position);
            world.step(step < 600);
            if world.position == EVENTS {
                break;
            }
        }
        (cuts, crashes, values) = (cuts + world.cuts, crashes + world.crashes, values + world.values);
        (columns, longest) = (columns + world.columns, longest.max(world.longest));
    }
    // The schedules are worth something: the longest frame is as long as the limit on frames lets it be.
    assert!(cuts > 3_000 && crashes > 500 && values > 5_000 && columns > 10_000, "{cuts} {crashes} {values} {columns}");
    assert_eq!(longest, limits().batch_bytes() / NUMBER_BYTES);
}

struct World {
    random: Random,
    /// So many bytes may wait for the consumer.
    window: u64,
    /// The producer: what comes next, and what came back.
    next: u64,
    returned: VecDeque<(u64, Attempt)>,
    demand: u64,
    /// Which ones were sent in this session, by their place in it.
    sent: Vec<u64>,
    outbound: Outbound,
    inbound: Inbound,
    pipes: Pipes,
    session: u64,
    /// What has arrived and is not handled, and what each takes.
    inbox: VecDeque<(u64, Attempt, usize)>,
    arrived: u64,
    handled: u64,
    position: u64,
    cuts: u64,
    crashes: u64,
    /// Frames of either form, and the most numbers in one.
    values: u64,
    columns: u64,
    longest: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed),
            window: [60, 300, 5000][seed as usize % 3],
            next: 1,
            returned: VecDeque::new(),
            demand: 0,
            sent: Vec::new(),
            outbound: Outbound::new(limits()),
            inbound: inbound(0),
            pipes: Pipes::new(),
            session: 0,
            inbox: VecDeque::new(),
            arrived: 0,
            handled: 0,
            position: 0,
            cuts: 0,
            crashes: 0,
            values: 0,
            columns: 0,
            longest: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.inbound.bound_bytes(self.window);
        self.inbound.handled(Demand::ZERO);
        self.inbound.ask(Demand::new(WINDOW));
    }

    fn step(&mut self, in_trouble: bool) {
        let (last, at_most) = (self.pipes.last(), 1 + self.below(600) as usize);
        match self.below(if in_trouble { 200 } else { 186 }) {
            0..60 => self.carry_up(last, at_most),
            60..120 => self.carry_down(last, at_most),
            120..145 => self.produce(),
            145..182 => self.consume(),
            182..186 => {
                let at = self.below(last as u64 + 1) as usize;
                if at < last {
                    self.carry_up(at, at_most);
                    self.carry_down(at, at_most);
                }
            }
            186..197 => self.cut(),
            _ => self.crash(),
        }
        self.settle();
    }

    /// Sends a batch of one attempt, often more of it than may go out at once.
    fn produce(&mut self) {
        let most = (1 + self.below(300)).min(self.demand - self.sent.len() as u64);
        let mut batch = Vec::new();
        let attempt = self.returned.front().map_or(Attempt::FIRST, |(_, attempt)| *attempt);
        while (batch.len() as u64) < most {
            match self.returned.pop_front_if(|(_, other)| *other == attempt) {
                Some((index, _)) => batch.push(index),
                None if self.returned.is_empty() && attempt == Attempt::FIRST && self.next <= EVENTS => {
                    batch.push(self.next);
                    self.next += 1;
                }
                None => break,
            }
        }
        let numbers: Vec<_> = batch.iter().copied().map(number).collect();
        self.outbound.send(Written::of(&numbers, &limits()).unwrap(), attempt);
        self.sent.extend(batch);
    }

    fn consume(&mut self) {
        for _ in 0..1 + self.below(40) {
            let Some((index, attempt, _)) = self.inbox.pop_front() else { break };
            if index <= self.position {
                assert!(attempt > Attempt::FIRST, "number {index} came twice, and does not say so");
            } else {
                assert_eq!(index, self.position + 1, "lost");
                self.position = index;
            }
            self.handled += 1;
        }
        self.inbound.handled(Demand::new(self.handled));
        self.inbound.ask(Demand::new(self.handled + WINDOW));
    }

    fn cut(&mut self) {
        let is_cut = self.pipes.cut(&mut self.inbound, &mut self.outbound, &mut self.random);
        self.cuts += u64::from(is_cut);
    }

    /// The consumer's node starts again. What it has not handled is given to it again.
    fn crash(&mut self) {
        self.crashes += 1;
        self.outbound.give_up();
        self.settle();
        let mut back = VecDeque::new();
        while let Some(run) = self.outbound.poll_unfinished() {
            let from = run.first as usize - 1;
            let indices = &self.sent[from..from + run.count as usize];
            let numbers = read((run.form, &run.payload, run.count));
            assert!(numbers.into_iter().eq(indices.iter().copied().map(number)), "what came back is what was sent");
            back.extend(indices.iter().map(|index| (*index, run.attempt)));
        }
        back.append(&mut self.returned);
        self.returned = back;
        self.session += 1;
        (self.inbound, self.outbound) = (inbound(self.session), Outbound::new(limits()));
        (self.demand, self.arrived, self.handled) = (0, 0, 0);
        self.sent.clear();
        self.inbox.clear();
        self.pipes = Pipes::new();
        self.begin();
    }

    fn carry_up(&mut self, at: usize, bytes: usize) {
        self.pipes.up(at, bytes, &mut self.outbound, |_| {});
    }

    fn carry_down(&mut self, at: usize, bytes: usize) {
        self.pipes.down(at, bytes, &mut self.inbound);
    }

    fn settle(&mut self) {
        while let Some(event) = self.outbound.poll_event() {
            if let OutboundEvent::Demand { up_to } = event {
                self.demand = up_to.count();
            }
        }
        while let Some(event) = self.inbound.poll_event() {
            let InboundEvent::Events { count, attempt, form, payload } = event else { continue };
            let bytes = match form {
                Form::Values => payload.len() / count as usize,
                Form::Columns => NUMBER_BYTES,
            };
            let frames = if form == Form::Values { &mut self.values } else { &mut self.columns };
            *frames += 1;
            self.longest = self.longest.max(count as usize);
            for got in read((form, &payload, count)) {
                let index = self.sent[self.arrived as usize];
                assert_eq!(got, number(index));
                self.inbox.push_back((index, attempt, bytes));
                self.arrived += 1;
            }
            assert!(self.inbox.len() as u64 <= WINDOW, "more than was asked for");
            let waiting: usize = self.inbox.iter().rev().skip(1).map(|(_, _, bytes)| bytes).sum();
            assert!((waiting as u64) < self.window, "{waiting} bytes wait, of {}", self.window);
        }
        self.pipes.transmit(&mut self.inbound, &mut self.outbound);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }
}

/// The number at that place: runs of every width, also of none.
fn number(index: u64) -> u64 {
    match index / 100 % 8 {
        0 => index,
        width => mixed(index) >> (8 * (width - 1)),
    }
}

fn read(payload: (Form, &[u8], u64)) -> Vec<u64> {
    let mut numbers = Vec::new();
    decode_behind(&mut numbers, payload, &limits()).unwrap();
    numbers
}
