//! [`TaskSupervisor`]: tasks that are started at any time, watched over, and ended together.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::{Backoff, BoxFuture, Exit, Failure, FailureKind, Intensity, Restart, Result, Spawner, TokioSpawner};

mod any_pool;
mod child;
mod children;
mod for_events;
mod options;
mod pool;
mod runner;
mod stopping;

pub use child::{ChildCounts, ChildId, ChildInfo, ChildNotFound, ChildState, Shutdown, StartChildError};
use children::{Rules, Spec};
pub use for_events::{Tasks, TasksRef};
pub use options::{DeadEvent, DeadLetters, TaskOptions, TaskRestart, Temporary, Transient};
use pool::{Pool, Work};
pub use stopping::Stopping;

/// Starts tasks at any time, restarts those that are to be, and ends them together: OTP's `DynamicSupervisor` and
/// `Task.Supervisor`. It needs no graph; in a graph, [`Graph::tasks`](crate::Graph::tasks) does the same for events.
///
/// Each child is restarted by itself (`one_for_one`). Beyond the [intensity](SupervisorOptions::intensity) of restarts,
/// over all children together, the supervisor gives up: it ends all children, and [`ended`](Self::ended) fails.
///
/// Dropping it drops all children where they wait. To let them end, [`shutdown`](Self::shutdown).
///
/// ```
/// use aqueduct_stage::{Child, SupervisorOptions, TaskSupervisor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let supervisor = TaskSupervisor::with_options("connections", SupervisorOptions::default().max_children(100));
/// supervisor.start_child(async { Ok(()) })?;
/// supervisor.start_child(Child::transient(|| async { Ok(()) }))?;
/// let answer = supervisor.start_task(async { 6 * 7 })?;
/// assert_eq!(answer.await?, 42);
/// let counts = supervisor.shutdown().await;
/// assert_eq!((counts.started, counts.failed), (3, 0));
/// # Ok(())
/// # }
/// ```
pub struct TaskSupervisor {
    pool: Arc<Pool<ChildWork>>,
    shutdown: Shutdown,
}

impl TaskSupervisor {
    /// Without children, and with default options. `name` is for reports.
    pub fn new(name: &str) -> Self {
        Self::with_options(name, SupervisorOptions::default())
    }

    /// Without children.
    pub fn with_options(name: &str, options: SupervisorOptions) -> Self {
        Self::with_spawner(name, options, TokioSpawner)
    }

    /// Without children; what it starts is started by `spawner`.
    pub fn with_spawner(name: &str, options: SupervisorOptions, spawner: impl Spawner) -> Self {
        let SupervisorOptions { max_children, intensity, backoff, shutdown } = options;
        let name: Arc<str> = name.into();
        let child = Arc::clone(&name);
        let spawn = Box::new(move |runner| spawner.spawn(&child, runner));
        let rules = Rules { intensity: Some(intensity), max_attempts: None, backoff, max_children };
        Self { pool: Pool::new(name, rules, ChildWork, spawn), shutdown }
    }

    /// Starts a child: a [`Child`], or a future, which is then temporary. With the default spawner it must be called on
    /// a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartChildError`]: there are as many children as there may be, or the supervisor has ended. What was to be
    /// started is dropped.
    pub fn start_child(&self, child: impl Into<Child>) -> Result<ChildId, StartChildError> {
        let Child { made_from, restart, shutdown } = child.into();
        let spec = Spec { restart, shutdown: shutdown.unwrap_or(self.shutdown) };
        self.pool.start(made_from, spec, None)
    }

    /// Starts a temporary child whose result is waited for: OTP's `Task.Supervisor.async_nolink`.
    ///
    /// # Errors
    ///
    /// As for [`start_child`](Self::start_child).
    pub fn start_task<Fut>(&self, task: Fut) -> Result<TaskHandle<Fut::Output>, StartChildError>
    where
        Fut: Future<Output: Send> + Send + 'static,
    {
        let ((sender, result), (gone, exit)) = (oneshot::channel(), oneshot::channel());
        let child = Child::temporary(async move {
            // Nobody may wait for it.
            let _ = sender.send(task.await);
            Ok(())
        });
        let spec = Spec { restart: child.restart, shutdown: self.shutdown };
        let id = self.pool.start(child.made_from, spec, Some(gone))?;
        Ok(TaskHandle { id, result: Some(result), exit })
    }

    /// Tells a child to end, and waits until it is gone. It is not restarted, and does not count as failed. Answers how
    /// it ended: a child that had to be dropped with [`FailureKind::Killed`].
    ///
    /// # Errors
    ///
    /// [`ChildNotFound`]: there is no such child any more.
    ///
    /// # Cancel safety
    ///
    /// The child is told when this is first polled; dropping the future gives up the answer only.
    pub async fn terminate_child(&self, id: ChildId) -> Result<Exit, ChildNotFound> {
        let gone = self.pool.terminate(id)?;
        // A supervisor that goes away drops its children.
        Ok(gone.await.unwrap_or(Exit::Shutdown))
    }

    /// All children, in the order in which they were started.
    pub fn which_children(&self) -> Vec<ChildInfo> {
        self.pool.which()
    }

    /// How many children there are, and what became of those that there were.
    pub fn count_children(&self) -> ChildCounts {
        self.pool.counts()
    }

    /// Tells all children to end, at once, and waits until they are gone; each has its own shutdown time. No other is
    /// started from now on. Answers what became of all children there ever were.
    ///
    /// A child that neither ends nor awaits cannot be dropped, and is waited for; it is reported as a warning 5 s after
    /// its time.
    ///
    /// # Cancel safety
    ///
    /// The children have been told when this is first polled; it can be called again.
    pub async fn shutdown(&self) -> ChildCounts {
        self.pool.shutdown().await;
        self.pool.counts()
    }

