//! A channel to several processes: pairs of numbers go out, and their sums come back with the ids that they were sent with.
//!
//! ```text
//!               ┌── (id, a, b) ──► [ worker 1 ] ── (id, sum) ──┐
//!   Sender ─────┤                                              ├──► Receiver
//!               └── (id, a, b) ──► [ worker 2 ] ── (id, sum) ──┘
//! ```
//!
//! `cargo run --release --example adder` starts two workers, which are further processes of this program. Results come as
//! workers make them; it prints them by id:
//!
//! ```text
//! 0: 0 + 0 = 0
//! 1: 1 + 2 = 3
//! ...
//! 9: 9 + 18 = 27
//! 10000 sums, each once
//! ```
//!
//! On several machines, with `node.pem`, `node.key` and `ca.pem` in a folder on each (`--example certificates -- DIR NAME...`
//! makes such folders): `--identity DIR --serve 0.0.0.0:4433` on one, and `--identity DIR --connect SERVER:4433` on any number
//! of others, before or after it. They may come and go: what one that is killed has not answered, another does, about 10 s later.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use aqueduct::transport::{Authority, ChannelOptions, Identity, JoinOptions, Node, local};
use clap::Parser;
use tokio_stream::StreamExt;

const PAIRS: u64 = 10_000;
/// How long a worker waits for the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Adds numbers, in other processes.
#[derive(Parser)]
struct Args {
    /// Serve the channel at this address, to workers on other machines
    #[arg(long, value_name = "ADDR", requires = "identity", conflicts_with = "connect")]
    serve: Option<SocketAddr>,
    /// Be a worker of the channel that is served at this address
    #[arg(long, value_name = "ADDR", requires = "identity")]
    connect: Option<SocketAddr>,
    /// A folder with node.pem, node.key and ca.pem
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if let Some(process) = local::worker()? {
        let node = Node::bind("127.0.0.1:0", process.identity().clone()).await?;
        process.report(node.local_addr())?;
        return until_ctrl_c(&node, work(&node, process.payload()?)).await;
    }
    match Args::parse() {
        Args { serve: Some(at), identity: Some(folder), .. } => {
            let node = Node::bind(at, read(&folder)?).await?;
            eprintln!("{} waits for a worker at {}", node.identity().name(), node.local_addr());
            until_ctrl_c(&node, serve(&node, 1)).await
        }
        Args { connect: Some(at), identity: Some(folder), .. } => {
            let node = Node::bind("0.0.0.0:0", read(&folder)?).await?;
            eprintln!("{} works for {at}, and waits up to {PATIENCE:?} if it is not there", node.identity().name());
            until_ctrl_c(&node, work(&node, at)).await
        }
        _ => {
            let authority = Authority::dev("adder")?;
            let node = Node::bind("127.0.0.1:0", authority.issue("server")?).await?;
            let mut processes = Vec::new();
            for name in ["worker-1", "worker-2"] {
                let (identity, at) = (authority.issue(name)?, node.local_addr());
                processes.push(local::spawn(&identity, &at, &local::Options::default()).await?);
            }
            until_ctrl_c(&node, serve(&node, processes.len())).await
        }
    }
}

/// The server's side: sends while it receives, as no more than so many pairs may be on their way.
async fn serve(node: &Node, workers: usize) -> Result<()> {
    // The application tells this channel from others of the same types.
    let options = ChannelOptions::default().application("adder 1").capacity(1000);
    let (sender, mut results) = node.serve_channel::<(u64, u64, u64), (u64, u64)>("adder", options)?;
    sender.wait_until_ready(workers, Duration::from_secs(60)).await?;
    let sending = async move {
        for id in 0..PAIRS {
            sender.send((id, id, 2 * id)).await?;
        }
        anyhow::Ok(())
    };
    let receiving = async {
        let mut sums = BTreeMap::new();
        while let Some(result) = results.next().await {
            let (id, sum) = result?;
            ensure!(sums.insert(id, sum).is_none(), "{id} came twice");
        }
        Ok(sums)
    };
    let ((), sums) = tokio::try_join!(sending, receiving)?;
    for (id, sum) in sums.iter().take(10) {
        println!("{id}: {id} + {} = {sum}", 2 * id);
    }
    ensure!(sums.iter().all(|(id, sum)| *sum == 3 * id), "a sum is wrong");
    println!("{} sums, each once", sums.len());
    Ok(())
}

/// A worker's side, to the end of the channel.
async fn work(node: &Node, at: SocketAddr) -> Result<()> {
    let options = JoinOptions::default().application("adder 1").values(50..100).patience(PATIENCE);
    let mut tasks = node.join_channel::<(u64, u64, u64), (u64, u64)>("adder", at, options);
    while let Some(task) = tasks.next().await {
        let task = task?;
        let (id, a, b) = *task.value();
        task.answer(&(id, a + b))?;
    }
    Ok(())
}

/// Runs to the end or to Ctrl-C, and tells the other nodes in either case, so that they need not find out.
async fn until_ctrl_c<T>(node: &Node, work: impl Future<Output = Result<T>>) -> Result<T> {
    let ended = tokio::select! {
        ended = work => ended,
        pressed = tokio::signal::ctrl_c() => pressed.map_err(Into::into).and_then(|()| bail!("stopped by Ctrl-C")),
    };
    node.shutdown(Duration::from_secs(5)).await;
    ended
}

fn read(folder: &Path) -> Result<Identity> {
    let file = |name| folder.join(name);
    Ok(Identity::from_pem_files(file("node.pem"), file("node.key"), file("ca.pem"))?)
}
