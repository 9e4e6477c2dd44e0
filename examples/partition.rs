//! Partitions: each event goes to the consumer that its key belongs to, so that what belongs together is counted in one
//! place and in order, while the partitions work side by side.
//!
//! The lines of a log are first shared out to four numbered counters by the customer (`subscribe_each` runs one instance
//! for each partition), and what those find out goes on to one of two consumers, by name.
//!
//! `cargo run --release --example partition` prints
//!
//! ```text
//! large: ["ada: 1200", "dan: 1400"]
//! small: ["bob: 300", "cy: 400", "eve: 500"]
//! ```

use std::collections::BTreeMap;

use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Partitions, Producer, ProducerConsumer, Result};
use tokio::sync::mpsc;

const CUSTOMERS: [&str; 5] = ["ada", "bob", "cy", "dan", "eve"];

type Order = (&'static str, u64);

/// 100 orders of the five customers in turn.
struct Orders(u64);

impl Producer for Orders {
    type Out = Order;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Order>) -> Result {
        for _ in 0..demand {
            if self.0 == 100 {
                cx.stop(Exit::Normal);
                break;
            }
            let customer = (self.0 % 5) as usize;
            let price = [60, 15, 20, 70, 25][customer];
            cx.emit((CUSTOMERS[customer], price));
            self.0 += 1;
        }
        Ok(())
    }
}

/// Adds up the orders of those customers that fall to it; there is no other count of theirs anywhere.
#[derive(Default)]
struct Totals(BTreeMap<&'static str, u64>);

impl ProducerConsumer for Totals {
    type In = Order;
    type Out = Order;

    async fn handle_events(&mut self, orders: Batch<Order>, _cx: &mut Cx<'_, Order>) -> Result {
        for (customer, price) in orders {
            *self.0.entry(customer).or_default() += price;
        }
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, Order>) -> Result {
        cx.emit_all(std::mem::take(&mut self.0));
        Ok(())
    }
}

/// Hands on what it gets; the two of them end in either order, so that `main` prints.
struct Gather(mpsc::UnboundedSender<String>);

impl Consumer for Gather {
    type In = Order;

    async fn handle_events(&mut self, totals: Batch<Order>, _cx: &mut Cx<'_>) -> Result {
        for (customer, total) in totals {
            self.0.send(format!("{customer}: {total}"))?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result {
    let graph = Graph::new("orders");
    // A partition function must answer the same for the same key: here by the first letter.
    let orders =
        graph.producer("orders", || Orders(0)).partition(4, |(customer, _)| customer.as_bytes()[0] as usize % 4);
    let totals = graph.stage("totals", Totals::default).subscribe_each(&orders, 10..20);
    // Named ones. `None` instead of a number would discard the event.
    let sizes = Partitions::named(["small", "large"])?;
    let totals = totals.partition_by(sizes, |order| Some((order, usize::from(order.1 >= 1000))));
    let mut gathered = Vec::new();
    for size in ["large", "small"] {
        let (tx, rx) = mpsc::unbounded_channel();
        graph.consumer(size, move || Gather(tx.clone())).subscribe(&totals.part(size), 5..10);
        gathered.push((size, rx));
    }
    graph.run().await?;
    for (size, mut totals) in gathered {
        let mut lines = Vec::from_iter(std::iter::from_fn(|| totals.try_recv().ok()));
        lines.sort_unstable(); // the four counters end in any order
        println!("{size}: {lines:?}");
    }
    Ok(())
}
