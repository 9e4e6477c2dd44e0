//! A stream or an iterator is a producer.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use aqueduct_stage::{EventStreamError, Exit, FailureKind, Graph, OnCancel, Running, SourceExt, flat_map};
use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt};

use crate::support::{Counted, Log, Near, Note, settled, sink};
use crate::{PATIENCE, next, take};

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
