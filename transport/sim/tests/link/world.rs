//! The world of these tests: a producer's machine and those of its consumers, and how all of it is shut down.
//!
//! Another test file gets it by two lines: `#[path = "link/world.rs"] mod world;`, and the same for the files it uses.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Edge, Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::{FailureKind, Graph, Running};
use aqueduct_transport::{Authority, Node, PublishOptions};
use rand::Rng;
use tokio::time::timeout;

use crate::nodes::{Nodes, PORT, links, lost_after, until};
use crate::stages::{EVENTS, Numbers, Pace, Pauses, Sizes};
use crate::watched::{End, Watch, Watched};

pub(crate) const CONSUMERS: usize = 2;
/// Enough for the worst conditions that are drawn.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// After this, a lost machine is noticed; what is added covers what was on its way.
pub(crate) const IDLE: Duration = Duration::from_secs(10);
pub(crate) const SLACK: Duration = Duration::from_secs(5);
/// So that a cut is noticed soon, and how long it is borne.
pub(crate) const SHORT_IDLE: Duration = Duration::from_secs(2);
/// QUIC takes nobody for lost before three of its probe timeouts are over, and those are seconds on a bad network.
pub(crate) const DETECTED_WITHIN: Duration = Duration::from_secs(20);
pub(crate) const GRACE: Duration = Duration::from_secs(60);
pub(crate) const SHORT_GRACE: Duration = Duration::from_secs(5);
/// After a cut is over. The worst network needs some attempts.
pub(crate) const RESUMED_WITHIN: Duration = Duration::from_secs(30);
/// After much loss, QUIC's closing period is long; its tasks live so long.
pub(crate) const CLOSING: Duration = Duration::from_secs(600);

pub(crate) fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(1200))
}

pub(crate) fn everything() -> Vec<u64> {
    (0..EVENTS).collect()
}

/// A producer's machine and those of its consumers.
pub(crate) struct World {
    pub(crate) net: SimNet,
    pub(crate) there: Host,
    pub(crate) node: Node,
    pub(crate) producing: Running,
    pub(crate) here: Vec<Here>,
    /// What is published for those that are no nodes.
    pub(crate) strangers: Vec<Arc<Watched>>,
    pub(crate) authority: Authority,
}

/// A consumer's machine.
pub(crate) struct Here {
    pub(crate) host: Host,
    pub(crate) node: Node,
    pub(crate) consuming: Running,
    pub(crate) edge: Arc<Watched>,
    /// Its window.
    pub(crate) max_demand: u64,
    /// When it takes a silent connection for lost.
    pub(crate) idle: Duration,
}

/// How a world is made.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) idle: Duration,
    pub(crate) grace: Duration,
    pub(crate) pace: Pace,
    /// Whether consumers say what they have handled.
    pub(crate) acknowledges: bool,
    pub(crate) consumers: usize,
    /// Edges that no node here subscribes to.
    pub(crate) strangers: usize,
    /// How many events there are.
    pub(crate) events: u64,
    pub(crate) sizes: Sizes,
    /// Everybody gets every event, and who is cut off may hold the others back for so long; otherwise an event goes to one.
    pub(crate) broadcast: Option<Duration>,
    /// How long one that is cut off may keep what others could have.
    pub(crate) lag_limit: Duration,
    /// Drawn if there are none.
    pub(crate) conditions: Option<LinkConditions>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            idle: PATIENCE,
            grace: Duration::ZERO,
            pace: Pace::Brisk,
            acknowledges: false,
            consumers: CONSUMERS,
            strangers: 0,
            events: EVENTS,
            sizes: Sizes::default(),
            broadcast: None,
            // The grace is what is tested.
            lag_limit: Duration::MAX,
            conditions: None,
        }
    }
}

impl World {
    /// Links that do not survive their connection.
    pub(crate) async fn new(net: &SimNet, idle: Duration, pace: Pace) -> Outcome<Self> {
        Self::with(net, idle, Duration::ZERO, pace, false).await
    }

    pub(crate) async fn with(
        net: &SimNet,
        idle: Duration,
        grace: Duration,
        pace: Pace,
        acknowledges: bool,
    ) -> Outcome<Self> {
        Self::build(net, Setup { idle, grace, pace, acknowledges, ..Setup::default() }).await
    }

