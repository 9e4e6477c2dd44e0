//! [`ProbeSource`]: a producer that a test plays.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_dispatcher::{Attempt, Demand, Events, SubscriptionId, Window};
use tokio::time::sleep;

use super::{Heard, Patience, events, fail};
use crate::{
    Edge, EndCause, Exit, Failure, FailureKind, Peer, Publisher, Source, SubscribeError, Subscriber, Subscription,
};

/// A producer that a test plays by hand: a stage subscribes to it as to any [`Source`].
///
/// It plays one subscription at a time: the methods speak of the one that
/// [`expect_subscription`](Self::expect_subscription) has returned last, or else of the first. A stage with several
/// instances subscribes with each of them; a stage that is started again subscribes again. How long it waits, and what
/// a failure is: see the [module](super).
///
/// Cloning it names the same source. Dropping it ends nothing.
///
/// ```
/// # use aqueduct_stage::{Graph, Result, Batch, Consumer, Cx};
/// # use aqueduct_stage::testing::ProbeSource;
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = u64;
/// #     async fn handle_events(&mut self, _: Batch<u64>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let source = ProbeSource::new();
/// let graph = Graph::new("test");
/// graph.consumer("print", || Print).subscribe(&source, 0..3);
/// let _running = graph.start();
/// source.expect_demand(3).await;
/// source.send([1, 2, 3]);
/// source.expect_demand(3).await;
/// # }
/// ```
pub struct ProbeSource<T> {
    name: Arc<str>,
    patience: Patience,
    heard: Arc<Heard<State<T>>>,
}

struct State<T> {
    /// In the order in which they were made.
    edges: Vec<Played<T>>,
    /// How many of them were expected. The last of those is the one that is played.
    expected: usize,
    refusal: Option<SubscribeError>,
}

/// The account of one subscription.
struct Played<T> {
    edge: Edge,
    /// Nobody any more once the subscription has ended.
    subscriber: Option<Arc<dyn Subscriber<T>>>,
    /// In all.
    asked: Demand,
    sent: Demand,
    /// What each ask added, of those that were not expected yet; none is zero.
    asks: VecDeque<u64>,
    cancelled: Option<Exit>,
    handed_back: Vec<(Vec<T>, Attempt)>,
}

