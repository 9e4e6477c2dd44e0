//! One consumer's life, from its start to its end.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Host, Outcome};
use aqueduct_stage::{Exit, FailureKind, Graph, GraphError, Running, Source};
use aqueduct_transport::Node;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::draw::{End, Life, Place, Way};
use crate::handler::{Given, Handler, Handling, Shared};
use crate::ledger::Who;
use crate::world::{SLACK, World, spawn};

/// Starts a consumer of a source that is `near` for those in its process, and that those on other machines find `far`.
pub(crate) fn start<N, F, I>(
    world: &Arc<World>,
    near: &N,
    far: impl Fn(&World, &Node) -> F + Send + 'static,
    life: Life,
    instances: u32,
) -> Outcome
where
    N: Source<Item = I> + Clone,
    F: Source<Item = I> + Clone,
    I: Given,
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
            spawn(world, &host.clone(), async move {
                live(&of, &host, &far(&of, &node), &life, instances).await?;
                let Some((after, again)) = life.again() else { return Ok(()) };
                drop(node);
                let node = of.restart(&host, after).await?;
                live(&of, &host, &far(&of, &node), &again, instances).await
            });
        }
    }
    Ok(())
}

/// Lives once `life.joins` has come, and checks that it ends as it should. Whenever its source has ended for a restart, it comes
/// back.
async fn live<Src>(world: &World, host: &Host, source: &Src, life: &Life, instances: u32) -> Outcome
where
    Src: Source<Item: Given> + Clone,
{
    sleep(life.joins.saturating_sub(world.net.now())).await;
    while live_once(world, host, source, life, instances).await? == Then::ComesBack {
        sleep(SHORTLY).await;
    }
    Ok(())
}

/// What a consumer does after its end.
#[derive(PartialEq)]
pub(crate) enum Then {
    Nothing,
    ComesBack,
}

