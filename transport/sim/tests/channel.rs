//! Channels over the simulated network: workers that crash, hang and are cut off, a server that is started again, and every
//! way to close.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Host, Outcome};
use aqueduct_transport::{
    ChannelError, ChannelOptions, ChannelWorker, DurableReceiver, DurableSender, JoinOptions, MemoryQueue, Node,
    NodeConfig, Queue, Receiver, Sender,
};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

#[path = "support/channels.rs"]
mod channels;
#[path = "support/nodes.rs"]
mod nodes;

use channels::{PATIENCE, World, sim};
use nodes::{lost_after, told};

const VALUES: u64 = 150;
const WORKERS: usize = 3;
const IDLE: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(5);
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long values wait for workers after the close.
const WAIT: Duration = Duration::from_secs(60);

/// Crashes, cuts and pauses of workers at any time: each value is answered once, and everybody is told of the end.
#[test]
fn failures_01_05_12_and_36_each_value_is_answered_once_whatever_happens_to_workers() {
    sim().swarm(0..100, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("faults");
        let (server, sender, receiver) = world.serve(rng.random_range(5..50))?;
        let mut workers: Vec<_> = (0..WORKERS).map(|number| world.start_worker(number)).collect::<Outcome<_>>()?;
        let sending = async move {
            for value in 0..VALUES {
                sender.send(value).await.expect("the channel is open");
            }
        };
        let faults = async {
            for _ in 0..rng.random_range(1..5) {
                sleep(Duration::from_millis(rng.random_range(100..8000))).await;
                let number = rng.random_range(0..WORKERS);
                let host = workers[number].host.clone();
                match rng.random_range(0..3) {
                    0 => {
                        host.crash();
                        sleep(Duration::from_millis(rng.random_range(0..10_000))).await;
                        host.restart();
                        workers[number] = world.start_worker_on(host, number).expect("it is up again");
                    }
                    1 => host.stall(Duration::from_millis(rng.random_range(100..60_000))),
                    _ => {
                        net.partition(&world.there, &host);
                        sleep(Duration::from_millis(rng.random_range(100..20_000))).await;
                        net.heal_all();
                    }
                }
            }
            workers
        };
        let (results, (), workers) = tokio::join!(results(receiver), sending, faults);
        assert_eq!(results?, expected());
        for worker in workers {
            worker.ends().await;
        }
        drop(server);
        Ok(())
    });
}

/// A worker is lost and does not come back: others do what it had, long before the grace or `ack_wait` is over.
#[test]
fn failure_01_what_a_lost_worker_had_is_soon_done_by_others() {
    sim().swarm(0..50, async |net| {
        let world = World::new(&net, config())?;
        let long = Duration::from_secs(300);
        let patient = config().session_grace(long).handshake_timeout(PATIENCE);
        let server = nodes::start(&world.there, world.identity.clone(), patient)?;
        let (sender, receiver) = server.serve_channel("triple", options(50).ack_wait(long))?;
        let mut workers: Vec<_> = (0..WORKERS).map(|number| world.start_worker(number)).collect::<Outcome<_>>()?;
        let sending = async move {
            for value in 0..VALUES {
                sender.send(value).await.expect("the channel is open");
            }
        };
        let mut rng = net.rng("loss");
        let lost = workers.remove(rng.random_range(0..WORKERS));
        let loss = async {
            sleep(Duration::from_millis(rng.random_range(0..3000))).await;
            lost.host.crash();
            net.now()
        };
        let (results, (), lost_at) = tokio::join!(results(receiver), sending, loss);
        assert_eq!(results?, expected());
        // It takes seconds, and most of a minute where another worker hangs.
        let took = net.now() - lost_at;
        assert!(took < Duration::from_secs(200), "{took:?} after the loss of a worker");
        for worker in workers {
            worker.ends().await;
        }
        drop(server);
        Ok(())
    });
}

