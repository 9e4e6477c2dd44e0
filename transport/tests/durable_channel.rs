//! Durable channels on loopback: what stays in the queue, what leaves it, and every end.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.
#![cfg(feature = "redb")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aqueduct_stage::{EndCause, Exit};
use aqueduct_transport::pulling::{Assignment, DeadReason};
use aqueduct_transport::redb::{TableDefinition, WriteTransaction};
use aqueduct_transport::{
    ChannelError, ChannelOptions, ChannelWorker, DurableReceiver, DurableSender, JoinOptions, Lz4, MemoryQueue, Node,
    NodeConfig, Queue, RedbStore, SendErrorCause, StoreError,
};
use bytes::Bytes;
use tokio_stream::StreamExt;

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/nodes.rs"]
mod nodes;

use flaky::Flaky;
use nodes::{again, begin, guarded, nodes};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn results_carry_the_ids_that_send_returned_and_the_end_comes_when_the_queue_is_empty() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (queue, options) = (Arc::new(MemoryQueue::new(100)), ChannelOptions::default().transformer(Lz4));
        let (sender, mut receiver) = here.serve_durable_channel::<u64, u64, _>("squares", queue, options).unwrap();
        let queue = Arc::clone(sender.queue());
        let join = JoinOptions::default().transformer(Lz4);
        let worker = begin(square(there.join_channel("squares", here.local_addr(), join)));
        let mut ids = vec![sender.send(0).await.unwrap()];
        ids.extend(sender.send_all((1..50).collect()).await.unwrap());
        let monitor = sender.monitor();
        drop(sender);
        let mut got = Vec::new();
        while let Some(result) = receiver.recv().await {
            let result = result.unwrap();
            assert_eq!(result.attempt, 1);
            got.push((result.id, result.answer));
        }
        assert_eq!(queue.len().await.unwrap(), 0);
        got.sort_unstable();
        assert_eq!(got, ids.into_iter().zip((0..50).map(|n| n * n)).collect::<Vec<_>>());
        assert!(receiver.recv().await.is_none());
        monitor.finished().await.unwrap();
        assert_eq!(worker.await.unwrap(), 50);
    })
    .await;
}

#[tokio::test]
async fn a_value_leaves_the_queue_when_the_next_result_is_asked_for_or_by_hand() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(100));
        let (sender, mut receiver) = squares(&here, &queue);
        let worker = begin(square(join(&there, &here)));
        sender.send_all(vec![1, 2, 3]).await.unwrap();
        receiver.recv().await.unwrap().unwrap();
        assert_eq!(queue.len().await.unwrap(), 3);
        receiver.acknowledge().await;
        assert_eq!(queue.len().await.unwrap(), 2);
        receiver.recv().await.unwrap().unwrap();
        receiver.recv().await.unwrap().unwrap();
        receiver.acknowledge().await;
        assert_eq!(queue.len().await.unwrap(), 0);
        drop(receiver);
        assert!(matches!(sender.send(4).await.unwrap_err().cause, SendErrorCause::Closed));
        // It waits for the next start, which does not come here.
        assert!(!worker.is_finished());
    })
    .await;
}

