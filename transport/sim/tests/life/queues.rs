//! Consumers of a [`QueueSource`].

use std::sync::Arc;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_transport::{MemoryQueue, QueueSource};
use rand::Rng;
use tokio::time::sleep;

use crate::consumer::start;
use crate::draw;
use crate::world::{World, sim};

#[test]
fn what_is_in_a_queue_is_handled_once_however_its_consumers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let (count, lives) = draw::lives(&mut world.rng);
    let queue = Arc::new(MemoryQueue::new(100_000));
    let source = QueueSource::new("numbers", queue).spawner(world.there.clone());
    world.node().publish("numbers", &source)?;
    if lives[0].acknowledges {
        world.ledger.ends_when_handled();
    }
    world.ledger.book.update(|page| page.lives = lives.len());
    let world = Arc::new(world);
    push(&world, &source, count);
    for life in lives {
        start(&world, &source, |world, node| world.far::<u64>(node, "numbers"), life, 1)?;
    }
    drop(source);
    world.lives_have_ended().await;
    world.end().await
}

/// Pushes everything, in pieces, with a long silence between two of them.
pub(crate) fn push(world: &Arc<World>, source: &QueueSource<u64, MemoryQueue>, count: u64) {
    let (source, ledger, mut rng) = (source.clone(), Arc::clone(&world.ledger), world.net.rng("push"));
    let (net, pieces) = (world.net.clone(), rng.random_range(1..20));
    let (piece, pause) = ((count / pieces).max(1), draw::lasts(&mut rng) / pieces as u32);
    let mut silence = draw::silence(&mut rng, count);
    world.there.spawn("push", async move {
        let mut next = 0;
        while next < count {
            let end = count.min(next + piece);
            ledger.emitted(next..end);
            if let Err(error) = source.push(next..end).await {
                net.fail(format_args!("cannot push: {error}"));
            }
            next = end;
            sleep(silence.take_if(|(after, _)| next > *after).map_or(pause, |(_, silence)| silence)).await;
        }
        ledger.exhausted();
        source.close();
    });
}