    /// Waits until the supervisor has been shut down, or has given up, and all children are gone.
    ///
    /// # Errors
    ///
    /// The [`Failure`] for which it has given up; the first call is told.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; it can be called again.
    pub async fn ended(&self) -> Result<(), Failure> {
        self.pool.until_over().await;
        self.pool.gave_up().map_or(Ok(()), Err)
    }
}

impl Drop for TaskSupervisor {
    fn drop(&mut self) {
        self.pool.kill();
    }
}

impl fmt::Debug for TaskSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSupervisor")
            .field("name", &&*self.pool.name)
            .field("counts", &self.count_children())
            .finish_non_exhaustive()
    }
}

/// What a [`TaskSupervisor`] holds to.
#[derive(Clone, Copy, Debug)]
pub struct SupervisorOptions {
    max_children: usize,
    intensity: Intensity,
    backoff: Backoff,
    shutdown: Shutdown,
}

impl SupervisorOptions {
    /// 10,000: more than most programs have tasks at a time, and few enough that a leak is found before the memory is
    /// full.
    pub const DEFAULT_MAX_CHILDREN: usize = 10_000;

    /// Sets how many children there may be at a time; those that wait for a restart count. Default
    /// [`DEFAULT_MAX_CHILDREN`](Self::DEFAULT_MAX_CHILDREN).
    #[must_use]
    pub fn max_children(mut self, max_children: usize) -> Self {
        self.max_children = max_children;
        self
    }

    /// Sets how many restarts are borne, over all children. Default 3 within 5 s.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// Sets how long a child waits before it is restarted. Default: not at all.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how long children are given that are told to end, unless they [say](Child::shutdown) otherwise. Default 5 s.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }
}

impl Default for SupervisorOptions {
    fn default() -> Self {
        Self {
            max_children: Self::DEFAULT_MAX_CHILDREN,
            intensity: Intensity::default(),
            backoff: Backoff::default(),
            shutdown: Shutdown::default(),
        }
    }
}

/// What a [`TaskSupervisor`] starts, and when it starts it again.
pub struct Child {
    made_from: MadeFrom,
    restart: Restart,
    shutdown: Option<Shutdown>,
}

impl Child {
    /// A task that is not restarted.
    pub fn temporary(task: impl Future<Output = Result> + Send + 'static) -> Self {
        Self { made_from: MadeFrom::Task(Box::pin(task)), restart: Restart::Temporary, shutdown: None }
    }

    /// A task that is made and started again when it fails or panics.
    pub fn transient<Fut>(make: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result> + Send + 'static,
    {
        Self { made_from: MadeFrom::factory(make), restart: Restart::Transient, shutdown: None }
    }

    /// A task that is made and started again whenever it ends. It counts towards the intensity then, also if it ended
    /// well.
    pub fn permanent<Fut>(make: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result> + Send + 'static,
    {
        Self { made_from: MadeFrom::factory(make), restart: Restart::Permanent, shutdown: None }
    }

    /// Sets how long it is given when it is told to end. Default: what the supervisor's options say.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }
}

impl<Fut: Future<Output = Result> + Send + 'static> From<Fut> for Child {
    fn from(task: Fut) -> Self {
        Self::temporary(task)
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restart, shutdown, .. } = self;
        f.debug_struct("Child").field("restart", restart).field("shutdown", shutdown).finish_non_exhaustive()
    }
}

enum MadeFrom {
    Task(BoxFuture<'static, Result>),
    Factory(Arc<Factory>),
}

type Factory = dyn Fn() -> BoxFuture<'static, Result> + Send + Sync;

impl MadeFrom {
    fn factory<Fut>(make: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result> + Send + 'static,
    {
        Self::Factory(Arc::new(move || Box::pin(make())))
    }
}

/// Children are made from what says so itself.
struct ChildWork;

impl Work for ChildWork {
    type Item = MadeFrom;
    type Task = BoxFuture<'static, Result>;

    fn keep(&self, made_from: &MadeFrom) -> Option<MadeFrom> {
        match made_from {
            MadeFrom::Task(_) => None,
            MadeFrom::Factory(make) => Some(MadeFrom::Factory(Arc::clone(make))),
        }
    }

    fn start(&self, made_from: MadeFrom) -> BoxFuture<'static, Result> {
        match made_from {
            MadeFrom::Task(task) => task,
            MadeFrom::Factory(make) => make(),
        }
    }
}

/// The result of a [task](TaskSupervisor::start_task), to be awaited. Dropping it does not end the task.
#[derive(Debug)]
#[must_use = "the result comes when it is awaited; for a task without one, use `start_child`"]
pub struct TaskHandle<R> {
    id: ChildId,
    /// There until it is known that no result will come.
    result: Option<oneshot::Receiver<R>>,
    exit: oneshot::Receiver<Exit>,
}

impl<R> TaskHandle<R> {
    /// The child's id, with which it can be terminated.
    pub fn id(&self) -> ChildId {
        self.id
    }
}

impl<R> Future for TaskHandle<R> {
    type Output = Result<R, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = &mut self.result {
            if let Ok(result) = ready!(Pin::new(result).poll(cx)) {
                return Poll::Ready(Ok(result));
            }
            self.result = None;
        }
        match ready!(Pin::new(&mut self.exit).poll(cx)) {
            Ok(Exit::Failed(failure)) => Poll::Ready(Err(failure)),
            _ => {
                let child = format!("child {}", self.id);
                Poll::Ready(Err(Failure::new(child, FailureKind::Killed, "its supervisor is gone")))
            }
        }
    }
}
