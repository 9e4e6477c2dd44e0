//! Consumers that acknowledge and end in good order: what they have handled is not given to anybody else, and what they have
//! not is, once, and as no further attempt. A rolling restart duplicates nothing.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs. That a batch takes a
//! moment is the consumer's work.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{
    Batch, Consumer, Cx, Edge, EndCause, EventStreamError, Exit, Graph, Restart, Result, Source, SourceExt,
    SubscribeError, TokioSpawner, each,
};
use aqueduct_transport::pulling::{PullingOptions, WorkPool, WorkSource};
use aqueduct_transport::{
    MemoryPositions, MemoryQueue, Node, Numbered, Once, Positions, PushError, Queue, QueueSource, Retrying, Wire,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, nodes};

const EVENTS: u64 = 200;
const GRACE: Duration = Duration::from_secs(20);

/// How the first consumer ends, while it has batches in hand, behind it and on their way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Shutdown,
    Stop,
    RunningCancel,
    CxCancel,
    CxStop,
}

const WAYS: [Way; 5] = [Way::Shutdown, Way::Stop, Way::RunningCancel, Way::CxCancel, Way::CxStop];

/// An event as it was handled, with the number of its attempt.
type Handled = Vec<(u64, u32)>;

#[derive(Clone)]
struct Seen(Arc<watch::Sender<Handled>>);

impl Seen {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    async fn until(&self, count: usize) {
        self.0.subscribe().wait_for(|handled| handled.len() >= count).await.unwrap();
    }
}

struct Consume<T, P> {
    seen: Seen,
    way: Option<Way>,
    /// Called with each batch that is handled, for what else is to be done.
    also: P,
    events: std::marker::PhantomData<fn(T)>,
}

trait Event: Clone + Send + Sync + 'static {
    fn number(&self) -> u64;
}

impl Event for u64 {
    fn number(&self) -> u64 {
        *self
    }
}

impl Event for Numbered<u64> {
    fn number(&self) -> u64 {
        self.event
    }
}

impl<T: Event, P: AsyncAlso> Consumer for Consume<T, P> {
    type In = T;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_>) -> Result {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let attempt = events.attempt().number();
        self.also.also(events.iter().map(Event::number).max().unwrap()).await;
        self.seen.0.send_modify(|handled| handled.extend(events.iter().map(|event| (event.number(), attempt))));
        if self.seen.0.borrow().len() >= 25 {
            match self.way.take_if(|way| matches!(way, Way::CxCancel | Way::CxStop)) {
                Some(Way::CxCancel) => cx.cancel(events.from(), Exit::Normal),
                Some(_) => cx.stop(Exit::Normal),
                None => {}
            }
        }
        Ok(())
    }
}

trait AsyncAlso: Clone + Send + Sync + 'static {
    fn also(&self, last: u64) -> impl Future<Output = ()> + Send;
}

impl AsyncAlso for () {
    async fn also(&self, _: u64) {}
}

/// The position that a consumer stores. The entries of a queue are numbered from 1.
impl AsyncAlso for Arc<MemoryPositions> {
    async fn also(&self, last: u64) {
        self.store("all", last + 1).await.unwrap();
    }
}

/// Makes one consumer after the other, all with the same book.
fn consume<T: Event, P: AsyncAlso>(
    seen: &Seen,
    way: Option<Way>,
    also: &P,
) -> impl Fn() -> Consume<T, P> + Send + 'static {
    let (seen, also) = (seen.clone(), also.clone());
    move || Consume { seen: seen.clone(), way, also: also.clone(), events: std::marker::PhantomData }
}

