//! Work pools: each event is answered on its own, by workers near and far, and done once.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroU32;
use std::time::Duration;

use aqueduct_stage::testing::ProbeSource;
use aqueduct_stage::{EventStream, Graph, Source, SourceExt, TokioSpawner, each_batch};
use aqueduct_transport::pulling::{DeadReason, PullingOptions, Work, WorkPool, WorkSource};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, nodes};

#[tokio::test(start_paused = true)]
async fn what_one_near_worker_does_not_do_another_does() {
    guarded(async {
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options());
        let (mut one, mut two) = (pool.work().events(0..1), pool.work().events(0..1));
        send(&source, [7]).await;
        let first = work(&mut one).await;
        assert_eq!((*first.event(), first.attempt().number()), (7, 1));
        let begun = Instant::now();
        first.retry(Duration::from_secs(3), "not now");
        let again = tokio::select! {
            again = work(&mut one) => again,
            again = work(&mut two) => again,
        };
        assert_eq!((*again.event(), again.attempt().number(), begun.elapsed().as_secs()), (7, 2, 3));
        assert_eq!(again.done(), 7);
        source.complete();
        assert!(one.next().await.is_none() && two.next().await.is_none());
        assert_eq!((pool.counters().finished, pool.counters().nacked), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_when_everything_is_answered() {
    guarded(async {
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options());
        let mut stream = pool.work().events(5..10);
        send(&source, [1, 2]).await;
        let (first, second) = (work(&mut stream).await, work(&mut stream).await);
        source.complete();
        second.done();
        assert!(timeout(Duration::from_secs(5), stream.next()).await.is_err(), "told of an end");
        first.done();
        assert!(stream.next().await.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_costs_an_attempt_and_ends_as_a_dead_letter() {
    guarded(async {
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options().max_attempts(NonZeroU32::new(3).unwrap()));
        let mut stream = pool.work().events(0..1);
        send(&source, [1]).await;
        for attempt in 1..=3 {
            assert_eq!(work(&mut stream).await.attempt().number(), attempt);
        }
        let letter = pool.dead_letters().next().await.unwrap();
        let reason = DeadReason::Refused("dropped without an answer".to_owned());
        assert_eq!((letter.payload, letter.attempts, letter.reason), (1, 3, reason));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_too_late_is_refused() {
    guarded(async {
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options().ack_wait(Duration::from_secs(10)));
        let (mut slow, mut other) = (pool.work().events(0..1), pool.work().events(0..1));
        send(&source, [1]).await;
        let late = work(&mut slow).await;
        let begun = Instant::now();
        for _ in 0..3 {
            assert!(timeout(Duration::from_secs(9), work(&mut other)).await.is_err(), "given to two");
            late.in_progress();
        }
        let again = work(&mut other).await;
        assert_eq!((again.attempt().number(), begun.elapsed().as_secs()), (2, 37));
        late.done();
        source.complete();
        assert!(timeout(Duration::from_secs(1), other.next()).await.is_err(), "a late answer counts");
        again.done();
        assert!(other.next().await.is_none());
        let counters = pool.counters();
        assert_eq!((counters.finished, counters.expired, counters.late), (1, 1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_source_is_asked_for_no_more_than_may_wait() {
    guarded(async {
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options().max_waiting(4));
        source.expect_demand(4).await;
        source.send(1..=4);
        source.expect_no_demand().await;
        let mut stream = pool.work().events(0..1);
        work(&mut stream).await.done();
        source.expect_demand(1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_nobody_takes_stop_the_demand() {
    guarded(async {
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options().max_waiting(1000));
        source.expect_demand(1000).await;
        source.send(0..1000);
        let mut stream = pool.work().events(500..1000);
        for _ in 0..1000 {
            work(&mut stream).await.give_up("no");
        }
        // This was asked for while they were being worked on.
        source.expect_demand(1000).await;
        source.send(1000..2000);
        source.expect_no_demand().await;
        assert_eq!(pool.counters().dead, 1000);
        pool.dead_letters().next().await.unwrap();
        // The worker has asked for half a window more.
        source.expect_demand(500).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_early_end_of_the_source_is_an_early_end() {
    guarded(async {
        let graph = Graph::new("failing");
        let numbers = graph.iterate("numbers", || 0..10_u64);
        let failing = graph.stage("failing", || aqueduct_stage::map(|n: u64| if n < 5 { n } else { panic!("five") }));
        let failing = failing.subscribe(&numbers, 0..1);
        let pool = WorkPool::new(&failing, options(), &TokioSpawner);
        let mut running = graph.start();
        let mut stream = pool.work().events(0..1);
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(work) => work.done(),
                Err(error) => break error,
            };
        };
        assert!(error.to_string().contains("five"), "{error}");
        assert!(running.join().await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn consumers_that_do_not_answer_may_take_part() {
    guarded(async {
        let graph = Graph::new("numbers");
        let numbers = graph.iterate("numbers", || 0..1000_u64);
        let pool = WorkPool::new(&numbers, options(), &TokioSpawner);
        let ignore = || each_batch(async |_| Ok(()));
        graph.consumer("plain", ignore).subscribe(&pool, 5..10);
        graph.consumer("acknowledged", ignore).subscribe_acknowledged(&pool, 5..10);
        graph.run().await.unwrap();
        assert_eq!((pool.counters().finished, pool.counters().dead), (1000, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stage_takes_no_single_answers() {
    guarded(async {
        let graph = Graph::new("numbers");
        let numbers = graph.iterate("numbers", || 0..10_u64);
        let _running = graph.start();
        let error = numbers.work().events(0..1).next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("its events cannot be answered one by one"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn many_far_workers_do_everything_once_in_any_order() {
    guarded(async {
        let [one, two, there] = nodes(["one", "two", "there"]).await;
        let graph = Graph::new("numbers");
        let numbers = graph.iterate("numbers", || 0..2000_u64);
        let pool = WorkPool::new(&numbers, options(), &TokioSpawner);
        there.publish("work", &pool).unwrap();
        let mut running = graph.start();
        let far = [&one, &two].map(|node| node.source::<u64>("work", there.local_addr()));
        let (first, second) = tokio::join!(all_backwards(&far[0]), all_backwards(&far[1]));
        let mut all = [first, second].concat();
        all.sort_unstable();
        assert_eq!(all, (0..2000).collect::<Vec<_>>());
        running.join().await.unwrap();
        let counters = pool.counters();
        assert_eq!((counters.finished, counters.dead, counters.late), (2000, 0, 0));
        assert!(counters.nacked > 100, "{counters:?}");
    })
    .await;
}

#[tokio::test]
async fn what_a_far_worker_gives_up_is_a_dead_letter_with_its_words() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options());
        there.publish("work", &pool).unwrap();
        let mut stream = here.source::<u64>("work", there.local_addr()).work().events(0..2);
        send(&source, [1, 2]).await;
        work(&mut stream).await.give_up("poison");
        work(&mut stream).await.done();
        let letter = pool.dead_letters().next().await.unwrap();
        assert_eq!((letter.payload, letter.reason), (1, DeadReason::Terminated("poison".to_owned())));
        source.complete();
        assert!(stream.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_far_worker_that_is_too_slow_loses_its_event() {
    guarded(async {
        let [one, two, there] = nodes(["one", "two", "there"]).await;
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options().ack_wait(Duration::from_millis(100)));
        there.publish("work", &pool).unwrap();
        let [mut slow, mut other] =
            [&one, &two].map(|node| node.source::<u64>("work", there.local_addr()).work().events(0..1));
        send(&source, [7]).await;
        let late = work(&mut slow).await;
        let again = work(&mut other).await;
        assert_eq!((*again.event(), again.attempt().number()), (7, 2));
        late.done();
        while pool.counters().late < 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.counters().finished, 0);
        again.in_progress();
        again.done();
        source.complete();
        assert!(other.next().await.is_none());
        assert!(pool.counters().finished == 1 && pool.counters().expired >= 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_lost_node_had_goes_to_another() {
    guarded(async {
        let [one, two, there] = nodes(["one", "two", "there"]).await;
        let source = ProbeSource::<u64>::new();
        let pool = pool(&source, options());
        there.publish("work", &pool).unwrap();
        let [mut lost, mut other] =
            [&one, &two].map(|node| node.source::<u64>("work", there.local_addr()).work().events(0..1));
        send(&source, [7]).await;
        let held = work(&mut lost).await;
        one.shutdown(Duration::ZERO).await;
        let again = work(&mut other).await;
        assert_eq!((*again.event(), again.attempt().number()), (7, 2));
        held.done();
        again.done();
        source.complete();
        assert!(other.next().await.is_none());
        assert_eq!(pool.counters().finished, 1);
    })
    .await;
}

#[tokio::test]
async fn a_far_stage_takes_no_single_answers() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("plain", &source).unwrap();
        let far = here.source::<u64>("plain", there.local_addr());
        let error = far.work().events(0..1).next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("its events cannot be answered one by one"), "{error}");
    })
    .await;
}

/// Does everything, the last of ten first; every tenth event only at the second attempt.
async fn all_backwards(source: &(impl Source<Item = u64> + Clone)) -> Vec<u64> {
    let (mut stream, mut held, mut done) = (source.work().events(10..20), Vec::new(), Vec::new());
    loop {
        // A worker that waits for more must not keep others waiting.
        let next = if held.is_empty() {
            Ok(stream.next().await)
        } else {
            timeout(Duration::from_millis(20), stream.next()).await
        };
        let is_waiting = next.is_err();
        match next {
            Ok(Some(work)) => held.push(work.unwrap()),
            Ok(None) => return done,
            Err(_) => {}
        }
        if held.len() >= 10 || is_waiting {
            while let Some(work) = held.pop() {
                if *work.event() % 10 == 3 && work.attempt().number() == 1 {
                    work.retry(Duration::from_millis(5), "later");
                } else {
                    done.push(work.done());
                }
            }
        }
    }
}

fn options() -> PullingOptions {
    PullingOptions::default()
}

fn pool(source: &ProbeSource<u64>, options: PullingOptions) -> WorkPool<u64> {
    WorkPool::new(source, options, &TokioSpawner)
}

/// The next event of a worker, which gets one.
async fn work(stream: &mut EventStream<Work<u64>>) -> Work<u64> {
    stream.next().await.expect("there is more to do").unwrap()
}

async fn send<const N: usize>(source: &ProbeSource<u64>, events: [u64; N]) {
    source.next_demand().await;
    source.send(events);
}
