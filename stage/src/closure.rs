//! Closures as stages: [`each`], [`each_batch`], [`map`], [`filter_map`], [`flat_map`].

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use crate::{Batch, Consumer, Cx, ProducerConsumer, Result};

/// A consumer that awaits `handle` for each event, one after the other.
///
/// An error of `handle` ends the stage, and is reported as the graph's.
///
/// What an `async` closure captures it can only use if it hands out a copy with every event, as a channel does here: the
/// future must not borrow from the closure.
///
/// ```
/// # use aqueduct_stage::{Consumer, each};
/// # fn example(results: tokio::sync::mpsc::Sender<u64>) -> impl Consumer<In = u64> {
/// each(move |n: u64| {
///     let results = results.clone();
///     async move { Ok(results.send(n).await?) }
/// })
/// # }
/// ```
///
/// ```
/// use aqueduct_stage::{Graph, each};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let graph = Graph::new("demo");
/// let numbers = graph.iterate("numbers", || 0..10);
/// let print = || {
///     each(async |n: u64| {
///         println!("{n}");
///         Ok(())
///     })
/// };
/// graph.consumer("print", print).subscribe(&numbers, 5..10);
/// graph.run().await?;
/// # Ok(())
/// # }
/// ```
pub fn each<T, F, Fut>(handle: F) -> Each<T, F>
where
    T: Send + 'static,
    F: FnMut(T) -> Fut + Send + 'static,
    Fut: Future<Output = Result> + Send,
{
    Each(handle, PhantomData)
}

/// A consumer that awaits `handle` for each [batch](Batch), one after the other.
///
/// An error of `handle` ends the stage, and is reported as the graph's.
pub fn each_batch<T, F, Fut>(handle: F) -> EachBatch<T, F>
where
    T: Send + 'static,
    F: FnMut(Batch<T>) -> Fut + Send + 'static,
    Fut: Future<Output = Result> + Send,
{
    EachBatch(handle, PhantomData)
}

/// A producer-consumer that emits what `change` makes of each event.
///
/// What can fail or has to wait is a [`ProducerConsumer`] of its own.
///
/// ```
/// use aqueduct_stage::{Graph, SourceExt, map};
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let graph = Graph::new("demo");
/// let numbers = graph.iterate("numbers", || 0..3);
/// let words = graph.stage("words", || map(|n: u64| format!("<{n}>"))).subscribe(&numbers, 5..10);
/// let _running = graph.start();
/// let words = words.events(5..10).collect::<Result<Vec<_>, _>>().await?;
/// assert_eq!(words, ["<0>", "<1>", "<2>"]);
/// # Ok(())
/// # }
/// ```
pub fn map<T, U, F>(change: F) -> MapEach<T, U, F>
where
    T: Send + 'static,
    U: Send + 'static,
    F: FnMut(T) -> U + Send + 'static,
{
    MapEach(change, PhantomData)
}

/// As [`map`], and emits only what is `Some`.
pub fn filter_map<T, U, F>(change: F) -> FilterMapEach<T, U, F>
where
    T: Send + 'static,
    U: Send + 'static,
    F: FnMut(T) -> Option<U> + Send + 'static,
{
    FilterMapEach(change, PhantomData)
}

/// As [`map`], and emits all that is made of each event, in order.
///
/// What was made of one batch and not asked for yet waits in the stage: with a window of `min..max`, and `n` events made
/// of one, at most `n * (max - min)`.
pub fn flat_map<T, Us, F>(change: F) -> FlatMapEach<T, Us, F>
where
    T: Send + 'static,
    Us: IntoIterator<Item: Send + 'static> + 'static,
    F: FnMut(T) -> Us + Send + 'static,
{
    FlatMapEach(change, PhantomData)
}

/// The consumer that [`each`] makes.
pub struct Each<T, F>(F, PhantomData<fn(T)>);

impl<T, F, Fut> Consumer for Each<T, F>
where
    T: Send + 'static,
    F: FnMut(T) -> Fut + Send + 'static,
    Fut: Future<Output = Result> + Send,
{
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, _: &mut Cx<'_>) -> Result {
        for event in events {
            (self.0)(event).await?;
        }
        Ok(())
    }
}

/// The consumer that [`each_batch`] makes.
pub struct EachBatch<T, F>(F, PhantomData<fn(T)>);

impl<T, F, Fut> Consumer for EachBatch<T, F>
where
    T: Send + 'static,
    F: FnMut(Batch<T>) -> Fut + Send + 'static,
    Fut: Future<Output = Result> + Send,
{
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, _: &mut Cx<'_>) -> Result {
        (self.0)(events).await
    }
}

/// The producer-consumer that [`map`] makes.
pub struct MapEach<T, U, F>(F, PhantomData<fn(T) -> U>);

impl<T, U, F> ProducerConsumer for MapEach<T, U, F>
where
    T: Send + 'static,
    U: Send + 'static,
    F: FnMut(T) -> U + Send + 'static,
{
    type In = T;
    type Out = U;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_, U>) -> Result {
        cx.emit_all(events.into_iter().map(&mut self.0));
        Ok(())
    }
}

/// The producer-consumer that [`filter_map`] makes.
pub struct FilterMapEach<T, U, F>(F, PhantomData<fn(T) -> U>);

impl<T, U, F> ProducerConsumer for FilterMapEach<T, U, F>
where
    T: Send + 'static,
    U: Send + 'static,
    F: FnMut(T) -> Option<U> + Send + 'static,
{
    type In = T;
    type Out = U;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_, U>) -> Result {
        cx.emit_all(events.into_iter().filter_map(&mut self.0));
        Ok(())
    }
}

/// The producer-consumer that [`flat_map`] makes.
pub struct FlatMapEach<T, Us, F>(F, PhantomData<fn(T) -> Us>);

impl<T, Us, F> ProducerConsumer for FlatMapEach<T, Us, F>
where
    T: Send + 'static,
    Us: IntoIterator<Item: Send + 'static> + 'static,
    F: FnMut(T) -> Us + Send + 'static,
{
    type In = T;
    type Out = Us::Item;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_, Us::Item>) -> Result {
        cx.emit_all(events.into_iter().flat_map(&mut self.0));
        Ok(())
    }
}

macro_rules! debug_by_name {
    ($($stage:ident<$($type:ident),*>),* $(,)?) => {$(
        impl<$($type),*> fmt::Debug for $stage<$($type),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($stage)).finish_non_exhaustive()
            }
        }
    )*};
}

debug_by_name!(Each<T, F>, EachBatch<T, F>, MapEach<T, U, F>, FilterMapEach<T, U, F>, FlatMapEach<T, Us, F>);
