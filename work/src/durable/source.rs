//! [`QueueSource`]: a queue that outlives the process, as a source of events.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_stage::{
    Answer, Attempt, Demand, EndCause, Events, Exit, Failure, FailureKind, Publisher, Sentence, Source, Spawner,
    SubscribeError, Subscriber, Subscription, SubscriptionId, TokioSpawner,
};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::lending::{Lending, Loan};
use super::{Numbered, Queue, QueueEntry, QueueId, StoreError};
use crate::codec::{decode, encode};
use crate::{EncodeError, Limits, Wire};

/// A [`Queue`] as a source of events: what was [pushed](Self::push) is given to consumers as they ask, and stays in the
/// queue until one of them has handled it.
///
/// ```text
///   push ──► [ queue: on the disk ] ── events ──► consumers, by demand
///                 ▲        acknowledge ◄── handled
///                 └──────────── wait again ◄── lost, failed, or the process was killed
/// ```
///
/// Several consumers share the queue: each entry goes to one of them. A consumer that subscribes with
/// [`subscribe_acknowledged`](aqueduct_stage::Stage::subscribe_acknowledged) gets each event at least once: an entry leaves
/// the queue when it was handled, and what was not waits again, at its old place, when the consumer fails or its node is
/// lost. [`Batch::attempt`](aqueduct_stage::Batch::attempt) counts, durably, how often somebody has begun with an event:
/// what a consumer hands back that it has not begun with was no attempt. If nobody can say what was begun, as the consumer's
/// node was lost or this process was killed, everything counts that it had. For any other consumer an entry leaves the queue just
/// *before* it is delivered, so it gets each at most once. For one that must apply each event exactly once there is
/// [`exclusive`](Self::exclusive).
///
/// It stays open when the queue is empty, until it is [closed](Self::close). [`shutdown`](Self::shutdown) ends it before, as
/// when its machine is restarted: what is not handled is for the next source. A queue has one source at a time: what
/// another one had when this one starts waits again.
///
/// If the store fails (the disk is full), nothing is acknowledged or given out; it is tried again after 100 ms, and then
/// after twice as long each time, every 5 s at last, until it works. Each failure is a warning in the log, and
/// [`trouble`](Self::trouble) tells. Consumers notice nothing but a pause.
///
/// An entry that cannot be read as a `T`, for instance because another version of the program wrote it, or because the file
/// is [damaged](StoreError::Damaged), stops the source: what is before it is handled, and then every consumer fails with the
/// number of the entry. It stays in the queue, until
/// a program reads it that can, or somebody acknowledges it there.
///
/// Nothing runs before the first subscription, which must be made on a tokio runtime. Cloning gives another handle to the
/// same source. When the last one is dropped, it goes on for those that are subscribed.
///
/// ```
/// use std::sync::Arc;
///
/// use aqueduct_stage::{Graph, each};
/// use aqueduct_work::{MemoryQueue, QueueSource};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// // `RedbStore::queue` makes one that lasts.
/// let mails = QueueSource::<String, _>::new("mails", Arc::new(MemoryQueue::new(1000)));
/// mails.push(["a letter".to_owned(), "a bill".to_owned()]).await?;
/// mails.close();
///
/// let graph = Graph::new("post");
/// let send = async |mail: String| {
///     println!("{mail}");
///     Ok(())
/// };
/// graph.consumer("send", move || each(send)).subscribe_acknowledged(&mails, 5..10);
/// let outcome = graph.run().await?;
/// assert_eq!(outcome.stage("send").map(|stage| stage.events_in), Some(2));
/// # Ok(())
/// # }
/// ```
pub struct QueueSource<T, Q> {
    queue: Arc<Q>,
    spawner: Arc<dyn Spawner>,
    limits: Limits,
    desk: Arc<Desk<T>>,
    /// Tells the task when the last handle is gone.
    _handle: Arc<LastHandle<T>>,
}

