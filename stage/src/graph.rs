//! [`Graph`]: stages and the subscriptions between them, described before they run.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_dispatcher::{Buffer, DemandDispatcher, Keep};

use crate::callbacks::{Callbacks, ConsumerCallbacks, ProducerCallbacks, ProducerConsumerCallbacks};
use crate::dispatching::NoOutput;
use crate::members::Shared;
use crate::protocol::Expected;
use crate::role::Role;
use crate::running::Running;
use crate::supervision::driver::{Declared, Enrolled, Supervisor};
use crate::{
    Backoff, Consumer, DemandMode, Failure, FailureKind, GraphError, Intensity, Never, OnCancel, Outcome, Producer,
    ProducerConsumer, Restart, Spawner, Strategy, TokioSpawner,
};

pub(crate) mod place;
pub(crate) mod siblings;
mod stage;
mod unstarted;

use place::{Place, Seat, Spec};
pub use stage::Stage;
pub(crate) use stage::Subscribing;
use unstarted::Unstarted;

/// A graph of stages, described and not yet running.
///
/// Stages are given as factories, because a stage may be made more than once.
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// # struct Numbers;
/// # impl Producer for Numbers {
/// #     type Out = u64;
/// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
/// #         cx.emit_all(0..demand as u64);
/// #         cx.stop(Exit::Normal);
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
/// graph.consumer("print", || Print).subscribe(&numbers, 500..1000);
/// let outcome = graph.run().await?;
/// assert_eq!(outcome.stage("print").map(|stage| stage.events_in), Some(1000));
/// # Ok(())
/// # }
/// ```
pub struct Graph {
    name: Arc<str>,
    shared: Arc<Shared>,
    supervisor: Arc<Supervisor>,
    plan: Arc<Mutex<Plan>>,
}

/// What was declared.
struct Plan {
    /// Whether more may be declared.
    open: bool,
    /// The stages that take events.
    takers: Vec<Arc<str>>,
    /// Every name there is, in the order of declaration, and in order.
    names: Vec<Arc<str>>,
    known: BTreeSet<Arc<str>>,
    /// Who subscribes to whom, for drawings.
    edges: Vec<(String, Arc<str>)>,
    /// Stages that were not started yet.
    stages: Vec<Enrol>,
    /// Subscriptions that were not made yet, in the order in which they were declared.
    wires: Vec<MakeWires>,
}

impl Plan {
    /// A stage that takes events, and to which none will come.
    fn idle(&self) -> Option<Arc<str>> {
        let fed: BTreeSet<&str> = self.edges.iter().map(|(_, to)| &**to).collect();
        self.takers.iter().find(|name| !fed.contains(&***name)).cloned()
    }
}

impl Default for Plan {
    fn default() -> Self {
        let (names, known, takers, edges, stages, wires) = Default::default();
        Self { open: true, takers, names, known, edges, stages, wires }
    }
}

/// Takes a stage into the graph.
type Enrol = Box<dyn FnOnce(&Shared) -> Vec<Enrolled> + Send>;
/// The subscriptions of one declaration: one for each pair of instances.
type MakeWires = Box<dyn FnOnce() -> Vec<Declared> + Send>;

