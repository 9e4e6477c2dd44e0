//! [`Intake`]: the server's side of a results-only channel, which moves what [`Board`] decides.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::notices::Notices;
use aqueduct_stage::{
    Answer, Attempt, BoxFuture, Demand, EndCause, Exit, Failure, FailureKind, Publisher, Source, SubscribeError,
    Subscriber, Subscription, SubscriptionId, notice,
};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::board::{Arrival, Board};
use super::{Message, SenderId};
use crate::channel::ChannelWorkers;
use crate::channel::codec::{Codec, Value};
use crate::publication::EventSize;
use crate::publication::{IncomingLink, Publication, Published};
use crate::{PublishOptions, Wire};

/// A value on its way to the receiver.
pub(super) struct Parcel<T> {
    pub(super) from: SubscriptionId,
    pub(super) sender: SenderId,
    pub(super) number: u64,
    pub(super) value: T,
}

/// Shared by the receiver and the workers' links.
pub(super) struct Intake<T> {
    pub(super) name: Arc<str>,
    codec: Codec,
    signature: Arc<str>,
    sizes: Arc<EventSize>,
    max_workers: usize,
    pub(super) workers: watch::Sender<ChannelWorkers>,
    state: Mutex<State<T>>,
}

struct State<T> {
    board: Board,
    subscribers: BTreeMap<SubscriptionId, Arc<dyn Subscriber<Value>>>,
    /// `None` after the close.
    parcels: Option<mpsc::UnboundedSender<Parcel<T>>>,
    notices: Notices,
}

impl<T: Wire> Intake<T> {
    pub(super) fn new(
        name: &str,
        codec: Codec,
        signature: &str,
        (capacity, max_workers): (usize, usize),
        parcels: mpsc::UnboundedSender<Parcel<T>>,
    ) -> Self {
        let (board, notices) = (Board::new(capacity), Notices::default());
        let state = State { board, subscribers: BTreeMap::new(), parcels: Some(parcels), notices };
        Self {
            name: name.into(),
            codec,
            signature: signature.into(),
            sizes: Arc::default(),
            max_workers,
            workers: watch::Sender::default(),
            state: Mutex::new(state),
        }
    }

    /// A worker answers a ticket.
    fn answer(&self, id: SubscriptionId, sender: &str, ticket: u64, answer: Answer) {
        let mut state = self.lock();
        let Answer::DoneWith(bytes) = answer else {
            if answer.is_final() {
                state.board.give_back(id, ticket);
                state.give();
            }
            return;
        };
        let Some(Message { sender: number_of_sender, number, bytes }) = Message::read(bytes.into()) else {
            return state.fail(&self.name, id, "not a value".to_owned());
        };
        let sender = SenderId { node: sender.into(), number: number_of_sender };
        // Before it counts: one that cannot be read is not received.
        let value = match self.codec.decode::<T>(&bytes) {
            Ok(value) => value,
            Err(error) => return state.fail(&self.name, id, format!("value {number} cannot be read: {error}")),
        };
        match state.board.arrive(id, ticket, &sender, number) {
            Arrival::New => {
                if let Some(parcels) = &state.parcels {
                    // The receiver closes before it goes.
                    let _ = parcels.send(Parcel { from: id, sender, number, value });
                }
            }
            Arrival::Dropped => tracing::debug!(channel = &*self.name, number, "a value that came before"),
            Arrival::Broken => state.fail(&self.name, id, format!("value {number} is not the next one")),
        }
        state.give();
    }
}

impl<T> Intake<T> {
    /// A value was received.
    pub(super) fn received(&self, from: SubscriptionId, sender: &SenderId, number: u64) {
        let mut state = self.lock();
        state.board.receive(from, sender, number);
        state.give();
    }

