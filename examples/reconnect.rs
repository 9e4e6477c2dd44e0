//! A producer is killed while its events flow, and started again: nothing is lost, and nothing is done twice.
//!
//! ```text
//!   process "shop"                          this process
//!   [ orders, on the disk ] ── orders ────► bill, behind the position that it has stored
//! ```
//!
//! The shop's orders are in a queue on the disk, and stay there until they are handled. When the shop is lost, `bill`
//! fails, as something may be missing; it is restarted, subscribes again as soon as the shop is back, and drops what it
//! has billed already.
//!
//! `cargo run --release --example reconnect` starts the shop as a further process of this program, kills it (as
//! `kill -9` does), starts it again, and prints
//!
//! ```text
//! 300 bills or more are written: the shop is killed
//! the shop is started again
//! 1000 bills for 1000 orders
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aqueduct::transport::{
    Authority, MemoryPositions, Node, Numbered, Once, Positions, QueueSource, RedbStore, Retrying, local,
};
use aqueduct::{Batch, Consumer, Cx, Graph, Restart, Result};
use tokio::sync::mpsc;

const ORDERS: u64 = 1000;
/// After so many bills the shop is killed.
const KILLED_AFTER: u64 = 300;

/// What the shop's process is told: its address, where its orders are, and whether they have to come in first.
type Shop = (SocketAddr, PathBuf, bool);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    if let Some(worker) = local::worker()? {
        return sell(&worker).await;
    }
    let orders = std::env::temp_dir().join(format!("aqueduct-orders-{}.redb", std::process::id()));
    let outcome = bill(&orders).await;
    std::fs::remove_file(orders)?;
    outcome
}

/// The shop's process.
async fn sell(worker: &local::Worker) -> Result {
    let (address, file, is_first): Shop = worker.payload()?;
    let queue = RedbStore::open(&file).await?.queue("orders", 10_000);
    let orders = QueueSource::new("orders", Arc::new(queue));
    if is_first {
        orders.push(1..=ORDERS).await?;
    }
    orders.close(); // no more will come in; it ends when all are handled
    let node = Node::bind(address, worker.identity().clone()).await?;
    node.publish("orders", &orders.exclusive())?;
    worker.report_with_stop(node.local_addr())?.requested().await;
    orders.shutdown(Duration::from_secs(5)).await; // what is not handled is for the next start
    node.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// This process.
async fn bill(orders: &Path) -> Result {
    let authority = Authority::dev("demo")?;
    // The same key in both lives lets others know at once that the first one is over.
    let identity = authority.issue("shop")?;
    // A port for both lives of the shop.
    let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let start = async |is_first| {
        let shop: Shop = (address, orders.to_owned(), is_first);
        local::spawn(&identity, &shop, &local::Options::default()).await.map_err(aqueduct::BoxError::from)
    };
    let shop = start(true).await?;

    let node = Node::bind("127.0.0.1:0", authority.issue("billing")?).await?;
    let far = node.source::<Numbered<u64>>("orders", address);
    let positions = Arc::new(MemoryPositions::new());
    let orders = Retrying::new(&Once::new(&far, Arc::clone(&positions), "bill"), Duration::from_secs(30));
    let (tx, mut bills) = mpsc::unbounded_channel();
    let graph = Graph::new("billing");
    graph
        .consumer("bill", move || Bill { positions: Arc::clone(&positions), bills: tx.clone() })
        .subscribe_acknowledged(&orders, 5..10)
        .restart(Restart::Transient);
    let mut running = graph.start();

    let mut billed = Vec::new();
    while billed.len() < KILLED_AFTER as usize {
        billed.extend(bills.recv().await);
    }
    println!("{KILLED_AFTER} bills or more are written: the shop is killed");
    drop(shop);
    let shop = start(false).await?;
    println!("the shop is started again");
    running.join().await?;
    while let Ok(order) = bills.try_recv() {
        billed.push(order);
    }
    let count = billed.len();
    billed.sort_unstable();
    billed.dedup();
    println!("{count} bills for {} orders", billed.len());
    shop.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

struct Bill {
    positions: Arc<MemoryPositions>,
    bills: mpsc::UnboundedSender<u64>,
}

impl Consumer for Bill {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, orders: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        for order in orders {
            self.bills.send(order.event)?;
            self.positions.store("bill", order.number).await?;
        }
        Ok(())
    }
}
