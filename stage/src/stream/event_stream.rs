//! [`EventStream`]: a source as a stream.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use aqueduct_dispatcher::{Attempt, Begins, Cancel, Events, Interest, SubscribeOptions, SubscriptionId, Window};
use tokio::task::coop::poll_proceed;
use tokio::time::Instant;
use tokio_stream::Stream;

use crate::graph::siblings::{Siblings, open_witnessed};
use crate::upstream::{Arrived, Piece, Upstream};
use crate::{
    BoxFuture, ConsumerId, EndCause, Exit, Failure, Mode, Publisher, Source, SubscribeError, Subscriber, Subscription,
};

/// Reading a source from outside of a graph.
pub trait SourceExt: Source {
    /// The events of this source as a stream: of a stage, one of its partitions, or a producer on another node.
    ///
    /// It subscribes when it is polled for the first time: to every instance, with the window and the
    /// [`Cancel`] policy of `options`. See [`EventStream`].
    ///
    /// ```
    /// use aqueduct_stage::{Graph, SourceExt};
    /// use tokio_stream::StreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> aqueduct_stage::Result {
    /// let graph = Graph::new("demo");
    /// let numbers = graph.iterate("numbers", || 0..);
    /// let _running = graph.start();
    /// let mut events = numbers.events(5..10);
    /// while let Some(event) = events.next().await {
    ///     if event? == 42 {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If a range is given that is not a [`Window`](crate::Window).
    #[track_caller]
    fn events(&self, options: impl Into<SubscribeOptions>) -> EventStream<Self::Item>
    where
        Self: Clone,
    {
        EventStream::new(self, options.into())
    }
}

impl<S: Source> SourceExt for S {}

/// The events of a source, one after the other: made by [`SourceExt::events`].
///
/// It asks for `max` events of its window at first, and for more whenever no more than `min` of them are left to be read:
/// nothing is asked for that was not made room for by reading. It needs no task, so it holds nothing and runs nothing but
/// when it is polled.
///
/// **Its end is never silently a short one.** An item is an event, or the error that ended the stream before its producer
/// was exhausted; the error is the last item. So `?` in the loop is all there is to do, and
/// `collect::<Result<Vec<_>, _>>()` is everything or an error. Only whoever subscribes with [`Cancel::Transient`] or
/// [`Cancel::Temporary`] has asked not to be told of a graceful end, or of any.
///
/// Dropping it at any time cancels its subscriptions. Events that it has received and that were not read are dropped with
/// it; they are not given to anybody else, and [`close`](Self::close) returns them. What the producer has not sent yet goes
/// to the next reader. Only a stream that is dropped while it still subscribes to another node counts there as a subscriber
/// that was lost.
pub struct EventStream<T> {
    source: String,
    /// At the start.
    window: Window,
    cancel: Cancel,
    inbox: Arc<Inbox<T>>,
    /// When to ask for more.
    upstream: Upstream,
    /// The subscriptions that are being made.
    openings: Openings<T>,
    /// Begins to make those to instances of the source of which nothing was known before.
    open_more: Box<OpenMore<T>>,
    publishers: BTreeMap<SubscriptionId, Arc<dyn Publisher<T>>>,
    arrivals: VecDeque<Arrival<T>>,
    /// What is being read, where it came from, and what is left of the piece of it that has been begun.
    reading: std::vec::IntoIter<T>,
    /// What begins with each of them, if they can be taken back.
    begins: Option<Begins<T>>,
    from: Option<(SubscriptionId, Arrived)>,
    piece: Option<Piece>,
}

type OpenMore<T> = dyn FnMut(&mut Upstream) -> Openings<T> + Send + Sync;
type Openings<T> = Vec<(SubscriptionId, Opening<T>)>;
type Opening<T> = BoxFuture<'static, Result<Arc<dyn Publisher<T>>, SubscribeError>>;

/// Why an [`EventStream`] ended before its producer was exhausted.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EventStreamError {
    /// The source could not be subscribed to.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// The producer, or something before it, has failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The producer was shut down, or ended the subscription.
    #[error("events of {producer:?} ended early: {cause}")]
    Ended {
        /// The producer's name.
        producer: String,
        /// How it ended.
        cause: EndCause,
    },
}

aqueduct_dispatcher::debug_as_sentence!(EventStreamError);