/// What the source's handles, edges and task share.
struct Desk<T> {
    name: Arc<str>,
    state: Mutex<State<T>>,
    changed: Notify,
    /// Whoever waits for its end.
    ended: Notify,
}

struct State<T> {
    lending: Lending,
    readers: BTreeMap<SubscriptionId, Reader<T>>,
    /// Whether the reader that came last is an exclusive one.
    is_exclusive: bool,
    /// Those that are to be told that their subscription has ended.
    leaving: Vec<(SubscriptionId, Reader<T>, EndCause)>,
    phase: Phase,
    is_closed: bool,
    /// It ends before the queue is empty, and the next source goes on.
    is_shut_down: bool,
    is_dismissed: bool,
    trouble: Option<Arc<StoreError>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Nobody has subscribed.
    New,
    Running,
    /// It is shut down: readers have ended, and some still have something in hand.
    Ending,
    Ended,
}

/// Where events go.
enum Reader<T> {
    Sharing(Arc<dyn Subscriber<T>>),
    Exclusive(Arc<dyn Subscriber<Numbered<T>>>),
}

impl<T: Wire, Q: Queue> QueueSource<T, Q> {
    /// The events in `queue`. `name` is for reports.
    #[must_use]
    pub fn new(name: &str, queue: Arc<Q>) -> Self {
        let state = State {
            lending: Lending::default(),
            readers: BTreeMap::new(),
            is_exclusive: false,
            leaving: Vec::new(),
            phase: Phase::New,
            is_closed: false,
            is_shut_down: false,
            is_dismissed: false,
            trouble: None,
        };
        let (changed, ended) = (Notify::new(), Notify::new());
        let desk = Arc::new(Desk { name: name.into(), state: Mutex::new(state), changed, ended });
        let handle = Arc::new(LastHandle(Arc::clone(&desk)));
        Self { queue, spawner: Arc::new(TokioSpawner), limits: Limits::default(), desk, _handle: handle }
    }

    /// Sets who starts its task. Default: the tokio runtime of the first subscriber. Say it before anybody subscribes.
    #[must_use]
    pub fn spawner(mut self, spawner: impl Spawner) -> Self {
        self.spawner = Arc::new(spawner);
        self
    }

    /// Sets how large an event may be. Default: as between nodes. Say it before the source is cloned.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds events at the end of the queue, all or none. They are durable when this returns, and their numbers, which are
    /// returned, rise and are never used again. It takes the disk's time, so hand over many at once.
    ///
    /// # Errors
    ///
    /// [`PushError::Store`] with [`StoreError::Full`] if they do not fit, [`PushError::Closed`] and [`PushError::Encode`]:
    /// nothing was added. After any other [`PushError::Store`] all may have been added, or none.
    ///
    /// # Cancel safety
    ///
    /// On cancel all may have been added, or none.
    pub async fn push(&self, events: impl IntoIterator<Item = T>) -> Result<Vec<QueueId>, PushError> {
        if self.desk.lock().is_closed {
            return Err(PushError::Closed(self.desk.name.to_string()));
        }
        let events: Vec<T> = events.into_iter().collect();
        let payloads = payloads(&events, &self.limits)?;
        drop(events);
        Ok(self.queue.push(payloads).await?)
    }

    /// Takes no more: consumers are told the end of the data when the queue is empty and everything was handled, durably.
    /// What is pushed to the queue itself, around the source, until then is still given out.
    pub fn close(&self) {
        self.desk.lock().is_closed = true;
        self.desk.changed.notify_one();
    }

