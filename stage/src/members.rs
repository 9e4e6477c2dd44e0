//! [`Shared`]: the stages and tasks of a graph, as they and its handle see them.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::counters::Counters;
use crate::{BoxFuture, Exit, Failure, Intensity, Outcome, Snapshot, Spawner};

mod member;
mod subscriptions;
mod watching;

pub(crate) use member::Member;
use watching::PATIENCE;

/// What a graph tells its stages.
pub(crate) trait Control: Send + Sync {
    /// End when there is nothing left to do.
    fn complete(&self);
    /// Emit nothing more; deliver what there is, and end.
    fn drain(&self);
    /// End now.
    fn stop(&self);
    /// Whether what runs there has ended, or nothing does.
    fn is_down(&self) -> bool;
    /// Takes messages again, for what runs there next.
    fn renew(&self);
    /// Whether somebody may subscribe to it who is no part of the graph.
    fn is_expected(&self) -> bool;
    /// Drops what was handed back and nobody has taken since; returns how many events that were.
    fn drop_returned(&self) -> usize;
    /// Nothing is made any more: lets go of what makes it.
    fn forget(&self);
    /// Makes what is to run there.
    fn make(&self) -> Result<Made, Failure>;
    /// What runs there: what was made, or what is made then.
    fn run(&self, number: usize, shared: &Arc<Shared>, made: Option<Made>) -> BoxFuture<'static>;
}

/// The callbacks of a stage with their type erased, for the [`Control`] that made them.
pub(crate) type Made = Box<dyn Any + Send>;

/// What works for a stage besides its own task.
pub(crate) trait Companion: Send + Sync {
    /// End now.
    fn stop(&self);
    /// What was lost that should not have been, if anything was.
    fn loss(&self) -> Option<Failure>;
    /// What is given to those who want to talk to it rather than to this instance of a stage, if it works for that.
    fn reference(self: Arc<Self>, stage: &str, instance: usize) -> Option<Box<dyn Any>>;
}

/// What the tasks of a graph share with its handle.
pub(crate) struct Shared {
    /// The graph's name.
    pub(crate) graph: Arc<str>,
    spawner: Arc<dyn Spawner>,
    state: Mutex<State>,
    /// Notified when the state has changed; only the handle waits.
    pub(crate) changed: Arc<Notify>,
    /// Notified when a stage has fallen; only the supervisor waits.
    pub(crate) fell: Notify,
    /// Read by every task whenever it is polled.
    killed: AtomicBool,
}

pub(crate) struct State {
    stages: Vec<Member>,
    /// How many of them have not ended for good.
    open: usize,
    companions: Vec<Arc<dyn Companion>>,
    /// Distinct failures, in the order in which they were reported.
    failures: Vec<Failure>,
    /// The bound on restarts, if it is the reason for the end.
    exceeded: Option<Intensity>,
    /// The tasks that are alive.
    pub(crate) tasks: BTreeMap<usize, Handle>,
    next_task: usize,
    /// Whether somebody decides whether stages that have ended are started again.
    is_supervised: bool,
    /// What that somebody has not seen yet.
    fallen: VecDeque<Fallen>,
    /// How long a stage may wait for somebody who is missing.
    patience: Duration,
}

/// What wakes a task that has been polled, and ends it.
#[derive(Default)]
pub(crate) struct Handle {
    waker: Option<Waker>,
    killed: Arc<AtomicBool>,
}

/// A stage has ended, perhaps not for good.
pub(crate) struct Fallen {
    pub(crate) number: usize,
    pub(crate) exit: Exit,
    /// Whether it was made at all.
    pub(crate) was_made: bool,
}

