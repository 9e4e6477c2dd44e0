//! [`Batch`]: the events a consumer handles in one call.

use std::fmt;
use std::ops::Deref;

use aqueduct_dispatcher::{Attempt, Events, SubscriptionId};

/// Events handed to a consumer, all from one subscription and in the order in which they were emitted.
///
/// At most `max - min` of the subscription's window, and at least one (with manual demand: whatever came, even nothing).
/// It reads as a slice; iterating by value moves the events out, or clones them where a broadcast shares them.
pub struct Batch<T> {
    events: Events<T>,
    from: SubscriptionId,
    attempt: Attempt,
}

impl<T> Batch<T> {
    pub(crate) fn new(events: Events<T>, from: SubscriptionId, attempt: Attempt) -> Self {
        Self { events, from, attempt }
    }

    /// The subscription that they came through.
    pub fn from(&self) -> SubscriptionId {
        self.from
    }

    /// The how-manieth time these events are handed to a consumer.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The events as a vector.
    pub fn into_vec(self) -> Vec<T> {
        self.events.into_vec()
    }
}

impl<T> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.events
    }
}

impl<T> IntoIterator for Batch<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Batch<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events.fmt(f)
    }
}
