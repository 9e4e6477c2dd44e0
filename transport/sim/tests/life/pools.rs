//! Workers of a [`WorkPool`], and consumers that acknowledge what it gives them, with every option at its default.

use std::sync::Arc;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{Graph, Source, SourceExt, SubscribeOptions};
use aqueduct_transport::pulling::{PullingOptions, WorkPool, WorkSource};
use tokio::time::{sleep, timeout};

use crate::draw::{self, Place, Working};
use crate::worker::work;
use crate::world::{SLACK, World, sim, spawn};

#[test]
fn a_pool_has_every_task_done_once_however_its_workers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let (count, workers) = draw::workers(&mut world.rng);
    let graph = Graph::with_spawner("producing", world.there.clone());
    let numbers = graph.iterate("numbers", move || 0..count);
    let pool = WorkPool::new(&numbers, PullingOptions::default(), &world.there);
    world.node.publish("work", &pool)?;
    let mut running = graph.start();
    world.ledger.emitted(0..count);
    world.ledger.exhausted();
    world.ledger.book.update(|page| page.lives = workers.len());
    let world = Arc::new(world);
    for life in workers {
        start(&world, &pool, life)?;
    }
    world.lives_have_ended().await;
    let counters = pool.counters();
    if (counters.dead, counters.expired, counters.late) != (0, 0, 0) || counters.finished != count {
        return Err(format!("of {count}: {counters:?}").into());
    }
    drop(pool);
    let ended = timeout(SLACK, running.join()).await;
    ended.map_err(|_| format!("the producer does not end: {:?}", running.snapshot()))??;
    world.end().await
}

fn start(world: &Arc<World>, pool: &WorkPool<u64>, life: Working) -> Outcome {
    let of = Arc::clone(world);
    match life.place {
        Place::Near => {
            let pool = pool.clone();
            spawn(world, &world.there, async move {
                works(&of, &pool, &life).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                sleep(after).await;
                works(&of, &pool, &again).await
            });
        }
        Place::Far => {
            let (host, node) = world.machine(&life.name)?;
            let far = world.far::<u64>(&node, "work");
            spawn(world, &host.clone(), async move {
                works(&of, &far, &life).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                drop((node, far));
                let node = of.restart(&host, after).await?;
                works(&of, &of.far::<u64>(&node, "work"), &again).await
            });
        }
    }
    Ok(())
}

async fn works(world: &World, source: &(impl Source<Item = u64> + Clone), life: &Working) -> Outcome {
    sleep(life.joins).await;
    let source = source.work();
    let window = life.window.clone().map_or_else(|| source.default_window().into(), SubscribeOptions::from);
    work(world, life, source.events(window)).await
}
