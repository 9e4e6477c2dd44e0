//! The stage that handles events, and writes them down.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_stage::{Batch, Consumer, Cx, Edge, Exit, Mode, Never, NoOutput, Result, Source, Stage, SubscriptionId};
use aqueduct_transport::pulling::Work;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::draw::Life;
use crate::ledger::{Ledger, Who};

pub(crate) type Handling<I> = Stage<Handler<I>, I, Never, NoOutput>;

/// What a consumer is given: a number, or work on one.
pub(crate) trait Given: Send + Sync + 'static + Sized {
    fn number(&self) -> u64;
    fn done(self);
    fn subscribe(handling: Handling<Self>, life: &Life, source: &(impl Source<Item = Self> + Clone)) -> Handling<Self>;
}

impl Given for u64 {
    fn number(&self) -> u64 {
        *self
    }

    fn done(self) {}

    fn subscribe(handling: Handling<Self>, life: &Life, source: &(impl Source<Item = Self> + Clone)) -> Handling<Self> {
        if life.acknowledges {
            handling.subscribe_acknowledged(source, life.window.clone())
        } else {
            handling.subscribe(source, life.window.clone())
        }
    }
}

/// Each is answered on its own.
impl Given for Work<u64> {
    fn number(&self) -> u64 {
        *self.event()
    }

    fn done(self) {
        let _number = self.done();
    }

    fn subscribe(handling: Handling<Self>, life: &Life, source: &(impl Source<Item = Self> + Clone)) -> Handling<Self> {
        handling.subscribe(source, life.window.clone())
    }
}

/// What the instances of a handler share with the test.
#[derive(Default)]
pub(crate) struct Shared {
    edges: Mutex<Vec<SubscriptionId>>,
    /// Notified when one of them has ended a subscription.
    pub(crate) cancelled: Notify,
}

impl Shared {
    /// Its subscriptions so far.
    pub(crate) fn edges(&self) -> Vec<SubscriptionId> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes so long for each event, and handles it when that is over.
pub(crate) struct Handler<I> {
    pub(crate) who: Who,
    pub(crate) per_event: Duration,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) shared: Arc<Shared>,
    /// It ends its subscription by itself after so many batches.
    pub(crate) cancels_after: Option<usize>,
    pub(crate) given: PhantomData<fn(I)>,
}

impl<I: Given> Consumer for Handler<I> {
    type In = I;

    async fn handle_subscribe(&mut self, edge: &Edge, _: &mut Cx<'_>) -> Result<Mode> {
        self.shared.edges.lock().unwrap_or_else(PoisonError::into_inner).push(edge.id);
        Ok(Mode::Automatic)
    }

    async fn handle_events(&mut self, events: Batch<I>, cx: &mut Cx<'_>) -> Result {
        let (from, numbers) = (events.from(), (&events).into_iter().map(Given::number).collect());
        let in_hand = self.ledger.begin(&self.who, numbers, events.attempt());
        sleep(self.per_event * events.len() as u32).await;
        events.into_iter().for_each(Given::done);
        in_hand.handled();
        if let Some(batches) = &mut self.cancels_after {
            *batches = batches.saturating_sub(1);
            if *batches == 0 {
                cx.cancel(from, Exit::Normal);
                self.shared.cancelled.notify_one();
            }
        }
        Ok(())
    }
}
