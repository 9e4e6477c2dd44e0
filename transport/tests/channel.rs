//! Channels on loopback: values to workers, results back, and every end.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use aqueduct_stage::{BoxError, SubscribeError};
use aqueduct_transport::pulling::{Assignment, DeadReason};
use aqueduct_transport::{
    Access, Authority, ChannelError, ChannelOptions, ChannelTask, ChannelWorker, JoinOptions, Lz4, Node, NodeConfig,
    Receiver, SendErrorCause, Sender, Transformer, Wire,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{again, begin, guarded, nodes, nodes_of};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn values_that_only_go_out_arrive_in_order_and_the_worker_sees_the_end() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let sender = here.serve_values::<String>("words", ChannelOptions::default()).unwrap();
        let mut worker = there.join_channel::<String, ()>("words", here.local_addr(), JoinOptions::default());
        for word in ["one", "two", "three", "four"] {
            sender.send(word.to_owned()).await.unwrap();
        }
        let monitor = sender.monitor();
        drop(sender);
        let mut got = Vec::new();
        while let Some(task) = worker.next().await {
            got.push(task.unwrap().done().unwrap());
        }
        assert_eq!(got, ["one", "two", "three", "four"]);
        assert!(worker.next().await.is_none());
        monitor.finished().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn results_come_back_once_each_and_then_the_end() {
    guarded(async {
        let [one, two, there] = nodes(["one", "two", "there"]).await;
        let (sender, receiver) = squares(&there, ChannelOptions::default());
        let mut workers = JoinSet::new();
        for node in [&one, &two, &there] {
            workers.spawn(square(join(node, there.local_addr())));
        }
        sender.wait_until_ready(3, 10 * SECOND).await.unwrap();
        let mut names: Vec<_> = sender.workers().nodes().map(str::to_owned).collect();
        names.sort();
        assert!(names[0].contains("one") && names[1].contains("there") && names[2].contains("two"), "{names:?}");
        let (sent, got) = tokio::join!(send_all(sender, 0..5000), all(receiver));
        sent.unwrap();
        assert_eq!(got.unwrap(), (0..5000).map(|n| n * n).collect::<Vec<_>>());
        let done: Vec<_> = workers.join_all().await;
        assert_eq!(done.iter().sum::<u64>(), 5000);
        assert!(done.iter().all(|done| *done > 500), "{done:?}");
    })
    .await;
}

/// However results come together: each that is received is room for a value.
#[tokio::test]
async fn a_task_that_sends_a_value_for_each_result_never_waits_for_itself() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, mut receiver) = squares(&there, ChannelOptions::default().capacity(100));
        let mut working = JoinSet::new();
        working.spawn(square(join(&here, there.local_addr())));
        for value in 0..100 {
            sender.send(value).await.unwrap();
        }
        for value in 100..2000 {
            receiver.recv().await.unwrap().unwrap();
            sender.send(value).await.unwrap();
        }
        drop(sender);
        assert_eq!(all(receiver).await.unwrap().len(), 100);
        assert_eq!(working.join_all().await, [2000]);
    })
    .await;
}

#[tokio::test]
async fn what_goes_through_the_same_transformers_arrives() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let options = ChannelOptions::default().transformer(Lz4).transformer(Xor(7));
        let (sender, receiver) = here.serve_channel::<String, String>("words", options).unwrap();
        let options = JoinOptions::default().transformer(Lz4).transformer(Xor(7));
        let mut worker = there.join_channel::<String, String>("words", here.local_addr(), options);
        sender.send("plain".to_owned()).await.unwrap();
        drop(sender);
        let task = worker.next().await.unwrap().unwrap();
        let upper = task.value().to_uppercase();
        task.answer(&upper).unwrap();
        assert!(worker.next().await.is_none());
        assert_eq!(receiver.collect::<Result<Vec<_>, _>>().await.unwrap(), ["PLAIN"]);
    })
    .await;
}

