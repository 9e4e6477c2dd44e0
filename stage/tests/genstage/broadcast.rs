//! The scenarios that need a broadcast: B2 6 to 8, B4 19, B7 50.

use aqueduct_stage::{Cancel, DemandMode, Exit, Graph, Mode, SubscribeOptions};

use crate::support::{Gate, Log, emit, endless, idle, settled, sink, sink_with};

fn tenth() -> Vec<u64> {
    (1000..1010).collect()
}

#[tokio::test(start_paused = true)]
async fn genstage_006_both_consumers_are_given_the_same_batch() {
    let (graph, first, second) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new())).broadcast();
    graph.consumer("first", sink(&first)).subscribe(&numbers, 0..10);
    graph.consumer("second", sink(&second)).subscribe(&numbers, 0..20);
    let _running = graph.start();
    assert!(first.batches_reach(101).await.contains(&tenth()));
    assert!(second.batches_reach(101).await.contains(&tenth()));
}

#[tokio::test(start_paused = true)]
async fn genstage_007_a_subscriber_that_never_asks_holds_everybody_back_until_it_leaves() {
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new(), Log::new()]);
    let numbers = graph.producer("numbers", endless(&Log::new())).broadcast();
    graph.consumer("first", sink(&logs[0])).subscribe(&numbers, 0..10);
    graph.consumer("second", sink(&logs[1])).subscribe(&numbers, 0..20);
    let silent = graph
        .consumer("silent", sink_with(&logs[2], |sink| sink.mode = Mode::Manual))
        .subscribe(&numbers, SubscribeOptions::demand(0..10).cancel(Cancel::Temporary));
    let running = graph.start();
    let id = logs[2].first_subscribed().await;
    settled().await;
    assert!(logs.iter().all(|log| log.batches().is_empty()));
    running.cancel(&silent, id, Exit::Normal);
    assert!(logs[0].batches_reach(101).await.contains(&tenth()));
    assert!(logs[1].batches_reach(101).await.contains(&tenth()));
}

#[tokio::test(start_paused = true)]
async fn genstage_008_the_producer_is_asked_for_the_smallest_demand_once() {
    let (graph, asked, gate) = (Graph::new("test"), Log::new(), Gate::closed());
    let numbers = graph.producer("numbers", idle(&asked)).broadcast();
    for (name, max) in [("first", 10), ("second", 20)] {
        graph.consumer(name, sink_with(&Log::new(), |sink| sink.gate = Some(gate.clone()))).subscribe(&numbers, 0..max);
    }
    let _running = graph.start();
    settled().await;
    assert_eq!(asked.asked(), [10]);
}

#[tokio::test(start_paused = true)]
async fn genstage_019_a_broadcast_that_accumulates_serves_those_who_come_meanwhile() {
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
    let numbers = graph.producer("numbers", idle(&Log::new())).broadcast();
    let early = graph.consumer("early", sink(&Log::new()));
    let consumers = logs.each_ref().map(Clone::clone);
    let [first, second] = [("first", 0), ("second", 1)].map(|(name, n)| graph.consumer(name, sink(&consumers[n])));
    let running = graph.start();
    let id = running.subscribe(&early, &numbers, SubscribeOptions::demand(5..10).cancel(Cancel::Temporary));
    settled().await;
    numbers.stage_ref().set_demand(DemandMode::Accumulate).unwrap();
    running.cancel(&early, id, Exit::Normal);
    settled().await;
    numbers.stage_ref().call(emit(0..4)).await.unwrap();
    running.subscribe(&first, &numbers, 5..10);
    running.subscribe(&second, &numbers, 5..10);
    settled().await;
    assert!(logs.iter().all(|log| log.batches().is_empty()));
    assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(4), "in GenStage it says none");
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    for log in &logs {
        assert_eq!(log.events_reach(4).await, [0, 1, 2, 3]);
    }
    assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn genstage_050_the_same_consumer_twice_keeps_one_edge() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes)).broadcast();
    let sink = graph.consumer("sink", sink(&log));
    let running = graph.start();
    let first = running.subscribe(&sink, &numbers, 5..10);
    running.subscribe(&sink, &numbers, 5..10);
    settled().await;
    assert_eq!(notes.subscribed(), [first]);
    let snapshot = running.snapshot();
    assert!(snapshot.stages.iter().all(|stage| !stage.ended), "nobody dies");
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    settled().await;
    assert_eq!(log.events(), [0, 1, 2]);
}
