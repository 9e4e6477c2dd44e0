//! [`Graph`]: stages and the subscriptions between them, described before they run.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aqueduct_dispatcher::{Buffer, DemandDispatcher, Dispatcher, Events, Keep, SubscribeOptions, SubscriptionId};

use crate::callbacks::{Callbacks, ConsumerCallbacks, ProducerCallbacks, ProducerConsumerCallbacks, Role, guarded};
use crate::counters::Counters;
use crate::dispatching::{ByDemand, NoOutput, Output};
use crate::downstream::Downstream;
use crate::driver::Driver;
use crate::ending::Ending;
use crate::mailbox::{Mailbox, Message, Opening};
use crate::running::{Control, Member, Running, Shared};
use crate::{
    BoxFuture, Consumer, DemandMode, Exit, Failure, FailureKind, GraphError, Never, Outcome, Producer,
    ProducerConsumer, Source, Spawner, StageRef, Subscription, TokioSpawner,
};

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
    plan: Arc<Mutex<Plan>>,
}

/// What was declared.
struct Plan {
    /// Whether more may be declared.
    open: bool,
    /// The stages that take events.
    takers: Vec<Arc<str>>,
    /// Every name there is.
    names: Vec<Arc<str>>,
    /// Who subscribes to whom, for drawings.
    edges: Vec<(String, Arc<str>)>,
    /// Stages that were not started yet.
    stages: Vec<Launch>,
    /// Subscriptions that were not made yet, in the order in which they were declared.
    openings: Vec<MakeOpenings>,
}

impl Plan {
    /// A stage that takes events, and to which none will come.
    fn idle(&self) -> Option<Arc<str>> {
        self.takers.iter().find(|name| !self.edges.iter().any(|(_, to)| to == *name)).cloned()
    }
}

impl Default for Plan {
    fn default() -> Self {
        let (names, takers, edges, stages, openings) = Default::default();
        Self { open: true, takers, names, edges, stages, openings }
    }
}

/// Enrols and starts a stage.
type Launch = Box<dyn FnOnce(&Arc<Shared>) + Send>;
/// Makes the subscriptions of one declaration: one for each pair of instances.
type MakeOpenings = Box<dyn FnOnce() -> Vec<BoxFuture<'static>> + Send>;

