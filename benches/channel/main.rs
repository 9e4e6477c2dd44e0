//! Question: how many values a second go through a typed channel to other processes and come back as results, beside what
//! one would write instead?
//!
//!     cargo bench -p aqueduct-benches --bench channel -- [1|2|4|latency]... [--quick]
//!
//! One server and 1, 2 or 4 workers, which are this program again, over loopback. A value is three integers, its result two:
//! an id and a sum. The server sends as fast as it may and checks every sum. Ours is encrypted, each result counts once, and
//! what a lost worker has not answered goes to another; it is measured with the default window of a worker, 16 values, and
//! with 1000/500. What it is measured against has none of that: remoc over TCP, with a remote channel to each worker and
//! one back, value by value; and plain TCP, with a frame of MessagePack for each value, written and read through buffers.
//! Both give values out in turns.
//!
//! `latency`: one value is sent, answered and received before the next, beside a message of 16 bytes that is echoed on a
//! stream of plain QUIC.
//!
//! A sample counts results for 0.3 s, and waits until everything is back. One turn to warm up, then five that count; figures
//! are medians, and the machine is printed. With more processes than cores, more workers bring nothing but more work.
//!
//! `RATIO` lines, bigger is better: results a second, ours with 1000/500 (`_default_window`: with that) over the other;
//! `_processor_vs_remoc` is remoc's processor time for a value, in all processes, over ours;
//! `channel_latency_p50` and `_p99` are the time of the echo over ours.

mod latency;
mod ours;
mod remoc;
mod server;
mod tcp;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use aqueduct::transport::{Authority, local};
use aqueduct_benches::measure::median;
use aqueduct_benches::peers::process::processor_time;
use aqueduct_benches::peers::{self, LOOPBACK, Settings};
use aqueduct_benches::turns::{Ratios, Turns, print_ratios, wants};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::server::{Server, Tally};

/// Measures typed channels beside remoc and plain TCP.
#[derive(Clone, Parser)]
struct Args {
    /// What to measure; everything if nothing is named
    rows: Vec<Row>,
    #[command(flatten)]
    turns: Turns,
    /// Values a second of one contender alone, for a profiler; without `RATIO` lines
    #[arg(long)]
    only: Option<Contender>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
    #[value(name = "4")]
    Four,
    Latency,
}

/// Who takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Contender {
    /// Ours with a worker's default window
    Default,
    /// remoc over TCP
    Remoc,
    /// Ours with the window 1000/500
    Wide,
    /// Frames over TCP
    Tcp,
}

impl Args {
    fn wants(&self, row: Row) -> bool {
        wants(&self.rows, &row)
    }
}

/// An id and two numbers.
type Job = (u64, u64, u64);
/// The id and the sum.
type Answer = (u64, u64);

fn job(id: u64) -> Job {
    (id, id, 2 * id)
}

fn answer((id, a, b): Job) -> Answer {
    (id, a + b)
}

/// What a worker process is told: where the server listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Workplace {
    settings: Settings,
    ours: SocketAddr,
    remoc: SocketAddr,
    tcp: SocketAddr,
}

fn main() -> Result<()> {
    if let Some(worker) = local::worker()? {
        let workplace: Workplace = worker.payload()?;
        return workplace.settings.run(workplace.work(worker));
    }
    let args = Args::parse();
    args.turns.print();
    let settings = Settings::new(args.turns.workers);
    settings.run(measure(args, settings))
}

async fn measure(args: Args, settings: Settings) -> Result<()> {
    let mut ratios = Vec::new();
    for (row, workers) in [(Row::One, 1), (Row::Two, 2), (Row::Four, 4)] {
        if args.wants(row) {
            ratios.extend(throughput(&args, settings, workers).await?);
        }
    }
    if args.wants(Row::Latency) {
        ratios.extend(latency::measure(&args, settings).await?);
    }
    print_ratios(&ratios);
    Ok(())
}

