//! Streams and iterators as producers, sources as streams, closures as stages. Tests with a number restate scenarios of
//! GenStage's own suite.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use aqueduct_stage::{
    AnyConsumer, Cancel, EndCause, EventStream, EventStreamError, Exit, FailureKind, Graph, OnCancel, Running,
    SourceExt, SubscribeError, SubscribeOptions, each, each_batch, filter_map, flat_map, map,
};
use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt};

use support::{Counted, Far, Heard, Log, Near, Note, count, endless, idle, oops, relay, settled, sink, sink_with};

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(1_000);

async fn next<T: Send + 'static>(events: &mut EventStream<T>) -> Option<Result<T, EventStreamError>> {
    timeout(PATIENCE, events.next()).await.expect("an event")
}

async fn take(events: &mut EventStream<u64>, count: usize) -> Vec<u64> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(events).await.unwrap().unwrap());
    }
    taken
}

/// A stream that the test plays: it has what it is given, and counts how often it is polled.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<Play>>);

#[derive(Default)]
struct Play {
    items: Vec<Option<u64>>,
    polls: usize,
    waker: Option<std::task::Waker>,
}

impl Played {
    fn give(&self, items: impl IntoIterator<Item = u64>) {
        self.change(|play| play.items.extend(items.into_iter().map(Some)));
    }

    fn end(&self) {
        self.change(|play| play.items.push(None));
    }

    fn polls(&self) -> usize {
        self.0.lock().unwrap().polls
    }

    fn change(&self, change: impl FnOnce(&mut Play)) {
        let mut play = self.0.lock().unwrap();
        change(&mut play);
        if let Some(waker) = play.waker.take() {
            waker.wake();
        }
    }
}

