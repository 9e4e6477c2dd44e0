//! What stages and ends of edges write down.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{Peer, SubscriptionId};
use tokio::sync::watch;

/// How long a test waits for something that must come. On a paused clock it passes at once when nothing moves.
const PATIENCE: Duration = Duration::from_secs(1_000);

/// What stages write down, in the order in which it happened.
pub struct Log<T = Note>(Arc<watch::Sender<Vec<T>>>);

impl<T: Clone + fmt::Debug> Log<T> {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    pub fn push(&self, entry: T) {
        self.0.send_modify(|entries| entries.push(entry));
    }

    pub fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    pub fn clear(&self) {
        self.0.send_modify(Vec::clear);
    }

    /// Waits until it is so.
    pub async fn until(&self, reached: impl FnMut(&Vec<T>) -> bool) -> Vec<T> {
        let mut entries = self.0.subscribe();
        let waited = tokio::time::timeout(PATIENCE, entries.wait_for(reached)).await;
        match waited {
            Ok(Ok(entries)) => entries.clone(),
            _ => panic!("waited in vain; so far: {:?}", self.all()),
        }
    }
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What can happen to a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// `handle_demand`.
    Asked(usize),
    /// `handle_events`, and the number of the attempt.
    Events(Vec<u64>, u32),
    /// `handle_subscribe`.
    Subscribed(SubscriptionId, Peer),
    /// `handle_cancel`, and the cause.
    Cancelled(SubscriptionId, String),
    /// `handle_discarded`.
    Discarded(usize),
    /// A message.
    Said(&'static str),
    /// `handle_end`.
    End,
    /// `terminate`.
    Terminated(String),
}

impl Log {
    pub fn asked(&self) -> Vec<usize> {
        let asked = |note| if let Note::Asked(demand) = note { Some(demand) } else { None };
        self.all().into_iter().filter_map(asked).collect()
    }

    pub fn batches(&self) -> Vec<Vec<u64>> {
        batches(&self.all())
    }

    pub fn events(&self) -> Vec<u64> {
        self.batches().concat()
    }

    /// Waits for so many batches, and returns them.
    pub async fn batches_reach(&self, count: usize) -> Vec<Vec<u64>> {
        let mut all = batches(&self.until(|notes| batches(notes).len() >= count).await);
        all.truncate(count);
        all
    }

    /// Waits for so many events, and returns all there are.
    pub async fn events_reach(&self, count: usize) -> Vec<u64> {
        let length = |note: &Note| if let Note::Events(events, _) = note { events.len() } else { 0 };
        batches(&self.until(|notes| notes.iter().map(length).sum::<usize>() >= count).await).concat()
    }

    /// Waits for a note.
    pub async fn has(&self, wanted: &Note) {
        self.until(|notes| notes.contains(wanted)).await;
    }

    /// Waits for the end of a subscription, and returns the cause.
    pub async fn cancelled(&self) -> String {
        let cause = |note: &Note| if let Note::Cancelled(_, cause) = note { Some(cause.clone()) } else { None };
        self.until(|notes| notes.iter().any(|note| cause(note).is_some())).await.iter().find_map(cause).unwrap()
    }

    /// The subscriptions that were made, on whichever side.
    pub fn subscribed(&self) -> Vec<SubscriptionId> {
        let id = |note| if let Note::Subscribed(id, _) = note { Some(id) } else { None };
        self.all().into_iter().filter_map(id).collect()
    }

    /// Waits for a subscription, and returns it.
    pub async fn first_subscribed(&self) -> SubscriptionId {
        self.until(|notes| notes.iter().any(|note| matches!(note, Note::Subscribed(..)))).await;
        self.subscribed()[0]
    }
}

fn batches(notes: &[Note]) -> Vec<Vec<u64>> {
    let events = |note: &Note| if let Note::Events(events, _) = note { Some(events.clone()) } else { None };
    notes.iter().filter_map(events).collect()
}
