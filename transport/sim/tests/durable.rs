//! Queues and positions that outlive their machines, over the simulated network.
//!
//! What is durable is kept in memory outside of the machines, so that it survives their crashes as a disk does: blocking
//! threads are not simulated. With redb and real processes the same is tested in `transport/tests/kill.rs`.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::{Backoff, Batch, Consumer, Cx, Graph, Intensity, Restart, Result, Running};
use aqueduct_transport::{Authority, Identity, MemoryQueue, Node, Numbered, Once, Positions, QueueSource, Retrying};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

#[path = "support/book.rs"]
mod book;
#[path = "support/nodes.rs"]
mod nodes;

use book::Book;
use nodes::{PORT, lost_after};

const EVENTS: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(600);
/// So that a lost machine is noticed soon.
const IDLE: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(5);
/// QUIC takes nobody for lost before three of its probe timeouts are over, and those are seconds on a bad network.
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);

/// A producer's machine dies, and comes back with what was on its disk.
#[test]
fn failure_03_a_restarted_producer_with_a_durable_queue_loses_nothing() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net)?;
        let mut rng = net.rng("crashes");
        let mut producer = world.produce(0)?;
        let mut consuming = world.consume(false)?;
        for life in 1..4 {
            world.applied(rng.random_range(1..30)).await;
            world.there.crash();
            drop(producer);
            sleep(Duration::from_millis(rng.random_range(0..8000))).await;
            world.there.restart();
            producer = world.produce(life)?;
        }
        world.disk.book.until("all is accepted", |disk| disk.accepted.len() as u64 == EVENTS).await;
        producer.1.close();
        timeout(PATIENCE, consuming.1.join()).await.expect("it does not end")?;
        world.everything_took_place_once()
    });
}

/// A consumer's machine dies, most often between an effect and its acknowledgement.
#[test]
fn failure_11_a_consumer_that_crashes_after_the_effect_applies_it_once() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net)?;
        let producer = world.produce(0)?;
        for _ in 0..3 {
            let consuming = world.consume(true)?;
            let crashed = world.disk.clone();
            // It crashes its own machine in the middle of a callback.
            crashed.book.until("it crashes", |disk| disk.crashes > 0).await;
            world.here.crash();
            drop(consuming);
            world.disk.book.update(|disk| disk.crashes -= 1);
            world.here.restart();
        }
        let mut consuming = world.consume(false)?;
        world.disk.book.until("all is accepted", |disk| disk.accepted.len() as u64 == EVENTS).await;
        producer.1.close();
        timeout(PATIENCE, consuming.1.join()).await.expect("it does not end")?;
        world.everything_took_place_once()
    });
}

fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(3600))
}

/// What survives a crash.
#[derive(Clone)]
struct Disk {
    queue: Arc<MemoryQueue>,
    book: Arc<Book<State>>,
}

#[derive(Default)]
struct State {
    /// What was pushed, and known to be.
    accepted: Vec<u64>,
    /// In the order in which they were applied; with the position, in one step.
    effects: Vec<u64>,
    position: Option<u64>,
    crashes: usize,
}

/// The position that is changed together with the effects.
struct OnDisk(Disk);

impl Positions for OnDisk {
    async fn position(&self, _: &str) -> Result<Option<u64>, aqueduct_transport::StoreError> {
        Ok(self.0.book.lock().position)
    }

    async fn store(&self, _: &str, position: u64) -> Result<(), aqueduct_transport::StoreError> {
        self.0.book.update(|disk| disk.position = Some(position));
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<bool, aqueduct_transport::StoreError> {
        Ok(self.0.book.lock().position.take().is_some())
    }
}

/// One producer's machine and one consumer's.
struct World {
    net: SimNet,
    there: Host,
    here: Host,
    /// Of both, and the same in all their lives: who comes back with its key can end the connections that it had.
    identities: [Identity; 2],
    disk: Disk,
    lives: u64,
}

impl World {
    fn new(net: &SimNet) -> Outcome<Self> {
        net.set_default_conditions(LinkConditions::draw(&mut net.rng("world")));
        let disk = Disk { queue: Arc::new(MemoryQueue::new(10_000)), book: Arc::new(Book::new(PATIENCE)) };
        let (there, here) = (net.host("there"), net.host("here"));
        let authority = Authority::dev("sim")?;
        let identities = [authority.issue(there.name())?, authority.issue(here.name())?];
        Ok(Self { net: net.clone(), there, here, identities, disk, lives: 0 })
    }

