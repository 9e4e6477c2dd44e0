//! Nodes on simulated machines, and what a test sees of them from outside.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use aqueduct_sim::{Host, Outcome};
use aqueduct_transport::{Authority, Identity, Node, NodeConfig};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Where each node listens, on its machine.
pub(crate) const PORT: u16 = 4433;

/// The nodes of a world: of one cluster, and with the same settings.
pub(crate) struct Nodes {
    pub(crate) authority: Authority,
    config: NodeConfig,
}

impl Nodes {
    pub(crate) fn new(config: NodeConfig) -> Outcome<Self> {
        Ok(Self { authority: Authority::dev("sim")?, config })
    }

    /// Starts the node of a machine, with a key of its own.
    pub(crate) fn start(&self, host: &Host) -> Outcome<Node> {
        self.start_as(host, self.authority.issue(host.name())?)
    }

    /// Starts one with the key that it had: who comes back with it can end the connections of its earlier life.
    pub(crate) fn start_as(&self, host: &Host, identity: Identity) -> Outcome<Node> {
        start(host, identity, self.config.clone())
    }
}

/// Starts a node whose tasks and sockets are its machine's.
pub(crate) fn start(host: &Host, identity: Identity, config: NodeConfig) -> Outcome<Node> {
    Ok(Node::builder(identity).config(config).spawner(host.clone()).socket(host.bind(PORT))?)
}

/// Of a node that takes a connection for lost when it was silent for so long.
pub(crate) fn lost_after(idle: Duration) -> NodeConfig {
    NodeConfig::default().idle_timeout(idle).keep_alive(idle / 4)
}

/// How many links end on this machine.
pub(crate) fn links(host: &Host) -> usize {
    host.task_names().iter().filter(|name| *name == "link").count()
}

/// Waits until a machine has come to rest; the clock is the simulation's.
pub(crate) async fn until(limit: Duration, otherwise: &str, reached: impl Fn() -> bool) {
    let wait = async {
        let mut pause = Duration::from_millis(1);
        while !reached() {
            sleep(pause).await;
            // Most of what is waited for takes a moment or a minute.
            pause = (pause * 2).min(limit / 50);
        }
    };
    assert!(timeout(limit, wait).await.is_ok(), "{otherwise}");
}

/// Waits for what a task says when it has ended.
pub(crate) async fn told<T: Clone>(limit: Duration, end: &mut watch::Receiver<Option<T>>) -> T {
    let told = timeout(limit, end.wait_for(Option::is_some)).await.expect("not told of the end in time");
    told.expect("the task is there").clone().expect("it was waited for")
}
