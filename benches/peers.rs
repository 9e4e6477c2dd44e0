//! A second process, which is this program again, and what both have to talk to each other with: a node of ours, and what
//! one would use instead.
//!
//! * [`quic`] and [`tcp`] move bytes, without anything built on them; [`remoc`] has typed channels over TCP
//! * [`process`] tells what a process has used
//!
//! No second process outlives the first one: see [`local`].

pub mod process;
pub mod quic;
pub mod remoc;
pub mod tcp;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use aqueduct::transport::{Authority, Identity, Node, NodeConfig, local};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// How both processes are set up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Whether packets may have 6000 bytes, with our nodes and with plain QUIC.
    pub jumbo: bool,
    /// How many worker threads each process has; 0 for a runtime on one thread.
    pub workers: usize,
}

impl Settings {
    /// The runtime of either process.
    ///
    /// # Errors
    ///
    /// If threads cannot be started.
    pub fn runtime(self) -> Result<Runtime> {
        let mut builder = match self.workers {
            0 => Builder::new_current_thread(),
            workers => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(workers);
                builder
            }
        };
        Ok(builder.enable_all().build()?)
    }

    fn node_config(self) -> NodeConfig {
        if self.jumbo { NodeConfig::default().jumbo() } else { NodeConfig::default() }
    }
}

/// Where the second process can be reached.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Addresses {
    /// Our node.
    pub node: SocketAddr,
    /// Plain QUIC.
    pub quic: SocketAddr,
    /// Plain TCP.
    pub tcp: SocketAddr,
    /// remoc over TCP.
    pub remoc: SocketAddr,
}

/// Is the second process: serves until the first one is gone, or has enough.
///
/// # Errors
///
/// If a socket cannot be opened, or `publish` fails.
pub async fn serve(
    worker: &local::Worker,
    settings: Settings,
    publish: impl FnOnce(&Node) -> Result<aqueduct::Running>,
) -> Result<()> {
    let node = node(worker.identity(), settings).await?;
    let _running = publish(&node)?;
    let addresses = Addresses {
        node: node.local_addr(),
        quic: quic::serve(worker.identity(), settings.jumbo)?,
        tcp: tcp::serve().await?,
        remoc: remoc::serve().await?,
    };
    let listener = TcpListener::bind(LOOPBACK).await?;
    worker.report(listener.local_addr()?)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(&serde_json::to_vec(&addresses)?).await?;
    }
}

/// The second process, as the first one sees it. Dropping it ends it.
pub struct There {
    /// Where it can be reached.
    pub addresses: Addresses,
    /// A node of this process, to subscribe to what that one publishes.
    pub node: Node,
    /// A connection over plain QUIC.
    pub quic: quinn::Connection,
    /// A connection over remoc.
    pub remoc: remoc::Client,
    process: local::Process,
}

impl There {
    /// Starts it, and connects.
    ///
    /// # Errors
    ///
    /// If it cannot be started or reached.
    pub async fn start(settings: Settings) -> Result<Self> {
        let authority = Authority::dev("bench")?;
        let (here, there) = (authority.issue("here")?, authority.issue("there")?);
        let process = local::spawn(&there, &settings, &local::Options::default()).await?;
        let mut told = Vec::new();
        TcpStream::connect(process.address()).await?.read_to_end(&mut told).await?;
        let addresses: Addresses = serde_json::from_slice(&told).context("the second process speaks otherwise")?;
        Ok(Self {
            addresses,
            node: node(&here, settings).await?,
            quic: quic::connect(&here, settings.jumbo, addresses.quic).await?,
            remoc: remoc::Client::connect(addresses.remoc).await?,
            process,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The processor time that this process and that one have used.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn processor_time(&self) -> Result<Duration> {
        Ok(process::processor_time(std::process::id())? + process::processor_time(self.id())?)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// If the system cannot tell how it ended.
    pub async fn end(self) -> Result<()> {
        self.process.shutdown(Duration::from_secs(1)).await?;
        Ok(())
    }
}

async fn node(identity: &Identity, settings: Settings) -> Result<Node> {
    Ok(Node::builder(identity.clone()).config(settings.node_config()).bind(LOOPBACK).await?)
}

const LOOPBACK: &str = "127.0.0.1:0";
