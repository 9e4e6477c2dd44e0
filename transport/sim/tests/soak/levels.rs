//! What there is when all is quiet: memory, tasks, connections, links and events that wait.

use std::fmt;

use aqueduct_counting::held_bytes;
use aqueduct_stage::Running;
use aqueduct_transport::Node;
use tokio::runtime::Handle;

use crate::machines::Machines;

/// What there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) bytes: isize,
    /// All tasks of the runtime, the simulator's own included.
    tasks: usize,
    /// Of each machine, by their names.
    names: [Vec<String>; 3],
    /// Of each node: connections in and out, links published and subscribed.
    links: Vec<[u64; 4]>,
    /// Events that wait in stages, or were dropped or not dispatched.
    events: u64,
}

impl Levels {
    /// What there is now.
    pub(crate) fn of(machines: &Machines) -> Self {
        let Machines { hosts, producing, relaying, consuming, .. } = machines;
        let all = [Some(producing), Some(relaying), consuming.as_ref()];
        let mut names = hosts.each_ref().map(aqueduct_sim::Host::task_names);
        names.iter_mut().for_each(|names| names.sort_unstable());
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            names,
            links: all.iter().flatten().map(|machine| links(&machine.node)).collect(),
            events: all.iter().flatten().map(|machine| events(&machine.running)).sum(),
            bytes: held_bytes(),
        }
    }

    /// Whether nothing is different but memory, and that by no more than `tolerance` bytes.
    ///
    /// # Errors
    /// What is different.
    pub(crate) fn check(&self, baseline: &Self, tolerance: isize) -> Result<(), String> {
        let is_same = *self == Self { bytes: self.bytes, ..baseline.clone() };
        let more = self.bytes - baseline.bytes;
        match is_same && more <= tolerance {
            true => Ok(()),
            false => Err(format!("{more} bytes more than the baseline, of {tolerance}:\n{baseline:#?}\nnow {self:#?}")),
        }
    }
}

fn links(node: &Node) -> [u64; 4] {
    let snapshot = node.snapshot();
    [snapshot.connections_in, snapshot.connections_out, snapshot.links_published, snapshot.links_subscribed]
}

fn events(running: &Running) -> u64 {
    running.snapshot().stages.iter().map(|stage| stage.buffered + stage.discarded + stage.failed).sum()
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, tasks, links, events, .. } = self;
        write!(f, "{} KiB, {tasks} tasks, connections and links {links:?}, {events} events", bytes >> 10)
    }
}
