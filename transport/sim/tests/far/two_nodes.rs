//! Nodes on the simulated network for tests that were written for one process: the world is a value of the task, as the
//! code that makes an edge knows nothing of nodes.

#![allow(dead_code, unreachable_pub, reason = "not every test file uses all of it")]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::Source;
use aqueduct_transport::{Node, Remote, Wire};

use crate::nodes::{Nodes, PORT, lost_after};

/// Longer than anything may take on the worst network that is drawn: nothing is taken for lost here by mere loss.
const PATIENCE: Duration = Duration::from_secs(600);
/// After so long, everything that is under way has arrived, and was answered, on the worst network that is drawn.
pub const QUIET: Duration = Duration::from_secs(30);

tokio::task_local! {
    static WORLD: World;
}

struct World {
    net: SimNet,
    nodes: Nodes,
    machines: RefCell<Vec<Machine>>,
    published: Cell<u64>,
}

/// A machine and its node.
#[derive(Clone)]
pub struct Machine {
    pub host: Host,
    pub node: Node,
}

/// Runs `scenario` in a world of its own for each of so many seeds, over networks that are drawn.
#[track_caller]
pub fn worlds(seeds: u64, scenario: impl AsyncFn() + Sync) {
    Sim::new().swarm(0..seeds, async |net| {
        net.set_default_conditions(LinkConditions::draw(&mut net.rng("conditions")));
        let nodes = Nodes::new(lost_after(PATIENCE).unused_timeout(PATIENCE).handshake_timeout(PATIENCE))?;
        let world = World { net, nodes, machines: RefCell::default(), published: Cell::default() };
        WORLD.scope(world, scenario()).await;
        Outcome::Ok(())
    });
}

/// The machine of that number; it is made when it is first asked for.
pub fn machine(number: usize) -> Machine {
    WORLD.with(|world| {
        let mut machines = world.machines.borrow_mut();
        while machines.len() <= number {
            let host = world.net.host(&format!("machine-{}", machines.len()));
            let node = world.nodes.start(&host).unwrap();
            machines.push(Machine { host, node });
        }
        machines[number].clone()
    })
}

/// `source`, published by one machine, as seen by another.
pub fn between<S>(from: usize, to: usize, source: &S) -> Remote<S::Item>
where
    S: Source<Item: Wire> + Clone,
{
    let name = WORLD.with(|world| format!("source-{}", world.published.replace(world.published.get() + 1)));
    machine(from).node.publish(&name, source).unwrap();
    machine(to).node.source(&name, machine(from).host.address(PORT))
}

/// The same between the first two.
pub fn far<S: Source<Item: Wire> + Clone>(source: &S) -> Remote<S::Item> {
    between(0, 1, source)
}

/// Lets everything happen that can, the network included.
pub async fn settled() {
    tokio::time::sleep(QUIET).await;
}
