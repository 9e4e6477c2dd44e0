//! [`Feed`]: what was sent and has not been asked for; and [`Outlet`], which is that as a source.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{
    Demand, EndCause, Exit, Publisher, Source, SubscribeError, Subscriber, Subscription, SubscriptionId,
};

use tokio::sync::Notify;

use super::codec::Value;
use super::hub::Hub;

/// Values between the senders of a channel and its pool, which subscribes once. What it holds is bounded by the channel's
/// capacity.
#[derive(Default)]
pub(super) struct Feed {
    state: Mutex<State>,
    /// Told when the pool asks for more.
    pub(super) asked: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Value>,
    asked: u64,
    given: u64,
    /// How many of them have come to the pool.
    arrived: u64,
    edge: Option<(SubscriptionId, Arc<dyn Subscriber<Value>>)>,
    phase: Phase,
    /// The pool knows that it is stopped.
    is_stop_told: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    Open,
    /// No more values come.
    Closed,
    /// What workers have begun with is brought to an end, and nothing else.
    Stopped,
    /// Nobody wants any more.
    Abandoned,
}

impl Feed {
    /// Takes a value; returns it if no more are taken.
    pub(super) fn push(&self, value: Value) -> Result<(), Value> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(value);
        }
        state.waiting.push_back(value);
        state.deliver();
        Ok(())
    }

    /// How many more the pool wants than it was given.
    pub(super) fn wanted(&self) -> usize {
        let state = self.lock();
        usize::try_from(state.asked - state.given).unwrap_or(usize::MAX).saturating_sub(state.waiting.len())
    }

    /// The pool has so many of them, in all.
    pub(super) fn arrived(&self, arrived: u64) {
        let mut state = self.lock();
        if state.arrived < arrived {
            state.arrived = arrived;
            state.deliver();
        }
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closed;
            state.deliver();
        }
    }

    /// Drops what waits, and has the pool end when workers have answered what they have begun with.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        if state.phase != Phase::Abandoned {
            state.phase = Phase::Stopped;
            state.waiting.clear();
            state.deliver();
        }
    }

    /// Drops what waits, and ends early.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.phase = Phase::Abandoned;
        state.waiting.clear();
        state.deliver();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands on what was asked for, and the end behind everything. While the pool is busy, values gather here, and go to it
    /// together when it has what was given to it before.
    fn deliver(&mut self) {
        let Some((id, subscriber)) = &self.edge else { return };
        if self.given > self.arrived && matches!(self.phase, Phase::Open | Phase::Closed) {
            return;
        }
        let wanted = usize::try_from(self.asked - self.given).unwrap_or(usize::MAX).min(self.waiting.len());
        let mut values = self.waiting.drain(..wanted).peekable();
        while let Some(first) = values.next() {
            let attempt = first.attempt;
            let mut batch = vec![first];
            while let Some(next) = values.next_if(|next| next.attempt == attempt) {
                batch.push(next);
            }
            self.given += batch.len() as u64;
            subscriber.deliver(*id, batch.into(), attempt);
        }
        drop(values);
        let exit = match self.phase {
            Phase::Closed if self.waiting.is_empty() => Exit::Normal,
            Phase::Stopped if !std::mem::replace(&mut self.is_stop_told, true) => {
                return subscriber.ended(*id, EndCause::Cancelled(Exit::Shutdown));
            }
            Phase::Abandoned => Exit::Shutdown,
            _ => return,
        };
        subscriber.ended(*id, EndCause::Down(exit));
        self.edge = None;
    }
}

/// The values of a channel, as its pool sees them.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Hub>);

impl Outlet {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }
}

impl Source for Outlet {
    type Item = Value;

    fn name(&self) -> String {
        self.0.name.to_string()
    }

    async fn open(
        &self,
        _: usize,
        subscription: Subscription<Value>,
    ) -> Result<Arc<dyn Publisher<Value>>, SubscribeError> {
        let mut state = self.0.feed.lock();
        state.edge = Some((subscription.id, subscription.subscriber));
        state.deliver();
        drop(state);
        Ok(Arc::new(self.clone()))
    }
}

impl Publisher<Value> for Outlet {
    fn ask(&self, _: SubscriptionId, up_to: Demand) {
        let mut state = self.0.feed.lock();
        state.asked = state.asked.max(up_to.count());
        state.deliver();
        drop(state);
        self.0.feed.asked.notify_one();
    }

    /// The pool ends.
    fn cancel(&self, _: SubscriptionId, _: Exit) {
        self.0.feed.abandon();
    }
}