#[tokio::test]
async fn what_was_not_received_waits_for_the_next_start_and_the_last_result_comes_again() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(100));
        let (sender, mut receiver) = squares(&here, &queue);
        let worker = begin(square(join(&there, &here)));
        sender.send_all((0..10).collect()).await.unwrap();
        let mut last = receiver.recv().await.unwrap().unwrap();
        for _ in 0..4 {
            last = receiver.recv().await.unwrap().unwrap();
        }
        let (at, identity) = (here.local_addr(), here.identity().clone());
        here.shutdown(Duration::ZERO).await;
        drop((here, sender, receiver));
        let here = again(identity, NodeConfig::default(), at).await;
        let (sender, receiver) = squares(&here, &queue);
        drop(sender);
        let rest: Vec<_> = receiver.map(|result| result.unwrap()).collect().await;
        let again: Vec<_> = rest.iter().filter(|result| result.id == last.id).collect();
        assert_eq!((rest.len(), again.len(), again[0].attempt), (6, 1, 2), "{rest:?}");
        assert!(worker.await.unwrap() >= 11);
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_begun_and_leaves_the_rest_to_the_next_start_as_if_it_had_not_been_given_out() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(100));
        let (sender, mut receiver) = squares(&here, &queue);
        let mut worker = join(&there, &here);
        sender.send_all((0..20).collect()).await.unwrap();
        // It is in the middle of the first, and others wait there.
        let first = worker.next().await.unwrap().unwrap();
        until(async || sender.monitor().counters().assigned == 16).await;
        let stopping = sender.clone();
        let stop = begin(async move { stopping.shutdown(60 * SECOND).await });
        until(async || sender.monitor().counters().returned == 15).await;
        assert!(matches!(sender.send(20).await.unwrap_err().cause, SendErrorCause::Closed));
        assert!(!stop.is_finished());
        first.answer(&0).unwrap();
        let result = receiver.recv().await.unwrap().unwrap();
        assert_eq!((result.answer, result.attempt, stop.is_finished()), (0, 1, false));
        let end = receiver.recv().await.unwrap().unwrap_err();
        assert!(matches!(end, ChannelError::Ended { cause: EndCause::Cancelled(Exit::Shutdown), .. }), "{end}");
        assert!(receiver.recv().await.is_none() && stop.await.unwrap());
        assert_eq!(queue.len().await.unwrap(), 19);

        let (at, identity) = (here.local_addr(), here.identity().clone());
        assert!(here.shutdown(SECOND).await);
        drop((here, sender, receiver));
        let here = again(identity, NodeConfig::default(), at).await;
        let (sender, receiver) = squares(&here, &queue);
        drop(sender);
        let working = begin(async move {
            let mut attempts = Vec::new();
            while let Some(task) = worker.next().await {
                let task = task.unwrap();
                attempts.push(task.attempt().number());
                task.answer(&0).unwrap();
            }
            attempts
        });
        let rest: Vec<_> = receiver.map(|result| result.unwrap().attempt).collect().await;
        assert_eq!((rest, working.await.unwrap()), (vec![1; 19], vec![1; 19]));
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_ends_within_its_grace_whatever_a_worker_holds_on_to() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(100));
        let (sender, mut receiver) = squares(&here, &queue);
        let one = JoinOptions::default().values(0..1);
        let mut worker = there.join_channel::<u64, u64>("squares", here.local_addr(), one);
        sender.send_all((0..20).collect()).await.unwrap();
        let first = worker.next().await.unwrap().unwrap();
        assert!(!sender.shutdown(Duration::ZERO).await);
        let end = receiver.recv().await.unwrap().unwrap_err();
        assert!(matches!(end, ChannelError::Ended { cause: EndCause::Cancelled(Exit::Shutdown), .. }), "{end}");
        assert!(sender.shutdown(60 * SECOND).await, "the queue has the rest again");
        assert_eq!(queue.len().await.unwrap(), 20);
        let attempts: Vec<_> = queue.take(100).await.unwrap().iter().map(|entry| entry.attempt).collect();
        assert_eq!(attempts, [&[2][..], &[1; 19]].concat(), "what the worker had counts as begun");
        drop((first, worker));
    })
    .await;
}

