//! [`Feed`]: what was sent and has not been asked for; and [`Outlet`], which is that as a source.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{
    Attempt, Demand, EndCause, Exit, Publisher, Source, SubscribeError, Subscriber, Subscription, SubscriptionId,
};

use super::codec::Value;
use super::hub::Hub;

/// Values between the senders of a channel and its pool, which subscribes once. What it holds is bounded by the channel's
/// capacity.
#[derive(Default)]
pub(super) struct Feed(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Value>,
    asked: u64,
    given: u64,
    edge: Option<(SubscriptionId, Arc<dyn Subscriber<Value>>)>,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    Open,
    /// No more values come.
    Closed,
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

    /// Takes no more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closed;
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands on what was asked for, and the end behind everything.
    fn deliver(&mut self) {
        let Some((id, subscriber)) = &self.edge else { return };
        let wanted = usize::try_from(self.asked - self.given).unwrap_or(usize::MAX).min(self.waiting.len());
        if wanted > 0 {
            let values: Vec<_> = self.waiting.drain(..wanted).collect();
            self.given += values.len() as u64;
            subscriber.deliver(*id, values.into(), Attempt::FIRST);
        }
        let exit = match self.phase {
            Phase::Closed if self.waiting.is_empty() => Exit::Normal,
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
    }

    /// The pool ends.
    fn cancel(&self, _: SubscriptionId, _: Exit) {
        self.0.feed.abandon();
    }
}
