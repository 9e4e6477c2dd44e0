//! The stages of these tests: a producer of numbered events, and a consumer that takes its time.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::SimNet;
use aqueduct_stage::{Batch, Consumer, Cx, Exit, Producer, Result};
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::watched::Watched;

/// How many events a world has.
pub(crate) const EVENTS: u64 = 150;

/// How long the payloads of events are.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Of an event in so many, the payload is long.
    pub(crate) long_every: u64,
    pub(crate) long_bytes: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { long_every: 70, long_bytes: 300_000 }
    }
}

/// How fast consumers are.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    Brisk,
    /// So that there is time for something to happen.
    Slow,
    /// So that one is as fast as the other.
    Steady,
    /// So that it lasts for minutes.
    Crawling,
}

/// A number, and a payload that follows from it.
pub(crate) type Event = (u64, Bytes);

pub(crate) fn event(net: &SimNet, sizes: Sizes, number: u64) -> Event {
    let mut rng = net.rng(&format!("event {number}"));
    let is_long = rng.random_range(0..sizes.long_every) == 0;
    let length = if is_long { sizes.long_bytes } else { rng.random_range(0..3000) };
    (number, vec![rng.random(); length].into())
}

/// Emits the events up to a number.
pub(crate) struct Numbers {
    net: SimNet,
    rng: StdRng,
    edges: Vec<Arc<Watched>>,
    sizes: Sizes,
    next: u64,
    end: u64,
}

impl Numbers {
    pub(crate) fn new(net: &SimNet, edges: &[Arc<Watched>], sizes: Sizes, end: u64) -> Self {
        Self { net: net.clone(), rng: net.rng("numbers"), edges: edges.to_vec(), sizes, next: 0, end }
    }
}

impl Producer for Numbers {
    type Out = Event;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Event>) -> Result {
        // Otherwise the first may take everything before the other has come.
        for edge in self.edges.drain(..) {
            edge.made().await;
        }
        if self.rng.random_bool(0.1) {
            sleep(Duration::from_millis(self.rng.random_range(0..20))).await;
        }
        // Sometimes more than was asked for: it waits in the stage's buffer.
        let extra = if self.rng.random_bool(0.3) { self.rng.random_range(0..5) } else { 0 };
        let to = self.end.min(self.next + demand as u64 + extra);
        cx.emit_all((self.next..to).map(|number| event(&self.net, self.sizes, number)));
        self.next = to;
        if to == self.end {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Handles events at its pace, and nothing while its edge is held.
pub(crate) struct Pauses {
    rng: StdRng,
    pace: Pace,
    edge: Arc<Watched>,
}

impl Pauses {
    pub(crate) fn new(rng: StdRng, pace: Pace, edge: Arc<Watched>) -> Self {
        Self { rng, pace, edge }
    }
}

impl Consumer for Pauses {
    type In = Event;

    async fn handle_events(&mut self, events: Batch<Event>, _: &mut Cx<'_>) -> Result {
        self.edge.let_go().await;
        match self.pace {
            Pace::Slow => sleep(Duration::from_millis(self.rng.random_range(100..500))).await,
            Pace::Steady => sleep(Duration::from_millis(100) * events.len() as u32).await,
            Pace::Crawling => sleep(Duration::from_millis(self.rng.random_range(4000..8000))).await,
            Pace::Brisk if self.rng.random_bool(0.2) => {
                sleep(Duration::from_millis(self.rng.random_range(0..50))).await;
            }
            Pace::Brisk => {}
        }
        Ok(())
    }
}