    /// Takes no more values, and tells the workers.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.board.close();
        state.parcels = None;
        for (id, subscriber) in std::mem::take(&mut state.subscribers) {
            state.board.leave(id);
            subscriber.ended(id, EndCause::Down(Exit::Normal));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn give(&mut self) {
        let mut batches: BTreeMap<SubscriptionId, Vec<Value>> = BTreeMap::new();
        for ticket in self.board.tickets() {
            let received = Bytes::copy_from_slice(&ticket.received.to_le_bytes());
            batches.entry(ticket.to).or_default().push(Value::new(None, received));
        }
        for (id, batch) in batches {
            if let Some(subscriber) = self.subscribers.get(&id) {
                subscriber.deliver(id, batch.into(), Attempt::FIRST);
            }
        }
    }

    fn leave(&mut self, id: SubscriptionId, cause: EndCause) {
        self.board.leave(id);
        if let Some(subscriber) = self.subscribers.remove(&id) {
            subscriber.ended(id, cause);
        }
        self.give();
    }

    /// Ends the link of a worker that does what it must not.
    fn fail(&mut self, name: &str, id: SubscriptionId, message: String) {
        notice!(self.notices, warn, "a worker is sent away", channel = name, message);
        self.leave(id, EndCause::Down(Exit::Failed(Failure::new(name, FailureKind::Protocol, message))));
    }
}

/// Where workers come in.
pub(super) struct Workplace<T>(pub(super) Arc<Intake<T>>);

impl<T: Wire> Publication for Workplace<T> {
    fn serve(self: Arc<Self>, link: IncomingLink) -> BoxFuture<'static> {
        let place = Place { intake: Arc::clone(&self.0), node: link.peer.as_str().into(), id: Mutex::default() };
        let PublishOptions { selectors, lag_limit, stall_limit, .. } = PublishOptions::new();
        let signature = Some(Arc::clone(&self.0.signature));
        let (sizes, _expected) = (Arc::clone(&self.0.sizes), None);
        let published = Published { source: place, selectors, lag_limit, stall_limit, sizes, signature, _expected };
        Arc::new(published).serve(link)
    }
}

/// The place of one worker. Dropping it takes the worker off the list.
struct Place<T> {
    intake: Arc<Intake<T>>,
    /// Where the worker is.
    node: Arc<str>,
    id: Mutex<Option<SubscriptionId>>,
}

impl<T: Wire> Source for Place<T> {
    type Item = Value;

    fn name(&self) -> String {
        self.intake.name.to_string()
    }

    async fn open(
        &self,
        _: usize,
        subscription: Subscription<Value>,
    ) -> Result<Arc<dyn Publisher<Value>>, SubscribeError> {
        let Subscription { id, options, interest, subscriber, .. } = subscription;
        let refused = |reason: String| SubscribeError::Refused { at: self.name(), reason };
        if interest.selector.is_some() || interest.partition.is_some() {
            return Err(refused("room for results cannot be selected".to_owned()));
        }
        let window = options.window_or(aqueduct_stage::Window::FAR).max().as_len();
        {
            let mut state = self.intake.lock();
            if state.board.is_closed() {
                return Err(SubscribeError::Ended(self.name()));
            }
            if state.board.len() >= self.intake.max_workers {
                return Err(refused(format!("there are {} workers already", self.intake.max_workers)));
            }
            state.board.enter(id, window);
            state.subscribers.insert(id, subscriber);
        }
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        self.intake.workers.send_modify(|workers| workers.enter(id, &self.node));
        Ok(Arc::new(Counter { intake: Arc::clone(&self.intake), node: Arc::clone(&self.node) }))
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.intake.lock().leave(*id, EndCause::Cancelled(Exit::Shutdown));
            self.intake.workers.send_modify(|workers| workers.leave(*id));
        }
    }
}

/// The publisher that a worker's link sees.
struct Counter<T> {
    intake: Arc<Intake<T>>,
    node: Arc<str>,
}

impl<T: Wire> Publisher<Value> for Counter<T> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        let mut state = self.intake.lock();
        state.board.ask(id, up_to);
        state.give();
    }

    fn takes_answers(&self) -> bool {
        true
    }

    fn answer(&self, id: SubscriptionId, number: u64, answer: Answer) {
        self.intake.answer(id, &self.node, number, answer);
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.intake.lock().leave(id, EndCause::Cancelled(reason));
    }
}
