//! [`Outlet`]: the subscriber that a local source sees for one on another node.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{Attempt, EndCause, Events, Subscriber, SubscriptionId};
use tokio::sync::Notify;

/// The subscriber that the local source sees: it keeps what arrives until the link takes it. Bounded by the demand that
/// the other node has allowed: at most so many events, and each of them is asked back once and expires once.
pub(super) struct Outlet<T> {
    /// `None` once the link has ended.
    parcels: Mutex<Option<VecDeque<Parcel<T>>>>,
    /// Something is here, or at the door.
    pub(super) arrived: Arc<Notify>,
    /// The subscriber gives back what it has not begun with.
    can_give_back: bool,
}

/// What waits for the link.
pub(super) enum Parcel<T> {
    Events(Events<T>, Attempt),
    Revoke(u64),
    Expired(u64),
    Ended(EndCause),
}

impl<T> Outlet<T> {
    pub(super) fn new(can_give_back: bool) -> Self {
        Self { parcels: Mutex::new(Some(VecDeque::new())), arrived: Arc::default(), can_give_back }
    }

    pub(super) fn take(&self) -> Option<Parcel<T>> {
        self.lock().as_mut()?.pop_front()
    }

    /// Gives the parcel back if the link has ended.
    fn push(&self, parcel: Parcel<T>) -> Result<(), Parcel<T>> {
        match &mut *self.lock() {
            Some(parcels) => parcels.push_back(parcel),
            None => return Err(parcel),
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes nothing from now on, and returns the events that were not taken.
    pub(super) fn close(&self) -> Vec<(Events<T>, Attempt)> {
        let left = self.lock().take().unwrap_or_default();
        left.into_iter()
            .filter_map(|parcel| match parcel {
                Parcel::Events(events, attempt) => Some((events, attempt)),
                _ => None,
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Parcel<T>>>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Subscriber<T> for Outlet<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        // A link that has ended has left.
        let _ = self.try_deliver(id, events, attempt);
    }

    fn try_deliver(&self, _: SubscriptionId, events: Events<T>, attempt: Attempt) -> Result<(), Events<T>> {
        match self.push(Parcel::Events(events, attempt)) {
            Err(Parcel::Events(events, _)) => Err(events),
            _ => Ok(()),
        }
    }

    fn can_give_back(&self) -> bool {
        self.can_give_back
    }

    fn revoke(&self, _: SubscriptionId, number: u64) {
        let _ = self.push(Parcel::Revoke(number));
    }

    fn expired(&self, _: SubscriptionId, number: u64) {
        let _ = self.push(Parcel::Expired(number));
    }

    fn ended(&self, _: SubscriptionId, cause: EndCause) {
        let _ = self.push(Parcel::Ended(cause));
    }
}
