//! The three machines of the soak: one that produces, one in the middle, and one that consumes, which is killed now and then.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Host, Outcome, SimNet};
use aqueduct_stage::{Graph, Running, SourceExt};
use aqueduct_transport::{Authority, Identity, Node, NodeConfig, PublishOptions, Retrying};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::nodes::{self, PORT};
use crate::stages::{Book, Event, Relay, Sink, Ticks};

/// Longer than any fault lasts, and what it takes to dial after it: only who is lost for good is given up.
pub(crate) const GRACE: Duration = Duration::from_secs(600);
/// Few, so that streams that are left behind keep new ones from being opened.
const MAX_SUBSCRIPTIONS: u32 = 8;
/// What each subscription may have open.
const WINDOW: std::ops::Range<usize> = 2500..5000;
/// How many consumers there are on the last machine.
const CONSUMERS: u64 = 2;
/// Events of a guest.
const GUEST_EVENTS: u64 = 20;

/// All that runs.
pub(crate) struct Machines {
    pub(crate) hosts: [Host; 3],
    identities: [Identity; 3],
    pub(crate) producing: Machine,
    pub(crate) relaying: Machine,
    /// `None` while it is down.
    pub(crate) consuming: Option<Machine>,
    book: Arc<Book>,
}

pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) running: Running,
}

impl Machines {
    pub(crate) fn start(net: &SimNet, book: &Arc<Book>) -> Outcome<Self> {
        let authority = Authority::dev("sim")?;
        let hosts = ["a", "b", "c"].map(|name| net.host(name));
        let [a, b, c] = &hosts;
        // The same in all lives of a machine: who comes back with its key can end the connections that it had.
        let identities = [authority.issue("a")?, authority.issue("b")?, authority.issue("c")?];

        let node = start(a, &identities[0])?;
        let graph = Graph::with_spawner("producing", a.clone());
        let of = Arc::clone(book);
        node.publish("ticks", &graph.producer("ticks", move || Ticks::new(&of)))?;
        node.publish("guests", &graph.iterate("guests", || 0_u64..))?;
        let producing = Machine { node, running: graph.start() };

        let node = start(b, &identities[1])?;
        let graph = Graph::with_spawner("relaying", b.clone());
        let of = Arc::clone(book);
        let far = Retrying::new(&node.source::<Event>("ticks", a.address(PORT)), GRACE);
        let relay = graph.stage("relay", move || Relay::new(&of)).subscribe_acknowledged(&far, WINDOW);
        // Both consumers are on one machine: neither could take over while that is cut off.
        node.publish_with("relay", &relay, PublishOptions::new().lag_limit(Duration::MAX))?;
        node.publish("guests", &graph.iterate("guests", || 0_u64..))?;
        let relaying = Machine { node, running: graph.start() };

        let consuming = Some(consume(b, c, &identities[2], book)?);
        Ok(Self { hosts, identities, producing, relaying, consuming, book: Arc::clone(book) })
    }

    /// The consumers' machine dies: what they had in hand, or under way, goes to those that come after them.
    pub(crate) fn crash(&mut self) {
        self.book.lost(CONSUMERS * WINDOW.end as u64);
        self.hosts[2].crash();
        self.consuming = None;
    }

    pub(crate) fn restart(&mut self) -> Outcome {
        let [_, b, c] = &self.hosts;
        c.restart();
        self.consuming = Some(consume(b, c, &self.identities[2], &self.book)?);
        Ok(())
    }

    /// Somebody subscribes, takes a few events and leaves: on the machine in the middle from the first one, or on the last
    /// from the middle.
    pub(crate) async fn guest(&self, is_last: bool) -> Outcome {
        let [a, b, c] = &self.hosts;
        let (on, at) = if is_last { (c, b) } else { (b, a) };
        let machine = if is_last { self.consuming.as_ref().ok_or("it is down")? } else { &self.relaying };
        let source = Retrying::new(&machine.node.source::<u64>("guests", at.address(PORT)), GRACE);
        let (done, is_done) = oneshot::channel();
        on.spawn("guest", async move {
            let (mut events, mut last, mut count) = (source.events(5..10), None, 0);
            while let Some(Ok(event)) = events.next().await {
                assert!(Some(event) > last, "a guest got {event} after {last:?}");
                (last, count) = (Some(event), count + 1);
                if count == GUEST_EVENTS {
                    break;
                }
            }
            drop(events);
            let _ = done.send(count);
        });
        let count = timeout(GRACE, is_done).await.map_err(|_| "a guest gets nothing")??;
        if count == GUEST_EVENTS { Ok(()) } else { Err(format!("a guest was let go after {count} events").into()) }
    }

    pub(crate) fn alive_tasks(&self) -> usize {
        self.hosts.iter().map(Host::alive_tasks).sum()
    }

    /// The end of the data reaches everybody, and everything is shut down.
    pub(crate) async fn end(self) -> Outcome<[Host; 3]> {
        let machines = [Some(self.producing), Some(self.relaying), self.consuming];
        let mut machines: Vec<_> = machines.into_iter().flatten().collect();
        for machine in &mut machines {
            let outcome = timeout(GRACE, machine.running.shutdown(GRACE)).await.map_err(|_| "it does not end")??;
            drop(outcome);
        }
        for machine in machines {
            assert!(machine.node.shutdown(GRACE).await, "a link is left");
        }
        Ok(self.hosts)
    }
}

fn consume(from: &Host, on: &Host, identity: &Identity, book: &Arc<Book>) -> Outcome<Machine> {
    let node = start(on, identity)?;
    let far = Retrying::new(&node.source::<Event>("relay", from.address(PORT)), GRACE);
    let graph = Graph::with_spawner("consuming", on.clone());
    for n in 0..CONSUMERS {
        let (of, label) = (Arc::clone(book), format!("sink-{n}"));
        graph.consumer(&label.clone(), move || Sink::new(&of, &label)).subscribe_acknowledged(&far, WINDOW);
    }
    Ok(Machine { node, running: graph.start() })
}

fn start(host: &Host, identity: &Identity) -> Outcome<Node> {
    let config = NodeConfig::default().session_grace(GRACE).max_subscriptions(MAX_SUBSCRIPTIONS);
    nodes::start(host, identity.clone(), config)
}
