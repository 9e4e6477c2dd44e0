//! [`WorkPool`]: a source's events as tasks for many workers, near and far.

mod driver;
mod letters;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_stage::{
    Answer, Attempt, Demand, EndCause, Events, Exit, Publisher, ResultRow, Source, Spawner, SubscribeError,
    Subscription, SubscriptionId,
};
use tokio::sync::{mpsc, oneshot};

use super::{Counters, DeadLetter, PullingOptions, TaskId};
use driver::Driver;
pub use letters::DeadLetters;
use letters::Letters;

/// Gives each event of a source to one of its subscribers, and again to others until one of them has done it.
///
/// It stands between a source and workers, and is itself a [`Source`]: workers of this process subscribe to it, and
/// those of other nodes when it is published. What a subscriber says of its events decides:
///
/// * One that takes them as [`Work`](super::Work) answers each on its own, in any order.
/// * One that [acknowledges](aqueduct_stage::Stage::subscribe_acknowledged) answers them in their order, a piece at a time.
/// * With any other, events are done when they are delivered: *at most once*.
///
/// Which event goes to whom, how often it is tried, and when somebody is too slow is decided by
/// [`Pulling`](super::Pulling) with these [options](PullingOptions). Everything that nobody could do comes out at
/// [`dead_letters`](Self::dead_letters).
///
/// # Guarantees
///
/// * Towards its source it acknowledges what is done or dead, and asks for no more than
///   [`max_waiting`](PullingOptions::max_waiting) events that are not with a worker. If the pool goes away early, a source
///   that can take events back gets the others back.
/// * Its subscribers are told of the end of the data when the source is exhausted and every event is done or dead; not
///   before. If the source ends early, they are told that, and what is not done is lost with the source.
/// * If the source ends the subscription and lives on, as a [`QueueSource`](crate::QueueSource::shutdown) that is shut down
///   does, subscribers bring to an end what they have begun with, and the pool gives the rest back; then they are told of it.
/// * An event that its source says is another attempt is one here, too: attempts before the pool count.
///
/// It lives for as long as a clone of it or a subscription does.
///
/// ```
/// use aqueduct_stage::{Graph, SourceExt, TokioSpawner};
/// use aqueduct_work::pulling::{PullingOptions, WorkPool, WorkSource};
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let graph = Graph::new("demo");
/// let numbers = graph.iterate("numbers", || 1..=3_u64);
/// let pool = WorkPool::new(&numbers, PullingOptions::default(), &TokioSpawner);
/// let _running = graph.start();
///
/// let mut work = pool.work().events(1..2);
/// while let Some(work) = work.next().await {
///     let work = work?;
///     if *work.event() == 2 {
///         work.give_up("it is even");
///     } else {
///         work.done();
///     }
/// }
/// let dead: Vec<_> = pool.dead_letters().map(|letter| letter.payload).collect().await;
/// assert_eq!((dead, pool.counters().finished), (vec![2], 2));
/// # Ok(())
/// # }
/// ```
pub struct WorkPool<T> {
    name: Arc<str>,
    mailbox: mpsc::UnboundedSender<Message<T>>,
    letters: Arc<Letters<T>>,
    counters: Arc<Mutex<Counters>>,
    /// Its source is shut down, and another may follow.
    stops: Arc<AtomicBool>,
}

/// What the pool's task is told. The mailbox has no bound of its own, as none of these comes without demand: an ask raises what
/// is asked for, of which a link lets no more than 65,536 be open; an event has one final answer, and is handled once; an edge
/// opens and leaves once, and is one of the subscriptions that a node may have; the source sends what the pool has asked for.
/// What can be said of an event again and again is in [`Words`], and one message tells of all of it.
enum Message<T> {
    Open(Subscription<T>, oneshot::Sender<Result<Edge<T>, SubscribeError>>),
    Ask(SubscriptionId, Demand),
    Handled(SubscriptionId, Demand),
    Answer(SubscriptionId, u64, Answer),
    Results(SubscriptionId, Arc<ResultRow>),
    /// A worker wants no more events, and still answers those that it has.
    Cancel(SubscriptionId, Exit),
    /// There are [`Words`] of this edge.
    Words(SubscriptionId),
    /// With numbers of events that were not finished, and the attempt that is to follow.
    Leave(SubscriptionId, EndCause, Vec<(usize, Attempt)>),
    /// From the source.
    Events(Events<T>, Attempt),
    SourceEnded(EndCause),
}

