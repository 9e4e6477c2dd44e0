//! How a stage's events find their consumers: what can be chosen at a [`Stage`], and the parts of it that are sources.

use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;

use aqueduct_dispatcher::{
    BroadcastDispatcher, Dispatcher, Interest, PartitionDispatcher, PartitionName, Partitions, RoundRobinDispatcher,
    Selector, SubscribeOptions,
};

use crate::graph::Stage;
use crate::protocol::{Expected, Local};
use crate::{Publisher, Source, SubscribeError, Subscription};

/// By demand: each batch goes to the consumer with the most. The default.
#[derive(Debug)]
pub enum ByDemand {}

/// In turn: events are dealt to the consumers one by one.
#[derive(Debug)]
pub enum RoundRobin {}

/// To everybody, at the pace of the slowest.
#[derive(Debug)]
pub enum Broadcast {}

/// To the consumers of one partition, chosen for each event.
#[derive(Debug)]
pub enum Partitioned {}

/// A consumer has no output, and nobody can subscribe to it.
#[derive(Debug)]
pub enum NoOutput {}

/// A way of dispatching: every one but [`NoOutput`].
pub trait Output: 'static {}

impl Output for ByDemand {}
impl Output for RoundRobin {}
impl Output for Broadcast {}
impl Output for Partitioned {}

/// A way of dispatching in which a consumer may choose its events.
pub trait Selects: Output {}

impl Selects for ByDemand {}
impl Selects for Broadcast {}

impl<S: 'static, I: Send + 'static, O: Send + 'static> Stage<S, I, O, ByDemand> {
    /// Sets the dispatcher: any type that keeps the contract of [`Dispatcher`], made once for each instance. Whether it
    /// does is checked by [`check_dispatcher`](crate::testing::check_dispatcher).
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn dispatcher<X: Dispatcher<O> + 'static>(self, make: impl Fn() -> X + Send + Sync + 'static) -> Self {
        self.dispatching(Box::new(move || Box::new(make())))
    }

    /// Deals events to the consumers one by one, in turn.
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn round_robin(self) -> Stage<S, I, O, RoundRobin> {
        self.dispatching(Box::new(|| Box::new(RoundRobinDispatcher::new())))
    }

    /// Gives every event to every consumer, at the pace of the slowest. The events are shared; a consumer that takes
    /// them by value clones them.
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn broadcast(self) -> Stage<S, I, O, Broadcast>
    where
        O: Clone + Sync,
    {
        self.dispatching(Box::new(|| Box::new(BroadcastDispatcher::new())))
    }

    /// Gives each event to a consumer of the partition `0..count` that `place` names for it.
    ///
    /// An event for which `place` names another number, or panics, goes nowhere: it is counted as
    /// [failed](crate::StageOutcome::failed) and logged, the others go on, and [`Graph::run`](crate::Graph::run) fails in
    /// the end.
    ///
    /// # Panics
    ///
    /// If `count` is 0. For a number that is not written in the program use [`partition_by`](Self::partition_by).
    #[must_use = "the returned stage is the one to subscribe to"]
    #[track_caller]
    pub fn partition(
        self,
        count: usize,
        place: impl Fn(&O) -> usize + Send + Sync + 'static,
    ) -> Stage<S, I, O, Partitioned> {
        match Partitions::numbered(count) {
            Ok(partitions) => self.partition_by(partitions, move |event| {
                let place = place(&event);
                Some((event, place))
            }),
            Err(error) => panic!("{error}"),
        }
    }

    /// Gives each event to a consumer of one of `partitions`: `place` answers with the event, which it may have changed,
    /// and the number of the partition, or with nothing to discard it. What it cannot answer fails as with
    /// [`partition`](Self::partition).
    #[must_use = "the returned stage is the one to subscribe to"]
    pub fn partition_by(
        self,
        partitions: Partitions,
        place: impl Fn(O) -> Option<(O, usize)> + Send + Sync + 'static,
    ) -> Stage<S, I, O, Partitioned> {
        let place = Arc::new(place);
        self.set_partitions(partitions.count());
        self.dispatching(Box::new(move || {
            let place = Arc::clone(&place);
            Box::new(PartitionDispatcher::new(partitions.clone(), move |event| place(event)))
        }))
    }
}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: Selects> Stage<S, I, O, D> {
    /// Those of its events for which `selector` answers `true`, as a source. It runs in this stage, so what it refuses
    /// goes nowhere; if it panics, the subscription fails and nothing else.
    pub fn select(&self, selector: impl Fn(&O) -> bool + Send + Sync + 'static) -> Selected<S, I, O, D> {
        Selected { stage: self.clone(), selector: Arc::new(selector) }
    }
}

impl<S: 'static, I: Send + 'static, O: Send + 'static> Stage<S, I, O, Partitioned> {
    /// One of its partitions, as a source: by number, or by name. That it exists is checked when somebody subscribes.
    pub fn part(&self, partition: impl Into<PartitionName>) -> Part<S, I, O> {
        Part { stage: self.clone(), partition: partition.into() }
    }
}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: 'static> Stage<S, I, O, D> {
    /// Runs one instance of this stage for each partition of `source`, and subscribes the i-th to the i-th.
    #[track_caller]
    pub fn subscribe_each<Src: Partitionable<Item = I>>(
        self,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> Self {
        let this = self.concurrency(source.partitions());
        let parts = (0..source.partitions()).map(|number| (number, source.partition(number)));
        this.subscribe_pairs(source.name(), parts, options.into());
        this
    }

    /// Subscribes with an interest of its own.
    fn open_with(
        &self,
        instance: usize,
        mut subscription: Subscription<O>,
        interest: Interest<O>,
    ) -> Result<Arc<dyn Publisher<O>>, SubscribeError> {
        // The subscriber may have chosen too.
        let chosen = std::mem::replace(&mut subscription.interest, interest).selector;
        let ours = subscription.interest.selector.take();
        subscription.interest.selector = both(ours, chosen);
        self.place.open(instance, subscription)
    }
}