    /// Ends it in order, and leaves what nobody has handled in the queue for its next source: takes no more, ends every
    /// subscription, and waits until consumers have handled, or handed back, what they have in hand, and the queue knows. A [pool](crate::pulling::WorkPool) hands back what none of its workers has begun with. A node that it is
    /// published on is to be shut down after it, and a store
    /// [closed](crate::RedbStore::close) after both.
    ///
    /// Returns whether all of that came within `grace`, which is to be longer than a batch takes (`max - min` events of the
    /// window). What a consumer still had after it waits again for the next source, and counts as begun. From the call on
    /// [`push`](Self::push) fails, and whoever subscribes is refused, so that [`Retrying`](crate::Retrying) waits for the next
    /// start.
    ///
    /// # Consumers that come back
    ///
    /// Consumers end with [`Exit::Shutdown`], and their graph says that the source was not exhausted. With
    /// [`Restart::Permanent`](aqueduct_stage::Restart) and [`Retrying`](crate::Retrying) they go on with the next start, until
    /// their graph is shut down; but a permanent stage does not end with a queue that is [closed](Self::close) and empty
    /// either. One that is to do both fails where its source is shut down, and is `Transient`:
    ///
    /// ```
    /// # use aqueduct_stage::{Batch, Consumer, Cx, Edge, EndCause, Exit, Result};
    /// # struct Send;
    /// # impl Consumer for Send {
    /// #     type In = String;
    /// #     async fn handle_events(&mut self, _: Batch<String>, _: &mut Cx<'_>) -> Result { Ok(()) }
    /// async fn handle_cancel(&mut self, _: &Edge, cause: &EndCause, _: &mut Cx<'_>) -> Result {
    ///     match cause.reason() {
    ///         Exit::Shutdown => Err("the queue is shut down, and there may be more".into()),
    ///         _ => Ok(()),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// On cancel it ends as soon as consumers have nothing in hand. It can be called again.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.desk.begin_to_end();
        let is_in_time = timeout(grace, self.desk.has_ended()).await.is_ok();
        let mut state = self.desk.lock();
        state.phase = Phase::Ended;
        self.desk.changed.notify_one();
        // Its task may have ended because the store never works again, or with the runtime.
        is_in_time && state.trouble.is_none() && !state.lending.is_being_left()
    }

    /// The same events with their numbers, for one consumer at a time that applies each exactly once: see
    /// [`Once`](crate::Once).
    ///
    /// While there is a consumer, another one is refused ([`SubscribeError::Refused`], with the name of the source), be it
    /// exclusive or not.
    #[must_use]
    pub fn exclusive(&self) -> ExclusiveSource<T, Q> {
        ExclusiveSource { source: self.clone() }
    }

    /// The error for which the store is not used at the moment; `None` while it works.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<StoreError>> {
        self.desk.lock().trouble.clone()
    }

    /// The queue behind it.
    #[must_use]
    pub fn queue(&self) -> &Arc<Q> {
        &self.queue
    }

    fn subscribe(&self, id: SubscriptionId, reader: Reader<T>) -> Result<(), SubscribeError> {
        let name = &self.desk.name;
        let starts = {
            let mut state = self.desk.lock();
            if state.is_shut_down {
                let reason = format!("queue {name:?} is shut down");
                return Err(SubscribeError::Refused { at: name.to_string(), reason });
            }
            if state.phase == Phase::Ended {
                return Err(SubscribeError::Ended(name.to_string()));
            }
            let is_exclusive = matches!(reader, Reader::Exclusive(_));
            // One that wants no more is there until it has handled what it was given.
            let is_busy = !state.readers.is_empty() || state.lending.is_being_left();
            if is_busy && (is_exclusive || state.is_exclusive) {
                let reason = format!("queue {name:?} has a consumer already, and one of the two is exclusive");
                return Err(SubscribeError::Refused { at: name.to_string(), reason });
            }
            state.is_exclusive = is_exclusive;
            state.readers.insert(id, reader);
            state.lending.subscribe(id);
            std::mem::replace(&mut state.phase, Phase::Running) == Phase::New
        };
        if starts {
            let (queue, desk) = (Arc::clone(&self.queue), Arc::clone(&self.desk));
            let clerk = Clerk { queue, desk, limits: self.limits.clone(), unreadable: None };
            self.spawner.spawn("queue", Box::pin(clerk.run()));
        }
        Ok(())
    }
}

