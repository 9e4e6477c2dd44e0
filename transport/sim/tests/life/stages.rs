//! Consumers of a stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{Cx, Exit, Graph, Producer, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::{sleep, timeout};

use crate::consumer::start;
use crate::draw;
use crate::ledger::Ledger;
use crate::world::{SLACK, World, sim};

#[test]
fn what_stages_emit_is_handled_once_however_their_consumers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

/// Emits what is left of a count that its instances share.
struct Numbers {
    rng: StdRng,
    next: Arc<AtomicU64>,
    count: u64,
    /// For each event.
    pause: Duration,
    /// How many events it emits at a time.
    most: u64,
    ledger: Arc<Ledger>,
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        if self.rng.random_bool(0.2) {
            sleep(Duration::from_millis(self.rng.random_range(0..100))).await;
        }
        let wanted = if self.rng.random_bool(0.3) { 1 } else { self.most.min(demand as u64) };
        let from = self.next.fetch_add(wanted, Ordering::Relaxed).min(self.count);
        let to = self.count.min(from + wanted);
        sleep(self.pause * (to - from) as u32).await;
        self.ledger.emitted(from..to);
        cx.emit_all(from..to);
        if to == self.count {
            self.ledger.exhausted();
            cx.stop(Exit::Normal);
        } else if to - from < demand as u64 {
            cx.again();
        }
        Ok(())
    }
}

/// How long a producer emits at a time.
const LONGEST: Duration = Duration::from_millis(300);

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let (count, lives) = draw::lives(&mut world.rng);
    let (pause, instances) =
        (draw::lasts(&mut world.rng) / (count as u32 + 1), *[1, 1, 1, 2, 3].choose(&mut world.rng).expect("some"));
    // A consumer that shuts down waits for what its producer does for others before, and here that is not much.
    let (pause, most) = (pause.min(LONGEST), (LONGEST.as_nanos() / pause.as_nanos().max(1)).max(1) as u64);
    let graph = Graph::with_spawner("producing", world.there.clone());
    let (next, ledger, of) = (Arc::new(AtomicU64::new(0)), Arc::clone(&world.ledger), net.clone());
    let make = move || {
        let (rng, next, ledger) = (of.rng("numbers"), Arc::clone(&next), Arc::clone(&ledger));
        Numbers { rng, next, count, pause, most, ledger }
    };
    let numbers = graph.producer("numbers", make).concurrency(instances);
    world.node.publish("numbers", &numbers)?;
    let mut running = graph.start();
    world.ledger.book.update(|page| page.lives = lives.len());
    let world = Arc::new(world);
    for life in lives {
        start(&world, &numbers, life, instances as u32)?;
    }
    world.lives_have_ended().await;
    let ended = timeout(SLACK, running.join()).await;
    ended.map_err(|_| format!("the producer does not end: {:?}", running.snapshot()))??;
    world.end().await
}
