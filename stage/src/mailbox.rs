//! [`Mailbox`]: the one queue through which a stage hears from its neighbours, its graph, and whoever has a reference.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use aqueduct_dispatcher::{Attempt, Cancel, Demand, Events, SubscriptionId, Window};
use tokio::sync::oneshot;

use crate::counters::Counters;
use crate::handle::{CallError, Inbox, Post, Sender};
use crate::remainder::Returned;
use crate::{ConsumerId, EndCause, Exit, Publisher, SubscribeError, Subscriber, Subscription};

/// What a stage is told. Each batch moves one or two of them, so what is rare and large is boxed.
pub(crate) enum Message<I, O> {
    /// A subscriber wants to become an edge.
    Subscribe(Box<Subscription<O>>),
    /// A subscriber allows `up_to` events in all.
    Ask(SubscriptionId, Demand),
    /// A subscriber that would hand events back has handled `up_to` in all.
    Handled(SubscriptionId, Demand),
    /// A subscriber wants no more, and still handles what it was given.
    Cancel(SubscriptionId, Exit),
    /// A subscriber handles nothing more, with what it did not finish.
    Leave(SubscriptionId, EndCause, Vec<(Events<O>, Attempt)>),
    /// This stage is being subscribed to a producer.
    Opening(Box<Opening<I>>),
    /// The subscription was made, or not.
    Opened(SubscriptionId, Result<Arc<dyn Publisher<I>>, Box<SubscribeError>>),
    /// A producer sent events.
    Deliver(SubscriptionId, Events<I>, Attempt),
    /// A producer ended the edge.
    Ended(SubscriptionId, EndCause),
    /// End a subscription. With a sender another takes its place: then its end does not concern the stage, and the sender
    /// is told when the producer has been.
    Unsubscribe(SubscriptionId, Exit, Option<oneshot::Sender<()>>),
    /// Somebody with a reference wants something.
    Post(Post<O>),
    /// Emit nothing more: deliver what there is, and end.
    Drain,
    /// End when there is nothing left to do, rather than wait for somebody to subscribe.
    Complete,
}

/// A subscription to a producer that is being made.
pub(crate) struct Opening<I> {
    pub(crate) id: SubscriptionId,
    /// What the producer is called.
    pub(crate) to: Arc<str>,
    /// Not a stage of this process: it may say only with the subscription how many instances it has.
    pub(crate) is_far: bool,
    /// Not a stage of this graph, so that nobody tells it to end with the graph.
    pub(crate) is_outside: bool,
    pub(crate) window: Window,
    /// How far that may grow, if it may.
    pub(crate) grows_to: Option<usize>,
    pub(crate) cancel: Cancel,
    /// Makes a batch one of which a handle can be kept, if what is not finished is to be handed back.
    pub(crate) keep: Option<fn(Events<I>) -> Events<I>>,
    /// There if the subscription is made again should it end early.
    pub(crate) renews: Option<Renews>,
}

/// A subscription takes the place of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renews {
    /// Nothing for the first.
    pub(crate) former: Option<SubscriptionId>,
}

/// A queue with one reader, the stage's driver. Never waits: what it can hold is bounded by the demand that the stage
/// granted, by its number of edges, by one ask in a row of an edge for every [`MERGED_DEMAND`] events, and by [`POSTS`].
pub(crate) struct Mailbox<I, O> {
    state: Mutex<State<I, O>>,
    /// Told to end now: looked at between callbacks, whatever waits in the queue.
    stopping: AtomicBool,
    /// Told to drain, whatever waits in the queue before that.
    draining: AtomicBool,
    /// The stage's name.
    stage: String,
    consumer: ConsumerId,
    returned: Arc<Returned<O>>,
    /// Those of the stage, once it has started.
    counters: OnceLock<Arc<Counters>>,
}

struct State<I, O> {
    messages: VecDeque<Message<I, O>>,
    /// How many of them are letters.
    posts: usize,
    /// The driver, while it waits. Under the same lock as the messages, so that a push costs no second synchronization.
    waiting: Option<Waker>,
    /// How the stage has ended, once it has: nothing is taken in any more.
    closed: Option<Exit>,
}

impl<I, O> Mailbox<I, O> {
    pub(crate) fn new(stage: &str, returned: Arc<Returned<O>>) -> Self {
        let state = State { messages: VecDeque::new(), posts: 0, waiting: None, closed: None };
        let (state, stopping, draining) = (Mutex::new(state), AtomicBool::new(false), AtomicBool::new(false));
        let (stage, counters) = (stage.to_owned(), OnceLock::new());
        Self { state, stopping, draining, stage, consumer: ConsumerId::new(), returned, counters }
    }

    /// The stage starts.
    pub(crate) fn count_with(&self, counters: &Arc<Counters>) {
        let _ = self.counters.set(Arc::clone(counters));
    }

    /// Names the stage as a consumer.
    pub(crate) fn consumer(&self) -> ConsumerId {
        self.consumer
    }

