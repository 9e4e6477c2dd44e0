//! A dispatcher of one's own: everything to the first consumer that wants some, in the order in which they subscribed.
//! So a spare machine gets only what the main one has no room for.
//!
//! A dispatcher is a plain value. It is told who subscribes, asks, leaves, and which events there are, and answers with
//! who gets what; the stage does the rest (the buffer, the account of demand, what to ask of the producer). Whether it
//! keeps the contract is checked by `aqueduct::testing::check_dispatcher`.
//!
//! `cargo run --release --example custom_dispatcher` prints
//!
//! ```text
//! main: 10 events, 0 to 9
//! spare: 15 events, 10 to 24
//! ```

use std::collections::VecDeque;

use aqueduct::{
    Attempt, Batch, Consumer, Cx, Deliveries, Demand, Dispatcher, Exit, Graph, Interest, Producer, Refused, Result,
    SubscriptionId,
};
use tokio::sync::mpsc;

/// In the order of subscription: who, and for how many events more it has asked.
#[derive(Default)]
struct InOrder(Vec<(SubscriptionId, Demand)>);

impl<T> Dispatcher<T> for InOrder {
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        if let Some(got) = interest.partition {
            return Err(Refused::NotPartitioned { got });
        }
        if self.0.iter().any(|(other, _)| *other == id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.0.push((id, Demand::ZERO));
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        self.0.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, open)| open.add(demand));
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        self.0.retain(|(other, _)| *other != id);
    }

    fn demand(&self) -> Demand {
        self.0.iter().fold(Demand::ZERO, |sum, (_, open)| sum.saturating_add(*open))
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        for (id, open) in &mut self.0 {
            let count = open.take(Demand::from(events.len())).as_len();
            deliveries.give(*id, events, count, attempt);
        }
    }
}

/// Emits 25 events at once, when both consumers have asked: so that this example always prints the same.
struct Burst;

impl Producer for Burst {
    type Out = u64;
    async fn handle_demand(&mut self, _demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        if cx.demand() == 10 + 100 {
            cx.emit_all(0..25);
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

struct Collect(mpsc::UnboundedSender<u64>);

impl Consumer for Collect {
    type In = u64;
    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        Ok(events.into_iter().try_for_each(|event| self.0.send(event))?)
    }
}

#[tokio::main]
async fn main() -> Result {
    let graph = Graph::new("overflow");
    let burst = graph.producer("burst", || Burst).dispatcher(InOrder::default);
    let mut results = Vec::new();
    for (name, window) in [("main", 0..10), ("spare", 0..100)] {
        let (tx, rx) = mpsc::unbounded_channel();
        graph.consumer(name, move || Collect(tx.clone())).subscribe(&burst, window);
        results.push((name, rx));
    }
    graph.run().await?;
    for (name, mut rx) in results {
        let events = Vec::from_iter(std::iter::from_fn(|| rx.try_recv().ok()));
        println!("{name}: {} events, {} to {}", events.len(), events[0], events[events.len() - 1]);
    }
    Ok(())
}
