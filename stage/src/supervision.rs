//! [`Strategy`], and what a supervisor does when one of its children has ended: which others are stopped, what is
//! started again and when, and when it gives up. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::restart::Restarts;
use crate::{Backoff, Exit, Intensity, Restart};

mod books;
#[cfg(test)]
mod checklist;
pub(crate) mod driver;
#[cfg(test)]
mod model;

/// Which stages are started again when one has to be: OTP's strategies. The order is that of declaration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The one that ended. What falls with it through a subscription is a case of its own.
    #[default]
    OneForOne,
    /// It, and every stage that was declared after it: those are stopped, the last first, and all are started in order.
    /// A stage that does not stop within 5 s is killed at its next `await`.
    RestForOne,
    /// All: the others are stopped, the last first, and all are started in order, also those that were done.
    OneForAll,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Ask the child to end.
    Stop(usize),
    /// It has not ended in time: end it.
    Kill(usize),
    /// Start the child anew. It counts as started unless [`Supervision::start_failed`] is called.
    Start(usize),
    /// Every child has been stopped: end, and say that it was too much.
    GiveUp,
}

/// What becomes of a child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is started again, at once or later.
    Returns,
    /// It is not.
    Ends,
}

/// The children of a supervisor, in the order of their declaration.
#[derive(Debug)]
pub(crate) struct Supervision {
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    pub(crate) backoff: Backoff,
    /// Drives the jitter.
    pub(crate) entropy: u64,
    children: Vec<Child>,
    restarts: Restarts,
    /// Children that are up and are to be stopped; the last is the next.
    to_stop: BTreeSet<usize>,
    /// The one child that was asked to end, and when it is killed.
    stopping: Option<(usize, Instant)>,
    /// Children that are to be started, and when. With a strategy that concerns several, all at one time.
    down: BTreeMap<usize, Instant>,
    phase: Phase,
}

#[derive(Debug)]
struct Child {
    restart: Restart,
    state: State,
    /// Whether it was ever started again.
    restarted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Stopping,
    /// To be started.
    Down,
    /// Not to be started, unless together with others. A temporary child then is not either.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    GivingUp,
    Over,
}

impl Supervision {
    pub(crate) fn new(strategy: Strategy, intensity: Intensity, backoff: Backoff, seed: u64) -> Self {
        Self {
            strategy,
            intensity,
            backoff,
            entropy: seed,
            children: Vec::new(),
            restarts: Restarts::default(),
            to_stop: BTreeSet::new(),
            stopping: None,
            down: BTreeMap::new(),
            phase: Phase::Running,
        }
    }

    /// So many children are about to be taken in.
    pub(crate) fn make_room(&mut self, children: usize) {
        self.children.reserve(children);
    }

    /// Takes in a child that has been started. Returns its number.
    pub(crate) fn add(&mut self, restart: Restart) -> usize {
        self.children.push(Child { restart, state: State::Up, restarted: false });
        self.children.len() - 1
    }

    /// A child has ended, by itself or because it was asked to. `counted` says that it fell with another whose end was
    /// counted: then this one is not.
    pub(crate) fn exited(&mut self, child: usize, exit: &Exit, counted: bool, now: Instant) -> Fate {
        let Child { restart, state, .. } = self.children[child];
        match state {
            State::Up if self.to_stop.remove(&child) => self.stopped(child, now),
            State::Up if restart.applies_to(exit) && self.phase == Phase::Running => self.fall(child, counted, now),
            State::Stopping => {
                self.stopping = None;
                self.stopped(child, now)
            }
            State::Up | State::Down | State::Ended => {
                debug_assert_eq!(state, State::Up, "only what runs can end");
                self.children[child].state = State::Ended;
                Fate::Ends
            }
        }
    }

    /// A child has ended, and there is nothing left that it could do.
    pub(crate) fn done(&mut self, child: usize, now: Instant) -> Fate {
        if self.children[child].state == State::Up && !self.to_stop.contains(&child) {
            self.children[child].state = State::Ended;
            return Fate::Ends;
        }
        self.exited(child, &Exit::Normal, false, now)
    }