#[tokio::test]
async fn with_a_wrong_key_nothing_is_delivered() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let options = ChannelOptions::default().transformer(Xor(7)).max_attempts(attempts(2));
        let (sender, mut receiver) = here.serve_channel::<String, String>("words", options).unwrap();
        let options = JoinOptions::default().transformer(Xor(8));
        let mut worker = there.join_channel::<String, String>("words", here.local_addr(), options);
        let mut letters = sender.monitor().dead_letters();
        sender.send("plain".to_owned()).await.unwrap();
        drop(sender);
        assert!(worker.next().await.is_none());
        let letter = letters.next().await.unwrap();
        assert_eq!((letter.payload.as_str(), letter.attempts), ("plain", 2));
        assert!(receiver.recv().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn strict_round_robin_gives_each_of_ten_workers_its_remainder() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let options = ChannelOptions::default().assignment(Assignment::RoundRobin);
        let sender = here.serve_values::<u64>("numbers", options).unwrap();
        let mut workers = Vec::new();
        for joined in 1..=10 {
            let mut worker = there.join_channel::<u64, ()>("numbers", here.local_addr(), JoinOptions::default());
            workers.push(begin(async move {
                let mut got = Vec::new();
                while let Some(task) = worker.next().await {
                    got.push(task.unwrap().done().unwrap());
                }
                got
            }));
            sender.wait_until_ready(joined, 10 * SECOND).await.unwrap();
        }
        send_all(sender, 0..100).await.unwrap();
        for (number, worker) in (0..).zip(workers) {
            assert_eq!(worker.await.unwrap(), (0..100).filter(|n| n % 10 == number).collect::<Vec<_>>());
        }
    })
    .await;
}

#[tokio::test]
async fn equal_keys_go_to_one_worker() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let options = ChannelOptions::default().assignment(Assignment::ByKey);
        let (sender, receiver) = here.serve_channel::<u64, (u64, u64)>("keyed", options).unwrap();
        let mut workers = JoinSet::new();
        for number in 0..3_u64 {
            let mut worker = there.join_channel::<u64, (u64, u64)>("keyed", here.local_addr(), JoinOptions::default());
            workers.spawn(async move {
                while let Some(task) = worker.next().await {
                    let task = task.unwrap();
                    let answer = (*task.value(), number);
                    task.answer(&answer).unwrap();
                }
            });
        }
        sender.wait_until_ready(3, 10 * SECOND).await.unwrap();
        for number in 0..300 {
            sender.send_keyed((number % 20).to_string(), number).await.unwrap();
        }
        drop(sender);
        let mut homes = std::collections::BTreeMap::new();
        for (number, worker) in receiver.collect::<Result<Vec<_>, _>>().await.unwrap() {
            assert_eq!(*homes.entry(number % 20).or_insert(worker), worker, "{number}");
        }
        let used: std::collections::BTreeSet<_> = homes.values().collect();
        assert_eq!((homes.len(), used.len()), (20, 3));
    })
    .await;
}

#[tokio::test]
async fn who_joins_as_something_else_is_told_both_names() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, _receiver) = squares(&here, ChannelOptions::default().application(7));
        let at = here.local_addr();
        let mut other = there.join_channel::<u64, u64>("squares", at, JoinOptions::default().application(8));
        let error = other.next().await.unwrap().unwrap_err();
        let ChannelError::Mismatch { served, joined, .. } = error else { panic!("{error}") };
        assert_eq!(served, "channel u64 -> u64, application \"7\"");
        assert_eq!(joined, "channel u64 -> u64, application \"8\"");
        assert!(other.next().await.is_none());
        let mut other = there.join_channel::<u64, String>("squares", at, JoinOptions::default().application(7));
        let error = other.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("u64 -> u64") && error.contains("u64 -> string"), "{error}");
        let options = JoinOptions::default().application(7).transformer(Xor(1));
        let error = there.join_channel::<u64, u64>("squares", at, options).next().await.unwrap().unwrap_err();
        assert!(matches!(error, ChannelError::Mismatch { .. }), "{error}");
        assert_eq!(sender.workers().len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_is_denied_fails_at_once_and_says_why() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let [stranger] = nodes(["there"]).await;
        let bosses = Access::only(["boss-*"]).unwrap();
        let (_sender, _receiver) = squares(&here, ChannelOptions::default().workers(bosses.clone()));
        let at = here.local_addr();
        // With the default patience of ten minutes.
        let ours = JoinOptions::default().servers(bosses);
        for (node, options, why) in [
            (&there, JoinOptions::default(), r#"node aqueduct://test/node/there may not subscribe to "squares""#),
            (&there, ours, r#"node aqueduct://test/node/here may not publish "squares""#),
            (&stranger, JoinOptions::default(), "the certificate of aqueduct://test/node/here was signed by"),
        ] {
            let mut worker = node.join_channel::<u64, u64>("squares", at, options);
            let error = worker.next().await.unwrap().unwrap_err();
            assert!(matches!(error, ChannelError::Unreachable(SubscribeError::Denied { .. })), "{error}");
            assert!(error.to_string().contains(why), "{error}");
            assert!(worker.next().await.is_none());
        }
    })
    .await;
}

