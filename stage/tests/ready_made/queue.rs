//! Events that are pushed.

use std::time::Duration;

use aqueduct_stage::stages::{self, Closed, TryPushError};
use aqueduct_stage::{Exit, Graph, Mode};

use tokio::task::JoinSet;

use crate::support::{Log, settled, sink, sink_with, with};
use crate::{collect, poll_once, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_push_waits_until_its_event_is_asked_for() {
    let (queue, producer) = stages::queue(10);
    let (graph, log) = (Graph::new("test"), Log::new());
    let events = graph.producer("events", producer);
    let taker = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&events, 0..10);
    let mut running = graph.start();
    let edge = log.first_subscribed().await;
    let mut push = Box::pin(queue.push(7));
    settled().await;
    assert!(poll_once(push.as_mut()).is_pending());
    settled().await;
    assert!(poll_once(push.as_mut()).is_pending());
    assert_eq!(queue.len(), 1);
    taker.stage_ref().cast(with(move |cx| cx.ask(edge, 1))).unwrap();
    push.await.unwrap();
    assert_eq!((log.events_reach(1).await, queue.len()), (vec![7], 0));
    running.stop(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn demand_that_waits_takes_an_event_as_soon_as_it_is_pushed() {
    let (queue, producer) = stages::queue(10);
    let (graph, log) = (Graph::new("test"), Log::new());
    let events = graph.producer("events", producer);
    graph.consumer("sink", sink(&log)).subscribe(&events, 0..5);
    let mut running = graph.start();
    settled().await;
    for number in 0..20 {
        queue.push(number).await.unwrap();
    }
    assert_eq!(log.events_reach(20).await, (0..20).collect::<Vec<_>>());
    queue.close();
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_or_makes_wait_and_keeps_the_order() {
    let (queue, producer) = stages::queue(2);
    queue.try_push(0).unwrap();
    queue.try_push(1).unwrap();
    assert_eq!(queue.try_push(9), Err(TryPushError::Full { event: 9, capacity: 2 }));
    let waits = queue.clone();
    let mut waiting = Box::pin(waits.push(2));
    assert!(poll_once(waiting.as_mut()).is_pending());
    assert_eq!(queue.len(), 2);
    let (graph, log) = (Graph::new("test"), Log::new());
    let events = graph.producer("events", producer);
    graph.consumer("sink", sink(&log)).subscribe(&events, 0..1);
    let mut running = graph.start();
    waiting.await.unwrap();
    queue.push(3).await.unwrap();
    drop((queue, waits));
    running.join().await.unwrap();
    assert_eq!(log.events(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_takes_nothing_in_and_is_emitted_to_its_end() {
    let (queue, producer) = stages::queue(100);
    (0..50).for_each(|number| queue.try_push(number).unwrap());
    queue.close();
    assert_eq!(queue.push(50).await, Err(Closed(50)));
    assert_eq!(queue.try_push(51), Err(TryPushError::Closed(51)));
    let (graph, log) = (Graph::new("test"), Log::new());
    let events = graph.producer("events", producer);
    graph.consumer("sink", collect(&log)).subscribe(&events, 3..7);
    run(graph).await.unwrap();
    assert_eq!(log.all(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_push_withdraws_its_event() {
    let (queue, producer) = stages::queue(2);
    let mut first = Box::pin(queue.push("first"));
    let mut second = Box::pin(queue.push("second"));
    assert!(poll_once(first.as_mut()).is_pending() && poll_once(second.as_mut()).is_pending());
    assert_eq!(queue.len(), 2);
    drop(first);
    assert_eq!(queue.len(), 1);
    queue.try_push("third").unwrap();
    let (graph, log) = (Graph::new("test"), Log::new());
    let events = graph.producer("events", producer);
    graph.consumer("sink", collect(&log)).subscribe(&events, 0..1);
    let mut running = graph.start();
    second.await.unwrap();
    queue.close();
    running.join().await.unwrap();
    assert_eq!(log.all(), ["second", "third"]);
}

#[tokio::test(start_paused = true)]
async fn who_still_waits_when_the_graph_ends_is_given_the_event_back() {
    let (queue, producer) = stages::queue(1);
    let graph = Graph::new("test");
    let events = graph.producer("events", producer);
    let mut running = graph.start();
    let (mut inside, mut outside) = (Box::pin(queue.push("inside")), Box::pin(queue.push("outside")));
    assert!(poll_once(inside.as_mut()).is_pending() && poll_once(outside.as_mut()).is_pending());
    running.stop(SECOND).await.unwrap();
    drop((running, events));
    assert_eq!(inside.await, Err(Closed("inside")));
    assert_eq!(outside.await, Err(Closed("outside")));
    assert!(queue.is_closed());
}

#[tokio::test(start_paused = true)]
async fn every_consumer_of_a_broadcast_queue_gets_every_event() {
    let (queue, producer) = stages::queue(4);
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
    let events = graph.producer("events", producer).broadcast().wait_for_subscribers(2);
    graph.consumer("fast", sink(&logs[0])).subscribe(&events, 5..10);
    graph.consumer("slow", sink_with(&logs[1], |sink| sink.takes = SECOND)).subscribe(&events, 0..1);
    let mut running = graph.start();
    for number in 0..30 {
        queue.push(number).await.unwrap();
    }
    queue.close();
    running.join().await.unwrap();
    for log in logs {
        assert_eq!(log.events(), (0..30).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_push_is_emitted_once_each() {
    let (queue, producer) = stages::queue(16);
    let (graph, log) = (Graph::new("test"), Log::new());
    let events = graph.producer("events", producer).concurrency(2);
    graph.consumer("sink", collect(&log)).subscribe(&events, 5..10);
    let mut running = graph.start();
    let mut pushers = JoinSet::new();
    for pusher in 0..8_u32 {
        let queue = queue.clone();
        pushers.spawn(async move {
            for number in 0..500_u32 {
                queue.push((pusher, number)).await.unwrap();
            }
        });
    }
    drop(queue);
    tokio::time::timeout(60 * SECOND, pushers.join_all()).await.unwrap();
    let outcome = tokio::time::timeout(60 * SECOND, running.join()).await.unwrap().unwrap();
    assert!(outcome.stages.iter().all(|stage| matches!(stage.exit, Exit::Normal)));
    let mut seen = log.all();
    assert_eq!(seen.len(), 4_000);
    seen.sort_unstable();
    assert_eq!(seen, (0..8).flat_map(|pusher| (0..500).map(move |number| (pusher, number))).collect::<Vec<_>>());
}