impl Stream for Played {
    type Item = u64;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<u64>> {
        let mut play = self.0.lock().unwrap();
        play.polls += 1;
        if play.items.is_empty() {
            play.waker = Some(task.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(play.items.remove(0))
    }
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Dropped {
    fn hold(&self) {}
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

// A stream or an iterator is a producer.

#[tokio::test(start_paused = true)]
async fn genstage_116_what_an_iterator_feeds_ends_with_the_graph_that_holds_it() {
    let (drops, spawner) = (Arc::<AtomicUsize>::default(), Counted::default());
    let start = |drops: &Arc<AtomicUsize>| -> Running {
        let graph = Graph::with_spawner("test", spawner.clone());
        let held = Arc::clone(drops);
        graph.iterate("iterator", move || {
            let held = Dropped(Arc::clone(&held));
            (0..u64::MAX).inspect(move |_| held.hold())
        });
        let held = Dropped(Arc::clone(drops));
        graph.stream("stream", tokio_stream::pending::<u64>().map(move |_| held.hold()));
        graph.start()
    };
    let running = start(&drops);
    settled().await;
    assert_eq!((drops.load(Ordering::SeqCst), spawner.alive()), (0, 2));
    drop(running);
    settled().await;
    assert_eq!((drops.load(Ordering::SeqCst), spawner.alive()), (2, 0));
    start(&drops).shutdown(PATIENCE).await.unwrap();
    assert_eq!((drops.load(Ordering::SeqCst), spawner.alive()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn genstage_117_it_goes_by_its_name() {
    let graph = Graph::new("test");
    let (iterator, stream) = (graph.iterate("i", || [1]), graph.stream("s", tokio_stream::pending::<u64>()));
    assert_eq!((iterator.name(), stream.stage_ref().name()), ("i", "s"));
    let running = graph.start();
    let snapshot = running.snapshot();
    assert!(snapshot.stage("i").is_some() && snapshot.stage("s").is_some());
    assert_eq!(take(&mut iterator.events(0..1), 1).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn genstage_118_after_its_only_reader_left_it_lives_on_unless_it_is_to_stop() {
    for (on_cancel, ends) in [(None, false), (Some(OnCancel::Continue), false), (Some(OnCancel::Stop), true)] {
        let graph = Graph::new("test");
        let iterator = graph.iterate("iterator", || 0..u64::MAX);
        let stream = graph.stream("stream", tokio_stream::iter(0..u64::MAX));
        let (iterator, stream) = match on_cancel {
            None => (iterator, stream),
            Some(on_cancel) => (iterator.on_cancel(on_cancel), stream.on_cancel(on_cancel)),
        };
        let mut running = graph.start();
        settled().await;
        assert_eq!(take(&mut iterator.events(0..5), 5).await, [0, 1, 2, 3, 4]);
        assert_eq!(take(&mut stream.events(0..5), 5).await, [0, 1, 2, 3, 4]);
        settled().await;
        let snapshot = running.snapshot();
        assert_eq!(["iterator", "stream"].map(|name| snapshot.stage(name).unwrap().ended), [ends; 2], "{on_cancel:?}");
        if ends {
            let outcome = running.stop(PATIENCE).await.unwrap();
            assert!(outcome.stages.iter().all(|stage| matches!(stage.exit, Exit::Normal)), "{outcome}");
        } else {
            // The next reader goes on where the first left off.
            assert_eq!(take(&mut iterator.events(0..5), 2).await, [5, 6]);
            assert_eq!(take(&mut stream.events(0..5), 2).await, [5, 6]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_polled_only_while_there_is_demand() {
    let (graph, played) = (Graph::new("test"), Played::default());
    let stage = graph.stream("played", played.clone());
    let _running = graph.start();
    played.give(0..100);
    settled().await;
    assert_eq!(played.polls(), 0, "nobody has subscribed");
    let near = Near::subscribe(&stage).await;
    settled().await;
    assert_eq!(played.polls(), 0, "nobody has asked");
    near.ask(3);
    assert_eq!(near.events_reach(3).await, [0, 1, 2]);
    settled().await;
    assert_eq!((played.polls(), near.events().len()), (3, 3));
    near.ask(100);
    near.events_reach(100).await;
    settled().await;
    let polls = played.polls();
    assert!((101..110).contains(&polls), "it was polled to see that there is no more: {polls}");
    // Three are still owed, and nobody is there to take them.
    near.cancel();
    near.ended().await;
    played.give(100..200);
    settled().await;
    assert_eq!(stage.stage_ref().estimate_buffered().await.unwrap(), 0);
    assert_eq!(played.polls(), polls, "nobody is left");
    assert_eq!(take(&mut stage.events(0..2), 2).await, [100, 101]);
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_is_not_held_back_and_comes_in_one_batch() {
    let (graph, played, log) = (Graph::new("test"), Played::default(), Log::new());
    let stage = graph.stream("played", played.clone());
    graph.consumer("sink", sink(&log)).subscribe(&stage, 500..1000);
    let mut running = graph.start();
    settled().await;
    played.give(0..3);
    assert_eq!(log.batches_reach(1).await, [[0, 1, 2]]);
    played.give(3..4);
    played.end();
    assert_eq!(log.batches_reach(2).await[1], [3]);
    running.join().await.unwrap();
    assert_eq!(log.all()[log.all().len() - 2..], [Note::End, Note::Terminated("normal".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_nothing_delays_neither_messages_nor_the_end() {
    for drain in [true, false] {
        let (graph, log) = (Graph::new("test"), Log::new());
        let stage = graph.stream("pending", tokio_stream::pending::<u64>());
        graph.consumer("sink", sink(&log)).subscribe(&stage, 500..1000);
        let mut running = graph.start();
        settled().await;
        let started = Instant::now();
        assert_eq!(stage.stage_ref().estimate_buffered().await.unwrap(), 0);
        let late = Near::subscribe(&stage).await;
        late.cancel();
        late.ended().await;
        if drain {
            running.shutdown(PATIENCE).await.unwrap();
        } else {
            running.stop(PATIENCE).await.unwrap();
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_is_lost_between_a_stream_and_its_stage() {
    let (graph, (tx, rx)) = (Graph::new("test"), tokio::sync::mpsc::channel(1));
    let stage = graph.stream("channel", tokio_stream::wrappers::ReceiverStream::new(rx));
    let events = stage.events(2..4);
    let mut running = graph.start();
    let sending = async move {
        for n in 0..20_000u64 {
            tx.send(n).await.unwrap();
        }
    };
    // The stage runs on the other thread.
    let both = async { tokio::join!(sending, events.collect::<Result<Vec<_>, _>>()) };
    let ((), all) = timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(all.unwrap().into_iter().eq(0..20_000));
    running.join().await.unwrap();
}

#[tokio::test]
async fn between_two_pieces_of_an_endless_demand_messages_are_taken() {
    let graph = Graph::new("test");
    let iterator = graph.iterate("iterator", || 0..);
    // Always ready, and never tired.
    let mut next = 0;
    let stream = graph.stream(
        "stream",
        PollFn(move || {
            next += 1;
            next - 1
        }),
    );
    let _running = graph.start();
    for near in [Near::subscribe(&iterator).await, Near::subscribe(&stream).await] {
        near.ask(usize::MAX);
        assert_eq!(near.events_reach(5_000).await[4_999], 4_999);
        near.cancel();
        near.ended().await;
    }
}

/// A stream that always has something.
struct PollFn<F>(F);

impl<F: FnMut() -> u64 + Unpin> Stream for PollFn<F> {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
        Poll::Ready(Some(self.0()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_panics_fails_its_stage() {
    let graph = Graph::new("test");
    let stage = graph.stream("bomb", tokio_stream::iter(0..).map(|n: u64| if n < 3 { n } else { panic!("boom") }));
    let mut events = stage.events(0..2);
    let mut running = graph.start();
    assert_eq!(take(&mut events, 2).await, [0, 1]);
    let error = next(&mut events).await.unwrap().unwrap_err();
    assert!(matches!(&error, EventStreamError::Failed(failure) if failure.kind() == FailureKind::Panic), "{error:?}");
    assert_eq!(error.to_string(), r#"stage "bomb" panicked: boom"#);
    assert!(next(&mut events).await.is_none());
    assert_eq!(running.join().await.unwrap_err().to_string(), r#"stage "bomb" panicked: boom"#);
}

#[tokio::test(start_paused = true)]
async fn an_error_in_a_stream_comes_behind_the_items_before_it() {
    let graph = Graph::new("test");
    let items = [Ok(1), Ok(2), Err("no more"), Ok(4)];
    let stage = graph.try_stream("stream", tokio_stream::iter(items));
    let mut events = stage.events(5..10);
    let mut running = graph.start();
    assert_eq!(take(&mut events, 2).await, [1, 2]);
    assert_eq!(next(&mut events).await.unwrap().unwrap_err().to_string(), r#"stage "stream" failed: no more"#);
    assert_eq!(running.join().await.unwrap_err().to_string(), r#"stage "stream" failed: no more"#);
}

#[tokio::test(start_paused = true)]
async fn a_value_runs_once_and_a_factory_in_every_instance() {
    let graph = Graph::new("test");
    let twice = graph.stream("twice", tokio_stream::iter(0..5u64)).concurrency(2);
    let mut running = graph.start();
    let error = twice.events(5..10).collect::<Result<Vec<_>, _>>().await.unwrap_err();
    assert!(error.to_string().contains("`stream_with` takes a factory"), "{error}");
    running.stop(PATIENCE).await.unwrap_err();

    let graph = Graph::new("test");
    let twice = graph.stream_with("twice", || tokio_stream::iter(0..5u64)).concurrency(2);
    let mut running = graph.start();
    let mut all = twice.events(1..2).collect::<Result<Vec<_>, _>>().await.unwrap();
    all.sort_unstable();
    assert_eq!(all, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_window_gives_all_of_a_stream_and_its_end() {
    for (min, max) in [(0, 1), (0, 2), (1, 2), (9, 10), (0, 10_000), (750, 1000)] {
        let graph = Graph::new("test");
        let stream = graph.stream("stream", tokio_stream::iter(0..2_003u64));
        let copies = graph.stage("copies", || flat_map(|n: u64| [n; 2])).subscribe(&stream, min..max);
        let all = copies.events(min..max);
        let mut running = graph.start();
        let all = timeout(PATIENCE, all.collect::<Result<Vec<_>, _>>()).await.unwrap().unwrap();
        assert_eq!(all, (0..2_003).flat_map(|n| [n; 2]).collect::<Vec<_>>(), "{min}..{max}");
        running.join().await.unwrap();
    }
}

// Any source is a stream.

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
    numbers.stage_ref().call(support::emit(0..2)).await.unwrap();
    assert_eq!(take(&mut first, 1).await, [0]);
    drop(first);
    numbers.stage_ref().call(support::emit(2..5)).await.unwrap();
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

// Closures are stages.

#[tokio::test]
async fn closures_are_consumers_and_producer_consumers() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.iterate("numbers", || 0..10u64);
    let small = graph.stage("small", || filter_map(|n: u64| (n < 5).then_some(n * 2))).subscribe(&numbers, 1..2);
    let twice = graph.stage("twice", || flat_map(|n: u64| [n, n])).subscribe(&small, 1..2);
    let words = graph.stage("words", || map(|n: u64| n.to_string())).subscribe(&twice, 1..2).broadcast();
    let seen = log.clone();
    let collect = move || {
        let seen = seen.clone();
        each(move |word: String| {
            let seen = seen.clone();
            async move {
                seen.push(word);
                Ok(())
            }
        })
    };
    graph.consumer("collect", collect).subscribe(&words, 1..2);
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let count_all = move || {
        let counted = Arc::clone(&counted);
        AnyConsumer::new(each_batch(move |words: aqueduct_stage::Batch<String>| {
            counted.fetch_add(words.len(), Ordering::SeqCst);
            async { Ok(()) }
        }))
    };
    graph.consumer("count", count_all).subscribe(&words, 1..2);
    graph.run().await.unwrap();
    assert_eq!(log.all(), ["0", "0", "2", "2", "4", "4", "6", "6", "8", "8"]);
    assert_eq!(count.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn an_async_closure_is_a_consumer_and_its_error_the_graphs() {
    let graph = Graph::new("test");
    let numbers = graph.iterate("numbers", || 0..10u64);
    let picky = || {
        each(async |n: u64| {
            tokio::task::yield_now().await;
            if n == 7 { Err("seven".into()) } else { Ok(()) }
        })
    };
    graph.consumer("picky", picky).subscribe(&numbers, 1..2);
    assert_eq!(graph.run().await.unwrap_err().to_string(), r#"stage "picky" failed: seven"#);
}

#[tokio::test(start_paused = true)]
async fn a_boxed_consumer_is_told_everything_that_it_would_be() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(3, &Log::new()));
    let make = sink(&log);
    graph.consumer("any", move || AnyConsumer::new(make())).subscribe(&numbers, 5..10);
    graph.run().await.unwrap();
    let kinds: Vec<_> =
        log.all().iter().map(|note| format!("{note:?}").split(['(', ' ']).next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["Subscribed", "Events", "Cancelled", "End", "Terminated"]);
}

/// Where it panicked.
fn panics_in(misuse: impl FnOnce()) -> Option<u32> {
    use std::sync::OnceLock;

    static LINES: OnceLock<()> = OnceLock::new();
    thread_local! { static LINE: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) }; }
    LINES.get_or_init(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let here = panic.location().filter(|at| at.file() == file!());
            LINE.set(here.map(std::panic::Location::line));
            report(panic);
        }));
    });
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(misuse)).unwrap_err();
    LINE.take()
}

#[test]
fn a_window_that_is_none_points_at_the_caller() {
    let graph = Graph::new("test");
    let numbers = graph.iterate("numbers", || 0..3_u64);
    assert_eq!(panics_in(|| drop(numbers.events(0..0))), Some(line!()));
    let sink = || graph.consumer(&format!("sink {}", line!()), || each(async |_: u64| Ok(())));
    assert_eq!(panics_in(|| drop(sink().subscribe(&numbers, 0..0))), Some(line!()));
}
