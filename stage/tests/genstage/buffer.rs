//! B5: what is emitted and nobody asked for.

use std::time::Duration;

use aqueduct_stage::{Exit, FailureKind, Graph, Keep, Mode, Never, Running, Stage};

use crate::support::{
    Gate, Log, Note, Numbers, Sink, Warnings, count, emit, endless, idle, settled, sink, sink_with, with,
};

struct Bench {
    running: Running,
    numbers: Stage<Numbers, Never, u64>,
    sink: Stage<Sink, u64, Never, aqueduct_stage::NoOutput>,
    /// What the producer is told.
    notes: Log,
    log: Log,
    warnings: Warnings,
}

/// A producer that nobody subscribes to yet.
fn bench(buffer: Option<(usize, Keep)>, reports: bool) -> Bench {
    let (graph, notes, log) = (Graph::new("test"), Log::new(), Log::new());
    let make = endless(&notes);
    let mut numbers = graph.producer("numbers", move || Numbers { reports, ..make() });
    if let Some((capacity, keep)) = buffer {
        numbers = numbers.buffer(capacity, keep);
    }
    let sink = graph.consumer("sink", sink(&log));
    Bench { running: graph.start(), numbers, sink, notes, log, warnings: Warnings::collect() }
}

impl Bench {
    async fn emit(&self, events: std::ops::Range<u64>) {
        self.numbers.stage_ref().call(emit(events)).await.unwrap();
    }

    async fn buffered(&self) -> usize {
        self.numbers.stage_ref().estimate_buffered().await.unwrap()
    }

    /// The first batches of a subscriber that takes four at a time.
    async fn batches(&self, count: usize) -> Vec<Vec<u64>> {
        self.running.subscribe(&self.sink, &self.numbers, 0..4);
        self.log.batches_reach(count).await
    }

    fn discarded(&self) -> (Vec<usize>, usize) {
        let count = |note| if let Note::Discarded(count) = note { Some(count) } else { None };
        (self.notes.all().into_iter().filter_map(count).collect(), self.warnings.lines().len())
    }
}

#[tokio::test(start_paused = true)]
async fn genstage_024_what_was_emitted_early_is_served_first() {
    let bench = bench(None, true);
    bench.emit(100..103).await;
    bench.emit(103..105).await;
    let expected = [vec![100, 101, 102, 103], vec![104], vec![0, 1, 2], vec![3, 4, 5, 6]];
    assert_eq!(bench.batches(4).await, expected);
}

#[tokio::test(start_paused = true)]
async fn genstage_025_a_full_buffer_keeps_the_first() {
    let bench = bench(Some((5, Keep::First)), true);
    bench.emit(100..105).await;
    assert_eq!(bench.discarded(), (vec![], 0));
    bench.emit(105..108).await;
    assert_eq!(bench.discarded(), (vec![3], 1));
    assert!(bench.warnings.lines()[0].contains("discarded=3"), "{:?}", bench.warnings.lines());
    assert_eq!(bench.batches(2).await.concat(), [100, 101, 102, 103, 104]);
}

#[tokio::test(start_paused = true)]
async fn genstage_026_a_full_buffer_keeps_the_last() {
    let bench = bench(Some((5, Keep::default())), true);
    bench.emit(100..105).await;
    bench.emit(105..108).await;
    assert_eq!(bench.discarded(), (vec![3], 1));
    assert_eq!(bench.batches(2).await, [vec![103, 104, 105, 106], vec![107]]);
}