impl<T: Send + 'static> EventStream<T> {
    fn new<S: Source<Item = T> + Clone>(source: &S, options: SubscribeOptions) -> Self {
        let options = options.or(source.default_options());
        let (window, cancel) = (options.window_or(Window::NEAR), options.cancel_policy());
        let (consumer, inbox, siblings) = (ConsumerId::new(), Arc::new(Inbox::default()), Arc::<Siblings>::default());
        let mut upstream = Upstream::default();
        let (name, reader, source, mut known) = (source.name(), Arc::clone(&inbox), source.clone(), 0);
        let mut open_more = move |upstream: &mut Upstream| {
            let more = known..source.instances();
            known = known.max(more.end);
            let open = more.map(|instance| {
                let id = SubscriptionId::new();
                upstream.subscribe(id, window, cancel);
                if let Some(most) = options.grows_to() {
                    upstream.let_grow(id, most);
                }
                let (source, subscriber) = (source.clone(), Arc::clone(&reader) as Arc<dyn Subscriber<T>>);
                let chosen = SubscribeOptions::from(window).cancel(cancel);
                let subscription = Subscription { id, consumer, options: chosen, interest: Interest::ALL, subscriber };
                let sibling = siblings.begin();
                let opening: Opening<T> =
                    Box::pin(async move { open_witnessed(&source, instance, subscription, sibling).await });
                (id, opening)
            });
            open.collect()
        };
        let openings = open_more(&mut upstream);
        Self {
            source: name,
            open_more: Box::new(open_more),
            window,
            cancel,
            inbox,
            upstream,
            openings,
            publishers: BTreeMap::new(),
            arrivals: VecDeque::new(),
            reading: Vec::new().into_iter(),
            begins: None,
            from: None,
            piece: None,
        }
    }

    /// How many events it lets be on their way or wait here now, of one instance of the source: what it was told to, or, where
    /// that [grows](SubscribeOptions::growing_to), what it has come to.
    pub fn window(&self) -> Window {
        self.upstream.widest().unwrap_or(self.window)
    }

    /// Cancels its subscriptions, and returns the events that it has received and that were not read.
    pub fn close(mut self) -> Vec<T> {
        let mut unread: Vec<T> = std::mem::take(&mut self.reading).collect();
        for arrival in self.leave() {
            if let Arrival::Events(_, events) = arrival {
                unread.extend(events);
            }
        }
        unread
    }

    /// Makes the subscriptions that can be made without waiting.
    fn poll_openings(&mut self, task: &mut Context<'_>) -> Result<(), EventStreamError> {
        let mut at = 0;
        while let Some((id, opening)) = self.openings.get_mut(at) {
            let id = *id;
            let Poll::Ready(opened) = opening.as_mut().poll(task) else {
                at += 1;
                continue;
            };
            drop(self.openings.swap_remove(at));
            if opened.is_ok() {
                self.openings.extend((self.open_more)(&mut self.upstream));
            }
            match opened {
                Ok(publisher) => match self.upstream.opened(id, Mode::Automatic) {
                    Some(up_to) => {
                        publisher.ask(id, up_to);
                        self.publishers.insert(id, publisher);
                    }
                    // It has ended in the meantime.
                    None => publisher.cancel(id, Exit::Normal),
                },
                Err(_) if self.cancel == Cancel::Temporary => self.upstream.abandon(id),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next event that is here and was not taken back, once it is clear that the one before was used.
    fn read(&mut self) -> Option<T> {
        loop {
            let event = self.read_next()?;
            if self.begins.is_none_or(|begins| begins(&event)) {
                return Some(event);
            }
            if let Some((id, _)) = &self.from {
                self.upstream.is_taken_back(*id);
            }
        }
    }

    fn read_next(&mut self) -> Option<T> {
        if let Some(piece) = self.piece.take_if(|piece| piece.events == 0)
            && let (Some(up_to), Some((id, _))) = (piece.then_ask, &self.from)
            && let Some(publisher) = self.publishers.get(id)
        {
            publisher.ask(*id, up_to);
        }
        if self.piece.is_none()
            && let Some((id, arrived)) = &mut self.from
        {
            self.piece = self.upstream.next_piece(*id, arrived, Instant::now);
        }
        let event = self.reading.next()?;
        if let Some(piece) = &mut self.piece {
            piece.events -= 1;
        }
        Some(event)
    }

    /// Takes up what has arrived next.
    fn receive(&mut self, arrival: Arrival<T>) -> Result<(), EventStreamError> {
        match arrival {
            Arrival::Events(id, events) => {
                debug_assert!(self.piece.is_none());
                let Some(arrived) = self.upstream.receive(id, events.len()) else {
                    tracing::warn!(%id, events = events.len(), "events for a subscription that has ended were dropped");
                    return Ok(());
                };
                if arrived.excess > 0 {
                    tracing::warn!(%id, excess = arrived.excess, "more events than were asked for");
                }
                self.begins = events.begins();
                self.reading = events.into_iter();
                self.from = Some((id, arrived));
                Ok(())
            }
            Arrival::Ended(id, cause) => {
                self.publishers.remove(&id);
                self.upstream.ended(id, &cause);
                tracing::debug!(source = self.source, %id, %cause, "stream's subscription ended");
                match (self.cancel, cause.reason()) {
                    _ if cause.is_exhausted() => Ok(()),
                    (Cancel::Temporary, _) => Ok(()),
                    (_, Exit::Failed(failure)) => Err(failure.clone().into()),
                    (Cancel::Transient, _) => Ok(()),
                    _ => Err(EventStreamError::Ended { producer: self.source.clone(), cause }),
                }
            }
        }
    }
}

impl<T> EventStream<T> {
    /// Cancels its subscriptions. Returns what nobody has looked at.
    fn leave(&mut self) -> VecDeque<Arrival<T>> {
        // First, so that what is sent from now on goes back to the producer.
        let arrived = self.inbox.close();
        self.openings.clear();
        for (id, publisher) in std::mem::take(&mut self.publishers) {
            // What was not read is handled by nobody here.
            publisher.leave(id, EndCause::Cancelled(Exit::Normal), Vec::new());
        }
        (self.from, self.piece) = (None, None);
        self.reading = Vec::new().into_iter();
        let mut unread = std::mem::take(&mut self.arrivals);
        unread.extend(arrived);
        unread
    }
}

impl<T: Send + 'static> Stream for EventStream<T> {
    type Item = Result<T, EventStreamError>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.read() {
                return Poll::Ready(Some(Ok(event)));
            }
            let next = match this.arrivals.pop_front() {
                Some(arrival) => this.receive(arrival),
                None => this.poll_openings(task),
            };
            if let Err(error) = next {
                drop(this.leave());
                return Poll::Ready(Some(Err(error)));
            }
            if this.reading.len() == 0 && this.arrivals.is_empty() {
                if this.openings.is_empty() && this.publishers.is_empty() {
                    return Poll::Ready(None);
                }
                // A reader that never has to wait makes way for others all the same.
                let coop = ready!(poll_proceed(task));
                let taken = this.inbox.poll_take(&mut this.arrivals, task);
                if this.upstream.is_growing() {
                    let now = Instant::now();
                    if taken.is_pending() { this.upstream.waits(now) } else { this.upstream.goes_on(now) }
                }
                ready!(taken);
                coop.made_progress();
            }
        }
    }
}

