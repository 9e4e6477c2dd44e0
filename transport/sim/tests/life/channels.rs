//! Workers of a channel, durable or not, with every option at its default.

use std::sync::Arc;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_transport::{ChannelError, ChannelOptions, ChannelWorker, JoinOptions, MemoryQueue, Node};
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::draw::{self, Working};
use crate::ledger::PATIENCE;
use crate::nodes::PORT;
use crate::worker::work;
use crate::world::{World, sim, spawn};

#[test]
fn a_channel_has_every_value_answered_once_however_its_workers_come_and_go() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let (count, workers) = draw::workers(&mut world.rng);
    let (lasts, is_durable) = (draw::lasts(&mut world.rng), world.rng.random_bool(0.5));
    let pause = lasts / (count as u32 + 1);
    world.ledger.emitted(0..count);
    world.ledger.book.update(|page| page.lives = workers.len());
    let world = Arc::new(world);
    for life in workers {
        start(&world, life)?;
    }
    let results = if is_durable {
        let queue = Arc::new(MemoryQueue::new(1000));
        let (sender, mut receiver) = world.node().serve_durable_channel("triple", queue, ChannelOptions::default())?;
        let monitor = sender.monitor();
        let send = async move {
            for number in 0..count {
                sender.send(number).await.map_err(|error| error.cause)?;
                sleep(pause).await;
            }
            drop(sender);
            Outcome::Ok(())
        };
        let receive = async {
            let mut results = Vec::new();
            while let Some(result) = receiver.recv().await {
                results.push(result?.answer);
            }
            Result::<Vec<u64>, ChannelError>::Ok(results)
        };
        let (sent, results) = timeout(PATIENCE, async { tokio::join!(send, receive) }).await?;
        sent?;
        monitor.finished().await?;
        check(monitor.counters(), count)?;
        results?
    } else {
        let (sender, mut receiver) = world.node().serve_channel("triple", ChannelOptions::default())?;
        let monitor = sender.monitor();
        let send = async move {
            for number in 0..count {
                sender.send(number).await.map_err(|error| error.cause)?;
                sleep(pause).await;
            }
            drop(sender);
            Outcome::Ok(())
        };
        let receive = async {
            let mut results = Vec::new();
            while let Some(result) = receiver.recv().await {
                results.push(result?);
            }
            Result::<Vec<u64>, ChannelError>::Ok(results)
        };
        let (sent, results) = timeout(PATIENCE, async { tokio::join!(send, receive) }).await?;
        sent?;
        monitor.finished().await?;
        check(monitor.counters(), count)?;
        results?
    };
    let mut results: Vec<u64> = results;
    results.sort_unstable();
    if results != (0..count).map(|number| number * 3).collect::<Vec<_>>() {
        return Err(format!("of {count} results came {results:?}").into());
    }
    world.lives_have_ended().await;
    world.end().await
}

fn check(counters: aqueduct_transport::pulling::Counters, count: u64) -> Outcome {
    if (counters.dead, counters.expired, counters.late) != (0, 0, 0) || counters.finished != count {
        return Err(format!("of {count}: {counters:?}").into());
    }
    Ok(())
}

/// Workers of a channel are always on another machine, whatever place was drawn for them.
fn start(world: &Arc<World>, life: Working) -> Outcome {
    let of = Arc::clone(world);
    let (host, node) = world.machine(&life.name)?;
    spawn(world, &host.clone(), async move {
        works(&of, node, &life).await?;
        let Some((after, again)) = life.again() else { return Ok(()) };
        let node = of.restart(&host, after).await?;
        works(&of, node, &again).await
    });
    Ok(())
}

async fn works(world: &World, node: Node, life: &Working) -> Outcome {
    sleep(life.joins).await;
    let options = JoinOptions::default();
    let options = if let Some(window) = life.window.clone() { options.values(window) } else { options };
    let tasks: ChannelWorker<u64, u64> = node.join_channel("triple", world.there.address(PORT), options);
    drop(node);
    work(world, life, tasks).await?;
    Ok(())
}