impl<T: Wire, Q: Queue> Source for QueueSource<T, Q> {
    type Item = T;

    fn name(&self) -> String {
        self.desk.name.to_string()
    }

    async fn open(&self, _: usize, subscription: Subscription<T>) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        self.subscribe(subscription.id, Reader::Sharing(subscription.subscriber))?;
        Ok(Arc::clone(&self.desk) as _)
    }
}

impl<T, Q> Clone for QueueSource<T, Q> {
    fn clone(&self) -> Self {
        let Self { queue, spawner, limits, desk, _handle } = self;
        Self {
            queue: Arc::clone(queue),
            spawner: Arc::clone(spawner),
            limits: limits.clone(),
            desk: Arc::clone(desk),
            _handle: Arc::clone(_handle),
        }
    }
}

impl<T, Q> fmt::Debug for QueueSource<T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QueueSource").field(&self.desk.name).finish()
    }
}

/// The events of a [`QueueSource`] with their numbers, for one consumer at a time: made by [`QueueSource::exclusive`].
pub struct ExclusiveSource<T, Q> {
    source: QueueSource<T, Q>,
}

impl<T: Wire, Q: Queue> Source for ExclusiveSource<T, Q> {
    type Item = Numbered<T>;

    fn name(&self) -> String {
        self.source.name()
    }

    async fn open(
        &self,
        _: usize,
        subscription: Subscription<Numbered<T>>,
    ) -> Result<Arc<dyn Publisher<Numbered<T>>>, SubscribeError> {
        self.source.subscribe(subscription.id, Reader::Exclusive(subscription.subscriber))?;
        Ok(Arc::clone(&self.source.desk) as _)
    }
}

impl<T, Q> Clone for ExclusiveSource<T, Q> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone() }
    }
}

impl<T, Q> fmt::Debug for ExclusiveSource<T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExclusiveSource").field(&self.source.desk.name).finish()
    }
}

/// Why events were not pushed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// One of them cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The store did not take them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source was closed.
    #[error("queue {0:?} is closed")]
    Closed(String),
}

aqueduct_stage::debug_as_sentence!(PushError);

impl<T> Desk<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_to_end(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.is_shut_down |= state.phase != Phase::Ended;
        match state.phase {
            // There is no task that could end.
            Phase::New => state.phase = Phase::Ended,
            Phase::Running => state.phase = Phase::Ending,
            Phase::Ending | Phase::Ended => {}
        }
        // It lives on until it is told what has become of what they have.
        state.end_all(&EndCause::Cancelled(Exit::Shutdown));
        drop(state);
        self.changed.notify_one();
    }

    async fn has_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().phase == Phase::Ended {
                return;
            }
            ended.await;
        }
    }
}

impl<T> State<T> {
    /// Ends one subscription. What the reader has in hand it may still handle.
    fn end(&mut self, id: SubscriptionId, cause: EndCause) {
        self.lending.cancel(id);
        if let Some(reader) = self.readers.remove(&id) {
            self.leaving.push((id, reader, cause));
        }
    }

    /// A reader that nobody has told the end yet.
    fn reader(&self, id: SubscriptionId) -> Option<Reader<T>> {
        let leaving = self.leaving.iter().find(|(leaving, ..)| *leaving == id).map(|(_, reader, _)| reader);
        self.readers.get(&id).or(leaving).cloned()
    }

    fn end_all(&mut self, cause: &EndCause) {
        for id in self.readers.keys().copied().collect::<Vec<_>>() {
            self.end(id, cause.clone());
        }
    }
}