impl Graph {
    /// A graph without stages. `name` is for reports.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_spawner(name, TokioSpawner)
    }

    /// A graph whose tasks are started by `spawner`, for tests that put stages on a machine of their own.
    pub fn with_spawner(name: impl Into<String>, spawner: impl Spawner) -> Self {
        let shared = Arc::new(Shared::new(Arc::new(spawner)));
        Self { name: name.into().into(), shared, plan: Arc::new(Mutex::new(Plan::default())) }
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
        self.declare(name, Role::Producer, capacity, move || Box::new(ProducerCallbacks(make())))
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
        self.declare(name, Role::ProducerConsumer, usize::MAX, move || Box::new(ProducerConsumerCallbacks(make())))
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
        self.declare(name, Role::Consumer, 0, move || Box::new(ConsumerCallbacks(make())))
    }

    /// Starts every stage and returns the handle to the running graph. Must be called on a tokio runtime.
    ///
    /// All subscriptions within the graph are made before any stage runs, in the order in which they were declared.
    pub fn start(self) -> Running {
        self.launch();
        let shared = Arc::clone(&self.shared);
        Running::new(self, shared)
    }

    /// Runs the graph until every source is exhausted and everything emitted has been handled.
    ///
    /// A stage with an output waits for its first subscriber, which may be on another node; one that nobody ever
    /// subscribes to keeps the graph from ending.
    ///
    /// # Errors
    ///
    /// [`GraphError`] with the first failure; the other stages are then shut down, with five seconds of grace. A
    /// success is never short: if a stage ended before its work was done, that is an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills every stage.
    pub async fn run(self) -> Result<Outcome, GraphError> {
        let idle = self.lock().idle();
        if let Some(stage) = idle {
            let failure = Failure::new(&*stage, FailureKind::Subscribe, "it is not subscribed to anything");
            return GraphError::unless_empty(vec![failure]).map(|()| Outcome::default());
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

    /// Lets more be declared, until the next launch.
    pub(crate) fn reopen(&self) {
        self.lock().open = true;
    }

    /// Starts what was declared since the last time.
    pub(crate) fn launch(&self) {
        let mut plan = self.lock();
        plan.open = false;
        let (stages, openings) = (std::mem::take(&mut plan.stages), std::mem::take(&mut plan.openings));
        drop(plan);
        for opening in openings.into_iter().flat_map(|make| make()) {
            // Within the graph this completes at once, so subscriptions are made in the order of declaration.
            self.shared.spawn_polled("subscribe", opening);
        }
        for launch in stages {
            launch(&self.shared);
        }
    }

    #[track_caller]
    fn declare<S: 'static, I: Send + 'static, O: Send + 'static, D>(
        &self,
        name: &str,
        role: Role,
        capacity: usize,
        make: impl FnMut() -> Box<dyn Callbacks<I, O>> + Send + 'static,
    ) -> Stage<S, I, O, D> {
        let name: Arc<str> = name.into();
        let spec = Spec {
            instances: vec![Arc::new(Mailbox::new(&name))],
            dispatcher: Box::new(|| Box::new(DemandDispatcher::new())),
            capacity,
            keep: Keep::Last,
            may_drop: false,
            mode: DemandMode::Forward,
            awaited: 1,
            partitions: 0,
        };
        let place = Arc::new(Place { name: Arc::clone(&name), spec: Mutex::new(spec) });
        let (launched, make) = (Arc::clone(&place), Arc::new(Mutex::new(make)));
        let launch = move |shared: &Arc<Shared>| launched.launch::<S>(role, &make, shared);
        let mut plan = self.lock();
        assert!(!plan.names.contains(&name), "graph {:?} has a stage {name:?} already", self.name);
        if role != Role::Producer {
            plan.takers.push(Arc::clone(&name));
        }
        plan.names.push(name);
        plan.stages.push(Box::new(launch));
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

/// A place in a graph, and how what runs there is to be made.
pub(crate) struct Place<I, O> {
    pub(crate) name: Arc<str>,
    spec: Mutex<Spec<I, O>>,
}

struct Spec<I, O> {
    /// One for each instance.
    instances: Vec<Arc<Mailbox<I, O>>>,
    dispatcher: MakeDispatcher<O>,
    capacity: usize,
    keep: Keep,
    /// Whether the user said what to do when the buffer is full.
    may_drop: bool,
    mode: DemandMode,
    awaited: usize,
    /// How many partitions there are, where there are any.
    partitions: usize,
}

/// Makes the dispatcher of an instance.
pub(crate) type MakeDispatcher<O> = Box<dyn Fn() -> Box<dyn Dispatcher<O>> + Send + Sync>;

impl<I: Send + 'static, O: Send + 'static> Place<I, O> {
    fn launch<S: 'static>(
        &self,
        role: Role,
        make: &Arc<Mutex<impl FnMut() -> Box<dyn Callbacks<I, O>> + Send + 'static>>,
        shared: &Arc<Shared>,
    ) {
        let spec = self.lock();
        for (instance, mailbox) in spec.instances.iter().enumerate() {
            let counters = Arc::new(Counters::new());
            let control = Arc::clone(mailbox) as Arc<dyn Control>;
            let number = shared.enrol(Member::new(
                Arc::clone(&self.name),
                instance,
                control,
                Arc::clone(&counters),
                spec.may_drop,
            ));
            let reporter = Arc::clone(shared);
            let report = Box::new(move |exit| reporter.report(number, exit));
            let mut ending = Ending::new(Arc::clone(&self.name), Arc::clone(mailbox), counters, report);
            let buffer = Buffer::new(spec.capacity, spec.keep);
            let downstream = Downstream::new((spec.dispatcher)(), buffer, spec.mode, spec.awaited);
            let stage_ref = StageRef::<S, O>::new(Arc::clone(&self.name), Arc::clone(mailbox) as _, Arc::clone(shared));
            let (make, keep) = (Arc::clone(make), spec.keep);
            let task = async move {
                let made = guarded(&ending.stage, async {
                    let mut make = make.lock().unwrap_or_else(PoisonError::into_inner);
                    Ok(make())
                });
                match made.await {
                    Ok(callbacks) => {
                        let driver = Driver::new(ending, role, callbacks, Arc::new(stage_ref), downstream, keep);
                        driver.run().await;
                    }
                    Err(failure) => ending.announce(Exit::Failed(failure)),
                }
            };
            shared.spawn(&self.name, Box::pin(task));
        }
    }
}

impl<I, O> Place<I, O> {
    fn lock(&self) -> MutexGuard<'_, Spec<I, O>> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a graph, where a stage of type `S` takes events of type `I` and emits events of type `O`.
///
/// It is what one subscribes with and to. How it dispatches, `D`, is part of its type, so that a subscription that its
/// dispatcher cannot serve does not compile. Cloning it names the same place.
pub struct Stage<S, I, O, D = ByDemand> {
    pub(crate) place: Arc<Place<I, O>>,
    /// Weak, as what was declared refers to stages.
    plan: Weak<Mutex<Plan>>,
    shared: Arc<Shared>,
    types: PhantomData<fn() -> (S, D)>,
}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: 'static> Stage<S, I, O, D> {
    /// Subscribes this stage to a source when the graph starts. It may be called several times; each producer then has
    /// its own window of events on their way. With several instances on either side, each subscribes to each.
    ///
    /// Takes a range of demand (`500..1000`), a [`Window`](crate::Window) or [`SubscribeOptions`].
    pub fn subscribe<Src: Source<Item = I> + Clone>(self, source: &Src, options: impl Into<SubscribeOptions>) -> Self {
        self.subscribe_keeping(source, options.into(), None)
    }

    /// As [`subscribe`](Self::subscribe), and hands back what it was given and did not finish when it fails: the batch
    /// that it was handling, with the next attempt's number, and what was waiting behind it. The producer gives these
    /// events to its other consumers, or to the next one, before anything newer.
    ///
    /// Without it, what a failing consumer had in hand is lost with it. It costs a clone of each event that is taken by
    /// value. From a producer on another node nothing can be handed back yet.
    pub fn subscribe_acknowledged<Src: Source<Item = I> + Clone>(
        self,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> Self
    where
        I: Clone + Sync,
    {
        self.subscribe_keeping(source, options.into(), Some(|events| Events::share(events.into_vec())))
    }

    fn subscribe_keeping<Src: Source<Item = I> + Clone>(
        self,
        source: &Src,
        options: SubscribeOptions,
        keep: Option<fn(Events<I>) -> Events<I>>,
    ) -> Self {
        let (consumer, source) = (self.clone(), source.clone());
        self.declare_edge(source.name(), move || {
            let count = consumer.mailboxes().len();
            let pairs = (0..count).flat_map(|mine| (0..source.instances()).map(move |theirs| (mine, theirs)));
            pairs.map(|(mine, theirs)| consumer.opening(mine, &source, theirs, options, keep).1).collect()
        });
        self
    }

    /// Subscribes instances to sources of their own.
    pub(crate) fn subscribe_pairs<Src: Source<Item = I> + Clone>(
        &self,
        name: String,
        pairs: impl IntoIterator<Item = (usize, Src)>,
        options: SubscribeOptions,
    ) {
        let (consumer, pairs) = (self.clone(), pairs.into_iter().collect::<Vec<_>>());
        self.declare_edge(name, move || {
            let mut openings = Vec::new();
            for (mine, source) in &pairs {
                for theirs in 0..source.instances() {
                    openings.push(consumer.opening(*mine, source, theirs, options, None).1);
                }
            }
            openings
        });
    }

    fn declare_edge(&self, from: String, make: impl FnOnce() -> Vec<BoxFuture<'static>> + Send + 'static) {
        let late = "subscribe before the graph starts, within `Running::add`, or with `Running::subscribe`";
        let Some(plan) = self.plan.upgrade() else { panic!("the graph of stage {:?} is gone: {late}", self.name()) };
        let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
        let open = plan.open;
        if open {
            plan.edges.push((from, Arc::clone(&self.place.name)));
            plan.openings.push(Box::new(make));
        }
        drop(plan);
        assert!(open, "the graph of stage {:?} has started: {late}", self.name());
    }

    /// Tells an instance that it is being subscribed, and returns what makes the subscription.
    pub(crate) fn opening<Src: Source<Item = I> + Clone>(
        &self,
        mine: usize,
        source: &Src,
        theirs: usize,
        options: SubscribeOptions,
        keep: Option<fn(Events<I>) -> Events<I>>,
    ) -> (SubscriptionId, BoxFuture<'static>) {
        let mailbox = Arc::clone(&self.mailboxes()[mine]);
        let id = SubscriptionId::new();
        let (window, cancel) = (options.window_or(source.default_window()), options.cancel_policy());
        // A stage that has ended is not subscribed; what is opened then is cancelled below.
        let _ = mailbox.push(Message::Opening(Opening { id, to: source.name(), window, cancel, keep }));
        let source = source.clone();
        let opening = Box::pin(async move {
            let subscription = Subscription {
                id,
                consumer: mailbox.consumer(),
                options: SubscribeOptions::from(window).cancel(cancel),
                interest: Default::default(),
                subscriber: Arc::clone(&mailbox) as _,
            };
            let opened = source.open(theirs, subscription).await;
            if let Err(Message::Opened(id, Ok(publisher))) = mailbox.push(Message::Opened(id, opened)) {
                publisher.cancel(id, Exit::Normal);
            }
        });
        (id, opening)
    }

    /// Runs `count` instances of the stage, at least 1, each a task of its own. As consumers they share the events of
    /// their producers as other consumers do; whoever subscribes to the stage subscribes to each of them.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    #[must_use = "the returned stage is the one to subscribe to"]
    #[track_caller]
    pub fn concurrency(self, count: usize) -> Self {
        assert!(count > 0, "expected a concurrency of at least 1, got 0");
        let name = Arc::clone(&self.place.name);
        self.place.lock().instances.resize_with(count, || Arc::new(Mailbox::new(&name)));
        self
    }

    /// The reference through which messages are sent to the first instance.
    pub fn stage_ref(&self) -> StageRef<S, O> {
        self.reference(&self.mailboxes()[0])
    }

    /// The references to all instances.
    pub fn instances(&self) -> Vec<StageRef<S, O>> {
        self.mailboxes().iter().map(|mailbox| self.reference(mailbox)).collect()
    }

    /// The name it was declared with.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    fn reference(&self, mailbox: &Arc<Mailbox<I, O>>) -> StageRef<S, O> {
        StageRef::new(Arc::clone(&self.place.name), Arc::clone(mailbox) as _, Arc::clone(&self.shared))
    }
}

impl<S, I, O, D> Stage<S, I, O, D> {
    pub(crate) fn set_partitions(&self, count: usize) {
        self.place.lock().partitions = count;
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.place.lock().partitions
    }

    pub(crate) fn mailboxes(&self) -> Vec<Arc<Mailbox<I, O>>> {
        self.place.lock().instances.clone()
    }
}

/// For stages with an output.
impl<S: 'static, I: Send + 'static, O: Send + 'static, D: Output> Stage<S, I, O, D> {
    /// Sets how many events the stage keeps that nobody has asked for, and what happens to more of them. 0 keeps none.
    ///
    /// Unless this is said, a producer keeps [`Buffer::DEFAULT_CAPACITY`] events and drops the oldest beyond, and a graph
    /// in which that has happened does not end in success.
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn buffer(self, capacity: usize, keep: Keep) -> Self {
        {
            let mut spec = self.place.lock();
            (spec.capacity, spec.keep, spec.may_drop) = (capacity, keep, true);
        }
        self
    }

    /// Lets demand and events accumulate until [`StageRef::set_demand`] says to forward them, so that all consumers can
    /// subscribe before the first event goes out.
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn accumulate(self) -> Self {
        self.place.lock().mode = DemandMode::Accumulate;
        self
    }

    /// Holds this stage back until it has had `count` subscribers: demand accumulates, and no event is given out before.
    /// Default 1.
    ///
    /// For finite sources with consumers on other nodes: without it the first to come might take everything, and the
    /// source have ended before the last one subscribes. (In GenStage one sets the demand mode to `accumulate`, and
    /// back to `forward` when all are there.)
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn wait_for_subscribers(self, count: usize) -> Self {
        self.place.lock().awaited = count;
        self
    }
}

impl<S, I, O, D> Stage<S, I, O, D> {
    /// The same place with another dispatcher, and so of another type.
    pub(crate) fn dispatching<E>(self, make: MakeDispatcher<O>) -> Stage<S, I, O, E> {
        self.place.lock().dispatcher = make;
        let Self { place, plan, shared, .. } = self;
        Stage { place, plan, shared, types: PhantomData }
    }
}

impl<S, I, O, D> Clone for Stage<S, I, O, D> {
    fn clone(&self) -> Self {
        Self {
            place: Arc::clone(&self.place),
            plan: Weak::clone(&self.plan),
            shared: Arc::clone(&self.shared),
            types: PhantomData,
        }
    }
}

impl<S, I, O, D> fmt::Debug for Stage<S, I, O, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stage").field(&self.place.name).finish()
    }
}

impl<I: Send, O: Send> Control for Mailbox<I, O> {
    fn complete(&self) {
        let _ = self.push(Message::Complete);
    }

    fn drain(&self) {
        let _ = self.push(Message::Drain);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}