#[tokio::test]
async fn a_result_that_is_none_costs_its_worker_an_attempt_and_hurts_nobody() {
    /// It says that it is a number.
    #[derive(Serialize, Deserialize)]
    struct Liar(String);
    impl Wire for Liar {
        fn signature() -> String {
            u64::signature()
        }
    }
    guarded(async {
        let [here, there, bad] = nodes(["here", "there", "bad"]).await;
        let (sender, mut receiver) = squares(&here, ChannelOptions::default());
        sender.send(3).await.unwrap();
        let mut liar = bad.join_channel::<u64, Liar>("squares", here.local_addr(), JoinOptions::default());
        liar.next().await.unwrap().unwrap().answer(&Liar("nine".to_owned())).unwrap();
        let again = liar.next().await.unwrap().unwrap();
        assert_eq!(again.attempt().number(), 2);
        drop((again, liar));
        let worker = begin(square(join(&there, here.local_addr())));
        assert_eq!(receiver.recv().await.unwrap().unwrap(), 9);
        drop(sender);
        assert!(receiver.recv().await.is_none());
        worker.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_closed_channel_without_workers_ends_at_once_if_nothing_waits() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, mut receiver) = squares(&here, ChannelOptions::default());
        drop(sender);
        assert!(receiver.recv().await.is_none());
        assert!(receiver.recv().await.is_none());
        // It was over before this one came.
        assert!(join(&there, here.local_addr()).next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_closed_channel_waits_for_workers_and_then_says_how_many_values_are_missing() {
    guarded(async {
        let [here] = nodes(["here"]).await;
        let options = ChannelOptions::default().wait_for_workers(SECOND / 5).capacity(20_000);
        let (sender, mut receiver) = squares(&here, options);
        let (monitor, begun) = (sender.monitor(), Instant::now());
        send_all(sender, 0..15_000).await.unwrap();
        let error = receiver.recv().await.unwrap().unwrap_err();
        assert!(matches!(error, ChannelError::NoWorkers { missing: 15_000, .. }), "{error}");
        assert!(begun.elapsed() >= SECOND / 5);
        assert!(receiver.recv().await.is_none());
        assert!(monitor.finished().await.is_err());
        assert_eq!(monitor.dead_letters().map(|letter| letter.payload).collect::<Vec<_>>().await.len(), 15_000);
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_comes_after_the_close_does_what_is_left() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, receiver) = squares(&here, ChannelOptions::default());
        send_all(sender, 0..100).await.unwrap();
        let (done, got) = tokio::join!(square(join(&there, here.local_addr())), all(receiver));
        assert_eq!((done, got.unwrap().len()), (100, 100));
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_workers_is_told_how_many_there_are() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, _receiver) = squares(&here, ChannelOptions::default());
        let _worker = begin(square(join(&there, here.local_addr())));
        sender.wait_until_ready(1, 10 * SECOND).await.unwrap();
        let error = sender.wait_until_ready(2, SECOND / 20).await.unwrap_err();
        assert_eq!(error.to_string(), "expected 2 workers within 50ms, got 1");
        there.shutdown(Duration::ZERO).await;
        sender.monitor().watch_workers().wait_for(aqueduct_transport::ChannelWorkers::is_empty).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_sender_waits_for_whoever_receives() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, mut receiver) = squares(&here, ChannelOptions::default().capacity(10));
        let worker = begin(square(join(&there, here.local_addr())));
        for number in 0..10 {
            sender.send(number).await.unwrap();
        }
        while sender.monitor().counters().finished < 10 {
            tokio::task::yield_now().await;
        }
        let error = sender.try_send(10).unwrap_err();
        assert!(matches!((error.value, error.cause), (10, SendErrorCause::Full { capacity: 10 })));
        assert!(timeout(SECOND / 20, sender.reserve()).await.is_err());
        assert_eq!(receiver.recv().await.unwrap().unwrap(), 0);
        sender.reserve().await.unwrap().send(10).unwrap();
        let (sent, got) = tokio::join!(send_all(sender, 11..2000), all(receiver));
        sent.unwrap();
        assert_eq!((got.unwrap().len(), worker.await.unwrap()), (1999, 2000));
    })
    .await;
}

