//! [`Stage`]: a place in a graph, as one subscribes with it and to it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aqueduct_dispatcher::{Events, Keep, SubscribeOptions, SubscriptionId, Window};

use super::Plan;
use super::place::{MakeDispatcher, Place, Seat};
use super::siblings::{Siblings, open_witnessed};
use crate::bugs::bug;
use crate::dispatching::{ByDemand, Output};
use crate::mailbox::{Message, Opening, Renews};
use crate::members::Shared;
use crate::supervision::driver::{Declared, How};
use crate::{BoxFuture, DemandMode, Exit, Never, OnCancel, Restart, Source, StageRef, Subscription};

/// A place in a graph, where a stage of type `S` takes events of type `I` and emits events of type `O`.
///
/// It is what one subscribes with and to. How it dispatches, `D`, is part of its type, so that a subscription that its
/// dispatcher cannot serve does not compile. Cloning it names the same place.
pub struct Stage<S, I, O, D = ByDemand> {
    pub(crate) place: Arc<Place<I, O>>,
    /// Weak, as what was declared refers to stages.
    pub(super) plan: Weak<Mutex<Plan>>,
    pub(super) shared: Arc<Shared>,
    pub(super) types: PhantomData<fn() -> (S, D)>,
}

/// How a stage subscribes, whichever of its instances and however often.
pub(crate) struct Subscribing<I> {
    options: SubscribeOptions,
    /// Makes a batch one of which a handle can be kept, if what is not finished is to be handed back.
    keep: Option<fn(Events<I>) -> Events<I>>,
    /// There if there may be several subscriptions.
    siblings: Option<Arc<Siblings>>,
}

impl<I> Subscribing<I> {
    pub(crate) fn new(options: SubscribeOptions) -> Self {
        Self { options, keep: None, siblings: None }
    }

    /// What is not finished is to be handed back.
    pub(crate) fn acknowledged(self) -> Self
    where
        I: Clone + Send + Sync + 'static,
    {
        Self { keep: Some(|events| Events::share(events.into_vec())), ..self }
    }

    /// It takes the place of one of these.
    pub(crate) fn among(self, siblings: Option<Arc<Siblings>>) -> Self {
        Self { siblings, ..self }
    }
}