#[tokio::test]
async fn poison_leaves_the_queue_when_its_letter_is_read_and_stays_there_otherwise() {
    guarded(async {
        for is_read in [true, false] {
            let [here, there] = nodes(["here", "there"]).await;
            let queue = Arc::new(MemoryQueue::new(100));
            let options = ChannelOptions::default().max_attempts(NonZeroU32::new(2).unwrap());
            let (sender, mut receiver) =
                here.serve_durable_channel::<u64, u64, _>("squares", Arc::clone(&queue), options).unwrap();
            let letters = is_read.then(|| sender.monitor().dead_letters());
            let mut worker = join(&there, &here);
            let working = begin(async move {
                while let Some(task) = worker.next().await {
                    let task = task.unwrap();
                    let n = *task.value();
                    if n != 13 {
                        task.answer(&n).unwrap();
                    }
                }
            });
            sender.send_all((10..20).collect()).await.unwrap();
            drop(sender);
            for _ in 0..9 {
                assert_ne!(receiver.recv().await.unwrap().unwrap().answer, 13);
            }
            let end = receiver.recv().await.transpose();
            working.await.unwrap();
            match letters {
                Some(mut letters) => {
                    assert!(end.unwrap().is_none());
                    // Also after the end.
                    let letter = letters.next().await.unwrap();
                    assert_eq!((letter.payload, letter.attempts), (13, 2));
                    until(async || queue.len().await.unwrap() == 0).await;
                }
                None => {
                    assert!(matches!(end, Err(ChannelError::Dead { missing: 1, .. })), "{end:?}");
                    until(async || queue.take(10).await.unwrap().len() == 1).await;
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn restarts_alone_make_no_dead_letter_and_what_is_not_given_out_is_not_taken() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(100));
        let options = || ChannelOptions::default().max_attempts(NonZeroU32::new(3).unwrap());
        let serve =
            |name: &str| here.serve_durable_channel::<u64, u64, _>(name, Arc::clone(&queue), options()).unwrap();
        let (sender, receiver) = serve("0");
        sender.send(5).await.unwrap();
        drop((sender, receiver));
        // Without workers, nothing is an attempt.
        for start in 1..9_u32 {
            let (sender, receiver) = serve(&start.to_string());
            let mut worker =
                there.join_channel::<u64, u64>(&start.to_string(), here.local_addr(), JoinOptions::default());
            let task = worker.next().await.unwrap().unwrap();
            assert_eq!((*task.value(), task.attempt().number()), (5, start.min(3)));
            drop((sender, receiver, worker, task));
            until(async || queue.requeue_all().await.unwrap() == 0).await;
        }
        let (sender, mut receiver) = serve("last");
        let _worker = begin(square(there.join_channel("last", here.local_addr(), JoinOptions::default())));
        assert_eq!(receiver.recv().await.unwrap().unwrap().answer, 25);
        drop(sender);
        assert!(receiver.recv().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_makes_senders_wait_and_more_than_it_ever_has_is_an_error() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, receiver) = squares(&here, &Arc::new(MemoryQueue::new(3)));
        sender.send_all(vec![1, 2, 3]).await.unwrap();
        let error = sender.try_send(4).await.unwrap_err();
        assert!(matches!((error.value, error.cause), (4, SendErrorCause::Store(StoreError::Full { bound: 3, .. }))));
        let error = sender.send_all(vec![1, 2, 3, 4]).await.unwrap_err();
        assert!(matches!(error.cause, SendErrorCause::Store(StoreError::Full { more: 4, .. })));
        let _worker = begin(square(join(&there, &here)));
        let send = async move {
            for n in 4..100 {
                sender.send(n).await.unwrap();
            }
        };
        let ((), results) = tokio::join!(send, receiver.collect::<Result<Vec<_>, _>>());
        assert_eq!(results.unwrap().len(), 99);
    })
    .await;
}

#[tokio::test]
async fn an_entry_of_another_type_stops_the_channel_behind_what_is_before_it_and_stays() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(10));
        let (sender, mut receiver) = squares(&here, &queue);
        sender.send(7).await.unwrap();
        queue.push(vec![Bytes::from_static(b"something else")]).await.unwrap();
        let _worker = begin(square(join(&there, &here)));
        assert_eq!(receiver.recv().await.unwrap().unwrap().answer, 49);
        let error = receiver.recv().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("entry 2 of the queue was not written by such a channel"), "{error}");
        assert!(receiver.recv().await.is_none());
        until(async || queue.len().await.unwrap() == 1).await;
        drop(sender);
    })
    .await;
}

#[tokio::test]
async fn keys_are_kept_in_the_queue() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(1000));
        let options = ChannelOptions::default().assignment(Assignment::ByKey);
        let (sender, receiver) = here.serve_durable_channel::<u64, (u64, u64), _>("keyed", queue, options).unwrap();
        for number in 0..3_u64 {
            let mut worker = there.join_channel::<u64, (u64, u64)>("keyed", here.local_addr(), JoinOptions::default());
            begin(async move {
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
        for result in receiver.collect::<Result<Vec<_>, _>>().await.unwrap() {
            let (number, worker) = result.answer;
            assert_eq!(*homes.entry(number % 20).or_insert(worker), worker, "{number}");
        }
        let used: std::collections::BTreeSet<_> = homes.values().collect();
        assert_eq!((homes.len(), used.len()), (20, 3));
    })
    .await;
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_only_a_pause() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(Flaky { queue: MemoryQueue::new(100), fails: AtomicBool::new(true) });
        let (sender, receiver) = here
            .serve_durable_channel::<u64, u64, _>("squares", Arc::clone(&queue), ChannelOptions::default())
            .unwrap();
        let _worker = begin(square(join(&there, &here)));
        let error = sender.send(1).await.unwrap_err();
        assert!(matches!(error.cause, SendErrorCause::Store(StoreError::Storage(_))));
        until(async || sender.trouble().is_some()).await;
        queue.fails.store(false, Ordering::Relaxed);
        sender.send(2).await.unwrap();
        until(async || sender.trouble().is_none()).await;
        drop(sender);
        let results = receiver.collect::<Result<Vec<_>, _>>().await.unwrap();
        assert_eq!(results.iter().map(|result| result.answer).collect::<Vec<_>>(), [4]);
    })
    .await;
}

