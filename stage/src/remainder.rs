//! [`Returned`] and [`Remainder`]: what is left of a producer that has ended, for a consumer that comes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Attempt, Demand, Events, SubscriptionId};

use crate::{EndCause, Exit, Publisher, Subscriber, Subscription};

/// What subscribers handed back after a stage had ended, for when they come again. Bounded by the demand that they had
/// granted.
pub(crate) struct Returned<O>(Mutex<BTreeMap<SubscriptionId, Unfinished<O>>>);

/// Batches, oldest first, each with the number of the attempt that is to follow.
type Unfinished<O> = Vec<(Events<O>, Attempt)>;

impl<O> Returned<O> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(BTreeMap::new())))
    }

    pub(crate) fn keep(&self, id: SubscriptionId, unfinished: Unfinished<O>) {
        if !unfinished.is_empty() {
            self.lock().entry(id).or_default().extend(unfinished);
        }
    }

    pub(crate) fn take(&self, id: SubscriptionId) -> Unfinished<O> {
        self.lock().remove(&id).unwrap_or_default()
    }

    /// Drops everything; returns how many events that were.
    pub(crate) fn clear(&self) -> usize {
        let returned = std::mem::take(&mut *self.lock());
        returned.values().flatten().map(|(events, _)| events.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SubscriptionId, Unfinished<O>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The publishing end of a subscription to a producer that was exhausted before its consumer was restarted: it gives
/// what the consumer had handed back, which is nothing unless it acknowledges, and then ends as the producer did.
pub(crate) struct Remainder<T> {
    id: SubscriptionId,
    subscriber: Arc<dyn Subscriber<T>>,
    returned: Arc<Returned<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    left: VecDeque<(Events<T>, Attempt)>,
    given: Demand,
    is_over: bool,
}

impl<T: Send + 'static> Remainder<T> {
    pub(crate) fn open(
        returned: Arc<Returned<T>>,
        former: &[SubscriptionId],
        Subscription { id, subscriber, .. }: Subscription<T>,
    ) -> Arc<dyn Publisher<T>> {
        let left: VecDeque<_> = former.iter().flat_map(|former| returned.take(*former)).collect();
        let state = Mutex::new(State { left, given: Demand::ZERO, is_over: false });
        let remainder = Self { id, subscriber, returned, state };
        remainder.give(Demand::ZERO);
        Arc::new(remainder)
    }

    /// Of a producer that had ended before anything of it could be had: it ends at once.
    pub(crate) fn nothing(subscription: Subscription<T>) -> Arc<dyn Publisher<T>> {
        Self::open(Returned::new(), &[], subscription)
    }

    /// Gives up to so many events in all, and says so if they were the last.
    fn give(&self, up_to: Demand) {
        let mut state = self.lock();
        while let Some((mut events, attempt)) = state.left.pop_front() {
            let wanted = up_to.saturating_sub(state.given).as_len();
            if wanted < events.len() {
                let rest = events.split_off(wanted);
                state.left.push_front((rest, attempt));
            }
            if events.is_empty() {
                return;
            }
            state.given.add(Demand::from(events.len()));
            self.subscriber.deliver(self.id, events, attempt);
        }
        if !std::mem::replace(&mut state.is_over, true) {
            self.subscriber.ended(self.id, EndCause::Down(Exit::Normal));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Publisher<T> for Remainder<T> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        if id == self.id {
            self.give(up_to);
        }
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.leave(id, EndCause::Cancelled(reason), Vec::new());
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, mut unfinished: Vec<(Events<T>, Attempt)>) {
        let mut state = self.lock();
        unfinished.extend(std::mem::take(&mut state.left));
        self.returned.keep(id, unfinished);
        if !std::mem::replace(&mut state.is_over, true) {
            self.subscriber.ended(id, EndCause::Cancelled(cause.reason().clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConsumerId;

    #[derive(Default)]
    struct Ear(Mutex<Vec<String>>);

    impl Subscriber<u64> for Ear {
        fn deliver(&self, _: SubscriptionId, events: Events<u64>, attempt: Attempt) {
            self.0.lock().expect("not poisoned").push(format!("{:?} {}", events.into_vec(), attempt.number()));
        }

        fn ended(&self, _: SubscriptionId, cause: EndCause) {
            self.0.lock().expect("not poisoned").push(cause.to_string());
        }
    }

    fn open(
        returned: &Arc<Returned<u64>>,
        former: SubscriptionId,
    ) -> (SubscriptionId, Arc<dyn Publisher<u64>>, Arc<Ear>) {
        let (id, ear) = (SubscriptionId::new(), Arc::new(Ear::default()));
        let subscription = Subscription {
            id,
            consumer: ConsumerId::new(),
            options: Default::default(),
            interest: Default::default(),
            subscriber: Arc::clone(&ear) as _,
        };
        (id, Remainder::open(Arc::clone(returned), &[former], subscription), ear)
    }

    #[test]
    fn gives_what_was_handed_back_as_it_is_asked_for_and_then_ends() {
        let (returned, former) = (Returned::new(), SubscriptionId::new());
        let second = Attempt::FIRST.next();
        returned.keep(former, vec![(vec![1, 2, 3].into(), second), (vec![4].into(), Attempt::FIRST)]);
        let (id, remainder, ear) = open(&returned, former);
        remainder.ask(id, Demand::new(2));
        remainder.ask(id, Demand::new(2));
        remainder.ask(id, Demand::new(9));
        remainder.ask(id, Demand::new(99));
        let heard = ear.0.lock().expect("not poisoned").clone();
        assert_eq!(heard, ["[1, 2] 2", "[3] 2", "[4] 1", "down: normal"]);
    }

    #[test]
    fn what_is_handed_back_once_more_is_there_for_the_next_time() {
        let (returned, former) = (Returned::new(), SubscriptionId::new());
        returned.keep(former, vec![(vec![1, 2, 3].into(), Attempt::FIRST)]);
        let (id, remainder, _) = open(&returned, former);
        remainder.ask(id, Demand::new(2));
        remainder.leave(id, EndCause::Down(Exit::Shutdown), vec![(vec![1, 2].into(), Attempt::FIRST.next())]);
        let (id, remainder, ear) = open(&returned, id);
        remainder.ask(id, Demand::new(9));
        let heard = ear.0.lock().expect("not poisoned").clone();
        assert_eq!(heard, ["[1, 2] 2", "[3] 1", "down: normal"]);
    }

    #[test]
    fn without_anything_left_it_ends_at_once() {
        let (_, _, ear) = open(&Returned::new(), SubscriptionId::new());
        assert_eq!(*ear.0.lock().expect("not poisoned"), ["down: normal"]);
    }
}
