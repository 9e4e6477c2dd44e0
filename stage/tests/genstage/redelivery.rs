//! `subscribe_acknowledged`: what a failing consumer had in hand is handled by another.

use std::time::Duration;

use aqueduct_stage::testing::ProbeSource;
use aqueduct_stage::{Attempt, Graph, Running};

use crate::support::{Gate, Log, Note, count, emit, idle, settled, sink, sink_with};

const PANICKED: &str = r#"stage "sick" panicked: poisoned"#;

/// What a consumer with the window `5..10` hands back that is given 0..10 and 10..12 and panics at `poison`.
async fn handed_back(poison: u64) -> Vec<(Vec<u64>, u32)> {
    let (graph, log, source) = (Graph::new("test"), Log::new(), ProbeSource::new());
    graph.consumer("sick", sink_with(&log, |sink| sink.poison = Some(poison))).subscribe_acknowledged(&source, 5..10);
    let _running = graph.start();
    source.expect_demand(10).await;
    source.send(0..10);
    source.send_unasked(10..12);
    assert_eq!(source.expect_cancel().await.to_string(), PANICKED);
    numbered(source.take_handed_back())
}

fn numbered(batches: Vec<(Vec<u64>, Attempt)>) -> Vec<(Vec<u64>, u32)> {
    batches.into_iter().map(|(events, attempt)| (events, attempt.number())).collect()
}

#[tokio::test(start_paused = true)]
async fn only_what_was_being_handled_counts_as_an_attempt() {
    let [first, second, third] = [0..5, 5..10, 10..12].map(Iterator::collect::<Vec<u64>>);
    assert_eq!(handed_back(2).await, [(first, 2), (second.clone(), 1), (third.clone(), 1)]);
    assert_eq!(handed_back(7).await, [(second, 2), (third.clone(), 1)]);
    assert_eq!(handed_back(11).await, [(third, 2)]);
}

