//! [`Retrying`]: a source that may not be there yet, or not there again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{Expected, Publisher, Source, SubscribeError, SubscribeOptions, Subscription};
use tokio::time::{Instant, sleep, timeout};

/// A source to which one subscribes with patience: as long as it cannot be reached, is not published, or refuses, it is
/// tried again.
///
/// For consumers of a node that is restarted. A consumer whose producer's node is lost *fails*
/// ([`FailureKind::Disconnected`](aqueduct_stage::FailureKind)), since something may be missing. With
/// [`Restart::Transient`](aqueduct_stage::Restart) it is made anew and subscribes again, and that takes until the node is
/// back: one restart for each loss, however long the node is away, up to the patience. Where that ends, the stage fails and is
/// made anew, too: to give up then, bound its restarts over a time that is longer than the patience
/// ([`Intensity`](aqueduct_stage::Intensity)). A stage that is *shut down* in order ends its consumers as if it were exhausted,
/// and `Transient` does not make them anew; `Permanent` does. How consumers of a [`QueueSource`](crate::QueueSource) come back
/// stands at its [`shutdown`](crate::QueueSource::shutdown).
///
/// ```no_run
/// # use std::time::Duration;
/// # use aqueduct_stage::{Graph, Restart, Source, each};
/// # use aqueduct_work::Retrying;
/// # async fn example(far: impl Source<Item = String> + Clone) -> aqueduct_stage::Result {
/// // `far` is a source on another node.
/// let mails = Retrying::new(&far, Duration::from_secs(600));
/// let graph = Graph::new("post");
/// graph
///     .consumer("send", || each(async |mail: String| { println!("{mail}"); Ok(()) }))
///     .subscribe_acknowledged(&mails, 50..100)
///     .restart(Restart::Transient);
/// graph.run().await?;
/// # Ok(())
/// # }
/// ```
///
/// An attempt may take 1 s, and later ones up to 4 s, as an answer may be lost on the way (a node that does not answer at all
/// is dialled anew every second meanwhile); between two attempts are 50 ms, and at last 250 ms, or 2 s where the other node
/// refuses. The first attempt that fails is
/// a warning in the log, others are there for debugging. A producer of another type, or one that has ended, is not tried again;
/// everything else is, as it may change: a name that is not published yet, a right that is not given yet.
#[derive(Clone)]
pub struct Retrying<Src> {
    source: Src,
    patience: Duration,
    /// Whether what is denied is tried again.
    hopes: bool,
}

impl<Src: Source + Clone> Retrying<Src> {
    /// Tries for `patience`; then the subscription fails with the last error.
    #[must_use]
    pub fn new(source: &Src, patience: Duration) -> Self {
        Self { source: source.clone(), patience, hopes: true }
    }

    /// Gives up at once what is [denied](SubscribeError::Denied).
    #[doc(hidden)]
    pub fn unless_denied(self) -> Self {
        Self { hopes: false, ..self }
    }
}

impl<Src: Source> Source for Retrying<Src> {
    type Item = Src::Item;

    fn name(&self) -> String {
        self.source.name()
    }

    fn default_options(&self) -> SubscribeOptions {
        self.source.default_options()
    }

    fn instances(&self) -> usize {
        self.source.instances()
    }