    /// Puts a message in; returns it if the stage has ended.
    pub(crate) fn push(&self, message: Message<I, O>) -> Result<(), Message<I, O>> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return Err(message);
        }
        match (&message, state.messages.back_mut()) {
            (Message::Ask(id, up_to), Some(Message::Ask(last, last_up_to)))
                if id == last && up_to.saturating_sub(*last_up_to) <= MERGED_DEMAND =>
            {
                *last_up_to = (*up_to).max(*last_up_to);
            }
            _ => state.messages.push_back(message),
        }
        wake(state);
        Ok(())
    }

    /// Moves everything that has arrived into `to`, which is empty; is ready also if the stage was told to end now. Wakes
    /// the task otherwise, when that is so. `waiting` letters were taken earlier and wait inside the stage: they count as
    /// if they were here still.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, to: &mut VecDeque<Message<I, O>>, waiting: usize) -> Poll<()> {
        debug_assert!(to.is_empty());
        let mut state = self.lock();
        state.posts = waiting;
        if state.messages.is_empty() && !self.stopping.load(Ordering::Relaxed) {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut state.messages, to);
        Poll::Ready(())
    }

    /// Tells the stage to end now.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        wake(self.lock());
    }

    /// Tells the stage to drain.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let _ = self.push(Message::Drain);
    }

    /// Whether the stage was told to drain.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How the stage is to end, if it was told to end now.
    pub(crate) fn stopping(&self) -> Option<Exit> {
        self.stopping.load(Ordering::Relaxed).then_some(Exit::Shutdown)
    }

    /// Takes nothing in from now on, as the stage has ended, and returns what nobody has read.
    pub(crate) fn close(&self, exit: &Exit) -> VecDeque<Message<I, O>> {
        let mut state = self.lock();
        state.closed.get_or_insert_with(|| exit.clone());
        // The waker keeps the task alive, and the task this mailbox.
        state.waiting = None;
        std::mem::take(&mut state.messages)
    }

    /// Whether the stage has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// How the stage has ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.lock().closed.clone()
    }

    /// Keeps what came back after the stage had ended.
    pub(crate) fn keep_returned(&self, id: SubscriptionId, unfinished: Vec<(Events<O>, Attempt)>) {
        self.returned.keep(id, unfinished);
    }

    fn lock(&self) -> MutexGuard<'_, State<I, O>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Send, O: Send> Inbox<O> for Mailbox<I, O> {
    fn post(&self, post: Post<O>, sender: Sender) -> Result<(), CallError> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return Err(CallError::Stopped);
        }
        if sender == Sender::Anybody && state.posts >= POSTS {
            return Err(CallError::Overloaded { bound: POSTS });
        }
        state.posts += 1;
        state.messages.push_back(Message::Post(post));
        wake(state);
        Ok(())
    }
}

impl<I: Send, O: Send> Publisher<O> for Mailbox<I, O> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        let _ = self.push(Message::Ask(id, up_to));
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        let _ = self.push(Message::Handled(id, up_to));
    }

    fn holds_back(&self, id: SubscriptionId) -> bool {
        self.counters.get().is_some_and(|counters| {
            let Counters { gives_to_all, edges, .. } = &**counters;
            (gives_to_all.get() > 0 && edges.is_used_up_alone(id)) || edges.has_what_others_could(id)
        })
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        let _ = self.push(Message::Cancel(id, reason));
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<O>, Attempt)>) {
        // A stage that has ended has told its subscribers so.
        if let Err(Message::Leave(id, _, unfinished)) = self.push(Message::Leave(id, cause, unfinished)) {
            self.keep_returned(id, unfinished);
        }
    }
}

impl<I: Send, O: Send> Subscriber<I> for Mailbox<I, O> {
    fn deliver(&self, id: SubscriptionId, events: Events<I>, attempt: Attempt) {
        // A stage that has ended has cancelled its subscriptions.
        let _ = self.try_deliver(id, events, attempt);
    }

    fn try_deliver(&self, id: SubscriptionId, events: Events<I>, attempt: Attempt) -> Result<(), Events<I>> {
        match self.push(Message::Deliver(id, events, attempt)) {
            Err(Message::Deliver(_, events, _)) => Err(events),
            _ => Ok(()),
        }
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        let _ = self.push(Message::Ended(id, cause));
    }
}

impl<I, O> fmt::Debug for Mailbox<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// Wakes the driver if it waits, without the lock.
fn wake<I, O>(mut state: MutexGuard<'_, State<I, O>>) {
    let waiting = state.waiting.take();
    drop(state);
    if let Some(driver) = waiting {
        driver.wake();
    }
}

/// An ask for so many more is answered together with the one before it. What answers two asks at once has to be copied
/// apart for the consumer: of a few events that costs less than another call of the producer and another message, of
/// many it costs more.
const MERGED_DEMAND: Demand = Demand::new(1000);

/// How many calls, casts and infos may wait for a stage: enough for a burst, and little enough that the last of them is
/// still answered within a call's default timeout by a stage that takes 5 ms for each.
const POSTS: usize = 1024;