/// The server is lost with what it has in memory, and started again: workers come back by themselves.
#[test]
fn failure_02_workers_find_a_server_that_was_started_again() {
    sim().swarm(0..50, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("crash");
        let (server, sender, mut receiver) = world.serve(50)?;
        let workers: Vec<_> = (0..WORKERS).map(|number| world.start_worker(number)).collect::<Outcome<_>>()?;
        for value in 0..50 {
            sender.send(value).await.map_err(|error| error.cause)?;
        }
        for _ in 0..rng.random_range(0..20) {
            timeout(PATIENCE, receiver.recv()).await.expect("no result in time").expect("it has not ended")?;
        }
        world.there.crash();
        drop((server, sender, receiver));
        sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
        world.there.restart();
        let (server, sender, receiver) = world.serve(1000)?;
        for value in 0..VALUES {
            sender.send(value).await.map_err(|error| error.cause)?;
        }
        drop(sender);
        assert_eq!(results(receiver).await?, expected());
        for worker in workers {
            worker.ends().await;
        }
        drop(server);
        Ok(())
    });
}

/// The server crashes several times, and its workers do, too: what the queue has accepted is answered, and a result comes a
/// second time only if the server died with it in hand. Where the effect takes the entry out of the queue, it takes place
/// once.
#[test]
fn failure_03_with_a_durable_queue_a_server_that_is_started_again_loses_nothing() {
    sim().swarm(0..250, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("crashes");
        let queue = Arc::new(MemoryQueue::new(rng.random_range(10..200)));
        let is_applied_once = rng.random_bool(0.5);
        let mut workers: Vec<_> = (0..WORKERS).map(|number| world.start_worker(number)).collect::<Outcome<_>>()?;
        // By id: the value, and how often its result was received.
        let (mut accepted, mut received) = (BTreeMap::new(), BTreeMap::new());
        let (mut next, mut crashes) = (0, rng.random_range(1..5));
        let server = loop {
            let (server, sender, mut receiver) = world.serve_durable(&queue, rng.random_range(5..50))?;
            let mut sender = Some(sender);
            let crash_at = (crashes > 0).then(|| received.len() + rng.random_range(0..VALUES as usize / 4));
            loop {
                if crash_at.is_some_and(|results| received.len() >= results) {
                    break;
                }
                if next == VALUES && crash_at.is_none() {
                    sender = None;
                }
                tokio::select! {
                    biased;
                    result = timeout(PATIENCE, receiver.recv()) => {
                        let Some(result) = result.expect("no result in time").transpose()? else { break };
                        let is_new = !is_applied_once || queue.acknowledge(&[result.id]).await? == 1;
                        if is_new {
                            let count = received.entry(result.id).or_insert(0);
                            *count += 1;
                            assert!(*count == 1 || result.attempt > 1, "{} came again as the first", result.id);
                            assert_eq!(result.answer, accepted[&result.id] * 3);
                        }
                    }
                    sent = async { sender.as_ref().expect("it is open").send(next).await },
                        if next < VALUES && sender.is_some() =>
                    {
                        accepted.insert(sent.map_err(|error| error.cause)?, next);
                        next += 1;
                    }
                }
            }
            if crash_at.is_none() {
                break server;
            }
            crashes -= 1;
            world.there.crash();
            drop((server, sender, receiver));
            if rng.random_bool(0.3) {
                let number = rng.random_range(0..WORKERS);
                let host = workers[number].host.clone();
                host.crash();
                host.restart();
                workers[number] = world.start_worker_on(host, number)?;
            }
            sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
            world.there.restart();
        };
        assert_eq!((accepted.len() as u64, received.len() as u64, queue.len().await?), (VALUES, VALUES, 0));
        if is_applied_once {
            assert!(received.values().all(|count| *count == 1), "{received:?}");
        }
        for worker in workers {
            worker.ends().await;
        }
        drop(server);
        Ok(())
    });
}

