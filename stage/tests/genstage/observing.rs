//! What can be seen of a graph: snapshots and drawings.

use std::time::Duration;

use aqueduct_stage::{Exit, Graph, Mode, Snapshot, StageSnapshot, SubscribeError};

use crate::support::{Far, Gate, Log, count, emit, endless, idle, relay, settled, sink, sink_with, with};

fn times(snapshot: &Snapshot, stage: &str) -> [u64; 3] {
    let StageSnapshot { busy, idle, blocked, .. } = snapshot.stage(stage).unwrap();
    [busy, idle, blocked].map(Duration::as_secs)
}

#[tokio::test(start_paused = true)]
async fn busy_idle_and_blocked_add_up_to_the_time_that_passed() {
    let (graph, far) = (Graph::new("test"), Far::new());
    let middle = graph.stage("relay", relay(&Log::new())).subscribe(&far, 0..10);
    let gate = Gate::closed();
    let gated = sink_with(&Log::new(), |sink| sink.gate = Some(gate.clone()));
    graph.consumer("sink", gated).subscribe(&middle, 0..1);
    let running = graph.start();
    running.snapshot(); // From here on its time is counted.
    let second = async || tokio::time::sleep(Duration::from_secs(1)).await;
    // Nothing comes for four seconds, though it was asked for.
    second().await;
    assert_eq!(times(&running.snapshot(), "relay"), [0, 1, 0], "in the middle of waiting");
    for _ in 0..3 {
        second().await;
    }
    assert_eq!(times(&running.snapshot(), "sink"), [0, 4, 0]);
    // Then an event is handled for two.
    far.deliver(0..3);
    second().await;
    second().await;
    let snapshot = running.snapshot();
    assert_eq!((times(&snapshot, "sink"), times(&snapshot, "relay")), ([2, 4, 0], [0, 6, 0]));
    // A queue, and nobody who asks: blocked.
    far.deliver(3..6);
    for _ in 0..5 {
        second().await;
    }
    let snapshot = running.snapshot();
    assert_eq!((times(&snapshot, "sink"), times(&snapshot, "relay")), ([7, 4, 0], [0, 6, 5]));
    gate.open(100);
    settled().await;
    let total: Duration = running.snapshot().stages.iter().map(|stage| stage.busy + stage.idle + stage.blocked).sum();
    assert_eq!(total, Duration::from_millis(2 * 11_001));
}

#[tokio::test(start_paused = true)]
async fn a_producer_is_blocked_while_nobody_asks() {
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let slow = sink_with(&Log::new(), |sink| sink.takes = Duration::from_secs(3));
    graph.consumer("sink", slow).subscribe(&numbers, 0..1);
    let mut running = graph.start();
    running.snapshot();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let snapshot = running.snapshot();
    assert_eq!((times(&snapshot, "numbers"), times(&snapshot, "sink")), ([0, 0, 10], [10, 0, 0]));
    let _ = running.stop(Duration::from_secs(10)).await;
    let then = times(&running.snapshot(), "numbers");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(times(&running.snapshot(), "numbers"), then, "its time ends with it");
    assert!(running.snapshot().stages.iter().all(|stage| stage.ended));
}

#[tokio::test(start_paused = true)]
async fn time_is_counted_from_the_first_look_on_also_in_the_middle_of_a_wait() {
    let (graph, far) = (Graph::new("test"), Far::new());
    let slow = sink_with(&Log::new(), |sink| sink.takes = Duration::from_secs(4));
    graph.consumer("sink", slow).subscribe(&far, 0..1);
    let running = graph.start();
    let seconds = async |count| tokio::time::sleep(Duration::from_secs(count)).await;
    seconds(5).await;
    assert_eq!(times(&running.snapshot(), "sink"), [0, 0, 0], "nobody had looked");
    seconds(2).await;
    assert_eq!(times(&running.snapshot(), "sink"), [0, 2, 0]);
    far.deliver(0..1);
    seconds(5).await;
    assert_eq!(times(&running.snapshot(), "sink"), [4, 3, 0]);
}

#[tokio::test(start_paused = true)]
async fn counters_and_gauges() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new())).buffer(5, aqueduct_stage::Keep::Last);
    let manual = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&numbers, 0..1);
    let running = graph.start();
    let id = log.first_subscribed().await;
    let gauges = || {
        let snapshot = running.snapshot();
        let (numbers, sink) = (snapshot.stage("numbers").unwrap(), snapshot.stage("sink").unwrap());
        let counters = [numbers.events_out, sink.events_in, numbers.discarded, numbers.buffered];
        (counters, numbers.demand.count(), sink.outstanding.count())
    };
    manual.stage_ref().call(with(move |cx| cx.ask(id, 4))).await.unwrap();
    settled().await;
    assert_eq!(gauges(), ([0, 0, 0, 0], 4, 4));
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    settled().await;
    assert_eq!(gauges(), ([3, 3, 0, 0], 1, 1));
    numbers.stage_ref().call(emit(3..11)).await.unwrap();
    settled().await;
    assert_eq!(gauges(), ([4, 4, 2, 5], 0, 0));
    manual.stage_ref().call(with(move |cx| cx.ask(id, 9))).await.unwrap();
    settled().await;
    assert_eq!(gauges(), ([9, 9, 2, 0], 4, 4));
}

