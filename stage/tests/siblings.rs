//! Instances of one stage that subscribe to a short source one after the other, as they do over a network.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Batch, Consumer, Cx, Demand, Edge, EndCause, EventStreamError, Exit, Failure, FailureKind, Graph, GraphError, Mode,
    Never, Outcome, Producer, Publisher, Result, Running, Source, SourceExt, Stage, SubscribeError, Subscription,
    SubscriptionId, each,
};
use tokio::sync::Notify;
use tokio_stream::StreamExt;

/// A stage of another graph, to which each subscription takes a second longer than the one before.
#[derive(Clone)]
struct Distant<Src> {
    source: Src,
    opened: Arc<AtomicUsize>,
    /// Those that come too late are taken in, and told of the end afterwards.
    takes_in: bool,
}

impl<Src: Source> Source for Distant<Src> {
    type Item = Src::Item;

    fn name(&self) -> String {
        self.source.name()
    }

    fn instances(&self) -> usize {
        self.source.instances()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Src::Item>,
    ) -> Result<Arc<dyn Publisher<Src::Item>>, SubscribeError> {
        let before = self.opened.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(before as u64)).await;
        let (id, subscriber) = (subscription.id, Arc::clone(&subscription.subscriber));
        match self.source.open(instance, subscription).await {
            Err(SubscribeError::Ended(_)) if self.takes_in => {
                let failure = Failure::new(self.name(), FailureKind::AlreadyEnded, "it has ended");
                subscriber.ended(id, EndCause::Down(Exit::Failed(failure)));
                Ok(Arc::new(Nobody))
            }
            opened => opened,
        }
    }
}

struct Nobody;

impl<T> Publisher<T> for Nobody {
    fn ask(&self, _: SubscriptionId, _: Demand) {}

    fn cancel(&self, _: SubscriptionId, _: Exit) {}
}

/// Four instances of a consumer share what a graph of `events` numbers emits, of which the first is too late as well if
/// it is `all_late`.
async fn share(events: u64, takes_in: bool, all_late: bool) -> Result<Outcome, GraphError> {
    let producing = Graph::new("producing");
    let numbers = producing.iterate("numbers", move || 0..events);
    let source = Distant { source: numbers.clone(), opened: Arc::default(), takes_in };
    let mut producing = producing.start();
    if all_late {
        let other = Graph::new("other");
        other.consumer("other", || each(async |_: u64| Ok(()))).subscribe(&numbers, 0..10);
        other.run().await.unwrap();
        producing.join().await.unwrap();
    }
    let consuming = Graph::new("consuming");
    consuming.consumer("sum", || each(async |_: u64| Ok(()))).concurrency(4).subscribe(&source, 0..10);
    consuming.run().await
}