/// Has a first consumer end, and a second one take the rest.
async fn roll<S, P>(first: &S, second: &S, also: P, way: Way) -> Handled
where
    S: Source<Item: Event> + Clone,
    P: AsyncAlso,
{
    let seen = [Seen::new(), Seen::new()];
    let graph = Graph::new("first");
    let consumer = graph.consumer("consume", consume(&seen[0], Some(way), &also)).subscribe_acknowledged(first, 10..20);
    let mut running = graph.start();
    seen[0].until(20).await;
    match way {
        Way::Shutdown => drop(running.shutdown(GRACE).await.unwrap()),
        Way::Stop => drop(running.stop(GRACE).await.unwrap()),
        Way::RunningCancel => {
            for edge in running.snapshot().subscriptions {
                running.cancel(&consumer, edge.id, Exit::Normal);
            }
            running.serve().await.unwrap();
        }
        Way::CxCancel | Way::CxStop => drop(running.serve().await.unwrap()),
    }
    drop(running);
    let handled_first = seen[0].0.borrow().len();
    assert!(handled_first < EVENTS as usize, "{way:?}: it was to end in the middle");
    let graph = Graph::new("second");
    graph.consumer("consume", consume(&seen[1], None, &also)).subscribe_acknowledged(second, 10..20);
    let mut running = graph.start();
    seen[1].until(EVENTS as usize - handled_first).await;
    running.shutdown(GRACE).await.unwrap();
    let [one, two] = seen.map(|seen| seen.0.borrow().clone());
    let mut all = [one.clone(), two.clone()].concat();
    all.sort_unstable();
    let numbers = all.iter().map(|(number, _)| *number);
    assert!(numbers.eq(0..EVENTS), "{way:?}: {one:?} and then {two:?}");
    all
}

#[track_caller]
fn all_were_first_attempts(handled: &Handled, way: Way) {
    let again: Vec<_> = handled.iter().filter(|(_, attempt)| *attempt > 1).collect();
    assert!(again.is_empty(), "{way:?}: {again:?}");
}

/// Has a source end while a consumer is at it, and its next one give the rest to another.
async fn restarts<Src: Source<Item: Event> + Clone>(
    on: &impl AsyncFn(&QueueSource<u64, MemoryQueue>, &str) -> Src,
) -> Handled {
    let first = queue().await;
    let seen = [Seen::new(), Seen::new()];
    let graph = Graph::new("first");
    graph.consumer("consume", consume(&seen[0], None, &())).subscribe_acknowledged(&on(&first, "first").await, 10..20);
    let mut running = graph.start();
    seen[0].until(20).await;
    assert!(first.shutdown(GRACE).await, "the consumer keeps what it has");
    let handled_first = seen[0].0.borrow().len();
    assert!(handled_first < EVENTS as usize, "it was to end in the middle");
    // The end of a source in the middle of its data is none for its consumer.
    running.join().await.unwrap_err();
    assert!(matches!(first.push([0]).await, Err(PushError::Closed(_))));
    let late = first.events(1..2).next().await;
    assert!(matches!(late, Some(Err(EventStreamError::Subscribe(SubscribeError::Refused { .. })))), "{late:?}");
    assert_eq!(seen[0].0.borrow().len(), handled_first, "the queue knows of all that was handled");

    let second = QueueSource::new("queue", Arc::clone(first.queue()));
    let graph = Graph::new("second");
    graph
        .consumer("consume", consume(&seen[1], None, &()))
        .subscribe_acknowledged(&on(&second, "second").await, 10..20);
    let mut running = graph.start();
    second.close();
    running.join().await.unwrap();
    assert!(second.shutdown(GRACE).await, "it has ended by itself");
    let mut all = seen.map(|seen| seen.0.borrow().clone()).concat();
    all.sort_unstable();
    assert!(all.iter().map(|(number, _)| *number).eq(0..EVENTS), "{all:?}");
    all
}

async fn queue() -> QueueSource<u64, MemoryQueue> {
    let queue = QueueSource::new("queue", Arc::new(MemoryQueue::new(1000)));
    queue.push(0..EVENTS).await.unwrap();
    queue
}

async fn far<S: Source<Item: Wire + Event> + Clone>(source: &S, way: Way) -> Handled {
    let [one, two, there] = nodes(["one", "two", "there"]).await;
    there.publish("source", source).unwrap();
    let from = |node: &Node| node.source::<S::Item>("source", there.local_addr());
    roll(&from(&one), &from(&two), (), way).await
}

#[tokio::test]
async fn a_near_queue_gives_to_the_next_only_what_the_first_has_not_handled() {
    guarded(async {
        for way in WAYS {
            let queue = queue().await;
            all_were_first_attempts(&roll(&queue, &queue, (), way).await, way);
        }
    })
    .await;
}

