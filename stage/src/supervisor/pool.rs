//! [`Pool`]: the children of one supervisor, and the runners that they run in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use aqueduct_dispatcher::{SubscriptionId, Window};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::child::{ChildCounts, ChildId, ChildInfo, ChildNotFound, Shutdown, StartChildError};
use super::children::{Children, Ended, Next, Rules, Spec};
use super::runner::Runner;
use super::stopping::{Order, Seat, Told};
use crate::callbacks::guarded_now;
use crate::error::Origin;
use crate::{BoxFuture, Exit, Failure, FailureKind, Result};

/// What children are made from.
pub(crate) trait Work: Send + Sync + 'static {
    /// What one child is made from.
    type Item: Send + 'static;
    /// A child.
    type Task: Future<Output = Result> + Send + 'static;

    /// What the child can be made from once more, if it may be restarted.
    fn keep(&self, item: &Self::Item) -> Option<Self::Item>;

    fn start(&self, item: Self::Item) -> Self::Task;

    /// A child has failed as often as it may, and this is what it was made from.
    fn bury(&self, item: Self::Item, failure: &Failure, attempts: u32) {
        let _ = (failure, attempts);
        drop(item);
    }
}

/// The children of one supervisor, shared by it, by whoever has a reference, and by the runners.
///
/// A runner is a task that runs one child at a time, and then the next. So a child costs no task of its own, and neither
/// an allocation; and as there is a runner for each child that is alive, no child waits for another. Only one runner at
/// a time is on its way to the children that wait for one: as it takes the first, it rouses another for the second.
pub(crate) struct Pool<W: Work> {
    pub(crate) name: Origin,
    pub(crate) work: W,
    /// Starts a task.
    spawn: Box<dyn Fn(BoxFuture<'static>) + Send + Sync>,
    /// Called when there is demand to be asked for, or the supervisor has given up.
    owner: OnceLock<Box<dyn Fn() + Send + Sync>>,
    state: Mutex<State<W>>,
    /// Notified when no child is left.
    emptied: Notify,
}

struct State<W: Work> {
    children: Children,
    /// Children that have no runner yet.
    queue: VecDeque<(ChildId, W::Item)>,
    /// What those of them were told, before they have a runner that could be.
    queued_orders: BTreeMap<ChildId, Order>,
    /// One for each runner.
    seats: Vec<Arc<Seat>>,
    /// In which seat a child is, by its slot.
    seat_of: Vec<Option<u32>>,
    /// The runners without a child. The last is the next to get one: its memory is still in the cache.
    parked: Vec<u32>,
    /// The runner that was woken or started for the queue, and has not come yet.
    roused: Option<u32>,
    /// Whoever waits for the end of a child.
    watchers: BTreeMap<ChildId, Vec<oneshot::Sender<Exit>>>,
    /// The owner was called, and has not come yet.
    owner_called: bool,
    /// Why the supervisor gave up, until somebody asks.
    gave_up: Option<Failure>,
    /// How long the children were given when they were told to end; within, nothing if there is no bound.
    grace: Option<Option<Duration>>,
    /// The children were dropped, or are about to be.
    killed: bool,
    /// No child is left and none will come: runners end.
    over: bool,
}

/// What is to be done when the lock is no longer held.
struct Effects<W: Work> {
    rouse: Option<Rouse>,
    /// The owner is to be called.
    call_owner: bool,
    /// No child is left.
    emptied: bool,
    /// What is rare.
    rest: Vec<Effect<W::Item>>,
}

enum Effect<T> {
    Tell(Told),
    Wake(Waker),
    /// Drops what no child was made from: that is the user's code.
    Discard(T),
    Report(oneshot::Sender<Exit>, Exit),
}

/// How a runner comes to a child that waits for one.
enum Rouse {
    Wake(Option<Waker>),
    Start(u32, Arc<Seat>),
}

/// What a runner does next.
pub(crate) enum Turn<T> {
    /// Run this child.
    Run(ChildId, T),
    /// Start its child again, after so long.
    Restart(Duration),
    /// Wait to be woken.
    Park,
    /// End.
    Over,
}

impl<W: Work> Pool<W> {
    pub(crate) fn new(
        name: impl Into<Arc<str>>,
        rules: Rules,
        work: W,
        spawn: Box<dyn Fn(BoxFuture<'static>) + Send + Sync>,
    ) -> Arc<Self> {
        let state = State {
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
        };
        let (state, owner, emptied) = (Mutex::new(state), OnceLock::new(), Notify::new());
        Arc::new(Self { name: Origin::stage(name), work, spawn, owner, state, emptied })
    }

    /// Sets what is called when there is demand to be asked for or the supervisor has given up. The first counts.
    pub(crate) fn set_owner(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.owner.set(Box::new(call));
    }

    pub(crate) fn subscribe(&self, id: SubscriptionId, window: Window) {
        self.lock().children.subscribe(id, window);
    }

    pub(crate) fn unsubscribe(&self, id: SubscriptionId) {
        self.lock().children.unsubscribe(id);
    }

    /// The demand that is to be asked for now.
    pub(crate) fn returned(&self) -> Vec<(SubscriptionId, usize)> {
        let mut state = self.lock();
        state.owner_called = false;
        state.children.returned().collect()
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.lock().children.has_given_up()
    }

    /// Why the supervisor has given up; told once.
    pub(crate) fn gave_up(&self) -> Option<Failure> {
        self.lock().gave_up.take()
    }

    /// Starts a child for each item, whatever the bound: it is the producer's to keep to its demand.
    pub(crate) fn start_all(self: &Arc<Self>, items: Vec<W::Item>, spec: Spec, from: SubscriptionId) {
        let mut items = items.into_iter();
        let mut state = self.lock();
        while items.len() > 0
            && let Some(id) = state.children.start(spec, Some(from))
            && let Some(item) = items.next()
        {
            state.enqueue(id, item);
        }
        let effects = Effects { rouse: state.rouse(), ..Effects::default() };
        drop(state);
        self.carry_out(effects);
        // Of a supervisor that has given up: what is left is dropped, without the lock.
        items.for_each(|item| self.discard(item));
    }

    /// Starts a child. `watcher` is told how it ended when it is gone.
    pub(crate) fn start(
        self: &Arc<Self>,
        item: W::Item,
        spec: Spec,
        watcher: Option<oneshot::Sender<Exit>>,
    ) -> Result<ChildId, StartChildError> {
        let mut state = self.lock();
        if state.children.is_full() && !state.children.is_closed() {
            let (supervisor, max_children) = (self.name.to_string(), state.children.rules().max_children);
            drop(state);
            self.discard(item);
            return Err(StartChildError::MaxChildren { supervisor, max_children });
        }
        let Some(id) = state.children.start(spec, None) else {
            drop(state);
            self.discard(item);
            return Err(StartChildError::Ended(self.name.to_string()));
        };
        if let Some(watcher) = watcher {
            state.watchers.entry(id).or_default().push(watcher);
        }
        state.enqueue(id, item);
        let effects = Effects { rouse: state.rouse(), ..Effects::default() };
        drop(state);
        self.carry_out(effects);
        Ok(id)
    }

    /// Tells a child to end; the answer comes when it is gone.
    pub(crate) fn terminate(self: &Arc<Self>, id: ChildId) -> Result<oneshot::Receiver<Exit>, ChildNotFound> {
        let mut state = self.lock();
        let shutdown = state.children.terminate(id)?;
        let (gone, answer) = oneshot::channel();
        state.watchers.entry(id).or_default().push(gone);
        let mut effects = Effects::default();
        state.order(id, order_for(shutdown), &mut effects, &self.name);
        drop(state);
        self.carry_out(effects);
        Ok(answer)
    }

    /// Tells all children to end, and starts no other. Returns by when they will have ended, if there is a bound.
    pub(crate) fn close(self: &Arc<Self>) -> Option<Duration> {
        let mut effects = Effects::default();
        let mut state = self.lock();
        let longest = state.close(&mut effects, &self.name);
        drop(state);
        self.carry_out(effects);
        longest
    }

    /// Drops all children where they wait, and starts no other.
    pub(crate) fn kill(self: &Arc<Self>) {
        let mut effects = Effects::default();
        let mut state = self.lock();
        if std::mem::replace(&mut state.killed, true) {
            return;
        }
        state.close(&mut effects, &self.name);
        for info in state.children.which() {
            state.order(info.id, Order::Kill, &mut effects, &self.name);
        }
        drop(state);
        self.carry_out(effects);
    }

    /// Waits until no child is left.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn until_empty(&self) {
        self.until(|state| state.children.is_empty()).await;
    }

