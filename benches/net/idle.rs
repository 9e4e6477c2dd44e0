//! What subscriptions cost over which nothing comes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aqueduct::transport::Node;
use aqueduct::{Batch, Consumer, Cx, Graph, Producer, Running};
use aqueduct_benches::peers::{Settings, There, quic};
use aqueduct_benches::turns::Ratios;
use tokio::time::{sleep, timeout};

use super::{Args, PATIENCE, Role};

/// Publishes a source that never emits.
pub(crate) fn publish(node: &Node, graph: &Graph) -> Result<()> {
    Ok(node.publish(SILENT, &graph.producer(SILENT, || Silent))?)
}

struct Silent;

impl Producer for Silent {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        Ok(())
    }
}

struct Ignore;

impl Consumer for Ignore {
    type In = u64;

    async fn handle_events(&mut self, _events: Batch<u64>, _cx: &mut Cx<'_>) -> aqueduct::Result {
        Ok(())
    }
}

pub(crate) async fn measure(args: &Args, settings: Settings) -> Result<Ratios> {
    println!("\n{:<32} {:>12} {:>12}", format!("idle, {COUNT} of them"), "% here", "% there");
    let length = Duration::from_millis(if args.turns.quick { 300 } else { 10_000 });
    let there = There::start(settings, Role::Serve).await?;
    row("nothing", &there, length, async |_| Ok(())).await?;
    row("plain QUIC, streams", &there, length, async |there| {
        let mut streams = Vec::new();
        for _ in 0..COUNT {
            streams.push(quic::hold(&there.quic).await?);
        }
        Ok(streams)
    })
    .await?;
    let links = row("ours, on one connection", &there, length, links).await?;
    let plain = row("plain QUIC, connections", &there, length, async |there| {
        let mut connections = Vec::new();
        for _ in 0..COUNT {
            let connection = quic::connect(&there.identity, settings.jumbo, there.addresses.quic).await?;
            connections.push((quic::hold(&connection).await?, connection));
        }
        Ok(connections)
    })
    .await?;
    let connections = row("ours, on a connection each", &there, length, async |there| {
        let mut nodes = Vec::new();
        for n in 0..COUNT {
            let node = settings.node(&there.authority.issue(&format!("here-{n}"))?).await?;
            nodes.push((subscribe(&node, there, 1).await?, node));
        }
        Ok(nodes)
    })
    .await?;
    there.end().await?;
    Ok(vec![
        ("net_idle_links_goal".into(), GOAL_PERCENT / links),
        ("net_idle_connections_goal".into(), GOAL_PERCENT / connections),
        ("net_idle_connections_vs_raw_quic".into(), plain / connections),
    ])
}

/// Measures while what `start` brings to life lives; prints both processes, and answers the one that uses more.
async fn row<T>(
    name: &str,
    there: &There,
    length: Duration,
    start: impl AsyncFnOnce(&There) -> Result<T>,
) -> Result<f64> {
    let alive = timeout(PATIENCE, start(there)).await.context("it does not start")??;
    // Until everybody has said what there is to say: subscriptions say it again ever more seldom, after 8, 16 and 30 s at last.
    sleep(length * 4 / 5).await;
    let (before, started) = (there.processor_times()?, Instant::now());
    sleep(length).await;
    let (after, elapsed) = (there.processor_times()?, started.elapsed());
    drop(alive);
    sleep(length / 4).await;
    let [here, far] = [0, 1].map(|n| 100.0 * after[n].saturating_sub(before[n]).as_secs_f64() / elapsed.as_secs_f64());
    println!("{name:<32} {here:>12.3} {far:>12.3}");
    Ok(here.max(far))
}

async fn links(there: &There) -> Result<Running> {
    subscribe(&there.node, there, COUNT).await
}

async fn subscribe(node: &Node, there: &There, count: usize) -> Result<Running> {
    let graph = Graph::new("idle");
    let silent = node.source::<u64>(SILENT, there.addresses.node);
    for n in 0..count {
        let _consumer = graph.consumer(&format!("ignore {n}"), || Ignore).subscribe(&silent, 500..1000);
    }
    let running = graph.start();
    while node.snapshot().links_subscribed < count as u64 {
        sleep(Duration::from_millis(1)).await;
    }
    ensure!(node.snapshot().links_subscribed == count as u64, "expected {count} subscriptions");
    Ok(running)
}

const SILENT: &str = "silent";
const COUNT: usize = 100;
/// Of a core.
const GOAL_PERCENT: f64 = 0.5;
