//! [`Running`]: a graph that is alive.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aqueduct_dispatcher::{SubscribeOptions, SubscriptionId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::counters::Counters;
use crate::graph::{Graph, Stage};
use crate::mailbox::Message;
use crate::outcome::{Snapshot, StageOutcome, StageSnapshot};
use crate::{BoxFuture, Exit, Failure, FailureKind, GraphError, Outcome, Source, Spawner};

/// How long [`Running::join`] waits for the other stages after one has failed: OTP's default for a worker.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The handle of a graph that was started.
///
/// Dropping it kills every stage: their callbacks are dropped where they wait, and `terminate` is not called. To end a
/// graph in an orderly way, [`join`](Self::join), [`shutdown`](Self::shutdown) or [`stop`](Self::stop) it.
#[must_use = "dropping it kills the graph: `join` it, or keep it for as long as it is to run"]
pub struct Running {
    graph: Graph,
    shared: Arc<Shared>,
}

/// What a graph tells its stages.
pub(crate) trait Control: Send + Sync {
    /// End when there is nothing left to do.
    fn complete(&self);
    /// Emit nothing more; deliver what there is, and end.
    fn drain(&self);
    /// End now.
    fn stop(&self);
}

impl Running {
    pub(crate) fn new(graph: Graph, shared: Arc<Shared>) -> Self {
        Self { graph, shared }
    }

