//! Channels on which only results come in, over the simulated network: senders that crash and are cut off, and a server that
//! is started again.

use std::collections::BTreeMap;
use std::time::Duration;

use aqueduct_sim::{Host, Outcome};
use aqueduct_transport::{ChannelOptions, JoinOptions, Node, NodeConfig, ResultReceiver};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

#[path = "support/channels.rs"]
mod channels;
#[path = "support/nodes.rs"]
mod nodes;

use channels::{PATIENCE, World, sim};
use nodes::{lost_after, told};

const VALUES: u64 = 60;
const WORKERS: u64 = 3;
const IDLE: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(5);

/// Of each sender everything comes once and in its order, up to where it died; nobody else notices.
#[test]
fn failures_01_05_and_12_of_each_sender_every_value_comes_once_and_in_order() {
    sim().swarm(0..100, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("faults");
        let (server, mut receiver) = world.serve(rng.random_range(2..50))?;
        let mut workers: Vec<_> = (0..WORKERS).map(|number| world.start(number, 0)).collect::<Outcome<_>>()?;
        let lives = rng.random_range(2..5);
        // By worker and life: the next number.
        let mut next = BTreeMap::<(u64, u64), u64>::new();
        let mut rng_of_receiver = net.rng("receiver");
        let receiving = async {
            loop {
                let (worker, life, number) = received(&mut receiver).await;
                let expected = next.entry((worker, life)).or_insert(0);
                assert_eq!(number, *expected, "of worker {worker} in its life {life}");
                *expected += 1;
                sleep(Duration::from_millis(rng_of_receiver.random_range(0..100))).await;
            }
        };
        let faults = async {
            let mut last = [0; WORKERS as usize];
            for life in 1..lives {
                sleep(Duration::from_millis(rng.random_range(100..4000))).await;
                let number = rng.random_range(0..WORKERS);
                let worker = &mut workers[number as usize];
                let host = worker.host.clone();
                match rng.random_range(0..3) {
                    // One that is done stays: nobody sends what it has sent.
                    0 if worker.outcome.borrow().is_none() => {
                        host.crash();
                        sleep(Duration::from_millis(rng.random_range(0..10_000))).await;
                        host.restart();
                        *worker = world.start_on(host, number, life).expect("it is up again");
                        last[number as usize] = life;
                    }
                    0 | 1 => host.stall(Duration::from_millis(rng.random_range(100..30_000))),
                    _ => {
                        net.partition(&world.there, &host);
                        sleep(Duration::from_millis(rng.random_range(100..20_000))).await;
                        net.heal_all();
                    }
                }
            }
            for worker in workers {
                assert_eq!(worker.ends().await, Ok(()), "it was told that everything was received");
            }
            last
        };
        let last = tokio::select! {
            () = receiving => unreachable!("it has no end"),
            last = faults => last,
        };
        for (worker, life) in (0..).zip(last) {
            assert_eq!(next.get(&(worker, life)), Some(&VALUES), "of worker {worker}");
        }
        drop(server);
        Ok(())
    });
}

/// Senders find it again, and nothing is lost; what comes twice was received before the crash.
#[test]
fn failure_02_senders_find_a_server_that_was_started_again_and_lose_nothing() {
    sim().swarm(0..100, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("crashes");
        let mut workers: Vec<_> = (0..WORKERS).map(|number| world.start(number, 0)).collect::<Outcome<_>>()?;
        // By worker: the next number that was never received.
        let mut new = [0; WORKERS as usize];
        for is_last in [false, false, true] {
            let (server, mut receiver) = world.serve(rng.random_range(3..50))?;
            let mut before = rng.random_range(0..VALUES);
            let mut next = BTreeMap::new();
            while if is_last { new != [VALUES; WORKERS as usize] } else { before > 0 } {
                if new == [VALUES; WORKERS as usize] {
                    break;
                }
                let (worker, _, number) = received(&mut receiver).await;
                let new = &mut new[worker as usize];
                assert!(number <= *new, "of worker {worker}, {number} came and {new} did not");
                // To one server nothing comes twice.
                let expected = next.entry(worker).or_insert(number);
                assert_eq!(number, *expected, "of worker {worker}");
                *expected += 1;
                *new = (*new).max(number + 1);
                before = before.saturating_sub(1);
            }
            if is_last {
                // Something may still come again, and be received: senders wait for that.
                let ends = async {
                    for worker in workers.drain(..) {
                        assert_eq!(worker.ends().await, Ok(()));
                    }
                };
                let again = async {
                    loop {
                        received(&mut receiver).await;
                    }
                };
                tokio::select! {
                    () = ends => {}
                    () = again => {}
                }
                drop(server);
                break;
            }
            world.there.crash();
            drop((server, receiver));
            sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
            world.there.restart();
        }
        Ok(())
    });
}

