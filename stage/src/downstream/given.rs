//! [`Given`]: what a subscriber was given, and what became of it. Pure.

use aqueduct_dispatcher::{Attempt, Demand, Events};

/// What a subscriber was given, and what became of it.
pub(super) struct Given<T> {
    /// How many events it has taken, in all.
    pub(super) count: u64,
    /// How many of them it has handled, if it hands back what it does not finish; `<= count`.
    handled: Option<u64>,
    /// What it did not take, as it had ended, until it says so itself.
    pub(super) refused: Unfinished<T>,
}

/// Batches to be given again, oldest first, and which attempt is to follow.
pub(crate) type Unfinished<T> = Vec<(Events<T>, Attempt)>;

impl<T> Given<T> {
    pub(super) fn new() -> Self {
        Self { count: 0, handled: None, refused: Vec::new() }
    }

    pub(super) fn handled(&mut self, up_to: Demand) {
        self.handled = self.handled.max(Some(up_to.count().min(self.count)));
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.iter().map(|(events, _)| events.len()).sum()
    }

    /// Whether something of it may be handed back.
    pub(super) fn may_come_back(&self) -> bool {
        self.handled.is_some_and(|handled| handled < self.count) || !self.refused.is_empty()
    }
}
