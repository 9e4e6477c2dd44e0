//! Edges between tasks as one would write them for this one purpose on tokio's channels: the references for our own.
//!
//! All of them move batches of `max - min` numbers against explicit demand, over channels that never fill up.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinError, JoinSet};

/// One task to another: batches one way, demand the other. With the window `0..1` it is a ping-pong over channels of
/// one event each. Returns the sum.
///
/// # Errors
///
/// If a task panics.
pub async fn one_to_one(events: u64, window: Range<usize>) -> Result<u64, JoinError> {
    if window == (0..1) {
        return ping_pong(events).await;
    }
    let (asks, asked) = mpsc::channel(pieces(&window));
    let (batches, arriving) = mpsc::channel(pieces(&window));
    let producer = tokio::spawn(produce(events, asked, batches));
    let consumer = tokio::spawn(consume(window, arriving, asks));
    producer.await?;
    consumer.await
}

/// As [`one_to_one`], with a task between the two that adds one to each number.
///
/// # Errors
///
/// If a task panics.
pub async fn three_in_a_row(events: u64, window: Range<usize>) -> Result<u64, JoinError> {
    let (asks, asked) = mpsc::channel(pieces(&window));
    let (batches, arriving) = mpsc::channel(pieces(&window));
    let producer = tokio::spawn(produce(events, asked, batches));
    let (asks_of_middle, asked_of_middle) = mpsc::channel(pieces(&window));
    let (batches_of_middle, arriving_last) = mpsc::channel(pieces(&window));
    let middle = tokio::spawn(add_one(window.clone(), arriving, asks, asked_of_middle, batches_of_middle));
    let consumer = tokio::spawn(consume(window, arriving_last, asks_of_middle));
    producer.await?;
    middle.await?;
    consumer.await
}

/// One task hands batches to whichever of `consumers` asks next. Returns the sum.
///
/// # Errors
///
/// If a task panics.
pub async fn shared(events: u64, consumers: usize, window: Range<usize>) -> Result<u64, JoinError> {
    let (asks, mut asked) = mpsc::channel::<(usize, u64)>(consumers * pieces(&window));
    let mut tasks = JoinSet::new();
    let mut batches = Vec::with_capacity(consumers);
    for n in 0..consumers {
        let (tx, mut arriving) = mpsc::channel::<Vec<u64>>(pieces(&window));
        batches.push(tx);
        let (asks, window) = (asks.clone(), window.clone());
        tasks.spawn(async move {
            for _ in 0..pieces(&window) {
                let _ = asks.send((n, window.len() as u64)).await;
            }
            let mut sum = 0_u64;
            while let Some(batch) = arriving.recv().await {
                sum = sum.wrapping_add(batch.iter().sum());
                let _ = asks.send((n, window.len() as u64)).await;
            }
            sum
        });
    }
    drop(asks);
    let producer = tokio::spawn(async move {
        let mut next = 0;
        while next < events {
            let Some((n, demand)) = asked.recv().await else { break };
            let end = events.min(next + demand);
            let _ = batches[n].send((next..end).collect()).await;
            next = end;
        }
    });
    producer.await?;
    let mut sum = 0_u64;
    while let Some(part) = tasks.join_next().await {
        sum = sum.wrapping_add(part?);
    }
    Ok(sum)
}

/// One task gives every batch, shared, to each of `consumers`, when the last of them has asked. Returns the sum of sums.
///
/// # Errors
///
/// If a task panics.
pub async fn broadcast(events: u64, consumers: usize, window: Range<usize>) -> Result<u64, JoinError> {
    let (mut tasks, mut ends) = (JoinSet::new(), Vec::with_capacity(consumers));
    for _ in 0..consumers {
        let (batches, mut arriving) = mpsc::channel::<Arc<Vec<u64>>>(pieces(&window));
        let (asks, asked) = mpsc::channel::<u64>(pieces(&window));
        ends.push((batches, asked));
        let window = window.clone();
        tasks.spawn(async move {
            for _ in 0..pieces(&window) {
                let _ = asks.send(window.len() as u64).await;
            }
            let mut sum = 0_u64;
            while let Some(batch) = arriving.recv().await {
                sum = sum.wrapping_add(batch.iter().sum());
                drop(batch);
                let _ = asks.send(window.len() as u64).await;
            }
            sum
        });
    }
    let producer = tokio::spawn(async move {
        let mut next = 0;
        while next < events {
            let mut demand = u64::MAX;
            for (_, asked) in &mut ends {
                demand = demand.min(asked.recv().await.unwrap_or(0));
            }
            let end = events.min(next + demand);
            let batch = Arc::new((next..end).collect::<Vec<u64>>());
            for (batches, _) in &ends {
                let _ = batches.send(Arc::clone(&batch)).await;
            }
            next = end;
        }
    });
    producer.await?;
    let mut sum = 0_u64;
    while let Some(part) = tasks.join_next().await {
        sum = sum.wrapping_add(part?);
    }
    Ok(sum)
}

