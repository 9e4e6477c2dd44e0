//! What channels promise to who uses them, over simulated networks: order and ends, transformers, who may join, who gets what,
//! waiting for workers, and memory. What they promise when something is lost is in `channel`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_stage::BoxError;
use aqueduct_transport::pulling::Assignment;
use aqueduct_transport::{
    ChannelError, ChannelOptions, ChannelWorkers, JoinOptions, Lz4, NodeConfig, SendErrorCause, Transformer,
};
use bytes::Bytes;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

#[path = "support/channels.rs"]
mod channels;
#[path = "support/nodes.rs"]
mod nodes;

use channels::{PATIENCE, World, sim};

const SEEDS: u64 = 50;

#[test]
fn values_that_only_go_out_arrive_in_order_and_the_end_behind_them() {
    sim().swarm(0..SEEDS, async |net| {
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let sender = server.serve_values::<String>("words", ChannelOptions::default())?;
        let worker = world.worker(&net.host("here"))?;
        let mut tasks = worker.join_channel::<String, ()>("words", world.address(), JoinOptions::default());
        for word in ["one", "two", "three", "four"] {
            sender.send(word.to_owned()).await.map_err(|error| error.cause)?;
        }
        let monitor = sender.monitor();
        drop(sender);
        let mut got = Vec::new();
        while let Some(task) = tasks.next().await {
            got.push(task?.done()?);
        }
        assert_eq!(got, ["one", "two", "three", "four"]);
        monitor.finished().await?;
        Ok(())
    });
}

#[test]
fn what_goes_through_the_same_transformers_arrives_and_with_a_wrong_key_nothing() {
    sim().swarm(0..SEEDS, async |net| {
        let world = World::new(&net, config())?;
        let key = net.rng("key").random_range(0..2_u8);
        let server = world.server()?;
        let options = ChannelOptions::default().transformer(Lz4).transformer(Xor(0)).max_attempts(two());
        let (sender, mut results) = server.serve_channel::<String, String>("words", options)?;
        let mut letters = sender.monitor().dead_letters();
        let worker = world.worker(&net.host("here"))?;
        let options = JoinOptions::default().transformer(Lz4).transformer(Xor(key));
        let mut tasks = worker.join_channel::<String, String>("words", world.address(), options);
        sender.send("plain".to_owned()).await.map_err(|error| error.cause)?;
        drop(sender);
        if key == 0 {
            let task = tasks.next().await.expect("a task")?;
            let upper = task.value().to_uppercase();
            task.answer(&upper)?;
            assert_eq!(results.recv().await.transpose()?.as_deref(), Some("PLAIN"));
        } else {
            // Nothing of it reaches the worker, which sees the end of the channel only.
            assert!(tasks.next().await.is_none());
            let letter = letters.next().await.expect("a dead letter");
            assert_eq!((letter.payload.as_str(), letter.attempts), ("plain", 2));
        }
        assert!(tasks.next().await.is_none() && results.recv().await.is_none());
        Ok(())
    });
}

#[test]
fn who_joins_as_something_else_is_told_both_names() {
    sim().swarm(0..SEEDS, async |net| {
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let options = ChannelOptions::default().application(7);
        let (sender, _results) = server.serve_channel::<u64, u64>("squares", options)?;
        let here = world.worker(&net.host("here"))?;
        let as_seven = JoinOptions::default().application(7);
        let errors = [
            here.join_channel::<u64, u64>("squares", world.address(), JoinOptions::default().application(8))
                .next()
                .await,
            here.join_channel::<u64, u64>("squares", world.address(), as_seven.clone().transformer(Xor(1)))
                .next()
                .await,
        ]
        .map(|joined| joined.map(|task| task.map(drop)));
        let other = here.join_channel::<u64, String>("squares", world.address(), as_seven).next().await;
        for error in errors.into_iter().chain([other.map(|task| task.map(drop))]) {
            let Some(Err(ChannelError::Mismatch { served, joined, .. })) = error else { panic!("{error:?}") };
            assert_eq!(served, "channel u64 -> u64, application \"7\"");
            assert_ne!(joined, served);
        }
        assert!(sender.workers().is_empty());
        Ok(())
    });
}

#[test]
fn strict_round_robin_gives_each_of_ten_workers_its_remainder() {
    sim().swarm(0..SEEDS, async |net| {
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let options = ChannelOptions::default().assignment(Assignment::RoundRobin);
        let sender = server.serve_values::<u64>("numbers", options)?;
        let (got, mut all) = mpsc::unbounded_channel();
        let host = net.host("here");
        let here = world.worker(&host)?;
        for number in 0..10_u64 {
            let mut tasks = here.join_channel::<u64, ()>("numbers", world.address(), JoinOptions::default());
            let got = got.clone();
            host.spawn("worker", async move {
                while let Some(Ok(task)) = tasks.next().await {
                    let Ok(value) = task.done() else { break };
                    let _ = got.send((number, value));
                }
            });
            sender.wait_until_ready(number as usize + 1, PATIENCE).await?;
        }
        drop(got);
        for value in 0..100 {
            sender.send(value).await.map_err(|error| error.cause)?;
        }
        drop(sender);
        let mut by_worker = BTreeMap::<_, Vec<_>>::new();
        while let Some((number, value)) = all.recv().await {
            by_worker.entry(number).or_default().push(value);
        }
        // In the order in which they were let in: where an answer is lost, one may join a second time, behind the others.
        let mut by_worker: Vec<_> = by_worker.into_values().collect();
        by_worker.sort();
        let expected: Vec<Vec<_>> = (0..10).map(|number| (0..100).filter(|n| n % 10 == number).collect()).collect();
        assert_eq!(by_worker, expected);
        Ok(())
    });
}

