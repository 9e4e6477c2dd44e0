//! Nodes on loopback, and tests that end.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::time::Duration;

use aqueduct_transport::{Authority, Identity, Node, NodeConfig};
use tokio::task::JoinHandle;

/// How long anything may take.
pub(crate) const GUARD: Duration = Duration::from_secs(30);

/// Ends a test that hangs.
pub(crate) async fn guarded(test: impl Future<Output = ()>) {
    tokio::time::timeout(2 * GUARD, test).await.expect("the test hangs");
}

#[expect(clippy::disallowed_methods, reason = "what a test does beside itself")]
pub(crate) fn begin<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

/// Nodes of one cluster, of their own.
pub(crate) async fn nodes<const N: usize>(names: [&str; N]) -> [Node; N] {
    nodes_of(&Authority::dev("test").unwrap(), NodeConfig::default(), names).await
}

pub(crate) async fn nodes_of<const N: usize>(authority: &Authority, config: NodeConfig, names: [&str; N]) -> [Node; N] {
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(node(authority.issue(name).unwrap(), config.clone()).await);
    }
    nodes.try_into().unwrap()
}

pub(crate) async fn node(identity: Identity, config: NodeConfig) -> Node {
    Node::builder(identity).config(config).bind("127.0.0.1:0").await.unwrap()
}

/// Starts a node where it was before, as soon as the address is free.
pub(crate) async fn again(identity: Identity, config: NodeConfig, at: SocketAddr) -> Node {
    loop {
        if let Ok(node) = Node::builder(identity.clone()).config(config.clone()).bind(at).await {
            return node;
        }
        tokio::task::yield_now().await;
    }
}
