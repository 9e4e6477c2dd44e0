//! What subscriptions hold of memory that do not go on.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use aqueduct::transport::{Node, local};
use aqueduct::{Batch, Consumer, Cx, Edge, Graph, Mode, SourceExt};
use aqueduct_benches::peers::process::resident_bytes;
use aqueduct_benches::peers::{self, Settings, There, quic};
use aqueduct_benches::turns::Ratios;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use super::{Args, PATIENCE, Role};

/// How subscriptions stall.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Stall {
    /// Nobody subscribes: there are as many silent streams.
    Plain,
    /// The consumer asks for nothing.
    AsksNothing,
    /// The consumer asks for 1000 events and takes one.
    TakesNothing,
}

/// A process that subscribes and stalls.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Subscriber {
    pub(crate) settings: Settings,
    stall: Stall,
    node: SocketAddr,
    quic: SocketAddr,
    count: usize,
}

pub(crate) async fn measure(args: &Args, settings: Settings) -> Result<Ratios> {
    let count = if args.turns.quick { 50 } else { SUBSCRIPTIONS };
    println!("\n{:<32} {:>12} {:>12}", format!("stalled, {count} of them"), "bytes here", "bytes there");
    let rows = [
        ("plain QUIC, silent streams", Stall::Plain),
        ("ours, consumer asks for nothing", Stall::AsksNothing),
        ("ours, takes 1 of 1000 u64", Stall::TakesNothing),
    ];
    let mut bytes = Vec::new();
    for (name, stall) in rows {
        // Fresh processes: memory that was given back before would hide what is taken.
        let there = There::start(settings, Role::Serve).await?;
        let before = resident_bytes(there.id())?;
        let peers::Addresses { node, quic, .. } = there.addresses;
        let role = Role::Stall(Subscriber { settings, stall, node, quic, count });
        let stalled = peers::start(&there.authority.issue("stalled")?, &role).await?;
        let here: u64 = peers::ask(stalled.address()).await?;
        let far = resident_bytes(there.id())?.saturating_sub(before);
        let [here, far] = [here, far].map(|bytes| bytes as f64 / count as f64);
        println!("{name:<32} {here:>12.0} {far:>12.0}");
        bytes.push((here, far));
        stalled.shutdown(Duration::from_secs(1)).await?;
        there.end().await?;
    }
    let (plain_here, plain_there) = bytes[0];
    let (here, far) = bytes[1];
    Ok(vec![
        ("net_stalled_consumer_bytes_vs_raw_quic".into(), plain_here / here),
        ("net_stalled_producer_bytes_vs_raw_quic".into(), plain_there / far),
    ])
}

impl Subscriber {
    /// Subscribes, tells how many bytes it took, and stalls until the process ends.
    pub(crate) async fn stall(self, worker: local::Worker) -> Result<()> {
        let identity = worker.identity();
        let node = self.settings.node(identity).await?;
        let plain = quic::connect(identity, self.settings.jumbo, self.quic).await?;
        // So that the connection is there.
        node.functions_at(self.node).await?;
        let before = until_settled().await?;
        let subscribing = timeout(PATIENCE, async {
            match self.stall {
                Stall::Plain => {
                    let streams = try_join_all((0..self.count).map(|_| quic::hold(&plain))).await?;
                    alive(streams)
                }
                Stall::AsksNothing => {
                    let graph = Graph::new("stalled");
                    let source = node.source::<u64>("u64", self.node);
                    let mut consumer = graph.consumer("asks nothing", || AsksNothing);
                    for _ in 0..self.count {
                        consumer = consumer.subscribe(&source, 500..1000);
                    }
                    let running = graph.start();
                    self.until_subscribed(&node).await;
                    alive((running, consumer))
                }
                Stall::TakesNothing => {
                    let source = node.source::<u64>("u64", self.node);
                    let take = async || {
                        let mut events = source.events(500..1000);
                        events.next().await.context("it has no end")??;
                        anyhow::Ok(events)
                    };
                    let streams = try_join_all((0..self.count).map(|_| take())).await?;
                    self.until_subscribed(&node).await;
                    alive(streams)
                }
            }
        });
        let _alive = subscribing.await.context("not everything is subscribed")??;
        let after = until_settled().await?;
        peers::tell(&worker, &after.saturating_sub(before)).await
    }

    async fn until_subscribed(&self, node: &Node) {
        while node.snapshot().links_subscribed < self.count as u64 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What is to be kept, of whatever type.
fn alive(kept: impl Any + Send) -> Result<Box<dyn Any + Send>> {
    Ok(Box::new(kept))
}

/// Waits until the memory of this process has not changed for a while.
async fn until_settled() -> Result<u64> {
    let mut last = (0, 0);
    loop {
        let bytes = resident_bytes(std::process::id())?;
        last = if bytes == last.0 { (bytes, last.1 + 1) } else { (bytes, 0) };
        if last.1 == 10 {
            return Ok(bytes);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

struct AsksNothing;

impl Consumer for AsksNothing {
    type In = u64;

    async fn handle_subscribe(&mut self, _edge: &Edge, _cx: &mut Cx<'_>) -> aqueduct::Result<Mode> {
        Ok(Mode::Manual)
    }

    async fn handle_events(&mut self, _events: Batch<u64>, _cx: &mut Cx<'_>) -> aqueduct::Result {
        Ok(())
    }
}

const SUBSCRIPTIONS: usize = 1000;
