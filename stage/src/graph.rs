//! [`Graph`]: stages and the subscriptions between them, described before anything runs.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Buffer, DemandDispatcher, Keep, SubscribeOptions, SubscriptionId};

use crate::callbacks::{Callbacks, ConsumerCallbacks, ProducerCallbacks, ProducerConsumerCallbacks, guarded};
use crate::downstream::Downstream;
use crate::driver::Driver;
use crate::ending::{Counts, Ending};
use crate::mailbox::{Mailbox, Message};
use crate::outcome::StageOutcome;
use crate::running::{Control, Running};
use crate::{
    BoxFuture, Consumer, Exit, GraphError, Never, Outcome, Producer, ProducerConsumer, Publisher, Source, Spawner,
    SubscribeError, Subscription, TokioSpawner,
};

/// A graph of stages, described and not yet running.
///
/// Stages are given as factories, because a stage that can be restarted must be made more than once.
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
    plan: Arc<Mutex<Plan>>,
}

/// What was declared so far.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) stages: Vec<Declared>,
    /// In the order in which they were declared, over all stages.
    pub(crate) openings: Vec<Opening>,
}

/// One stage, with its types erased.
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) control: Arc<dyn Control>,
    /// Makes the future that runs the stage.
    pub(crate) launch: Box<dyn FnOnce(Report) -> BoxFuture<'static> + Send>,
}

/// Told how the stage ended, once.
pub(crate) type Report = Box<dyn FnOnce(StageOutcome) + Send>;
/// Makes a subscription when the graph starts.
pub(crate) type Opening = Box<dyn FnOnce() -> BoxFuture<'static> + Send>;

impl Graph {
    /// A graph without stages. `name` is for reports.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_spawner(name, TokioSpawner)
    }

    /// A graph whose tasks are started by `spawner`, for tests that put stages on a machine of their own.
    pub fn with_spawner(name: impl Into<String>, spawner: impl Spawner) -> Self {
        let spawner = Arc::new(spawner);
        let plan = Plan { name: name.into(), spawner, stages: Vec::new(), openings: Vec::new() };
        Self { plan: Arc::new(Mutex::new(plan)) }
    }

    /// Declares a producer. Its buffer holds [`Buffer::DEFAULT_CAPACITY`] events that nobody has asked for, and drops
    /// the oldest beyond that, with a warning and a count in the [`Outcome`].
    ///
    /// # Panics
    ///
    /// If the graph has a stage of that name.
    #[track_caller]
    pub fn producer<P: Producer>(&self, name: &str, make: impl Fn() -> P + Send + 'static) -> Stage<P, Never, P::Out> {
        let buffer = Buffer::new(Buffer::<P::Out>::DEFAULT_CAPACITY, Keep::Last);
        self.declare(name, buffer, move || Box::new(ProducerCallbacks(make())))
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
        make: impl Fn() -> S + Send + 'static,
    ) -> Stage<S, S::In, S::Out> {
        let buffer = Buffer::new(usize::MAX, Keep::Last);
        self.declare(name, buffer, move || Box::new(ProducerConsumerCallbacks(make())))
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
        make: impl Fn() -> C + Send + 'static,
    ) -> Stage<C, C::In, Never, NoOutput> {
        self.declare(name, Buffer::new(0, Keep::Last), move || Box::new(ConsumerCallbacks(make())))
    }

    /// Starts every stage and returns the handle to the running graph. Must be called on a tokio runtime.
    ///
    /// All subscriptions within the graph are made before any stage runs, in the order in which they were declared.
    pub fn start(self) -> Running {
        let mut plan = self.lock();
        let (stages, openings) = (std::mem::take(&mut plan.stages), std::mem::take(&mut plan.openings));
        let spawner = Arc::clone(&plan.spawner);
        drop(plan);
        Running::start(&*spawner, stages, openings)
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
        self.start().join().await
    }

    #[track_caller]
    fn declare<S, I: Send + 'static, O: Send + 'static, D>(
        &self,
        name: &str,
        buffer: Buffer<O>,
        make: impl FnOnce() -> Box<dyn Callbacks<I, O>> + Send + 'static,
    ) -> Stage<S, I, O, D> {
        let mailbox = Arc::new(Mailbox::new(name));
        let (stage, inbox) = (name.to_owned(), Arc::clone(&mailbox));
        let launch = move |report: Report| -> BoxFuture<'static> {
            let mut ending = Ending::new(stage, inbox, report);
            Box::pin(async move {
                match guarded(&ending.stage, async { Ok(make()) }).await {
                    Ok(callbacks) => {
                        let downstream = Downstream::new(Box::new(DemandDispatcher::new()), buffer);
                        Driver::new(ending, callbacks, downstream).run().await;
                    }
                    Err(failure) => ending.announce(Exit::Failed(failure), Counts::default()),
                }
            })
        };
        let mut plan = self.lock();
        let taken = plan.stages.iter().any(|stage| stage.name == name);
        assert!(!taken, "graph {:?} has a stage {name:?} already", plan.name);
        let control = Arc::clone(&mailbox) as Arc<dyn Control>;
        plan.stages.push(Declared { name: name.to_owned(), control, launch: Box::new(launch) });
        drop(plan);
        Stage { name: name.into(), plan: Arc::clone(&self.plan), mailbox, types: PhantomData }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.lock();
        let stages: Vec<_> = plan.stages.iter().map(|stage| &stage.name).collect();
        f.debug_struct("Graph").field("name", &plan.name).field("stages", &stages).finish()
    }
}