#[tokio::test]
async fn a_far_queue_gives_to_the_next_only_what_the_first_has_not_handled() {
    guarded(async {
        for way in WAYS {
            all_were_first_attempts(&far(&queue().await, way).await, way);
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_shut_down_leaves_to_its_next_source_only_what_nobody_has_handled() {
    guarded(async {
        let near = restarts(&async |source: &QueueSource<_, _>, _: &str| source.clone()).await;
        all_were_first_attempts(&near, Way::Shutdown);
        let exclusive = restarts(&async |source: &QueueSource<_, _>, _: &str| source.exclusive()).await;
        all_were_first_attempts(&exclusive, Way::Shutdown);
        let [here, there] = nodes(["here", "there"]).await;
        let far = async |source: &QueueSource<_, _>, name: &str| {
            there.publish(name, source).unwrap();
            here.source::<u64>(name, there.local_addr())
        };
        all_were_first_attempts(&restarts(&far).await, Way::Shutdown);
    })
    .await;
}

#[tokio::test]
async fn a_pool_of_a_queue_that_is_shut_down_gives_back_what_nobody_has_begun_with() {
    guarded(async {
        let pool = |source: &QueueSource<_, _>| WorkPool::new(source, PullingOptions::default(), &TokioSpawner);
        let near = restarts(&async |source: &QueueSource<_, _>, _: &str| pool(source)).await;
        all_were_first_attempts(&near, Way::Shutdown);
        let [here, there] = nodes(["here", "there"]).await;
        let far = async |source: &QueueSource<_, _>, name: &str| {
            there.publish(name, &pool(source)).unwrap();
            here.source::<u64>(name, there.local_addr())
        };
        all_were_first_attempts(&restarts(&far).await, Way::Shutdown);
    })
    .await;
}

#[tokio::test]
async fn a_pool_of_a_queue_that_is_shut_down_waits_for_what_is_begun_and_none_of_what_is_done_comes_back() {
    guarded(async {
        let source = queue().await;
        let pool = WorkPool::new(&source, PullingOptions::default(), &TokioSpawner);
        let mut work = pool.work().events(5..10);
        let mut begun = Vec::new();
        for _ in 0..4 {
            begun.push(work.next().await.unwrap().unwrap());
        }
        // Those behind the first are done before it.
        let [first, second, third, fourth] = begun.try_into().unwrap();
        third.done();
        let mut shutdown = std::pin::pin!(source.shutdown(GRACE));
        assert!(timeout(Duration::ZERO, &mut shutdown).await.is_err());
        fourth.done();
        second.retry(Duration::ZERO, "not today");
        while (pool.counters().finished, pool.counters().nacked) != (2, 1) {
            tokio::task::yield_now().await;
        }
        assert!(timeout(Duration::ZERO, &mut shutdown).await.is_err(), "the first is not answered");
        first.done();
        assert!(shutdown.await);
        assert!(work.next().await.unwrap().is_err(), "the end of the source is not that of the data");
        let left = source.queue().take(1000).await.unwrap();
        let left: Vec<_> = left.iter().map(|entry| (entry.id.number(), entry.attempt)).collect();
        // The entries are numbered from 1.
        let expected: Vec<_> = [(2, 2)].into_iter().chain((5..=EVENTS).map(|id| (id, 1))).collect();
        assert_eq!(left, expected);
    })
    .await;
}

/// Fails where its source is shut down, and so is made anew.
struct ComesBack(Seen);

impl Consumer for ComesBack {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let attempt = events.attempt().number();
        self.0.0.send_modify(|handled| handled.extend(events.iter().map(|event| (*event, attempt))));
        Ok(())
    }

    async fn handle_cancel(&mut self, _: &Edge, cause: &EndCause, _: &mut Cx<'_>) -> Result {
        match cause.reason() {
            Exit::Shutdown => Err("there may be more".into()),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_consumer_goes_on_with_the_next_start_of_a_queue_and_ends_when_that_is_empty() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (first, seen) = (queue().await, Seen::new());
        there.publish("orders", &first).unwrap();
        let far = Retrying::new(&here.source::<u64>("orders", there.local_addr()), GRACE);
        let graph = Graph::new("handling");
        let come_back = {
            let seen = seen.clone();
            move || ComesBack(seen.clone())
        };
        graph.consumer("consume", come_back).subscribe_acknowledged(&far, 10..20).restart(Restart::Transient);
        let mut running = graph.start();
        seen.until(20).await;
        assert!(first.shutdown(GRACE).await);
        there.unpublish("orders");
        let next = QueueSource::<u64, _>::new("queue", Arc::clone(first.queue()));
        next.close();
        there.publish("orders", &next).unwrap();
        let outcome = running.join().await.unwrap();
        assert_eq!(outcome.stage("consume").map(|stage| stage.restarts), Some(1));
        let handled = seen.0.borrow().clone();
        all_were_first_attempts(&handled, Way::Shutdown);
        assert!(handled.iter().map(|(number, _)| *number).eq(0..EVENTS), "{handled:?}");
    })
    .await;
}

#[tokio::test]
async fn a_queue_is_shut_down_within_its_grace_whoever_holds_on_to_an_entry() {
    guarded(async {
        let source = queue().await;
        let (begun, mut has_begun) = watch::channel(());
        let graph = Graph::new("never ready");
        let keep = move || {
            let begun = begun.clone();
            each(move |_: u64| {
                begun.send_replace(());
                std::future::pending()
            })
        };
        graph.consumer("keep", keep).subscribe_acknowledged(&source, 0..1);
        let running = graph.start();
        has_begun.changed().await.unwrap();
        assert!(!source.shutdown(Duration::ZERO).await);
        assert!(!source.shutdown(Duration::ZERO).await, "said again, it is still so");
        let next = QueueSource::<u64, _>::new("queue", Arc::clone(source.queue()));
        drop(running);
        next.close();
        let seen = Seen::new();
        let graph = Graph::new("next");
        graph.consumer("consume", consume(&seen, None, &())).subscribe_acknowledged(&next, 10..20);
        graph.run().await.unwrap();
        let attempts: Vec<_> = (0..EVENTS).map(|number| (number, if number == 0 { 2 } else { 1 })).collect();
        assert_eq!(*seen.0.borrow(), attempts, "what the first consumer had counts as begun");
    })
    .await;
}

#[tokio::test]
async fn an_exclusive_queue_gives_to_the_next_only_what_the_first_has_not_handled() {
    guarded(async {
        for way in WAYS {
            let (queue, positions) = (queue().await, Arc::new(MemoryPositions::new()));
            let once = Once::new(&queue.exclusive(), Arc::clone(&positions), "all");
            all_were_first_attempts(&roll(&once, &once, positions, way).await, way);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stage_of_another_graph_gives_to_the_next_only_what_the_first_has_not_handled() {
    guarded(async {
        for way in WAYS {
            let graph = Graph::new("producing");
            let numbers = graph.iterate("numbers", || 0..EVENTS);
            let _producing = graph.start();
            all_were_first_attempts(&roll(&numbers, &numbers, (), way).await, way);
        }
    })
    .await;
}

#[tokio::test]
async fn a_far_stage_gives_to_the_next_only_what_the_first_has_not_handled() {
    guarded(async {
        for way in WAYS {
            let graph = Graph::new("producing");
            let numbers = graph.iterate("numbers", || 0..EVENTS);
            let _producing = graph.start();
            all_were_first_attempts(&far(&numbers, way).await, way);
        }
    })
    .await;
}

#[tokio::test]
async fn a_pool_near_and_far_gives_to_the_next_only_what_the_first_has_not_handled() {
    guarded(async {
        for way in WAYS {
            for is_far in [false, true] {
                let graph = Graph::new("producing");
                let numbers = graph.iterate("numbers", || 0..EVENTS);
                let _producing = graph.start();
                let pool = WorkPool::new(&numbers, PullingOptions::default(), &TokioSpawner);
                // How it counts attempts is a matter of its own.
                if is_far {
                    far(&pool, way).await
                } else {
                    roll(&pool, &pool, (), way).await
                };
            }
        }
    })
    .await;
}