/// One task puts each event into the vector of its partition, and sends a vector when its consumer has room for it.
/// Returns the sum.
///
/// # Errors
///
/// If a task panics.
pub async fn partition(events: u64, partitions: usize, window: Range<usize>) -> Result<u64, JoinError> {
    let (mut tasks, mut ends) = (JoinSet::new(), Vec::with_capacity(partitions));
    for _ in 0..partitions {
        let (batches, mut arriving) = mpsc::channel::<Vec<u64>>(pieces(&window));
        ends.push((Vec::with_capacity(window.len()), batches));
        tasks.spawn(async move {
            let mut sum = 0_u64;
            while let Some(batch) = arriving.recv().await {
                sum = sum.wrapping_add(batch.iter().sum());
            }
            sum
        });
    }
    let full = window.len();
    let producer = tokio::spawn(async move {
        for event in 0..events {
            let (batch, batches) = &mut ends[event as usize % partitions];
            batch.push(event);
            if batch.len() == full {
                let _ = batches.send(std::mem::replace(batch, Vec::with_capacity(full))).await;
            }
        }
        for (batch, batches) in ends {
            let _ = batches.send(batch).await;
        }
    });
    producer.await?;
    let mut sum = 0_u64;
    while let Some(part) = tasks.join_next().await {
        sum = sum.wrapping_add(part?);
    }
    Ok(sum)
}

/// How many batches are on their way at one time.
fn pieces(window: &Range<usize>) -> usize {
    window.end.div_ceil(window.len())
}

async fn produce(events: u64, mut asked: Receiver<u64>, batches: Sender<Vec<u64>>) {
    let mut next = 0;
    while next < events {
        let Some(demand) = asked.recv().await else { return };
        let end = events.min(next + demand);
        let _ = batches.send((next..end).collect()).await;
        next = end;
    }
}

async fn add_one(
    window: Range<usize>,
    mut arriving: Receiver<Vec<u64>>,
    asks: Sender<u64>,
    mut asked: Receiver<u64>,
    batches: Sender<Vec<u64>>,
) {
    for _ in 0..pieces(&window) {
        let _ = asks.send(window.len() as u64).await;
    }
    // All batches are of the size that is asked for, so one demand pays for one batch.
    while asked.recv().await.is_some() {
        let Some(batch) = arriving.recv().await else { return };
        let _ = batches.send(batch.into_iter().map(|n| n + 1).collect()).await;
        let _ = asks.send(window.len() as u64).await;
    }
}

async fn consume(window: Range<usize>, mut arriving: Receiver<Vec<u64>>, asks: Sender<u64>) -> u64 {
    for _ in 0..pieces(&window) {
        let _ = asks.send(window.len() as u64).await;
    }
    let mut sum = 0_u64;
    while let Some(batch) = arriving.recv().await {
        sum = sum.wrapping_add(batch.iter().sum());
        // The producer may have ended already.
        let _ = asks.send(window.len() as u64).await;
    }
    sum
}

async fn ping_pong(events: u64) -> Result<u64, JoinError> {
    let (asks, mut asked) = mpsc::channel::<()>(1);
    let (answers, mut arriving) = mpsc::channel::<u64>(1);
    let producer = tokio::spawn(async move {
        for next in 0..events {
            if asked.recv().await.is_none() || answers.send(next).await.is_err() {
                return;
            }
        }
    });
    let consumer = tokio::spawn(async move {
        let mut sum = 0_u64;
        while asks.send(()).await.is_ok() {
            let Some(event) = arriving.recv().await else { break };
            sum = sum.wrapping_add(event);
        }
        sum
    });
    producer.await?;
    consumer.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::runtimes;
    use crate::stages;

    #[test]
    fn every_edge_carries_everything_once() {
        for (_, runtime) in runtimes() {
            for window in [0..1, 5..10, 3..4, 0..7, 500..1000] {
                let (events, expected) = (10_007, stages::sum_below(10_007));
                runtime.block_on(async {
                    assert_eq!(one_to_one(events, window.clone()).await.unwrap(), expected);
                    assert_eq!(shared(events, 4, window.clone()).await.unwrap(), expected);
                    assert_eq!(three_in_a_row(events, window.clone()).await.unwrap(), expected + events);
                    assert_eq!(stages::shared(events, 1, window.clone()).await.unwrap(), expected);
                    assert_eq!(stages::shared(events, 4, window.clone()).await.unwrap(), expected);
                    assert_eq!(stages::three_in_a_row(events, window.clone()).await.unwrap(), expected + events);
                });
            }
        }
    }
}