/// The generated one would ask that `T` be.
impl<T> Unpin for EventStream<T> {}

impl<T> Drop for EventStream<T> {
    fn drop(&mut self) {
        let unread = self.reading.len() + self.leave().iter().map(Arrival::len).sum::<usize>();
        if unread > 0 {
            tracing::debug!(source = self.source, unread, "stream was dropped with events that were not read");
        }
    }
}

impl<T> fmt::Debug for EventStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Where the events wait until they are read: never more than were asked for.
struct Inbox<T>(Mutex<State<T>>);

struct State<T> {
    arrivals: VecDeque<Arrival<T>>,
    /// Whoever reads, while it waits.
    reader: Option<Waker>,
    /// Nobody reads any more.
    closed: bool,
}

enum Arrival<T> {
    Events(SubscriptionId, Events<T>),
    Ended(SubscriptionId, EndCause),
}

impl<T> Arrival<T> {
    fn len(&self) -> usize {
        if let Self::Events(_, events) = self { events.len() } else { 0 }
    }
}

impl<T> Inbox<T> {
    /// Moves everything that has arrived into `to`, which is empty, or has `task` woken when something arrives.
    fn poll_take(&self, to: &mut VecDeque<Arrival<T>>, task: &Context<'_>) -> Poll<()> {
        debug_assert!(to.is_empty());
        let mut state = self.lock();
        if state.arrivals.is_empty() {
            state.reader = Some(task.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut state.arrivals, to);
        Poll::Ready(())
    }

    /// Takes nothing in from now on, and returns what was not read.
    fn close(&self) -> VecDeque<Arrival<T>> {
        let mut state = self.lock();
        state.closed = true;
        state.reader = None;
        std::mem::take(&mut state.arrivals)
    }

    /// Puts something in; returns it if nobody reads any more.
    fn push(&self, arrival: Arrival<T>) -> Result<(), Arrival<T>> {
        let mut state = self.lock();
        if state.closed {
            return Err(arrival);
        }
        state.arrivals.push_back(arrival);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Subscriber<T> for Inbox<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        let _ = self.try_deliver(id, events, attempt);
    }

    fn try_deliver(&self, id: SubscriptionId, events: Events<T>, _: Attempt) -> Result<(), Events<T>> {
        match self.push(Arrival::Events(id, events)) {
            Err(Arrival::Events(_, events)) => Err(events),
            _ => Ok(()),
        }
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        let _ = self.push(Arrival::Ended(id, cause));
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self(Mutex::new(State { arrivals: VecDeque::new(), reader: None, closed: false }))
    }
}
