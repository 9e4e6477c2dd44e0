//! Orders go into two queues by partition, a worker for each bills them, the workers are killed at random (as `kill -9`
//! does), and every order is billed exactly once.
//!
//! ```text
//!   this process                                                    processes "worker-0", "worker-1"
//!   orders ── by partition ──► 2 queues on the disk ── numbered ──► bill + position, in one transaction
//! ```
//!
//! A worker that is killed gets some orders again, and knows them by their numbers: its position is stored with the bills.
//!
//! `cargo run --release --example exactly_once` starts the workers as further processes of this program, and prints
//!
//! ```text
//! 10000 orders are in 2 queues
//! 8 times a worker was killed and started again
//! worker-0: 5000 orders billed, 0 of them more than once
//! worker-1: 5000 orders billed, 0 of them more than once
//! ```

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aqueduct::transport::redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use aqueduct::transport::{
    Authority, Node, Numbered, Once, QueueSink, QueueSource, RedbPositions, RedbStore, Retrying, local,
};
use aqueduct::{Batch, Consumer, Cx, Graph, Result};

const ORDERS: u64 = 10_000;
const WORKERS: usize = 2;
const KILLS: usize = 8;
const BILLS: TableDefinition<'_, u64, u64> = TableDefinition::new("bills");

/// What a worker is told: its queue and where that is, and where its bills are.
type Job = (String, SocketAddr, PathBuf);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    if let Some(worker) = local::worker()? {
        return work(&worker).await;
    }
    let folder = std::env::temp_dir().join(format!("aqueduct-exactly-once-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = shop(&folder).await;
    fs::remove_dir_all(folder)?;
    outcome
}

/// This process.
async fn shop(folder: &Path) -> Result {
    let authority = Authority::dev("demo")?;
    let node = Node::bind("127.0.0.1:0", authority.issue("shop")?).await?;
    let store = RedbStore::open(folder.join("queues.redb")).await?;
    let graph = Graph::new("shop");
    let orders = graph.iterate("orders", || 0..ORDERS).partition(WORKERS, |order| *order as usize % WORKERS);
    let (mut queues, mut jobs) = (Vec::new(), Vec::<(_, Job)>::new());
    for part in 0..WORKERS {
        let name = format!("orders-{part}");
        let queue = Arc::new(store.queue(&name, 100_000));
        let sink = QueueSink::<u64, _>::new(&queue);
        graph.consumer(&name, move || sink.clone()).subscribe_acknowledged(&orders.part(part), 500..1000);
        let source = QueueSource::<u64, _>::new(&name, queue);
        node.publish(&name, &source.exclusive())?;
        queues.push(source);
        let job = (name, node.local_addr(), folder.join(format!("bills-{part}.redb")));
        // The same key in all its lives, so that the shop knows at once which of them are over.
        jobs.push((authority.issue(&format!("worker-{part}"))?, job));
    }
    graph.run().await?;
    println!("{ORDERS} orders are in {WORKERS} queues");

    let options = local::Options::default();
    let mut workers = Vec::new();
    for (identity, job) in &jobs {
        workers.push(local::spawn(identity, job, &options).await?);
    }
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(20 + random() % 150)).await;
        let part = random() as usize % WORKERS;
        workers.remove(part).shutdown(Duration::ZERO).await?; // without any grace: SIGKILL
        workers.insert(part, local::spawn(&jobs[part].0, &jobs[part].1, &options).await?);
    }
    println!("{KILLS} times a worker was killed and started again");
    queues.iter().for_each(QueueSource::close); // they end when everything is billed
    for (mut worker, (_, (_, _, bills))) in workers.into_iter().zip(&jobs) {
        worker.exited().await?;
        let database = Database::open(bills)?;
        let bills = database.begin_read()?.open_table(BILLS)?;
        let times = bills.iter()?.map(|bill| Ok(bill?.1.value())).collect::<Result<Vec<_>>>()?;
        let more = times.iter().filter(|times| **times > 1).count();
        println!("{}: {} orders billed, {more} of them more than once", worker.node(), times.len());
    }
    node.shutdown(Duration::from_secs(5)).await;
    store.close().await;
    Ok(())
}

/// A worker's process.
async fn work(worker: &local::Worker) -> Result {
    let (queue, shop, bills): Job = worker.payload()?;
    let node = Node::bind("127.0.0.1:0", worker.identity().clone()).await?;
    let store = RedbStore::open(bills).await?;
    let positions = Arc::new(store.positions());
    let orders = Once::new(&node.source::<Numbered<u64>>(&queue, shop), Arc::clone(&positions), "bill");
    let orders = Retrying::new(&orders, Duration::from_secs(30));
    let graph = Graph::new("billing");
    graph.consumer("bill", move || Bill(Arc::clone(&positions))).subscribe_acknowledged(&orders, 5..10);
    worker.report(node.local_addr())?;
    graph.run().await?;
    node.shutdown(Duration::from_secs(5)).await;
    store.close().await;
    Ok(())
}

struct Bill(Arc<RedbPositions>);

impl Consumer for Bill {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, orders: Batch<Numbered<u64>>, _cx: &mut Cx<'_>) -> Result {
        let bill = |transaction: &WriteTransaction, order| -> Result {
            let mut bills = transaction.open_table(BILLS)?;
            let times = bills.get(order)?.map_or(1, |times| times.value() + 1);
            bills.insert(order, times)?;
            Ok(())
        };
        self.0.apply("bill", orders.into_iter().collect(), bill).await?;
        Ok(())
    }
}

fn random() -> u64 {
    RandomState::new().hash_one(())
}
