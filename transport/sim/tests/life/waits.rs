//! Graphs in which somebody is missing: a stage without a subscriber, or a partition, or the second of two that are awaited.
//! If he comes, all ends well; if he may come, what is waited for is said; and if nobody can come, that is an error.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use aqueduct_stage::{Graph, Running, Source, map};
use rand::Rng;
use tokio::time::timeout;

use crate::draw;
use crate::handler::{Handler, Shared};
use crate::ledger::Who;
use crate::world::{SLACK, World, sim};

#[test]
fn a_graph_in_which_somebody_is_missing_ends_or_says_whom_it_waits_for() {
    sim().swarm(0..60, async |net| lives(&net).await);
}

/// Who waits for somebody.
#[derive(Clone, Copy, Debug)]
enum Missing {
    /// Nobody subscribes to the source.
    Subscriber,
    /// Nobody subscribes to what stands behind it.
    Consumer,
    /// One of the partitions has nobody.
    Partition,
    /// Two are awaited, and there is one.
    Second,
}

/// What becomes of that.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// He comes after so long.
    Comes(Duration),
    /// The stage is published, and he comes from another machine after so long.
    ComesFromAfar(Duration),
    /// He never does.
    Never,
}

async fn lives(net: &SimNet) -> Outcome {
    let mut world = World::new(net)?;
    let rng = &mut world.rng;
    let missing = [Missing::Subscriber, Missing::Consumer, Missing::Partition, Missing::Second][rng.random_range(0..4)];
    let then = match rng.random_range(0..3) {
        0 => Then::Comes(Duration::from_millis(rng.random_range(0..4000))),
        1 => Then::ComesFromAfar(Duration::from_millis(rng.random_range(100..20_000))),
        _ => Then::Never,
    };
    let (count, window) = (rng.random_range(1..200), draw::window(rng));
    net.note(&format!("{missing:?} {then:?} {count} {window:?}"), &[]);
    world.ledger.emitted(0..count);
    let graph = Graph::with_spawner("waiting", world.there.clone());
    let numbers = graph.iterate("numbers", move || 0..count);
    match missing {
        Missing::Subscriber => comes(&world, then, "numbers", &numbers, graph.start()).await?,
        Missing::Consumer => {
            let same = graph.stage("same", || map(|n: u64| n)).subscribe(&numbers, window);
            comes(&world, then, "same", &same, graph.start()).await?;
        }
        Missing::Partition => {
            let numbers = numbers.partition(2, |n: &u64| (*n % 2) as usize);
            graph.consumer("even", handler(&world, "even")).subscribe(&numbers.part(0), window);
            comes(&world, then, "numbers", &numbers.part(1), graph.start()).await?;
        }
        Missing::Second => {
            let numbers = numbers.wait_for_subscribers(2);
            graph.consumer("first", handler(&world, "first")).subscribe(&numbers, window);
            comes(&world, then, "numbers", &numbers, graph.start()).await?;
        }
    }
    if then == Then::Never { Ok(()) } else { world.end().await }
}

async fn comes<Src>(world: &World, then: Then, stage: &str, source: &Src, mut running: Running) -> Outcome
where
    Src: Source<Item = u64> + Clone,
{
    match then {
        Then::Comes(after) => {
            if let Ok(ended) = timeout(after, running.join()).await {
                return Err(format!("it ends before he comes: {ended:?}").into());
            }
            let handle = handler(world, "last");
            running.add(|graph| graph.consumer("last", handle).subscribe(source, 5..10));
            timeout(SLACK, running.join()).await.map_err(|_| "it does not end, although nobody is missing")??;
        }
        Then::ComesFromAfar(after) => {
            world.node().publish("numbers", source)?;
            if let Ok(ended) = timeout(after, running.join()).await {
                return Err(format!("it ends before he comes: {ended:?}").into());
            }
            let snapshot = running.snapshot();
            if snapshot.stage(stage).is_none_or(|stage| stage.waiting_for.is_none()) {
                return Err(format!("{stage} does not say that it waits: {snapshot:?}").into());
            }
            let (host, node) = world.machine("here")?;
            let graph = Graph::with_spawner("coming", host);
            graph.consumer("last", handler(world, "last")).subscribe(&world.far::<u64>(&node, "numbers"), 5..10);
            timeout(SLACK, graph.run()).await.map_err(|_| "who has come does not end")??;
            timeout(SLACK, running.join()).await.map_err(|_| "it does not end, although nobody is missing")??;
        }
        Then::Never => {
            let ended = timeout(SLACK, running.join()).await;
            let Ok(ended) = ended else { return Err(format!("it hangs: {:?}", running.snapshot()).into()) };
            let error = ended.err().ok_or("a success, although nobody came")?;
            if error.failure.origin() != stage {
                return Err(format!("expected a failure of {stage}: {error:?}").into());
            }
        }
    }
    Ok(())
}

fn handler(world: &World, who: &str) -> impl FnMut() -> Handler<u64> + Send + 'static + use<> {
    let (ledger, who) = (Arc::clone(&world.ledger), Who::new(who));
    let shared = Arc::new(Shared::default());
    move || Handler {
        who: who.clone(),
        per_event: Duration::ZERO,
        ledger: Arc::clone(&ledger),
        shared: Arc::clone(&shared),
        cancels_after: None,
        given: PhantomData,
    }
}