/// Closed or dropped at any time: every sender is told, and says how many of its values are uncertain.
#[test]
fn failure_45_when_nobody_receives_any_more_senders_are_told() {
    sim().swarm(0..50, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("close");
        let (server, mut receiver) = world.serve(20)?;
        let workers: Vec<_> = (0..WORKERS).map(|number| world.start(number, 0)).collect::<Outcome<_>>()?;
        let mut count = [0; WORKERS as usize];
        for _ in 0..rng.random_range(0..VALUES) {
            let (worker, ..) = received(&mut receiver).await;
            count[worker as usize] += 1;
        }
        if rng.random_bool(0.5) {
            receiver.close();
            while let Some((worker, ..)) = timeout(PATIENCE, receiver.recv()).await.expect("it does not end") {
                count[worker as usize] += 1;
            }
        }
        drop(receiver);
        for (number, worker) in workers.into_iter().enumerate() {
            let (sent, uncertain) = worker.ends().await.expect_err("nobody received everything");
            let received = count[number];
            assert!(received <= sent && sent - received <= uncertain, "{sent} sent, {received} received, {uncertain}");
        }
        drop(server);
        Ok(())
    });
}

type Value = (u64, u64, u64);

async fn received(receiver: &mut ResultReceiver<Value>) -> Value {
    timeout(PATIENCE, receiver.recv()).await.expect("nothing comes").expect("it is open")
}

/// A worker's machine.
struct Worker {
    host: Host,
    _node: Node,
    /// Everything was received; or how many were sent and how many of them are uncertain.
    outcome: watch::Receiver<Option<Result<(), (u64, u64)>>>,
}

/// A lost machine is soon noticed.
fn config() -> NodeConfig {
    lost_after(IDLE).session_grace(GRACE)
}

impl World {
    fn serve(&self, capacity: usize) -> Outcome<(Node, ResultReceiver<Value>)> {
        let node = self.server()?;
        let receiver = node.serve_results("numbers", ChannelOptions::default().capacity(capacity))?;
        Ok((node, receiver))
    }

    fn start(&self, number: u64, life: u64) -> Outcome<Worker> {
        self.start_on(self.there.net().host(&format!("here-{number}")), number, life)
    }

    fn start_on(&self, host: Host, number: u64, life: u64) -> Outcome<Worker> {
        let node = self.worker(&host)?;
        let mut rng = self.there.net().rng(&format!("worker {number} {life}"));
        let max = rng.random_range(1..8);
        let options = JoinOptions::default().values(rng.random_range(0..max)..max).patience(2 * PATIENCE);
        let mut sender = node.join_results::<Value>("numbers", self.address(), options);
        let (told, outcome) = watch::channel(None);
        host.spawn("worker", async move {
            for value in 0..VALUES {
                sleep(Duration::from_millis(rng.random_range(0..200))).await;
                if sender.send((number, life, value)).await.is_err() {
                    told.send_replace(Some(Err((value, sender.unreceived() as u64))));
                    return;
                }
            }
            let outcome = sender.flush().await.map_err(|error| (VALUES, error.values as u64));
            told.send_replace(Some(outcome));
        });
        Ok(Worker { host, _node: node, outcome })
    }
}

impl Worker {
    async fn ends(mut self) -> Result<(), (u64, u64)> {
        told(2 * PATIENCE, &mut self.outcome).await
    }
}
