//! [`Running`]: a graph that is alive.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::graph::{Declared, Opening};
use crate::outcome::StageOutcome;
use crate::{BoxFuture, Exit, Failure, FailureKind, GraphError, Outcome, Spawner};

/// How long [`Running::join`] waits for the other stages after one has failed: OTP's default for a worker.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The handle of a graph that was started.
///
/// Dropping it kills every stage: their callbacks are dropped where they wait, and `terminate` is not called. To end a
/// graph in an orderly way, [`join`](Self::join) it or [`stop`](Self::stop) it.
pub struct Running {
    shared: Arc<Shared>,
    stages: Vec<Arc<dyn Control>>,
}

/// What a graph tells its stages.
pub(crate) trait Control: Send + Sync {
    /// End when there is nothing left to do.
    fn complete(&self);
    /// End now.
    fn stop(&self, exit: Exit);
}

impl Running {
    pub(crate) fn start(spawner: &dyn Spawner, stages: Vec<Declared>, openings: Vec<Opening>) -> Self {
        let shared = Arc::new(Shared::new(stages.len()));
        let mut pending = Vec::new();
        for opening in openings {
            let mut opening = opening();
            // Within the graph this completes at once, so subscriptions are made in the order of declaration.
            if opening.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                pending.push(opening);
            }
        }
        let mut controls = Vec::with_capacity(stages.len());
        for (index, Declared { name, control, launch }) in stages.into_iter().enumerate() {
            let reporter = Arc::clone(&shared);
            shared.spawn(spawner, &name, launch(Box::new(move |outcome| reporter.report(index, outcome))));
            controls.push(control);
        }
        for opening in pending {
            shared.spawn(spawner, "subscribe", opening);
        }
        Self { shared, stages: controls }
    }

    /// Waits until every source is exhausted and everything that was emitted has been handled.
    ///
    /// From this call on, a stage ends when it has nothing left to do, rather than wait for somebody to subscribe: a
    /// consumer when its last subscription has ended, a producer when its last subscriber has left.
    ///
    /// # Errors
    ///
    /// [`GraphError`] with the first failure; the other stages are then shut down, with five seconds of grace. A
    /// success is never short: if a stage was shut down before its work was done, that is an error too.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; it can be called again.
    pub async fn join(&mut self) -> Result<Outcome, GraphError> {
        self.stages.iter().for_each(|stage| stage.complete());
        self.shared.until(|state| state.is_over() || state.has_failed()).await;
        self.end(GRACE_AFTER_FAILURE).await;
        let (outcome, mut failures) = self.shared.conclude();
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
        self.stages.iter().for_each(|stage| stage.stop(Exit::Shutdown));
        let _ = tokio::time::timeout(grace, self.shared.until(State::is_over)).await;
        self.shared.kill();
        self.shared.until(|state| state.tasks == 0).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.kill();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("stages", &self.stages.len()).finish_non_exhaustive()
    }
}

/// What the tasks of a graph share with its handle.
struct Shared {
    state: Mutex<State>,
    /// Notified when the state has changed; only the handle waits.
    changed: Notify,
    killed: watch::Sender<bool>,
}

struct State {
    /// One for each stage, once it has ended.
    outcomes: Vec<Option<StageOutcome>>,
    /// Distinct failures, in the order in which they were reported.
    failures: Vec<Failure>,
    /// How many tasks are alive.
    tasks: usize,
}

impl State {
    fn is_over(&self) -> bool {
        self.outcomes.iter().all(Option::is_some)
    }

    fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }
}

impl Shared {
    fn new(stages: usize) -> Self {
        let state = State { outcomes: vec![None; stages], failures: Vec::new(), tasks: 0 };
        Self { state: Mutex::new(state), changed: Notify::new(), killed: watch::Sender::new(false) }
    }

    /// Starts a task that ends when the graph is killed.
    fn spawn(self: &Arc<Self>, spawner: &dyn Spawner, name: &str, task: BoxFuture<'static>) {
        self.change(|state| state.tasks += 1);
        let alive = Alive(Arc::clone(self));
        let mut killed = self.killed.subscribe();
        spawner.spawn(
            name,
            Box::pin(async move {
                let _alive = alive;
                tokio::select! {
                    biased;
                    _ = killed.wait_for(|killed| *killed) => {}
                    () = task => {}
                }
            }),
        );
    }

    fn report(&self, index: usize, outcome: StageOutcome) {
        self.change(|state| {
            if let Exit::Failed(failure) = &outcome.exit
                && !state.failures.iter().any(|known| known.is(failure))
            {
                state.failures.push(failure.clone());
            }
            state.outcomes[index] = Some(outcome);
        });
    }

    fn kill(&self) {
        self.killed.send_replace(true);
    }

    fn conclude(&self) -> (Outcome, Vec<Failure>) {
        let state = self.lock();
        (Outcome { stages: state.outcomes.iter().flatten().cloned().collect() }, state.failures.clone())
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        while !reached(&self.lock()) {
            self.changed.notified().await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a task for as long as it lives, also when it is dropped unfinished.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.change(|state| state.tasks -= 1);
    }
}
