//! Consumers that choose events by the name of a selector, which runs in the producer.

use std::time::Duration;

use aqueduct_sim::LinkConditions;
use aqueduct_stage::{Graph, SourceExt};
use aqueduct_transport::PublishOptions;
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use crate::nodes::{Nodes, PORT, lost_after};
use crate::world::{GRACE, PATIENCE, SHORT_IDLE, sim};

const EVENTS: u64 = 1500;
/// Each of two consumers wants one event in so many.
const EVERY: u64 = 7;
const WANTED: [(&str, u64); 2] = [("first", 0), ("fourth", 3)];

/// On a network without faults: some dozen round trips of 2 ms.
const SUBSCRIBED_WITHIN: Duration = Duration::from_millis(40);

/// An event that is refused costs nothing: each consumer gets as many as it asked for of those that it wants, however many
/// it does not want, and so comes to the end. In half of the seeds it is cut off meanwhile.
#[test]
fn choosy_consumers_get_what_they_want_to_the_end() {
    sim().swarm(0..35, async |net| {
        let mut rng = net.rng("choosy");
        let nodes = Nodes::new(lost_after(SHORT_IDLE).session_grace(GRACE).handshake_timeout(PATIENCE))?;
        let there = net.host("there");
        let node = nodes.start(&there)?;
        let graph = Graph::with_spawner("producing", there.clone());
        let numbers = graph.iterate("numbers", || 0..EVENTS);
        let options = WANTED.iter().fold(PublishOptions::new().lag_limit(GRACE), |options, &(name, rest)| {
            options.selector(name, move |number: &u64| number % EVERY == rest)
        });
        if rng.random_bool(0.5) {
            node.publish_with("numbers", &numbers.broadcast().wait_for_subscribers(WANTED.len()), options)?;
        } else {
            node.publish_with("numbers", &numbers.wait_for_subscribers(WANTED.len()), options)?;
        }
        let mut producing = graph.start();

        let mut consumers = Vec::new();
        for (name, rest) in WANTED {
            let host = net.host(name);
            let node = nodes.start(&host)?;
            let max = rng.random_range(2..8);
            let far = node.source::<u64>("numbers", there.address(PORT)).select(name);
            let mut events = far.events(rng.random_range(0..max)..max);
            let (tell, told) = oneshot::channel();
            host.spawn("take", async move {
                let mut taken = Vec::new();
                while let Some(event) = events.next().await {
                    taken.push(event.map_err(|error| error.to_string()));
                }
                let _ = tell.send(taken);
            });
            consumers.push((host, node, rest, told));
        }
        // Where a connection is soon taken for lost, the worst network would not let one be made: it comes afterwards.
        sleep(SUBSCRIBED_WITHIN).await;
        net.set_default_conditions(LinkConditions::draw(&mut rng));
        if rng.random_bool(0.5) {
            sleep(Duration::from_millis(rng.random_range(100..5000))).await;
            net.partition(&there, &consumers[0].0);
            sleep(Duration::from_millis(rng.random_range(100..20_000))).await;
            net.heal_all();
        }
        for (_, _node, rest, told) in consumers {
            let taken = timeout(2 * PATIENCE, told).await.expect("it wants more, and gets nothing")?;
            let wanted: Vec<_> = (0..EVENTS).filter(|number| number % EVERY == rest).map(Ok).collect();
            assert_eq!(taken, wanted);
        }
        producing.join().await?;
        Ok(())
    });
}
