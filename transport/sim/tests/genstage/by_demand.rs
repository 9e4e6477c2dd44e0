//! B22: who gets what from a dispatcher by demand when the consumers are on other nodes; and partitions.

use std::ops::Range;

use aqueduct_stage::{Never, Running, Stage};
use aqueduct_transport::Remote;

use crate::support::{Log, Near, Numbers, count, emit, idle, sink, sink_with};
use crate::{between, from_three, graphs, scenario, settled};

/// A producer of what a test emits, and consumers on other nodes that the test plays.
struct Played {
    numbers: Stage<Numbers, Never, u64>,
    notes: Log,
    sources: [Remote<u64>; 3],
    _running: Running,
}

impl Played {
    fn new() -> Self {
        let ((there, _), notes) = (graphs(), Log::new());
        let numbers = there.producer("numbers", idle(&notes));
        let sources = from_three(&numbers);
        Self { numbers, notes, sources, _running: there.start() }
    }

    /// A consumer on that node, which asks.
    async fn join(&self, number: usize, asks: usize) -> Near {
        let near = Near::subscribe(&self.sources[number]).await;
        self.ask(&near, asks).await;
        near
    }

    async fn ask(&self, near: &Near, more: usize) {
        near.ask(more);
        settled().await;
    }

    async fn leave(&self, near: &Near) {
        near.cancel();
        settled().await;
    }

    async fn emit(&self, events: Range<u64>) {
        self.numbers.stage_ref().call(emit(events)).await.unwrap();
        settled().await;
    }

    async fn buffered(&self) -> usize {
        self.numbers.stage_ref().estimate_buffered().await.unwrap()
    }
}

#[test]
fn genstage_191_demand_of_one_who_left_is_not_asked_for_again() {
    scenario(async || {
        let played = Played::new();
        let first = played.join(0, 10).await;
        assert_eq!(played.notes.asked(), [10]);
        played.leave(&first).await;
        let again = played.join(0, 5).await;
        assert_eq!(played.notes.asked(), [10]);
        played.emit(0..3).await;
        assert_eq!(again.events(), [0, 1, 2]);
        played.leave(&again).await;
        played.emit(3..6).await;
        assert_eq!(played.buffered().await, 3);
    });
}

#[test]
fn genstage_192_what_the_other_did_not_ask_for_is_left_over() {
    scenario(async || {
        let played = Played::new();
        let (a, b) = (played.join(0, 3).await, played.join(1, 3).await);
        assert_eq!(played.notes.asked(), [3, 3]);
        played.leave(&a).await;
        played.emit(0..5).await;
        assert_eq!((a.events(), b.events(), played.buffered().await), (vec![], vec![0, 1, 2], 2));
    });
}

#[test]
fn genstage_193_asks_add_up_and_the_rest_is_left_over() {
    scenario(async || {
        let played = Played::new();
        let a = played.join(0, 3).await;
        played.emit(0..1).await;
        played.ask(&a, 3).await;
        played.emit(1..8).await;
        assert_eq!((a.events(), played.buffered().await), ((0..6).collect(), 2));
        played.emit(8..10).await;
        assert_eq!(played.buffered().await, 4);
    });
}

#[test]
fn genstage_194_the_largest_demand_comes_first() {
    scenario(async || {
        let played = Played::new();
        let (a, b, c) = (played.join(0, 4).await, played.join(1, 2).await, played.join(2, 3).await);
        // 4, 3, 2: the first takes three, and is behind the third.
        played.emit(0..3).await;
        played.emit(3..5).await;
        assert_eq!((a.events(), b.events(), c.events()), (vec![0, 1, 2], vec![], vec![3, 4]));
        played.ask(&b, 4).await;
        played.emit(5..7).await;
        assert_eq!(b.events(), [5, 6]);
    });
}

#[test]
fn genstage_195_each_is_given_as_much_as_it_asked_for() {
    scenario(async || {
        let played = Played::new();
        let (a, b) = (played.join(0, 3).await, played.join(1, 2).await);
        played.emit(0..5).await;
        assert_eq!((a.events(), b.events()), (vec![0, 1, 2], vec![3, 4]));
        played.ask(&a, 3).await;
        played.ask(&b, 3).await;
        played.emit(5..7).await;
        played.emit(7..9).await;
        assert_eq!((a.events().len(), b.events().len()), (5, 4), "the other had more left");
        played.emit(9..12).await;
        assert_eq!((a.events().len(), b.events().len(), played.buffered().await), (6, 5, 1));
    });
}

#[test]
fn two_far_consumers_share_the_events() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
        let numbers = there.producer("numbers", count(300, &Log::new())).wait_for_subscribers(2);
        for (to, log) in (1..).zip(&logs) {
            let slow = sink_with(log, |sink| sink.takes = std::time::Duration::from_secs(1));
            here.consumer(&format!("sink-{to}"), slow).subscribe(&between(0, to, &numbers), 5..10);
        }
        let (_there, mut here) = (there.start(), here.start());
        here.join().await.unwrap();
        let [first, second] = logs.map(|log| log.events());
        assert!(first.is_sorted() && second.is_sorted() && first.len() >= 100 && second.len() >= 100);
        let mut all = [first, second].concat();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>());
    });
}

#[test]
fn each_partition_is_published_by_a_name_of_its_own() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new(), Log::new()]);
        let numbers = there.producer("numbers", count(300, &Log::new())).partition(3, |n| (*n % 3) as usize);
        for (part, log) in logs.iter().enumerate() {
            let source = between(0, part + 1, &numbers.part(part));
            here.consumer(&format!("part-{part}"), sink(log)).subscribe(&source, 5..10);
        }
        let (_there, mut here) = (there.start(), here.start());
        here.join().await.unwrap();
        for (part, log) in (0..).zip(&logs) {
            assert_eq!(log.events(), (0..300).filter(|n| n % 3 == part).collect::<Vec<_>>());
        }
    });
}

#[test]
fn events_of_a_partition_that_nobody_reads_wait_for_its_consumer() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
        let numbers = there.producer("numbers", idle(&Log::new())).partition(2, |n| (*n % 2) as usize);
        let [even, odd] = [("even", &logs[0]), ("odd", &logs[1])].map(|(name, log)| here.consumer(name, sink(log)));
        let (_there, here) = (there.start(), here.start());
        here.subscribe(&even, &between(0, 1, &numbers.part(0)), 5..10);
        settled().await;
        numbers.stage_ref().call(emit(0..8)).await.unwrap();
        settled().await;
        assert_eq!((logs[0].events(), logs[1].events()), (vec![0, 2, 4, 6], vec![]));
        here.subscribe(&odd, &between(0, 2, &numbers.part(1)), 5..10);
        assert_eq!(logs[1].events_reach(4).await, [1, 3, 5, 7]);
    });
}
