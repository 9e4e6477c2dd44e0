//! [`Graph::tasks`]: one supervised task for each event, GenStage's ConsumerSupervisor.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use super::any_pool::{AnyPool, EventPool, EventWork};
use super::child::{ChildCounts, ChildId, ChildInfo, ChildNotFound, StartChildError};
use super::children::{Rules, Spec};
use super::options::{TaskOptions, TaskRestart};
use super::pool::Pool;
use crate::counters::Counters;
use crate::dispatching::NoOutput;
use crate::{
    Batch, CallError, Consumer, Cx, Edge, EndCause, Exit, Graph, Handle, Mode, Never, Result, Stage, StageRef,
};

impl Graph {
    /// Declares a consumer that starts a task of its own for each event, at most `max` of its subscription's window at a
    /// time: GenStage's ConsumerSupervisor.
    ///
    /// It asks for `max` events when it subscribes, and starts a task for each as it comes. Demand is returned as tasks
    /// end, however they end: once `min` of them have (at least one), so many events are asked for again. Note that
    /// `min` is a number of *ended* tasks here: with the window `2..3` nothing is asked for after the first of three.
    /// Between `max - min` and `max` tasks are alive as long as there are events.
    ///
    /// A task that fails or panics is logged and counted, and the others go on. But as its event was not handled, the
    /// graph does not end in success: [`run`](Self::run) then fails when everything else is done, and tells how many
    /// tasks have failed, and why the first. With [`TaskOptions::tolerate_failures`] they are only counted: see
    /// [`StageOutcome::failed`](crate::StageOutcome::failed).
    ///
    /// The stage ends when its last task has ended. While a graph [drains](crate::Running::shutdown), tasks go on to
    /// their end; when it is [stopped](crate::Running::stop), or something else fails, they are told so, and have the
    /// [shutdown time](TaskOptions::shutdown).
    ///
    /// ```
    /// # use aqueduct_stage::{Cx, Exit, Graph, Producer, Result};
    /// # struct Numbers;
    /// # impl Producer for Numbers {
    /// #     type Out = u64;
    /// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
    /// #         cx.emit_all(0..demand as u64);
    /// #         cx.stop(Exit::Normal);
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let graph = Graph::new("demo");
    /// let numbers = graph.producer("numbers", || Numbers);
    /// let print = |n: u64| async move {
    ///     println!("{n}");
    ///     Ok(())
    /// };
    /// graph.tasks("print", print).subscribe(&numbers, 25..50);
    /// graph.run().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn tasks<T, F, Fut>(&self, name: &str, task: F) -> Stage<Tasks<T>, T, Never, NoOutput>
    where
        T: Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        self.tasks_with(name, TaskOptions::temporary(), task)
    }

    /// As [`tasks`](Self::tasks), with options: how long a task is given to end, whether failures are tolerated, and
    /// whether a task that fails is [started again](TaskOptions::transient) with its event, how often, and what becomes of
    /// an event that [always fails](TaskOptions::max_attempts):
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # use aqueduct_stage::{DeadEvent, Graph, Result, TaskOptions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let graph = Graph::new("demo");
    /// let numbers = graph.iterate("numbers", || 0..100_u64);
    /// let dead = Arc::new(Mutex::new(Vec::new()));
    /// let options = TaskOptions::transient().max_attempts(3).dead_letters({
    ///     let dead = Arc::clone(&dead);
    ///     move |letter: DeadEvent<u64>| dead.lock().expect("not poisoned").push((letter.event, letter.attempts))
    /// });
    /// let check = |n: u64| async move { if n % 40 == 13 { Err("unlucky".into()) } else { Ok(()) } };
    /// graph.tasks_with("check", options, check).subscribe(&numbers, 25..50);
    /// let outcome = graph.run().await?;
    /// let mut dead = dead.lock().expect("not poisoned").clone();
    /// dead.sort();
    /// assert_eq!(dead, [(13, 3), (53, 3), (93, 3)]);
    /// assert_eq!(outcome.stage("check").map(|stage| (stage.failed, stage.restarts)), Some((3, 6)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn tasks_with<T, R, F, Fut>(
        &self,
        name: &str,
        options: TaskOptions<R>,
        task: F,
    ) -> Stage<Tasks<T>, T, Never, NoOutput>
    where
        T: Send + 'static,
        R: TaskRestart<T>,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        let (shared, task) = (Arc::clone(self.shared()), Arc::new(task));
        let supervisor: Arc<str> = name.into();
        self.consumer(name, move || {
            let restart = options.restart.clone();
            let (intensity, max_attempts, backoff) = restart.bounds();
            let work = EventWork { task: Arc::clone(&task), restart, types: PhantomData };
            let rules = Rules { intensity, max_attempts, backoff, max_children: usize::MAX };
            let (spawner, child) = (Arc::clone(&shared), Arc::clone(&supervisor));
            let spawn = move |runner| spawner.spawn_helper(&child, runner);
            let pool = Pool::new(Arc::clone(&supervisor), rules, work, Box::new(spawn));
            let spec = Spec { restart: R::RESTART, shutdown: options.shutdown };
            let pool = Arc::new(EventPool { pool, spec, tolerates: options.tolerates, instance: OnceLock::new() });
            shared.accompany(Arc::clone(&pool) as _);
            Tasks { pool, counters: None, before: (0, 0) }
        })
    }
}

/// The consumer of [`Graph::tasks`]. Its children are reached through [`StageRef::children`].
pub struct Tasks<T> {
    pool: Arc<dyn AnyPool<T>>,
    /// Those of the stage, to show there how many tasks have failed and how many were restarted.
    counters: Option<Arc<Counters>>,
    /// As many did in former lives of the stage.
    before: (u64, u64),
}

