//! [`State`]: which child of a pool is in which runner, what waits for one, and what follows from each end. Pure, but for the
//! clock; what is to be done without the lock is returned as [`Effects`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Turn, Work};
use crate::error::Origin;
use crate::tasks::child::{ChildId, Shutdown};
use crate::tasks::children::{Children, Ended, Next, Rules};
use crate::tasks::stopping::{Order, Seat, Told};
use crate::{Exit, Failure, FailureKind};

/// What a pool knows, behind its lock.
pub(super) struct State<W: Work> {
    pub(super) children: Children,
    /// Children that have no runner yet.
    pub(super) queue: VecDeque<(ChildId, W::Item)>,
    /// What those of them were told, before they have a runner that could be.
    pub(super) queued_orders: BTreeMap<ChildId, Order>,
    /// One for each runner.
    pub(super) seats: Vec<Arc<Seat>>,
    /// In which seat a child is, by its slot.
    pub(super) seat_of: Vec<Option<u32>>,
    /// The runners without a child. The last is the next to get one: its memory is still in the cache.
    pub(super) parked: Vec<u32>,
    /// The runner that was woken or started for the queue, and has not come yet.
    pub(super) roused: Option<u32>,
    /// Whoever waits for the end of a child.
    pub(super) watchers: BTreeMap<ChildId, Vec<oneshot::Sender<Exit>>>,
    /// The owner was called, and has not come yet.
    pub(super) owner_called: bool,
    /// Why the supervisor gave up, until somebody asks.
    pub(super) gave_up: Option<Failure>,
    /// How long the children were given when they were told to end; within, nothing if there is no bound.
    pub(super) grace: Option<Option<Duration>>,
    /// The children were dropped, or are about to be.
    pub(super) killed: bool,
    /// No child is left and none will come: runners end.
    pub(super) over: bool,
}

/// What is to be done when the lock is no longer held.
pub(super) struct Effects<W: Work> {
    pub(super) rouse: Option<Rouse>,
    /// The owner is to be called.
    pub(super) call_owner: bool,
    /// No child is left.
    pub(super) emptied: bool,
    /// What is rare.
    pub(super) rest: Vec<Effect<W::Item>>,
}

pub(super) enum Effect<T> {
    Tell(Told),
    Wake(Waker),
    /// Drops what no child was made from: that is the user's code.
    Discard(T),
    Report(oneshot::Sender<Exit>, Exit),
}

/// How a runner comes to a child that waits for one.
pub(super) enum Rouse {
    Wake(Option<Waker>),
    Start(u32, Arc<Seat>),
}