impl Graph {
    /// A graph without stages. `name` is for reports.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_spawner(name, TokioSpawner)
    }

    /// A graph whose tasks are started by `spawner`, for tests that put stages on a machine of their own.
    pub fn with_spawner(name: impl Into<String>, spawner: impl Spawner) -> Self {
        let name: Arc<str> = name.into().into();
        let shared = Arc::new(Shared::new(Arc::clone(&name), Arc::new(spawner)));
        let supervisor = Arc::new(Supervisor::new(Arc::clone(&shared), &name));
        Self { name, shared, supervisor, plan: Arc::new(Mutex::new(Plan::default())) }
    }

    /// Says which stages are restarted together, of those that [may be](Stage::restart). Default
    /// [`Strategy::OneForOne`].
    #[must_use = "the returned graph is the one to declare stages in"]
    pub fn strategy(self, strategy: Strategy) -> Self {
        self.supervisor.configure(|supervision| supervision.strategy = strategy);
        self
    }

    /// Sets how many restarts are borne, over all stages, before the graph is given up: every stage is then stopped, the
    /// last first, and the graph fails. Default 3 within 5 s, as in OTP.
    ///
    /// A failure counts once, however many stages fall with it.
    #[must_use = "the returned graph is the one to declare stages in"]
    pub fn intensity(self, intensity: Intensity) -> Self {
        self.supervisor.configure(|supervision| supervision.intensity = intensity);
        self
    }

    /// Sets how long to wait before a restart. Default: not at all, as in OTP.
    #[must_use = "the returned graph is the one to declare stages in"]
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.supervisor.configure(|supervision| supervision.backoff = backoff);
        self
    }

    /// Sets where the jitter of the [`backoff`](Self::backoff) begins. The default depends on the graph's name alone, so
    /// that a run can be repeated; give each of several nodes that run the same graph a seed of its own, lest they all
    /// come back at once.
    #[must_use = "the returned graph is the one to declare stages in"]
    pub fn backoff_seed(self, seed: u64) -> Self {
        self.supervisor.configure(|supervision| supervision.entropy = seed);
        self
    }

    /// Sets how long a stage may wait for somebody who is missing, before that is said. Default 5 s: longer than stages
    /// of one program need to find each other, and soon enough for whoever looks at a program that does nothing.
    /// [`Duration::MAX`] is never.
    ///
    /// It concerns a stage, or a partition of one, that nobody subscribes to; one that accumulates demand; a consumer that
    /// nobody subscribes; and a subscription that is not being made. It is looked at while the graph is
    /// [run](Self::run), [joined](Running::join) or [served](Running::serve), and said by a warning with the name of the
    /// stage and [what it waits for](crate::WaitingFor), once for each wait. Of a stage that is published for other nodes
    /// it is no warning, but there for information.
    ///
    /// A graph that is run or joined fails after that time ([`FailureKind::Waiting`]) if a stage lacks a subscriber and
    /// nobody is left who could come: all other stages have ended or wait as well, none has a neighbour outside the graph,
    /// and the stage is not published. Whoever subscribes to the stage later than that by himself, as to a stream in
    /// another task, raises the time, or has the graph [served](Running::serve).
    #[must_use = "the returned graph is the one to declare stages in"]
    pub fn patience(self, patience: Duration) -> Self {
        self.shared.set_patience(patience);
        self
    }

    /// Declares a producer. Its buffer holds [`Buffer::DEFAULT_CAPACITY`] events that nobody has asked for, and drops
    /// the oldest beyond that, with a warning, a count in the [`Outcome`], and an error at the end: see [`Stage::buffer`].
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn producer<P: Producer>(
        &self,
        name: &str,
        mut make: impl FnMut() -> P + Send + 'static,
    ) -> Stage<P, Never, P::Out> {
        let capacity = Buffer::<P::Out>::DEFAULT_CAPACITY;
        self.declare(name, capacity, move || ProducerCallbacks(make()))
    }

    /// Declares a producer-consumer. Its buffer has no bound of its own: what is in it was emitted for one window of
    /// events, and no more are handled before somebody asks.
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn stage<S: ProducerConsumer>(
        &self,
        name: &str,
        mut make: impl FnMut() -> S + Send + 'static,
    ) -> Stage<S, S::In, S::Out> {
        self.declare(name, usize::MAX, move || ProducerConsumerCallbacks(make()))
    }

    /// Declares a consumer.
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn consumer<C: Consumer>(
        &self,
        name: &str,
        mut make: impl FnMut() -> C + Send + 'static,
    ) -> Stage<C, C::In, Never, NoOutput> {
        self.declare(name, 0, move || ConsumerCallbacks(make()))
    }

    /// Starts every stage and returns the handle to the running graph. Must be called on a tokio runtime.
    ///
    /// All subscriptions within the graph are made before any stage runs, in the order in which they were declared.
    pub fn start(self) -> Running {
        self.launch();
        let (shared, supervisor) = (Arc::clone(&self.shared), Arc::clone(&self.supervisor));
        Running::new(self, shared, supervisor)
    }

    /// Runs the graph until every source is exhausted and everything emitted has been handled.
    ///
    /// A stage with an output waits for its first subscriber, which may be on another node. One that nobody subscribes to
    /// keeps the graph from ending; if nobody is left who could, that is an error [after 5 s](Self::patience).
    ///
    /// # Errors
    ///
    /// [`GraphError`] with the first failure; the other stages are then shut down, with five seconds of grace. A
    /// success is never short: if a stage ended before its work was done, that is an error. A failure after which a stage
    /// [was restarted](Stage::restart) is none; more of them than [are borne](Self::intensity) are.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills every stage.
    pub async fn run(self) -> Result<Outcome, GraphError> {
        let idle = self.lock().idle();
        if let Some(stage) = idle {
            let failure = Failure::new(&*stage, FailureKind::Subscribe, "it is not subscribed to anything");
            return GraphError::unless_empty(vec![failure], None, Outcome::default());
        }
        self.start().join().await
    }

    /// The graph as a Mermaid flowchart.
    pub fn to_mermaid(&self) -> String {
        let plan = self.lock();
        let mut text = String::from("flowchart LR\n");
        for (number, name) in plan.names.iter().enumerate() {
            text += &format!("    s{number}[\"{}\"]\n", name.replace('"', "#quot;"));
        }
        let mut far: Vec<&str> = Vec::new();
        for (from, to) in &plan.edges {
            let number = |name: &str| plan.names.iter().position(|other| **other == *name);
            let to = number(to).map_or_else(String::new, |number| format!("s{number}"));
            if let Some(from) = number(from) {
                text += &format!("    s{from} --> {to}\n");
                continue;
            }
            let from = far.iter().position(|other| other == from).unwrap_or_else(|| {
                far.push(from);
                far.len() - 1
            });
            text += &format!("    f{from}([\"{}\"]) -.-> {to}\n", far[from].replace('"', "#quot;"));
        }
        text
    }

    /// The graph in Graphviz's DOT language.
    pub fn to_dot(&self) -> String {
        let plan = self.lock();
        let mut text = format!("digraph {:?} {{\n    rankdir=LR;\n", self.name);
        for name in &plan.names {
            text += &format!("    {name:?};\n");
        }
        for (from, to) in &plan.edges {
            let style = if plan.names.iter().any(|name| **name == **from) { "" } else { " [style=dashed]" };
            text += &format!("    {from:?} -> {to:?}{style};\n");
        }
        text + "}\n"
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Lets more be declared, until the next launch.
    pub(crate) fn reopen(&self) {
        self.lock().open = true;
    }

    /// Starts what was declared since the last time.
    pub(crate) fn launch(&self) {
        let mut plan = self.lock();
        plan.open = false;
        let (stages, wires) = (std::mem::take(&mut plan.stages), std::mem::take(&mut plan.wires));
        drop(plan);
        self.shared.make_room(stages.len());
        let enrolled = stages.into_iter().flat_map(|enrol| enrol(&self.shared)).collect();
        let declared = wires.into_iter().flat_map(|make| make()).collect();
        self.supervisor.launch(enrolled, declared);
    }

    #[track_caller]
    pub(crate) fn declare<S: 'static, C: Callbacks, D>(
        &self,
        name: &str,
        capacity: usize,
        make: impl FnMut() -> C + Send + 'static,
    ) -> Stage<S, C::In, C::Out, D> {
        let name: Arc<str> = name.into();
        let spec = Spec {
            seats: vec![Arc::new(Seat::new(&name))],
            dispatcher: Box::new(|| Box::new(DemandDispatcher::new())),
            capacity,
            keep: Keep::Last,
            may_drop: false,
            mode: DemandMode::Forward,
            awaited: 1,
            on_cancel: OnCancel::Continue,
            partitions: 0,
            restart: Restart::Temporary,
        };
        let (expected, graph) = (Expected::default(), self.shared().id());
        let place = Arc::new(Place {
            name: Arc::clone(&name),
            graph,
            spec: Mutex::new(spec),
            families: Mutex::default(),
            expected,
        });
        let (unstarted, make) = (Unstarted::new(&place), Arc::new(Mutex::new(Some(make))));
        let enrol = move |shared: &Shared| unstarted.start().enrol::<S, C, _>(&make, shared);
        let mut plan = self.lock();
        assert!(plan.known.insert(Arc::clone(&name)), "graph {:?} has a stage {name:?} already", self.name);
        if C::ROLE != Role::Producer {
            plan.takers.push(Arc::clone(&name));
        }
        plan.names.push(name);
        plan.stages.push(Box::new(enrol));
        drop(plan);
        Stage { place, plan: Arc::downgrade(&self.plan), shared: Arc::clone(&self.shared), types: PhantomData }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("name", &self.name).field("stages", &self.lock().names).finish()
    }
}
