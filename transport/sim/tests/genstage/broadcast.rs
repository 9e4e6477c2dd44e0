//! B2 6 to 8, B4 19, B7 50 and B20: a broadcast whose consumers are on other nodes.

use aqueduct_stage::{Cancel, DemandMode, Exit, Graph, Mode, Peer, Running, Stage, SubscribeOptions, SubscriptionId};
use aqueduct_transport::Remote;

use crate::support::{Gate, Log, Near, Note, Numbers, emit, endless, idle, sink, sink_with};
use crate::{between, far, from_three, graphs, scenario, settled};

/// Everybody is told everything, from the start and in order, whatever the batches.
async fn all_get(logs: &[Log], count: usize) {
    for log in logs {
        let events = log.events_reach(count).await;
        assert!(events.iter().copied().eq(0..events.len() as u64), "{events:?}");
    }
}

/// A consumer of a broadcast that has begun gets what comes from then on: here it does not begin before there are two.
#[test]
fn genstage_006_both_consumers_are_given_the_same() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
        let numbers = there.producer("numbers", endless(&Log::new())).broadcast().wait_for_subscribers(2);
        here.consumer("first", sink(&logs[0])).subscribe(&between(0, 1, &numbers), 0..10);
        here.consumer("second", sink(&logs[1])).subscribe(&between(0, 2, &numbers), 0..20);
        let _running = (there.start(), here.start());
        all_get(&logs, 1010).await;
        assert!(logs.iter().all(|log| log.batches().iter().all(|batch| batch.len() <= 10)));
    });
}

#[test]
fn genstage_007_a_subscriber_that_never_asks_holds_everybody_back_until_it_leaves() {
    scenario(async || {
        let ((there, here), logs, silent) = (graphs(), [Log::new(), Log::new()], Log::new());
        let numbers = there.producer("numbers", endless(&Log::new())).broadcast().wait_for_subscribers(3);
        let [a, b, c] = from_three(&numbers);
        here.consumer("first", sink(&logs[0])).subscribe(&a, 0..10);
        here.consumer("second", sink(&logs[1])).subscribe(&b, 0..20);
        let never = here
            .consumer("silent", sink_with(&silent, |sink| sink.mode = Mode::Manual))
            .subscribe(&c, SubscribeOptions::demand(0..10).cancel(Cancel::Temporary));
        let (_there, here) = (there.start(), here.start());
        let id = silent.first_subscribed().await;
        settled().await;
        assert!(logs.iter().all(|log| log.batches().is_empty()));
        here.cancel(&never, id, Exit::Normal);
        all_get(&logs, 1010).await;
        assert_eq!(silent.events(), []);
    });
}

#[test]
fn genstage_008_the_producer_is_asked_for_the_smallest_demand_once() {
    scenario(async || {
        let ((there, here), asked, gate) = (graphs(), Log::new(), Gate::closed());
        let numbers = there.producer("numbers", idle(&asked)).broadcast().wait_for_subscribers(2);
        for (to, max) in [(1, 10), (2, 20)] {
            let stuck = sink_with(&Log::new(), |sink| sink.gate = Some(gate.clone()));
            here.consumer(&format!("sink-{to}"), stuck).subscribe(&between(0, to, &numbers), 0..max);
        }
        let _running = (there.start(), here.start());
        settled().await;
        assert_eq!(asked.asked(), [10]);
    });
}