impl<T: Send + 'static> ProbeSource<T> {
    /// A source that nobody has subscribed to, called "probe source".
    pub fn new() -> Self {
        let state = State { edges: Vec::new(), expected: 0, refusal: None };
        Self { name: "probe source".into(), patience: Patience::default(), heard: Arc::new(Heard::new(state)) }
    }

    /// Sets what it is called, in failures of the test too.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
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

    /// Refuses whoever subscribes from now on.
    pub fn refuse(&self, error: SubscribeError) {
        self.heard.update(|state| state.refusal = Some(error));
    }

    /// Waits for the next subscription, and plays it from now on.
    ///
    /// # Panics
    ///
    /// If nobody subscribes in time.
    #[track_caller]
    pub fn expect_subscription(&self) -> impl Future<Output = Edge> + Send {
        let at = Location::caller();
        async move {
            let next = |state: &mut State<T>| {
                let edge = state.edges.get(state.expected)?.edge;
                state.expected += 1;
                Some(edge)
            };
            let edge = self.heard.find(self.patience.limit, next).await;
            edge.unwrap_or_else(|| self.fail(at, "expected a subscription, got none"))
        }
    }

    /// Waits for demand for exactly `count` events more than was expected before, in one ask or in several.
    ///
    /// # Panics
    ///
    /// If less is asked for in time, if the asks add up to something else, or if the subscription ends instead.
    #[track_caller]
    pub fn expect_demand(&self, count: usize) -> impl Future<Output = ()> + Send {
        let at = Location::caller();
        async move {
            let found = self.find(|played| played.take_demand(count as u64)).await;
            match found {
                Some(Ok(())) => {}
                Some(Err(got)) => self.fail(at, format_args!("expected demand for {}, got {got}", events(count))),
                None => {
                    let got = self.look(|played| played.describe_asks()).unwrap_or_else(|| "no subscription".into());
                    self.fail(at, format_args!("expected demand for {}, got {got}", events(count)));
                }
            }
        }
    }

    /// Waits for the next ask, and returns for how many events more it is.
    ///
    /// # Panics
    ///
    /// If nothing is asked for in time.
    #[track_caller]
    pub fn next_demand(&self) -> impl Future<Output = usize> + Send {
        let at = Location::caller();
        async move {
            let next = self.find(|played| played.asks.pop_front()).await;
            next.map_or_else(|| self.fail(at, "expected demand, got none"), |count| Demand::new(count).as_len())
        }
    }

    /// Waits a moment, in which nothing may be asked for beyond what was expected. Having no subscriber counts as that.
    ///
    /// # Panics
    ///
    /// If something is.
    #[track_caller]
    pub fn expect_no_demand(&self) -> impl Future<Output = ()> + Send {
        let at = Location::caller();
        async move {
            sleep(self.patience.quiet).await;
            let asks = |played: &mut Played<T>| (!played.asks.is_empty()).then(|| played.describe_asks());
            if let Some(Some(got)) = self.look(asks) {
                self.fail(at, format_args!("expected no demand, got {got}"));
            }
        }
    }

    /// Sends events as one batch; nothing if there are none.
    ///
    /// # Panics
    ///
    /// If there are more than were asked for and not sent yet, or if there is no subscription.
    #[track_caller]
    pub fn send(&self, events: impl IntoIterator<Item = T>) {
        self.deliver(events.into_iter().collect(), false);
    }

    /// Sends events as one batch, whether they were asked for or not: what a producer must never do.
    ///
    /// # Panics
    ///
    /// If there is no subscription.
    #[track_caller]
    pub fn send_unasked(&self, events: impl IntoIterator<Item = T>) {
        self.deliver(events.into_iter().collect(), true);
    }

    /// Ends the subscription: the source is exhausted, and everything has been sent.
    ///
    /// # Panics
    ///
    /// If there is no subscription.
    #[track_caller]
    pub fn complete(&self) {
        self.end(EndCause::Down(Exit::Normal));
    }

    /// Ends the subscription: the source has failed with `message`.
    ///
    /// # Panics
    ///
    /// If there is no subscription.
    #[track_caller]
    pub fn fail_with(&self, message: impl Into<String>) {
        self.end(EndCause::Down(Exit::Failed(Failure::new(&*self.name, FailureKind::Error, message))));
    }

    /// Ends the subscription in any way.
    ///
    /// # Panics
    ///
    /// If there is no subscription.
    #[track_caller]
    pub fn end(&self, cause: EndCause) {
        let at = Location::caller();
        let ended = self.heard.update(|state| {
            let played = state.played()?;
            Some((played.edge.id, played.subscriber.take()?))
        });
        match ended {
            Some((id, subscriber)) => subscriber.ended(id, cause),
            None => self.fail(at, "cannot end it: there is no subscription, or it has ended"),
        }
    }

    /// Waits until the subscription is cancelled from the other end, and returns the reason. It answers with the end
    /// of the subscription, by itself.
    ///
    /// # Panics
    ///
    /// If it is not cancelled in time.
    #[track_caller]
    pub fn expect_cancel(&self) -> impl Future<Output = Exit> + Send {
        let at = Location::caller();
        async move {
            let cancelled = self.find(|played| played.cancelled.clone()).await;
            cancelled.unwrap_or_else(|| self.fail(at, "expected a cancel, got none"))
        }
    }

    /// Takes what was handed back with the cancel, oldest first, each batch with the number of the attempt that is to
    /// follow: see [`Stage::subscribe_acknowledged`](crate::Stage::subscribe_acknowledged).
    pub fn take_handed_back(&self) -> Vec<(Vec<T>, Attempt)> {
        self.look(|played| std::mem::take(&mut played.handed_back)).unwrap_or_default()
    }

    #[track_caller]
    fn deliver(&self, batch: Vec<T>, forced: bool) {
        let at = Location::caller();
        let count = Demand::from(batch.len());
        let to = self.heard.update(|state| {
            let played = state.played().ok_or("there is no subscription".to_owned())?;
            let open = played.asked.saturating_sub(played.sent);
            let subscriber = played.subscriber.clone().ok_or("the subscription has ended".to_owned())?;
            if count > open && !forced {
                return Err(format!("{} of them are asked for", open.as_len()));
            }
            played.sent.add(count);
            Ok((played.edge.id, subscriber))
        });
        match to {
            Ok(_) if batch.is_empty() => {}
            Ok((id, subscriber)) => subscriber.deliver(id, batch.into(), Attempt::FIRST),
            Err(why) => self.fail(at, format_args!("cannot send {}: {why}", events(batch.len()))),
        }
    }

    /// Waits until `look` finds something in the subscription that is played.
    async fn find<R>(&self, mut look: impl FnMut(&mut Played<T>) -> Option<R>) -> Option<R> {
        self.heard.find(self.patience.limit, |state| look(state.played()?)).await
    }

    fn look<R>(&self, look: impl FnOnce(&mut Played<T>) -> R) -> Option<R> {
        self.heard.lock().look().map(look)
    }

    #[track_caller]
    fn fail(&self, at: &Location<'_>, what: impl fmt::Display) -> ! {
        fail(&self.name, at, what)
    }
}

