//! Question: how many events a second go from one process to another, encrypted, beside plain QUIC, plain TCP and remoc?
//!
//!     cargo bench -p aqueduct-benches --bench net -- [u64|bytes100|struct]... [--quick]
//!
//! The second process is this program again, over loopback. There a producer emits as many events as it is asked for; here
//! a consumer makes sure that none is missing. Events are consecutive `u64` from 0, `Bytes` of 100 bytes, and a struct of
//! four fields. The windows are 1000/500 and the default for far producers, 10,000/5,000. Beside them, alternated in the
//! same run: bytes over plain QUIC (quinn, with the settings that our nodes have) and over plain TCP, in pieces of 64 KiB,
//! and remoc over TCP, unencrypted, one value at a time and in vectors of 1000. All of it once with packets as large as is
//! found out up to Ethernet's, and once with packets of up to 6000 bytes, for plain QUIC as for ours.
//!
//! Each sample is a subscription, stream or channel of its own on a connection that stays, and counts for 0.3 s from the
//! first events on. One turn to warm up, then five that count; figures are medians, and the machine is printed. MB/s are of
//! the data in events: 8, 100 and 26 bytes each, however they are encoded. The processor time is that of both processes.
//!
//! `RATIO` lines, bigger is better: `.._bytes_vs_raw_quic` is ours over plain QUIC in bytes a second, `.._vs_remoc` and
//! `.._vs_remoc_vec` are events a second. The goal `net_u64_far_vs_goal` is 60 million events a second where plain QUIC
//! gives 600 MB/s, and in proportion elsewhere. `_mtu6000` is for the larger packets.

use std::time::Duration;

use anyhow::{Context, Result};
use aqueduct::transport::local;
use aqueduct::{Graph, SubscribeOptions};
use aqueduct_benches::events::{self, Event, Trade};
use aqueduct_benches::measure::{median, print_machine, print_ratio};
use aqueduct_benches::peers::{self, Settings, There, quic, tcp};
use aqueduct_benches::rate::{Meter, Rate};
use bytes::Bytes;
use clap::{Parser, ValueEnum};

/// Measures events between two processes, beside plain QUIC, plain TCP and remoc.
#[derive(Clone, Parser)]
struct Args {
    /// What to measure; everything if nothing is named
    rows: Vec<Row>,
    /// One short turn of each, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Worker threads of each process; 0 for a runtime on one thread
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Milliseconds that a sample takes
    #[arg(long, value_name = "MS", default_value_t = 300)]
    sample: u64,
    /// Turns that count
    #[arg(long, value_name = "N", default_value_t = 5)]
    turns: usize,
    /// Only this kind of packets: those up to Ethernet's, or those up to 6000 bytes
    #[arg(long)]
    packets: Option<Packets>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    U64,
    Bytes100,
    Struct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Packets {
    Ethernet,
    Jumbo,
}

impl Args {
    fn wants(&self, row: Row) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    fn turns(&self) -> usize {
        if self.quick { 1 } else { self.turns }
    }

    fn sample(&self) -> Duration {
        Duration::from_millis(if self.quick { 30 } else { self.sample })
    }
}

fn main() -> Result<()> {
    if let Some(worker) = local::worker()? {
        let settings: Settings = worker.payload()?;
        return settings.runtime()?.block_on(async move {
            let serving = async move { peers::serve(&worker, settings, publish).await };
            tokio::spawn(serving).await?
        });
    }
    let args = Args::parse();
    print_machine();
    let (turns, sample, workers) = (args.turns(), args.sample(), args.workers);
    println!("medians of {turns} in turns of {sample:?} each; {workers} worker threads in each process");
    let settings = Settings { jumbo: false, workers };
    settings.runtime()?.block_on(async move { tokio::spawn(run(args, settings)).await? })
}

fn publish(node: &aqueduct::transport::Node) -> Result<aqueduct::Running> {
    let graph = Graph::new("there");
    events::publish::<u64>(node, &graph)?;
    events::publish::<Bytes>(node, &graph)?;
    events::publish::<Trade>(node, &graph)?;
    Ok(graph.start())
}

async fn run(args: Args, settings: Settings) -> Result<()> {
    let mut ratios = Vec::new();
    for (packets, suffix) in [(Packets::Ethernet, ""), (Packets::Jumbo, "_mtu6000")] {
        if args.packets.is_some_and(|only| only != packets) {
            continue;
        }
        let mut there = There::start(Settings { jumbo: packets == Packets::Jumbo, ..settings }).await?;
        if args.wants(Row::U64) {
            let measured = throughput::<u64>(&args, &mut there, suffix).await?;
            let goal = (measured.far / 60e6) / (measured.quic_bytes / 600e6);
            ratios.push((format!("net_u64_far_vs_goal{suffix}"), goal));
            ratios.extend(measured.ratios("u64", suffix));
        }
        if args.wants(Row::Bytes100) {
            let measured = throughput::<Bytes>(&args, &mut there, suffix).await?;
            ratios.extend(measured.ratios("bytes100", suffix));
        }
        if args.wants(Row::Struct) {
            let measured = throughput::<Trade>(&args, &mut there, suffix).await?;
            ratios.extend(measured.ratios("struct", suffix));
        }
        there.end().await?;
    }
    println!();
    ratios.iter().for_each(|(name, ratio)| print_ratio(name, *ratio));
    Ok(())
}

/// Who takes turns.
#[derive(Clone, Copy, Debug)]
enum Contender {
    Near,
    Quic,
    Far,
    Tcp,
    Remoc,
    RemocVectors,
}

impl Contender {
    /// Ours do not follow each other, so that the producer has heard of the end of one subscription before the next.
    const ALL: [Self; 6] = [Self::Near, Self::Quic, Self::Far, Self::Tcp, Self::Remoc, Self::RemocVectors];

