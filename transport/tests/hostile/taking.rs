//! Subscribers that allow much and take nothing, and one that does not even allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::testing::ProbeSink;
use aqueduct_stage::{Cx, FailureKind, Graph, Producer, Result, SourceExt};
use aqueduct_transport::{NodeConfig, PublishOptions};
use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use crate::nodes::{GUARD, guarded};
use crate::peers::is_served;
use crate::world::*;

pub(crate) const EVENT_BYTES: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credit_frame_does_not_make_a_producer_keep_more_than_its_share() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        let emitted = Arc::<AtomicUsize>::default();
        let counts = Arc::clone(&emitted);
        let graph = Graph::new("large");
        world.there.publish("large", &graph.producer("large", move || Large { emitted: Arc::clone(&counts) })).unwrap();
        let _producing = graph.start();
        let mut held = Vec::new();
        for (links, at_most) in [(1, 12 << 20), (100, 40 << 20)] {
            let (peer, control) = world.join("hostile").await;
            for _ in 0..links {
                let (mut send, mut recv) = peer.open_bi().await.unwrap();
                send.write_all(&frame(SUBSCRIBE, &subscribe_as("large", "bytes"))).await.unwrap();
                let mut head = [0; 5];
                recv.read_exact(&mut head).await.unwrap();
                assert_eq!(head[4], ACCEPTED);
                send.write_all(&frame(CREDIT, &numbers([("up_to", 65_536)]))).await.unwrap();
                held.push((send, recv));
            }
            sleep(Duration::from_secs(1)).await;
            let bytes = emitted.load(Ordering::Relaxed) * EVENT_BYTES;
            println!("{links} links more that take nothing: the producer has emitted {} KiB", bytes >> 10);
            assert!(bytes < at_most, "{bytes} bytes");
            std::mem::forget((peer, control));
        }
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_subscriber_that_never_asks_is_given_up_where_the_publisher_says_so() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        let graph = Graph::new("all");
        let all = graph.iterate("all", || 0_u64..).broadcast();
        let options = PublishOptions::new().stall_limit(Duration::from_secs(1));
        world.there.publish_with("all", &all, options).unwrap();
        let _producing = graph.start();
        let at = world.there.local_addr();
        let idle = ProbeSink::subscribe(&world.here.source::<u64>("all", at)).await;
        let newcomer = world.node("honest", NodeConfig::default()).await;
        let mut events = newcomer.source::<u64>("all", at).events(50..100);
        let first = timeout(GUARD, events.next()).await.expect("it stops the others for ever").unwrap();
        first.unwrap();
        for _ in 0..1000 {
            events.next().await.unwrap().unwrap();
        }
        let failure = idle.within(GUARD).expect_failure().await;
        assert_eq!(failure.kind(), FailureKind::Disconnected, "{failure}");
        assert!(failure.message().contains("it held back others"), "{failure}");
        assert_eq!(world.there.snapshot().links_given_up_early, 1);
    })
    .await;
}

/// Emits whatever is asked of it.
#[derive(Default)]
pub(crate) struct Large {
    emitted: Arc<AtomicUsize>,
}

impl Producer for Large {
    type Out = Bytes;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Bytes>) -> Result {
        self.emitted.fetch_add(demand, Ordering::Relaxed);
        cx.emit_all((0..demand).map(|_| Bytes::from(vec![7; EVENT_BYTES])));
        Ok(())
    }
}