/// A consumer that is handling 0..5 until the gate opens, and has been given 5..10 as well.
async fn in_the_first_batch_of_two(log: &Log, source: &ProbeSource<u64>, gate: &Gate) -> Running {
    let graph = Graph::new("test");
    let sink = graph.consumer("sink", sink_with(log, |sink| sink.gate = Some(gate.clone())));
    sink.subscribe_acknowledged(source, 5..10);
    let running = graph.start();
    source.expect_demand(10).await;
    source.send(0..10);
    log.batches_reach(1).await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_ends_in_good_order_hands_back_what_it_has_not_begun() {
    let (log, source, gate) = (Log::new(), ProbeSource::new(), Gate::closed());
    let mut running = in_the_first_batch_of_two(&log, &source, &gate).await;
    // It is killed in the middle of a batch: that was an attempt.
    let _ = running.stop(Duration::from_secs(1)).await;
    assert_eq!(numbered(source.take_handed_back()), [((0..5).collect(), 2), ((5..10).collect(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_stopped_does_not_hand_back_what_it_has_just_handled() {
    let (log, source, gate) = (Log::new(), ProbeSource::new(), Gate::closed());
    let mut running = in_the_first_batch_of_two(&log, &source, &gate).await;
    // It is told to stop in the middle of its first batch, and finishes that.
    let finish = async {
        settled().await;
        gate.open(1);
    };
    tokio::join!(running.stop(Duration::from_secs(1)), finish).0.unwrap();
    assert_eq!(log.events(), [0, 1, 2, 3, 4]);
    assert_eq!(numbered(source.take_handed_back()), [((5..10).collect(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn another_consumer_gets_it_in_order_and_nothing_is_lost_or_twice() {
    for poison in [0, 3, 5, 9, 17, 40] {
        let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
        let numbers = graph.producer("numbers", idle(&Log::new()));
        let options = |poison| {
            move |sink: &mut crate::support::Sink| {
                sink.takes = Duration::from_millis(5);
                sink.poison = poison;
            }
        };
        graph.consumer("sick", sink_with(&logs[0], options(Some(poison)))).subscribe_acknowledged(&numbers, 5..10);
        graph.consumer("well", sink_with(&logs[1], options(None))).subscribe_acknowledged(&numbers, 5..10);
        let _running = graph.start();
        settled().await;
        numbers.stage_ref().call(emit(0..100)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut all = [logs[0].events(), logs[1].events()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>(), "poison {poison}");
        let attempts: Vec<_> = logs[1]
            .all()
            .into_iter()
            .filter_map(|note| if let Note::Events(events, attempt) = note { Some((events, attempt)) } else { None })
            .collect();
        if let Some(second) = attempts.iter().position(|(_, attempt)| *attempt == 2) {
            assert!(attempts[second].0.contains(&poison), "poison {poison}: {attempts:?}");
            let rest: Vec<_> = attempts[second..].iter().flat_map(|(events, _)| events).collect();
            assert!(rest.is_sorted(), "poison {poison}: {attempts:?}");
            assert_eq!(attempts.iter().filter(|(_, attempt)| *attempt > 1).count(), 1, "poison {poison}");
        } else {
            assert!(!logs[0].all().contains(&Note::Terminated(PANICKED.into())), "poison {poison} was not handled");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_with_open_demand_gets_the_groups_in_their_order() {
    let (logs, gate) = ([Log::new(), Log::new()], Gate::closed());
    // The sick one asks for more, so it is given everything.
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let make = sink_with(&logs[0], |sink| {
        sink.poison = Some(3);
        sink.gate = Some(gate.clone());
    });
    graph.consumer("sick", make).subscribe_acknowledged(&numbers, 97..100);
    graph.consumer("well", sink(&logs[1])).subscribe(&numbers, 0..50);
    let _running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..9)).await.unwrap();
    settled().await;
    assert_eq!(logs[0].batches(), [[0, 1, 2]]);
    gate.open(1);
    settled().await;
    let notes = logs[1].all();
    let events: Vec<_> = notes.iter().filter(|note| matches!(note, Note::Events(..))).collect();
    assert_eq!(events, [&Note::Events(vec![3, 4, 5], 2), &Note::Events(vec![6, 7, 8], 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_next_consumer_gets_it_before_anything_newer_and_attempts_add_up() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let sick = graph.consumer("sick", sink_with(&log, |sink| sink.poison = Some(1)));
    let sick = sick.subscribe_acknowledged(&numbers, 1..3);
    let mut running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    numbers.stage_ref().call(emit(3..5)).await.unwrap();
    settled().await;
    assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(5));
    assert_eq!(sick.stage_ref().cast(crate::support::Say("dead")), Err(aqueduct_stage::CallError::Stopped));
    running.add(|graph| graph.consumer("well", sink(&log)).subscribe(&numbers, 0..3));
    settled().await;
    let events: Vec<_> = log.all().into_iter().filter(|note| matches!(note, Note::Events(..))).collect();
    let expected = [(vec![0, 1], 2), (vec![2], 1), (vec![3, 4], 1)];
    assert_eq!(events, expected.map(|(events, attempt)| Note::Events(events, attempt)));
}

#[tokio::test(start_paused = true)]
async fn without_it_what_a_failing_consumer_had_in_hand_is_lost() {
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
    let numbers = graph.producer("numbers", idle(&Log::new()));
    graph.consumer("sick", sink_with(&logs[0], |sink| sink.poison = Some(0))).subscribe(&numbers, 0..3);
    let mut running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    settled().await;
    running.add(|graph| graph.consumer("well", sink(&logs[1])).subscribe(&numbers, 0..3));
    numbers.stage_ref().call(emit(3..5)).await.unwrap();
    settled().await;
    assert_eq!(logs[1].events(), [3, 4]);
    assert!(matches!(running.stop(Duration::from_secs(1)).await, Err(error) if error.to_string() == PANICKED));
}

#[tokio::test(start_paused = true)]
async fn what_a_consumer_fails_on_after_the_source_was_exhausted_is_redelivered_too() {
    let (graph, logs, gates) = (Graph::new("test"), [Log::new(), Log::new()], [Gate::closed(), Gate::closed()]);
    // Everything is with one of them, and the producer has nothing more to emit.
    let numbers = graph.producer("numbers", count(8, &Log::new())).wait_for_subscribers(2);
    let make = sink_with(&logs[0], |sink| {
        sink.poison = Some(3);
        sink.gate = Some(gates[0].clone());
    });
    graph.consumer("sick", make).subscribe_acknowledged(&numbers, 97..100);
    let make = sink_with(&logs[1], |sink| sink.gate = Some(gates[1].clone()));
    graph.consumer("well", make).subscribe_acknowledged(&numbers, 0..50);
    let running = graph.start();
    let ended = |name: &str| running.snapshot().stage(name).is_some_and(|stage| stage.ended);
    settled().await;
    assert_eq!((logs[0].batches(), logs[1].batches()), (vec![vec![0, 1, 2]], vec![]));
    gates[0].open(1);
    settled().await;
    assert!(ended("sick") && !ended("numbers"), "it may be told of a failure still");
    gates[1].open(100);
    settled().await;
    let events = logs[1].all().into_iter().filter(|note| matches!(note, Note::Events(..)));
    assert_eq!(events.collect::<Vec<_>>(), [Note::Events(vec![3, 4, 5], 2), Note::Events(vec![6, 7], 1)]);
    assert!(ended("well") && ended("numbers"));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_made_later_is_acknowledged_if_that_is_asked_for() {
    let (graph, log, source) = (Graph::new("test"), Log::new(), ProbeSource::new());
    let sick = graph.consumer("sick", sink_with(&log, |sink| sink.poison = Some(2)));
    let running = graph.start();
    running.subscribe_acknowledged(&sick, &source, 5..10);
    source.expect_demand(10).await;
    source.send(0..10);
    assert_eq!(source.expect_cancel().await.to_string(), PANICKED);
    assert_eq!(numbered(source.take_handed_back()), [((0..5).collect(), 2), ((5..10).collect(), 1)]);
}
