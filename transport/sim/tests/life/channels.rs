//! Workers of a channel, durable or not, with every option at its default.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{EndCause, Exit};
use aqueduct_transport::pulling::Counters;
use aqueduct_transport::{ChannelError, ChannelOptions, ChannelWorker, JoinOptions, MemoryQueue, Node, SendErrorCause};
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
    let (pause, mut rng) = (lasts / (count as u32 + 1), world.net.rng("restarts"));
    world.ledger.emitted(0..count);
    world.ledger.book.update(|page| page.lives = workers.len());
    let world = Arc::new(world);
    for life in workers {
        start(&world, life)?;
    }
    let results = if is_durable {
        let restarts = draw::restarts(&mut rng);
        durable(&world, count, pause, restarts).await?
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

/// Has the values answered by a durable channel, whose machine is restarted in order meanwhile.
async fn durable(world: &World, count: u64, pause: Duration, restarts: Vec<(Duration, Duration)>) -> Outcome<Vec<u64>> {
    let queue = Arc::new(MemoryQueue::new(1000));
    let (mut restarts, mut next, mut results) = (restarts.into_iter(), 0, Vec::new());
    loop {
        // A worker that is busy with something else does not look for its server.
        let options = ChannelOptions::default().wait_for_workers(PATIENCE);
        let (sender, mut receiver) = world.node().serve_durable_channel("triple", Arc::clone(&queue), options)?;
        let (monitor, before) = (sender.monitor(), results.len() as u64);
        let send = async {
            while next < count {
                match sender.send(next).await.map_err(|error| error.cause) {
                    Ok(_) => next += 1,
                    // It is shut down.
                    Err(SendErrorCause::Closed) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
                sleep(pause).await;
            }
            sender.close();
            Outcome::Ok(())
        };
        let receive = async {
            while let Some(result) = receiver.recv().await {
                results.push(result?.answer);
            }
            Result::<(), ChannelError>::Ok(())
        };
        let restart = restarts.next();
        let ((sent, received), is_in_time) = {
            let mut life = pin!(timeout(PATIENCE, async { tokio::join!(send, receive) }));
            let ended = timeout(restart.map_or(PATIENCE, |(after, _)| after), &mut life).await;
            if let Ok(ended) = ended {
                (ended?, true)
            } else {
                world.net.note("the channel is shut down", &[]);
                let (ended, is_in_time) = tokio::join!(life, sender.shutdown(draw::LONGEST_TASK));
                (ended?, is_in_time)
            }
        };
        sent?;
        let done = results.len() as u64 - before;
        check(monitor.counters(), done)?;
        match (received, restart) {
            (Ok(()), _) => {
                monitor.finished().await?;
                return Ok(results);
            }
            (Err(ChannelError::Ended { cause: EndCause::Cancelled(Exit::Shutdown), .. }), Some((_, away))) => {
                if !is_in_time {
                    return Err(format!("workers do not give back what they have: {:?}", monitor.counters()).into());
                }
                drop((sender, receiver, monitor));
                world.ledger.restarted();
                world.restart(&world.there, away).await?;
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
}

fn check(counters: Counters, count: u64) -> Outcome {
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