#[test]
fn equal_keys_go_to_one_worker() {
    sim().swarm(0..SEEDS, async |net| {
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let options = ChannelOptions::default().assignment(Assignment::ByKey);
        let (sender, results) = server.serve_channel::<u64, (u64, u64)>("keyed", options)?;
        let host = net.host("here");
        let here = world.worker(&host)?;
        for number in 0..3_u64 {
            let mut tasks = here.join_channel::<u64, (u64, u64)>("keyed", world.address(), JoinOptions::default());
            host.spawn("worker", async move {
                while let Some(Ok(task)) = tasks.next().await {
                    let answer = (*task.value(), number);
                    task.answer(&answer).expect("numbers can be written");
                }
            });
        }
        sender.wait_until_ready(3, PATIENCE).await?;
        for value in 0..300 {
            sender.send_keyed((value % 20).to_string(), value).await.map_err(|error| error.cause)?;
        }
        drop(sender);
        let mut homes = BTreeMap::new();
        for (value, worker) in results.collect::<Result<Vec<_>, _>>().await? {
            assert_eq!(*homes.entry(value % 20).or_insert(worker), worker, "{value}");
        }
        assert_eq!((homes.len(), homes.values().collect::<BTreeSet<_>>().len()), (20, 3));
        Ok(())
    });
}

#[test]
fn who_waits_for_workers_is_told_how_many_there_are_and_when_they_go() {
    sim().swarm(0..SEEDS, async |net| {
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let sender = server.serve_values::<u64>("numbers", ChannelOptions::default())?;
        let begun = net.now();
        let error = sender.wait_until_ready(2, Duration::from_secs(10)).await.expect_err("nobody is there").to_string();
        assert_eq!(error, "expected 2 workers within 10s, got 0");
        assert_eq!((net.now() - begun).as_secs(), 10);
        let host = net.host("here");
        let here = world.worker(&host)?;
        let late = Duration::from_millis(net.rng("late").random_range(0..20_000));
        let join = async {
            sleep(late).await;
            for _ in 0..2 {
                let mut tasks = here.join_channel::<u64, ()>("numbers", world.address(), JoinOptions::default());
                host.spawn("worker", async move { while tasks.next().await.is_some() {} });
            }
        };
        let (ready, ()) = tokio::join!(sender.wait_until_ready(2, PATIENCE), join);
        ready?;
        here.shutdown(Duration::ZERO).await;
        timeout(PATIENCE, sender.monitor().watch_workers().wait_for(ChannelWorkers::is_empty)).await??;
        Ok(())
    });
}

#[test]
fn a_sender_waits_for_whoever_receives_and_is_fast_again_after() {
    sim().swarm(0..SEEDS, async |net| {
        const CAPACITY: u64 = 10;
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let options = ChannelOptions::default().capacity(CAPACITY as usize);
        let (sender, mut results) = server.serve_channel::<u64, u64>("squares", options)?;
        let host = net.host("here");
        let here = world.worker(&host)?;
        let mut tasks = here.join_channel::<u64, u64>("squares", world.address(), JoinOptions::default());
        host.spawn("worker", async move {
            while let Some(Ok(task)) = tasks.next().await {
                let square = task.value() * task.value();
                task.answer(&square).expect("a number can be written");
            }
        });
        let sent = Arc::new(AtomicU64::new(0));
        let (ended, mut ends) = watch::channel(false);
        let count = Arc::clone(&sent);
        world.there.spawn("sender", async move {
            for value in 0..500 {
                sender.send(value).await.map_err(|error| error.cause).expect("it is open");
                count.fetch_add(1, Ordering::Relaxed);
            }
            ended.send_replace(true);
        });
        // Nobody receives: so many are on their way as there is room for, and no more.
        sleep(PATIENCE).await;
        assert_eq!(sent.load(Ordering::Relaxed), CAPACITY);
        let mut received = Vec::new();
        while let Some(result) = timeout(PATIENCE, results.recv()).await.expect("no result in time") {
            received.push(result?);
            assert!(sent.load(Ordering::Relaxed) <= received.len() as u64 + CAPACITY + 1);
        }
        received.sort_unstable();
        assert_eq!(received, (0..500).map(|n| n * n).collect::<Vec<_>>());
        timeout(PATIENCE, ends.wait_for(|ended| *ended)).await??;
        Ok(())
    });
}

#[test]
fn try_send_says_what_is_full() {
    sim().swarm(0..2, async |net| {
        let world = World::new(&net, config())?;
        let server = world.server()?;
        let sender = server.serve_values::<u64>("numbers", ChannelOptions::default().capacity(1))?;
        sender.try_send(1).map_err(|error| error.cause)?;
        let error = sender.try_send(2).expect_err("it is full");
        assert!(matches!((error.value, error.cause), (2, SendErrorCause::Full { capacity: 1 })));
        Ok(())
    });
}

fn config() -> NodeConfig {
    NodeConfig::default().idle_timeout(Duration::from_secs(30))
}

fn two() -> NonZeroU32 {
    NonZeroU32::new(2).expect("not zero")
}

/// Turns every bit that is in its key.
struct Xor(u8);

impl Transformer for Xor {
    fn name(&self) -> &'static str {
        "xor"
    }

    fn encode(&self, bytes: Bytes) -> Result<Bytes, BoxError> {
        Ok(bytes.iter().map(|byte| byte ^ self.0).collect())
    }

    fn decode(&self, bytes: Bytes, _: usize) -> Result<Bytes, BoxError> {
        self.encode(bytes)
    }
}
