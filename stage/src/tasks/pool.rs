//! [`Pool`]: the children of one supervisor, and the runners that they run in.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aqueduct_dispatcher::{SubscriptionId, Window};
use tokio::sync::{Notify, oneshot};

use super::child::{ChildCounts, ChildId, ChildInfo, ChildNotFound, StartChildError};
use super::children::{Ended, Rules, Spec};
use super::runner::Runner;
use super::stopping::Order;
use crate::callbacks::guarded_now;
use crate::error::Origin;
use crate::{BoxFuture, Exit, Failure, Result};

mod state;

use state::{Effect, Effects, Rouse, State, order_for};

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
        let state = State::new(rules);
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

/// How long after the last shutdown time children are reported that are still there: what neither ends nor awaits
/// cannot be dropped.
const STUCK_AFTER: Duration = Duration::from_secs(5);