impl State {
    pub(crate) fn is_over(&self) -> bool {
        self.open == 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    /// A stage has ended for good.
    fn conclude(&mut self, number: usize, exit: Exit) {
        if let Exit::Failed(failure) = &exit {
            self.fail(failure.clone());
        }
        self.close(number, exit);
    }

    fn close(&mut self, number: usize, exit: Exit) {
        let member = &mut self.stages[number];
        let at = member.fallen.take().map_or_else(Instant::now, |(_, at)| at);
        if member.ended.replace((exit, at)).is_none() {
            self.open -= 1;
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !self.failures.iter().any(|known| known.is(&failure)) {
            self.failures.push(failure);
        }
    }
}

impl Shared {
    pub(crate) fn new(graph: Arc<str>, spawner: Arc<dyn Spawner>) -> Self {
        let state = State {
            stages: Vec::new(),
            companions: Vec::new(),
            open: 0,
            failures: Vec::new(),
            exceeded: None,
            tasks: BTreeMap::new(),
            next_task: 0,
            is_supervised: false,
            fallen: VecDeque::new(),
            patience: PATIENCE,
        };
        let (state, changed, fell) = (Mutex::new(state), Arc::default(), Notify::new());
        Self { graph, spawner, state, changed, fell, killed: AtomicBool::new(false) }
    }

    /// Names the graph among those of this process.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// So many stages are about to be taken in: exactly those of a graph that is started once.
    pub(crate) fn make_room(&self, stages: usize) {
        self.lock().stages.reserve(stages);
    }

    /// Takes a stage in; returns its number, for [`report`](Self::report).
    pub(crate) fn enrol(&self, member: Member) -> usize {
        let mut state = self.lock();
        state.stages.push(member);
        state.open += 1;
        state.stages.len() - 1
    }

    /// Takes in what works for a stage.
    pub(crate) fn accompany(&self, companion: Arc<dyn Companion>) {
        self.lock().companions.push(companion);
    }

    /// Lets go of what works for the stages, which refers to the graph.
    pub(crate) fn dismiss(&self) {
        let _dropped_unlocked = std::mem::take(&mut self.lock().companions);
    }

    /// Starts a task that ends when the graph is killed.
    pub(crate) fn spawn(self: &Arc<Self>, name: &str, work: BoxFuture<'static>) {
        let task = self.task(&mut self.lock(), work);
        self.spawner.spawn(name, Box::pin(task));
    }

    /// Starts the task of a stage.
    pub(crate) fn spawn_stage(self: &Arc<Self>, number: usize, work: BoxFuture<'static>) {
        let mut state = self.lock();
        let task = self.task(&mut state, work);
        let member = &mut state.stages[number];
        member.task = Some(task.id);
        let name = member.stage.clone();
        drop(state);
        self.spawner.spawn(&name, Box::pin(task));
    }

    fn task(self: &Arc<Self>, state: &mut State, work: BoxFuture<'static>) -> Task {
        let id = state.next_task;
        state.next_task += 1;
        let killed = Arc::clone(&state.tasks.entry(id).or_default().killed);
        Task { work: Some(work), woken_by: None, id, killed, shared: Arc::clone(self) }
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

    /// A stage has ended: for good, unless the graph is supervised.
    pub(crate) fn report(&self, number: usize, exit: Exit) {
        let is_supervised = self.change(|state| {
            if state.is_supervised {
                let member = &mut state.stages[number];
                member.fallen = Some((exit.clone(), Instant::now()));
                let was_made = member.was_made;
                state.fallen.push_back(Fallen { number, exit, was_made });
            } else {
                state.conclude(number, exit);
            }
            state.is_supervised
        });
        if is_supervised {
            self.fell.notify_one();
        }
    }

    /// What is about to be reported of this stage is that it could not be made.
    pub(crate) fn could_not_be_made(&self, number: usize) {
        self.lock().stages[number].was_made = false;
    }

    /// From now on a supervisor decides about stages that have ended. Returns those that have already.
    pub(crate) fn supervise(&self) -> Vec<usize> {
        let mut state = self.lock();
        state.is_supervised = true;
        let stages = state.stages.iter().enumerate();
        stages.filter(|(_, stage)| stage.ended.is_some()).map(|(number, _)| number).collect()
    }

    /// From now on nothing is started again. What waits for it has ended for good.
    pub(crate) fn leave_unsupervised(&self) {
        self.change(|state| {
            state.is_supervised = false;
            state.fallen.clear();
            for number in 0..state.stages.len() {
                if let Some((exit, _)) = state.stages[number].fallen.clone() {
                    state.conclude(number, exit);
                }
            }
        });
    }

    pub(crate) fn is_supervised(&self) -> bool {
        self.lock().is_supervised
    }

    /// The next stage that has ended and of which nothing is decided yet.
    pub(crate) fn next_fallen(&self) -> Option<Fallen> {
        self.lock().fallen.pop_front()
    }

    /// A stage that has fallen has ended for good. Whether its failure is the graph's is said here, or by
    /// [`fail`](Self::fail) later.
    pub(crate) fn conclude_stage(&self, number: usize, exit: Exit, fails_graph: bool) {
        self.change(|state| match (state.is_supervised, fails_graph) {
            (true, true) => state.conclude(number, exit),
            (true, false) => state.close(number, exit),
            // It was concluded with the supervision.
            (false, _) => {}
        });
    }

    /// A stage that was to be started again could not be made.
    pub(crate) fn could_not_begin(&self, number: usize, exit: Exit) {
        let mut state = self.lock();
        let member = &mut state.stages[number];
        let revived = member.ended.take();
        let was_over = revived.is_some();
        let at = member.fallen.take().or(revived).map_or_else(Instant::now, |(_, at)| at);
        member.fallen = Some((exit, at));
        state.open += usize::from(was_over);
    }

    /// The graph has failed.
    pub(crate) fn fail(&self, failures: impl IntoIterator<Item = Failure>, exceeded: Option<Intensity>) {
        self.change(|state| {
            failures.into_iter().for_each(|failure| state.fail(failure));
            state.exceeded = state.exceeded.or(exceeded);
        });
    }

    /// A stage begins anew, with a fresh mailbox. Does nothing and returns `false` if no stage is to be started any more.
    pub(crate) fn begin_anew(&self, number: usize) -> bool {
        let mut state = self.lock();
        if !state.is_supervised {
            return false;
        }
        let member = &mut state.stages[number];
        // Under the lock, so that a graph that ends finds either no stage here or one that it can tell.
        member.control.renew();
        let lost = member.control.drop_returned();
        member.counters.discarded.add(lost as u64);
        member.restarts += 1;
        let revived = member.ended.take();
        state.open += usize::from(revived.is_some());
        let member = &mut state.stages[number];
        if let Some((_, at)) = member.fallen.take().or(revived) {
            member.is_up_again(at);
        }
        true
    }

    /// Ends the task of one stage.
    pub(crate) fn kill_stage(&self, number: usize) {
        let mut state = self.lock();
        let task = state.stages[number].task;
        let Some(Handle { waker, killed }) = task.and_then(|task| state.tasks.get_mut(&task)) else { return };
        killed.store(true, Ordering::Release);
        let waker = waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn tell(&self, what: impl Fn(&dyn Control)) {
        let stages: Vec<_> = self.lock().stages.iter().map(|stage| Arc::clone(&stage.control)).collect();
        stages.iter().for_each(|stage| what(&**stage));
    }

    /// Ends every stage now, and what works for it.
    pub(crate) fn stop(&self) {
        self.tell(|stage| stage.stop());
        self.companions().iter().for_each(|companion| companion.stop());
    }

    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        // Woken outside the lock, which the tasks take.
        let wakers: Vec<Waker> = self.lock().tasks.values_mut().filter_map(|task| task.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What every stage did, what went wrong, and whether that was more than could be restarted.
    pub(crate) fn conclude(&self) -> (Outcome, Vec<Failure>, Option<Intensity>) {
        let state = self.lock();
        for stage in state.stages.iter().filter(|stage| stage.ended.is_some()) {
            stage.counters.discarded.add(stage.control.drop_returned() as u64);
        }
        let stages = state.stages.iter().filter_map(Member::outcome).collect();
        (Outcome { stages }, state.failures.clone(), state.exceeded)
    }

    /// What was lost without anybody having failed.
    pub(crate) fn losses(&self) -> Vec<Failure> {
        let mut losses: Vec<_> = self.lock().stages.iter().flat_map(Member::losses).collect();
        losses.extend(self.companions().iter().filter_map(|companion| companion.loss()));
        losses
    }

    /// What an instance of a stage has done so far.
    pub(crate) fn counters(&self, name: &str, instance: usize) -> Option<Arc<Counters>> {
        let state = self.lock();
        let member = state.stages.iter().find(|stage| stage.instance == instance && *stage.stage == *name)?;
        Some(Arc::clone(&member.counters))
    }

    /// The reference to what works for an instance of a stage: to the latest, if the stage was restarted.
    pub(crate) fn reference(&self, stage: &str, instance: usize) -> Option<Box<dyn Any>> {
        self.companions().into_iter().rev().find_map(|companion| companion.reference(stage, instance))
    }

    fn companions(&self) -> Vec<Arc<dyn Companion>> {
        self.lock().companions.clone()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let stages = &mut self.lock().stages;
        Snapshot {
            graph: self.graph.to_string(),
            stages: stages.iter_mut().map(|stage| stage.snapshot(now)).collect(),
            subscriptions: subscriptions::of(stages),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over()
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
    /// Set when this task alone is to end.
    killed: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.woken_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.woken_by = Some(cx.waker().clone());
            let waker = Some(cx.waker().clone());
            let mut state = self.shared.lock();
            let _former = state.tasks.get_mut(&self.id).and_then(|task| std::mem::replace(&mut task.waker, waker));
            drop(state);
        }
        // Read after the waker was left there, so that a kill is either seen here or wakes the task.
        if self.shared.killed.load(Ordering::Acquire) || self.killed.load(Ordering::Acquire) {
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
