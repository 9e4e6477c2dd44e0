//! [`Desk`]: what was taken from the queue of a durable channel, and what has become of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{EndCause, Failure};
use tokio::sync::Notify;

use crate::bugs::bug;
use crate::pulling::TaskId;
use crate::{QueueEntry, QueueId, StoreError};

/// Shared by all parts of a durable channel.
#[derive(Default)]
pub(crate) struct Desk {
    ledger: Mutex<Ledger>,
    /// Told of everything that the clerk has to look at.
    pub(super) changed: Notify,
    /// Told when entries have left the queue, and of the end.
    pub(super) acknowledged: Notify,
}

/// Which entries are here. Pure.
///
/// An entry is *working* from when it was taken, *answered* when its result is on its way to the receiver, and *settled* when
/// that was received; or it is *dead*, and settled when its letter was read. What is settled is to be acknowledged in the
/// queue; only then another entry of the same id is another one.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<u64, (QueueEntryId, State)>,
    ids: BTreeSet<QueueId>,
    /// How many were given to the pool: the last one's number.
    given: u64,
    working: usize,
    answered: usize,
    dead: usize,
    settled: Vec<QueueId>,
    /// To be acknowledged, and the clerk is at it.
    leaving: usize,
    /// Values on their way into the queue.
    pub(super) pushing: usize,
    /// Nothing more is sent.
    pub(super) is_closed: bool,
    /// Nobody receives, or the time for that is over.
    pub(super) is_abandoned: bool,
    /// Workers that come are to wait for the next start: it is shut down, or has ended and left something in the queue.
    pub(super) is_stopped: bool,
    /// It is shut down: nothing more is taken from the queue.
    pub(super) is_shut_down: bool,
    /// The time for that is over.
    pub(super) is_given_up: bool,
    /// The clerk has ended.
    pub(super) is_over: bool,
    /// How the pool ended.
    pub(super) pool_end: Option<EndCause>,
    /// How many read the dead letters.
    pub(super) letter_readers: isize,
    pub(super) trouble: Option<Arc<StoreError>>,
    /// The queue will never work again.
    pub(super) failure: Option<Failure>,
}

/// An entry without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueEntryId {
    pub(super) id: QueueId,
    pub(super) attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Working,
    /// The pool has ended, and a worker has begun with it.
    Begun,
    Answered,
    Dead,
}

impl Desk {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that the clerk has to look at.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        let changed = change(&mut self.lock());
        self.changed.notify_one();
        changed
    }

    /// The result of a task was received, or its letter read.
    pub(crate) fn settle(&self, task: TaskId) {
        self.update(|ledger| ledger.settle(number(task)));
    }

    /// Somebody begins to read dead letters, or ceases to.
    pub(crate) fn letters_are_read_by(&self, more: isize) {
        self.update(|ledger| ledger.letter_readers += more);
    }

    /// Whether the channel has ended and left something in the queue.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }

    /// No more is sent.
    pub(super) fn close(&self) {
        self.update(|ledger| ledger.is_closed = true);
        self.acknowledged.notify_waiters();
    }

    /// No more is sent, and nothing more taken from the queue.
    pub(super) fn shut_down(&self) {
        self.update(Ledger::shut_down);
        self.acknowledged.notify_waiters();
    }

    /// Waits until nothing uses the queue any more.
    pub(super) async fn is_over(&self) {
        loop {
            let mut changed = std::pin::pin!(self.acknowledged.notified());
            changed.as_mut().enable();
            if self.lock().has_left_the_queue() {
                return;
            }
            changed.await;
        }
    }
}

impl Ledger {
    /// Notes that an entry goes to the pool; `false` if it is here already, and must not.
    pub(super) fn give(&mut self, entry: &QueueEntry) -> bool {
        if !self.ids.insert(entry.id) {
            return false;
        }
        self.given += 1;
        self.working += 1;
        let entry = QueueEntryId { id: entry.id, attempt: entry.attempt };
        self.open.insert(self.given, (entry, State::Working));
        true
    }

    fn shut_down(&mut self) {
        self.is_closed = true;
        // How it has ended, if it has, stays as it is.
        if self.pool_end.is_none() {
            (self.is_shut_down, self.is_stopped) = (true, true);
        }
    }

    /// A worker has begun with a task, and the pool has ended.
    pub(super) fn begun(&mut self, task: u64) {
        self.turn(task, State::Begun);
    }

    /// A task has its result, which goes to the receiver.
    pub(super) fn answered(&mut self, task: u64) {
        self.turn(task, State::Answered);
    }

    /// A task is a dead letter.
    pub(super) fn died(&mut self, task: u64) {
        self.turn(task, State::Dead);
    }

    /// The result of a task was received, or its letter read.
    pub(super) fn settle(&mut self, task: u64) {
        let Some((entry, state)) = self.open.remove(&task) else { return };
        *self.count(state) -= 1;
        if state == State::Dead && bug!(DeadKeepsRoom) {
            return;
        }
        self.settled.push(entry.id);
    }

