//! The stage that handles events, and writes them down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_stage::{Batch, Consumer, Cx, Edge, Exit, Mode, Result, SubscriptionId};
use tokio::time::sleep;

use crate::ledger::Ledger;

/// What the instances of a handler share with the test.
#[derive(Default)]
pub(crate) struct Shared {
    edges: Mutex<Vec<SubscriptionId>>,
}

impl Shared {
    /// Its subscriptions so far.
    pub(crate) fn edges(&self) -> Vec<SubscriptionId> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes so long for each event, and handles it when that is over.
pub(crate) struct Handler {
    pub(crate) who: String,
    pub(crate) per_event: Duration,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) shared: Arc<Shared>,
    /// It ends its subscription by itself after so many batches.
    pub(crate) cancels_after: Option<usize>,
}

impl Consumer for Handler {
    type In = u64;

    async fn handle_subscribe(&mut self, edge: &Edge, _: &mut Cx<'_>) -> Result<Mode> {
        self.shared.edges.lock().unwrap_or_else(PoisonError::into_inner).push(edge.id);
        Ok(Mode::Automatic)
    }

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_>) -> Result {
        for event in &events {
            self.ledger.begun(&self.who, *event, events.attempt());
        }
        sleep(self.per_event * events.len() as u32).await;
        let from = events.from();
        for event in events {
            self.ledger.handled(&self.who, event);
        }
        if let Some(batches) = &mut self.cancels_after {
            *batches = batches.saturating_sub(1);
            if *batches == 0 {
                cx.cancel(from, Exit::Normal);
            }
        }
        Ok(())
    }
}