/// For both kinds of readers.
impl<T: Send + 'static, E> Publisher<E> for Desk<T> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        self.lock().lending.ask(id, up_to);
        self.changed.notify_one();
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        self.lock().lending.handled(id, up_to);
        self.changed.notify_one();
    }

    /// A pool says so of events that are done before some that came earlier. Other answers are not taken.
    fn answer(&self, id: SubscriptionId, number: u64, answer: Answer) {
        if answer == Answer::Done {
            self.lock().lending.done(id, number);
            self.changed.notify_one();
        }
    }

    /// Others could handle what it has.
    fn holds_back(&self, id: SubscriptionId) -> bool {
        let state = self.lock();
        state.readers.len() > 1 && state.lending.has_lent(id)
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.lock().end(id, EndCause::Cancelled(reason));
        self.changed.notify_one();
    }

    /// The events themselves are in the queue, and need not come back.
    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<E>, Attempt)>) {
        let counts: Vec<_> = unfinished.iter().map(|(events, attempt)| (events.len(), attempt.number())).collect();
        let mut state = self.lock();
        state.lending.leave(id, &counts, matches!(cause, EndCause::Down(_)));
        state.end(id, EndCause::Cancelled(cause.reason().clone()));
        drop(state);
        self.changed.notify_one();
    }
}

impl<T> Reader<T> {
    /// Gives it events, and answers whether it has taken them.
    fn deliver(&self, id: SubscriptionId, events: Vec<Numbered<T>>, attempt: Attempt) -> bool {
        match self {
            Self::Exclusive(subscriber) => subscriber.try_deliver(id, events.into(), attempt).is_ok(),
            Self::Sharing(subscriber) => {
                let events: Vec<T> = events.into_iter().map(|numbered| numbered.event).collect();
                subscriber.try_deliver(id, events.into(), attempt).is_ok()
            }
        }
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        match self {
            Self::Sharing(subscriber) => subscriber.ended(id, cause),
            Self::Exclusive(subscriber) => subscriber.ended(id, cause),
        }
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Sharing(subscriber) => Self::Sharing(Arc::clone(subscriber)),
            Self::Exclusive(subscriber) => Self::Exclusive(Arc::clone(subscriber)),
        }
    }
}

/// Dropped with the last handle.
struct LastHandle<T>(Arc<Desk<T>>);

impl<T> Drop for LastHandle<T> {
    fn drop(&mut self) {
        self.0.lock().is_dismissed = true;
        self.0.changed.notify_one();
    }
}

/// The source's task: the only one that uses the queue, and that tells readers anything.
struct Clerk<T, Q> {
    queue: Arc<Q>,
    desk: Arc<Desk<T>>,
    limits: Limits,
    /// An entry that cannot be read: nothing is taken until everything before it is handled.
    unreadable: Option<Failure>,
}

/// What is to be done next.
enum Next {
    Take(usize),
    /// Everything before the unreadable entry is handled.
    Fail(Failure),
    /// Tell the queue or the readers something first.
    Again,
    Wait,
    End,
}

impl<T: Wire, Q: Queue> Clerk<T, Q> {
    async fn run(mut self) {
        if let Err(failure) = self.work().await {
            let mut state = self.desk.lock();
            state.phase = Phase::Ended;
            state.end_all(&EndCause::Down(Exit::Failed(failure)));
            drop(state);
            self.say_farewell();
        }
    }

    /// # Errors
    ///
    /// The store will never work again.
    async fn work(&mut self) -> Result<(), Failure> {
        // Whoever had something before has gone.
        self.insist("requeue", || self.queue.requeue_all()).await?;
        loop {
            // Whoever leaves knows then that what it has handled has left the queue.
            self.settle().await?;
            self.say_farewell();
            // Before looking into the queue, so that nothing is missed.
            let queue = Arc::clone(&self.queue);
            let arrival = queue.arrival();
            match self.next() {
                Next::Take(count) => match self.insist("take", || self.queue.take(count)).await {
                    Ok(taken) if taken.is_empty() => {}
                    Ok(taken) => {
                        self.give(taken).await?;
                        continue;
                    }
                    Err(failure) => {
                        self.unreadable = Some(failure);
                        continue;
                    }
                },
                Next::Fail(failure) => {
                    self.desk.lock().end_all(&EndCause::Down(Exit::Failed(failure)));
                    continue;
                }
                Next::Again => continue,
                Next::End => return Ok(()),
                Next::Wait => {}
            }
            if self.is_exhausted().await? {
                continue;
            }
            tokio::select! {
                biased;
                () = self.desk.changed.notified() => {}
                () = arrival => {}
            }
        }
    }