#[tokio::test]
async fn applied_in_one_step_with_the_end_of_its_entry_an_effect_takes_place_once() {
    const EFFECTS: TableDefinition<'_, u64, u64> = TableDefinition::new("effects");
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let path = file("applied");
        let store = RedbStore::open(&path).await.unwrap();
        let queue = Arc::new(store.queue("squares", 1000));
        let (sender, mut receiver) = here
            .serve_durable_channel::<u64, u64, _>("squares", Arc::clone(&queue), ChannelOptions::default())
            .unwrap();
        let _worker = begin(square(join(&there, &here)));
        sender.send_all((0..100).collect()).await.unwrap();
        drop(sender);
        let mut applied = 0;
        loop {
            let results = receiver.recv_many(16).await.unwrap();
            if results.is_empty() {
                break;
            }
            let entries: Vec<_> = results.into_iter().map(|result| (result.id, result.answer)).collect();
            let effect = |transaction: &WriteTransaction, square| {
                let before = transaction.open_table(EFFECTS)?.insert(square, square)?.is_some();
                if before { Err("twice".into()) } else { Ok(()) }
            };
            applied += queue.apply(entries.clone(), effect).await.unwrap();
            assert_eq!(queue.apply(entries, effect).await.unwrap(), 0, "applied twice");
        }
        assert_eq!((applied, queue.len().await.unwrap()), (100, 0));
        // An effect that fails leaves everything as it was.
        let ids = queue.push(vec![Bytes::new()]).await.unwrap();
        let error = queue.apply(vec![(ids[0], 0)], |_, _: u64| Err("no".into())).await.unwrap_err();
        assert!(matches!(error, StoreError::Effect(_)), "{error}");
        assert_eq!(queue.len().await.unwrap(), 1);
        drop((store, queue));
        std::fs::remove_file(path).unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_a_worker_ends_for_good_says_why() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (sender, mut receiver) = squares(&here, &Arc::new(MemoryQueue::new(10)));
        let mut letters = sender.monitor().dead_letters();
        sender.send(1).await.unwrap();
        let mut worker = join(&there, &here);
        worker.next().await.unwrap().unwrap().give_up("unlucky");
        assert_eq!(letters.next().await.unwrap().reason, DeadReason::Terminated("unlucky".to_owned()));
        drop(sender);
        assert!(receiver.recv().await.is_none());
    })
    .await;
}

/// A queue that has room for one value only, and a channel that holds one at a time.
#[tokio::test]
async fn a_dead_letter_gives_its_room_back_when_it_is_read_and_not_before() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let queue = Arc::new(MemoryQueue::new(1));
        let options = ChannelOptions::default().capacity(1);
        let (sender, mut receiver) =
            here.serve_durable_channel::<u64, u64, _>("squares", Arc::clone(&queue), options).unwrap();
        let mut worker = join(&there, &here);
        sender.send(1).await.unwrap();
        worker.next().await.unwrap().unwrap().give_up("unlucky");
        assert!(tokio::time::timeout(Duration::from_millis(300), sender.send(2)).await.is_err(), "there was room");
        let letter = sender.monitor().dead_letters().next().await.unwrap();
        assert_eq!((letter.payload, queue.len().await.unwrap() <= 1), (1, true));
        let within = Duration::from_secs(20);
        tokio::time::timeout(within, sender.send(3)).await.expect("its room is given back").unwrap();
        let task = tokio::time::timeout(within, worker.next()).await.expect("the next one comes").unwrap().unwrap();
        assert_eq!(*task.value(), 3);
        task.answer(&9).unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap().answer, 9);
    })
    .await;
}

fn squares(node: &Node, queue: &Arc<MemoryQueue>) -> (DurableSender<u64, MemoryQueue>, DurableReceiver<u64>) {
    node.serve_durable_channel("squares", Arc::clone(queue), ChannelOptions::default()).unwrap()
}

fn join(node: &Node, server: &Node) -> ChannelWorker<u64, u64> {
    node.join_channel("squares", server.local_addr(), JoinOptions::default())
}

/// Answers with squares to the end; returns how many.
async fn square(mut worker: ChannelWorker<u64, u64>) -> u64 {
    let mut done = 0;
    while let Some(Ok(task)) = worker.next().await {
        let result = task.value() * task.value();
        task.answer(&result).unwrap();
        done += 1;
    }
    done
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("aqueduct-durable-channel-{name}-{}.redb", std::process::id()))
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    while !is_so().await {
        tokio::task::yield_now().await;
    }
}
