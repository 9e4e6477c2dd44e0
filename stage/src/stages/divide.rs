//! [`divide`]: divide and conquer, on many tasks.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Semaphore, oneshot};
use tokio::task::consume_budget;

use super::bell::Ring;
use super::work::{Fault, Order};
use super::workers::{Workers, caught, raise};
use crate::{Batch, BoxFuture, Cx, Edge, EndCause, Handle, Mode, ProducerConsumer, Result};

/// How a problem is divided, and its parts are conquered.
///
/// The methods compute, on the runtime's threads: the part that is small enough should take well below a millisecond, or
/// others wait; what blocks does not belong here.
pub trait Divide: Send + Sync + 'static {
    /// What is to be solved.
    type Problem: Send + 'static;
    /// Its solution.
    type Solution: Send + 'static;

    /// Divides a problem into smaller ones, or hands it back if it is small enough to be [solved](Self::solve) at once.
    /// A problem that is never small enough is divided without end.
    fn split(&self, problem: Self::Problem) -> Split<Self::Problem>;

    /// Solves a problem that is small enough.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    fn solve(&self, problem: Self::Problem) -> Result<Self::Solution>;

    /// Makes one solution of those of the parts, which are in the order in which [`split`](Self::split) gave them.
    ///
    /// # Errors
    ///
    /// An error ends the stage and is reported as the graph's.
    fn merge(&self, solutions: Vec<Self::Solution>) -> Result<Self::Solution>;
}

/// The answer of [`Divide::split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split<P> {
    /// It is small enough to be solved at once.
    Small(P),
    /// These are its parts.
    Parts(Vec<P>),
}

/// A stage that solves each event by dividing it, on up to `tasks` tasks at the same time, and emits the solutions in
/// the order of the events.
///
/// A part is given a task of its own as long as fewer than `tasks` are running, and is otherwise solved by the task that
/// made it. Everything else is as with [`pmap`](super::pmap()).
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// use aqueduct_stage::stages::{self, Divide, Split};
///
/// struct MergeSort;
///
/// impl Divide for MergeSort {
///     type Problem = Vec<u64>;
///     type Solution = Vec<u64>;
///
///     fn split(&self, mut numbers: Vec<u64>) -> Split<Vec<u64>> {
///         if numbers.len() <= 1000 {
///             return Split::Small(numbers);
///         }
///         let upper = numbers.split_off(numbers.len() / 2);
///         Split::Parts(vec![numbers, upper])
///     }
///
///     fn solve(&self, mut numbers: Vec<u64>) -> Result<Vec<u64>> {
///         numbers.sort_unstable();
///         Ok(numbers)
///     }
///
///     fn merge(&self, parts: Vec<Vec<u64>>) -> Result<Vec<u64>> {
///         let mut numbers = parts.concat();
///         numbers.sort(); // finds the sorted runs
///         Ok(numbers)
///     }
/// }
/// # struct Numbers;
/// # impl Producer for Numbers {
/// #     type Out = Vec<u64>;
/// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Vec<u64>>) -> Result {
/// #         cx.emit((0..10_000).rev().collect::<Vec<_>>());
/// #         cx.stop(Exit::Normal);
/// #         Ok(())
/// #     }
/// # }
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = Vec<u64>;
/// #     async fn handle_events(&mut self, events: Batch<Vec<u64>>, _cx: &mut Cx<'_>) -> Result {
/// #         assert!(events[0].is_sorted());
/// #         Ok(())
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let graph = Graph::new("demo");
/// # let numbers = graph.producer("numbers", || Numbers);
/// let sorted = graph.stage("sort", || stages::divide(8, MergeSort)).subscribe(&numbers, 1..2);
/// graph.consumer("print", || Print).subscribe(&sorted, 0..1);
/// # graph.run().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If `tasks` is 0.
#[track_caller]
pub fn divide<D: Divide>(tasks: usize, how: D) -> DivideAndConquer<D> {
    assert!(tasks > 0, "expected at least 1 task, got 0");
    let tasks = tasks.min(Semaphore::MAX_PERMITS);
    let helpers = Helpers { how: Arc::new(how), spare: Arc::new(Semaphore::new(tasks)), spawn: Arc::default() };
    let roots = helpers.clone();
    let solve: Solve<D> = Box::new(move |problem| Box::pin(roots.clone().begin_whole(problem)));
    DivideAndConquer { workers: Workers::new(Order::Kept, tasks), helpers, solve: Arc::new(solve) }
}

/// The stage made by [`divide`].
pub struct DivideAndConquer<D: Divide> {
    workers: Workers<D::Problem, D::Solution>,
    helpers: Helpers<D>,
    solve: Arc<Solve<D>>,
}

