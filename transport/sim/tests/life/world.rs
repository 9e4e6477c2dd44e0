//! The machines of a world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_sim::{Host, Outcome, Sim, SimNet};
use aqueduct_transport::{Identity, Node, NodeConfig, Remote, Wire};
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use crate::draw;
use crate::ledger::Ledger;
use crate::nodes::{Nodes, PORT};

/// What an end may take besides the work itself: some round trips, and losses.
pub(crate) const SLACK: Duration = Duration::from_secs(10);
/// After a loss, QUIC's closing period is long; its tasks live so long.
const CLOSING: Duration = Duration::from_secs(60);

/// The producer's machine and those of consumers.
pub(crate) struct World {
    pub(crate) net: SimNet,
    pub(crate) rng: StdRng,
    pub(crate) there: Host,
    pub(crate) ledger: Arc<Ledger>,
    /// Whether the producer's machine is restarted.
    pub(crate) restarts: bool,
    nodes: Nodes,
    /// The node of each machine, with the key that it has in all its lives.
    machines: Mutex<BTreeMap<String, (Node, Identity)>>,
}

pub(crate) fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(3600))
}

impl World {
    pub(crate) fn new(net: &SimNet) -> Outcome<Self> {
        let mut rng = net.rng("world");
        net.set_default_conditions(draw::conditions(&mut rng));
        let nodes = Nodes::new(NodeConfig::default())?;
        let there = net.host("there");
        let (ledger, machines) = (Arc::new(Ledger::new(net)), Mutex::default());
        let world = Self { net: net.clone(), rng, there, ledger, restarts: false, nodes, machines };
        world.start(&world.there)?;
        Ok(world)
    }

    /// Starts a machine of its own for a consumer.
    pub(crate) fn machine(&self, name: &str) -> Outcome<(Host, Node)> {
        let host = self.net.host(name);
        let node = self.start(&host)?;
        Ok((host, node))
    }

    fn start(&self, host: &Host) -> Outcome<Node> {
        let identity = self.nodes.authority.issue(host.name())?;
        let node = self.nodes.start_as(host, identity.clone())?;
        self.machines().insert(host.name().to_owned(), (node.clone(), identity));
        Ok(node)
    }

    /// The producer's node.
    pub(crate) fn node(&self) -> Node {
        self.machines()[self.there.name()].0.clone()
    }

    /// Shuts the node of a machine down and starts it again, as an upgrade does.
    pub(crate) async fn restart(&self, host: &Host, pause: Duration) -> Outcome<Node> {
        let name = host.name();
        let (node, identity) = self.machines().remove(name).ok_or("it has a node")?;
        if !node.shutdown(SLACK).await {
            return Err(format!("the node of {name} has links that did not end").into());
        }
        drop(node);
        sleep(pause).await;
        let node = self.nodes.start_as(host, identity.clone())?;
        self.machines().insert(name.to_owned(), (node.clone(), identity));
        Ok(node)
    }

    /// What the producer's machine has published by this name.
    pub(crate) fn far<T: Wire>(&self, node: &Node, name: &str) -> Remote<T> {
        node.source(name, self.there.address(PORT))
    }

    /// Waits until every consumer has ended.
    pub(crate) async fn lives_have_ended(&self) {
        self.ledger.book.until("every consumer ends", |page| page.ended == page.lives).await;
    }

    /// Shuts the nodes down, after which nothing may run on any machine, and asks the oracle.
    pub(crate) async fn end(&self) -> Outcome {
        let mut machines = std::mem::take(&mut *self.machines());
        let there = machines.remove_entry(self.there.name());
        for (name, (node, _)) in machines.into_iter().chain(there) {
            if !node.shutdown(SLACK).await {
                return Err(format!("the node of {name} has links that did not end").into());
            }
        }
        let is_over = async {
            while !self.left().is_empty() {
                sleep(CLOSING / 100).await;
            }
        };
        if timeout(CLOSING, is_over).await.is_err() {
            return Err(format!("tasks are left: {:?}", self.left()).into());
        }
        Ok(self.ledger.check()?)
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, (Node, Identity)>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What still runs on the producer's machine, besides the endpoint of the node.
    fn left(&self) -> Vec<String> {
        self.there.task_names().into_iter().filter(|name| name != "quic").collect()
    }
}

/// Runs a consumer's life on its machine. An error of it fails the run.
pub(crate) fn spawn(world: &Arc<World>, host: &Host, life: impl Future<Output = Outcome> + Send + 'static) {
    let world = Arc::clone(world);
    host.spawn("life", async move {
        if let Err(error) = life.await {
            world.net.fail(error);
        }
        world.ledger.has_ended();
    });
}
