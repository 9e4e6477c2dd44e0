//! What becomes of the subscriptions of a stage that is restarted.

use super::support::{Far, Note};
use super::*;

fn temporary() -> SubscribeOptions {
    SubscribeOptions::demand(0..10).cancel(Cancel::Temporary)
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_outlives_its_producer_is_subscribed_again_and_sees_the_end() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let numbers = graph.producer("numbers", fragile(1)).restart(Restart::Transient);
    graph.consumer("sink", support::sink(&log)).subscribe(&numbers, temporary());
    let outcome = limited(graph.run()).await.unwrap();
    assert_eq!(log.events(), (0..500).chain(0..1_000).collect::<Vec<_>>());
    assert_eq!(log.subscribed().len(), 2, "each with an id of its own");
    assert_ne!(log.subscribed()[0], log.subscribed()[1]);
    assert!(log.all().contains(&Note::End));
    assert_eq!(["numbers", "sink"].map(|name| outcome.stage(name).unwrap().restarts), [1, 0]);
    assert_eq!(outcome.stage("numbers").unwrap().events_out, 1_500, "counters go on");
}

#[tokio::test(start_paused = true)]
async fn genstage_77_a_producer_that_was_restarted_is_asked_for_the_whole_window() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let idle = graph.producer("idle", support::idle(&log)).restart(Restart::Permanent);
    graph.consumer("sink", support::sink(&Log::new())).subscribe(&idle, temporary());
    let mut running = graph.start();
    log.until(|_| log.asked() == [10]).await;
    let _ = idle.stage_ref().call(support::emit(0..4)).await;
    let _ = idle.stage_ref().cast(with(|cx| cx.stop(oops())));
    support::settled().await;
    assert_eq!(log.asked(), [10, 10]);
    limited(running.stop(Duration::from_secs(1))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn genstage_77_a_consumer_that_was_restarted_gets_what_its_producer_still_owes() {
    let (log, sink_log, graph) = (Log::new(), Log::new(), Graph::new("demo"));
    let idle = graph.producer("idle", support::idle(&log));
    let sink = graph.consumer("sink", support::sink(&sink_log)).subscribe(&idle, 0..10).restart(Restart::Permanent);
    let mut running = graph.start();
    log.until(|_| log.asked() == [10]).await;
    for life in 1..=3 {
        let _ = sink.stage_ref().call(with(|cx| cx.stop(oops()))).await;
        support::settled().await;
        // It was asked for ten, and has them still to give: nobody asks twice for the same.
        limited(idle.stage_ref().call(support::emit(0..10))).await.unwrap();
        sink_log.events_reach(10 * life).await;
        support::settled().await;
        assert_eq!(log.asked().iter().sum::<usize>(), 10 + 10 * life);
    }
    limited(running.stop(Duration::from_secs(1))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restarted_consumer_opens_its_subscription_to_a_far_source_again() {
    let (far, log, graph) = (Far::new(), Log::new(), Graph::new("demo"));
    let sink = graph.consumer("sink", support::sink(&log)).subscribe(&far, 0..10).restart(Restart::Permanent);
    let mut running = graph.start();
    far.asked(10).await;
    far.heard().clear();
    let _ = sink.stage_ref().call(with(|cx| cx.stop(oops()))).await;
    far.asked(10).await;
    far.deliver([1, 2, 3]);
    log.events_reach(3).await;
    assert_eq!(log.subscribed().len(), 2);
    limited(running.stop(Duration::from_secs(1))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_far_source_that_refuses_is_tried_again_as_often_as_is_borne() {
    let gone = aqueduct_stage::SubscribeError::Ended("far".into());
    let graph = Graph::new("demo");
    graph
        .consumer("sink", support::sink(&Log::new()))
        .subscribe(&Far::refusing(gone), 0..10)
        .restart(Restart::Transient);
    let error = limited(graph.run()).await.unwrap_err();
    assert_eq!(error.failure.kind(), FailureKind::Subscribe);
    assert!(error.exceeded.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_consumer_of_a_broadcast_is_not_taken_for_one_that_is_there_already() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let numbers = graph.producer("numbers", support::count(1_000, &Log::new())).broadcast();
    let sink = support::sink_with(&log, |sink| sink.poison = Some(305));
    graph.consumer("fragile", sink).subscribe(&numbers, 0..10).restart(Restart::Transient);
    let other = Log::new();
    graph.consumer("other", support::sink(&other)).subscribe(&numbers, 0..10);
    limited(graph.run()).await.unwrap();
    assert_eq!(other.events(), (0..1_000).collect::<Vec<_>>());
    let events = log.events();
    assert!(events.is_sorted() && !events.contains(&305) && events.last() == Some(&999), "{}", events.len());
}

#[tokio::test(start_paused = true)]
async fn each_partition_is_subscribed_again_as_it_was() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let numbers = graph.producer("numbers", support::count(1_000, &Log::new())).partition(2, |n| (*n % 2) as usize);
    let sink = support::sink_with(&log, |sink| sink.poison = Some(305));
    graph.consumer("odd", sink).subscribe_acknowledged(&numbers.part(1), 0..10).restart(Restart::Transient);
    let even = Log::new();
    graph.consumer("even", support::sink(&even)).subscribe(&numbers.part(0), 0..10);
    limited(graph.run()).await.unwrap();
    let mut odd = log.events();
    odd.sort_unstable();
    assert_eq!(odd, (0..1_000).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    assert_eq!(even.events(), (0..1_000).filter(|n| n % 2 == 0).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_stopped_together_with_a_producer_is_subscribed_again() {
    for strategy in [Strategy::RestForOne, Strategy::OneForAll] {
        let (log, graph) = (Log::new(), Graph::new("demo").strategy(strategy));
        let numbers = graph.producer("numbers", fragile(1)).restart(Restart::Transient);
        let relay = graph.stage("relay", support::relay(&Log::new())).subscribe(&numbers, 0..10);
        let relay = relay.restart(Restart::Transient);
        graph.consumer("sink", support::sink(&log)).subscribe(&relay, 0..10).restart(Restart::Transient);
        let outcome = limited(graph.run()).await.unwrap();
        assert_eq!(log.events()[log.events().len() - 1_000..], (0..1_000).collect::<Vec<_>>());
        assert!(outcome.stages.iter().all(|stage| stage.restarts == 1), "{strategy:?} {outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_declared_before_its_producer_returns_when_that_is_stopped_for_others() {
    let (log, graph) = (Log::new(), Graph::new("demo").strategy(Strategy::RestForOne));
    let early = graph.consumer("early", support::sink(&log)).restart(Restart::Transient);
    let idle = graph.producer("idle", support::idle(&Log::new()));
    let trigger = graph.consumer("trigger", named("trigger", &Log::new())).subscribe(&idle, 0..10);
    let trigger = trigger.restart(Restart::Transient);
    let late = graph.producer("late", support::idle(&Log::new())).restart(Restart::Transient);
    early.subscribe(&late, 0..10);
    let mut running = graph.start();
    support::settled().await;
    let _ = trigger.stage_ref().call(Say("fail")).await;
    support::settled().await;
    let restarts = ["early", "trigger", "late"].map(|name| running.snapshot().stage(name).unwrap().restarts);
    assert!(restarts.iter().all(|restarts| *restarts >= 1), "{restarts:?}");
    limited(late.stage_ref().call(support::emit([1, 2, 3]))).await.unwrap();
    assert_eq!(log.events_reach(3).await, [1, 2, 3]);
    limited(running.stop(Duration::from_secs(1))).await.unwrap();
}

/// Sets a timer for itself when it is made, and another when it rings.
struct Ticking(Log);

impl Consumer for Ticking {
    type In = u64;

    async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
        Ok(())
    }

    async fn handle_subscribe(&mut self, _: &aqueduct_stage::Edge, cx: &mut Cx<'_>) -> Result<aqueduct_stage::Mode> {
        cx.stage_ref::<Self>().send_after(Duration::from_secs(1), Say("tick"));
        Ok(aqueduct_stage::Mode::Automatic)
    }
}

impl Handle<Say> for Ticking {
    type Reply = ();

    async fn handle(&mut self, Say(text): Say, cx: &mut Cx<'_>) -> Result {
        if text == "fail" {
            return Err("oops".into());
        }
        self.0.push(Note::Said(text));
        cx.stage_ref::<Self>().send_after(Duration::from_secs(1), Say("tick"));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn timers_of_a_former_life_do_not_ring_in_the_next() {
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let idle = graph.producer("idle", support::idle(&Log::new()));
    let ticking = graph.consumer("ticking", {
        let log = log.clone();
        move || Ticking(log.clone())
    });
    let ticking = ticking.subscribe(&idle, 0..10).restart(Restart::Permanent);
    let mut running = graph.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _ = ticking.stage_ref().call(Say("fail")).await;
    tokio::time::sleep(Duration::from_millis(10_250)).await;
    assert_eq!(log.all().len(), 10, "one a second, not two");
    limited(running.stop(Duration::from_secs(1))).await.unwrap();
}

/// Fails in its first life, and has enough after its second batch.
struct Sated {
    life: u64,
    batches: u64,
}

impl Consumer for Sated {
    type In = u64;

    async fn handle_events(&mut self, _: Batch<u64>, cx: &mut Cx<'_>) -> Result {
        if self.life == 1 {
            return Err("too hot".into());
        }
        self.batches += 1;
        if self.batches == 2 {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_does_not_fail_for_a_consumer_that_came_back_and_had_enough() {
    let (graph, mut life) = (Graph::new("demo"), 0);
    let numbers = graph.producer("numbers", support::endless(&Log::new()));
    let sated = graph.consumer("sated", move || {
        life += 1;
        Sated { life, batches: 0 }
    });
    sated.subscribe(&numbers, 0..10).restart(Restart::Transient);
    let outcome = limited(graph.run()).await.unwrap();
    assert_eq!(outcome.stage("sated").unwrap().restarts, 1);
}

/// Emits five numbers, and takes a second to end.
struct Lingering;

impl Producer for Lingering {
    type Out = u64;

    async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(0..5);
        cx.stop(Exit::Normal);
        Ok(())
    }

    async fn terminate(&mut self, _: &Exit) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_subscribes_anew_as_its_producer_ends_shares_its_end() {
    let log = Log::new();
    let graph = Graph::new("demo").intensity(Intensity::new(1, Duration::from_secs(5)));
    let numbers = graph.producer("numbers", || Lingering);
    let sink = support::sink_with(&log, |sink| sink.poison = Some(3));
    // With acknowledgement the producer would wait for it.
    graph.consumer("sink", sink).subscribe(&numbers, 0..10).restart(Restart::Transient);
    let outcome = limited(graph.run()).await.unwrap();
    assert!(log.events().is_empty());
    let sink = outcome.stage("sink").unwrap();
    assert_eq!((sink.restarts, sink.discarded), (1, 5));
}
