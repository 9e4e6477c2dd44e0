//! What subscriptions cost over which nothing comes.

use std::time::Duration;

use aqueduct_sim::LinkConditions;
use aqueduct_stage::{Batch, Consumer, Cx, Graph, Producer, Result};
use aqueduct_transport::NodeConfig;
use tokio::time::sleep;

use crate::nodes::{Nodes, PORT, links, until};
use crate::world::{IDLE, sim};

const LINKS: usize = 100;
const SPAN: Duration = Duration::from_secs(600);

/// What is wanted is said again ever more seldom, at last every 30 s; that it is said does not count as if something had
/// happened. The connection says twice a second that it lives, whatever it carries.
#[test]
fn links_over_which_nothing_comes_say_little() {
    sim().swarm(0..5, async |net| {
        net.set_default_conditions(LinkConditions::default());
        let nodes = Nodes::new(NodeConfig::default())?;
        let (there, here) = (net.host("there"), net.host("here"));
        let (publisher, subscriber) = (nodes.start(&there)?, nodes.start(&here)?);
        let producing = Graph::with_spawner("producing", there.clone());
        publisher.publish("silent", &producing.producer("silent", || Silent))?;
        let _producing = producing.start();
        let silent = subscriber.source::<u64>("silent", there.address(PORT));
        let mut consuming = Vec::new();
        for _ in 0..LINKS {
            let graph = Graph::with_spawner("consuming", here.clone());
            let _ = graph.consumer("ignore", || Ignore).subscribe(&silent, 500..1000);
            consuming.push(graph.start());
            // Those that say something at the same time share a datagram.
            sleep(Duration::from_millis(13)).await;
        }
        until(IDLE, "not subscribed", || links(&here) == LINKS).await;
        sleep(Duration::from_secs(60)).await;

        let before = net.stats().sent;
        sleep(SPAN).await;
        let (sent, seconds) = (net.stats().sent - before, SPAN.as_secs());
        // The connection's own, then an acknowledgement for what each link says again.
        let bound = 4 * seconds + 2 * LINKS as u64 * (seconds / 30 + 1);
        assert!(sent <= bound, "expected at most {bound} datagrams in {SPAN:?}, got {sent}");
        Ok(())
    });
}

struct Silent;

impl Producer for Silent {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, u64>) -> Result {
        Ok(())
    }
}

struct Ignore;

impl Consumer for Ignore {
    type In = u64;

    async fn handle_events(&mut self, _events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        Ok(())
    }
}