    /// A child could not be started. The first time it ever is, that is the end of all, as in OTP; later it is an end like
    /// any other, and tried again.
    pub(crate) fn start_failed(&mut self, child: usize, now: Instant) -> Fate {
        if self.children[child].restarted && self.phase == Phase::Running {
            return self.fall(child, false, now);
        }
        self.children[child].state = State::Ended;
        self.to_stop.remove(&child);
        self.give_up();
        Fate::Ends
    }

    /// What to do now. Each command is carried out before the next is asked for; a stop is over when the child
    /// [has ended](Self::exited).
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Command> {
        if let Some((child, kill_at)) = &mut self.stopping {
            let due = *kill_at <= now;
            *kill_at = if due { now + FOR_EVER } else { *kill_at };
            return due.then_some(Command::Kill(*child));
        }
        if let Some(child) = self.to_stop.pop_last() {
            self.children[child].state = State::Stopping;
            self.stopping = Some((child, now + STOP_GRACE));
            return Some(Command::Stop(child));
        }
        if self.phase != Phase::Running {
            let first = std::mem::replace(&mut self.phase, Phase::Over) == Phase::GivingUp;
            return first.then_some(Command::GiveUp);
        }
        let (&child, _) = self.down.iter().find(|(_, at)| **at <= now)?;
        self.down.remove(&child);
        self.children[child].state = State::Up;
        self.children[child].restarted = true;
        Some(Command::Start(child))
    }

    /// When to [`poll`](Self::poll) again, if nothing happens before.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        match self.stopping {
            Some((_, kill_at)) => Some(kill_at),
            None => self.down.values().min().copied(),
        }
    }

    /// Whether it has been too much.
    pub(crate) fn is_giving_up(&self) -> bool {
        self.phase != Phase::Running
    }

    /// A child that was to be stopped has ended.
    fn stopped(&mut self, child: usize, now: Instant) -> Fate {
        if self.phase != Phase::Running || self.children[child].restart == Restart::Temporary {
            self.children[child].state = State::Ended;
            return Fate::Ends;
        }
        // Whatever made it stop is waiting as well.
        let at = self.down.values().max().copied().unwrap_or(now);
        self.children[child].state = State::Down;
        self.down.insert(child, at);
        Fate::Returns
    }

    /// A child has ended that is to be started again.
    fn fall(&mut self, child: usize, counted: bool, now: Instant) -> Fate {
        let mut at = now;
        if !counted {
            let Some(number) = self.restarts.count(self.intensity, now) else {
                self.children[child].state = State::Ended;
                self.give_up();
                return Fate::Ends;
            };
            at += self.backoff.delay(number, draw(&mut self.entropy));
        }
        // What falls with others, or takes others with it, waits for them.
        if counted || self.strategy != Strategy::OneForOne {
            at = self.down.values().fold(at, |latest, other| latest.max(*other));
        }
        let also = match self.strategy {
            Strategy::OneForOne => 0..0,
            Strategy::RestForOne => child + 1..self.children.len(),
            Strategy::OneForAll => 0..self.children.len(),
        };
        self.set_down(child, at);
        for other in also {
            let Child { restart, state, .. } = self.children[other];
            match state {
                State::Up => {
                    self.to_stop.insert(other);
                }
                State::Ended if restart != Restart::Temporary => self.set_down(other, at),
                State::Ended | State::Stopping | State::Down => {}
            }
        }
        if self.strategy != Strategy::OneForOne {
            self.down.values_mut().for_each(|other| *other = at);
        }
        Fate::Returns
    }

    fn set_down(&mut self, child: usize, at: Instant) {
        self.children[child].state = State::Down;
        self.down.insert(child, at);
    }

    fn give_up(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::GivingUp;
        self.down.clear();
        for (number, child) in self.children.iter_mut().enumerate() {
            match child.state {
                State::Up => {
                    self.to_stop.insert(number);
                }
                State::Down => child.state = State::Ended,
                State::Stopping | State::Ended => {}
            }
        }
    }
}

/// The next of a sequence of well mixed numbers: splitmix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How long a child is given to end when it is asked to, before it is killed: OTP's default for a worker.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A child that was killed is waited for: nothing more can be done.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