impl<T: Send + 'static> Tasks<T> {
    /// Makes itself known to its children.
    fn introduce(&mut self, cx: &Cx<'_>) {
        if self.counters.is_none() {
            let stage = cx.stage_ref::<Self>();
            self.counters = stage.counters();
            self.before = self.counters.as_ref().map_or((0, 0), |of| (of.failed.get(), of.restarted.get()));
            let instance = stage.instance();
            self.pool.set_owner(
                instance,
                Box::new(move || {
                    // A stage that has ended needs no demand.
                    let _ = stage.cast_as_helper(Returned);
                }),
            );
        }
    }

    fn show(&self) {
        if let Some(counters) = &self.counters {
            let ChildCounts { failed, restarts, .. } = self.pool.counts();
            counters.failed.set(self.before.0 + failed);
            counters.restarted.set(self.before.1 + restarts);
        }
    }
}

impl<T: Send + 'static> Consumer for Tasks<T> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, _: &mut Cx<'_>) -> Result {
        let from = events.from();
        self.pool.start_all(events.into_vec(), from);
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> Result<Mode> {
        self.introduce(cx);
        self.pool.subscribe(edge.id, edge.window);
        cx.ask(edge.id, edge.window.max().as_len());
        Ok(Mode::Manual)
    }

    async fn handle_cancel(&mut self, edge: &Edge, _: &EndCause, _: &mut Cx<'_>) -> Result {
        self.pool.unsubscribe(edge.id);
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_>) -> Result {
        self.pool.until_empty().await;
        if let Some(failure) = self.pool.gave_up() {
            cx.stop(Exit::Failed(failure));
        }
        Ok(())
    }

    async fn terminate(&mut self, exit: &Exit) {
        match exit {
            // The source is exhausted: what came from it is to be finished.
            Exit::Normal => self.pool.until_empty().await,
            _ => self.pool.shutdown().await,
        }
        self.show();
    }
}

/// Tells the stage that its children have returned demand, or that it has given up.
struct Returned;

#[diagnostic::do_not_recommend]
impl<T: Send + 'static> Handle<Returned> for Tasks<T> {
    type Reply = ();

    async fn handle(&mut self, _: Returned, cx: &mut Cx<'_>) -> Result {
        self.show();
        for (id, events) in self.pool.returned() {
            cx.ask(id, events);
        }
        if let Some(failure) = self.pool.gave_up() {
            cx.stop(Exit::Failed(failure));
        }
        Ok(())
    }
}

/// Asks for a reference to the children.
struct GetChildren;

#[diagnostic::do_not_recommend]
impl<T: Send + 'static> Handle<GetChildren> for Tasks<T> {
    type Reply = TasksRef<T>;

    async fn handle(&mut self, _: GetChildren, cx: &mut Cx<'_>) -> Result<TasksRef<T>> {
        self.introduce(cx);
        Ok(TasksRef { pool: Arc::clone(&self.pool) })
    }
}

impl<T> Drop for Tasks<T> {
    fn drop(&mut self) {
        self.pool.kill();
    }
}

impl<T> fmt::Debug for Tasks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("counts", &self.pool.counts()).finish_non_exhaustive()
    }
}

/// For stages of [`Graph::tasks`].
impl<T: Send + 'static> StageRef<Tasks<T>> {
    /// The children of this instance.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call), as long as the stage has no subscription yet. From then on nothing is waited for, and
    /// the reference answers for as long as the graph is there, also while the stage waits for its last tasks.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn children(&self) -> Result<TasksRef<T>, CallError> {
        let found = self.companion().and_then(|reference| reference.downcast::<TasksRef<T>>().ok());
        match found {
            Some(children) => Ok(*children),
            None => self.call(GetChildren).await,
        }
    }
}

/// The children of a stage of [`Graph::tasks`]. Cheap to clone; dropping it does nothing.
pub struct TasksRef<T> {
    pub(super) pool: Arc<dyn AnyPool<T>>,
}

impl<T: Send + 'static> TasksRef<T> {
    /// Starts a task for an event that comes from no producer: as it ends, it returns no demand.
    ///
    /// # Errors
    ///
    /// [`StartChildError::Ended`]: the stage has ended its tasks. The event is dropped.
    pub fn start_child(&self, event: T) -> Result<ChildId, StartChildError> {
        self.pool.start(event)
    }

    /// Tells a task to end, and waits until it is gone. Its demand returns as with any end, and it does not count as
    /// failed. Answers how it ended.
    ///
    /// # Errors
    ///
    /// [`ChildNotFound`]: there is no such task any more.
    ///
    /// # Cancel safety
    ///
    /// The task is told when this is first polled; dropping the future gives up the answer only.
    pub async fn terminate_child(&self, id: ChildId) -> Result<Exit, ChildNotFound> {
        let gone = self.pool.terminate(id)?;
        // A supervisor that goes away drops its children.
        Ok(gone.await.unwrap_or(Exit::Shutdown))
    }

    /// All tasks there are, in the order in which they were started.
    pub fn which_children(&self) -> Vec<ChildInfo> {
        self.pool.which()
    }

    /// How many tasks there are, and what became of the others.
    pub fn count_children(&self) -> ChildCounts {
        self.pool.counts()
    }
}

impl<T> Clone for TasksRef<T> {
    fn clone(&self) -> Self {
        Self { pool: Arc::clone(&self.pool) }
    }
}

impl<T> fmt::Debug for TasksRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TasksRef").field("counts", &self.pool.counts()).finish_non_exhaustive()
    }
}
