//! A channel whose other end is another process: text goes out, comes back in capitals, and both ends see the close.
//!
//! ```text
//!   Sender ── "hello world" ──► [ worker ] ── "HELLO WORLD" ──► Receiver
//! ```
//!
//! `cargo run --release --example capitalize` starts the worker, which is a further process of this program, and prints
//!
//! ```text
//! HELLO WORLD
//! the worker has answered 1 text and seen the end
//! the results have ended
//! ```
//!
//! On two machines, with `node.pem`, `node.key` and `ca.pem` in a folder on each (`--example certificates -- DIR NAME...`
//! makes such folders): `--identity DIR --serve 0.0.0.0:4433` on the one, and `--identity DIR --connect SERVER:4433` on the
//! other, in any order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aqueduct::transport::{Authority, ChannelOptions, ChannelWorkers, Identity, JoinOptions, Node, local};
use clap::Parser;
use tokio_stream::StreamExt;

/// How long the worker waits for the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Turns text into capitals, in another process.
#[derive(Parser)]
struct Args {
    /// Serve the channel at this address, to a worker on another machine
    #[arg(long, value_name = "ADDR", requires = "identity", conflicts_with = "connect")]
    serve: Option<SocketAddr>,
    /// Be the worker of the channel that is served at this address
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
        // So that it ends by itself when it has seen the end of the channel.
        let _stop = process.report_with_stop(node.local_addr())?;
        let answered = until_ctrl_c(&node, work(&node, process.payload()?)).await?;
        if answered != 1 {
            bail!("expected 1 text, got {answered}");
        }
        return Ok(());
    }
    match Args::parse() {
        Args { serve: Some(at), identity: Some(folder), .. } => {
            let node = Node::bind(at, read(&folder)?).await?;
            eprintln!("{} waits for a worker at {}", node.identity().name(), node.local_addr());
            until_ctrl_c(&node, serve(&node)).await
        }
        Args { connect: Some(at), identity: Some(folder), .. } => {
            let node = Node::bind("0.0.0.0:0", read(&folder)?).await?;
            eprintln!("{} works for {at}, and waits up to {PATIENCE:?} if it is not there", node.identity().name());
            let answered = until_ctrl_c(&node, work(&node, at)).await?;
            println!("answered {answered}, and the channel is closed");
            Ok(())
        }
        _ => {
            let authority = Authority::dev("capitalize")?;
            let node = Node::bind("127.0.0.1:0", authority.issue("here")?).await?;
            let (at, identity) = (node.local_addr(), authority.issue("there")?);
            let mut process = local::spawn(&identity, &at, &local::Options::default()).await?;
            let served = tokio::join!(until_ctrl_c(&node, serve(&node)), process.exited());
            served.0.and(if served.1?.success() { Ok(()) } else { bail!("the worker failed") })
        }
    }
}

/// The server's side: one text out, one back, and the end.
async fn serve(node: &Node) -> Result<()> {
    let (sender, mut results) = node.serve_channel::<String, String>("capitalize", ChannelOptions::default())?;
    let monitor = sender.monitor();
    sender.send("hello world".to_owned()).await?;
    // It is closed; what was sent is still done.
    drop(sender);
    println!("{}", results.recv().await.context("expected a result")??);
    if results.recv().await.is_some() {
        bail!("expected one result");
    }
    monitor.finished().await?;
    // Until the worker has heard of the end.
    monitor.watch_workers().wait_for(ChannelWorkers::is_empty).await?;
    println!("the worker has answered {} text and seen the end", monitor.counters().finished);
    println!("the results have ended");
    Ok(())
}

/// The worker's side; returns how many texts it has answered when the channel is closed.
async fn work(node: &Node, at: SocketAddr) -> Result<usize> {
    let mut tasks = node.join_channel::<String, String>("capitalize", at, JoinOptions::default().patience(PATIENCE));
    let mut answered = 0;
    while let Some(task) = tasks.next().await {
        let task = task?;
        let upper = task.value().to_uppercase();
        task.answer(&upper)?;
        answered += 1;
    }
    Ok(answered)
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

fn read(folder: &std::path::Path) -> Result<Identity> {
    let file = |name| folder.join(name);
    Ok(Identity::from_pem_files(file("node.pem"), file("node.key"), file("ca.pem"))?)
}
