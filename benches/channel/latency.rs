//! How long one value takes to a worker and back.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aqueduct_benches::measure::as_ns;
use aqueduct_benches::peers::quic::{self, Echo};
use aqueduct_benches::peers::{self, Settings};
use aqueduct_benches::turns::Ratios;
use hdrhistogram::Histogram;
use tokio::time::timeout;

use super::{Args, Company, PATIENCE, job, ours};

pub(crate) async fn measure(args: &Args, settings: Settings) -> Result<Ratios> {
    let company = Company::start(settings, 1).await?;
    let (sender, mut results) = company.ours.channel(ours::SINGLE, 1).await?;
    let echo: SocketAddr = peers::ask(company.processes[0].address()).await?;
    let connection = quic::connect(&company.authority.issue("client")?, settings.jumbo, echo).await?;
    let mut echo = Echo::open(&connection).await?;
    // In one turn as many: a few are no sample of a latency.
    let count = ROUND_TRIPS;
    let [mut echoed, mut answered] = [times(), times()];
    for turn in 0..=args.turns.count() {
        if turn == 1 {
            [&mut echoed, &mut answered].into_iter().for_each(Histogram::reset);
        }
        let turn = async {
            for n in 0..count {
                let started = Instant::now();
                echo.round_trip(n).await?;
                echoed.saturating_record(as_ns(started.elapsed()) as u64);
            }
            for id in 0..count {
                let started = Instant::now();
                sender.send(job(id)).await?;
                let result = results.recv().await.context("the channel has ended")??;
                answered.saturating_record(as_ns(started.elapsed()) as u64);
                ensure!(result == (id, 3 * id), "expected the sum of {id}, got {result:?}");
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, turn).await.context("latency")??;
    }
    company.end().await?;
    println!("\n{:<32} {:>12} {:>12}", "one value, there and back", "p50 µs", "p99 µs");
    let at = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64;
    for (name, times) in [("plain QUIC, an echo", &echoed), ("ours", &answered)] {
        println!("{name:<32} {:>12.1} {:>12.1}", at(times, 0.5) / 1e3, at(times, 0.99) / 1e3);
    }
    let ratio = |quantile| at(&echoed, quantile) / at(&answered, quantile);
    Ok(vec![("channel_latency_p50".into(), ratio(0.5)), ("channel_latency_p99".into(), ratio(0.99))])
}

/// From 1 ns to 1 s, three digits.
fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("the bounds are in order")
}

/// In one turn.
const ROUND_TRIPS: u64 = 2000;