/// It is closed without workers and gives up, or crashes before; what is left waits in the queue, and so do workers that
/// come late, until it is served again.
#[test]
fn failure_45_what_a_closed_durable_channel_left_is_done_after_its_next_start() {
    sim().swarm(0..100, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("close");
        let queue = Arc::new(MemoryQueue::new(1000));
        let values = rng.random_range(1..20_u64);
        let (server, sender, mut receiver) = world.serve_durable(&queue, 50)?;
        for value in 0..values {
            sender.send(value).await.map_err(|error| error.cause)?;
        }
        drop(sender);
        let closed = net.now();
        let worker = if rng.random_bool(0.5) {
            let error = timeout(PATIENCE, receiver.recv()).await.expect("it does not end").expect("it is short");
            let error = error.expect_err("nobody works");
            assert!(matches!(error, ChannelError::NoWorkers { missing, .. } if missing == values), "{error}");
            assert!(net.now() - closed >= WAIT, "given up too early");
            assert!(timeout(PATIENCE, receiver.recv()).await.expect("it ends once").is_none(), "a second end");
            // It waits for the next start, although the server is there.
            let worker = rng.random_bool(0.5).then(|| world.start_worker(0)).transpose()?;
            sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
            worker
        } else {
            sleep(Duration::from_millis(rng.random_range(0..50_000))).await;
            None
        };
        world.there.crash();
        drop((server, receiver));
        assert_eq!(queue.len().await? as u64, values);
        sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
        world.there.restart();
        let (server, sender, receiver) = world.serve_durable(&queue, 50)?;
        drop(sender);
        let worker = match worker {
            Some(worker) => worker,
            None => {
                sleep(Duration::from_millis(rng.random_range(0..40_000))).await;
                world.start_worker(0)?
            }
        };
        let results = timeout(PATIENCE, receiver.collect::<Result<Vec<_>, _>>()).await.expect("results do not end")?;
        let mut results: Vec<_> = results.into_iter().map(|result| result.answer).collect();
        results.sort_unstable();
        assert_eq!(results, (0..values).map(|value| value * 3).collect::<Vec<_>>());
        assert_eq!(queue.len().await?, 0);
        worker.ends().await;
        drop(server);
        Ok(())
    });
}

/// Nothing waits, or somebody comes in time, or nobody does: an end or an error, and whoever comes later is told of the end.
#[test]
fn failure_45_a_close_without_workers_ends_and_late_workers_are_told() {
    sim().swarm(0..100, async |net| {
        let world = World::new(&net, config())?;
        let mut rng = net.rng("close");
        let (server, sender, mut receiver) = world.serve(1000)?;
        let values = if rng.random_bool(0.3) { 0 } else { rng.random_range(1..20) };
        for value in 0..values {
            sender.send(value).await.map_err(|error| error.cause)?;
        }
        drop(sender);
        let closed = net.now();
        let comes_after = Duration::from_millis(rng.random_range(0..120_000));
        let mut got = 0;
        let (end, worker) = tokio::join!(
            async {
                loop {
                    match timeout(PATIENCE, receiver.recv()).await.expect("the channel does not end") {
                        Some(Ok(_)) => got += 1,
                        Some(Err(error)) => return Err(error),
                        None => return Ok(()),
                    }
                }
            },
            async {
                sleep(comes_after).await;
                world.start_worker(0)
            }
        );
        let worker = worker?;
        match end {
            Ok(()) => assert_eq!(got, values, "a short end"),
            Err(ChannelError::NoWorkers { missing, .. }) => {
                assert!(missing > 0 && got + missing == values, "{got} came, {missing} are missing");
                assert!(net.now() - closed >= WAIT, "given up too early");
            }
            Err(error) => return Err(error.into()),
        }
        let again = timeout(PATIENCE, receiver.recv()).await.expect("it ends once");
        assert!(again.is_none(), "told of a second end");
        worker.ends().await;
        drop(server);
        Ok(())
    });
}

