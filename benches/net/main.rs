//! Question: what does a subscription between two processes cost, encrypted, beside plain QUIC, plain TCP and remoc?
//!
//!     cargo bench -p aqueduct-benches --bench net -- [u64|bytes100|struct|round-trip|idle|stalled]... [--quick]
//!
//! The second process is this program again, over loopback.
//!
//! `u64`, `bytes100`, `struct`: events a second. There a producer emits as many as it is asked for; here a consumer makes
//! sure that none is missing. They are consecutive `u64` from 0, `Bytes` of 100 bytes, and a struct of four fields. The
//! windows are 1000/500 and the default for far producers, 10,000/5,000 at first. Beside them, alternated in the same run: bytes over
//! plain QUIC (quinn, with the settings that our nodes have) and over plain TCP, in pieces of 64 KiB, and remoc over TCP,
//! unencrypted, one value at a time and in vectors of 1000. All of it once with packets of up to
//! Ethernet's 1452 bytes, and once with up to 6000 (`_mtu6000`), which nodes on one machine have by default; for plain QUIC
//! as for ours. Each sample is a
//! subscription, stream or channel of its own on a connection that stays, and counts for 0.3 s from the first events on.
//! MB/s are of the data in events: 8, 100 and 26 bytes each, however they are encoded. The processor time is that of both
//! processes.
//!
//! `round-trip`: an event that goes there over one subscription and comes back over another, both with the window `0..1`;
//! and the way of a demand for one event and of that event. Beside them a message of 16 bytes that is echoed on a stream of
//! plain QUIC. Microseconds.
//!
//! `idle`: the processor time of each process, in percent of a core, with 100 subscriptions over which nothing comes: on one
//! connection, and on a connection each. Beside them streams and connections of plain QUIC with the same keep-alive.
//!
//! `stalled`: the memory of 1000 subscriptions on one connection whose consumer asks for nothing, or asks for 1000 `u64` and
//! takes none but the first; as much as the resident memory of each process grows. Beside them silent streams of plain QUIC.
//!
//! One turn to warm up, then five that count; figures are medians, and the machine is printed. `RATIO` lines, bigger is
//! better: `.._bytes_vs_raw_quic` is ours over plain QUIC in bytes a second, `.._processor_vs_raw_quic` is its processor time
//! for a byte over ours, which moves less on a machine that others use; `.._vs_remoc` and `.._vs_remoc_vec` are events a
//! second. The goal `net_u64_far_vs_goal` is 60 million events a second where plain QUIC gives 600 MB/s, and in proportion
//! elsewhere. For everything else it is the time, processor time or memory of plain QUIC over ours; `net_idle_goal` is half a
//! percent of a core over ours.

mod idle;
mod round_trip;
mod stalled;
mod throughput;

use std::time::Duration;

use anyhow::Result;
use aqueduct::transport::{Node, local};
use aqueduct::{Graph, Running};
use aqueduct_benches::events::{self, Trade};
use aqueduct_benches::peers::{self, Settings, There};
use aqueduct_benches::turns::{Turns, print_ratios, wants};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::throughput::Contender;

/// Measures subscriptions between two processes, beside plain QUIC, plain TCP and remoc.
#[derive(Clone, Parser)]
struct Args {
    /// What to measure; everything if nothing is named
    rows: Vec<Row>,
    #[command(flatten)]
    turns: Turns,
    /// Only this kind of packets: those up to Ethernet's, or those up to 6000 bytes
    #[arg(long)]
    packets: Option<Packets>,
    /// Events a second of one contender alone, for a profiler; without `RATIO` lines
    #[arg(long)]
    only: Option<Contender>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    U64,
    Bytes100,
    Struct,
    RoundTrip,
    Idle,
    Stalled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Packets {
    Ethernet,
    Jumbo,
}

impl Args {
    fn wants(&self, row: Row) -> bool {
        wants(&self.rows, &row)
    }
}

/// What the second process is to do.
#[derive(Serialize, Deserialize)]
enum Role {
    Serve(Settings),
    Stall(stalled::Subscriber),
}

fn main() -> Result<()> {
    if let Some(worker) = local::worker()? {
        return match worker.payload()? {
            Role::Serve(settings) => settings.run(async move { peers::serve(&worker, settings, publish).await }),
            Role::Stall(subscriber) => subscriber.settings.run(subscriber.stall(worker)),
        };
    }
    let args = Args::parse();
    args.turns.print();
    let settings = Settings::new(args.turns.workers);
    settings.run(measure(args, settings))
}

/// What the second process publishes; it subscribes to what comes back.
fn publish(node: &Node, settings: Settings) -> Result<Running> {
    let graph = Graph::new("there");
    events::publish::<u64>(node, &graph)?;
    events::publish::<Bytes>(node, &graph)?;
    events::publish::<Trade>(node, &graph)?;
    idle::publish(node, &graph)?;
    round_trip::publish(node, &graph, settings)?;
    Ok(graph.start())
}

async fn measure(args: Args, settings: Settings) -> Result<()> {
    let mut ratios = Vec::new();
    let throughputs = [Row::U64, Row::Bytes100, Row::Struct];
    for (packets, suffix) in [(Packets::Ethernet, ""), (Packets::Jumbo, "_mtu6000")] {
        let is_wanted = throughputs.into_iter().any(|row| args.wants(row));
        if !is_wanted || args.packets.is_some_and(|only| only != packets) {
            continue;
        }
        let mut there = There::start(Settings { jumbo: packets == Packets::Jumbo, ..settings }, Role::Serve).await?;
        if args.wants(Row::U64) {
            ratios.extend(throughput::measure::<u64>(&args, &mut there, suffix).await?);
        }
        if args.wants(Row::Bytes100) {
            ratios.extend(throughput::measure::<Bytes>(&args, &mut there, suffix).await?);
        }
        if args.wants(Row::Struct) {
            ratios.extend(throughput::measure::<Trade>(&args, &mut there, suffix).await?);
        }
        there.end().await?;
    }
    if args.wants(Row::RoundTrip) {
        ratios.extend(round_trip::measure(&args, settings).await?);
    }
    if args.wants(Row::Idle) {
        ratios.extend(idle::measure(&args, settings).await?);
    }
    if args.wants(Row::Stalled) {
        ratios.extend(stalled::measure(&args, settings).await?);
    }
    print_ratios(&ratios);
    Ok(())
}

/// How long a sample may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