#[tokio::test]
async fn a_stuck_worker_does_not_slow_the_others_and_its_values_go_to_them() {
    guarded(async {
        let [here, one, two] = nodes(["here", "one", "two"]).await;
        let options = ChannelOptions::default().ack_wait(SECOND / 2);
        let (sender, mut receiver) = squares(&here, options);
        let mut stuck = join(&one, here.local_addr());
        let joining = begin(async move {
            let first = stuck.next().await;
            (first, stuck)
        });
        sender.wait_until_ready(1, 10 * SECOND).await.unwrap();
        let worker = begin(square(join(&two, here.local_addr())));
        sender.wait_until_ready(2, 10 * SECOND).await.unwrap();
        let begun = Instant::now();
        send_all(sender, 0..1000).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 900 {
            got.push(receiver.recv().await.unwrap().unwrap());
        }
        assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
        got.extend(all(receiver).await.unwrap());
        got.sort_unstable();
        assert_eq!(got, (0..1000).map(|n| n * n).collect::<Vec<_>>());
        let (first, stuck) = joining.await.unwrap();
        // Too late, and it does not matter.
        first.unwrap().unwrap().answer(&7).unwrap();
        drop(stuck);
        assert_eq!(worker.await.unwrap(), 1000);
    })
    .await;
}

#[tokio::test]
async fn what_a_lost_worker_had_is_answered_by_others() {
    guarded(async {
        let [here, one, two] = nodes(["here", "one", "two"]).await;
        let (sender, mut receiver) = squares(&here, ChannelOptions::default());
        let mut lost = join(&one, here.local_addr());
        for number in 0..10 {
            sender.send(number).await.unwrap();
        }
        let mut held = vec![lost.next().await.unwrap().unwrap(), lost.next().await.unwrap().unwrap()];
        held.pop().unwrap().answer(&1).unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), 1);
        one.shutdown(Duration::ZERO).await;
        let worker = begin(square(join(&two, here.local_addr())));
        drop(sender);
        assert_eq!(all(receiver).await.unwrap(), [0, 4, 9, 16, 25, 36, 49, 64, 81]);
        assert_eq!(worker.await.unwrap(), 9);
        // What had reached it is still read; then it is told.
        while let Some(task) = lost.next().await {
            if task.is_err() {
                assert!(lost.next().await.is_none());
                return;
            }
        }
        panic!("an end without a reason");
    })
    .await;
}

#[tokio::test]
async fn poison_ends_as_a_dead_letter_and_the_end_says_so_if_nobody_looks() {
    guarded(async {
        for is_read in [true, false] {
            let [here, there] = nodes(["here", "there"]).await;
            let (sender, mut receiver) = squares(&here, ChannelOptions::default().max_attempts(attempts(3)));
            let letters = is_read.then(|| sender.monitor().dead_letters());
            let mut worker = join(&there, here.local_addr());
            let working = begin(async move {
                let mut tries = 0;
                while let Some(task) = worker.next().await {
                    let task = task.unwrap();
                    match *task.value() {
                        13 => tries += 1,
                        14 => task.give_up("unlucky too"),
                        n => drop(task.answer(&n).unwrap()),
                    }
                }
                tries
            });
            send_all(sender, 10..20).await.unwrap();
            let mut got = Vec::new();
            while got.len() < 8 {
                got.push(receiver.recv().await.unwrap().unwrap());
            }
            got.sort_unstable();
            assert_eq!(got, [10, 11, 12, 15, 16, 17, 18, 19]);
            match letters {
                Some(mut letters) => {
                    let mut dead = [letters.next().await.unwrap(), letters.next().await.unwrap()];
                    dead.sort_by_key(|letter| letter.payload);
                    assert_eq!((dead[0].payload, dead[0].attempts), (13, 3));
                    assert_eq!(dead[1].reason, DeadReason::Terminated("unlucky too".to_owned()));
                    assert!(receiver.recv().await.is_none());
                }
                None => {
                    let error = receiver.recv().await.unwrap().unwrap_err();
                    assert!(matches!(error, ChannelError::Dead { missing: 2, .. }), "{error}");
                }
            }
            assert_eq!(working.await.unwrap(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_started_again_is_found_again() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let config = NodeConfig::default().session_grace(SECOND);
        let [there, here] = nodes_of(&authority, config, ["there", "here"]).await;
        let at = here.local_addr();
        let (sender, mut receiver) = squares(&here, ChannelOptions::default());
        let worker = begin(square(join(&there, at)));
        sender.send(2).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), 4);
        here.shutdown(Duration::ZERO).await;
        drop((here, sender, receiver));
        let here = again(authority.issue("here").unwrap(), NodeConfig::default(), at).await;
        let (sender, receiver) = squares(&here, ChannelOptions::default());
        send_all(sender, 0..50).await.unwrap();
        assert_eq!(all(receiver).await.unwrap().len(), 50);
        assert_eq!(worker.await.unwrap(), 51);
    })
    .await;
}

#[tokio::test]
async fn who_receives_no_more_ends_the_channel() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, receiver) = squares(&here, ChannelOptions::default());
        let worker = begin(square(join(&there, here.local_addr())));
        sender.wait_until_ready(1, 10 * SECOND).await.unwrap();
        drop(receiver);
        let error = sender.send(1).await.unwrap_err();
        assert!(matches!((error.value, error.cause), (1, SendErrorCause::Closed)));
        assert_eq!(worker.await.unwrap(), 0);
        assert!(matches!(sender.monitor().finished().await, Err(ChannelError::Ended { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_long_result_crosses_in_pieces() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, mut receiver) = here.serve_channel::<u64, Bytes>("blobs", ChannelOptions::default()).unwrap();
        let mut worker = there.join_channel::<u64, Bytes>("blobs", here.local_addr(), JoinOptions::default());
        let working = begin(async move {
            while let Some(task) = worker.next().await {
                let task = task.unwrap();
                let blob = vec![*task.value() as u8; (*task.value() as usize) << 20];
                task.answer(&blob.into()).unwrap();
            }
        });
        for megabytes in [5, 1, 0] {
            sender.send(megabytes).await.unwrap();
            let blob = receiver.recv().await.unwrap().unwrap();
            assert_eq!(blob.len(), (megabytes as usize) << 20);
            assert!(blob.iter().all(|byte| u64::from(*byte) == megabytes));
        }
        drop(sender);
        assert!(receiver.recv().await.is_none());
        working.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_is_not_a_value_or_result_of_sensible_length_is_an_error_where_it_is_made() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, _receiver) = here.serve_channel::<Bytes, Bytes>("blobs", ChannelOptions::default()).unwrap();
        let error = sender.send(vec![0; 65 << 20].into()).await.unwrap_err();
        assert!(matches!(error.cause, SendErrorCause::Encode(_)), "{}", error.cause);
        sender.send(Bytes::new()).await.unwrap();
        let mut worker = there.join_channel::<Bytes, Bytes>("blobs", here.local_addr(), JoinOptions::default());
        let task = worker.next().await.unwrap().unwrap();
        task.answer(&vec![0; 65 << 20].into()).unwrap_err();
        let letter = sender.monitor().dead_letters().next().await.unwrap();
        assert!(letter.reason.to_string().contains("cannot be sent"), "{}", letter.reason);
    })
    .await;
}

