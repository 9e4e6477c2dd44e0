//! [`ProbeSink`]: a consumer that a test plays.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_dispatcher::{Attempt, Demand, Events, Interest, SubscribeOptions, SubscriptionId};
use tokio::time::{sleep, timeout};

use super::{Heard, Patience, events, fail};
use crate::{Batch, ConsumerId, EndCause, Exit, Failure, Publisher, Source, SubscribeError, Subscriber, Subscription};

/// A consumer that a test plays by hand: it subscribes to any [`Source`], near or on another node, and asks for nothing
/// by itself. How long it waits, and what a failure is: see the [module](super).
///
/// It holds its producer to the protocol: an event that was not asked for, or that comes after the end, fails whatever
/// is expected next. Dropping it cancels the subscription.
///
/// ```
/// # use aqueduct_stage::{Cx, Graph, Producer, Result};
/// # use aqueduct_stage::testing::ProbeSink;
/// # struct Counter(u64);
/// # impl Producer for Counter {
/// #     type Out = u64;
/// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
/// #         let next = self.0;
/// #         self.0 += demand as u64;
/// #         cx.emit_all(next..self.0);
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let graph = Graph::new("test");
/// let numbers = graph.producer("numbers", || Counter(0));
/// let _running = graph.start();
/// let sink = ProbeSink::subscribe(&numbers).await;
/// sink.expect_no_events().await;
/// sink.ask(3);
/// sink.expect_events([0, 1, 2]).await;
/// sink.expect_no_events().await;
/// # }
/// ```
pub struct ProbeSink<T: Send + 'static> {
    /// What it has subscribed to, for failures of the test.
    name: String,
    patience: Patience,
    id: SubscriptionId,
    publisher: Arc<dyn Publisher<T>>,
    heard: Arc<Heard<State<T>>>,
}

/// The account of the subscription.
struct State<T> {
    /// What came and was not expected yet; no batch is empty.
    batches: VecDeque<(Events<T>, Attempt)>,
    /// In all.
    asked: Demand,
    came: Demand,
    ended: Option<EndCause>,
    /// What the producer did against the protocol, first.
    broken: Option<String>,
}