#[tokio::test(start_paused = true)]
async fn genstage_027_a_buffer_without_bound() {
    let bench = bench(Some((usize::MAX, Keep::Last)), true);
    bench.emit(100..108).await;
    assert_eq!(bench.batches(2).await.concat(), (100..108).collect::<Vec<_>>());
    assert_eq!(bench.discarded(), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn genstage_028_handle_discarded_is_told_how_many() {
    let bench = bench(Some((5, Keep::First)), false);
    bench.emit(100..108).await;
    assert_eq!(bench.discarded(), (vec![3], 0));
    assert_eq!(bench.batches(2).await.concat(), [100, 101, 102, 103, 104]);
    assert_eq!(bench.discarded(), (vec![3], 0));
}

#[tokio::test(start_paused = true)]
async fn genstage_029_true_writes_the_standard_line_too() {
    let bench = bench(Some((5, Keep::First)), true);
    bench.emit(100..108).await;
    assert_eq!(bench.discarded(), (vec![3], 1));
}

#[tokio::test(start_paused = true)]
async fn genstage_030_false_leaves_the_standard_line_out() {
    let bench = bench(Some((5, Keep::Last)), false);
    bench.emit(100..108).await;
    assert_eq!(bench.discarded(), (vec![3], 0));
}

#[tokio::test(start_paused = true)]
async fn genstage_031_how_many_are_buffered() {
    let bench = bench(None, true);
    bench.emit(100..105).await;
    assert_eq!(bench.buffered().await, 5);
    bench.emit(105..108).await;
    assert_eq!(bench.buffered().await, 8);
    bench.batches(3).await;
    assert_eq!(bench.buffered().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_of_none_is_valid_and_drops_everything() {
    for keep in [Keep::First, Keep::Last] {
        let bench = bench(Some((0, keep)), true);
        bench.emit(100..103).await;
        assert_eq!((bench.discarded(), bench.buffered().await), ((vec![3], 1), 0));
        assert_eq!(bench.batches(1).await, [[0, 1, 2, 3]]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_that_may_not_drop_fails_the_stage() {
    let (graph, notes, log) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes)).buffer(5, Keep::Fail);
    let gate = Gate::closed();
    graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&numbers, 0..2);
    let mut running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..7)).await.unwrap();
    let refused = numbers.stage_ref().call(emit(7..8)).await;
    assert_eq!(refused, Err(aqueduct_stage::CallError::Stopped));
    gate.open(10);
    let error = running.join().await.unwrap_err();
    assert_eq!((error.failure.kind(), error.failure.origin()), (FailureKind::Overflow, "numbers"));
    assert_eq!(error.failure.message(), "1 events more than the buffer holds");
    assert!(error.others.is_empty(), "{:?}", error.others);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_in_the_buffer_of_a_stage_that_ends_is_counted_as_discarded() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&numbers, 0..4);
    let mut running = graph.start();
    numbers.stage_ref().call(emit(0..7)).await.unwrap();
    let outcome = running.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(outcome.stage("numbers").unwrap().discarded, 7);
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_ends_normally_delivers_its_buffer_first() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 0..2);
    let mut running = graph.start();
    settled().await;
    numbers
        .stage_ref()
        .call(with(|cx| {
            cx.emit_all(0..7);
            cx.stop(Exit::Normal);
        }))
        .await
        .unwrap();
    running.join().await.unwrap();
    assert_eq!(log.events(), (0..7).collect::<Vec<_>>());
    assert!(log.all().contains(&Note::End));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_comes_again_goes_on_where_the_first_left_off() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(10, &Log::new()));
    let [first, second] = ["first", "second"].map(|name| graph.consumer(name, sink(&log)));
    let mut running = graph.start();
    let temporary = aqueduct_stage::SubscribeOptions::demand(0..3).cancel(aqueduct_stage::Cancel::Temporary);
    numbers.stage_ref().set_demand(aqueduct_stage::DemandMode::Accumulate).unwrap();
    let id = running.subscribe(&first, &numbers, temporary);
    settled().await;
    running.cancel(&first, id, Exit::Normal);
    settled().await;
    numbers.stage_ref().set_demand(aqueduct_stage::DemandMode::Forward).unwrap();
    running.subscribe(&second, &numbers, 0..3);
    running.join().await.unwrap();
    assert_eq!(log.events(), (0..10).collect::<Vec<_>>());
}
