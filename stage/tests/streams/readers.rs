//! Any source is a stream.

use std::time::Duration;

use aqueduct_stage::{Cancel, EndCause, EventStreamError, Exit, Graph, SourceExt, SubscribeError, SubscribeOptions};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::support::{Counted, Far, Heard, Log, Note, count, emit, endless, idle, oops, relay, settled, sink_with};
use crate::{PATIENCE, next, take};

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_after_one_item_leaves_nothing_a_thousand_times() {
    let (spawner, log) = (Counted::default(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", endless(&log));
    let iterator = graph.iterate("iterator", || 0..u64::MAX);
    let stream = graph.stream("stream", tokio_stream::iter(0..u64::MAX));
    let mut running = graph.start();
    settled().await;
    let tasks = spawner.alive();
    for round in 0..1_000 {
        // Five were asked for and came, and four of them were not read.
        assert_eq!(take(&mut numbers.events(0..5), 1).await, [5 * round]);
        assert_eq!(take(&mut iterator.events(0..5), 1).await, [5 * round]);
        assert_eq!(take(&mut stream.events(0..5), 1).await, [5 * round]);
        assert_eq!(spawner.alive(), tasks, "round {round}");
    }
    settled().await;
    // The gauges are those of the last wait, which came after the last cancel.
    let cancelled = log.all().iter().filter(|note| matches!(note, Note::Cancelled(..))).count();
    assert_eq!((log.subscribed().len(), cancelled), (1_000, 1_000));
    for stage in running.snapshot().stages {
        assert_eq!((stage.buffered, stage.demand.count(), stage.events_out), (0, 0, 5_000), "{}", stage.stage);
    }
    assert_eq!(take(&mut numbers.events(0..5), 1).await, [5_000]);
    assert_eq!(take(&mut iterator.events(0..5), 1).await, [5_000]);
    assert_eq!(take(&mut stream.events(0..5), 1).await, [5_000]);
    running.shutdown(PATIENCE).await.unwrap();
    assert_eq!(spawner.alive(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_come_and_go_get_no_event_twice() {
    let spawner = Counted::default();
    let graph = Graph::with_spawner("test", spawner.clone());
    let stream = graph.stream("stream", tokio_stream::iter(0..u64::MAX));
    let running = graph.start();
    let mut last = None;
    for _ in 0..1_000 {
        let mut events = stream.events(5..10);
        let first = next(&mut events).await.unwrap().unwrap();
        assert!(last.is_none_or(|last| first > last));
        let received: Vec<u64> = std::iter::once(first).chain(events.close()).collect();
        assert!(received.is_sorted());
        last = received.last().copied();
        assert_eq!(spawner.alive(), 1);
    }
    assert_eq!(stream.stage_ref().estimate_buffered().await.unwrap(), 0);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn it_asks_for_max_and_tops_up_at_min_as_it_is_read() {
    let (far, heard) = (Far::new(), |far: &Far| far.asks());
    let mut events = far.events(3..5);
    settled().await;
    assert!(heard(&far).is_empty(), "nothing happens before it is polled");
    assert!(timeout(Duration::from_secs(1), events.next()).await.is_err());
    assert_eq!(heard(&far), [5]);
    far.deliver(0..5);
    assert_eq!(take(&mut events, 2).await, [0, 1]);
    assert_eq!(heard(&far), [5], "the second may still be in use");
    assert_eq!(take(&mut events, 1).await, [2]);
    assert_eq!(heard(&far), [5, 7]);
    far.deliver(5..7);
    assert_eq!(take(&mut events, 2).await, [3, 4]);
    assert_eq!(take(&mut events, 2).await, [5, 6]);
    far.end(EndCause::Down(Exit::Normal));
    assert!(next(&mut events).await.is_none() && next(&mut events).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_read_holds_the_producer_back() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", endless(&log));
    let mut events = numbers.events(50..100);
    let running = graph.start();
    assert_eq!(take(&mut events, 1).await, [0]);
    settled().await;
    assert_eq!(log.asked(), [100]);
    assert_eq!(take(&mut events, 49).await.len(), 49);
    settled().await;
    assert_eq!(log.asked(), [100]);
    assert_eq!(take(&mut events, 1).await, [50]);
    settled().await;
    assert_eq!(log.asked(), [100, 50]);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn close_gives_back_what_was_not_read_and_cancels() {
    let far = Far::new();
    let mut events = far.events(3..5);
    assert!(timeout(Duration::from_secs(1), events.next()).await.is_err());
    far.deliver(0..3);
    assert_eq!(take(&mut events, 1).await, [0]);
    far.deliver(3..5);
    assert_eq!(events.close(), [1, 2, 3, 4]);
    assert_eq!(far.heard().all().last(), Some(&Heard::Cancel("normal".into())));
    // What comes too late is nobody's.
    far.deliver(5..7);
}

#[tokio::test(start_paused = true)]
async fn what_the_producer_had_not_sent_goes_to_the_next_reader() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&log));
    let running = graph.start();
    let mut first = numbers.events(0..5);
    assert!(timeout(Duration::from_secs(1), first.next()).await.is_err());
    numbers.stage_ref().call(emit(0..2)).await.unwrap();
    assert_eq!(take(&mut first, 1).await, [0]);
    drop(first);
    numbers.stage_ref().call(emit(2..5)).await.unwrap();
    assert_eq!(take(&mut numbers.events(0..5), 3).await, [2, 3, 4]);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn an_early_end_is_an_error_unless_it_was_asked_not_to_be() {
    let early = [EndCause::Down(Exit::Shutdown), EndCause::Cancelled(Exit::Normal), EndCause::Down(oops())];
    // Which of the three are told.
    for (cancel, told) in [
        (Cancel::Permanent, [true, true, true]),
        (Cancel::Transient, [false, false, true]),
        (Cancel::Temporary, [false, false, false]),
    ] {
        for (cause, told) in early.iter().zip(told) {
            let far = Far::new();
            let mut events = far.events(SubscribeOptions::demand(3..5).cancel(cancel));
            assert!(timeout(Duration::from_secs(1), events.next()).await.is_err());
            far.deliver(0..2);
            far.end(cause.clone());
            assert_eq!(take(&mut events, 2).await, [0, 1]);
            if told {
                let error = next(&mut events).await.unwrap().unwrap_err().to_string();
                let expected = [&*format!(r#"events of "far" ended early: {cause}"#), r#"stage "test" failed: oops"#];
                assert!(expected.contains(&&*error), "{error}");
            }
            assert!(next(&mut events).await.is_none(), "{cancel:?} {cause}");
        }
    }
    let refusing = Far::refusing(SubscribeError::Ended("far".into()));
    let error = next(&mut refusing.events(3..5)).await.unwrap().unwrap_err();
    assert!(matches!(error, EventStreamError::Subscribe(SubscribeError::Ended(_))), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_graph_that_is_stopped_ends_its_readers_early_and_one_that_drains_does_not() {
    for stop in [true, false] {
        let (graph, log) = (Graph::new("test"), Log::new());
        let numbers = graph.producer("numbers", endless(&log));
        let relayed = graph.stage("relay", relay(&log)).subscribe(&numbers, 5..10);
        let mut events = relayed.events(5..10);
        let mut running = graph.start();
        assert_eq!(take(&mut events, 1).await, [0]);
        let (ended, read) = tokio::join!(
            async { if stop { running.stop(PATIENCE).await } else { running.shutdown(PATIENCE).await } },
            events.collect::<Result<Vec<u64>, _>>(),
        );
        ended.unwrap();
        assert_eq!(read.is_err(), stop, "{read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_broadcasts_and_selections_are_streams_too() {
    let graph = Graph::new("test");
    let parts = graph.iterate("parts", || 0..10u64).partition(2, |n| usize::from(n % 2 == 1));
    let all = graph.iterate("all", || 0..10u64).broadcast().wait_for_subscribers(2);
    let (odd, even) = (parts.part(1).events(2..4), parts.part(0).events(2..4));
    let (all, some) = (all.events(2..4), all.select(|n| n % 3 == 0).events(2..4));
    let mut running = graph.start();
    let (even, odd, all, some) = tokio::join!(
        even.collect::<Result<Vec<_>, _>>(),
        odd.collect::<Result<Vec<_>, _>>(),
        all.collect::<Result<Vec<_>, _>>(),
        some.collect::<Result<Vec<_>, _>>(),
    );
    assert_eq!((even.unwrap(), odd.unwrap()), (vec![0, 2, 4, 6, 8], vec![1, 3, 5, 7, 9]));
    assert_eq!((all.unwrap(), some.unwrap()), ((0..10).collect(), vec![0, 3, 6, 9]));
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_events_of_one_graph_feed_another() {
    let (one, other, log) = (Graph::new("one"), Graph::new("other"), Log::new());
    let numbers = one.producer("numbers", count(2_000, &Log::new()));
    let entrance = other.try_stream("entrance", numbers.events(50..100));
    other.consumer("sink", sink_with(&log, |_| {})).subscribe(&entrance, 5..10);
    let (one, other) = tokio::join!(one.run(), other.run());
    assert_eq!((one.unwrap().stages.len(), other.unwrap().stages.len()), (1, 2));
    assert_eq!(log.events(), (0..2_000).collect::<Vec<_>>());
}