/// What the workers do with an event.
type Solve<D> =
    Box<dyn Fn(<D as Divide>::Problem) -> BoxFuture<'static, Result<<D as Divide>::Solution>> + Send + Sync>;

/// What it takes to hand a part to a task of its own.
struct Helpers<D> {
    how: Arc<D>,
    /// A permit for each event or part that may be worked on.
    spare: Arc<Semaphore>,
    spawn: Arc<OnceLock<Spawn>>,
}

type Spawn = Box<dyn Fn(BoxFuture<'static>) + Send + Sync>;

impl<D> Clone for Helpers<D> {
    fn clone(&self) -> Self {
        Self { how: Arc::clone(&self.how), spare: Arc::clone(&self.spare), spawn: Arc::clone(&self.spawn) }
    }
}

impl<D: Divide> Helpers<D> {
    /// Solves an event, once it may be worked on.
    async fn begin_whole(self, problem: D::Problem) -> Result<D::Solution> {
        let _permit = Arc::clone(&self.spare).acquire_owned().await?;
        self.conquer(problem).await
    }

    /// Solves a problem, and what it is divided into.
    async fn conquer(self, problem: D::Problem) -> Result<D::Solution> {
        consume_budget().await;
        let mut parts = match self.how.split(problem) {
            Split::Small(problem) => return self.how.solve(problem),
            Split::Parts(parts) => parts.into_iter(),
        };
        // The last part is this task's own.
        let own = parts.next_back();
        let mut begun = Vec::new();
        for part in parts {
            begun.push(self.begin(part).await?);
        }
        let own = match own {
            Some(part) => Some(self.clone().boxed(part).await?),
            None => None,
        };
        let mut solutions = Vec::with_capacity(begun.len() + 1);
        for part in begun {
            solutions.push(part.solution().await?);
        }
        solutions.extend(own);
        self.how.merge(solutions)
    }

    /// Solves a part in a task of its own, or here and now if there are enough of them.
    async fn begin(&self, part: D::Problem) -> Result<Part<D::Solution>> {
        let (Ok(permit), Some(spawn)) = (Arc::clone(&self.spare).try_acquire_owned(), self.spawn.get()) else {
            return Ok(Part::Here(self.clone().boxed(part).await?));
        };
        let (mut answer, solution) = oneshot::channel();
        let part = self.clone().boxed(part);
        spawn(Box::pin(async move {
            let solved = async {
                let solved = caught(part).await;
                drop(permit);
                solved
            };
            tokio::select! {
                biased;
                // The stage has ended, or another part has failed.
                () = answer.closed() => {}
                solved = solved => drop(answer.send(solved)),
            }
        }));
        Ok(Part::There(solution))
    }

    fn boxed(self, problem: D::Problem) -> BoxFuture<'static, Result<D::Solution>> {
        Box::pin(self.conquer(problem))
    }
}

enum Part<S> {
    Here(S),
    There(oneshot::Receiver<Result<S, Fault>>),
}

impl<S> Part<S> {
    async fn solution(self) -> Result<S> {
        match self {
            Self::Here(solution) => Ok(solution),
            Self::There(answer) => answer.await?.map_err(raise),
        }
    }
}

impl<D: Divide> ProducerConsumer for DivideAndConquer<D> {
    type In = D::Problem;
    type Out = D::Solution;

    async fn handle_events(&mut self, events: Batch<D::Problem>, cx: &mut Cx<'_, D::Solution>) -> Result {
        let stage = cx.stage_ref::<Self>();
        self.workers.start("divide", &stage, &self.solve);
        self.helpers.spawn.get_or_init(|| Box::new(move |task| stage.spawn("part", task)));
        self.workers.hand_in_each(events);
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, D::Solution>) -> Result {
        self.workers
            .finish(cx, |cx, solution| {
                cx.emit(solution);
            })
            .await
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, D::Solution>) -> Result<Mode> {
        Ok(self.workers.opened(edge, cx))
    }

    async fn handle_cancel(&mut self, edge: &Edge, _cause: &EndCause, _cx: &mut Cx<'_, D::Solution>) -> Result {
        self.workers.ended(edge.id);
        Ok(())
    }
}

/// There are solutions.
#[diagnostic::do_not_recommend]
impl<D: Divide> Handle<Ring, D::Solution> for DivideAndConquer<D> {
    type Reply = ();

    async fn handle(&mut self, _: Ring, cx: &mut Cx<'_, D::Solution>) -> Result {
        self.workers.serve(cx, |cx, solution| {
            cx.emit(solution);
        })
    }
}

impl<D: Divide> fmt::Debug for DivideAndConquer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DivideAndConquer").finish_non_exhaustive()
    }
}
