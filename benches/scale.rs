//! Question: does a unit of work cost more where there is much of everything?
//!
//!     cargo bench -p aqueduct-benches --bench scale -- [consumers|stages|workers|links]... [--quick]
//!
//! `consumers`: an event that one producer gives to one of 1 to 10,000 consumers by demand. `stages`: starting and ending one
//! of 10 to 100,000 stages in one graph, half of them producers of ten events for the other half. `workers`: a value of a
//! channel with 1 to 64 workers, each on a node of its own, with the default window. `links`: an event of a far producer that 1
//! to 1,000 subscriptions on one connection share.
//!
//! All of it in one process on one thread, so that the time is the processor's. But for `stages`, two samples are taken, one
//! with twice the work, and their difference counts: what it costs to start is in both. One turn to warm up, then three that
//! count; figures are medians, and the machine is printed.
//!
//! `RATIO` lines: the cost with the fewest over that with the most, bigger is better; 1 says that they cost the same.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aqueduct::transport::{Authority, ChannelOptions, JoinOptions, Node};
use aqueduct::{Graph, each};
use aqueduct_benches::measure::{as_ns, median, print_machine, print_ratio};
use aqueduct_benches::stages;
use aqueduct_benches::turns::wants;
use clap::{Parser, ValueEnum};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Measures what a unit of work costs with few and with many others beside it.
#[derive(Parser)]
struct Args {
    /// What to measure; everything if nothing is named
    rows: Vec<Row>,
    /// One turn of each, with less work
    #[arg(long)]
    quick: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    Consumers,
    Stages,
    Workers,
    Links,
}

impl Row {
    const ALL: [Self; 4] = [Self::Consumers, Self::Stages, Self::Workers, Self::Links];

    fn name(self) -> &'static str {
        match self {
            Self::Consumers => "consumers",
            Self::Stages => "stages",
            Self::Workers => "workers",
            Self::Links => "links",
        }
    }

    fn counts(self) -> &'static [usize] {
        match self {
            Self::Consumers => &[1, 10, 100, 1000, 10_000],
            Self::Stages => &[10, 100, 1000, 10_000, 100_000],
            Self::Workers => &[1, 4, 16, 64],
            Self::Links => &[1, 10, 100, 1000],
        }
    }

    /// Nanoseconds for a unit, with `count` of them.
    async fn cost(self, count: usize, share: u64) -> Result<f64> {
        let work = match self {
            Self::Consumers => 8_000_000,
            Self::Stages => return start_and_end(count, share).await,
            Self::Workers => 200_000,
            Self::Links => 2_000_000,
        } / share;
        let (once, twice) = match self {
            Self::Consumers => (consumers(count, work).await?, consumers(count, 2 * work).await?),
            Self::Workers => (workers(count, work).await?, workers(count, 2 * work).await?),
            _ => (links(count, work).await?, links(count, 2 * work).await?),
        };
        Ok(as_ns(twice.saturating_sub(once)) / work as f64)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (turns, share) = if args.quick { (1, 10) } else { (3, 1) };
    print_machine();
    println!("ns for a unit, medians of {turns}\n");
    let mut ratios = Vec::new();
    for row in Row::ALL.into_iter().filter(|row| wants(&args.rows, row)) {
        let mut costs = Vec::new();
        for count in row.counts() {
            let turn = || Builder::new_current_thread().enable_all().build()?.block_on(row.cost(*count, share));
            turn()?;
            let cost = median(&(0..turns).map(|_| turn()).collect::<Result<Vec<_>>>()?);
            println!("{:<12} {count:>8} {cost:>12.1}", row.name());
            costs.push(cost);
        }
        let [first, .., last] = row.counts() else { continue };
        ratios.push((format!("scale_{}_{first}_to_{last}", row.name()), costs[0] / costs[costs.len() - 1]));
    }
    println!();
    ratios.iter().for_each(|(name, ratio)| print_ratio(name, *ratio));
    Ok(())
}

