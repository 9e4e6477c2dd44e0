//! Edges that end in good order: what was given is handled, said to be, and given to nobody else; what was not handled comes
//! back, and was no attempt.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, Cx, Edge, Exit, Graph, Mode, Publisher, Result, Source, SubscribeError, SubscribeOptions,
    Subscription,
};
use tokio::time::Instant;

use crate::support::{Far, Gate, Heard, Log, Note, count, emit, endless, idle, relay, settled, sink, sink_with, with};

fn events(log: &Log) -> Vec<Note> {
    log.all().into_iter().filter(|note| matches!(note, Note::Events(..))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_drains_asks_for_nothing_more_and_handles_what_is_here() {
    let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
    let sink = graph.consumer("sink", sink_with(&log, |sink| sink.takes = Duration::from_millis(40)));
    sink.subscribe_acknowledged(&far, 10..20);
    let mut running = graph.start();
    far.asked(20).await;
    far.deliver(0..20);
    settled().await;
    running.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(far.heard().all().contains(&Heard::Cancel("shutdown".into())));
    assert_eq!((log.events(), far.asks()), ((0..20).collect(), vec![20]));
    assert!(log.all().ends_with(&[Note::Terminated("normal".into())]));
}

#[tokio::test(start_paused = true)]
async fn what_a_stage_made_of_events_from_elsewhere_is_delivered_before_it_is_shut_down() {
    for cancel in [Cancel::Permanent, Cancel::Transient, Cancel::Temporary] {
        let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
        let relay = graph.stage("relay", relay(&Log::new()));
        let relay = relay.subscribe_acknowledged(&far, SubscribeOptions::from(50..100).cancel(cancel));
        let slow = sink_with(&log, |sink| sink.takes = Duration::from_millis(100));
        graph.consumer("sink", slow).subscribe(&relay, 0..3);
        let mut running = graph.start();
        far.asked(100).await;
        far.deliver(0..70);
        settled().await;
        let outcome = running.shutdown(Duration::from_secs(60)).await.unwrap();
        let lost: u64 = outcome.stages.iter().map(|stage| stage.discarded).sum();
        assert_eq!((log.events(), lost), ((0..70).collect(), 0), "{cancel:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_graph_behind_another_one_is_shut_down_without_it() {
    let (there, here, log) = (Graph::new("there"), Graph::new("here"), Log::new());
    let numbers = there.producer("numbers", endless(&Log::new()));
    let _running = there.start();
    here.consumer("sink", sink_with(&log, |sink| sink.takes = Duration::from_millis(40))).subscribe(&numbers, 10..20);
    let mut running = here.start();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    running.shutdown(Duration::from_secs(60)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let handled = log.events();
    assert_eq!(handled, (0..handled.len() as u64).collect::<Vec<_>>());
    assert!(log.all().ends_with(&[Note::Terminated("normal".into())]));
}

#[tokio::test(start_paused = true)]
async fn a_graph_whose_last_consumer_elsewhere_has_failed_has_not_done_its_work() {
    let (there, here, log) = (Graph::new("there"), Graph::new("here"), Log::new());
    let numbers = there.producer("numbers", endless(&Log::new()));
    here.consumer("sick", sink_with(&log, |sink| sink.poison = Some(7))).subscribe(&numbers, 5..10);
    let mut running = there.start();
    here.run().await.unwrap_err();
    let error = running.join().await.unwrap_err().to_string();
    assert_eq!(error, r#"stage "sick" panicked: poisoned"#);
}

#[tokio::test(start_paused = true)]
async fn what_fails_behind_a_cancel_comes_back() {
    let (logs, gate) = ([Log::new(), Log::new()], Gate::closed());
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let make = sink_with(&logs[0], |sink| {
        sink.poison = Some(4);
        sink.gate = Some(gate.clone());
    });
    let sick = graph.consumer("sick", make).subscribe_acknowledged(&numbers, 7..10);
    let mut running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..9)).await.unwrap();
    settled().await;
    running.cancel(&sick, running.snapshot().subscriptions[0].id, Exit::Normal);
    // It is given nothing any more, and has nine.
    running.add(|graph| graph.consumer("well", sink(&logs[1])).subscribe(&numbers, 0..50));
    gate.open(1);
    settled().await;
    assert_eq!(logs[0].batches(), [[0, 1, 2]]);
    assert_eq!(events(&logs[1]), [Note::Events(vec![3, 4, 5], 2), Note::Events(vec![6, 7, 8], 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_ends_an_edge_hears_what_becomes_of_its_events() {
    let (logs, gate) = ([Log::new(), Log::new()], Gate::closed());
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(9, &Log::new()));
    let make = sink_with(&logs[0], |sink| {
        sink.poison = Some(4);
        sink.gate = Some(gate.clone());
    });
    graph
        .consumer("sick", make)
        .subscribe_acknowledged(&numbers, SubscribeOptions::from(7..10).cancel(Cancel::Temporary));
    let mut running = graph.start();
    settled().await;
    running.cancel(&numbers, running.snapshot().subscriptions[0].id, Exit::Normal);
    settled().await;
    assert!(!running.snapshot().stage("numbers").unwrap().ended, "something may come back");
    running.add(|graph| graph.consumer("well", sink(&logs[1])).subscribe(&numbers, 0..50));
    gate.open(1);
    settled().await;
    assert_eq!(events(&logs[1]), [Note::Events(vec![3, 4, 5], 2), Note::Events(vec![6, 7, 8], 1)]);
    assert!(running.snapshot().stage("numbers").unwrap().ended);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_to_a_stage_that_has_ended_itself_comes_back() {
    let (graph, logs) = (Graph::new("test"), [Log::new(), Log::new()]);
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let middle = graph.stage("middle", relay(&Log::new())).subscribe_acknowledged(&numbers, 5..10);
    graph.consumer("sink", sink_with(&logs[0], |sink| sink.gate = Some(Gate::closed()))).subscribe(&middle, 0..3);
    let mut running = graph.start();
    settled().await;
    // The second and the third batch wait for demand when it ends; the fourth has been sent and is not read.
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    settled().await;
    middle.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    numbers.stage_ref().cast(emit(3..5)).unwrap();
    numbers.stage_ref().call(emit(5..6)).await.unwrap();
    settled().await;
    running.add(|graph| graph.consumer("well", sink(&logs[1])).subscribe(&numbers, 0..50));
    settled().await;
    let back: Vec<_> = events(&logs[1]);
    assert!(back.iter().all(|note| matches!(note, Note::Events(_, 1))), "{back:?}");
    assert_eq!(logs[1].events(), [3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn another_subscription_takes_the_place_of_one_of_which_everything_is_handled() {
    let (log, gate) = (Log::new(), Gate::closed());
    let (graph, old, new) = (Graph::new("test"), count(10, &Log::new()), Far::new());
    let old = graph.producer("old", old);
    let sink = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone())));
    let sink = sink.subscribe_acknowledged(&old, 5..10);
    let running = graph.start();
    settled().await;
    running.resubscribe(&sink, running.snapshot().subscriptions[0].id, Exit::Normal, &new, 5..10);
    gate.open(1);
    settled().await;
    assert_eq!((log.batches().len(), new.asks()), (2, vec![]), "the second batch is in hand");
    gate.open(1);
    new.asked(10).await;
    assert_eq!(log.events(), (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn who_cancels_from_within_a_callback_asks_for_nothing_after_it() {
    struct Enough;
    impl Consumer for Enough {
        type In = u64;
        async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_>) -> Result {
            cx.cancel(events.from(), Exit::Normal);
            Ok(())
        }
    }
    let (graph, far) = (Graph::new("test"), Far::new());
    graph.consumer("enough", || Enough).subscribe_acknowledged(&far, 5..10);
    let mut running = graph.start();
    far.asked(10).await;
    far.deliver(0..10);
    running.serve().await.unwrap();
    assert_eq!(far.asks(), [10]);
}

/// A source on a node that does not answer.
#[derive(Clone)]
struct Silent;

impl Source for Silent {
    type Item = u64;

    fn name(&self) -> String {
        "silent".to_owned()
    }

    async fn open(&self, _: usize, _: Subscription<u64>) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_graph_that_drains_does_not_wait_for_a_source_that_does_not_answer() {
    let (graph, log) = (Graph::new("test"), Log::new());
    graph.consumer("sink", sink(&log)).subscribe(&Silent, 5..10);
    let mut running = graph.start();
    settled().await;
    let started = Instant::now();
    running.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_cancels_as_it_is_subscribed_asks_for_nothing() {
    struct Never;
    impl Consumer for Never {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Ok(())
        }
        async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_>) -> Result<Mode> {
            cx.cancel(edge.id, Exit::Normal);
            Ok(Mode::Automatic)
        }
    }
    let (graph, far) = (Graph::new("test"), Far::new());
    graph.consumer("never", || Never).subscribe(&far, 5..10);
    let mut running = graph.start();
    running.serve().await.unwrap();
    assert_eq!(far.asks(), []);
}