    fn node(&self, host: &Host, identity: &Identity) -> Outcome<Node> {
        nodes::start(host, identity.clone(), lost_after(IDLE).session_grace(GRACE))
    }

    /// Starts the producer's node, and pushes what was not accepted yet.
    fn produce(&self, life: u64) -> Outcome<(Node, QueueSource<u64, MemoryQueue>)> {
        let node = self.node(&self.there, &self.identities[0])?;
        let source = QueueSource::new("numbers", Arc::clone(&self.disk.queue)).spawner(self.there.clone());
        node.publish("numbers", &source.exclusive())?;
        let (pushing, disk, mut rng) = (source.clone(), self.disk.clone(), self.net.rng(&format!("push {life}")));
        self.there.spawn("push", async move {
            let mut next = disk.book.lock().accepted.len() as u64;
            while next < EVENTS {
                let end = EVENTS.min(next + rng.random_range(1..8));
                pushing.push(next..end).await.expect("there is room");
                disk.book.update(|disk| disk.accepted.extend(next..end));
                next = end;
                sleep(Duration::from_millis(rng.random_range(0..300))).await;
            }
        });
        Ok((node, source))
    }

    fn consume(&mut self, crashes: bool) -> Outcome<(Node, Running)> {
        self.lives += 1;
        let node = self.node(&self.here, &self.identities[1])?;
        let far = node.source::<Numbered<u64>>("numbers", self.there.address(PORT));
        let once = Once::new(&far, Arc::new(OnDisk(self.disk.clone())), "apply");
        let patient = Retrying::new(&once, PATIENCE);
        let graph = Graph::with_spawner("consuming", self.here.clone())
            .intensity(Intensity::new(100, PATIENCE))
            .backoff(Backoff::exponential(Duration::from_millis(50), Duration::from_millis(500)));
        let (disk, label, net) = (self.disk.clone(), format!("apply {}", self.lives), self.net.clone());
        let crash_after = net.rng(&label).random_range(0..10);
        let apply = move || Apply {
            disk: disk.clone(),
            rng: net.rng(&label),
            crash_after: if crashes { crash_after } else { usize::MAX },
        };
        graph.consumer("apply", apply).subscribe_acknowledged(&patient, 2..6).restart(Restart::Transient);
        Ok((node, graph.start()))
    }

    /// Waits until so many more events have been applied.
    async fn applied(&self, more: usize) {
        let enough = (self.disk.book.lock().effects.len() + more).min(EVENTS as usize);
        timeout(GOES_ON_WITHIN, self.disk.book.until("enough is applied", |disk| disk.effects.len() >= enough))
            .await
            .expect("it does not go on");
    }

    fn everything_took_place_once(&self) -> Outcome {
        let disk = self.disk.book.lock();
        assert_eq!(disk.effects, (0..EVENTS).collect::<Vec<_>>(), "lost, twice, or out of order");
        Ok(())
    }
}

/// Applies events and stores its position in one step.
struct Apply {
    disk: Disk,
    rng: StdRng,
    /// Batches.
    crash_after: usize,
}

impl Consumer for Apply {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, events: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        sleep(Duration::from_millis(self.rng.random_range(0..300))).await;
        self.disk.book.update(|disk| {
            for numbered in events {
                // That nothing comes again is for the subscription to see to, and not checked here.
                disk.effects.push(numbered.event);
                disk.position = Some(numbered.number);
            }
        });
        if self.crash_after == 0 {
            self.disk.book.update(|disk| disk.crashes += 1);
            // The acknowledgement never leaves.
            std::future::pending::<()>().await;
        }
        self.crash_after -= 1;
        Ok(())
    }
}