impl<T: Send + 'static> ProbeSink<T> {
    /// Subscribes to a source: to the first instance of a stage that has several. Waits for that for 5 s at most.
    ///
    /// # Panics
    ///
    /// If the source refuses, or does not answer in time.
    #[track_caller]
    pub fn subscribe<S: Source<Item = T>>(source: &S) -> impl Future<Output = Self> + Send {
        let at = Location::caller();
        async move {
            let subscribed = Self::try_subscribe(source, SubscribeOptions::default()).await;
            subscribed.unwrap_or_else(|error| fail(&source.name(), at, format_args!("cannot subscribe: {error}")))
        }
    }

    /// As [`subscribe`](Self::subscribe), with options that the source is told of. Whatever the window, the probe asks
    /// only when the test says so.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] as the source returns it; [`SubscribeError::Unreachable`] if it does not answer in time.
    pub async fn try_subscribe<S: Source<Item = T>>(
        source: &S,
        options: impl Into<SubscribeOptions> + Send,
    ) -> Result<Self, SubscribeError> {
        let (id, patience) = (SubscriptionId::new(), Patience::default());
        let heard = Arc::new(Heard::new(State::new()));
        let subscription = Subscription {
            id,
            consumer: ConsumerId::new(),
            options: options.into(),
            interest: Interest::ALL,
            subscriber: Arc::clone(&heard) as _,
        };
        let Ok(publisher) = timeout(patience.limit, source.open(0, subscription)).await else {
            let reason = format!("no answer within {:?}", patience.limit);
            return Err(SubscribeError::Unreachable { at: source.name(), reason });
        };
        Ok(Self { name: format!("sink of {:?}", source.name()), patience, id, publisher: publisher?, heard })
    }

    /// Sets how long it waits for what must come. Default 5 s.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.patience.limit = limit;
        self
    }

    /// Sets how long it waits for what must not come. Default 100 ms.
    #[must_use]
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.patience.quiet = quiet;
        self
    }

    /// The name of the subscription, as the producer's callbacks see it.
    pub fn id(&self) -> SubscriptionId {
        self.id
    }

    /// Asks for `count` events more.
    pub fn ask(&self, count: usize) {
        let up_to = self.heard.update(|state| {
            state.asked.add(Demand::from(count));
            state.asked
        });
        self.publisher.ask(self.id, up_to);
    }

    /// Cancels the subscription. The producer answers with its end: [`end_cause`](Self::end_cause).
    pub fn cancel(&self) {
        self.publisher.cancel(self.id, Exit::Normal);
    }

    /// Waits for as many events as are expected, in one batch or in several, and compares them. More may have come:
    /// they are left for later.
    ///
    /// # Panics
    ///
    /// If they are others, if too few come in time, or if the end comes first.
    #[track_caller]
    pub fn expect_events(&self, expected: impl IntoIterator<Item = T>) -> impl Future<Output = ()> + Send
    where
        T: PartialEq + fmt::Debug,
    {
        let at = Location::caller();
        let expected: Vec<T> = expected.into_iter().collect();
        async move {
            let count = expected.len();
            match self.find(at, |state| (state.waiting() >= count).then(|| state.take(count))).await {
                Ok(got) if got == expected => {}
                Ok(got) => self.fail(at, format_args!("expected {expected:?}, got {got:?}")),
                Err(instead) => {
                    let got = self.heard.lock().take(count);
                    self.fail(at, format_args!("expected {expected:?}, got {got:?} and {instead}"));
                }
            }
        }
    }

    /// Waits for `count` events, in one batch or in several, and returns them.
    ///
    /// # Panics
    ///
    /// If too few come in time, or if the end comes first.
    #[track_caller]
    pub fn take_events(&self, count: usize) -> impl Future<Output = Vec<T>> + Send {
        let at = Location::caller();
        async move {
            let got = self.find(at, |state| (state.waiting() >= count).then(|| state.take(count))).await;
            got.unwrap_or_else(|instead| {
                let got = events(self.heard.lock().waiting());
                self.fail(at, format_args!("expected {}, got {got} and {instead}", events(count)))
            })
        }
    }

    /// Waits for the next batch, and returns it as it came, or what earlier expectations have left of it.
    ///
    /// # Panics
    ///
    /// If none comes in time, or if the end comes first.
    #[track_caller]
    pub fn next_batch(&self) -> impl Future<Output = Batch<T>> + Send {
        let at = Location::caller();
        async move {
            let next = self.find(at, |state| state.batches.pop_front()).await;
            let (events, attempt) =
                next.unwrap_or_else(|instead| self.fail(at, format_args!("expected a batch, got {instead}")));
            Batch::new(events, self.id, attempt)
        }
    }

    /// Waits a moment, in which no event may come beyond those that were expected. The end may.
    ///
    /// # Panics
    ///
    /// If one does.
    #[track_caller]
    pub fn expect_no_events(&self) -> impl Future<Output = ()> + Send {
        let at = Location::caller();
        async move {
            sleep(self.patience.quiet).await;
            let (waiting, broken) = self.heard.update(|state| (state.waiting(), state.broken.clone()));
            if let Some(broken) = broken {
                self.fail(at, broken);
            }
            if waiting > 0 {
                self.fail(at, format_args!("expected no events, got {}", events(waiting)));
            }
        }
    }

    /// Waits for the end of the data: the producer is exhausted, and every event has been expected.
    ///
    /// # Panics
    ///
    /// If it does not come in time, if the subscription ends in another way, or if events are left over.
    #[track_caller]
    pub fn expect_end(&self) -> impl Future<Output = ()> + Send {
        let at = Location::caller();
        async move {
            match self.ended(at, "the end of the data").await {
                cause if cause.is_exhausted() => {}
                cause => self.fail(at, format_args!("expected the end of the data, got {cause}")),
            }
        }
    }

    /// Waits until the producer fails, and returns how.
    ///
    /// # Panics
    ///
    /// If it does not in time, if the subscription ends in another way, or if events are left over.
    #[track_caller]
    pub fn expect_failure(&self) -> impl Future<Output = Failure> + Send {
        let at = Location::caller();
        async move {
            match self.ended(at, "a failure").await {
                EndCause::Down(Exit::Failed(failure)) | EndCause::Cancelled(Exit::Failed(failure)) => failure,
                cause => self.fail(at, format_args!("expected a failure, got {cause}")),
            }
        }
    }

    /// Waits until the subscription ends, in whatever way, and returns the cause.
    ///
    /// # Panics
    ///
    /// If it does not in time, or if events are left over.
    #[track_caller]
    pub fn end_cause(&self) -> impl Future<Output = EndCause> + Send {
        let at = Location::caller();
        self.ended(at, "an end")
    }

    async fn ended(&self, at: &'static Location<'static>, expected: &str) -> EndCause {
        // An event that was not expected is the news, not that the end did not come.
        let ended = |state: &mut State<T>| (state.waiting() > 0 || state.ended.is_some()).then(|| state.ended.clone());
        let ended = self.find(at, ended).await;
        let waiting = self.heard.lock().waiting();
        match ended {
            Ok(Some(cause)) if waiting == 0 => cause,
            Ok(_) => self.fail(at, format_args!("expected {expected}, got {}", events(waiting))),
            Err(instead) => self.fail(at, format_args!("expected {expected}, got {instead}")),
        }
    }

    /// Waits until `look` finds something; the error says what there is instead of it.
    async fn find<R>(&self, at: &Location<'_>, mut look: impl FnMut(&mut State<T>) -> Option<R>) -> Result<R, String> {
        let found = self.heard.find(self.patience.limit, |state| {
            if let Some(broken) = &state.broken {
                self.fail(at, broken);
            }
            match (look(state), &state.ended) {
                (Some(found), _) => Some(Ok(found)),
                (None, Some(cause)) => Some(Err(format!("then the end: {cause}"))),
                (None, None) => None,
            }
        });
        found.await.unwrap_or_else(|| Err(format!("nothing more within {:?}", self.patience.limit)))
    }

    fn fail(&self, at: &Location<'_>, what: impl fmt::Display) -> ! {
        fail(&self.name, at, what)
    }
}