    fn expect_subscribers(&self) -> Option<Expected> {
        self.source.expect_subscribers()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Src::Item>,
    ) -> Result<Arc<dyn Publisher<Src::Item>>, SubscribeError> {
        let begun = Instant::now();
        let (mut pause, mut limit) = (FIRST_PAUSE, FIRST_ATTEMPT);
        let Subscription { id, consumer, options, interest, subscriber } = subscription;
        let mut is_said = false;
        loop {
            let (interest, subscriber) = (interest.clone(), Arc::clone(&subscriber));
            let again = Subscription { id, consumer, options, interest, subscriber };
            let limit_now = limit.min(self.patience.saturating_sub(begun.elapsed()).max(FIRST_PAUSE));
            let error = match timeout(limit_now, self.source.open(instance, again)).await {
                Ok(Err(error @ (SubscribeError::Ended(_) | SubscribeError::TypeMismatch { .. }))) => return Err(error),
                Ok(Err(error @ SubscribeError::Denied { .. })) if !self.hopes => return Err(error),
                Ok(Err(error)) => error,
                Ok(Ok(publisher)) => return Ok(publisher),
                Err(_) => {
                    let reason = format!("no answer within {limit_now:.1?}");
                    SubscribeError::Unreachable { at: self.source.name(), reason }
                }
            };
            // What is refused rarely changes without somebody's help.
            let longest = match error {
                SubscribeError::Refused { .. } | SubscribeError::Denied { .. } => LAST_PAUSE_REFUSED,
                _ => LAST_PAUSE,
            };
            pause = pause.min(longest);
            if begun.elapsed() + pause >= self.patience {
                return Err(match error {
                    SubscribeError::Unreachable { at, reason } => {
                        let reason = format!("given up after {:.1?}: {reason}", begun.elapsed());
                        SubscribeError::Unreachable { at, reason }
                    }
                    error => error,
                });
            }
            let (producer, patience) = (self.source.name(), self.patience);
            if std::mem::replace(&mut is_said, true) {
                tracing::debug!(producer, %error, again_in = ?pause, "not subscribed yet");
            } else {
                tracing::warn!(producer, %error, ?patience, "not subscribed yet, and tried again");
            }
            sleep(pause).await;
            (pause, limit) = ((pause * 2).min(longest), (limit * 2).min(LAST_ATTEMPT));
        }
    }
}

impl<Src: Source> fmt::Debug for Retrying<Src> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying").field("source", &self.source.name()).field("patience", &self.patience).finish()
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE_REFUSED: Duration = Duration::from_secs(2);
/// Enough for most networks; where packets are lost, later attempts have more time.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
const LAST_ATTEMPT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aqueduct_stage::testing::{ProbeSink, ProbeSource};

    use super::*;

    /// Cannot be reached for some attempts.
    #[derive(Clone)]
    struct Late {
        source: ProbeSource<u64>,
        failures: Arc<AtomicUsize>,
    }

    impl Source for Late {
        type Item = u64;

        fn name(&self) -> String {
            self.source.name()
        }

        async fn open(
            &self,
            instance: usize,
            subscription: Subscription<u64>,
        ) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
            match self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
                Ok(_) => Err(unreachable()),
                Err(_) => self.source.open(instance, subscription).await,
            }
        }
    }

    fn unreachable() -> SubscribeError {
        SubscribeError::Unreachable { at: "there".into(), reason: "it is down".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_comes_back_is_subscribed_to() {
        let source = ProbeSource::<u64>::new();
        let late = Late { source: source.clone(), failures: Arc::new(AtomicUsize::new(3)) };
        let sink = ProbeSink::subscribe(&Retrying::new(&late, Duration::from_secs(1))).await;
        sink.ask(3);
        source.expect_demand(3).await;
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_what_cannot_change_is_not_tried_again() {
        let source = ProbeSource::<u64>::new();
        source.refuse(unreachable());
        let begun = Instant::now();
        let impatient = Retrying::new(&source, Duration::from_secs(1));
        let error = ProbeSink::try_subscribe(&impatient, 0..1).await.err();
        assert!(matches!(error, Some(SubscribeError::Unreachable { .. })));
        assert!(begun.elapsed() <= Duration::from_secs(1));

        let ended = ProbeSource::<u64>::new();
        ended.refuse(SubscribeError::Ended("it".into()));
        let error = ProbeSink::try_subscribe(&Retrying::new(&ended, Duration::from_secs(60)), 0..1).await.err();
        assert!(matches!(error, Some(SubscribeError::Ended(_))));
    }
}