/// Two producers elsewhere, three stages here.
fn drawn() -> Graph {
    let graph = Graph::new("the \"graph\"");
    let far = || Far::refusing(SubscribeError::Ended("far".into()));
    let numbers = graph.producer("numbers", count(1, &Log::new()));
    let middle = graph.stage("the \"middle\"", relay(&Log::new())).subscribe(&numbers, 5..10).subscribe(&far(), 5..10);
    graph
        .consumer("sink", sink(&Log::new()))
        .concurrency(2)
        .subscribe(&middle, 5..10)
        .subscribe(&numbers, 5..10)
        .subscribe(&far().called("further"), 5..10)
        .subscribe(&far(), 5..10);
    graph
}

#[test]
fn a_graph_is_drawn_with_mermaid() {
    let expected = r#"flowchart LR
    s0["numbers"]
    s1["the #quot;middle#quot;"]
    s2["sink"]
    s0 --> s1
    f0(["far"]) -.-> s1
    s1 --> s2
    s0 --> s2
    f1(["further"]) -.-> s2
    f0(["far"]) -.-> s2
"#;
    assert_eq!(drawn().to_mermaid(), expected);
}

#[test]
fn a_graph_is_drawn_with_dot() {
    let expected = r#"digraph "the \"graph\"" {
    rankdir=LR;
    "numbers";
    "the \"middle\"";
    "sink";
    "numbers" -> "the \"middle\"";
    "far" -> "the \"middle\"" [style=dashed];
    "the \"middle\"" -> "sink";
    "numbers" -> "sink";
    "further" -> "sink" [style=dashed];
    "far" -> "sink" [style=dashed];
}
"#;
    assert_eq!(drawn().to_dot(), expected);
}

#[tokio::test(start_paused = true)]
async fn every_subscription_shows_its_demand_and_what_is_in_flight() {
    let (graph, log, gate) = (Graph::new("test"), Log::new(), Gate::closed());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let relay = graph.stage("relay", relay(&Log::new())).subscribe(&numbers, 5..10);
    let make = sink_with(&log, |sink| sink.gate = Some(gate.clone()));
    let sink = graph.consumer("sink", make).subscribe(&relay, 2..4);
    let far = Far::new().called("elsewhere");
    let mut running = graph.start();
    settled().await;
    let shown = |snapshot: &Snapshot, from: &str, to: &str| {
        let one = snapshot.between(from, to).next().unwrap();
        (one.asked, one.given, one.handled.unwrap(), one.demand().count(), one.in_flight())
    };
    let snapshot = running.snapshot();
    assert_eq!((shown(&snapshot, "numbers", "relay"), snapshot.subscriptions.len()), ((10, 0, 0, 10, 0), 2));
    numbers.stage_ref().call(emit(0..8)).await.unwrap();
    settled().await;
    // The sink has begun the first two of the four that it asked for. The relay has handled everything.
    let snapshot = running.snapshot();
    assert_eq!(shown(&snapshot, "relay", "sink"), (4, 4, 0, 0, 4));
    assert_eq!(shown(&snapshot, "numbers", "relay"), (15, 8, 8, 7, 0));
    gate.open(1);
    settled().await;
    assert_eq!(shown(&running.snapshot(), "relay", "sink"), (6, 6, 2, 0, 4));
    let metric = |name| running.snapshot().metrics().filter(|one| one.name == name).map(|one| one.value).sum::<f64>();
    assert_eq!((metric("edge_demand_outstanding"), metric("edge_in_flight")), (7.0, 4.0));
    // One to elsewhere, and one that has ended.
    let id = running.subscribe(&sink, &far, 1..3);
    gate.open(100);
    settled().await;
    let snapshot = running.snapshot();
    let one = snapshot.between("elsewhere", "sink").next().unwrap();
    assert_eq!((one.id, one.from_instance, one.to_instance, one.asked, one.in_flight()), (id, None, Some(0), 3, 0));
    running.cancel(&sink, snapshot.between("relay", "sink").next().unwrap().id, Exit::Normal);
    settled().await;
    let _ = running.stop(Duration::from_secs(1)).await;
    assert!(running.snapshot().subscriptions.is_empty());
}
