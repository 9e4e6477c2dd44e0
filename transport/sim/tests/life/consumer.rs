//! One consumer's life, from its start to its end.

use std::sync::Arc;

use aqueduct_sim::{Host, Outcome};
use aqueduct_stage::{Exit, Graph, GraphError, Never, NoOutput, Running, Source, Stage};
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::draw::{End, Life, Place, Way};
use crate::handler::{Handler, Shared};
use crate::world::{SLACK, World, spawn};

type Handling = Stage<Handler, u64, Never, NoOutput>;

/// Starts a consumer of what the producer's machine has published as `numbers`, and which is `near` for those in its process.
pub(crate) fn start<Src>(world: &Arc<World>, near: &Src, life: Life, instances: u32) -> Outcome
where
    Src: Source<Item = u64> + Clone,
{
    let of = Arc::clone(world);
    match life.place {
        Place::Near => {
            let source = near.clone();
            spawn(world, &world.there, async move {
                live(&of, &of.there, &source, &life, instances).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                sleep(after).await;
                live(&of, &of.there, &source, &again, instances).await
            });
        }
        Place::Far => {
            let (host, node) = world.machine(&life.name)?;
            let source = world.far::<u64>(&node, "numbers");
            spawn(world, &host.clone(), async move {
                live(&of, &host, &source, &life, instances).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                drop((node, source));
                let node = of.restart(&host, after).await?;
                live(&of, &host, &of.far::<u64>(&node, "numbers"), &again, instances).await
            });
        }
    }
    Ok(())
}

/// Lives once `life.joins` has come, and checks that it ends as it should.
async fn live<Src>(world: &World, host: &Host, source: &Src, life: &Life, instances: u32) -> Outcome
where
    Src: Source<Item = u64> + Clone,
{
    sleep(life.joins.saturating_sub(world.net.now())).await;
    world.net.note(&format!("{life:?} begins"), &[]);
    let mut rng = world.net.rng(&life.name);
    let shared = Arc::new(Shared::default());
    let graph = Graph::with_spawner(life.name.clone(), host.clone());
    let cancels_after = matches!(life.end, End::After(_, Way::CancelInside)).then(|| rng.random_range(1..10));
    let stage = {
        let (life, ledger, shared) = (life.clone(), Arc::clone(&world.ledger), Arc::clone(&shared));
        let make = move || Handler {
            who: life.name.clone(),
            per_event: life.per_event,
            ledger: Arc::clone(&ledger),
            shared: Arc::clone(&shared),
            cancels_after,
        };
        graph.consumer("handle", make).concurrency(life.instances)
    };
    let stage = if life.acknowledges {
        stage.subscribe_acknowledged(source, life.window.clone())
    } else {
        stage.subscribe(source, life.window.clone())
    };
    let mut living =
        Living { world, life, source, edges: life.instances as u32 * instances, running: graph.start(), stage, shared };
    match life.end {
        End::WithSource => living.joins().await,
        End::After(_, Way::CancelInside) => {
            living.ends_early();
            living.joins().await
        }
        End::After(after, way) => {
            if rng.random_bool(0.5) {
                sleep(after).await;
            } else if let Ok(ended) = timeout(after, living.running.join()).await {
                return living.judge(ended.map(drop));
            }
            world.net.note(&format!("{} ends by {way:?}", life.name), &[]);
            living.ends(way).await
        }
    }
}

struct Living<'a, Src> {
    world: &'a World,
    life: &'a Life,
    source: &'a Src,
    /// How many subscriptions it has.
    edges: u32,
    running: Running,
    stage: Handling,
    shared: Arc<Shared>,
}

impl<Src: Source<Item = u64> + Clone> Living<'_, Src> {
    async fn joins(&mut self) -> Outcome {
        let ended = self.running.join().await.map(drop);
        self.judge(ended)
    }

    async fn ends(mut self, way: Way) -> Outcome {
        self.ends_early();
        let bound = self.life.window_time() * self.edges + SLACK;
        let begun = self.world.net.now();
        let ended = match way {
            Way::Shutdown => self.running.shutdown(bound).await.map(drop),
            Way::Stop => self.running.stop(bound).await.map(drop),
            Way::Dropped => {
                drop(self.running);
                return Ok(());
            }
            Way::CancelInside => return Ok(()),
            Way::Cancel => {
                for edge in self.shared.edges() {
                    self.running.cancel(&self.stage, edge, Exit::Normal);
                }
                self.running.join().await.map(drop)
            }
            Way::Resubscribe => {
                let Some(edge) = self.shared.edges().first().copied() else { return self.joins().await };
                let window = self.life.window.clone();
                self.running.resubscribe(&self.stage, edge, Exit::Normal, self.source, window);
                return self.joins().await;
            }
        };
        let took = self.world.net.now() - begun;
        self.judge(ended)?;
        // One that has not subscribed yet cannot be told so, and takes part to the end.
        if way != Way::Cancel && took > bound {
            return Err(format!("{}: {way:?} took {took:?}, expected {bound:?} at most", self.life.name).into());
        }
        Ok(())
    }

    fn ends_early(&self) {
        if self.life.acknowledges {
            self.world.ledger.ends_early(self.edges);
        } else {
            self.world.ledger.may_lose(self.life.at_most() * u64::from(self.edges));
        }
    }

    /// It may have come too late, when there was nothing left for it; otherwise nothing fails.
    fn judge(&self, ended: Result<(), GraphError>) -> Outcome {
        let Err(error) = ended else { return Ok(()) };
        let said = error.failure.message().contains("has ended");
        let is_new = self.shared.edges().is_empty() || matches!(self.life.end, End::After(_, Way::Resubscribe));
        if said && is_new && self.world.ledger.is_exhausted() {
            return Ok(());
        }
        let (at, unhandled) = (self.world.net.now(), self.world.ledger.unhandled());
        Err(format!("{} failed at {at:?}, {unhandled:?} unhandled: {error:?}; {:?}", self.life.name, self.life).into())
    }
}
