//! Workers of a [`WorkPool`], in loops and in graphs, with every option at its default.

use std::sync::Arc;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{Graph, Source, SourceExt, SubscribeOptions};
use aqueduct_transport::pulling::{PullingOptions, WorkPool, WorkSource};
use aqueduct_transport::{MemoryQueue, Queue};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::draw::{self, Life, Place, Working};
use crate::worker::work;
use crate::world::{SLACK, World, sim, spawn};
use crate::{consumer, queues};

#[test]
fn a_pool_has_every_task_done_once_however_its_workers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let (count, workers) = draw::workers(&mut world.rng);
    let stages = draw::in_graphs(&mut world.rng, count);
    let is_durable = world.rng.random_bool(0.5);
    world.ledger.ends_when_handled();
    world.ledger.book.update(|page| page.lives = workers.len() + stages.len());
    let world = Arc::new(world);
    if is_durable {
        let queue = Arc::new(MemoryQueue::new(100_000));
        let source = queues::source(&world, &queue);
        let pool = WorkPool::new(&source, PullingOptions::default(), &world.there);
        let sources = watch::Sender::new(source);
        queues::push(&world, sources.subscribe(), count);
        serve(&world, pool, count, workers, stages).await?;
        drop(sources);
        world.end().await?;
        match queue.len().await? {
            0 => Ok(()),
            left => Err(format!("{left} are left in the queue").into()),
        }
    } else {
        let graph = Graph::with_spawner("producing", world.there.clone());
        let numbers = graph.iterate("numbers", move || 0..count);
        let pool = WorkPool::new(&numbers, PullingOptions::default(), &world.there);
        let mut running = graph.start();
        world.ledger.emitted(0..count);
        world.ledger.exhausted();
        serve(&world, pool, count, workers, stages).await?;
        let ended = timeout(SLACK, running.join()).await;
        ended.map_err(|_| format!("the producer does not end: {:?}", running.snapshot()))??;
        world.end().await
    }
}

/// Starts those who work, and sees what has become of the tasks when they have ended.
async fn serve(
    world: &Arc<World>,
    pool: WorkPool<u64>,
    count: u64,
    workers: Vec<Working>,
    stages: Vec<(Life, bool)>,
) -> Outcome {
    world.node().publish("numbers", &pool)?;
    for life in workers {
        start(world, &pool, life)?;
    }
    for (life, answers_each) in stages {
        if answers_each {
            consumer::start(world, &pool.work(), |world, node| world.far::<u64>(node, "numbers").work(), life, 1)?;
        } else {
            consumer::start(world, &pool, |world, node| world.far::<u64>(node, "numbers"), life, 1)?;
        }
    }
    world.lives_have_ended().await;
    let counters = pool.counters();
    if (counters.dead, counters.expired, counters.late) != (0, 0, 0) || counters.finished != count {
        return Err(format!("of {count}: {counters:?}").into());
    }
    Ok(())
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
            let far = world.far::<u64>(&node, "numbers");
            spawn(world, &host.clone(), async move {
                works(&of, &far, &life).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                drop((node, far));
                let node = of.restart(&host, after).await?;
                works(&of, &of.far::<u64>(&node, "numbers"), &again).await
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