/// A selector that accepts what both accept.
fn both<T: 'static>(one: Option<Selector<T>>, other: Option<Selector<T>>) -> Option<Selector<T>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Arc::new(move |event| one(event) && other(event))),
        (one, other) => one.or(other),
    }
}

/// One impl for each dispatching that serves a consumer which only says how much it wants, rather than one for all of
/// them: so the compiler says of every other stage that it is no source.
macro_rules! whole_stages_are_sources {
    ($($dispatching:ty),*) => {$(
        impl<S: 'static, I: Send + 'static, O: Send + 'static> Source for Stage<S, I, O, $dispatching> {
            type Item = O;

            fn name(&self) -> String {
                self.place.name.to_string()
            }

            fn instances(&self) -> usize {
                self.seats().len()
            }

            fn open(
                &self,
                instance: usize,
                subscription: Subscription<O>,
            ) -> impl Future<Output = Result<Arc<dyn Publisher<O>>, SubscribeError>> + Send {
                ready(self.open_with(instance, subscription, Interest::ALL))
            }

            fn expect_subscribers(&self) -> Option<Expected> {
                Some(self.place.expected.clone())
            }

            fn local(&self) -> Option<Arc<dyn Local<O>>> {
                Some(Arc::clone(&self.place) as _)
            }
        }
    )*};
}

whole_stages_are_sources!(ByDemand, RoundRobin, Broadcast);

/// A stage whose partitions can be had one by one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not partitioned",
    label = "it has no partitions to subscribe to",
    note = "a stage is given partitions with `.partition(count, place)`; `subscribe` takes events of any stage"
)]
pub trait Partitionable {
    /// The events that come out of it.
    type Item: Send + 'static;
    /// One partition.
    type Partition: Source<Item = Self::Item> + Clone;

    /// What it is called.
    fn name(&self) -> String;
    /// How many partitions it has.
    fn partitions(&self) -> usize;
    /// One of them, from 0.
    fn partition(&self, number: usize) -> Self::Partition;
}

impl<S: 'static, I: Send + 'static, O: Send + 'static> Partitionable for Stage<S, I, O, Partitioned> {
    type Item = O;
    type Partition = Part<S, I, O>;

    fn name(&self) -> String {
        self.place.name.to_string()
    }

    fn partitions(&self) -> usize {
        self.partition_count()
    }

    fn partition(&self, number: usize) -> Part<S, I, O> {
        self.part(number)
    }
}

/// Some of the events of a stage: made by [`Stage::select`].
pub struct Selected<S, I, O, D> {
    stage: Stage<S, I, O, D>,
    selector: Selector<O>,
}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: Selects> Source for Selected<S, I, O, D> {
    type Item = O;

    fn name(&self) -> String {
        self.stage.place.name.to_string()
    }

    fn instances(&self) -> usize {
        self.stage.seats().len()
    }

    fn open(
        &self,
        instance: usize,
        subscription: Subscription<O>,
    ) -> impl Future<Output = Result<Arc<dyn Publisher<O>>, SubscribeError>> + Send {
        let interest = Interest { selector: Some(Arc::clone(&self.selector)), partition: None };
        ready(self.stage.open_with(instance, subscription, interest))
    }

    fn expect_subscribers(&self) -> Option<Expected> {
        Some(self.stage.place.expected.clone())
    }

    fn local(&self) -> Option<Arc<dyn Local<O>>> {
        Some(Arc::clone(&self.stage.place) as _)
    }
}

impl<S, I, O, D> Clone for Selected<S, I, O, D> {
    fn clone(&self) -> Self {
        Self { stage: self.stage.clone(), selector: Arc::clone(&self.selector) }
    }
}

impl<S, I, O, D> fmt::Debug for Selected<S, I, O, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selected").field(&self.stage).finish()
    }
}

/// One partition of a stage: made by [`Stage::part`].
pub struct Part<S, I, O> {
    stage: Stage<S, I, O, Partitioned>,
    partition: PartitionName,
}

impl<S: 'static, I: Send + 'static, O: Send + 'static> Source for Part<S, I, O> {
    type Item = O;

    fn name(&self) -> String {
        self.stage.place.name.to_string()
    }

    fn instances(&self) -> usize {
        self.stage.seats().len()
    }

    fn open(
        &self,
        instance: usize,
        subscription: Subscription<O>,
    ) -> impl Future<Output = Result<Arc<dyn Publisher<O>>, SubscribeError>> + Send {
        let interest = Interest { selector: None, partition: Some(self.partition.clone()) };
        ready(self.stage.open_with(instance, subscription, interest))
    }

    fn expect_subscribers(&self) -> Option<Expected> {
        Some(self.stage.place.expected.clone())
    }

    fn local(&self) -> Option<Arc<dyn Local<O>>> {
        Some(Arc::clone(&self.stage.place) as _)
    }
}

impl<S, I, O> Clone for Part<S, I, O> {
    fn clone(&self) -> Self {
        Self { stage: self.stage.clone(), partition: self.partition.clone() }
    }
}

impl<S, I, O> fmt::Debug for Part<S, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Part").field(&self.stage).field(&self.partition).finish()
    }
}
