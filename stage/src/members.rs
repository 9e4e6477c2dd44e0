//! [`Shared`]: the stages and tasks of a graph, as they and its handle see them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::counters::Counters;
use crate::outcome::{Snapshot, StageOutcome, StageSnapshot};
use crate::{BoxFuture, Exit, Failure, FailureKind, Outcome, Spawner};

/// What a graph tells its stages.
pub(crate) trait Control: Send + Sync {
    /// End when there is nothing left to do.
    fn complete(&self);
    /// Emit nothing more; deliver what there is, and end.
    fn drain(&self);
    /// End now.
    fn stop(&self);
}

/// What the tasks of a graph share with its handle.
pub(crate) struct Shared {
    spawner: Arc<dyn Spawner>,
    state: Mutex<State>,
    /// Notified when the state has changed; only the handle waits.
    changed: Notify,
    /// Read by every task whenever it is polled.
    killed: AtomicBool,
}

pub(crate) struct State {
    stages: Vec<Member>,
    /// Distinct failures, in the order in which they were reported.
    failures: Vec<Failure>,
    /// The tasks that are alive, with what wakes those that have been polled.
    pub(crate) tasks: BTreeMap<usize, Option<Waker>>,
    next_task: usize,
}

/// One instance of a stage.
pub(crate) struct Member {
    pub(crate) stage: Arc<str>,
    pub(crate) instance: usize,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) counters: Arc<Counters>,
    /// Whether the user said what to do when the buffer is full.
    may_drop: bool,
    /// How and when it ended.
    ended: Option<(Exit, Instant)>,
}

impl Member {
    pub(crate) fn new(
        stage: Arc<str>,
        instance: usize,
        control: Arc<dyn Control>,
        counters: Arc<Counters>,
        may_drop: bool,
    ) -> Self {
        Self { stage, instance, control, counters, may_drop, ended: None }
    }

    /// Events were dropped that should not have been.
    fn overflow(&self) -> Option<Failure> {
        let dropped = self.counters.overflowed.get();
        let why = || format!("its buffer was full and {dropped} events were dropped; `buffer` says what to do then");
        (dropped > 0 && !self.may_drop).then(|| Failure::new(&*self.stage, FailureKind::Overflow, why()))
    }

    fn outcome(&self) -> Option<StageOutcome> {
        let (exit, _) = self.ended.clone()?;
        let Counters { events_in, events_out, discarded, failed, .. } = &*self.counters;
        Some(StageOutcome {
            stage: self.stage.to_string(),
            instance: self.instance,
            exit,
            events_in: events_in.get(),
            events_out: events_out.get(),
            discarded: discarded.get(),
            failed: failed.get(),
        })
    }

    pub(crate) fn snapshot(&self, now: Instant) -> StageSnapshot {
        let counters = &*self.counters;
        let until = self.ended.as_ref().map_or(now, |(_, at)| *at);
        let alive = until.duration_since(counters.started);
        let (idle, blocked) = counters.idle_and_blocked(until);
        StageSnapshot {
            stage: self.stage.to_string(),
            instance: self.instance,
            ended: self.ended.is_some(),
            events_in: counters.events_in.get(),
            events_out: counters.events_out.get(),
            discarded: counters.discarded.get(),
            failed: counters.failed.get(),
            buffered: counters.buffered.get(),
            demand: crate::Demand::new(counters.demand.get()),
            outstanding: crate::Demand::new(counters.outstanding.get()),
            busy: alive.saturating_sub(idle + blocked),
            idle,
            blocked,
        }
    }
}

impl State {
    pub(crate) fn is_over(&self) -> bool {
        self.stages.iter().all(|stage| stage.ended.is_some())
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }
}

impl Shared {
    pub(crate) fn new(spawner: Arc<dyn Spawner>) -> Self {
        let state = State { stages: Vec::new(), failures: Vec::new(), tasks: BTreeMap::new(), next_task: 0 };
        Self { spawner, state: Mutex::new(state), changed: Notify::new(), killed: AtomicBool::new(false) }
    }

    /// Takes a stage in; returns its number, for [`report`](Self::report).
    pub(crate) fn enrol(&self, member: Member) -> usize {
        let mut state = self.lock();
        state.stages.push(member);
        state.stages.len() - 1
    }

    /// Starts a task that ends when the graph is killed.
    pub(crate) fn spawn(self: &Arc<Self>, name: &str, work: BoxFuture<'static>) {
        let mut state = self.lock();
        let id = state.next_task;
        state.next_task += 1;
        state.tasks.insert(id, None);
        drop(state);
        self.spawner.spawn(name, Box::pin(Task { work: Some(work), woken_by: None, id, shared: Arc::clone(self) }));
    }

    /// Runs a task now as far as it goes without waiting, and spawns what is left of it.
    pub(crate) fn spawn_polled(self: &Arc<Self>, name: &str, mut task: BoxFuture<'static>) {
        let mut cx = Context::from_waker(Waker::noop());
        if task.as_mut().poll(&mut cx).is_pending() {
            self.spawn(name, task);
        }
    }

    /// Starts a task on behalf of a stage. Does nothing once the graph has ended.
    pub(crate) fn spawn_helper(self: &Arc<Self>, name: &str, task: BoxFuture<'static>) {
        if !self.killed.load(Ordering::Acquire) {
            self.spawn(name, task);
        }
    }

    pub(crate) fn report(&self, number: usize, exit: Exit) {
        self.change(|state| {
            if let Exit::Failed(failure) = &exit
                && !state.failures.iter().any(|known| known.is(failure))
            {
                state.failures.push(failure.clone());
            }
            state.stages[number].ended = Some((exit, Instant::now()));
        });
    }

    pub(crate) fn tell(&self, what: impl Fn(&dyn Control)) {
        let stages: Vec<_> = self.lock().stages.iter().map(|stage| Arc::clone(&stage.control)).collect();
        stages.iter().for_each(|stage| what(&**stage));
    }

    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        // Woken outside the lock, which the tasks take.
        let wakers: Vec<Waker> = self.lock().tasks.values_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn conclude(&self) -> (Outcome, Vec<Failure>) {
        let state = self.lock();
        (Outcome { stages: state.stages.iter().filter_map(Member::outcome).collect() }, state.failures.clone())
    }

    pub(crate) fn overflows(&self) -> Vec<Failure> {
        self.lock().stages.iter().filter_map(Member::overflow).collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        Snapshot { stages: self.lock().stages.iter().map(|stage| stage.snapshot(now)).collect() }
    }

    pub(crate) async fn until(&self, reached: impl Fn(&State) -> bool) {
        while !reached(&self.lock()) {
            self.changed.notified().await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.lock());
        self.changed.notify_one();
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task of the graph. It counts for as long as it lives, also when it is dropped unfinished.
struct Task {
    /// There until the task is dropped.
    work: Option<BoxFuture<'static>>,
    /// What the graph would wake it by; the same at every poll as long as the runtime does not move it.
    woken_by: Option<Waker>,
    id: usize,
    shared: Arc<Shared>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.woken_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.woken_by = Some(cx.waker().clone());
            let _former = self.shared.lock().tasks.insert(self.id, Some(cx.waker().clone()));
        }
        // Read after the waker was left there, so that a kill is either seen here or wakes the task.
        if self.shared.killed.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.work.as_mut().map_or(Poll::Ready(()), |work| work.as_mut().poll(cx))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Whatever it does as it is dropped is done before it counts as gone.
        drop(self.work.take());
        // The waker is dropped outside the lock.
        let _waker = self.shared.change(|state| state.tasks.remove(&self.id));
    }
}
