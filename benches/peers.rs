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
use aqueduct::{Cx, Graph, Handle, Producer, Running, StageRef};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// How both processes are set up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Whether packets may have 6000 bytes, as those of our nodes on one machine, or Ethernet's; with plain QUIC too.
    pub jumbo: bool,
    /// How many worker threads each process has; 0 for a runtime on one thread.
    pub workers: usize,
    /// The node of the first process, which publishes [`PING`].
    pub here: Option<SocketAddr>,
}

impl Settings {
    /// Packets as nodes on one machine have them.
    pub fn new(workers: usize) -> Self {
        Self { jumbo: true, workers, here: None }
    }

    /// Runs `main` on a runtime of its own, as a task: beside the other tasks, and not on a thread of its own.
    ///
    /// # Errors
    ///
    /// Those of `main`, its panic too, or if threads cannot be started.
    pub fn run(self, main: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        let mut builder = match self.workers {
            0 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        builder.worker_threads(self.workers.max(1));
        let runtime = builder.enable_all().build()?;
        runtime.block_on(async { tokio::spawn(main).await? })
    }

    /// A node on loopback.
    ///
    /// # Errors
    ///
    /// If there is no socket.
    pub async fn node(self, identity: &Identity) -> Result<Node> {
        let config = NodeConfig::default();
        let config = if self.jumbo { config } else { config.max_mtu(1452) };
        Ok(Node::builder(identity.clone()).config(config).bind(LOOPBACK).await?)
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
    publish: impl FnOnce(&Node, Settings) -> Result<Running>,
) -> Result<()> {
    let node = settings.node(worker.identity()).await?;
    let _running = publish(&node, settings)?;
    let addresses = Addresses {
        node: node.local_addr(),
        quic: quic::serve(worker.identity(), settings.jumbo)?,
        tcp: tcp::serve().await?,
        remoc: remoc::serve().await?,
    };
    tell(worker, &addresses).await
}

/// Starts this program again.
///
/// # Errors
///
/// If it cannot be started.
pub async fn start<R: Serialize>(identity: &Identity, role: &R) -> Result<local::Process> {
    let options = local::Options::default().report_timeout(Duration::from_secs(60));
    Ok(local::spawn(identity, role, &options).await?)
}

/// Lets the first process know something, at the address that it is told; until the process ends.
///
/// # Errors
///
/// If there is no socket.
pub async fn tell<T: Serialize>(worker: &local::Worker, told: &T) -> Result<()> {
    let listener = TcpListener::bind(LOOPBACK).await?;
    worker.report(listener.local_addr()?)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(&serde_json::to_vec(told)?).await?;
    }
}

/// What the other process [tells](tell).
///
/// # Errors
///
/// If it cannot be reached, or tells something else.
pub async fn ask<T: DeserializeOwned>(at: SocketAddr) -> Result<T> {
    let mut told = Vec::new();
    TcpStream::connect(at).await?.read_to_end(&mut told).await?;
    serde_json::from_slice(&told).context("the other process tells something else")
}

/// The second process, as the first one sees it. Dropping it ends it.
pub struct There {
    /// Where it can be reached.
    pub addresses: Addresses,
    /// A node of this process, to subscribe to what that one publishes.
    pub node: Node,
    /// What this process publishes as [`PING`].
    pub ping: StageRef<Ping, u64>,
    /// A connection over plain QUIC.
    pub quic: quinn::Connection,
    /// A connection over remoc.
    pub remoc: remoc::Client,
    /// Issues further identities.
    pub authority: Authority,
    /// This process's identity.
    pub identity: Identity,
    process: local::Process,
    _running: Running,
}

impl There {
    /// Starts it in the role of [serving](serve), and connects.
    ///
    /// # Errors
    ///
    /// If it cannot be started or reached.
    pub async fn start<R: Serialize>(settings: Settings, role: impl FnOnce(Settings) -> R) -> Result<Self> {
        let authority = Authority::dev("bench")?;
        let identity = authority.issue("here")?;
        let node = settings.node(&identity).await?;
        let graph = Graph::new("here");
        let ping = graph.producer(PING, || Ping);
        node.publish(PING, &ping)?;
        let ping = ping.stage_ref();
        let running = graph.start();
        let settings = Settings { here: Some(node.local_addr()), ..settings };
        let process = start(&authority.issue("there")?, &role(settings)).await?;
        let addresses: Addresses = ask(process.address()).await?;
        Ok(Self {
            addresses,
            quic: quic::connect(&identity, settings.jumbo, addresses.quic).await?,
            remoc: remoc::Client::connect(addresses.remoc).await?,
            node,
            ping,
            authority,
            identity,
            process,
            _running: running,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The processor times that this process and that one have used.
    ///
    /// # Errors
    ///
    /// If the system does not tell.
    pub fn processor_times(&self) -> Result<[Duration; 2]> {
        Ok([process::processor_time(std::process::id())?, process::processor_time(self.id())?])
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

/// Emits what it is told to.
pub struct Ping;

impl Producer for Ping {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        Ok(())
    }
}

impl Handle<u64, u64> for Ping {
    type Reply = ();

    async fn handle(&mut self, event: u64, cx: &mut Cx<'_, u64>) -> aqueduct::Result {
        cx.emit(event);
        Ok(())
    }
}

/// What the first process publishes, for the second to send it back.
pub const PING: &str = "ping";

/// Any free port of this machine.
pub const LOOPBACK: &str = "127.0.0.1:0";