    fn name(self) -> &'static str {
        match self {
            Self::Near => "ours, 1000/500",
            Self::Quic => "plain QUIC",
            Self::Far => "ours, far default",
            Self::Tcp => "plain TCP, unencrypted",
            Self::Remoc => "remoc over TCP, unencrypted",
            Self::RemocVectors => "the same, Vec of 1000",
        }
    }

    /// Whether it moves bytes, not events.
    fn is_plain(self) -> bool {
        matches!(self, Self::Quic | Self::Tcp)
    }

    async fn take<E: Event>(self, there: &mut There, meter: Meter) -> Result<Rate> {
        let There { addresses, node, quic, remoc, .. } = there;
        match self {
            Self::Near => events::take::<E>(node, addresses.node, (500..1000).into(), meter).await,
            Self::Far => events::take::<E>(node, addresses.node, SubscribeOptions::default(), meter).await,
            Self::Quic => quic::take(quic, meter).await,
            Self::Tcp => tcp::take(addresses.tcp, meter).await,
            Self::Remoc => remoc.take::<E>(meter).await,
            Self::RemocVectors => remoc.take_vectors::<E>(meter).await,
        }
    }
}

/// Medians: bytes a second of what is plain, events a second of everything else.
struct Throughput {
    near: f64,
    far: f64,
    quic_bytes: f64,
    remoc: f64,
    remoc_vectors: f64,
    event_bytes: f64,
}

async fn throughput<E: Event>(args: &Args, there: &mut There, suffix: &str) -> Result<Throughput> {
    let mut rates = [const { Vec::new() }; Contender::ALL.len()];
    let mut costs = [const { Vec::new() }; Contender::ALL.len()];
    for turn in 0..=args.turns() {
        for (place, contender) in Contender::ALL.into_iter().enumerate() {
            let before = there.processor_time()?;
            let taking = contender.take::<E>(there, Meter::new(args.sample()));
            let rate = tokio::time::timeout(PATIENCE, taking).await.context(contender.name())??;
            let used = there.processor_time()?.saturating_sub(before);
            if turn > 0 {
                rates[place].push(rate.per_second);
                costs[place].push(used.as_secs_f64() * 1e9 / rate.count as f64);
            }
        }
    }
    println!("\n{:<32} {:>12} {:>12} {:>14}", format!("{}{suffix}", E::NAME), "M events/s", "MB/s", "processor ns");
    for (place, contender) in Contender::ALL.into_iter().enumerate() {
        let (name, rate, cost) = (contender.name(), median(&rates[place]), median(&costs[place]));
        if contender.is_plain() {
            println!("{name:<32} {:>12} {:>12.0} {:>9.2} a byte", "", rate / 1e6, cost);
        } else {
            let bytes = rate * E::BYTES as f64;
            println!("{name:<32} {:>12.2} {:>12.0} {:>9.1} each", rate / 1e6, bytes / 1e6, cost);
        }
    }
    let [near, quic_bytes, far, _, remoc, remoc_vectors] = rates.map(|rates| median(&rates));
    Ok(Throughput { near, far, quic_bytes, remoc, remoc_vectors, event_bytes: E::BYTES as f64 })
}

impl Throughput {
    fn ratios(&self, kind: &str, suffix: &str) -> Vec<(String, f64)> {
        let Self { near, far, quic_bytes, remoc, remoc_vectors, event_bytes } = *self;
        [("1000_500", near), ("far", far)]
            .into_iter()
            .flat_map(|(window, ours)| {
                [
                    (format!("net_{kind}_{window}_bytes_vs_raw_quic{suffix}"), ours * event_bytes / quic_bytes),
                    (format!("net_{kind}_{window}_vs_remoc{suffix}"), ours / remoc),
                    (format!("net_{kind}_{window}_vs_remoc_vec{suffix}"), ours / remoc_vectors),
                ]
            })
            .collect()
    }
}

/// How long a sample may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