impl<I> Clone for Subscribing<I> {
    fn clone(&self) -> Self {
        Self { options: self.options, keep: self.keep, siblings: self.siblings.clone() }
    }
}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: 'static> Stage<S, I, O, D> {
    /// Subscribes this stage to a source when the graph starts. It may be called several times; each producer then has
    /// its own window of events on their way. With several instances on either side, each subscribes to each.
    ///
    /// Takes a range of demand (`500..1000`), a [`Window`](crate::Window) or [`SubscribeOptions`].
    #[track_caller]
    pub fn subscribe<Src: Source<Item = I> + Clone>(self, source: &Src, options: impl Into<SubscribeOptions>) -> Self {
        self.subscribe_keeping(source, options.into(), None)
    }

    /// As [`subscribe`](Self::subscribe), and hands back what it was given and did not finish when it ends: the batch
    /// that it was handling when it failed, with the next attempt's number, and what was waiting behind it, which was no
    /// attempt. The producer gives these events to its other consumers, or to the next one, before anything newer. What was
    /// handled is given to nobody again, however the subscription or either end of it comes to an end in good order.
    ///
    /// Without it, what a failing consumer had in hand is lost with it. It costs a clone of each event that is taken by
    /// value.
    ///
    /// It works across nodes. The producer's node keeps each event until this stage has handled it, so the events
    /// themselves do not go back over the network; what was not handled is given to others as soon as the subscription has
    /// ended. That is also so if this stage's node is lost: all that was sent and is not known to be handled then counts as
    /// an attempt, as nobody can say which of it was begun. An event is given *at least once*, and
    /// [`Batch::attempt`](crate::Batch::attempt) tells the first time from later ones.
    #[track_caller]
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

    #[track_caller]
    fn subscribe_keeping<Src: Source<Item = I> + Clone>(
        self,
        source: &Src,
        options: SubscribeOptions,
        keep: Option<fn(Events<I>) -> Events<I>>,
    ) -> Self {
        let (consumer, source) = (self.clone(), source.clone());
        self.declare_edge(source.name(), move || {
            let count = consumer.seats().len();
            let known = source.instances();
            // One to a stage of this process stays the only one.
            let is_alone = count * known == 1 && source.local().is_some();
            let how = Subscribing {
                options,
                keep,
                siblings: (!is_alone).then(|| consumer.place.families().declare(&source)),
            };
            let pairs = (0..count).flat_map(|mine| (0..known).map(move |theirs| (mine, theirs)));
            pairs.map(|(mine, theirs)| consumer.wire(mine, &source, theirs, known, &how)).collect()
        });
        self
    }

    /// Subscribes instances to sources of their own.
    #[track_caller]
    pub(crate) fn subscribe_pairs<Src: Source<Item = I> + Clone>(
        &self,
        name: String,
        pairs: impl IntoIterator<Item = (usize, Src)>,
        options: SubscribeOptions,
    ) {
        let (consumer, pairs) = (self.clone(), pairs.into_iter().collect::<Vec<_>>());
        self.declare_edge(name, move || {
            let mut wires = Vec::new();
            let how = Subscribing::new(options);
            for (mine, source) in &pairs {
                let known = source.instances();
                wires.extend((0..known).map(|theirs| consumer.wire(*mine, source, theirs, known, &how)));
            }
            wires
        });
    }

    #[track_caller]
    fn declare_edge(&self, from: String, make: impl FnOnce() -> Vec<Declared> + Send + 'static) {
        let late = "subscribe before the graph starts, within `Running::add`, or with `Running::subscribe`";
        let Some(plan) = self.plan.upgrade() else { panic!("the graph of stage {:?} is gone: {late}", self.name()) };
        let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
        let open = plan.open;
        if open {
            plan.edges.push((from, Arc::clone(&self.place.name)));
            plan.wires.push(Box::new(make));
        }
        drop(plan);
        assert!(open, "the graph of stage {:?} has started: {late}", self.name());
    }

    /// How an instance is subscribed to one of the `known` ones of a source, as often as that is needed. A source on another
    /// node may turn out to have more, to which the first subscription leads.
    fn wire<Src: Source<Item = I> + Clone>(
        &self,
        mine: usize,
        source: &Src,
        theirs: usize,
        known: usize,
        subscribing: &Subscribing<I>,
    ) -> Declared {
        let producer = source.local().map(|place| (place.id(), theirs));
        let rest = (theirs == 0 && producer.is_none()).then_some(known);
        let (consumer, source, subscribing) = (self.clone(), source.clone(), subscribing.clone());
        Declared {
            consumer: (self.place.id(), mine),
            producer,
            cancel: subscribing.options.cancel_policy(),
            connect: Box::new(move |how| consumer.opening(mine, &source, (theirs, rest), &subscribing, how)),
        }
    }

    /// Tells an instance that it is being subscribed, and returns what makes the subscription: to one instance of the source,
    /// and to those from `rest` on, if there turn out to be any.
    pub(crate) fn opening<Src: Source<Item = I> + Clone>(
        &self,
        mine: usize,
        source: &Src,
        (theirs, rest): (usize, Option<usize>),
        subscribing: &Subscribing<I>,
        how: How,
    ) -> (SubscriptionId, BoxFuture<'static>) {
        let mailbox = self.seats()[mine].mailbox();
        let id = SubscriptionId::new();
        let Subscribing { options, keep, siblings } = subscribing.clone();
        let options = options.or(source.default_options());
        let (window, cancel) = (options.window_or(Window::NEAR), options.cancel_policy());
        let grows_to = options.grows_to();
        let renews = match &how {
            How::Once => None,
            How::Anew(former) => Some(Renews { former: *former }),
            How::Remainder(former) => Some(Renews { former: former.last().copied() }),
        };
        // A stage that has ended is not subscribed; what is opened then is cancelled below.
        let (to, place) = (source.name().into(), source.local());
        let (is_far, is_outside) =
            (place.is_none(), place.is_none_or(|place| place.graph() != self.place.graph && !bug!(NearIsOurs)));
        let opening = Opening { id, to, is_far, is_outside, window, grows_to, cancel, keep, renews };
        let _ = mailbox.push(Message::Opening(Box::new(opening)));
        let sibling = siblings.map(|siblings| siblings.begin());
        let (consumer, source, subscribing) = (self.clone(), source.clone(), subscribing.clone());
        let opening: BoxFuture<'static> = Box::pin(async move {
            let subscription = Subscription {
                id,
                consumer: mailbox.consumer(),
                options: SubscribeOptions::from(window).cancel(cancel),
                interest: Default::default(),
                subscriber: Arc::clone(&mailbox) as _,
            };
            let opened = match (how, source.local(), sibling) {
                (How::Remainder(former), Some(place), _) => Ok(place.remainder(theirs, &former, subscription)),
                (_, _, None) => source.open(theirs, subscription).await,
                (_, _, Some(sibling)) => open_witnessed(&source, theirs, subscription, sibling).await,
            };
            // Announced before it is known that this one is there, or it might be taken for the only one.
            let rest = rest.filter(|_| opened.is_ok()).map_or(0..0, |known| known..source.instances());
            let others: Vec<_> =
                rest.map(|theirs| consumer.opening(mine, &source, (theirs, None), &subscribing, How::Once).1).collect();
            if let Err(Message::Opened(id, Ok(publisher))) = mailbox.push(Message::Opened(id, opened.map_err(Box::new)))
            {
                publisher.cancel(id, Exit::Normal);
            }
            for other in others {
                other.await;
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
        self.place.lock().seats.resize_with(count, || Arc::new(Seat::new(&name)));
        self
    }

    /// Says after which ends an instance of the stage is started again. Default [`Restart::Temporary`]: after none, so
    /// that its failure is the graph's.
    ///
    /// A restarted instance is made by the stage's factory, anew: whatever state is to survive must be kept elsewhere.
    /// Which others are restarted with it, how often and after how long, is for the graph to say:
    /// [`strategy`](crate::Graph::strategy), [`intensity`](crate::Graph::intensity),
    /// [`backoff`](crate::Graph::backoff). What stays the same for it is its place:
    ///
    /// * [`StageRef`]s remain valid. While the instance is down, calls and casts through them fail at once with
    ///   [`CallError::Stopped`](crate::CallError::Stopped). References from [`Cx::stage_ref`](crate::Cx::stage_ref),
    ///   and timers that were set through them, end with the life in which they were made.
    /// * Its subscriptions that were declared on the graph are made again, as soon as both ends are up. Consumers end
    ///   with a producer that fails or not, as their [`Cancel`](crate::Cancel) policy says; those that live on are
    ///   subscribed again too, and those that end are restarted if they may be. Subscriptions made with
    ///   [`Running::subscribe`](crate::Running::subscribe) are not made again.
    /// * Its counters go on, and [`StageOutcome::restarts`](crate::StageOutcome::restarts) counts its lives.
    ///
    /// # What a restart means for the events
    ///
    /// Choosing a restart is to accept that what the failed stage had in hand is lost with it, as in GenStage: the batch
    /// that it was handling, what was waiting behind it, and what it had emitted and nobody had asked for. It is counted
    /// as `discarded`, and [`Graph::run`](crate::Graph::run) succeeds all the same. With
    /// [`subscribe_acknowledged`](Self::subscribe_acknowledged) a consumer loses nothing unless its producer fails as
    /// well. A producer begins again where its factory makes it begin.
    ///
    /// ```
    /// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Restart, Result};
    /// # struct Numbers;
    /// # impl Producer for Numbers {
    /// #     type Out = u64;
    /// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
    /// #         cx.emit_all(0..demand as u64);
    /// #         cx.stop(Exit::Normal);
    /// #         Ok(())
    /// #     }
    /// # }
    /// struct Fragile;
    ///
    /// impl Consumer for Fragile {
    ///     type In = u64;
    ///     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
    ///         if events[0] == 0 && events.attempt().number() == 1 {
    ///             return Err("not today".into());
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let graph = Graph::new("demo");
    /// let numbers = graph.producer("numbers", || Numbers);
    /// graph.consumer("fragile", || Fragile).subscribe_acknowledged(&numbers, 5..10).restart(Restart::Transient);
    /// let outcome = graph.run().await?;
    /// assert_eq!(outcome.stage("fragile").map(|stage| stage.restarts), Some(1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # What is not restarted
    ///
    /// * A graph that is being drained or stopped, or that has failed, starts nothing: what is down then has failed.
    /// * A stage that ends normally because all of its producers in the graph have ended for good is done, even if it is
    ///   permanent. A permanent producer is never done: a graph with one of them runs until it is
    ///   [shut down](crate::Running::shutdown).
    /// * A stage whose factory panics at the very first start ends the graph, as in OTP.
    ///
    /// A stage that may come back is waited for by its neighbours: other than without restarts, a producer whose
    /// consumers have all failed does not end when the graph is [joined](crate::Running::join), and neither does a
    /// consumer whose producers have. Nor does either end because the other cancelled a declared subscription by itself.
    pub fn restart(self, restart: Restart) -> Self {
        self.place.lock().restart = restart;
        self
    }

    /// The reference through which messages are sent to the first instance.
    pub fn stage_ref(&self) -> StageRef<S, O> {
        self.reference((0, &self.seats()[0]))
    }

    /// The references to all instances.
    pub fn instances(&self) -> Vec<StageRef<S, O>> {
        self.seats().iter().enumerate().map(|seat| self.reference(seat)).collect()
    }

    /// The name it was declared with.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    fn reference(&self, (instance, seat): (usize, &Arc<Seat<I, O>>)) -> StageRef<S, O> {
        StageRef::new(Arc::clone(&self.place.name), instance, Arc::clone(seat) as _, Arc::clone(&self.shared))
    }
}

impl<S, I, O, D> Stage<S, I, O, D> {
    pub(crate) fn set_partitions(&self, count: usize) {
        self.place.lock().partitions = count;
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.place.lock().partitions
    }

    /// Where its instances receive their messages.
    pub(crate) fn seats(&self) -> Vec<Arc<Seat<I, O>>> {
        self.place.lock().seats.clone()
    }
}

/// For stages with an output.
impl<S: 'static, I: Send + 'static, O: Send + 'static, D: Output> Stage<S, I, O, D> {
    /// Sets how many events the stage keeps that nobody has asked for, and what happens to more of them. 0 keeps none.
    ///
    /// Unless this is said, a producer keeps [`DEFAULT_CAPACITY`](crate::Buffer::DEFAULT_CAPACITY) events, drops the oldest beyond, and a graph
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

/// For producers.
impl<S: 'static, O: Send + 'static, D: Output> Stage<S, Never, O, D> {
    /// Sets what happens when the last consumer has left. Default [`OnCancel::Continue`].
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn on_cancel(self, on_cancel: OnCancel) -> Self {
        self.place.lock().on_cancel = on_cancel;
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