/// The dispatcher of a consumer: it has none, and nobody can subscribe to it.
#[derive(Debug)]
pub enum NoOutput {}

/// A place in a graph, where a stage of type `S` takes events of type `I` and emits events of type `O`.
///
/// It is what one subscribes with and to. The dispatcher `D` is part of its type, so that a subscription that its
/// dispatcher cannot serve does not compile. Cloning it names the same place.
pub struct Stage<S, I, O, D = DemandDispatcher> {
    name: Arc<str>,
    plan: Arc<Mutex<Plan>>,
    mailbox: Arc<Mailbox<I, O>>,
    types: PhantomData<fn() -> (S, D)>,
}

impl<S, I: Send + 'static, O: Send + 'static, D> Stage<S, I, O, D> {
    /// Subscribes this stage to a source when the graph starts. It may be called several times; each producer then has
    /// its own window of events on their way.
    ///
    /// Takes a range of demand (`500..1000`), a [`Window`] or [`SubscribeOptions`].
    pub fn subscribe<Src: Source<Item = I> + Clone>(self, source: &Src, options: impl Into<SubscribeOptions>) -> Self {
        let options = options.into();
        let (source, mailbox) = (source.clone(), Arc::clone(&self.mailbox));
        let opening = move || -> BoxFuture<'static> {
            let id = SubscriptionId::new();
            let window = options.window_or(source.default_window());
            let opening = Message::Opening { id, to: source.name(), window, cancel: options.cancel_policy() };
            // The stage has not started, so it cannot have ended.
            let _ = mailbox.push(opening);
            Box::pin(async move {
                let subscription = Subscription { id, options: window.into(), subscriber: Arc::clone(&mailbox) as _ };
                let opened = source.open(subscription).await;
                if let Err(Message::Opened(id, Ok(publisher))) = mailbox.push(Message::Opened(id, opened)) {
                    publisher.cancel(id, Exit::Normal);
                }
            })
        };
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).openings.push(Box::new(opening));
        self
    }

    /// Holds this stage back until it has had `count` subscribers: demand adds up, and no event is given out before.
    /// Default 1.
    ///
    /// For finite sources with consumers on other nodes: without it the first to come might take everything, and the
    /// source have ended before the last one subscribes. (In GenStage one sets the demand mode to `accumulate`, and
    /// back to `forward` when all are there.)
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn wait_for_subscribers(self, count: usize) -> Self {
        // A stage that has ended waits for nobody.
        let _ = self.mailbox.push(Message::WaitForSubscribers(count));
        self
    }

    /// The name it was declared with.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<S: 'static, I: Send + 'static, O: Send + 'static> Source for Stage<S, I, O> {
    type Item = O;

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn open(
        &self,
        subscription: Subscription<O>,
    ) -> impl Future<Output = Result<Arc<dyn Publisher>, SubscribeError>> + Send {
        let opened = self.mailbox.subscribe(subscription).map(|()| Arc::clone(&self.mailbox) as Arc<dyn Publisher>);
        std::future::ready(opened)
    }
}

impl<S, I, O, D> Clone for Stage<S, I, O, D> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            plan: Arc::clone(&self.plan),
            mailbox: Arc::clone(&self.mailbox),
            types: PhantomData,
        }
    }
}

impl<S, I, O, D> fmt::Debug for Stage<S, I, O, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stage").field(&self.name).finish()
    }
}

impl<I: Send, O: Send> Control for Mailbox<I, O> {
    fn complete(&self) {
        let _ = self.push(Message::Complete);
    }

    fn stop(&self, exit: Exit) {
        let _ = self.push(Message::Stop(exit));
    }
}