fn handled(outcome: &Outcome) -> Vec<u64> {
    outcome.stages.iter().map(|stage| stage.events_in).collect()
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_the_end_that_a_sibling_saw_has_an_empty_share() {
    for takes_in in [false, true] {
        assert_eq!(handled(&share(25, takes_in, false).await.unwrap()), [25, 0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_is_with_a_source_without_events() {
    for takes_in in [false, true] {
        assert_eq!(handled(&share(0, takes_in, false).await.unwrap()), [0, 0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn if_nobody_saw_the_end_nobody_knows_what_there_was() {
    for (takes_in, kind) in [(false, FailureKind::Subscribe), (true, FailureKind::AlreadyEnded)] {
        let error = share(25, takes_in, true).await.unwrap_err();
        assert_eq!(error.failure.kind(), kind, "{error}");
    }
}

/// Instances of a producer, each of which has its number to emit. The first waits for a word before it does.
struct Numbers {
    instance: usize,
    word: Arc<Notify>,
    /// How the second one ends.
    exit: Exit,
}

impl Producer for Numbers {
    type Out = usize;

    async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, usize>) -> Result {
        if self.instance == 0 {
            self.word.notified().await;
        }
        cx.emit(self.instance);
        cx.stop(if self.instance == 1 { self.exit.clone() } else { Exit::Normal });
        Ok(())
    }
}

/// A source of two instances of which the second has ended, and the word for the other one.
struct Half {
    numbers: Stage<Numbers, Never, usize>,
    word: Arc<Notify>,
    producing: Running,
}

impl Half {
    async fn new(exit: Exit) -> Self {
        let (graph, word, made) = (Graph::new("producing"), Arc::<Notify>::default(), AtomicUsize::new(0));
        let make = {
            let word = Arc::clone(&word);
            move || Numbers {
                instance: made.fetch_add(1, Ordering::SeqCst),
                word: Arc::clone(&word),
                exit: exit.clone(),
            }
        };
        let numbers = graph.producer("numbers", make).concurrency(2);
        let producing = graph.start();
        let second = Nth { stage: numbers.clone(), instance: 1 };
        let events: Vec<_> = second.events(0..10).collect().await;
        assert!(!events.is_empty());
        Self { numbers, word, producing }
    }

    /// The other one goes on, and the source is over.
    async fn ends(&mut self) {
        self.word.notify_one();
        let first = Nth { stage: self.numbers.clone(), instance: 0 };
        assert_eq!(first.events(0..10).collect::<Vec<_>>().await.len(), 1);
        self.producing.serve().await.unwrap();
    }
}

/// One instance of a source.
#[derive(Clone)]
struct Nth<Src> {
    stage: Src,
    instance: usize,
}

impl<Src: Source> Source for Nth<Src> {
    type Item = Src::Item;

    fn name(&self) -> String {
        self.stage.name()
    }

    async fn open(
        &self,
        _: usize,
        subscription: Subscription<Src::Item>,
    ) -> Result<Arc<dyn Publisher<Src::Item>>, SubscribeError> {
        self.stage.open(self.instance, subscription).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_ended_has_nothing_as_long_as_another_one_lives() {
    for (instances, acknowledges) in [(1, false), (1, true), (3, false), (3, true)] {
        let half = Half::new(Exit::Normal).await;
        let consuming = Graph::new("consuming");
        let sum = consuming.consumer("sum", || each(async |_: usize| Ok(()))).concurrency(instances);
        let _ = match acknowledges {
            true => sum.subscribe_acknowledged(&half.numbers, 0..10),
            false => sum.subscribe(&half.numbers, 0..10),
        };
        half.word.notify_one();
        let outcome = consuming.run().await.unwrap();
        assert_eq!(handled(&outcome).iter().sum::<u64>(), 1);
    }
    let half = Half::new(Exit::Normal).await;
    let second = Nth { stage: half.numbers.clone(), instance: 1 };
    assert!(second.events(0..10).next().await.is_none(), "whoever has only this one is told the same");
    half.word.notify_one();
    let events: Vec<_> = half.numbers.events(0..10).collect::<Result<_, _>>().await.unwrap();
    assert_eq!(events, [0]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_comes_when_all_instances_have_ended_is_told() {
    let mut half = Half::new(Exit::Normal).await;
    half.ends().await;
    let consuming = Graph::new("consuming");
    consuming.consumer("sum", || each(async |_: usize| Ok(()))).concurrency(2).subscribe(&half.numbers, 0..10);
    let error = consuming.run().await.unwrap_err();
    assert!(error.to_string().contains(r#"producer "numbers" has ended"#), "{error}");
    let first = half.numbers.events(0..10).next().await.unwrap();
    assert!(matches!(first, Err(EventStreamError::Subscribe(SubscribeError::Ended(_)))), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_saw_the_end_of_one_instance_may_come_too_late_to_the_other() {
    let half = Half::new(Exit::Normal).await;
    // The one to the first instance is made at once, the one to the second when all is over.
    let distant = Distant { source: half.numbers.clone(), opened: Arc::default(), takes_in: false };
    let consuming = Graph::new("consuming");
    consuming.consumer("sum", || each(async |_: usize| Ok(()))).subscribe(&distant, 0..10);
    half.word.notify_one();
    assert_eq!(handled(&consuming.run().await.unwrap()), [1]);

    let half = Half::new(Exit::Normal).await;
    let distant = Distant { source: half.numbers.clone(), opened: Arc::default(), takes_in: true };
    half.word.notify_one();
    let events: Vec<_> = distant.events(0..10).collect::<Result<_, _>>().await.unwrap();
    assert_eq!(events, [0]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_failed_or_was_shut_down_is_missed() {
    let boom = Exit::Failed(Failure::new("numbers", FailureKind::Error, "boom"));
    for exit in [Exit::Shutdown, boom] {
        let half = Half::new(exit.clone()).await;
        half.word.notify_one();
        let consuming = Graph::new("consuming");
        consuming.consumer("sum", || each(async |_: usize| Ok(()))).subscribe(&half.numbers, 0..10);
        let error = consuming.run().await.unwrap_err();
        assert!(error.to_string().ends_with(&format!("instance 1 has ended early: {exit}")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_subscribes_anew_has_nothing_of_an_instance_that_has_ended() {
    let (graph, log) = (Graph::new("producing"), Arc::<Mutex<Vec<SubscriptionId>>>::default());
    let numbers = graph.iterate("numbers", || 0..5_u64).concurrency(2);
    let source = Distant { source: numbers.clone(), opened: Arc::default(), takes_in: false };
    let mut producing = graph.start();
    let consuming = Graph::new("consuming");
    let sum = {
        let log = Arc::clone(&log);
        consuming.consumer("sum", move || Noting(Arc::clone(&log))).subscribe(&source, 0..10)
    };
    let mut running = consuming.start();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let first = log.lock().unwrap()[0];
    // The one to the other instance is on its way; both are over when this one comes.
    running.resubscribe(&sum, first, Exit::Normal, &source, 0..10);
    running.join().await.unwrap();
    producing.join().await.unwrap();
}

/// Writes its subscriptions down.
struct Noting(Arc<Mutex<Vec<SubscriptionId>>>);

impl Consumer for Noting {
    type In = u64;

    async fn handle_subscribe(&mut self, edge: &Edge, _: &mut Cx<'_>) -> Result<Mode> {
        self.0.lock().unwrap().push(edge.id);
        Ok(Mode::Automatic)
    }

    async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}

/// Emits one number, for which it takes a second, and ends.
struct Slow;

impl Producer for Slow {
    type Out = u64;

    async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, u64>) -> Result {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cx.emit(1);
        cx.stop(Exit::Normal);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_comes_before_the_end_is_not_too_late_however_busy_the_source_is() {
    let graph = Graph::new("producing");
    let slow = graph.producer("slow", || Slow);
    let mut producing = graph.start();
    let mut first = slow.events(0..1);
    let (first, second) = tokio::join!(first.next(), async {
        // While the producer is in its only callback.
        tokio::time::sleep(Duration::from_millis(500)).await;
        slow.events(0..1).next().await
    });
    assert_eq!(first.unwrap().unwrap(), 1);
    assert!(second.is_none(), "{second:?}");
    producing.serve().await.unwrap();
}

/// Never ends by itself, and takes a second for it.
struct Endless;

impl Producer for Endless {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(0..demand as u64);
        Ok(())
    }

    async fn terminate(&mut self, _: &Exit) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_for_want_of_subscribers_has_no_end_for_a_consumer_that_comes_then() {
    let graph = Graph::new("producing");
    let endless = graph.producer("endless", || Endless);
    let mut producing = graph.start();
    assert_eq!(endless.events(0..1).next().await.unwrap().unwrap(), 0);
    let (ended, late) = tokio::join!(producing.join(), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        endless.events(0..1).next().await.unwrap()
    });
    ended.unwrap();
    assert!(late.unwrap_err().to_string().contains("has ended"));
}