    /// Waits until no child is left and none will be started.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn until_over(&self) {
        self.until(|state| state.over).await;
    }

    async fn until(&self, reached: impl Fn(&State<W>) -> bool) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            // Before the look at the children, so that the last one's end is either seen or heard.
            emptied.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            emptied.await;
        }
    }

    /// Ends all children, and waits until they are gone.
    pub(crate) async fn shutdown(self: &Arc<Self>) {
        let Some(longest) = self.close() else { return self.until_empty().await };
        let alarm = longest.saturating_add(STUCK_AFTER);
        if tokio::time::timeout(alarm, self.until_empty()).await.is_err() {
            let (supervisor, children) = (&*self.name, self.counts().specs);
            tracing::warn!(supervisor, children, "children cannot be dropped: they do not come to an await");
            self.until_empty().await;
        }
    }

    pub(crate) fn counts(&self) -> ChildCounts {
        self.lock().children.counts()
    }

    pub(crate) fn which(&self) -> Vec<ChildInfo> {
        self.lock().children.which()
    }

    pub(crate) fn first_failure(&self) -> Option<Failure> {
        self.lock().children.first_failure().cloned()
    }

    /// A runner's child has ended. Returns what the runner does next.
    pub(crate) fn ended(self: &Arc<Self>, runner: u32, id: ChildId, ended: Ended) -> Turn<W::Item> {
        let mut effects = Effects::default();
        let mut state = self.lock();
        if let Some(delay) = state.on_ended(id, ended, &mut effects, &self.name) {
            return Turn::Restart(delay);
        }
        state.seats[runner as usize].vacate();
        let turn = state.next(runner, &mut effects);
        drop(state);
        self.carry_out(effects);
        turn
    }

    /// A runner without a child was woken. Returns what it does next.
    pub(crate) fn come(self: &Arc<Self>, runner: u32) -> Turn<W::Item> {
        let mut effects = Effects::default();
        let mut state = self.lock();
        let turn = if state.over {
            Turn::Over
        } else if state.roused == Some(runner) {
            state.roused = None;
            state.next(runner, &mut effects)
        } else {
            // By its former child's doing.
            Turn::Park
        };
        drop(state);
        self.carry_out(effects);
        turn
    }

    /// A child that was to be started again runs.
    pub(crate) fn restarted(&self, id: ChildId) {
        self.lock().children.restarted(id);
    }

    /// A runner was dropped before its time, and with it its child: whatever ran it is going away.
    pub(crate) fn abandoned(self: &Arc<Self>, id: Option<ChildId>) {
        let mut effects = Effects::default();
        let mut state = self.lock();
        if let Some(id) = id {
            state.children.terminate(id).ok();
            state.on_ended(id, Ended::Killed, &mut effects, &self.name);
        }
        drop(state);
        self.carry_out(effects);
        self.kill();
    }

    /// How often a child was started, if it is not again after failing like this.
    pub(crate) fn dies(&self, id: ChildId, ended: &Ended) -> Option<u32> {
        self.lock().children.dies(id, ended)
    }

    /// Gives up what a child was made from.
    pub(crate) fn bury(&self, item: W::Item, failure: &Failure, attempts: u32) {
        if let Err(panic) = guarded_now(&self.name, || self.work.bury(item, failure, attempts)) {
            tracing::error!(supervisor = &*self.name, %failure, %panic, "a dead letter was lost");
        }
    }

    /// Drops what a child was to be made from.
    pub(crate) fn discard(&self, item: W::Item) {
        if let Err(failure) = guarded_now(&self.name, || drop(item)) {
            tracing::warn!(supervisor = &*self.name, %failure, "an event panicked as it was dropped");
        }
    }

    fn carry_out(self: &Arc<Self>, effects: Effects<W>) {
        let Effects { rouse, call_owner, emptied, rest } = effects;
        match rouse {
            None | Some(Rouse::Wake(None)) => {}
            Some(Rouse::Wake(Some(waker))) => waker.wake(),
            Some(Rouse::Start(index, seat)) => (self.spawn)(Box::pin(Runner::new(Arc::clone(self), index, seat))),
        }
        for effect in rest {
            match effect {
                Effect::Tell(told) => told.wake(),
                Effect::Wake(waker) => waker.wake(),
                Effect::Discard(item) => self.discard(item),
                // Whoever waited may have given up.
                Effect::Report(watcher, exit) => drop(watcher.send(exit)),
            }
        }
        if call_owner && let Some(call) = self.owner.get() {
            call();
        }
        if emptied {
            self.emptied.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Work> State<W> {
    fn enqueue(&mut self, id: ChildId, item: W::Item) {
        let slot = id.slot as usize;
        if slot >= self.seat_of.len() {
            self.seat_of.resize(slot + 1, None);
        }
        self.seat_of[slot] = None;
        self.queue.push_back((id, item));
    }

    /// Has a runner come for the queue, unless one is on its way.
    fn rouse(&mut self) -> Option<Rouse> {
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
    fn next(&mut self, runner: u32, effects: &mut Effects<W>) -> Turn<W::Item> {
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
    fn order(&mut self, id: ChildId, order: Order, effects: &mut Effects<W>, name: &Origin) {
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
    fn close(&mut self, effects: &mut Effects<W>, name: &Origin) -> Option<Duration> {
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
    fn on_ended(&mut self, id: ChildId, ended: Ended, effects: &mut Effects<W>, name: &Origin) -> Option<Duration> {
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

fn order_for(shutdown: Shutdown) -> Order {
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

/// How long after the last shutdown time children are reported that are still there: what neither ends nor awaits
/// cannot be dropped.
const STUCK_AFTER: Duration = Duration::from_secs(5);