async fn live_once<Src>(world: &World, host: &Host, source: &Src, life: &Life, instances: u32) -> Outcome<Then>
where
    Src: Source<Item: Given> + Clone,
{
    world.net.note(&format!("{life:?} begins"), &[]);
    let mut rng = world.net.rng(&life.name);
    let (shared, who) = (Arc::new(Shared::default()), Who::new(&life.name));
    let graph = Graph::with_spawner(life.name.clone(), host.clone());
    let cancels_after = matches!(life.end, End::After(_, Way::CancelInside)).then(|| rng.random_range(1..10));
    let stage = {
        let (per_event, ledger, shared, who) =
            (life.per_event, Arc::clone(&world.ledger), Arc::clone(&shared), who.clone());
        let make = move || {
            let (who, ledger, shared) = (who.clone(), Arc::clone(&ledger), Arc::clone(&shared));
            Handler { who, per_event, ledger, shared, cancels_after, given: PhantomData }
        };
        Given::subscribe(graph.consumer("handle", make).concurrency(life.instances), life, source)
    };
    let edges = life.instances as u32 * instances;
    let mut living = Living { world, life, source, edges, running: graph.start(), stage, shared, who };
    match life.end {
        End::WithSource => living.joins().await,
        End::After(_, Way::CancelInside) => {
            living.ends_early();
            living.cancels_inside().await
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

struct Living<'a, Src: Source> {
    world: &'a World,
    life: &'a Life,
    source: &'a Src,
    /// How many subscriptions it has.
    edges: u32,
    running: Running,
    stage: Handling<Src::Item>,
    shared: Arc<Shared>,
    who: Who,
}

impl<Src: Source<Item: Given> + Clone> Living<'_, Src> {
    async fn joins(&mut self) -> Outcome<Then> {
        let ended = self.running.join().await.map(drop);
        let then = self.judge(ended)?;
        // A producer that is shut down ends as if it had emitted everything.
        let is_early = self.world.restarts && !self.world.ledger.is_exhausted();
        Ok(if is_early { Then::ComesBack } else { then })
    }

    async fn ends(mut self, way: Way) -> Outcome<Then> {
        self.ends_early();
        let bound = self.bound();
        let begun = self.world.net.now();
        let patience = self.life.impatience.map_or(NEVER, |(patience, _)| patience);
        let ended = match way {
            Way::Shutdown => timeout(patience, self.running.shutdown(bound)).await,
            Way::Stop => return self.break_off().await,
            Way::Dropped => return self.let_go(),
            Way::CancelInside => return Ok(Then::Nothing),
            Way::Cancel => {
                for edge in self.shared.edges() {
                    self.running.cancel(&self.stage, edge, Exit::Normal);
                }
                timeout(patience, self.running.join()).await
            }
            Way::Resubscribe => {
                let Some(edge) = self.shared.edges().first().copied() else { return self.joins().await };
                let window = self.life.window.clone();
                self.running.resubscribe(&self.stage, edge, Exit::Normal, self.source, window);
                return self.joins().await;
            }
        };
        let Ok(ended) = ended else { return self.hurry_up().await };
        let took = self.world.net.now() - begun;
        let then = self.judge(ended.map(drop))?;
        // One that has not subscribed yet cannot be told so, and takes part to the end.
        if way != Way::Cancel && took > bound {
            return Err(format!("{}: {way:?} took {took:?}, expected {bound:?} at most", self.life.name).into());
        }
        Ok(then)
    }

    async fn cancels_inside(mut self) -> Outcome<Then> {
        let patience = self.life.impatience.map_or(NEVER, |(patience, _)| patience);
        let shared = Arc::clone(&self.shared);
        let hurry = async {
            shared.cancelled.notified().await;
            sleep(patience).await;
        };
        tokio::select! {
            biased;
            ended = self.running.join() => return self.judge(ended.map(drop)),
            () = hurry => {}
        }
        self.hurry_up().await
    }

    /// Somebody does not want to wait for its end.
    async fn hurry_up(self) -> Outcome<Then> {
        let way = self.life.impatience.map_or(Way::Dropped, |(_, way)| way);
        self.world.net.note(&format!("{} is hurried by {way:?}", self.life.name), &[]);
        if way == Way::Dropped { self.let_go() } else { self.break_off().await }
    }

    async fn break_off(mut self) -> Outcome<Then> {
        let (bound, begun) = (self.bound(), self.world.net.now());
        let ended = self.running.stop(bound).await.map(drop);
        let took = self.world.net.now() - begun;
        if took > bound {
            return Err(format!("{}: a stop took {took:?}, expected {bound:?} at most", self.life.name).into());
        }
        self.judge(ended)
    }

    fn let_go(self) -> Outcome<Then> {
        self.who.may_break_off();
        drop(self.running);
        Ok(Then::Nothing)
    }

    /// How long an end may take.
    fn bound(&self) -> Duration {
        self.life.window_time() * self.edges + SLACK
    }

    fn ends_early(&self) {
        if !self.life.acknowledges {
            self.world.ledger.may_lose(self.life.at_most() * u64::from(self.edges));
        }
    }

    /// It may have come too late, when there was nothing left for it; otherwise nothing fails.
    fn judge(&self, ended: Result<(), GraphError>) -> Outcome<Then> {
        let Err(error) = ended else { return Ok(Then::Nothing) };
        let is_late = error.failure.message().contains("has ended");
        let is_new = self.shared.edges().is_empty() || matches!(self.life.end, End::After(_, Way::Resubscribe));
        if is_late && is_new && self.world.ledger.is_exhausted() {
            return Ok(Then::Nothing);
        }
        if self.world.restarts && (is_late || error.failure.kind() == FailureKind::Shutdown) {
            return Ok(Then::ComesBack);
        }
        let (at, unhandled) = (self.world.net.now(), self.world.ledger.unhandled());
        Err(format!("{} failed at {at:?}, {unhandled:?} unhandled: {error:?}; {:?}", self.life.name, self.life).into())
    }
}

const NEVER: Duration = Duration::from_secs(100_000);
/// How long after the end of its source a consumer comes back.
pub(crate) const SHORTLY: Duration = Duration::from_millis(100);