    fn next(&mut self) -> Next {
        let state = self.desk.lock();
        if !state.leaving.is_empty() || state.lending.has_news() {
            return Next::Again;
        }
        let is_left = state.readers.is_empty() && !state.lending.is_being_left();
        if state.phase == Phase::Ended || (is_left && (state.is_dismissed || state.phase == Phase::Ending)) {
            return Next::End;
        }
        if self.unreadable.is_some() {
            let failure = if state.lending.is_idle() { self.unreadable.take() } else { None };
            return failure.map_or(Next::Wait, Next::Fail);
        }
        match state.lending.demand().as_len() {
            0 => Next::Wait,
            demand => Next::Take(demand.min(MOST_AT_ONCE)),
        }
    }

    /// Ends the source if it is closed, the queue is empty, and nobody has anything.
    async fn is_exhausted(&self) -> Result<bool, Failure> {
        let is_over = |state: &State<T>| state.is_closed && state.lending.is_idle();
        if !is_over(&self.desk.lock()) || self.insist("count", || self.queue.len()).await? > 0 {
            return Ok(false);
        }
        let mut state = self.desk.lock();
        state.phase = Phase::Ended;
        state.end_all(&EndCause::Down(Exit::Normal));
        Ok(true)
    }

    /// Tells the queue what was handled and what waits again, in this order.
    async fn settle(&self) -> Result<(), Failure> {
        let (handled, returned, untouched) = {
            let mut state = self.desk.lock();
            (state.lending.take_handled(), state.lending.take_returned(), state.lending.take_untouched())
        };
        if !handled.is_empty() {
            self.insist("acknowledge", || self.queue.acknowledge(&handled)).await?;
        }
        if !returned.is_empty() {
            self.insist("requeue", || self.queue.requeue(&returned)).await?;
        }
        if !untouched.is_empty() {
            self.insist("put back", || self.queue.put_back(&untouched)).await?;
        }
        Ok(())
    }

    async fn give(&mut self, mut taken: Vec<QueueEntry>) -> Result<(), Failure> {
        let (mut events, mut unread) = (BTreeMap::new(), Vec::new());
        for (index, entry) in taken.iter().enumerate() {
            match read::<T>(&entry.payload, &self.limits) {
                Ok(event) => drop(events.insert(entry.id, event)),
                Err(error) => {
                    let message = format!("entry {} of the queue cannot be read: {error}", entry.id);
                    tracing::error!(queue = &*self.desk.name, message, "the source stops");
                    self.unreadable = Some(Failure::new(&*self.desk.name, FailureKind::Error, message));
                    unread = taken.split_off(index);
                    break;
                }
            }
        }
        let loans = {
            let mut state = self.desk.lock();
            let loans = state.lending.assign(taken);
            state.lending.give_back(unread.iter().map(|entry| entry.id));
            loans
        };
        for Loan { to, entries, is_final } in loans {
            if is_final {
                let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
                self.insist("acknowledge", || self.queue.acknowledge(&ids)).await?;
            }
            let attempt = entries.first().and_then(|entry| NonZeroU32::new(entry.attempt));
            let count = entries.len();
            let numbered = |entry: QueueEntry| {
                let event = events.remove(&entry.id)?;
                Some(Numbered { number: entry.id.number(), event })
            };
            let batch = entries.into_iter().filter_map(numbered).collect();
            // One that has left is told the end by nobody but this task.
            let reader = self.desk.lock().reader(to);
            let is_taken =
                reader.is_some_and(|reader| reader.deliver(to, batch, attempt.map_or(Attempt::FIRST, Attempt::new)));
            if !is_taken {
                self.desk.lock().lending.not_taken(to, count);
            }
            if !is_taken && is_final {
                tracing::warn!(
                    queue = &*self.desk.name,
                    lost = count,
                    "events lost with a reader that does not acknowledge"
                );
            }
        }
        Ok(())
    }