async fn throughput(args: &Args, settings: Settings, workers: usize) -> Result<Ratios> {
    let company = Company::start(settings, workers).await?;
    let Company { ours, remoc, tcp, .. } = &company;
    let mut servers = [
        (Contender::Default, "ours, default window", Server::Ours(ours.serve(ours::DEFAULT, workers).await?)),
        (Contender::Remoc, "remoc over TCP, unencrypted", Server::Remoc(remoc::hire(remoc, workers).await?)),
        (Contender::Wide, "ours, 1000/500", Server::Ours(ours.serve(ours::WIDE, workers).await?)),
        (Contender::Tcp, "frames over TCP, unencrypted", Server::Tcp(tcp::hire(tcp, workers).await?)),
    ];
    let mut samples = [const { (Vec::new(), Vec::new()) }; 4];
    for turn in 0..=args.turns.count() {
        for ((rates, costs), (contender, name, server)) in samples.iter_mut().zip(&mut servers) {
            if args.only.is_some_and(|only| only != *contender) {
                continue;
            }
            let (used, sent) = (company.processor_time()?, server.sent().count());
            let rate = timeout(PATIENCE, server.sample(args.turns.sample())).await.context(*name)??;
            let (used, sent) = (company.processor_time()?.saturating_sub(used), server.sent().count() - sent);
            if turn > 0 {
                rates.push(rate);
                costs.push(used.as_secs_f64() * 1e6 / sent as f64);
            }
        }
    }
    println!("\n{:<32} {:>14} {:>14}", format!("{workers} workers"), "values/s", "processor µs");
    let measured = [0, 1, 2, 3].map(|place| {
        let (name, (rates, costs)) = (servers[place].1, &samples[place]);
        let (rate, cost) = (!rates.is_empty()).then(|| (median(rates), median(costs)))?;
        println!("{name:<32} {rate:>14.0} {cost:>14.2}");
        Some((rate, cost))
    });
    company.end().await?;
    let [Some(default), Some(remoc), Some(wide), Some(tcp)] = measured else { return Ok(Ratios::new()) };
    let name = |against| format!("channel_{workers}_workers_{against}");
    Ok(vec![
        (name("vs_remoc"), wide.0 / remoc.0),
        (name("vs_tcp"), wide.0 / tcp.0),
        (name("vs_remoc_default_window"), default.0 / remoc.0),
        (name("vs_tcp_default_window"), default.0 / tcp.0),
        (name("processor_vs_remoc"), remoc.1 / wide.1),
    ])
}

/// Worker processes, and what they come to.
struct Company {
    authority: Authority,
    ours: ours::Office,
    remoc: TcpListener,
    tcp: TcpListener,
    processes: Vec<local::Process>,
}

impl Company {
    async fn start(settings: Settings, workers: usize) -> Result<Self> {
        let authority = Authority::dev("bench")?;
        let ours = ours::Office::open(settings, &authority).await?;
        let (remoc, tcp) = (TcpListener::bind(LOOPBACK).await?, TcpListener::bind(LOOPBACK).await?);
        let workplace =
            Workplace { settings, ours: ours.address(), remoc: remoc.local_addr()?, tcp: tcp.local_addr()? };
        let mut processes = Vec::new();
        for n in 0..workers {
            processes.push(peers::start(&authority.issue(&format!("worker-{n}"))?, &workplace).await?);
        }
        Ok(Self { authority, ours, remoc, tcp, processes })
    }

    /// That of the server and of all workers.
    fn processor_time(&self) -> Result<Duration> {
        let workers = self.processes.iter().map(local::Process::id);
        workers.chain([std::process::id()]).map(processor_time).sum()
    }

    async fn end(self) -> Result<()> {
        for process in self.processes {
            process.shutdown(Duration::from_secs(1)).await?;
        }
        Ok(())
    }
}

impl Workplace {
    /// Works for all servers until the process ends. It also echoes over plain QUIC, where it says.
    async fn work(self, worker: local::Worker) -> Result<()> {
        let node = self.settings.node(worker.identity()).await?;
        for (channel, window) in ours::CHANNELS {
            tokio::spawn(ours::work(node.clone(), self.ours, channel, window));
        }
        tokio::spawn(remoc::work(self.remoc));
        tokio::spawn(tcp::work(self.tcp));
        let echo = peers::quic::serve(worker.identity(), self.settings.jumbo)?;
        peers::tell(&worker, &echo).await
    }
}

/// How long a sample may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
