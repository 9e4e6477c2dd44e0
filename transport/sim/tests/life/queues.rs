//! Consumers of a [`QueueSource`].

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_transport::{MemoryQueue, Node, PushError, QueueSource, Retrying};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::consumer::start;
use crate::draw::{self, Place};
use crate::ledger::PATIENCE;
use crate::world::{World, sim};

#[test]
fn what_is_in_a_queue_is_handled_once_however_its_consumers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let (mut restarts, (count, mut lives)) = (draw::restarts(&mut world.rng), draw::lives(&mut world.rng));
    let queue = Arc::new(MemoryQueue::new(100_000));
    if lives[0].acknowledges {
        world.ledger.ends_when_handled();
    }
    world.ledger.book.update(|page| page.lives = lives.len());
    if !restarts.is_empty() {
        world.restarts = true;
        lives.iter_mut().for_each(|life| life.place = Place::Far);
    }
    restarts.reverse();
    let world = Arc::new(world);
    let sources = watch::Sender::new(source(&world, &queue));
    push(&world, sources.subscribe(), count);
    loop {
        let source = sources.borrow().clone();
        world.node().publish("numbers", &source)?;
        for life in std::mem::take(&mut lives) {
            if world.restarts {
                let far = |world: &World, node: &Node| Retrying::new(&world.far::<u64>(node, "numbers"), PATIENCE);
                start(&world, &source, far, life, 1)?;
            } else {
                start(&world, &source, |world, node| world.far::<u64>(node, "numbers"), life, 1)?;
            }
        }
        if let Some((after, pause)) = restarts.pop()
            && timeout(after, world.lives_have_ended()).await.is_err()
        {
            restart(&world, &source, draw::LONGEST_END, pause).await?;
            sources.send_replace(self::source(&world, &queue));
            continue;
        }
        drop((source, sources));
        world.lives_have_ended().await;
        return world.end().await;
    }
}

pub(crate) fn source(world: &World, queue: &Arc<MemoryQueue>) -> QueueSource<u64, MemoryQueue> {
    QueueSource::new("numbers", Arc::clone(queue)).spawner(world.there.clone())
}

/// Restarts the queue's machine in order: what is not handled stays in the queue, and consumers wait for its return.
pub(crate) async fn restart(
    world: &World,
    source: &QueueSource<u64, MemoryQueue>,
    grace: Duration,
    pause: Duration,
) -> Outcome {
    world.net.note("the queue's machine is restarted", &[]);
    if !source.shutdown(grace).await {
        return Err("consumers of the queue do not give back what they have".into());
    }
    world.ledger.restarted();
    world.restart(&world.there, pause).await?;
    Ok(())
}

/// Pushes everything to the source that there is, in pieces, with a long silence between two of them.
pub(crate) fn push(world: &Arc<World>, mut sources: watch::Receiver<QueueSource<u64, MemoryQueue>>, count: u64) {
    let (ledger, mut rng) = (Arc::clone(&world.ledger), world.net.rng("push"));
    let (net, pieces) = (world.net.clone(), rng.random_range(1..20));
    let (piece, pause) = ((count / pieces).max(1), draw::lasts(&mut rng) / pieces as u32);
    let mut silence = draw::silence(&mut rng, count);
    world.there.spawn("push", async move {
        let mut next = 0;
        while next < count {
            let end = count.min(next + piece);
            ledger.emitted(next..end);
            let mut source = sources.borrow_and_update().clone();
            while let Err(error) = source.push(next..end).await {
                // It is shut down for a restart.
                if !matches!(error, PushError::Closed(_)) || sources.changed().await.is_err() {
                    net.fail(format_args!("cannot push: {error}"));
                }
                source = sources.borrow_and_update().clone();
            }
            next = end;
            sleep(silence.take_if(|(after, _)| next > *after).map_or(pause, |(_, silence)| silence)).await;
        }
        ledger.exhausted();
        // And the next ones, if it is shut down before it is empty.
        loop {
            sources.borrow_and_update().close();
            if sources.changed().await.is_err() {
                break;
            }
        }
    });
}
