//! B5: what is emitted and nobody asked for, and who comes from another node to fetch it.

use std::ops::Range;

use aqueduct_stage::{Exit, Keep, Never, Running, Stage};

use crate::support::{Log, Note, Numbers, Sink, emit, endless, idle, sink, with};
use crate::{far, graphs, scenario, settled};

struct Bench {
    numbers: Stage<Numbers, Never, u64>,
    sink: Stage<Sink, u64, Never, aqueduct_stage::NoOutput>,
    notes: Log,
    log: Log,
    _there: Running,
    here: Running,
}

impl Bench {
    /// A producer that nobody subscribes to yet.
    fn new(buffer: Option<(usize, Keep)>) -> Self {
        let ((there, here), notes, log) = (graphs(), Log::new(), Log::new());
        let mut numbers = there.producer("numbers", endless(&notes));
        if let Some((capacity, keep)) = buffer {
            numbers = numbers.buffer(capacity, keep);
        }
        let sink = here.consumer("sink", sink(&log));
        Self { numbers, sink, notes, log, _there: there.start(), here: here.start() }
    }

    async fn emit(&self, events: Range<u64>) {
        self.numbers.stage_ref().call(emit(events)).await.unwrap();
    }

    async fn buffered(&self) -> usize {
        self.numbers.stage_ref().estimate_buffered().await.unwrap()
    }

    /// The first batches of a far subscriber that takes four at a time.
    async fn batches(&self, count: usize) -> Vec<Vec<u64>> {
        self.here.subscribe(&self.sink, &far(&self.numbers), 0..4);
        self.log.batches_reach(count).await
    }

    fn discarded(&self) -> Vec<usize> {
        let count = |note| if let Note::Discarded(count) = note { Some(count) } else { None };
        self.notes.all().into_iter().filter_map(count).collect()
    }
}

#[test]
fn genstage_024_what_was_emitted_early_is_served_first() {
    scenario(async || {
        let bench = Bench::new(None);
        bench.emit(100..103).await;
        bench.emit(103..105).await;
        let expected = [vec![100, 101, 102, 103], vec![104], vec![0, 1, 2], vec![3, 4, 5, 6]];
        assert_eq!(bench.batches(4).await, expected);
    });
}

#[test]
fn genstage_025_a_full_buffer_keeps_the_first() {
    scenario(async || {
        let bench = Bench::new(Some((5, Keep::First)));
        bench.emit(100..105).await;
        bench.emit(105..108).await;
        assert_eq!(bench.discarded(), [3]);
        assert_eq!(bench.batches(2).await.concat(), [100, 101, 102, 103, 104]);
    });
}

#[test]
fn genstage_026_a_full_buffer_keeps_the_last() {
    scenario(async || {
        let bench = Bench::new(Some((5, Keep::default())));
        bench.emit(100..105).await;
        bench.emit(105..108).await;
        assert_eq!(bench.discarded(), [3]);
        assert_eq!(bench.batches(2).await, [vec![103, 104, 105, 106], vec![107]]);
    });
}

#[test]
fn genstage_027_a_buffer_without_bound() {
    scenario(async || {
        let bench = Bench::new(Some((usize::MAX, Keep::Last)));
        bench.emit(100..108).await;
        assert_eq!(bench.batches(2).await.concat(), (100..108).collect::<Vec<_>>());
        assert_eq!(bench.discarded(), []);
    });
}

#[test]
fn genstage_028_handle_discarded_is_told_how_many() {
    scenario(async || {
        let bench = Bench::new(Some((5, Keep::First)));
        bench.emit(100..108).await;
        assert_eq!(bench.discarded(), [3]);
        assert_eq!(bench.batches(2).await.concat(), [100, 101, 102, 103, 104]);
        assert_eq!(bench.discarded(), [3]);
    });
}

#[test]
fn genstage_031_how_many_are_buffered() {
    scenario(async || {
        let bench = Bench::new(None);
        bench.emit(100..105).await;
        assert_eq!(bench.buffered().await, 5);
        bench.emit(105..108).await;
        assert_eq!(bench.buffered().await, 8);
        bench.batches(3).await;
        assert_eq!(bench.buffered().await, 0);
    });
}

#[test]
fn a_producer_that_ends_normally_delivers_its_buffer_to_the_other_node_first() {
    scenario(async || {
        let ((there, here), log) = (graphs(), Log::new());
        let numbers = there.producer("numbers", idle(&Log::new()));
        here.consumer("sink", sink(&log)).subscribe(&far(&numbers), 0..2);
        let (mut there, mut here) = (there.start(), here.start());
        settled().await;
        let ends = with(|cx| {
            cx.emit_all(0..7);
            cx.stop(Exit::Normal);
        });
        numbers.stage_ref().call(ends).await.unwrap();
        there.join().await.unwrap();
        here.join().await.unwrap();
        assert_eq!(log.events(), (0..7).collect::<Vec<_>>());
        assert!(log.all().contains(&Note::End));
    });
}
