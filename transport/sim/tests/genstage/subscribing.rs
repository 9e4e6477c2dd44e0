//! B7: subscribing to a far producer, subscribing anew, and cancelling, while the graphs run.

use aqueduct_stage::{Cancel, Exit, Never, NoOutput, OnCancel, Running, Stage, SubscribeOptions, SubscriptionId};
use aqueduct_transport::Remote;

use crate::support::{Log, Note, Numbers, Say, Sink, count, emit, endless, idle, oops, relay, sink, with};
use crate::two_nodes::machine;
use crate::{between, far, graphs, scenario, settled};

fn with_policy(cancel: Cancel) -> SubscribeOptions {
    SubscribeOptions::demand(5..10).cancel(cancel)
}

/// A producer, and a consumer on another node that is not subscribed yet.
struct Bench {
    numbers: Stage<Numbers, Never, u64>,
    notes: Log,
    sink: Stage<Sink, u64, Never, NoOutput>,
    log: Log,
    there: Running,
    here: Running,
}

impl Bench {
    fn new(make: impl FnOnce(&Log) -> Box<dyn Fn() -> Numbers + Send + Sync>) -> Self {
        let ((there, here), log, notes) = (graphs(), Log::new(), Log::new());
        let numbers = there.producer("numbers", make(&notes));
        let sink = here.consumer("sink", sink(&log));
        Self { numbers, notes, sink, log, there: there.start(), here: here.start() }
    }

    fn idle() -> Self {
        Self::new(|notes| Box::new(idle(notes)))
    }

    fn far(&self) -> Remote<u64> {
        far(&self.numbers)
    }

    fn subscribe(&self, options: impl Into<SubscribeOptions>) -> SubscriptionId {
        self.here.subscribe(&self.sink, &self.far(), options)
    }

    /// Ends the producer, and waits for it.
    async fn end(&self) {
        self.numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Shutdown))).unwrap();
        self.notes.has(&Note::Terminated("shutdown".into())).await;
        settled().await;
    }

    fn nobody_has_ended(&self) -> bool {
        [&self.there, &self.here].iter().all(|graph| graph.snapshot().stages.iter().all(|stage| !stage.ended))
    }
}

/// What nobody publishes.
fn unknown() -> Remote<u64> {
    machine(1).node.source("nobody", machine(0).host.address(4433))
}

#[test]
fn genstage_043_subscribing_returns_an_id_of_its_own() {
    scenario(async || {
        let bench = Bench::idle();
        let ids = [bench.subscribe(5..10), bench.subscribe(5..10)];
        settled().await;
        let mut told = bench.log.subscribed();
        told.sort_unstable();
        let mut expected = ids.to_vec();
        expected.sort_unstable();
        assert_eq!((ids[0] != ids[1], told, bench.notes.subscribed().len()), (true, expected, 2));
    });
}

#[test]
fn genstage_044_a_consumer_that_has_ended_is_not_subscribed() {
    scenario(async || {
        let bench = Bench::idle();
        bench.sink.stage_ref().cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
        bench.log.has(&Note::Terminated("normal".into())).await;
        bench.subscribe(5..10);
        settled().await;
        assert_eq!((bench.log.subscribed(), bench.notes.asked()), (vec![], vec![]));
        assert!(!bench.there.snapshot().stage("numbers").unwrap().ended);
    });
}

