//! A producer on one machine, its consumer on another, and nothing sent that was not asked for.
//!
//! ```text
//!   node "there"                          node "here"
//!   [ numbers ] ──── events ───────────►  sum
//!               ◄─── demand, 500..1000 ─
//! ```
//!
//! `cargo run --release --example two_nodes` starts the other node as a further process of this program, and prints
//!
//! ```text
//! aqueduct://demo/node/here took 1000000 numbers, from 0 to 999999
//! ```
//!
//! For two machines, make certificates, and copy the folder `here` to the machine that consumes:
//!
//! ```console
//! two_nodes --issue certificates
//! two_nodes --listen 0.0.0.0:7400 --identity certificates/there
//! two_nodes --connect 10.0.0.7:7400 --identity certificates/here
//! ```

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aqueduct::transport::{Authority, Identity, Node, local};
use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Producer, Running};
use clap::Parser;
use tokio::sync::mpsc;

const COUNT: usize = 1_000_000;

/// A producer and its consumer, on two machines.
#[derive(Parser)]
#[command(
    after_help = "On two machines: `--issue certificates` on the first, copy certificates/here to the second, then\n\
    `--listen 0.0.0.0:7400 --identity certificates/there` on the first, and\n\
    `--connect 10.0.0.7:7400 --identity here` on the second, with the address of the first."
)]
struct Args {
    /// Produce, for all who connect, until Ctrl-C
    #[arg(long, value_name = "ADDR", requires = "identity", conflicts_with_all = ["connect", "issue"])]
    listen: Option<SocketAddr>,
    /// Consume what the node at ADDR produces
    #[arg(long, value_name = "ADDR", requires = "identity", conflicts_with = "issue")]
    connect: Option<SocketAddr>,
    /// The folder with this node's certificate, its key, and the authority
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Make certificates for both nodes, in DIR/there and DIR/here
    #[arg(long, value_name = "DIR")]
    issue: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if let Some(worker) = local::worker()? {
        let (node, producing) = produce("127.0.0.1:0".parse()?, worker.identity().clone()).await?;
        worker.report_with_stop(node.local_addr())?.requested().await;
        return end(node, producing).await;
    }
    match Args::parse() {
        Args { issue: Some(folder), .. } => issue(&folder),
        Args { listen: Some(address), identity: Some(folder), .. } => {
            let (node, producing) = produce(address, read(&folder)?).await?;
            println!("{} listens at {}", node.identity().name(), node.local_addr());
            tokio::signal::ctrl_c().await?;
            end(node, producing).await
        }
        Args { connect: Some(address), identity: Some(folder), .. } => consume(read(&folder)?, address).await,
        Args { identity: Some(_), .. } => bail!("--identity needs --listen ADDR or --connect ADDR"),
        _ => {
            let authority = Authority::dev("demo")?;
            let there = local::spawn(&authority.issue("there")?, &(), &local::Options::default()).await?;
            consume(authority.issue("here")?, there.address()).await?;
            there.shutdown(Duration::from_secs(5)).await?;
            Ok(())
        }
    }
}

/// Publishes the numbers.
async fn produce(address: SocketAddr, identity: Identity) -> Result<(Node, Running)> {
    let node = Node::bind(address, identity).await.with_context(|| format!("cannot listen at {address}"))?;
    let graph = Graph::new("there");
    node.publish("numbers", &graph.producer("numbers", || Numbers(0)))?;
    Ok((node, graph.start()))
}

/// First the producer, so that nobody waits for what will not come.
async fn end(node: Node, mut producing: Running) -> Result<()> {
    producing.shutdown(Duration::from_secs(5)).await?;
    node.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Takes a million numbers of the node at `address`.
async fn consume(identity: Identity, address: SocketAddr) -> Result<()> {
    let node = Node::bind("0.0.0.0:0", identity).await?;
    let (tx, mut done) = mpsc::unbounded_channel();
    let graph = Graph::new("here");
    let numbers = node.source::<u64>("numbers", address);
    graph.consumer("take", move || Take { taken: 0, first: None, done: tx.clone() }).subscribe(&numbers, 500..1000);
    graph.run().await?;
    let (first, last) = done.recv().await.context("the consumer has not said what it took")?;
    println!("{} took {COUNT} numbers, from {first} to {last}", node.identity().name());
    node.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Emits one number after the other, for as long as there is demand.
struct Numbers(u64);

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        let end = self.0 + demand as u64;
        cx.emit_all(self.0..end);
        self.0 = end;
        Ok(())
    }
}

struct Take {
    taken: usize,
    first: Option<u64>,
    done: mpsc::UnboundedSender<(u64, u64)>,
}

impl Consumer for Take {
    type In = u64;

    async fn handle_events(&mut self, numbers: Batch<u64>, cx: &mut Cx<'_>) -> aqueduct::Result {
        for number in numbers {
            let first = *self.first.get_or_insert(number);
            self.taken += 1;
            if self.taken == COUNT {
                self.done.send((first, number))?;
                cx.stop(Exit::Normal);
                break;
            }
        }
        Ok(())
    }
}

/// Makes the certificates of both nodes; in production an authority of one's own does.
fn issue(folder: &Path) -> Result<()> {
    let authority = Authority::dev("demo")?;
    for name in ["there", "here"] {
        let (folder, pem) = (folder.join(name), authority.issue(name)?.to_pem());
        ensure!(!folder.exists(), "{} is there already: its certificates may be in use", folder.display());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(folder.join("ca.pem"), pem.authorities)?;
        fs::write(folder.join("node.pem"), pem.certificate)?;
        write_private(&folder.join("node.key"), &pem.key)?;
        println!("wrote {}", folder.display());
    }
    Ok(())
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    Ok(options.open(path)?.write_all(text.as_bytes())?)
}

fn read(folder: &Path) -> Result<Identity> {
    let [certificate, key, authority] = ["node.pem", "node.key", "ca.pem"].map(|name| folder.join(name));
    ensure!(certificate.exists(), "no identity in {}; `--issue DIR` makes one", folder.display());
    Identity::from_pem_files(certificate, key, authority)
        .with_context(|| format!("cannot use the identity in {}", folder.display()))
}
