//! The stages that the benches of edges run: they count, add one, and sum, so that what is measured is the edge.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Producer, ProducerConsumer, Result};

/// Emits the integers from 0 up to, but not including, `end`, as many as are asked for.
#[derive(Clone, Debug)]
pub struct Numbers {
    next: u64,
    end: u64,
}

impl Numbers {
    /// The integers below `end`.
    pub fn below(end: u64) -> Self {
        Self { next: 0, end }
    }
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let upto = self.end.min(self.next + demand as u64);
        cx.emit_all(self.next..upto);
        self.next = upto;
        if upto == self.end {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Adds one to each number.
#[derive(Clone, Copy, Debug)]
pub struct AddOne;

impl ProducerConsumer for AddOne {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(events.into_iter().map(|n| n + 1));
        Ok(())
    }
}

/// Sums what it is given, and adds the sum to a total that several share when everything has been seen.
#[derive(Clone, Debug)]
pub struct Sum {
    sum: u64,
    total: Arc<AtomicU64>,
}

impl Sum {
    /// Starts from nothing.
    pub fn into(total: &Arc<AtomicU64>) -> Self {
        Self { sum: 0, total: Arc::clone(total) }
    }
}

impl Consumer for Sum {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        self.sum = self.sum.wrapping_add(events.iter().sum());
        Ok(())
    }

    async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
        self.total.fetch_add(self.sum, Ordering::Relaxed);
        Ok(())
    }
}

/// One producer to `consumers` that share its events by demand. Returns the sum.
///
/// # Errors
///
/// The graph's.
pub async fn shared(events: u64, consumers: usize, window: Range<usize>) -> Result<u64> {
    let total = Arc::default();
    let graph = Graph::new("shared");
    let numbers = graph
        .producer("numbers", move || Numbers::below(events))
        // Or the first might take the whole source before the last is there.
        .wait_for_subscribers(consumers);
    for n in 0..consumers {
        let total = Arc::clone(&total);
        graph.consumer(&format!("sum {n}"), move || Sum::into(&total)).subscribe(&numbers, window.clone());
    }
    graph.run().await?;
    Ok(total.load(Ordering::Relaxed))
}

/// One producer of which each of `consumers` is given everything. Returns the sum of sums.
///
/// # Errors
///
/// The graph's.
pub async fn broadcast(events: u64, consumers: usize, window: Range<usize>) -> Result<u64> {
    let total = Arc::default();
    let graph = Graph::new("broadcast");
    let numbers = graph.producer("numbers", move || Numbers::below(events)).broadcast().wait_for_subscribers(consumers);
    for n in 0..consumers {
        let total = Arc::clone(&total);
        graph.consumer(&format!("sum {n}"), move || Sum::into(&total)).subscribe(&numbers, window.clone());
    }
    graph.run().await?;
    Ok(total.load(Ordering::Relaxed))
}

/// One producer whose events go to one of `partitions` consumers, by their number. Returns the sum.
///
/// # Errors
///
/// The graph's.
pub async fn partition(events: u64, partitions: usize, window: Range<usize>) -> Result<u64> {
    let total = Arc::default();
    let graph = Graph::new("partition");
    let numbers = graph
        .producer("numbers", move || Numbers::below(events))
        .partition(partitions, move |n| *n as usize % partitions)
        .wait_for_subscribers(partitions);
    let sum = Arc::clone(&total);
    graph.consumer("sum", move || Sum::into(&sum)).subscribe_each(&numbers, window);
    graph.run().await?;
    Ok(total.load(Ordering::Relaxed))
}

/// A producer, a producer-consumer and a consumer in a row. Returns the sum.
///
/// # Errors
///
/// The graph's.
pub async fn three_in_a_row(events: u64, window: Range<usize>) -> Result<u64> {
    let total = Arc::default();
    let graph = Graph::new("three in a row");
    let numbers = graph.producer("numbers", move || Numbers::below(events));
    let added = graph.stage("add one", || AddOne).subscribe(&numbers, window.clone());
    let sum = Arc::clone(&total);
    graph.consumer("sum", move || Sum::into(&sum)).subscribe(&added, window);
    graph.run().await?;
    Ok(total.load(Ordering::Relaxed))
}

/// The sum of the integers below `end`, as the stages compute it: it wraps.
pub fn sum_below(end: u64) -> u64 {
    let end = u128::from(end);
    (end * end.saturating_sub(1) / 2) as u64
}