/// Where the results of tasks go: what workers answer their events with.
pub trait Results<T>: Send + Sync {
    /// The key of a task, if it has one.
    fn key(&self, task: &T) -> Option<u64>;

    /// Takes the result of a task, if it can be read and `counts`, which is to be asked once it was read: the task is still its
    /// worker's, and is done by that.
    ///
    /// # Errors
    ///
    /// Why it is none. It was an attempt, then.
    fn take(&self, task: TaskId, result: Option<&[u8]>, counts: &mut dyn FnMut() -> bool) -> Result<(), String>;

    /// The pool has done what there was to do: what was taken goes on together, and the source's events up to number
    /// `arrived` are here.
    fn flush(&self, arrived: u64);

    /// Nobody will do this task.
    fn dead(&self, letter: &DeadLetter<T>);

    /// The pool ends, and somebody has begun with this task, which is neither done nor dead. Said before [`ended`](Self::ended).
    fn begun(&self, task: TaskId) {
        let _ = task;
    }

    /// The pool ends: every task has been done or is dead, or `cause` says why not. `abandoned` of those that are dead
    /// waited for workers until the time for that was over.
    fn ended(&self, cause: &EndCause, abandoned: u64);

    /// How long the last tasks may wait while there is no worker at all.
    fn patience(&self) -> Option<Duration>;
}

impl<T: Clone + Send + 'static> WorkPool<T> {
    /// Subscribes to `source`, and gives its events to whoever subscribes to the pool. The one task it takes is started
    /// through `spawner`.
    ///
    /// If `source` cannot be subscribed to, subscribers of the pool are told so as its early end.
    ///
    /// # Panics
    ///
    /// If the source has several instances.
    #[track_caller]
    pub fn new<S>(source: &S, options: PullingOptions, spawner: &dyn Spawner) -> Self
    where
        S: Source<Item = T> + Clone,
    {
        Self::start(source, options, spawner, None)
    }

    /// As [`new`](Self::new), for workers that answer with results.
    pub fn with_results<S>(
        source: &S,
        options: PullingOptions,
        spawner: &dyn Spawner,
        results: Arc<dyn Results<T>>,
    ) -> Self
    where
        S: Source<Item = T> + Clone,
    {
        Self::start(source, options, spawner, Some(results))
    }

    #[track_caller]
    fn start<S>(
        source: &S,
        options: PullingOptions,
        spawner: &dyn Spawner,
        results: Option<Arc<dyn Results<T>>>,
    ) -> Self
    where
        S: Source<Item = T> + Clone,
    {
        assert_eq!(source.instances(), 1, "expected a source of one instance");
        let (mailbox, messages) = mpsc::unbounded_channel();
        let (letters, counters, stops) = (Arc::new(Letters::new()), Arc::default(), Arc::default());
        let name: Arc<str> = source.name().into();
        let shown = (Arc::clone(&letters), Arc::clone(&counters), Arc::clone(&stops));
        let driver = Driver::new(Arc::clone(&name), options, &mailbox, shown, results);
        spawner.spawn("work pool", Box::pin(driver.run(source.clone(), messages)));
        Self { name, mailbox, letters, counters, stops }
    }
}

impl<T> WorkPool<T> {
    /// What nobody could do. It may be called at any time and several times: each letter is read once.
    pub fn dead_letters(&self) -> DeadLetters<T> {
        DeadLetters::new(Arc::clone(&self.letters))
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Send + 'static> Source for WorkPool<T> {
    type Item = T;

    fn name(&self) -> String {
        self.name.to_string()
    }

    async fn open(&self, _: usize, subscription: Subscription<T>) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        let (reply, opened) = oneshot::channel();
        let ended = || match self.stops.load(Ordering::Relaxed) {
            true => SubscribeError::Refused { at: self.name.to_string(), reason: "its source is shut down".to_owned() },
            false => SubscribeError::Ended(self.name.to_string()),
        };
        self.mailbox.send(Message::Open(subscription, reply)).map_err(|_| ended())?;
        Ok(Arc::new(opened.await.map_err(|_| ended())??))
    }
}

impl<T> Clone for WorkPool<T> {
    fn clone(&self) -> Self {
        let Self { name, mailbox, letters, counters, stops } = self;
        Self {
            name: Arc::clone(name),
            mailbox: mailbox.clone(),
            letters: Arc::clone(letters),
            counters: Arc::clone(counters),
            stops: Arc::clone(stops),
        }
    }
}

