//! Consumers of a stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{Cx, Exit, Graph, Handle, Producer, Result, Running};
use aqueduct_transport::{Node, Retrying};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::{sleep, timeout};

use crate::consumer::start;
use crate::draw::{self, Life};
use crate::ledger::{Ledger, PATIENCE};
use crate::world::{SLACK, World, sim};

#[test]
fn what_stages_emit_is_handled_once_however_their_consumers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

/// Emits what is left of a count that its instances share.
#[derive(Clone)]
struct Numbers {
    net: SimNet,
    rng: StdRng,
    next: Arc<AtomicU64>,
    count: u64,
    /// For each event.
    pause: Duration,
    /// How many events it emits at a time.
    most: u64,
    /// After how many events it is silent, and how long.
    silence: Option<(u64, Duration)>,
    is_silent: bool,
    ledger: Arc<Ledger>,
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        if self.is_silent {
            return Ok(());
        }
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
        } else if let Some((_, silence)) = self.silence.take_if(|(after, _)| to > *after) {
            self.is_silent = true;
            cx.stage_ref::<Self>().send_after(silence, GoesOn);
        } else if to - from < demand as u64 {
            cx.again();
        }
        Ok(())
    }
}

/// Its silence is over.
struct GoesOn;

impl Handle<GoesOn, u64> for Numbers {
    type Reply = ();

    async fn handle(&mut self, _: GoesOn, cx: &mut Cx<'_, u64>) -> Result {
        self.is_silent = false;
        cx.again();
        Ok(())
    }
}

/// How long a producer emits at a time.
const LONGEST: Duration = Duration::from_millis(300);

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let rng = &mut world.rng;
    let (mut restarts, (count, mut lives)) = (draw::restarts(rng), draw::lives(rng));
    let (pause, instances) =
        (draw::lasts(rng) / (count as u32 + 1), *[1, 1, 1, 2, 3].choose(rng).expect("there are some"));
    // A consumer that shuts down waits for what its producer does for others before, and here that is not much.
    let (pause, most) = (pause.min(LONGEST), (LONGEST.as_nanos() / pause.as_nanos().max(1)).max(1) as u64);
    let (ledger, silence) = (Arc::clone(&world.ledger), draw::silence(rng, count));
    let numbers = Numbers {
        net: net.clone(),
        rng: net.rng("numbers"),
        next: Arc::default(),
        count,
        pause,
        most,
        silence,
        is_silent: false,
        ledger,
    };
    world.ledger.book.update(|page| page.lives = lives.len());
    if !restarts.is_empty() {
        world.restarts = true;
        lives.iter_mut().for_each(Life::outlives_its_source);
    }
    restarts.reverse();
    let world = Arc::new(world);
    loop {
        let graph = Graph::with_spawner("producing", world.there.clone());
        let numbers = numbers.clone();
        let numbers = graph.producer("numbers", move || Numbers { rng: numbers.net.rng("numbers"), ..numbers.clone() });
        let numbers = numbers.concurrency(instances);
        world.node().publish("numbers", &numbers)?;
        let mut running = graph.start();
        for life in std::mem::take(&mut lives) {
            if world.restarts {
                let far = |world: &World, node: &Node| Retrying::new(&world.far::<u64>(node, "numbers"), PATIENCE);
                start(&world, &numbers, far, life, instances as u32)?;
            } else {
                start(&world, &numbers, |world, node| world.far::<u64>(node, "numbers"), life, instances as u32)?;
            }
        }
        if let Some((after, pause)) = restarts.pop()
            && timeout(after, world.lives_have_ended()).await.is_err()
        {
            restart(&world, running, pause).await?;
            continue;
        }
        world.lives_have_ended().await;
        if !world.ledger.is_exhausted() {
            return Err("its consumers have ended before the source has".into());
        }
        if world.restarts {
            // Perhaps nobody has come since the last time, and it would wait for the first.
            running.shutdown(SLACK).await?;
        }
        let ended = timeout(SLACK, running.join()).await;
        ended.map_err(|_| format!("the producer does not end: {:?}", running.snapshot()))??;
        return world.end().await;
    }
}

/// Restarts the producer's machine in order: what was emitted is handled, and new consumers wait for its return.
async fn restart(world: &World, mut running: Running, pause: Duration) -> Outcome {
    world.net.note("the producer is restarted", &[]);
    world.node().unpublish("numbers");
    let outcome = running.shutdown(draw::LONGEST_END).await?;
    // What came back to it, and nobody was there for.
    world.ledger.may_lose(outcome.stages.iter().map(|stage| stage.discarded).sum());
    world.restart(&world.there, pause).await?;
    Ok(())
}