    pub(crate) async fn build(net: &SimNet, setup: Setup) -> Outcome<Self> {
        let mut rng = net.rng("world");
        let drawn = LinkConditions::draw(&mut rng);
        let conditions = setup.conditions.unwrap_or(drawn);
        // Where a connection is soon taken for lost, the worst network would not let one be made: it comes afterwards.
        let is_made_first = setup.idle <= SHORT_IDLE && setup.conditions.is_none();
        net.set_default_conditions(if is_made_first { LinkConditions::default() } else { conditions });
        // Drawn apart, so that the rest of a seed stays the same.
        if net.rng("sockets").random_bool(0.5) {
            net.buggify(0.1);
        }
        let nodes = Nodes::new(lost_after(setup.idle).session_grace(setup.grace).handshake_timeout(PATIENCE))?;

        let edge = |n| Arc::new(Watched::new(net, Edge(n as u64), setup.sizes));
        let edges: Vec<_> = (0..setup.consumers + setup.strangers).map(edge).collect();
        let there = net.host("there");
        let node = nodes.start(&there)?;
        let graph = Graph::with_spawner("producing", there.clone());
        let numbers = {
            let (net, edges) = (net.clone(), edges.clone());
            graph.producer("numbers", move || Numbers::new(&net, &edges, setup.sizes, setup.events))
        };
        // The same stage by several names, so that both ends know which edge they are.
        let watch = |edge: &Arc<Watched>| (edge.edge.to_string(), edge.clone(), End::There);
        if let Some(lag_limit) = setup.broadcast {
            let numbers = numbers.broadcast().wait_for_subscribers(edges.len());
            for (name, edge, end) in edges.iter().map(watch) {
                let options = PublishOptions::new().lag_limit(lag_limit);
                node.publish_with(&name, &Watch { source: numbers.clone(), edge, end }, options)?;
            }
        } else {
            for (name, edge, end) in edges.iter().map(watch) {
                let options = PublishOptions::new().lag_limit(setup.lag_limit);
                node.publish_with(&name, &Watch { source: numbers.clone(), edge, end }, options)?;
            }
        }
        let producing = graph.start();

        let (mut here, mut edges) = (Vec::new(), edges);
        let strangers = edges.split_off(setup.consumers);
        for edge in edges {
            let host = net.host(&format!("here-{}", edge.edge.0));
            let node = nodes.start(&host)?;
            let graph = Graph::with_spawner("consuming", host.clone());
            let far = node.source(&edge.edge.to_string(), there.address(PORT));
            let far = Watch { source: far, edge: edge.clone(), end: End::Here };
            let max = rng.random_range(1..if setup.pace == Pace::Brisk { 60 } else { 12 });
            let (rng_of, label, watched) = (net.clone(), host.name().to_owned(), edge.clone());
            let pauses = graph.consumer("pause", move || Pauses::new(rng_of.rng(&label), setup.pace, watched.clone()));
            let demand = rng.random_range(0..max)..max;
            if setup.acknowledges {
                pauses.subscribe_acknowledged(&far, demand);
            } else {
                pauses.subscribe(&far, demand);
            }
            here.push(Here { host, node, consuming: graph.start(), edge, max_demand: max as u64, idle: setup.idle });
        }
        if is_made_first {
            for here in &here {
                here.edge.until(3).await;
            }
            net.set_default_conditions(conditions);
        }
        Ok(Self { net: net.clone(), there, node, producing, here, strangers, authority: nodes.authority })
    }

    /// Waits until every consumer has got something, but by far not everything.
    pub(crate) async fn under_way(&self) {
        for here in &self.here {
            here.edge.until(3).await;
        }
        assert!(self.all_seen().len() < EVENTS as usize / 2, "too late for a fault");
    }

    /// What all consumers have got.
    pub(crate) fn all_seen(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.here.iter().flat_map(|here| here.edge.book().received.clone()).collect();
        all.sort_unstable();
        all
    }

    /// Everything arrives but what was on its way to the one that is gone.
    pub(crate) async fn the_other_gets_the_rest(&mut self, gone: &Here) -> Outcome {
        for here in &mut self.here {
            here.consuming.join().await?;
        }
        // It may have had everything before the loss of the first was noticed.
        until(IDLE + SLACK, "a link is left", || links(&self.there) == 0).await;
        let lost: BTreeSet<_> = gone.edge.book().sent.keys().copied().collect();
        let rest: Vec<_> = everything().into_iter().filter(|n| !lost.contains(n)).collect();
        assert_eq!(self.all_seen(), rest);
        Ok(())
    }

    /// Everything reaches somebody; what reaches two says so.
    pub(crate) async fn everything_took_place(&mut self, gone: &Here) -> Outcome {
        for here in &mut self.here {
            here.consuming.join().await?;
        }
        let first: BTreeSet<_> = gone.edge.book().received.iter().copied().collect();
        let again: BTreeSet<_> = self.all_seen().into_iter().filter(|n| first.contains(n)).collect();
        for here in &self.here {
            assert!(again.is_subset(&here.edge.book().again), "twice, and not said");
        }
        let mut all: Vec<_> = self.all_seen().into_iter().chain(first.difference(&again).copied()).collect();
        all.sort_unstable();
        assert_eq!(all, everything(), "lost, or twice at one consumer");
        Ok(())
    }

    /// Shuts all down in an orderly way, after which nothing may run on any machine.
    pub(crate) async fn end(self) -> Outcome {
        let Self { net, there, node, mut producing, here, .. } = self;
        producing.join().await?;
        let begun = net.now();
        assert!(node.shutdown(PATIENCE).await, "a link is left: {:?}", there.task_names());
        assert!(net.now() - begun < SLACK, "shutting down takes {:?}", net.now() - begun);
        for here in here {
            assert_eq!(net.ledger().under_way(here.edge.edge), 0, "lost");
            here.end().await?;
        }
        drop(node);
        until(CLOSING, "a task is left", || there.alive_tasks() == 0).await;
        Ok(())
    }
}

impl Here {
    /// Its consumer learns of the loss in time, and takes it for nothing else.
    pub(crate) async fn is_disconnected(&mut self) {
        self.is_disconnected_within(IDLE + SLACK).await;
    }

    pub(crate) async fn is_disconnected_within(&mut self, limit: Duration) {
        let ended = timeout(limit, self.consuming.join()).await.expect("not told in time");
        assert_eq!(ended.expect_err("it ended early").failure.kind(), FailureKind::Disconnected);
        assert!(!self.edge.book().is_exhausted, "told of an end");
    }

    pub(crate) async fn end(self) -> Outcome {
        let Self { host, node, consuming, idle, .. } = self;
        drop(consuming);
        // The other node may be gone, and its last word lost: then only silence tells.
        assert!(node.shutdown(idle + SLACK).await, "a link is left: {:?}", host.task_names());
        drop(node);
        until(CLOSING, "a task is left", || host.alive_tasks() == 0).await;
        Ok(())
    }
}
