//! [`Mailbox`]: the one queue through which a stage hears from its neighbours and from its graph.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Attempt, Cancel, Demand, SubscriptionId, Window};
use tokio::sync::Notify;

use crate::{EndCause, Exit, Publisher, SubscribeError, Subscriber, Subscription};

/// What a stage is told.
pub(crate) enum Message<I, O> {
    /// A subscriber wants to become an edge.
    Subscribe(Subscription<O>),
    /// A subscriber allows `up_to` events in all.
    Ask(SubscriptionId, Demand),
    /// A subscriber wants the edge to end.
    Cancel(SubscriptionId, Exit),
    /// This stage is being subscribed to a producer.
    Opening { id: SubscriptionId, to: String, window: Window, cancel: Cancel },
    /// The subscription was made, or not.
    Opened(SubscriptionId, Result<Arc<dyn Publisher>, SubscribeError>),
    /// A producer sent events.
    Deliver(SubscriptionId, Vec<I>, Attempt),
    /// A producer ended the edge.
    Ended(SubscriptionId, EndCause),
    /// Give nothing out before so many subscribers have come.
    WaitForSubscribers(usize),
    /// End when there is nothing left to do, rather than wait for somebody to subscribe.
    Complete,
    /// End now.
    Stop(Exit),
}

/// A queue with one reader, the stage's driver. Never waits: what it can hold is bounded by the demand that the stage
/// granted, by its number of edges, and by at most one ask in a row for each of them.
pub(crate) struct Mailbox<I, O> {
    state: Mutex<State<I, O>>,
    arrived: Notify,
    /// The stage's name, for those who come too late.
    stage: String,
}

struct State<I, O> {
    messages: VecDeque<Message<I, O>>,
    /// Set when the stage has ended: nothing is taken in any more.
    closed: bool,
}

impl<I, O> Mailbox<I, O> {
    pub(crate) fn new(stage: &str) -> Self {
        let state = State { messages: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), arrived: Notify::new(), stage: stage.to_owned() }
    }

    /// Puts a message in; returns it if the stage has ended.
    pub(crate) fn push(&self, message: Message<I, O>) -> Result<(), Message<I, O>> {
        let mut state = self.lock();
        if state.closed {
            return Err(message);
        }
        match (&message, state.messages.back_mut()) {
            (Message::Ask(id, up_to), Some(Message::Ask(last, last_up_to))) if id == last => {
                *last_up_to = (*up_to).max(*last_up_to);
            }
            _ => state.messages.push_back(message),
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Moves everything that has arrived into `to`, which is empty, and waits until there is something.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: messages are moved only when it returns.
    pub(crate) async fn receive(&self, to: &mut VecDeque<Message<I, O>>) {
        debug_assert!(to.is_empty());
        loop {
            std::mem::swap(&mut self.lock().messages, to);
            if !to.is_empty() {
                return;
            }
            self.arrived.notified().await;
        }
    }

    /// Takes nothing in from now on, and returns what nobody has read.
    pub(crate) fn close(&self) -> VecDeque<Message<I, O>> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.messages)
    }

    /// Asks to subscribe to this stage.
    pub(crate) fn subscribe(self: &Arc<Self>, subscription: Subscription<O>) -> Result<(), SubscribeError> {
        self.push(Message::Subscribe(subscription)).map_err(|_| SubscribeError::Ended(self.stage.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State<I, O>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Send, O: Send> Publisher for Mailbox<I, O> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        let _ = self.push(Message::Ask(id, up_to));
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        // A stage that has ended has told its subscribers so.
        let _ = self.push(Message::Cancel(id, reason));
    }
}

impl<I: Send, O: Send> Subscriber<I> for Mailbox<I, O> {
    fn deliver(&self, id: SubscriptionId, events: Vec<I>, attempt: Attempt) {
        // A stage that has ended has cancelled its subscriptions.
        let _ = self.push(Message::Deliver(id, events, attempt));
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