#[test]
fn genstage_046_a_permanent_consumer_of_an_unknown_producer_fails() {
    scenario(async || {
        let mut bench = Bench::idle();
        bench.here.subscribe(&bench.sink, &unknown(), with_policy(Cancel::Permanent));
        let error = bench.here.join().await.unwrap_err().to_string();
        assert!(error.starts_with(r#"stage "sink" could not subscribe: no producer named "nobody" at "#), "{error}");
    });
}

#[test]
fn genstage_047_a_permanent_consumer_of_a_dead_producer_fails() {
    scenario(async || {
        let mut bench = Bench::idle();
        bench.end().await;
        bench.subscribe(with_policy(Cancel::Permanent));
        let error = bench.here.join().await.unwrap_err().to_string();
        assert_eq!(error, r#"stage "sink" could not subscribe: producer "source-0" has ended"#);
    });
}

#[test]
fn genstage_048_a_temporary_consumer_of_an_unknown_producer_lives() {
    scenario(async || {
        let bench = Bench::idle();
        bench.here.subscribe(&bench.sink, &unknown(), with_policy(Cancel::Temporary));
        assert!(bench.log.cancelled().await.contains("no producer named"));
        assert_eq!(bench.sink.stage_ref().call(Say("alive")).await, Ok("alive"));
        assert!(bench.nobody_has_ended());
    });
}

#[test]
fn genstage_049_a_temporary_consumer_of_a_dead_producer_lives() {
    scenario(async || {
        let bench = Bench::idle();
        bench.end().await;
        bench.subscribe(with_policy(Cancel::Temporary));
        assert!(bench.log.cancelled().await.contains("has ended"));
        assert_eq!(bench.sink.stage_ref().call(Say("alive")).await, Ok("alive"));
    });
}

/// The two are links of their own, and the new one may be there before the old one is gone.
#[test]
fn genstage_051_resubscribing_makes_a_new_subscription_and_ends_the_old() {
    scenario(async || {
        let bench = Bench::idle();
        let source = bench.far();
        let old = bench.here.subscribe(&bench.sink, &source, 5..10);
        settled().await;
        let new = bench.here.resubscribe(&bench.sink, old, Exit::Normal, &source, 0..3);
        settled().await;
        assert_eq!((bench.log.subscribed(), bench.notes.subscribed().len()), (vec![old, new], 2));
        assert!(bench.log.all().contains(&Note::Cancelled(old, "cancelled: normal".into())));
        assert_eq!(bench.notes.cancelled().await, "cancelled: normal");
        assert!(bench.nobody_has_ended(), "though it is permanent");
        bench.numbers.stage_ref().call(emit(0..3)).await.unwrap();
        settled().await;
        assert_eq!(bench.log.events(), [0, 1, 2]);
    });
}

#[test]
fn genstage_052_resubscribing_with_an_unknown_id_subscribes() {
    scenario(async || {
        let bench = Bench::new(|notes| Box::new(endless(notes)));
        let new = bench.here.resubscribe(&bench.sink, SubscriptionId::new(), oops(), &bench.far(), 0..3);
        bench.log.batches_reach(1).await;
        assert_eq!(bench.log.subscribed(), [new]);
    });
}

/// From a producer on one node to one on another.
#[test]
fn genstage_054_resubscribing_elsewhere_moves_the_consumer() {
    scenario(async || {
        let mut bench = Bench::new(|notes| Box::new(endless(notes)));
        let (elsewhere, notes) = (aqueduct_stage::Graph::with_spawner("elsewhere", machine(2).host), Log::new());
        let other = elsewhere.producer("other", count(7, &notes));
        let _elsewhere = elsewhere.start();
        let old = bench.subscribe(0..1);
        bench.log.batches_reach(1).await;
        let new = bench.here.resubscribe(&bench.sink, old, Exit::Normal, &between(2, 1, &other), 0..3);
        assert_eq!(bench.notes.cancelled().await, "cancelled: normal");
        bench.here.join().await.unwrap();
        assert_eq!((bench.log.subscribed(), notes.subscribed().len()), (vec![old, new], 1));
        assert!(bench.log.events().contains(&6));
        assert!(bench.log.all().contains(&Note::End), "of the two it has missed nothing that it wanted");
    });
}

#[test]
fn genstage_055_resubscribing_before_the_old_subscription_was_seen() {
    scenario(async || {
        let bench = Bench::idle();
        let source = bench.far();
        let old = bench.here.subscribe(&bench.sink, &source, 5..10);
        let new = bench.here.resubscribe(&bench.sink, old, Exit::Normal, &source, 5..10);
        settled().await;
        assert_eq!(bench.log.subscribed().last(), Some(&new));
        assert!(bench.nobody_has_ended());
        bench.numbers.stage_ref().call(emit(0..3)).await.unwrap();
        settled().await;
        assert_eq!(bench.log.events(), [0, 1, 2]);
    });
}

#[test]
fn a_consumer_may_hold_two_subscriptions_to_one_far_producer() {
    scenario(async || {
        let mut bench = Bench::new(|notes| Box::new(count(200, notes)));
        bench.subscribe(1..2);
        bench.subscribe(2..5);
        bench.here.join().await.unwrap();
        let mut events = bench.log.events();
        events.sort_unstable();
        assert_eq!(events, (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_far_consumer_cancels_its_subscription_and_both_ends_are_told() {
    scenario(async || {
        let bench = Bench::idle();
        let id = bench.subscribe(with_policy(Cancel::Transient));
        settled().await;
        bench.sink.stage_ref().cast(with(move |cx| cx.cancel(id, Exit::Normal))).unwrap();
        settled().await;
        let cancelled = Note::Cancelled(id, "cancelled: normal".into());
        assert!(bench.log.all().contains(&cancelled));
        assert_eq!(bench.notes.cancelled().await, "cancelled: normal");
        assert!(bench.nobody_has_ended());
        // Again, and for what never was: nothing.
        bench.sink.stage_ref().cast(with(move |cx| cx.cancel(id, oops()))).unwrap();
        bench.here.cancel(&bench.sink, SubscriptionId::new(), oops());
        settled().await;
        for log in [&bench.log, &bench.notes] {
            assert_eq!(log.all().iter().filter(|note| matches!(note, Note::Cancelled(..))).count(), 1);
        }
    });
}

#[test]
fn stages_are_added_to_a_running_graph_and_read_from_another_node() {
    scenario(async || {
        let mut bench = Bench::new(|notes| Box::new(count(100, notes)));
        settled().await;
        assert_eq!(bench.notes.asked(), []);
        let (source, log) = (bench.far(), bench.log.clone());
        bench.here.add(|graph| {
            let relay = graph.stage("relay", relay(&Log::new())).subscribe(&source, 5..10);
            graph.consumer("late", sink(&log)).subscribe(&relay, 5..10)
        });
        log.has(&Note::Terminated("normal".into())).await;
        assert_eq!(log.events(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn genstage_118_a_producer_may_end_when_its_last_far_consumer_leaves() {
    scenario(async || {
        for (on_cancel, ends) in [(OnCancel::Continue, false), (OnCancel::Stop, true)] {
            let ((there, here), log) = (graphs(), Log::new());
            let numbers = there.producer("numbers", endless(&Log::new())).on_cancel(on_cancel);
            let reader = here.consumer("reader", sink(&log));
            let (there, here) = (there.start(), here.start());
            let id = here.subscribe(&reader, &far(&numbers), SubscribeOptions::demand(0..5).cancel(Cancel::Temporary));
            log.events_reach(5).await;
            here.cancel(&reader, id, Exit::Normal);
            log.cancelled().await;
            settled().await;
            assert_eq!(there.snapshot().stage("numbers").unwrap().ended, ends, "{on_cancel:?}");
        }
    });
}