impl<T> State<T> {
    /// The subscription that is played: the first, if none was expected yet. It counts as expected from now on.
    fn played(&mut self) -> Option<&mut Played<T>> {
        self.expected = self.expected.max(1.min(self.edges.len()));
        self.look()
    }

    fn look(&mut self) -> Option<&mut Played<T>> {
        self.edges.get_mut(self.expected.saturating_sub(1))
    }

    fn edge(&mut self, id: SubscriptionId) -> Option<&mut Played<T>> {
        self.edges.iter_mut().find(|played| played.edge.id == id)
    }
}

impl<T> Played<T> {
    fn new(Subscription { id, options, subscriber, .. }: Subscription<T>) -> Self {
        let edge =
            Edge { id, peer: Peer::Consumer, window: options.window_or(Window::NEAR), cancel: options.cancel_policy() };
        Self {
            edge,
            subscriber: Some(subscriber),
            asked: Demand::ZERO,
            sent: Demand::ZERO,
            asks: VecDeque::new(),
            cancelled: None,
            handed_back: Vec::new(),
        }
    }

    fn ask(&mut self, up_to: Demand) {
        let more = up_to.saturating_sub(self.asked);
        if !more.is_zero() {
            self.asked = up_to;
            self.asks.push_back(more.count());
        }
    }

    /// Takes as many of the asks as add up to `count`; nothing if there is less so far. The error says what there is
    /// instead.
    fn take_demand(&mut self, count: u64) -> Option<Result<(), String>> {
        let (mut sum, mut asks) = (0_u64, 0);
        while sum < count
            && let Some(more) = self.asks.get(asks)
        {
            sum = sum.saturating_add(*more);
            asks += 1;
        }
        if sum == count {
            self.asks.drain(..asks);
            return Some(Ok(()));
        }
        let no_more_will_come = sum > count || self.subscriber.is_none();
        no_more_will_come.then(|| Err(self.describe_asks()))
    }

    /// What was asked for and not expected, and how the subscription ended if it did.
    fn describe_asks(&self) -> String {
        let mut text = match &*Vec::from_iter(&self.asks) {
            [] => "none".to_owned(),
            [one] => one.to_string(),
            several => format!("asks for {several:?}"),
        };
        if let Some(reason) = &self.cancelled {
            text += &format!(", and a cancel: {reason}");
        }
        text
    }
}

impl<T: Send + 'static> Source for ProbeSource<T> {
    type Item = T;

    fn name(&self) -> String {
        self.name.to_string()
    }

    async fn open(&self, _: usize, subscription: Subscription<T>) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        self.heard.update(|state| match &state.refusal {
            Some(error) => Err(error.clone()),
            None => {
                state.edges.push(Played::new(subscription));
                Ok(Arc::clone(&self.heard) as _)
            }
        })
    }
}

impl<T: Send> Publisher<T> for Heard<State<T>> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        self.update(|state| {
            if let Some(played) = state.edge(id) {
                played.ask(up_to);
            }
        });
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.leave(id, EndCause::Cancelled(reason), Vec::new());
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<T>, Attempt)>) {
        let reason = cause.reason().clone();
        let subscriber = self.update(|state| {
            let played = state.edge(id)?;
            let unfinished = unfinished.into_iter().map(|(events, attempt)| (events.into_vec(), attempt));
            played.handed_back.extend(unfinished);
            let subscriber = played.subscriber.take()?;
            played.cancelled = Some(reason.clone());
            Some(subscriber)
        });
        if let Some(subscriber) = subscriber {
            subscriber.ended(id, EndCause::Cancelled(reason));
        }
    }
}

impl<T: Send + 'static> Default for ProbeSource<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for ProbeSource<T> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), patience: self.patience, heard: Arc::clone(&self.heard) }
    }
}

impl<T> fmt::Debug for ProbeSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProbeSource").field(&self.name).finish()
    }
}
