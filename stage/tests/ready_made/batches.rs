//! Batching by count and by time.

use std::time::Duration;

use aqueduct_stage::{Graph, stages};

use crate::support::{Log, count, emit, idle, settled};
use crate::{collect, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn batches_are_full_but_for_the_last() {
    for (size, expected) in [(4, vec![4, 4, 4, 1]), (13, vec![13]), (20, vec![13]), (1, vec![1; 13])] {
        let (graph, log) = (Graph::new("test"), Log::new());
        let numbers = graph.producer("numbers", count(13, &Log::new()));
        let batches = graph.stage("batches", move || stages::batches(size, SECOND)).subscribe(&numbers, 2..5);
        graph.consumer("collect", collect(&log)).subscribe(&batches, 0..1);
        run(graph).await.unwrap();
        assert_eq!(log.all().concat(), (0..13).collect::<Vec<_>>());
        assert_eq!(log.all().iter().map(Vec::len).collect::<Vec<_>>(), expected, "of {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_leaves_when_its_time_has_passed_since_its_first_event() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let batches = graph.stage("batches", || stages::batches(3, SECOND)).subscribe(&numbers, 50..100);
    graph.consumer("collect", collect(&log)).subscribe(&batches, 0..10);
    let mut running = graph.start();
    settled().await;
    let source = numbers.stage_ref();
    source.cast(emit([0])).unwrap();
    tokio::time::sleep(SECOND * 9 / 10).await;
    source.cast(emit([1])).unwrap();
    settled().await;
    assert_eq!(log.all(), Vec::<Vec<u64>>::new());
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(log.all(), [vec![0, 1]]);
    // The time of a batch that filled up says nothing about the next one.
    source.cast(emit([2])).unwrap();
    tokio::time::sleep(SECOND * 2 / 10).await;
    source.cast(emit([3, 4])).unwrap();
    tokio::time::sleep(SECOND * 5 / 10).await;
    source.cast(emit([5])).unwrap();
    tokio::time::sleep(SECOND * 9 / 10).await;
    assert_eq!(log.all(), [vec![0, 1], vec![2, 3, 4]]);
    tokio::time::sleep(SECOND * 2 / 10).await;
    assert_eq!(log.all(), [vec![0, 1], vec![2, 3, 4], vec![5]]);
    running.stop(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn batches_that_fill_up_leave_no_timers_behind() {
    let spawner = crate::support::Counted::default();
    let (graph, log) = (Graph::with_spawner("test", spawner.clone()), Log::new());
    let numbers = graph.producer("numbers", count(10_001, &Log::new()));
    let batches = graph.stage("batches", || stages::batches(10, 1000 * SECOND)).subscribe(&numbers, 5..10);
    graph.consumer("collect", collect(&log)).subscribe(&batches, 5..10);
    let mut running = graph.start();
    log.until(|batches| batches.len() >= 1_000).await;
    assert!(spawner.alive() <= 4, "{} tasks for three stages and a timer", spawner.alive());
    running.join().await.unwrap();
    assert_eq!(log.all().concat().len(), 10_001);
}

#[test]
#[should_panic(expected = "expected batches of at least 1 event, got 0")]
fn an_empty_batch_is_refused() {
    let _ = stages::batches::<u64>(0, SECOND);
}
