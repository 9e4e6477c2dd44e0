//! Workers of a [`WorkPool`], in loops and in graphs, with every option at its default.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{Graph, Source, SourceExt, SubscribeOptions};
use aqueduct_transport::pulling::{Counters, PullingOptions, WorkPool, WorkSource};
use aqueduct_transport::{MemoryQueue, Node, Queue, Retrying};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::consumer::{self, SHORTLY, Then};
use crate::draw::{self, Life, Place, Working};
use crate::ledger::PATIENCE;
use crate::queues;
use crate::worker::work;
use crate::world::{SLACK, World, sim, spawn};

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
    let restarts = if is_durable { draw::restarts(&mut world.net.rng("restarts")) } else { Vec::new() };
    world.restarts = !restarts.is_empty();
    let world = Arc::new(world);
    if is_durable {
        durable(&world, count, workers, stages, restarts).await
    } else {
        let graph = Graph::with_spawner("producing", world.there.clone());
        let numbers = graph.iterate("numbers", move || 0..count);
        let pool = WorkPool::new(&numbers, PullingOptions::default(), &world.there);
        let mut running = graph.start();
        world.ledger.emitted(0..count);
        world.ledger.exhausted();
        serve(&world, &pool, workers, stages)?;
        world.lives_have_ended().await;
        check(pool.counters(), count)?;
        drop(pool);
        let ended = timeout(SLACK, running.join()).await;
        ended.map_err(|_| format!("the producer does not end: {:?}", running.snapshot()))??;
        world.end().await
    }
}

/// Has the tasks of a queue done, whose machine is restarted in order meanwhile.
async fn durable(
    world: &Arc<World>,
    count: u64,
    mut workers: Vec<Working>,
    mut stages: Vec<(Life, bool)>,
    restarts: Vec<(Duration, Duration)>,
) -> Outcome {
    if world.restarts {
        workers.iter_mut().for_each(|life| life.place = Place::Far);
        stages.iter_mut().for_each(|(life, _)| life.place = Place::Far);
    }
    let queue = Arc::new(MemoryQueue::new(100_000));
    let sources = watch::Sender::new(queues::source(world, &queue));
    queues::push(world, sources.subscribe(), count);
    let (mut restarts, mut finished) = (restarts.into_iter(), 0);
    loop {
        let source = sources.borrow().clone();
        let pool = WorkPool::new(&source, PullingOptions::default(), &world.there);
        serve(world, &pool, std::mem::take(&mut workers), std::mem::take(&mut stages))?;
        if let Some((after, away)) = restarts.next()
            && timeout(after, world.lives_have_ended()).await.is_err()
        {
            queues::restart(world, &source, draw::LONGEST_TASK, away).await?;
            finished += pool.counters().finished;
            check(pool.counters(), pool.counters().finished)?;
            sources.send_replace(queues::source(world, &queue));
            continue;
        }
        drop((source, sources));
        world.lives_have_ended().await;
        check(pool.counters(), count - finished)?;
        drop(pool);
        world.end().await?;
        return match queue.len().await? {
            0 => Ok(()),
            left => Err(format!("{left} are left in the queue").into()),
        };
    }
}

/// Publishes a pool, and starts those who work for it.
fn serve(world: &Arc<World>, pool: &WorkPool<u64>, workers: Vec<Working>, stages: Vec<(Life, bool)>) -> Outcome {
    world.node().publish("numbers", pool)?;
    for life in workers {
        start(world, pool, life)?;
    }
    let far = |world: &World, node: &Node| world.far::<u64>(node, "numbers");
    let patient = move |world: &World, node: &Node| Retrying::new(&far(world, node), PATIENCE);
    for (life, answers_each) in stages {
        match (answers_each, world.restarts) {
            (true, true) => consumer::start(world, &pool.work(), move |at, node| patient(at, node).work(), life, 1)?,
            (true, false) => consumer::start(world, &pool.work(), move |at, node| far(at, node).work(), life, 1)?,
            (false, true) => consumer::start(world, pool, patient, life, 1)?,
            (false, false) => consumer::start(world, pool, far, life, 1)?,
        }
    }
    Ok(())
}

fn check(counters: Counters, count: u64) -> Outcome {
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
            spawn(world, &host.clone(), async move {
                works_far(&of, &node, &life).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                drop(node);
                let node = of.restart(&host, after).await?;
                works_far(&of, &node, &again).await
            });
        }
    }
    Ok(())
}

async fn works_far(world: &World, node: &Node, life: &Working) -> Outcome {
    let far = world.far::<u64>(node, "numbers");
    if world.restarts {
        works(world, &Retrying::new(&far, PATIENCE), life).await
    } else {
        works(world, &far, life).await
    }
}

async fn works(world: &World, source: &(impl Source<Item = u64> + Clone), life: &Working) -> Outcome {
    sleep(life.joins).await;
    let source = source.work();
    let window = life.window.clone().map_or_else(|| source.default_options(), SubscribeOptions::from);
    // It comes back whenever its source has ended for a restart.
    while work(world, life, source.events(window)).await? == Then::ComesBack {
        sleep(SHORTLY).await;
    }
    Ok(())
}