fn expected() -> Vec<u64> {
    (0..VALUES).map(|value| value * 3).collect()
}

/// All results, sorted.
async fn results(receiver: Receiver<u64>) -> Outcome<Vec<u64>> {
    let all = timeout(2 * PATIENCE, receiver.collect::<Result<Vec<_>, _>>()).await;
    let mut all = all.expect("results do not end")?;
    all.sort_unstable();
    Ok(all)
}

type Durable = (Node, DurableSender<u64, MemoryQueue>, DurableReceiver<u64>);

fn options(capacity: usize) -> ChannelOptions {
    ChannelOptions::default()
        .capacity(capacity)
        .ack_wait(ACK_WAIT)
        .wait_for_workers(WAIT)
        .max_attempts(NonZeroU32::new(1000).expect("not zero"))
}

/// A worker's machine.
struct Worker {
    host: Host,
    _node: Node,
    /// How its stream ended, as soon as it has.
    ended: watch::Receiver<Option<Result<(), String>>>,
}

/// A lost machine is soon noticed.
fn config() -> NodeConfig {
    lost_after(IDLE).session_grace(GRACE)
}

impl World {
    fn serve(&self, capacity: usize) -> Outcome<(Node, Sender<u64>, Receiver<u64>)> {
        let node = self.server()?;
        let (sender, receiver) = node.serve_channel("triple", options(capacity))?;
        Ok((node, sender, receiver))
    }

    fn serve_durable(&self, queue: &Arc<MemoryQueue>, capacity: usize) -> Outcome<Durable> {
        let node = self.server()?;
        let (sender, receiver) = node.serve_durable_channel("triple", Arc::clone(queue), options(capacity))?;
        Ok((node, sender, receiver))
    }

    fn start_worker(&self, number: usize) -> Outcome<Worker> {
        self.start_worker_on(self.there.net().host(&format!("here-{number}")), number)
    }

    fn start_worker_on(&self, host: Host, number: usize) -> Outcome<Worker> {
        let node = self.worker(&host)?;
        let net = self.there.net();
        let mut rng = net.rng(&format!("worker {number} from {:?}", net.now()));
        let max = rng.random_range(1..8);
        let options = JoinOptions::default().values(rng.random_range(0..max)..max).patience(2 * PATIENCE);
        let mut tasks: ChannelWorker<u64, u64> = node.join_channel("triple", self.address(), options);
        let (ended, ends) = watch::channel(None);
        host.spawn("worker", async move {
            let mut held = Vec::new();
            let mut hangs_after = rng.random_bool(0.3).then(|| rng.random_range(1..30));
            let end = loop {
                // What is held is answered also while nothing comes.
                match timeout(Duration::from_millis(200), tasks.next()).await {
                    Ok(Some(Ok(task))) => held.push(task),
                    Ok(Some(Err(error))) => break Err(error.to_string()),
                    Ok(None) => break Ok(()),
                    Err(_) => held.retain(|_| false),
                }
                sleep(Duration::from_millis(rng.random_range(0..200))).await;
                hangs_after = hangs_after.map(|tasks: u32| tasks.saturating_sub(1));
                if !held.is_empty() && hangs_after.take_if(|tasks| *tasks == 0).is_some() {
                    // Its connection lives, so what it says afterwards arrives, and is too late.
                    sleep(ACK_WAIT + Duration::from_millis(rng.random_range(1..20_000))).await;
                }
                while held.len() > rng.random_range(0..3) {
                    let task = held.swap_remove(rng.random_range(0..held.len()));
                    let result = task.value() * 3;
                    task.answer(&result).expect("a number can be written");
                }
            };
            ended.send_replace(Some(end));
        });
        Ok(Worker { host, _node: node, ended: ends })
    }
}

impl Worker {
    /// Waits until it is told of the end of the channel.
    async fn ends(mut self) {
        assert_eq!(told(2 * PATIENCE, &mut self.ended).await, Ok(()), "{}", self.host.name());
    }
}