    fn say_farewell(&self) {
        let leaving = std::mem::take(&mut self.desk.lock().leaving);
        for (id, reader, cause) in leaving {
            reader.ended(id, cause);
        }
    }

    /// Uses the queue until it works, or never will.
    async fn insist<R, Fut>(&self, what: &'static str, mut use_queue: impl FnMut() -> Fut) -> Result<R, Failure>
    where
        Fut: Future<Output = Result<R, StoreError>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match use_queue().await {
                Ok(done) => {
                    if self.desk.lock().trouble.take().is_some() {
                        tracing::info!(queue = &*self.desk.name, what, "the store works again");
                    }
                    return Ok(done);
                }
                Err(error) if error.is_permanent() => {
                    let message = Sentence(&error).to_string();
                    tracing::error!(queue = &*self.desk.name, what, message, "the source stops");
                    self.desk.lock().trouble = Some(Arc::new(error));
                    return Err(Failure::new(&*self.desk.name, FailureKind::Error, message));
                }
                Err(error) => error,
            };
            tracing::warn!(queue = &*self.desk.name, what, error = %Sentence(&error), again_in = ?pause, "the store fails");
            self.desk.lock().trouble = Some(Arc::new(error));
            let until = Instant::now() + pause;
            loop {
                // Whoever wants to leave need not wait for the store.
                self.say_farewell();
                tokio::select! {
                    biased;
                    () = sleep_until(until) => break,
                    () = self.desk.changed.notified() => {}
                }
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// When the task is dropped where it stands, its readers are told so.
impl<T, Q> Drop for Clerk<T, Q> {
    fn drop(&mut self) {
        let leaving = {
            let mut state = self.desk.lock();
            state.phase = Phase::Ended;
            let failure = Failure::new(&*self.desk.name, FailureKind::Killed, "the task of the queue was dropped");
            state.end_all(&EndCause::Down(Exit::Failed(failure)));
            std::mem::take(&mut state.leaving)
        };
        for (id, reader, cause) in leaving {
            reader.ended(id, cause);
        }
        self.desk.ended.notify_waiters();
    }
}

/// What is stored for each event: what its type is called, as a hash, and its encoding.
pub(super) fn payloads<T: Wire>(events: &[T], limits: &Limits) -> Result<Vec<Bytes>, EncodeError> {
    let (encoded, mark) = (encode(events, limits)?, mark::<T>());
    let payload = |index| {
        let event = &encoded.bytes()[encoded.end(index)..encoded.end(index + 1)];
        [&mark, event].concat().into()
    };
    Ok((0..encoded.len()).map(payload).collect())
}

fn read<T: Wire>(payload: &[u8], limits: &Limits) -> Result<T, String> {
    let event = payload.strip_prefix(&mark::<T>());
    let event = event.ok_or_else(|| format!("it was not written as {:?}", T::signature()))?;
    let mut events = decode::<T>(event, 1, limits).map_err(|error| Sentence(&error).to_string())?;
    events.pop().ok_or_else(|| "it is empty".to_owned())
}

fn mark<T: Wire>() -> [u8; 8] {
    xxh3_64(T::signature().as_bytes()).to_le_bytes()
}

/// As many as are taken, and decoded, at one time: what a sync of the disk costs is spread over them, and they are soon
/// under way.
const MOST_AT_ONCE: usize = 1000;
/// After a failure of the store: soon, as it may have been a hiccup; and at last often enough that nobody waits for long
/// when there is space again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