#[test]
fn genstage_019_a_broadcast_that_accumulates_serves_those_who_come_meanwhile() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
        let numbers = there.producer("numbers", idle(&Log::new())).broadcast();
        let early = here.consumer("early", sink(&Log::new()));
        let [first, second] =
            [("first", &logs[0]), ("second", &logs[1])].map(|(name, log)| here.consumer(name, sink(log)));
        let (_there, here) = (there.start(), here.start());
        let temporary = SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
        let id = here.subscribe(&early, &far(&numbers), temporary);
        settled().await;
        numbers.stage_ref().set_demand(DemandMode::Accumulate).unwrap();
        here.cancel(&early, id, Exit::Normal);
        settled().await;
        numbers.stage_ref().call(emit(0..4)).await.unwrap();
        here.subscribe(&first, &between(0, 1, &numbers), 5..10);
        here.subscribe(&second, &between(0, 2, &numbers), 5..10);
        settled().await;
        assert!(logs.iter().all(|log| log.batches().is_empty()));
        numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
        all_get(&logs, 4).await;
        assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(0));
    });
}

#[test]
fn genstage_050_the_same_consumer_twice_keeps_one_edge() {
    scenario(async || {
        let ((there, here), log, notes) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", idle(&notes)).broadcast();
        let sink = here.consumer("sink", sink(&log));
        let (there, here) = (there.start(), here.start());
        let source = far(&numbers);
        for _ in 0..2 {
            here.subscribe(&sink, &source, 5..10);
        }
        settled().await;
        assert_eq!(notes.subscribed().len(), 1);
        let nobody_dies = |graph: &Running| graph.snapshot().stages.iter().all(|stage| !stage.ended);
        assert!(nobody_dies(&there) && nobody_dies(&here));
        numbers.stage_ref().call(emit(0..3)).await.unwrap();
        settled().await;
        assert_eq!(log.events(), [0, 1, 2]);
    });
}

/// Another consumer of the same node is somebody else, and so is one that comes back: its old link may end after that.
#[test]
fn a_consumer_of_a_far_broadcast_may_subscribe_anew() {
    scenario(async || {
        let ((there, here), logs, notes) = (graphs(), [Log::new(), Log::new()], Log::new());
        let numbers = there.producer("numbers", idle(&notes)).broadcast();
        let [sink, other] = [("sink", &logs[0]), ("other", &logs[1])].map(|(name, log)| here.consumer(name, sink(log)));
        let (_there, here) = (there.start(), here.start());
        let source = far(&numbers);
        here.subscribe(&other, &source, 5..10);
        let mut id = here.subscribe(&sink, &source, 5..10);
        settled().await;
        for _ in 0..3 {
            id = here.resubscribe(&sink, id, Exit::Normal, &source, 5..10);
            subscribed(&logs[0], id).await;
        }
        settled().await;
        assert_eq!(logs[0].subscribed().last(), Some(&id));
        numbers.stage_ref().call(emit(0..3)).await.unwrap();
        settled().await;
        assert!(logs.iter().all(|log| log.events() == [0, 1, 2]));
    });
}

/// Waits until the producer has answered, and no longer.
async fn subscribed(log: &Log, id: SubscriptionId) {
    log.has(&Note::Subscribed(id, Peer::Producer)).await;
}

/// A broadcast of what a test emits, and consumers on other nodes that the test plays.
struct Played {
    numbers: Stage<Numbers, aqueduct_stage::Never, u64, aqueduct_stage::Broadcast>,
    notes: Log,
    sources: [Remote<u64>; 3],
    _running: Running,
}

impl Played {
    fn new() -> Self {
        let ((there, _), notes) = (graphs(), Log::new());
        let numbers = Graph::producer(&there, "numbers", idle(&notes)).broadcast();
        let sources = from_three(&numbers);
        Self { numbers, notes, sources, _running: there.start() }
    }

    async fn join(&self, number: usize) -> Near {
        let near = Near::subscribe(&self.sources[number]).await;
        settled().await;
        near
    }

    /// Asks, and returns all that the producer was asked for so far.
    async fn asked(&self, near: &Near, more: usize) -> Vec<usize> {
        near.ask(more);
        settled().await;
        self.notes.asked()
    }

    async fn leave(&self, near: &Near) -> Vec<usize> {
        near.cancel();
        settled().await;
        self.notes.asked()
    }

    async fn emit(&self, events: std::ops::Range<u64>) {
        self.numbers.stage_ref().call(emit(events)).await.unwrap();
        settled().await;
    }

