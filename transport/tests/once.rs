//! A queue as a source, shared and exclusive, and subscriptions that go on behind a stored position.
//!
//! Nothing waits for time to pass but on a paused clock.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{Batch, Consumer, Cx, Demand, FailureKind, Graph, Result, Source, SubscribeError};
use aqueduct_transport::{
    MemoryPositions, MemoryQueue, Numbered, Once, Positions, PushError, Queue, QueueId, QueueSink, QueueSource,
    StoreError,
};
use tokio::sync::watch;

#[path = "support/flaky.rs"]
mod flaky;
#[path = "support/nodes.rs"]
mod nodes;

use flaky::Flaky;
use nodes::{guarded, nodes};

type Numbers = QueueSource<u64, MemoryQueue>;

fn numbers(bound: usize) -> Numbers {
    QueueSource::new("numbers", Arc::new(MemoryQueue::new(bound)))
}

#[tokio::test(start_paused = true)]
async fn events_are_taken_by_demand_and_wait_until_they_are_asked_for() {
    let source = numbers(10);
    let sink = ProbeSink::subscribe(&source).await;
    sink.ask(3);
    sink.expect_no_events().await;
    source.push([1, 2]).await.unwrap();
    sink.expect_events([1, 2]).await;
    source.push([3, 4]).await.unwrap();
    sink.expect_events([3]).await;
    sink.expect_no_events().await;
    sink.ask(1);
    sink.expect_events([4]).await;
    source.close();
    sink.expect_end().await;
    assert!(matches!(source.push([5]).await, Err(PushError::Closed(_))));
    let again = ProbeSink::try_subscribe(&source, 0..1).await;
    assert!(matches!(again.err(), Some(SubscribeError::Ended(_))));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_takes_all_or_nothing() {
    let source = numbers(2);
    let full = source.push([1, 2, 3]).await.unwrap_err();
    assert!(matches!(full, PushError::Store(StoreError::Full { len: 0, more: 3, bound: 2 })), "{full}");
    assert_eq!(source.push([1, 2]).await.unwrap(), [1, 2].map(QueueId::new));
}

#[tokio::test(start_paused = true)]
async fn what_a_failing_consumer_did_not_finish_is_given_to_the_next_as_another_attempt() {
    let source = numbers(100);
    source.push(0..20).await.unwrap();
    source.close();
    let (failing, fails) = consume(&source, Some(7));
    assert!(fails.run().await.is_err());
    let (other, lasts) = consume(&source, None);
    lasts.run().await.unwrap();
    assert_eq!(failing.take(), (0..10).map(|number| (number, 1)).collect::<Vec<_>>());
    let attempt = |number| if number < 10 { 2 } else { 1 };
    assert_eq!(other.take(), (5..20).map(|number| (number, attempt(number))).collect::<Vec<_>>());
    assert!(source.queue().is_empty().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn several_consumers_share_a_queue() {
    let source = numbers(1000);
    source.push(0..1000).await.unwrap();
    source.close();
    let (one, running_one) = consume(&source, None);
    let (two, running_two) = consume(&source, None);
    let (first, second) = tokio::join!(running_one.run(), running_two.run());
    first.unwrap();
    second.unwrap();
    let (one, two) = (one.take(), two.take());
    assert!(one.len() > 100 && two.len() > 100, "{} and {}", one.len(), two.len());
    let mut all = [one, two].concat();
    all.sort_unstable();
    assert_eq!(all, (0..1000).map(|number| (number, 1)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_what_is_not_handled() {
    let source = numbers(10);
    source.push([1]).await.unwrap();
    source.close();
    let (sink, publisher) = acknowledging(&source).await;
    sink.ask(2);
    sink.expect_events([1]).await;
    sink.expect_no_events().await;
    publisher.handled(sink.id(), Demand::new(1));
    sink.expect_end().await;
    assert!(source.queue().is_empty().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_type_stops_the_source_behind_what_is_handled() {
    let queue = Arc::new(MemoryQueue::new(10));
    QueueSource::new("numbers", Arc::clone(&queue)).push([1_u64]).await.unwrap();
    QueueSource::new("texts", Arc::clone(&queue)).push(["two".to_owned()]).await.unwrap();
    let source: Numbers = QueueSource::new("numbers", Arc::clone(&queue));
    let (sink, publisher) = acknowledging(&source).await;
    sink.ask(5);
    sink.expect_events([1]).await;
    publisher.handled(sink.id(), Demand::new(1));
    let failure = sink.expect_failure().await;
    assert_eq!(failure.message(), "entry 2 of the queue cannot be read: it was not written as \"u64\"");
    assert_eq!(queue.len().await.unwrap(), 1, "it is still there");
    queue.acknowledge(&[QueueId::new(2)]).await.unwrap();
    source.close();
    let sink = ProbeSink::subscribe(&source).await;
    sink.ask(1);
    sink.expect_end().await;
}

/// Failure 26: the disk is full.
#[tokio::test(start_paused = true)]
async fn failure_26_while_the_store_fails_nothing_is_acknowledged_and_then_it_goes_on() {
    let queue = Arc::new(Flaky { queue: MemoryQueue::new(10), fails: AtomicBool::new(false) });
    let source = QueueSource::<u64, _>::new("numbers", Arc::clone(&queue));
    source.push([1, 2, 3]).await.unwrap();
    source.close();
    let (sink, publisher) = acknowledging(&source).await;
    sink.ask(2);
    sink.expect_events([1, 2]).await;
    queue.fails.store(true, Ordering::Relaxed);
    publisher.handled(sink.id(), Demand::new(2));
    sink.ask(2);
    sink.expect_no_events().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(queue.queue.len().await.unwrap(), 3, "nothing is acknowledged");
    assert_eq!(source.trouble().map(|error| error.to_string()).as_deref(), Some("the store failed: the disk is full"));
    queue.fails.store(false, Ordering::Relaxed);
    sink.expect_events([3]).await;
    assert_eq!(queue.queue.len().await.unwrap(), 1);
    assert!(source.trouble().is_none());
    publisher.handled(sink.id(), Demand::new(3));
    sink.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_the_store_fails_need_not_wait() {
    let queue = Arc::new(Flaky { queue: MemoryQueue::new(10), fails: AtomicBool::new(true) });
    let source = QueueSource::<u64, _>::new("numbers", queue);
    let sink = ProbeSink::subscribe(&source).await;
    sink.ask(2);
    sink.expect_no_events().await;
    sink.cancel();
    assert!(!sink.end_cause().await.is_exhausted());
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_source_has_one_consumer_at_a_time() {
    let source = numbers(10);
    let first = ProbeSink::subscribe(&source.exclusive()).await;
    for refused in [
        ProbeSink::try_subscribe(&source.exclusive(), 0..1).await.err(),
        ProbeSink::try_subscribe(&source, 0..1).await.err(),
    ] {
        let error = refused.unwrap().to_string();
        let expected = "refused by numbers: queue \"numbers\" has a consumer already, and one of the two is exclusive";
        assert_eq!(error, expected);
    }
    first.cancel();
    let sharing = ProbeSink::subscribe(&source).await;
    assert!(ProbeSink::try_subscribe(&source.exclusive(), 0..1).await.is_err());
    drop(sharing);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_goes_on_behind_its_position() {
    let positions = Arc::new(MemoryPositions::new());
    positions.store("sum", 15).await.unwrap();
    let source = numbers(100);
    source.push(1..=20).await.unwrap();
    let once = Once::new(&source.exclusive(), Arc::clone(&positions), "sum");
    let graph = Graph::new("sum");
    let seen = Seen::default();
    let (numbers, fails) = (seen.clone(), Arc::new(AtomicBool::new(true)));
    let sum = graph.consumer("sum", move || Sum {
        seen: numbers.clone(),
        positions: Arc::clone(&positions),
        fails: Arc::clone(&fails),
    });
    // A smaller window than what is dropped.
    sum.subscribe_acknowledged(&once, 1..3).restart(aqueduct_stage::Restart::Transient);
    source.close();
    graph.run().await.unwrap();
    // It fails behind the effect of the second batch, once, with its position stored.
    assert_eq!(seen.take().into_iter().map(|(number, _)| number).collect::<Vec<_>>(), (16..=20).collect::<Vec<_>>());
    assert!(source.queue().is_empty().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_acknowledge_is_refused() {
    let (source, positions) = (numbers(10), Arc::new(MemoryPositions::new()));
    let sink = ProbeSink::subscribe(&Once::new(&source.exclusive(), positions, "s")).await;
    sink.ask(1);
    assert_eq!(sink.expect_failure().await.kind(), FailureKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn numbers_that_do_not_rise_end_the_subscription() {
    let (source, positions) = (ProbeSource::new(), Arc::new(MemoryPositions::new()));
    let once = Once::new(&source, positions, "s");
    let graph = Graph::new("test");
    let seen = Seen::default();
    graph.consumer("c", move || Collect { seen: seen.clone(), fail_at: None }).subscribe_acknowledged(&once, 5..10);
    let mut running = graph.start();
    source.expect_demand(10).await;
    source.send([1, 3, 2].map(|number| Numbered { number, event: number }));
    let error = running.join().await.unwrap_err();
    assert_eq!(error.failure.kind(), FailureKind::Protocol);
    assert!(error.failure.message().contains("got 2 after 3"), "{error}");
    source.expect_cancel().await;
}

#[tokio::test]
async fn a_far_consumer_goes_on_behind_its_position_and_a_second_is_refused_by_name() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let source = numbers(100);
        there.publish("numbers", &source.exclusive()).unwrap();
        source.push(1..=20).await.unwrap();
        let positions = Arc::new(MemoryPositions::new());
        positions.store("collect", 8).await.unwrap();
        let far = here.source::<Numbered<u64>>("numbers", there.local_addr());
        let once = Once::new(&far, Arc::clone(&positions), "collect");
        let (graph, seen) = (Graph::new("here"), Seen::default());
        let collect = seen.clone();
        let consumer = graph.consumer("collect", move || Collect { seen: collect.clone(), fail_at: None });
        consumer.subscribe_acknowledged(&once, 2..4);
        let mut running = graph.start();
        seen.until(12).await;
        let error = ProbeSink::try_subscribe(&far, 0..1).await.err().unwrap().to_string();
        assert!(error.contains("queue \"numbers\" has a consumer already"), "{error}");
        source.close();
        running.join().await.unwrap();
        assert_eq!(seen.take().into_iter().map(|(number, _)| number).collect::<Vec<_>>(), (9..=20).collect::<Vec<_>>());
        assert!(source.queue().is_empty().await.unwrap());
    })
    .await;
}

#[cfg(feature = "redb")]
#[tokio::test]
async fn an_effect_that_fails_changes_nothing_and_one_that_was_applied_is_not_applied_again() {
    use aqueduct_transport::RedbStore;
    use aqueduct_transport::redb::{TableDefinition, WriteTransaction};

    const SEEN: TableDefinition<'_, u64, u64> = TableDefinition::new("seen");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("apply-{}.redb", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let positions = RedbStore::open(&path).await.unwrap().positions();
    let batch = |numbers: std::ops::Range<u64>| numbers.map(|number| Numbered { number, event: number }).collect();
    let apply = async |numbers, fail_at| {
        let effect = move |transaction: &WriteTransaction, event| {
            let before = transaction.open_table(SEEN)?.insert(event, event)?.is_some();
            if before || event == fail_at { Err("cannot".into()) } else { Ok(()) }
        };
        positions.apply("s", batch(numbers), effect).await
    };
    assert!(matches!(apply(1..5, 3).await, Err(StoreError::Effect(_))));
    assert_eq!(positions.position("s").await.unwrap(), None);
    assert_eq!(apply(1..3, 0).await.unwrap(), 2);
    assert_eq!(apply(1..5, 0).await.unwrap(), 2, "3 and 4");
    assert_eq!(apply(1..5, 0).await.unwrap(), 0);
    assert_eq!(positions.position("s").await.unwrap(), Some(4));
    drop(positions);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_puts_whole_batches_into_a_queue_and_waits_for_room() {
    let queue = Arc::new(MemoryQueue::new(10));
    let graph = Graph::new("filling");
    let numbers = graph.iterate("numbers", || 0..50_u64);
    let sink = QueueSink::<u64, _>::new(&queue);
    graph.consumer("queue", move || sink.clone()).subscribe_acknowledged(&numbers, 4..8);
    let mut running = graph.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(queue.len().await.unwrap(), 8, "two batches of four fit");
    let source = QueueSource::<u64, _>::new("numbers", Arc::clone(&queue));
    let (seen, reading) = consume(&source, None);
    let mut reading = reading.start();
    running.join().await.unwrap();
    source.close();
    reading.join().await.unwrap();
    assert_eq!(seen.take(), (0..50).map(|number| (number, 1)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_sink_fails_with_what_never_fits_and_nothing_of_it_is_in_the_queue() {
    let queue = Arc::new(MemoryQueue::new(3));
    let graph = Graph::new("filling");
    let numbers = graph.iterate("numbers", || 0..50_u64);
    let sink = QueueSink::<u64, _>::new(&queue);
    graph.consumer("queue", move || sink.clone()).subscribe_acknowledged(&numbers, 4..8);
    let error = graph.run().await.unwrap_err().to_string();
    assert!(error.contains("the queue has 0 entries, and 4 more would exceed 3"), "{error}");
    assert!(queue.is_empty().await.unwrap());
}

/// What a sink had not put into its queue when it failed comes to the next one.
#[tokio::test(start_paused = true)]
async fn a_sink_that_is_restarted_loses_nothing() {
    let queue = Arc::new(Flaky { queue: MemoryQueue::new(1000), fails: AtomicBool::new(true) });
    let graph = Graph::new("filling")
        .backoff(aqueduct_stage::Backoff::exponential(Duration::from_secs(1), Duration::from_secs(1)));
    let numbers = graph.iterate("numbers", || 0..100_u64);
    let sink = QueueSink::<u64, _>::new(&queue);
    let filling = graph.consumer("queue", move || sink.clone());
    filling.subscribe_acknowledged(&numbers, 4..8).restart(aqueduct_stage::Restart::Transient);
    let mut running = graph.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(queue.queue.is_empty().await.unwrap());
    queue.fails.store(false, Ordering::Relaxed);
    running.join().await.unwrap();
    let entries = queue.take(1000).await.unwrap();
    assert_eq!(entries.len(), 100);
}

/// A sink that acknowledges by hand.
async fn acknowledging<S: Source<Item = u64> + Clone>(source: &S) -> (ProbeSink<u64>, Tapped) {
    let tap = Tap { source: source.clone(), publisher: Arc::default() };
    let sink = ProbeSink::subscribe(&tap).await;
    let publisher = tap.publisher.lock().unwrap().take().unwrap();
    publisher.handled(sink.id(), Demand::ZERO);
    (sink, publisher)
}

type Tapped = Arc<dyn aqueduct_stage::Publisher<u64>>;

/// Keeps the publishing end.
#[derive(Clone)]
struct Tap<S> {
    source: S,
    publisher: Arc<Mutex<Option<Tapped>>>,
}

impl<S: Source<Item = u64>> Source for Tap<S> {
    type Item = u64;

    fn name(&self) -> String {
        self.source.name()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: aqueduct_stage::Subscription<u64>,
    ) -> Result<Tapped, SubscribeError> {
        let publisher = self.source.open(instance, subscription).await?;
        *self.publisher.lock().unwrap() = Some(Arc::clone(&publisher));
        Ok(publisher)
    }
}

fn consume<S: Source<Item = u64> + Clone>(source: &S, fail_at: Option<u64>) -> (Seen, Graph) {
    let (graph, seen) = (Graph::new("consuming"), Seen::default());
    let collect = seen.clone();
    graph.consumer("collect", move || Collect { seen: collect.clone(), fail_at }).subscribe_acknowledged(source, 5..10);
    (seen, graph)
}

/// Takes plain and numbered events.
trait Number: Clone + Send + Sync + 'static {
    fn number(&self) -> u64;
}

impl Number for u64 {
    fn number(&self) -> u64 {
        *self
    }
}

impl Number for Numbered<u64> {
    fn number(&self) -> u64 {
        self.event
    }
}

struct Collect<T = u64> {
    seen: Seen<T>,
    fail_at: Option<u64>,
}

impl<T: Number> Consumer for Collect<T> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, _: &mut Cx<'_>) -> Result {
        self.seen.add(&events);
        match self.fail_at {
            Some(number) if events.iter().any(|event| event.number() == number) => Err("cannot".into()),
            _ => Ok(()),
        }
    }
}

/// Stores its position behind its effect, and fails then, once.
struct Sum {
    seen: Seen<Numbered<u64>>,
    positions: Arc<MemoryPositions>,
    fails: Arc<AtomicBool>,
}

impl Consumer for Sum {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, events: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        self.seen.add(&events);
        self.positions.store("sum", events.last().unwrap().number).await?;
        if events[0].number > 16 && self.fails.swap(false, Ordering::Relaxed) {
            return Err("after the effect".into());
        }
        Ok(())
    }
}

/// The events that came and the number of their attempt.
struct Seen<T = u64> {
    events: Arc<Mutex<Vec<(u64, u32)>>>,
    count: Arc<watch::Sender<usize>>,
    of: std::marker::PhantomData<fn(T)>,
}

impl<T: Number> Seen<T> {
    fn add(&self, events: &Batch<T>) {
        let attempt = events.attempt().number();
        self.events.lock().unwrap().extend(events.iter().map(|event| (event.number(), attempt)));
        self.count.send_modify(|count| *count += events.len());
    }

    async fn until(&self, count: usize) {
        self.count.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { events: Arc::clone(&self.events), count: Arc::clone(&self.count), of: self.of }
    }
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { events: Arc::default(), count: Arc::default(), of: std::marker::PhantomData }
    }
}
