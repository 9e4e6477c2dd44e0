//! The machine that serves a channel, on networks that are drawn.

use std::net::SocketAddr;
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_transport::{Identity, Node, NodeConfig};

use crate::nodes::{Nodes, PORT};

/// Enough for the worst conditions that are drawn.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(3600))
}

/// A server's machine; those of workers are made by the tests.
pub(crate) struct World {
    pub(crate) there: Host,
    nodes: Nodes,
    /// The server's, the same in all its lives.
    pub(crate) identity: Identity,
}

impl World {
    pub(crate) fn new(net: &SimNet, config: NodeConfig) -> Outcome<Self> {
        net.set_default_conditions(LinkConditions::draw(&mut net.rng("world")));
        let nodes = Nodes::new(config.handshake_timeout(PATIENCE))?;
        let identity = nodes.authority.issue("there")?;
        Ok(Self { there: net.host("there"), nodes, identity })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.there.address(PORT)
    }

    /// Starts the server's node.
    pub(crate) fn server(&self) -> Outcome<Node> {
        self.nodes.start_as(&self.there, self.identity.clone())
    }

    /// Starts a worker's.
    pub(crate) fn worker(&self, host: &Host) -> Outcome<Node> {
        self.nodes.start(host)
    }
}
