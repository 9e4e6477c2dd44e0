//! B2 and B4: how demand travels, how it is cut, and how it is kept back.

use std::time::Duration;

use aqueduct_stage::{
    Batch, Consumer, Cx, DemandMode, Edge, Graph, Keep, Mode, Result, SubscribeOptions, SubscriptionId,
};

use crate::support::{Far, Gate, Log, Note, count, emit, endless, idle, relay, settled, sink, sink_with, with};

/// The first batches that a consumer is given by an endless counter.
async fn batches(options: impl Into<SubscribeOptions>, count: usize) -> Vec<Vec<u64>> {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, options);
    let _running = graph.start();
    log.batches_reach(count).await
}

fn ranges(ranges: impl IntoIterator<Item = std::ops::Range<u64>>) -> Vec<Vec<u64>> {
    ranges.into_iter().map(Iterator::collect).collect()
}

#[tokio::test(start_paused = true)]
async fn genstage_002_counter_with_defaults() {
    assert_eq!(batches(SubscribeOptions::default(), 3).await, ranges([0..500, 500..1000, 1000..1500]));
}

#[tokio::test(start_paused = true)]
async fn genstage_003_a_small_piece_of_a_large_window() {
    let batches = batches(80..100, 51).await;
    assert_eq!(batches, ranges((0..51).map(|n| n * 20..(n + 1) * 20)));
    assert_eq!(batches[50], (1000..1020).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn genstage_004_a_large_piece_of_a_window() {
    assert_eq!(batches(20..100, 5).await, ranges([0..80, 80..100, 100..180, 180..260, 260..280]));
}

#[tokio::test(start_paused = true)]
async fn genstage_005_one_at_a_time() {
    assert_eq!(batches(0..1, 3).await, [[0], [1], [2]]);
}

#[tokio::test(start_paused = true)]
async fn the_split_follows_the_table() {
    // (window, arrivals, the batches that are handled, what is asked in all)
    type Row = (std::ops::Range<usize>, &'static [u64], &'static [usize], &'static [u64]);
    let table: [Row; 7] = [
        (500..1000, &[1000], &[500, 500], &[1000, 1500, 2000]),
        // The documentation says 50, ask 250, 50. The code does this.
        (750..1000, &[100, 100, 100], &[100, 100, 100], &[1000, 1300]),
        (20..100, &[100], &[80, 20], &[100, 180]),
        (0..1, &[1, 1], &[1, 1], &[1, 2, 3]),
        (9..10, &[3], &[1, 1, 1], &[10, 11, 12, 13]),
        (0..10, &[9, 1], &[9, 1], &[10, 20]),
        // Events in excess are handled, and not counted.
        (2..4, &[7], &[2, 2, 2, 1], &[4, 6, 8]),
    ];
    for (window, arrivals, expected, asks) in table {
        let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
        graph.consumer("sink", sink(&log)).subscribe(&far, window.clone());
        let _running = graph.start();
        settled().await;
        let mut next = 0;
        for arrival in arrivals {
            far.deliver(next..next + arrival);
            next += arrival;
        }
        settled().await;
        assert_eq!(log.batches().iter().map(Vec::len).collect::<Vec<_>>(), expected, "{window:?}");
        assert_eq!(log.events(), (0..next).collect::<Vec<_>>());
        assert_eq!(far.asks(), asks, "{window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_ask_for_a_piece_is_sent_when_it_was_handled() {
    let (graph, log, far, gate) = (Graph::new("test"), Log::new(), Far::new(), Gate::closed());
    graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&far, 5..10);
    let _running = graph.start();
    settled().await;
    far.deliver(0..10);
    settled().await;
    assert_eq!((far.asks(), log.batches().len()), (vec![10], 1));
    gate.open(1);
    settled().await;
    assert_eq!((far.asks(), log.batches().len()), (vec![10, 15], 2));
}

#[tokio::test(start_paused = true)]
async fn each_producer_has_a_window_of_its_own() {
    let (graph, log, asked) = (Graph::new("test"), Log::new(), [Log::new(), Log::new()]);
    let producers = [graph.producer("a", idle(&asked[0])), graph.producer("b", idle(&asked[1]))];
    graph.consumer("sink", sink(&log)).subscribe(&producers[0], 5..10).subscribe(&producers[1], 1..3);
    let _running = graph.start();
    settled().await;
    assert_eq!(asked.map(|log| log.asked()), [[10], [3]]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_answers_late_is_not_asked_again() {
    let (graph, log, asked) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&asked));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 5..10);
    let _running = graph.start();
    settled().await;
    numbers
        .stage_ref()
        .call(with(|cx| {
            assert_eq!(cx.demand(), 10);
            cx.emit_all(0..7);
            assert_eq!(cx.demand(), 3);
        }))
        .await
        .unwrap();
    settled().await;
    assert_eq!((log.events().len(), asked.asked()), (7, vec![10, 5]), "after five of the seven, five more");
    let (tell, told) = std::sync::mpsc::channel();
    numbers.stage_ref().call(with(move |cx| tell.send(cx.demand()).unwrap())).await.unwrap();
    assert_eq!(told.recv(), Ok(8));
}

// Manual demand.

#[tokio::test(start_paused = true)]
async fn in_manual_mode_nothing_is_asked_and_batches_are_whole() {
    let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
    let manual = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&far, 2..4);
    let _running = graph.start();
    let id = log.first_subscribed().await;
    settled().await;
    assert_eq!(far.asks(), []);
    manual
        .stage_ref()
        .call(with(move |cx| {
            cx.ask(id, 0);
            cx.ask(id, 7);
            cx.ask(SubscriptionId::new(), 100);
        }))
        .await
        .unwrap();
    far.deliver(0..7);
    far.deliver([]);
    assert_eq!(log.batches_reach(2).await, [(0..7).collect::<Vec<_>>(), vec![]], "empty ones arrive too");
    manual.stage_ref().call(with(move |cx| cx.ask(id, 1))).await.unwrap();
    assert_eq!(far.asks(), [7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_manual_consumer_may_ask_while_it_is_being_subscribed() {
    struct Eager(Log);
    impl Consumer for Eager {
        type In = u64;
        async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_>) -> Result {
            self.0.push(Note::Events(events.to_vec(), 1));
            cx.ask(events.from(), 1);
            Ok(())
        }
        async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> Result<Mode> {
            cx.ask(edge.id, 3);
            Ok(Mode::Manual)
        }
    }
    let (graph, log, seen) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", count(5, &log));
    let written = seen.clone();
    graph.consumer("eager", move || Eager(written.clone())).subscribe(&numbers, 0..1);
    let _running = graph.start();
    assert_eq!(seen.batches_reach(3).await, [vec![0, 1, 2], vec![3], vec![4]]);
    assert_eq!(log.asked(), [3, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn asking_through_an_automatic_subscription_does_nothing() {
    let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
    let stage = graph.consumer("sink", sink(&log)).subscribe(&far, 2..4);
    let _running = graph.start();
    let id = log.first_subscribed().await;
    stage.stage_ref().call(with(move |cx| cx.ask(id, 7))).await.unwrap();
    settled().await;
    assert_eq!(far.asks(), [4]);
}

// Demand modes.

#[tokio::test(start_paused = true)]
async fn genstage_018_accumulate_from_the_start() {
    let (graph, log, asked) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", endless(&asked)).accumulate();
    let stage = numbers.stage_ref();
    let gate = Gate::closed();
    graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&numbers, 0..4);
    let _running = graph.start();
    assert_eq!(stage.demand_mode().await, Ok(DemandMode::Accumulate));
    settled().await;
    assert_eq!((log.batches().len(), asked.asked().len()), (0, 0));
    stage.set_demand(DemandMode::Forward).unwrap();
    assert_eq!(stage.demand_mode().await, Ok(DemandMode::Forward));
    assert_eq!(log.batches_reach(1).await, [[0, 1, 2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn genstage_020_accumulate_while_running() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let sink = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(Gate::closed())));
    let running = graph.start();
    numbers.stage_ref().set_demand(DemandMode::Accumulate).unwrap();
    running.subscribe(&sink, &numbers, 0..4);
    settled().await;
    assert_eq!(log.batches().len(), 0);
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    assert_eq!(log.batches_reach(1).await, [[0, 1, 2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn genstage_021_forward_again_before_anyone_subscribes() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let sink = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(Gate::closed())));
    let running = graph.start();
    numbers.stage_ref().set_demand(DemandMode::Accumulate).unwrap();
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    running.subscribe(&sink, &numbers, 0..4);
    assert_eq!(log.batches_reach(1).await, [[0, 1, 2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn genstage_022_accumulate_twice_keeps_what_was_asked() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&Log::new())).accumulate();
    graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(Gate::closed()))).subscribe(&numbers, 0..4);
    let _running = graph.start();
    settled().await;
    numbers.stage_ref().set_demand(DemandMode::Accumulate).unwrap();
    settled().await;
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    assert_eq!(log.batches_reach(1).await, [[0, 1, 2, 3]]);
}

/// Asks that arrive together are merged, so the consumers here take a moment for each event.
#[tokio::test(start_paused = true)]
async fn genstage_023_kept_asks_are_not_summed() {
    let (graph, asked) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&asked)).accumulate();
    let slow = || sink_with(&Log::new(), |sink| sink.takes = Duration::from_millis(5));
    graph.consumer("a", slow()).subscribe(&numbers, 1..2);
    graph.consumer("b", slow()).subscribe(&numbers, 1..2);
    let _running = graph.start();
    settled().await;
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    asked.until(|notes| notes.iter().filter(|note| matches!(note, Note::Asked(_))).count() > 20).await;
    let asked = asked.asked();
    assert_eq!(asked[..2], [2, 2]);
    assert!(asked[2..].iter().all(|&demand| demand == 1), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_emitted_while_demand_accumulates_is_bounded_by_the_buffer_and_counted() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes)).accumulate().buffer(5, Keep::Last);
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 0..100);
    let running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    numbers.stage_ref().call(emit(3..8)).await.unwrap();
    assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(5));
    assert!(notes.all().contains(&Note::Discarded(3)));
    assert_eq!(running.snapshot().stage("numbers").unwrap().discarded, 3);
    assert_eq!(log.batches().len(), 0);
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    assert_eq!(log.events_reach(5).await, [3, 4, 5, 6, 7]);
    settled().await;
    assert_eq!(notes.asked(), [95], "five of the hundred were there");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_left_is_not_served_when_demand_is_forwarded() {
    let (graph, logs, asked) = (Graph::new("test"), [Log::new(), Log::new()], Log::new());
    let numbers = graph.producer("numbers", idle(&asked)).accumulate();
    let first = graph.consumer("first", sink(&logs[0]));
    let second = graph.consumer("second", sink(&logs[1]));
    let running = graph.start();
    let temporary = || SubscribeOptions::demand(0..4).cancel(aqueduct_stage::Cancel::Temporary);
    let id = running.subscribe(&first, &numbers, temporary());
    running.subscribe(&second, &numbers, 0..3);
    settled().await;
    running.cancel(&first, id, aqueduct_stage::Exit::Normal);
    settled().await;
    numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    settled().await;
    assert_eq!(asked.asked(), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_waits_for_as_many_subscribers_as_it_was_told() {
    let (graph, log, asked) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", count(10, &asked)).wait_for_subscribers(2);
    let [first, second] = ["first", "second"].map(|name| graph.consumer(name, sink(&log)));
    let mut running = graph.start();
    running.subscribe(&first, &numbers, 0..10);
    settled().await;
    assert_eq!(asked.asked(), []);
    running.subscribe(&second, &numbers, 0..10);
    running.join().await.unwrap();
    assert_eq!(log.events().len(), 10);
}

/// Where events are sorted, many small pieces cost more than a few large ones; by demand each ask gets its events uncut.
#[tokio::test(start_paused = true)]
async fn asks_that_come_together_are_one_for_partitions_and_several_by_demand() {
    let (graph, log, [sorted, dealt]) = (Graph::new("test"), Log::new(), [(); 2].map(|()| Log::new()));
    let partitioned = graph.producer("partitioned", count(100, &sorted)).partition(2, |n| (n % 2) as usize);
    graph.consumer("of a partition", sink(&log)).subscribe_each(&partitioned, 5..10);
    let by_demand = graph.producer("by demand", count(100, &dealt));
    graph.consumer("by demand, each", sink(&log)).concurrency(2).subscribe(&by_demand, 5..10);
    graph.run().await.unwrap();
    assert_eq!((sorted.asked()[0], &dealt.asked()[..2]), (20, &[10, 10][..]));
    assert_eq!(log.events().len(), 200);
}

// Producer-consumers.

#[tokio::test(start_paused = true)]
async fn a_producer_consumer_prefetches_and_handles_nothing_before_it_is_asked() {
    let (graph, log, seen, far) = (Graph::new("test"), Log::new(), Log::new(), Far::new());
    let middle = graph.stage("relay", relay(&seen)).subscribe(&far, 5..10);
    let manual = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&middle, 0..1);
    let running = graph.start();
    let id = log.first_subscribed().await;
    settled().await;
    assert_eq!(far.asks(), [10], "its own window, whoever is downstream");
    far.deliver(0..10);
    settled().await;
    assert_eq!(seen.batches().len(), 0);
    assert_eq!(middle.stage_ref().estimate_buffered().await, Ok(0), "the in-queue is not the buffer");
    // An entry is handled to its end, though only one was asked for; the rest waits in the buffer.
    manual.stage_ref().call(with(move |cx| cx.ask(id, 1))).await.unwrap();
    settled().await;
    assert_eq!((seen.batches().len(), log.events()), (2, vec![0]));
    assert_eq!(middle.stage_ref().estimate_buffered().await, Ok(9));
    assert_eq!(far.asks(), [10, 15, 20]);
    // What is in the buffer is served before anything more is handled.
    far.deliver(10..20);
    manual.stage_ref().call(with(move |cx| cx.ask(id, 9))).await.unwrap();
    settled().await;
    assert_eq!((seen.batches().len(), log.events()), (2, (0..10).collect()));
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_producer_consumer_that_discards_goes_on_until_it_has_emitted_enough() {
    struct Odd;
    impl aqueduct_stage::ProducerConsumer for Odd {
        type In = u64;
        type Out = u64;
        async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
            cx.emit_all(events.into_iter().filter(|n| n % 10 == 9));
            Ok(())
        }
    }
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(10_000, &Log::new()));
    let odd = graph.stage("odd", || Odd).subscribe(&numbers, 2..4);
    graph.consumer("sink", sink(&log)).subscribe(&odd, 1..2);
    graph.run().await.unwrap();
    assert_eq!(log.events().len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_producer_consumer_that_multiplies_buffers_what_was_not_asked_for() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(100, &Log::new()));
    let make = relay(&Log::new());
    let triple =
        graph.stage("triple", move || crate::support::Relay { copies: 3, ..make() }).subscribe(&numbers, 5..10);
    graph.consumer("sink", sink_with(&log, |sink| sink.takes = Duration::from_millis(5))).subscribe(&triple, 0..7);
    let outcome = graph.run().await.unwrap();
    assert_eq!(log.events(), (0..300).map(|n| n / 3).collect::<Vec<_>>());
    assert_eq!(outcome.stage("triple").unwrap().discarded, 0);
}