    /// What is to be acknowledged. [`left`](Self::left) is to be said when it was.
    pub(super) fn take_settled(&mut self) -> Vec<QueueId> {
        let settled = std::mem::take(&mut self.settled);
        self.leaving = settled.len();
        settled
    }

    /// These are no longer in the queue.
    pub(super) fn left(&mut self, ids: &[QueueId]) {
        self.leaving = 0;
        for id in ids {
            self.ids.remove(id);
        }
    }

    /// Forgets everything that is not settled: it is to wait in the queue again. To be said when the pool has ended. Returns first
    /// what somebody has begun with, and then the rest.
    pub(super) fn take_back(&mut self) -> (Vec<QueueId>, Vec<QueueId>) {
        debug_assert!(self.pool_end.is_some(), "what was begun is known");
        (self.working, self.answered, self.dead) = (0, 0, 0);
        let (begun, untouched): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_values().partition(|(_, state)| *state != State::Working);
        let [begun, untouched] =
            [begun, untouched].map(|open| open.into_iter().map(|(entry, _)| entry.id).collect::<Vec<_>>());
        for id in begun.iter().chain(&untouched) {
            self.ids.remove(id);
        }
        (begun, untouched)
    }

    pub(super) fn entry(&self, task: u64) -> Option<QueueEntryId> {
        self.open.get(&task).map(|(entry, _)| *entry)
    }

    /// How many are here and not settled.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn working(&self) -> usize {
        self.working
    }

    pub(super) fn unreceived(&self) -> usize {
        self.answered
    }

    pub(super) fn dead(&self) -> usize {
        self.dead
    }

    /// Whether nothing uses the queue any more.
    fn has_left_the_queue(&self) -> bool {
        self.is_over && self.pushing == 0
    }

    /// Whether everything that is settled has left the queue.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.settled.is_empty() && self.leaving == 0
    }

    fn turn(&mut self, task: u64, next: State) {
        let Some((_, state)) = self.open.get_mut(&task) else { return };
        let before = std::mem::replace(state, next);
        *self.count(before) -= 1;
        *self.count(next) += 1;
    }

    fn count(&mut self, state: State) -> &mut usize {
        match state {
            State::Working | State::Begun => &mut self.working,
            State::Answered => &mut self.answered,
            State::Dead => &mut self.dead,
        }
    }
}

/// The number of a task of the channel's pool: those of its source's events.
pub(super) fn number(task: TaskId) -> u64 {
    u64::try_from(task.number()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64) -> QueueEntry {
        QueueEntry { id: QueueId::new(id), attempt: 1, payload: Default::default() }
    }

    #[test]
    fn an_entry_is_acknowledged_when_its_result_was_received() {
        let mut ledger = Ledger::default();
        assert!(ledger.give(&entry(7)) && ledger.give(&entry(8)));
        ledger.answered(2);
        assert_eq!((ledger.working(), ledger.unreceived(), ledger.take_settled()), (1, 1, Vec::new()));
        ledger.settle(2);
        assert!(!ledger.is_acknowledged());
        let settled = ledger.take_settled();
        assert_eq!((&settled[..], ledger.is_acknowledged()), (&[QueueId::new(8)][..], false));
        ledger.left(&settled);
        assert!(ledger.is_acknowledged());
        assert_eq!(ledger.working(), 1);
    }

    #[test]
    fn what_nobody_has_begun_with_is_taken_back_as_that() {
        let mut ledger = Ledger::default();
        assert!((1..6).all(|id| ledger.give(&entry(id))));
        ledger.answered(1);
        ledger.died(2);
        ledger.begun(4);
        ledger.pool_end = Some(EndCause::Cancelled(aqueduct_stage::Exit::Shutdown));
        assert_eq!(ledger.take_back(), ([1, 2, 4].map(QueueId::new).into(), [3, 5].map(QueueId::new).into()));
        assert_eq!((ledger.len(), ledger.working(), ledger.give(&entry(3))), (0, 0, true));
    }

    #[test]
    fn an_entry_that_is_here_is_not_given_again_before_it_has_left() {
        let mut ledger = Ledger::default();
        assert!(ledger.give(&entry(7)) && !ledger.give(&entry(7)));
        ledger.answered(1);
        ledger.settle(1);
        let settled = ledger.take_settled();
        assert!(!ledger.give(&entry(7)));
        ledger.left(&settled);
        assert!(ledger.give(&entry(7)));
    }

    #[test]
    fn a_dead_entry_is_acknowledged_when_its_letter_was_read() {
        let mut ledger = Ledger::default();
        ledger.give(&entry(7));
        ledger.died(1);
        assert_eq!((ledger.dead(), ledger.take_settled()), (1, Vec::new()));
        ledger.settle(1);
        ledger.settle(1);
        assert_eq!((ledger.dead(), ledger.take_settled()), (0, vec![QueueId::new(7)]));
    }
}