#[tokio::test]
async fn somebody_who_only_subscribes_gets_nothing_of_a_channel() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (_sender, _receiver) = squares(&here, ChannelOptions::default());
        let source = there.source::<u64>("squares", here.local_addr());
        let error = aqueduct_stage::SourceExt::events(&source, 0..1).next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("channel u64 -> u64"), "{error}");
    })
    .await;
}

struct Xor(u8);

impl Transformer for Xor {
    fn name(&self) -> &str {
        "xor"
    }

    fn encode(&self, bytes: Bytes) -> Result<Bytes, BoxError> {
        Ok(bytes.iter().map(|byte| byte ^ self.0).collect())
    }

    fn decode(&self, bytes: Bytes, _: usize) -> Result<Bytes, BoxError> {
        self.encode(bytes)
    }
}

fn squares(node: &Node, options: ChannelOptions) -> (Sender<u64>, Receiver<u64>) {
    node.serve_channel("squares", options).unwrap()
}

fn join(node: &Node, at: SocketAddr) -> ChannelWorker<u64, u64> {
    node.join_channel("squares", at, JoinOptions::default())
}

/// Answers with squares to the end; returns how many.
async fn square(mut worker: ChannelWorker<u64, u64>) -> u64 {
    let mut done = 0;
    while let Some(task) = worker.next().await {
        let Ok(task) = task else { break };
        let task: ChannelTask<u64, u64> = task;
        let result = task.value() * task.value();
        task.answer(&result).unwrap();
        done += 1;
    }
    done
}

async fn send_all(sender: Sender<u64>, values: std::ops::Range<u64>) -> Result<(), SendErrorCause> {
    for value in values {
        sender.send(value).await.map_err(|error| error.cause)?;
    }
    Ok(())
}

/// All results, sorted.
async fn all(receiver: Receiver<u64>) -> Result<Vec<u64>, ChannelError> {
    let mut results = receiver.collect::<Result<Vec<_>, _>>().await?;
    results.sort_unstable();
    Ok(results)
}

fn attempts(attempts: u32) -> NonZeroU32 {
    NonZeroU32::new(attempts).unwrap()
}