impl<T> fmt::Debug for WorkPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkPool").field("name", &self.name).field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// The publisher that a subscriber sees. Whoever drops it has left.
struct Edge<T> {
    id: SubscriptionId,
    mailbox: mpsc::UnboundedSender<Message<T>>,
    /// How many events it was given and has not answered.
    held: Arc<AtomicUsize>,
    /// How many subscribers there are.
    crowd: Arc<AtomicUsize>,
    words: Arc<Mutex<Words>>,
}

/// What a subscriber has said of events that it works on, and the pool has not looked at. Each event is here once for each of
/// the two, however often it is said; a link says it of events that are open there, so these are no more than those.
#[derive(Default)]
struct Words {
    begun: BTreeSet<u64>,
    in_progress: BTreeSet<u64>,
    /// The pool is to be told that there are some, or was.
    is_told: bool,
}

impl Words {
    /// Takes a word. Returns whether the pool is to be told.
    fn add(&mut self, number: u64, answer: &Answer) -> bool {
        let words = if *answer == Answer::Begun { &mut self.begun } else { &mut self.in_progress };
        words.insert(number);
        !std::mem::replace(&mut self.is_told, true)
    }

    /// Takes up to `most` of them. If there are more, the pool is told again.
    fn take(&mut self, most: usize) -> (Vec<(u64, Answer)>, bool) {
        let next = || {
            let begun = self.begun.pop_first().map(|number| (number, Answer::Begun));
            begun.or_else(|| self.in_progress.pop_first().map(|number| (number, Answer::InProgress)))
        };
        let words = std::iter::from_fn(next).take(most).collect();
        self.is_told = !(self.begun.is_empty() && self.in_progress.is_empty());
        (words, self.is_told)
    }
}

impl<T> Edge<T> {
    /// After the end of the pool nothing matters any more.
    fn send(&self, message: Message<T>) {
        let _ = self.mailbox.send(message);
    }
}

impl<T: Send> Publisher<T> for Edge<T> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        self.send(Message::Ask(id, up_to));
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        self.send(Message::Handled(id, up_to));
    }

    fn takes_answers(&self) -> bool {
        true
    }

    fn answer(&self, id: SubscriptionId, number: u64, answer: Answer) {
        if answer.is_final() {
            self.send(Message::Answer(id, number, answer));
        } else if self.words.lock().unwrap_or_else(PoisonError::into_inner).add(number, &answer) {
            self.send(Message::Words(id));
        }
    }

    fn results(&self, id: SubscriptionId, row: Arc<ResultRow>) {
        self.send(Message::Results(id, row));
    }

    /// Others could do what it was given.
    fn holds_back(&self, _: SubscriptionId) -> bool {
        self.held.load(Ordering::Relaxed) > 0 && self.crowd.load(Ordering::Relaxed) > 1
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.send(Message::Cancel(id, reason));
    }

    /// The events themselves are here.
    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<T>, Attempt)>) {
        let counts = unfinished.iter().map(|(events, attempt)| (events.len(), *attempt)).collect();
        self.send(Message::Leave(id, cause, counts));
    }
}

impl<T> Drop for Edge<T> {
    fn drop(&mut self) {
        self.send(Message::Leave(self.id, EndCause::Cancelled(Exit::Shutdown), Vec::new()));
    }
}

/// No more tasks are taken while so many dead letters wait: enough to look into, and what dies is rare.
const MAX_DEAD_LETTERS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_and_again_takes_no_more_room() {
        let (mailbox, mut messages) = mpsc::unbounded_channel::<Message<u64>>();
        let (id, words) = (SubscriptionId::new(), Arc::<Mutex<Words>>::default());
        let (held, crowd) = Default::default();
        let edge = Edge { id, mailbox, held, crowd, words: Arc::clone(&words) };
        for number in 0..100_000 {
            edge.answer(id, number % 10, Answer::InProgress);
        }
        assert!(matches!(messages.try_recv(), Ok(Message::Words(_))) && messages.try_recv().is_err());
        let (some, are_more) = words.lock().unwrap_or_else(PoisonError::into_inner).take(6);
        assert_eq!((some.len(), are_more), (6, true));
        edge.answer(id, 3, Answer::Begun);
        assert!(messages.try_recv().is_err(), "the pool tells itself of the rest");
        let (rest, are_more) = words.lock().unwrap_or_else(PoisonError::into_inner).take(6);
        assert_eq!((rest.len(), are_more), (5, false));
    }
}