impl<T> State<T> {
    fn new() -> Self {
        Self { batches: VecDeque::new(), asked: Demand::ZERO, came: Demand::ZERO, ended: None, broken: None }
    }

    /// The number of events that were not expected yet.
    fn waiting(&self) -> usize {
        self.batches.iter().map(|(events, _)| events.len()).sum()
    }

    /// Takes the first `count` events, or all if there are fewer.
    fn take(&mut self, count: usize) -> Vec<T> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some((mut events, attempt)) = self.batches.pop_front()
        {
            let missing = count - taken.len();
            if events.len() > missing {
                self.batches.push_front((events.split_off(missing), attempt));
            }
            taken.extend(events.into_vec());
        }
        taken
    }

    fn deliver(&mut self, batch: Events<T>, attempt: Attempt) {
        let count = batch.len();
        self.came.add(Demand::from(count));
        if let Some(cause) = &self.ended {
            self.broken.get_or_insert(format!("the producer sent {} after the end ({cause})", events(count)));
        } else if self.came > self.asked {
            let (came, asked) = (self.came, self.asked);
            self.broken.get_or_insert(format!("the producer sent {came} events in all, and {asked} were asked for"));
        }
        if count > 0 {
            self.batches.push_back((batch, attempt));
        }
    }

    fn end(&mut self, cause: EndCause) {
        if let Some(first) = &self.ended {
            self.broken.get_or_insert(format!("the producer ended twice: {first}, and {cause}"));
        } else {
            self.ended = Some(cause);
        }
    }
}

impl<T: Send> Subscriber<T> for Heard<State<T>> {
    fn deliver(&self, _: SubscriptionId, events: Events<T>, attempt: Attempt) {
        self.update(|state| state.deliver(events, attempt));
    }

    fn ended(&self, _: SubscriptionId, cause: EndCause) {
        self.update(|state| state.end(cause));
    }
}

impl<T: Send + 'static> Drop for ProbeSink<T> {
    fn drop(&mut self) {
        // What it has not looked at is handled by nobody.
        self.publisher.leave(self.id, EndCause::Cancelled(Exit::Normal), Vec::new());
    }
}

impl<T: Send + 'static> fmt::Debug for ProbeSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProbeSink").field(&self.name).finish()
    }
}
