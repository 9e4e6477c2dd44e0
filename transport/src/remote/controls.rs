//! [`Controls`]: the publisher that a local consumer sees for one on another node.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{Answer, Attempt, Demand, EndCause, Events, Exit, Publisher, ResultRow, SubscriptionId};
use tokio::sync::Notify;

/// The publisher that the local consumer sees: it keeps the latest wishes until the link takes them.
pub(super) struct Controls {
    /// Wishes of any other subscription are ignored.
    id: SubscriptionId,
    wishes: Mutex<Wishes>,
    changed: Notify,
    /// The publisher takes answers to single events. Set before anybody can ask.
    takes_answers: AtomicBool,
}

/// What the consumer wants.
#[derive(Default)]
pub(super) struct Wishes {
    /// Allowed in all; never falls.
    pub(super) up_to: Demand,
    /// Taken in all, if the consumer says so; never falls.
    pub(super) taken: Option<Demand>,
    /// It matters to the link from so many on.
    taken_matters_from: u64,
    /// Handled in all, if the consumer says so; never falls.
    pub(super) handled: Option<Demand>,
    /// What became of single events, by their numbers, since it was last taken. An event is here once, or twice if it is
    /// begun as well, and both by those that the consumer holds.
    pub(super) answers: Vec<(u64, Answer)>,
    /// What came of events, since it was last taken; they are as few.
    pub(super) results: ResultRow,
    /// Why the consumer wants no more events, since it was last taken.
    pub(super) parts: Option<Exit>,
    /// The events that are being worked on and take longer, however often that is said.
    in_progress: BTreeSet<u64>,
    /// Why the edge is to end, and what follows the events that were handled: how many, and the attempt that is to follow.
    pub(super) cancel: Option<(EndCause, Vec<(u64, Attempt)>)>,
    /// The consumer's name at the publisher, held until it wants no more or knows that there is no more.
    consumer: Option<Box<dyn Send>>,
}

impl Controls {
    pub(super) fn of(id: SubscriptionId, consumer: Box<dyn Send>) -> Self {
        let wishes = Wishes { consumer: Some(consumer), ..Wishes::default() };
        Self { id, wishes: Mutex::new(wishes), changed: Notify::new(), takes_answers: AtomicBool::new(false) }
    }

    /// Takes a wish, if it is one of this subscription.
    fn wish(&self, id: SubscriptionId, wish: impl FnOnce(&mut Wishes)) {
        if id == self.id {
            wish(&mut self.lock());
            self.changed.notify_one();
        }
    }

    /// Waits until there is something to take.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The publisher takes answers to single events, or does not. To be said before anybody can ask.
    pub(super) fn take_answers(&self, takes: bool) {
        self.takes_answers.store(takes, Ordering::Relaxed);
    }

    /// The consumer knows of the end: its name at the publisher is free.
    pub(super) fn forget_consumer(&self) {
        self.lock().consumer = None;
    }

    pub(super) fn take(&self) -> Wishes {
        let mut wishes = self.lock();
        let Wishes { up_to, taken, taken_matters_from, handled, .. } = *wishes;
        let mut answers = std::mem::take(&mut wishes.answers);
        answers.extend(std::mem::take(&mut wishes.in_progress).into_iter().map(|number| (number, Answer::InProgress)));
        let (parts, cancel, in_progress) = (wishes.parts.take(), wishes.cancel.take(), BTreeSet::new());
        // Next time they are about as many.
        let room = ResultRow::with_capacity(wishes.results.len().min(ROOM), wishes.results.bytes().len().min(ROOM));
        let results = std::mem::replace(&mut wishes.results, room);
        Wishes {
            up_to,
            taken,
            taken_matters_from,
            handled,
            answers,
            results,
            in_progress,
            parts,
            cancel,
            consumer: None,
        }
    }

    /// Wakes the link when so many events are taken: to be woken for each batch would cost more than the batch.
    pub(super) fn wake_when_taken(&self, events: Option<u64>) {
        let mut wishes = self.lock();
        wishes.taken_matters_from = events.unwrap_or(u64::MAX);
        let is_due = wishes.taken.is_some_and(|taken| taken.count() >= wishes.taken_matters_from);
        drop(wishes);
        if is_due {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Publisher<T> for Controls {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        self.wish(id, |wishes| wishes.up_to = wishes.up_to.max(up_to));
    }

    fn taken(&self, id: SubscriptionId, up_to: Demand) {
        if id != self.id {
            return;
        }
        let mut wishes = self.lock();
        wishes.taken = wishes.taken.max(Some(up_to));
        let is_due = up_to.count() >= wishes.taken_matters_from;
        drop(wishes);
        if is_due {
            self.changed.notify_one();
        }
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        self.wish(id, |wishes| wishes.handled = wishes.handled.max(Some(up_to)));
    }

    fn takes_answers(&self) -> bool {
        self.takes_answers.load(Ordering::Relaxed)
    }

    fn answer(&self, id: SubscriptionId, number: u64, answer: Answer) {
        // A pool says it to every source of what is done out of turn.
        if !self.takes_answers.load(Ordering::Relaxed) {
            return;
        }
        self.wish(id, |wishes| {
            // What is said after a cancel is not heard.
            match answer {
                _ if wishes.cancel.is_some() => {}
                Answer::InProgress => drop(wishes.in_progress.insert(number)),
                answer => wishes.answers.push((number, answer)),
            }
        });
    }

    fn result(&self, id: SubscriptionId, number: u64, result: &[u8]) {
        self.wish(id, |wishes| {
            if wishes.cancel.is_none() {
                wishes.results.push(number, result);
            }
        });
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.wish(id, |wishes| {
            wishes.parts.get_or_insert(reason);
            wishes.consumer = None;
        });
    }

    /// The events themselves are kept by the publisher's node, and need not go back.
    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<T>, Attempt)>) {
        let counts = unfinished.iter().map(|(events, attempt)| (events.len() as u64, *attempt)).collect();
        self.wish(id, |wishes| {
            wishes.cancel.get_or_insert((cause, counts));
            wishes.consumer = None;
        });
    }
}

/// There is room at once for so many results, and bytes of them.
const ROOM: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_of_an_unknown_subscription_are_ignored() {
        let id = SubscriptionId::new();
        let controls = Controls::of(id, Box::new(()));
        let publisher: &dyn Publisher<u64> = &controls;
        let unknown = SubscriptionId::new();
        publisher.ask(unknown, Demand::MAX);
        publisher.handled(unknown, Demand::MAX);
        publisher.cancel(unknown, Exit::Shutdown);
        publisher.ask(id, Demand::new(3));
        let wishes = controls.take();
        assert_eq!((wishes.up_to, wishes.handled), (Demand::new(3), None));
        assert!(wishes.cancel.is_none() && wishes.parts.is_none());
        publisher.cancel(id, Exit::Shutdown);
        assert!(matches!(controls.take().parts, Some(Exit::Shutdown)));
        publisher.leave(id, EndCause::Down(Exit::Normal), Vec::new());
        assert!(matches!(controls.take().cancel, Some((EndCause::Down(Exit::Normal), _))));
    }
}
