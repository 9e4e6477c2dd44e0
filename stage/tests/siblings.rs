//! Instances of one stage that subscribe to a short source one after the other, as they do over a network.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::{
    Demand, EndCause, Exit, Failure, FailureKind, Graph, GraphError, Outcome, Publisher, Source, SubscribeError,
    Subscription, SubscriptionId, each,
};

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