    async fn buffered(&self) -> usize {
        self.numbers.stage_ref().estimate_buffered().await.unwrap()
    }
}

#[test]
fn genstage_170_what_is_dispatched_to_nobody_is_left_over() {
    scenario(async || {
        let played = Played::new();
        let a = played.join(0).await;
        assert_eq!(played.asked(&a, 10).await, [10]);
        played.leave(&a).await;
        played.emit(0..3).await;
        assert_eq!(played.buffered().await, 3);
    });
}

#[test]
fn genstage_171_demand_of_one_who_left_serves_the_other() {
    scenario(async || {
        let played = Played::new();
        let a = played.join(0).await;
        assert_eq!(played.asked(&a, 10).await, [10]);
        let b = played.join(1).await;
        assert_eq!(played.leave(&a).await, [10]);
        assert_eq!(played.asked(&b, 10).await, [10]);
        played.emit(0..10).await;
        assert_eq!((a.events().len(), b.events().len(), played.buffered().await), (0, 10, 0));
    });
}

#[test]
fn genstage_172_who_held_the_others_back_leaves() {
    scenario(async || {
        let played = Played::new();
        let (a, b) = (played.join(0).await, played.join(1).await);
        assert_eq!(played.asked(&a, 10).await, []);
        assert_eq!(played.leave(&b).await, [10]);
        assert_eq!(played.asked(&a, 10).await, [10, 10]);
    });
}

#[test]
fn genstage_173_the_slowest_sets_the_pace() {
    scenario(async || {
        let played = Played::new();
        let (a, b) = (played.join(0).await, played.join(1).await);
        assert_eq!(played.asked(&a, 3).await, []);
        assert_eq!(played.asked(&b, 2).await, [2]);
        played.emit(0..2).await;
        assert_eq!((a.events(), b.events()), (vec![0, 1], vec![0, 1]));
        assert_eq!(played.asked(&b, 2).await, [2, 1]);
        played.emit(2..3).await;
        let c = played.join(2).await;
        assert_eq!(played.asked(&a, 2).await, [2, 1]);
        assert_eq!(played.asked(&b, 2).await, [2, 1]);
        assert_eq!(played.asked(&c, 3).await, [2, 1, 2]);
        played.emit(3..6).await;
        assert_eq!((a.events(), b.events(), c.events()), ((0..5).collect(), (0..5).collect(), vec![3, 4]));
        assert_eq!(played.buffered().await, 1);
    });
}

#[test]
fn genstage_174_who_comes_late_gets_what_comes_then() {
    scenario(async || {
        let played = Played::new();
        let a = played.join(0).await;
        assert_eq!(played.asked(&a, 10).await, [10]);
        played.emit(0..3).await;
        let b = played.join(1).await;
        assert_eq!(played.asked(&b, 20).await, [10]);
        played.emit(3..10).await;
        assert_eq!((a.events(), b.events()), ((0..10).collect(), (3..10).collect()));
    });
}

#[test]
fn genstage_175_what_is_on_its_way_is_not_asked_for_again() {
    scenario(async || {
        let played = Played::new();
        let a = played.join(0).await;
        assert_eq!(played.asked(&a, 10).await, [10]);
        played.leave(&a).await;
        let b = played.join(1).await;
        assert_eq!(played.asked(&b, 5).await, [10]);
        played.emit(0..3).await;
        assert_eq!(b.events(), [0, 1, 2]);
    });
}

#[test]
fn genstage_176_what_was_asked_meanwhile_is_passed_on_when_the_other_leaves() {
    scenario(async || {
        let played = Played::new();
        let a = played.join(0).await;
        assert_eq!(played.asked(&a, 10).await, [10]);
        let b = played.join(1).await;
        assert_eq!(played.asked(&a, 5).await, [10]);
        assert_eq!(played.leave(&b).await, [10, 5]);
    });
}
