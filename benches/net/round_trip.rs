//! How long an event takes there and back.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aqueduct::transport::Node;
use aqueduct::{Batch, Cx, Graph, ProducerConsumer, SourceExt};
use aqueduct_benches::measure::as_ns;
use aqueduct_benches::peers::quic::Echo;
use aqueduct_benches::peers::{PING, Settings, There};
use aqueduct_benches::turns::Ratios;
use hdrhistogram::Histogram;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::{Args, PATIENCE, Role};

/// Sends everything back.
struct Pong;

impl ProducerConsumer for Pong {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        cx.emit_all(events);
        Ok(())
    }
}

/// Publishes what the first process publishes.
pub(crate) fn publish(node: &Node, graph: &Graph, settings: Settings) -> Result<()> {
    let here = settings.here.context("expected the address of the first process")?;
    let pong = graph.stage(PONG, || Pong).subscribe(&node.source(PING, here), 0..1);
    Ok(node.publish(PONG, &pong)?)
}

pub(crate) async fn measure(args: &Args, settings: Settings) -> Result<Ratios> {
    let there = There::start(settings, Role::Serve).await?;
    // In one turn as many: a few are no sample of a latency.
    let count = ROUND_TRIPS;
    let [mut echoed, mut back, mut asked] = [times(), times(), times()];
    for turn in 0..=args.turns.count() {
        if turn == 1 {
            [&mut echoed, &mut back, &mut asked].into_iter().for_each(Histogram::reset);
        }
        timeout(PATIENCE, echo(&there, count, &mut echoed)).await.context("echo")??;
        timeout(PATIENCE, there_and_back(&there, count, &mut back)).await.context("there and back")??;
        timeout(PATIENCE, ask(&there, count, &mut asked)).await.context("ask")??;
    }
    there.end().await?;
    println!("\n{:<32} {:>12} {:>12}", "round trip", "p50 µs", "p99 µs");
    let at = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64;
    for (name, times) in
        [("plain QUIC, an echo", &echoed), ("ours, there and back", &back), ("ours, demand and event", &asked)]
    {
        println!("{name:<32} {:>12.1} {:>12.1}", at(times, 0.5) / 1e3, at(times, 0.99) / 1e3);
    }
    let mut ratios = Vec::new();
    for (name, times) in [("net_round_trip", &back), ("net_ask", &asked)] {
        for (percentile, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            ratios.push((format!("{name}_{percentile}"), at(&echoed, quantile) / at(times, quantile)));
        }
    }
    Ok(ratios)
}

async fn echo(there: &There, count: u64, times: &mut Histogram<u64>) -> Result<()> {
    let mut echo = Echo::open(&there.quic).await?;
    for n in 0..count {
        let started = Instant::now();
        echo.round_trip(n).await?;
        times.saturating_record(as_ns(started.elapsed()) as u64);
    }
    Ok(())
}

async fn there_and_back(there: &There, count: u64, times: &mut Histogram<u64>) -> Result<()> {
    let mut pongs = there.node.source::<u64>(PONG, there.addresses.node).events(0..1);
    for n in 0..=count {
        let started = Instant::now();
        there.ping.cast(n)?;
        let event = pongs.next().await.context("it has no end")??;
        ensure!(event == n, "expected event {n} to come back, got {event}");
        // The first one has waited for the subscription.
        if n > 0 {
            times.saturating_record(as_ns(started.elapsed()) as u64);
        }
    }
    Ok(())
}

async fn ask(there: &There, count: u64, times: &mut Histogram<u64>) -> Result<()> {
    let mut events = there.node.source::<u64>("u64", there.addresses.node).events(0..1);
    for n in 0..=count {
        let started = Instant::now();
        let event = events.next().await.context("it has no end")??;
        ensure!(event == n, "expected event {n}, got {event}");
        if n > 0 {
            times.saturating_record(as_ns(started.elapsed()) as u64);
        }
    }
    Ok(())
}

/// From 1 ns to 1 s, three digits.
fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("the bounds are in order")
}

const PONG: &str = "pong";
/// In one turn.
const ROUND_TRIPS: u64 = 2000;