/// How long one producer takes to give `events` to its consumers.
async fn consumers(count: usize, events: u64) -> Result<Duration> {
    let started = Instant::now();
    stages::shared(events, count, 50..100).await.map_err(anyhow::Error::from_boxed)?;
    Ok(started.elapsed())
}

/// What it takes to start one stage, and to end it.
async fn start_and_end(count: usize, share: u64) -> Result<f64> {
    let graphs = (100_000 / count as u64 / share).max(1);
    let started = Instant::now();
    for _ in 0..graphs {
        let graph = Graph::new("many");
        for n in 0..count / 2 {
            let numbers = graph.iterate(&format!("numbers {n}"), || 0..10_u64);
            graph.consumer(&format!("end {n}"), || each(|_| async { Ok(()) })).subscribe(&numbers, 5..10);
        }
        graph.run().await?;
    }
    Ok(as_ns(started.elapsed()) / (graphs * count as u64) as f64)
}

/// How long so many workers take for `values`, from the first that is sent to the last answer.
async fn workers(count: usize, values: u64) -> Result<Duration> {
    let authority = Authority::dev("bench")?;
    let server = Node::bind(LOOPBACK, authority.issue("server")?).await?;
    let (sender, mut results) = server.serve_channel::<u64, u64>("add", ChannelOptions::default())?;
    let mut working = JoinSet::new();
    for n in 0..count {
        let node = Node::bind(LOOPBACK, authority.issue(&format!("worker-{n}"))?).await?;
        let mut tasks = node.join_channel::<u64, u64>("add", server.local_addr(), JoinOptions::default());
        working.spawn(async move {
            while let Some(task) = tasks.recv().await {
                let task = task?;
                let answer = *task.value() + 1;
                task.answer(&answer)?;
            }
            node.shutdown(Duration::from_secs(5)).await;
            anyhow::Ok(())
        });
    }
    sender.wait_until_ready(count, Duration::from_secs(60)).await?;
    let started = Instant::now();
    let send = async move {
        for value in 0..values {
            sender.send(value).await?;
        }
        anyhow::Ok(())
    };
    let receive = async {
        let mut received = 0;
        while let Some(result) = results.recv().await {
            result?;
            received += 1;
        }
        anyhow::Ok(received)
    };
    let ((), received) = tokio::try_join!(send, receive)?;
    anyhow::ensure!(received == values, "{received} answers for {values} values");
    let took = started.elapsed();
    while let Some(worked) = working.join_next().await {
        worked??;
    }
    server.shutdown(Duration::from_secs(5)).await;
    Ok(took)
}

/// How long a far producer takes to give `events` to consumers on one node.
async fn links(count: usize, events: u64) -> Result<Duration> {
    let authority = Authority::dev("bench")?;
    let there = Node::bind(LOOPBACK, authority.issue("there")?).await?;
    let here = Node::bind(LOOPBACK, authority.issue("here")?).await?;
    let producing = Graph::new("there");
    let numbers = producing.iterate("numbers", move || 0..events).wait_for_subscribers(count);
    there.publish("numbers", &numbers)?;
    let mut producing = producing.start();
    let graph = Graph::new("here");
    let source = here.source::<u64>("numbers", there.local_addr());
    for n in 0..count {
        graph.consumer(&format!("end {n}"), || each(|_| async { Ok(()) })).subscribe(&source, 50..100);
    }
    let started = Instant::now();
    let outcome = graph.run().await.context("consumers")?;
    let took = started.elapsed();
    let taken: u64 = outcome.stages.iter().map(|stage| stage.events_in).sum();
    anyhow::ensure!(taken == events, "{taken} of {events} events");
    producing.join().await?;
    here.shutdown(Duration::from_secs(5)).await;
    there.shutdown(Duration::from_secs(5)).await;
    Ok(took)
}

const LOOPBACK: &str = "127.0.0.1:0";