impl<W: Work> State<W> {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            children: Children::new(rules),
            queue: VecDeque::new(),
            queued_orders: BTreeMap::new(),
            seats: Vec::new(),
            seat_of: Vec::new(),
            parked: Vec::new(),
            roused: None,
            watchers: BTreeMap::new(),
            owner_called: false,
            gave_up: None,
            grace: None,
            killed: false,
            over: false,
        }
    }

    pub(super) fn enqueue(&mut self, id: ChildId, item: W::Item) {
        let slot = id.slot as usize;
        if slot >= self.seat_of.len() {
            self.seat_of.resize(slot + 1, None);
        }
        self.seat_of[slot] = None;
        self.queue.push_back((id, item));
    }

    /// Has a runner come for the queue, unless one is on its way.
    pub(super) fn rouse(&mut self) -> Option<Rouse> {
        if self.queue.is_empty() || self.roused.is_some() {
            return None;
        }
        if let Some(runner) = self.parked.pop() {
            self.roused = Some(runner);
            return Some(Rouse::Wake(self.seats[runner as usize].waker()));
        }
        let runner = u32::try_from(self.seats.len()).expect("there is no memory for so many runners");
        let seat = Arc::<Seat>::default();
        self.seats.push(Arc::clone(&seat));
        self.roused = Some(runner);
        Some(Rouse::Start(runner, seat))
    }

    /// What a runner without a child does next.
    pub(super) fn next(&mut self, runner: u32, effects: &mut Effects<W>) -> Turn<W::Item> {
        if self.over {
            return Turn::Over;
        }
        let Some((id, item)) = self.queue.pop_front() else {
            self.parked.push(runner);
            return Turn::Park;
        };
        self.seat_of[id.slot as usize] = Some(runner);
        if !self.queued_orders.is_empty()
            && let Some(order) = self.queued_orders.remove(&id)
        {
            // It is about to look.
            let _unheard = self.seats[runner as usize].order(order);
        }
        effects.rouse = self.rouse();
        Turn::Run(id, item)
    }

    /// Tells a child to end.
    pub(super) fn order(&mut self, id: ChildId, order: Order, effects: &mut Effects<W>, name: &Origin) {
        if let Some(runner) = self.seat_of[id.slot as usize] {
            effects.rest.push(Effect::Tell(self.seats[runner as usize].order(order)));
        } else if order != Order::Kill {
            self.queued_orders.insert(id, order);
        } else if let Some(at) = self.queue.iter().position(|(queued, _)| *queued == id) {
            effects.rest.extend(self.queue.remove(at).map(|(_, item)| Effect::Discard(item)));
            self.on_ended(id, Ended::Killed, effects, name);
        }
    }

    /// Tells all children to end. Returns by when they will have ended, if there is a bound.
    pub(super) fn close(&mut self, effects: &mut Effects<W>, name: &Origin) -> Option<Duration> {
        let mut longest = Some(Duration::ZERO);
        for (id, shutdown) in self.children.close() {
            longest = match shutdown {
                Shutdown::Kill => longest,
                Shutdown::After(time) => longest.map(|longest| longest.max(time)),
                Shutdown::Unlimited => None,
            };
            self.order(id, order_for(shutdown), effects, name);
        }
        self.end_if_over(effects);
        *self.grace.get_or_insert(longest)
    }

    /// Returns after how long the child is to be started again, if it is.
    pub(super) fn on_ended(
        &mut self,
        id: ChildId,
        ended: Ended,
        effects: &mut Effects<W>,
        name: &Origin,
    ) -> Option<Duration> {
        let watchers = if self.watchers.is_empty() { None } else { self.watchers.remove(&id) };
        let failure = match &ended {
            Ended::Failed(failure) | Ended::NotStarted(failure) => Some(failure.clone()),
            Ended::Done | Ended::Killed => None,
        };
        let killed = matches!(ended, Ended::Killed);
        match self.children.ended(id, ended, Instant::now, || scattered(id.number)) {
            Next::Restart(delay) => {
                debug_assert!(watchers.is_none(), "a child that was told to end is not restarted");
                return Some(delay);
            }
            Next::Gone(ask) => {
                if ask && !std::mem::replace(&mut self.owner_called, true) {
                    effects.call_owner = true;
                }
            }
            Next::GiveUp => {
                let intensity = self.children.rules().intensity.unwrap_or_default();
                let (restarts, within) = (intensity.max_restarts(), intensity.within());
                let last = failure.as_ref().map_or("it ended", Failure::message);
                let why = format!("more than {restarts} restarts within {within:?}; the last child to end: {last}");
                let failure = Failure::at(name, FailureKind::Tasks, why);
                tracing::error!(supervisor = &**name, %failure, "supervisor gives up");
                self.gave_up = Some(failure);
                effects.call_owner = true;
                self.close(effects, name);
            }
        }
        for watcher in watchers.into_iter().flatten() {
            let exit = match &failure {
                Some(failure) => Exit::Failed(failure.clone()),
                None if killed => {
                    Exit::Failed(Failure::at(name, FailureKind::Killed, format!("child {id} was dropped")))
                }
                None => Exit::Normal,
            };
            effects.rest.push(Effect::Report(watcher, exit));
        }
        effects.emptied |= self.children.is_empty();
        self.end_if_over(effects);
        None
    }

    fn end_if_over(&mut self, effects: &mut Effects<W>) {
        if self.children.is_closed() && self.children.is_empty() && !self.over {
            self.over = true;
            effects.emptied = true;
            let idle = self.parked.drain(..).chain(self.roused.take());
            let wakers = idle.filter_map(|runner| self.seats[runner as usize].waker());
            effects.rest.extend(wakers.map(Effect::Wake));
        }
    }
}

impl<W: Work> Default for Effects<W> {
    fn default() -> Self {
        Self { rouse: None, call_owner: false, emptied: false, rest: Vec::new() }
    }
}

pub(super) fn order_for(shutdown: Shutdown) -> Order {
    match shutdown {
        Shutdown::Kill => Order::Kill,
        Shutdown::After(time) => Instant::now().checked_add(time).map_or(Order::End, Order::EndBy),
        Shutdown::Unlimited => Order::End,
    }
}

/// A number as unlike those of its neighbours as a random one: what waits for a restart is to be spread, and the same in
/// every run.
fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}