    /// Adds stages and subscriptions to the running graph: `describe` is given a graph to declare them in, and they are
    /// started when it returns. Sources may be stages that run already.
    ///
    /// ```
    /// # use aqueduct_stage::{Batch, Consumer, Cx, Graph, Producer, Result};
    /// # struct Numbers;
    /// # impl Producer for Numbers {
    /// #     type Out = u64;
    /// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
    /// #         cx.emit_all(0..demand as u64);
    /// #         Ok(())
    /// #     }
    /// # }
    /// # struct Print;
    /// # impl Consumer for Print {
    /// #     type In = u64;
    /// #     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let graph = Graph::new("demo");
    /// let numbers = graph.producer("numbers", || Numbers);
    /// let mut running = graph.start();
    /// running.add(|graph| graph.consumer("print", || Print).subscribe(&numbers, 500..1000));
    /// # running.stop(std::time::Duration::from_secs(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn add<T>(&mut self, describe: impl FnOnce(&Graph) -> T) -> T {
        self.graph.reopen();
        let added = describe(&self.graph);
        self.graph.launch();
        added
    }

    /// Subscribes the first instance of a running stage to a source. The subscription counts as made when it is sent: if
    /// it is refused, the stage is told so as of any end of a subscription.
    pub fn subscribe<S, I, O, D, Src>(
        &self,
        consumer: &Stage<S, I, O, D>,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> SubscriptionId
    where
        S: 'static,
        D: 'static,
        I: Send + 'static,
        O: Send + 'static,
        Src: Source<Item = I> + Clone,
    {
        let (id, opening) = consumer.opening(0, source, 0, options.into(), None);
        self.shared.spawn_polled("subscribe", opening);
        id
    }

    /// Ends a subscription of a running stage, from either side. What that means for the consumer depends on its
    /// [`Cancel`](crate::Cancel) policy. An unknown subscription is ignored.
    #[expect(clippy::needless_pass_by_value, reason = "it is written in place, and rarely")]
    pub fn cancel<S, I, O, D>(&self, stage: &Stage<S, I, O, D>, id: SubscriptionId, reason: Exit) {
        for mailbox in stage.mailboxes() {
            let _ = mailbox.push(Message::Unsubscribe(id, reason.clone(), false));
        }
    }

    /// Ends the subscription `old`, which does not end the consumer whatever its policy, and subscribes anew. An unknown
    /// `old` does not matter.
    #[expect(clippy::needless_pass_by_value, reason = "it is written in place, and rarely")]
    pub fn resubscribe<S, I, O, D, Src>(
        &self,
        consumer: &Stage<S, I, O, D>,
        old: SubscriptionId,
        reason: Exit,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> SubscriptionId
    where
        S: 'static,
        D: 'static,
        I: Send + 'static,
        O: Send + 'static,
        Src: Source<Item = I> + Clone,
    {
        for mailbox in consumer.mailboxes() {
            let _ = mailbox.push(Message::Unsubscribe(old, reason.clone(), true));
        }
        self.subscribe(consumer, source, options)
    }

    /// What every stage is doing.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Waits until every source is exhausted and everything that was emitted has been handled.
    ///
    /// From this call on, a stage ends when it has nothing left to do, rather than wait for somebody to subscribe: a
    /// consumer when its last subscription has ended, a producer when its last subscriber has left.
    ///
    /// # Errors
    ///
    /// [`GraphError`] with the first failure; the other stages are then shut down, with five seconds of grace. A
    /// success is never short: if a stage was shut down before its work was done, or dropped events from a full buffer
    /// without having been [told to](crate::Stage::buffer), that is an error too.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; it can be called again.
    pub async fn join(&mut self) -> Result<Outcome, GraphError> {
        self.shared.tell(|stage| stage.complete());
        self.shared.until(|state| state.is_over() || state.has_failed()).await;
        self.end(GRACE_AFTER_FAILURE).await;
        let (outcome, mut failures) = self.shared.conclude();
        failures.extend(self.shared.overflows());
        if failures.is_empty() {
            failures.extend(
                outcome
                    .stages
                    .iter()
                    .filter(|stage| matches!(stage.exit, Exit::Shutdown))
                    .map(|stage| Failure::new(&stage.stage, FailureKind::Shutdown, "its source was not exhausted")),
            );
        }
        GraphError::unless_empty(failures).map(|()| outcome)
    }

    /// Drains the graph: producers emit nothing more, and what they emitted is handled, stage after stage, before it
    /// ends. Stages that are not done after `grace` are killed.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if a stage has failed, or had to be killed: then events may be missing.
    ///
    /// # Cancel safety
    ///
    /// The stages have been told to drain; it can be called again.
    pub async fn shutdown(&mut self, grace: Duration) -> Result<Outcome, GraphError> {
        self.shared.tell(|stage| {
            stage.complete();
            stage.drain();
        });
        let drained = self.shared.until(State::is_over);
        let _ = tokio::time::timeout(grace, drained).await;
        self.shared.kill();
        self.shared.until(|state| state.tasks.is_empty()).await;
        let (outcome, failures) = self.shared.conclude();
        GraphError::unless_empty(failures).map(|()| outcome)
    }

    /// Ends every stage now, without waiting for what is on its way. Stages that are still in a callback after `grace`
    /// are killed.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if a stage has failed, or had to be killed.
    ///
    /// # Cancel safety
    ///
    /// The stages have been told to end; it can be called again.
    pub async fn stop(&mut self, grace: Duration) -> Result<Outcome, GraphError> {
        self.end(grace).await;
        let (outcome, failures) = self.shared.conclude();
        GraphError::unless_empty(failures).map(|()| outcome)
    }

    /// Ends all tasks of the graph, and waits until they are gone.
    async fn end(&self, grace: Duration) {
        self.shared.tell(|stage| stage.stop());
        let _ = tokio::time::timeout(grace, self.shared.until(State::is_over)).await;
        self.shared.kill();
        self.shared.until(|state| state.tasks.is_empty()).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.kill();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("graph", &self.graph).finish_non_exhaustive()
    }
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

struct State {
    stages: Vec<Member>,
    /// Distinct failures, in the order in which they were reported.
    failures: Vec<Failure>,
    /// The tasks that are alive, with what wakes those that have been polled.
    tasks: BTreeMap<usize, Option<Waker>>,
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

    fn snapshot(&self, now: Instant) -> StageSnapshot {
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
    fn is_over(&self) -> bool {
        self.stages.iter().all(|stage| stage.ended.is_some())
    }

    fn has_failed(&self) -> bool {
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

    fn tell(&self, what: impl Fn(&dyn Control)) {
        let stages: Vec<_> = self.lock().stages.iter().map(|stage| Arc::clone(&stage.control)).collect();
        stages.iter().for_each(|stage| what(&**stage));
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        // Woken outside the lock, which the tasks take.
        let wakers: Vec<Waker> = self.lock().tasks.values_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn conclude(&self) -> (Outcome, Vec<Failure>) {
        let state = self.lock();
        (Outcome { stages: state.stages.iter().filter_map(Member::outcome).collect() }, state.failures.clone())
    }

    fn overflows(&self) -> Vec<Failure> {
        self.lock().stages.iter().filter_map(Member::overflow).collect()
    }

    fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        Snapshot { stages: self.lock().stages.iter().map(|stage| stage.snapshot(now)).collect() }
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
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
