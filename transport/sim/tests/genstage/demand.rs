//! B2 and B4: how demand travels, how it is cut, and how it is kept back.

use std::ops::Range;
use std::time::Duration;

use aqueduct_stage::{DemandMode, Keep, Mode, SubscribeOptions};

use crate::support::{Gate, Log, Note, emit, endless, idle, sink, sink_with, with};
use crate::{far, graphs, scenario, settled};

/// The first batches that a far consumer is given by an endless counter.
async fn batches(options: impl Into<SubscribeOptions>, count: usize) -> Vec<Vec<u64>> {
    let ((there, here), log) = (graphs(), Log::new());
    let numbers = there.producer("numbers", endless(&Log::new()));
    here.consumer("sink", sink(&log)).subscribe(&far(&numbers), options);
    let _running = (there.start(), here.start());
    log.batches_reach(count).await
}

fn ranges(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Vec<u64>> {
    ranges.into_iter().map(Iterator::collect).collect()
}

/// The default for another node is larger. Until the publisher knows how large the events are, it asks for 512 of them. A frame
/// holds at most 8192 numbers: those behind them are another batch.
#[test]
fn genstage_002_counter_with_defaults() {
    scenario(async || {
        assert_eq!(batches(SubscribeOptions::default(), 3).await, ranges([0..512, 512..5512, 5512..512 + 8192]));
    });
}

#[test]
fn genstage_003_a_small_piece_of_a_large_window() {
    scenario(async || {
        let batches = batches(80..100, 51).await;
        assert_eq!(batches, ranges((0..51).map(|n| n * 20..(n + 1) * 20)));
    });
}

#[test]
fn genstage_004_a_large_piece_of_a_window() {
    scenario(async || {
        assert_eq!(batches(20..100, 5).await, ranges([0..80, 80..100, 100..180, 180..260, 260..280]));
    });
}

#[test]
fn genstage_005_one_at_a_time() {
    scenario(async || assert_eq!(batches(0..1, 3).await, [[0], [1], [2]]));
}

#[test]
fn the_producer_is_asked_for_a_piece_when_it_was_handled() {
    // (window, the batches of the first window, what is asked for after each of them)
    type Row = (Range<usize>, &'static [usize], &'static [usize]);
    let table: [Row; 4] = [
        (5..10, &[5, 5], &[10, 5, 5]),
        (20..100, &[80, 20], &[100, 80]),
        (9..10, &[1, 1, 1], &[10, 1, 1, 1]),
        (0..10, &[10], &[10, 10]),
    ];
    scenario(async || {
        for (window, expected, asks) in &table {
            let ((there, here), log, asked, gate) = (graphs(), Log::new(), Log::new(), Gate::closed());
            let numbers = there.producer("numbers", idle(&asked));
            let slow = sink_with(&log, |sink| sink.gate = Some(gate.clone()));
            here.consumer("sink", slow).subscribe(&far(&numbers), window.clone());
            let _running = (there.start(), here.start());
            settled().await;
            numbers.stage_ref().call(emit(0..window.end as u64)).await.unwrap();
            for done in 0..expected.len() {
                settled().await;
                assert_eq!(log.batches().len(), done + 1, "{window:?}");
                gate.open(1);
            }
            settled().await;
            let lengths: Vec<_> = log.batches().iter().map(Vec::len).collect();
            assert_eq!(lengths[..expected.len()], **expected, "{window:?}");
            assert_eq!(asked.asked(), *asks, "{window:?}");
        }
    });
}

#[test]
fn each_far_producer_has_a_window_of_its_own() {
    scenario(async || {
        let ((there, here), asked) = (graphs(), [Log::new(), Log::new()]);
        let [a, b] = [there.producer("a", idle(&asked[0])), there.producer("b", idle(&asked[1]))];
        here.consumer("sink", sink(&Log::new())).subscribe(&far(&a), 5..10).subscribe(&far(&b), 1..3);
        let _running = (there.start(), here.start());
        settled().await;
        assert_eq!(asked.map(|log| log.asked()), [[10], [3]]);
    });
}

#[test]
fn a_far_producer_that_answers_late_is_not_asked_again() {
    scenario(async || {
        let ((there, here), log, asked) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", idle(&asked));
        here.consumer("sink", sink(&log)).subscribe(&far(&numbers), 5..10);
        let _running = (there.start(), here.start());
        settled().await;
        assert_eq!(asked.asked(), [10]);
        numbers.stage_ref().call(emit(0..7)).await.unwrap();
        settled().await;
        assert_eq!((log.events().len(), asked.asked()), (7, vec![10, 5]), "after five of the seven, five more");
    });
}

#[test]
fn a_far_consumer_in_manual_mode_is_given_what_it_asks_for() {
    scenario(async || {
        let ((there, here), log, asked) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", endless(&asked));
        let manual = sink_with(&log, |sink| sink.mode = Mode::Manual);
        let manual = here.consumer("sink", manual).subscribe(&far(&numbers), 2..4);
        let _running = (there.start(), here.start());
        let id = log.first_subscribed().await;
        settled().await;
        assert_eq!(asked.asked(), []);
        for more in [7, 1] {
            manual.stage_ref().call(with(move |cx| cx.ask(id, more))).await.unwrap();
            settled().await;
        }
        assert_eq!((asked.asked(), log.batches()), (vec![7, 1], ranges([0..7, 7..8])));
    });
}

#[test]
fn genstage_018_accumulate_from_the_start() {
    scenario(async || {
        let ((there, here), log, asked) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", endless(&asked)).accumulate();
        let stuck = sink_with(&log, |sink| sink.gate = Some(Gate::closed()));
        here.consumer("sink", stuck).subscribe(&far(&numbers), 0..4);
        let _running = (there.start(), here.start());
        let stage = numbers.stage_ref();
        assert_eq!(stage.demand_mode().await, Ok(DemandMode::Accumulate));
        settled().await;
        assert_eq!((log.batches().len(), asked.asked().len()), (0, 0));
        stage.set_demand(DemandMode::Forward).unwrap();
        assert_eq!(stage.demand_mode().await, Ok(DemandMode::Forward));
        assert_eq!(log.batches_reach(1).await, [[0, 1, 2, 3]]);
    });
}

/// Sets these modes before anybody subscribes, and then those, and has the first batch.
async fn after(before: &[DemandMode], then: &[DemandMode]) -> Vec<Vec<u64>> {
    let ((there, here), log) = (graphs(), Log::new());
    let numbers = there.producer("numbers", endless(&Log::new()));
    let sink = here.consumer("sink", sink_with(&log, |sink| sink.gate = Some(Gate::closed())));
    let (_there, here) = (there.start(), here.start());
    for mode in before {
        numbers.stage_ref().set_demand(*mode).unwrap();
    }
    here.subscribe(&sink, &far(&numbers), 0..4);
    for mode in then {
        settled().await;
        assert!(log.batches().is_empty());
        numbers.stage_ref().set_demand(*mode).unwrap();
    }
    log.batches_reach(1).await
}

#[test]
fn genstage_020_accumulate_while_running() {
    use DemandMode::{Accumulate, Forward};
    scenario(async || assert_eq!(after(&[Accumulate], &[Forward]).await, [[0, 1, 2, 3]]));
}

#[test]
fn genstage_021_forward_again_before_anyone_subscribes() {
    use DemandMode::{Accumulate, Forward};
    scenario(async || assert_eq!(after(&[Accumulate, Forward], &[]).await, [[0, 1, 2, 3]]));
}

#[test]
fn genstage_022_accumulate_twice_keeps_what_was_asked() {
    use DemandMode::{Accumulate, Forward};
    scenario(async || assert_eq!(after(&[Accumulate], &[Accumulate, Forward]).await, [[0, 1, 2, 3]]));
}

/// Asks that arrive together are merged, so the consumers here take their time for each event.
#[test]
fn genstage_023_kept_asks_are_not_summed() {
    scenario(async || {
        let ((there, here), asked) = (graphs(), Log::new());
        let numbers = there.producer("numbers", endless(&asked)).accumulate();
        for (name, seconds) in [("a", 31), ("b", 47)] {
            let slow = sink_with(&Log::new(), |sink| sink.takes = Duration::from_secs(seconds));
            here.consumer(name, slow).subscribe(&far(&numbers), 1..2);
        }
        let _running = (there.start(), here.start());
        settled().await;
        numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
        asked.until(|notes| notes.iter().filter(|note| matches!(note, Note::Asked(_))).count() > 12).await;
        let asked = asked.asked();
        assert_eq!(asked[..2], [2, 2]);
        assert!(asked[2..].iter().all(|&demand| demand == 1), "{asked:?}");
    });
}

#[test]
fn what_is_emitted_while_demand_accumulates_is_bounded_by_the_buffer_and_counted() {
    scenario(async || {
        let ((there, here), log, notes) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", idle(&notes)).accumulate().buffer(5, Keep::Last);
        here.consumer("sink", sink(&log)).subscribe(&far(&numbers), 0..100);
        let (there, _here) = (there.start(), here.start());
        settled().await;
        numbers.stage_ref().call(emit(0..8)).await.unwrap();
        settled().await;
        assert_eq!((there.snapshot().stage("numbers").unwrap().discarded, log.batches().len()), (3, 0));
        numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
        assert_eq!(log.events_reach(5).await, [3, 4, 5, 6, 7]);
        settled().await;
        assert_eq!(notes.asked(), [95], "five of the hundred were there");
    });
}

#[test]
fn a_producer_waits_for_as_many_far_subscribers_as_it_was_told() {
    scenario(async || {
        let ((there, here), log, asked) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", idle(&asked)).wait_for_subscribers(2);
        let [first, second] = ["first", "second"].map(|name| here.consumer(name, sink(&log)));
        let (_there, here) = (there.start(), here.start());
        here.subscribe(&first, &far(&numbers), 0..10);
        settled().await;
        assert_eq!(asked.asked(), []);
        here.subscribe(&second, &far(&numbers), 0..10);
        settled().await;
        assert_eq!(asked.asked().iter().sum::<usize>(), 20);
    });
}
