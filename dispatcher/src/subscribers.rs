//! [`Subscribers`]: what the dispatchers share that give each event to *one* subscriber.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Attempt, Deliveries, Demand, Interest, Refused, Selector, SubscriptionId};

/// One subscriber and its demand.
pub(crate) struct Subscriber<T> {
    pub(crate) id: SubscriptionId,
    pub(crate) demand: Demand,
    selector: Option<Selector<T>>,
    /// Got something from the last [`Subscribers::deal`].
    pub(crate) served: bool,
    /// Its selector panicked: it is to be forgotten.
    failed: Option<String>,
}

/// Subscribers in an order that the dispatcher chooses.
#[derive(Debug)]
pub(crate) struct Subscribers<T> {
    list: Vec<Subscriber<T>>,
    /// The sum of their demands, which may be more than a [`Demand`] can say.
    total: u128,
    /// How many of them have a selector.
    selective: usize,
    /// The event to be dispatched next is wanted only by subscribers without demand. Until an ask, a cancel or a
    /// newcomer changes that, nothing may pass it.
    blocked: bool,
}

/// Who is to get an event.
enum Choice {
    Give(usize),
    /// Everybody refused it.
    Nobody,
    /// Whoever accepts it has no demand.
    Wait,
}

impl<T> Subscribers<T> {
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new(), total: 0, selective: 0, blocked: false }
    }

    /// Puts a newcomer without demand at the end.
    pub(crate) fn admit(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        if let Some(got) = interest.partition {
            return Err(Refused::NotPartitioned { got });
        }
        if self.position(id).is_some() {
            return Err(Refused::AlreadySubscribed);
        }
        self.blocked = false;
        self.selective += usize::from(interest.selector.is_some());
        let selector = interest.selector;
        self.list.push(Subscriber { id, demand: Demand::ZERO, selector, served: false, failed: None });
        Ok(())
    }

    /// Adds to the demand of the subscriber at `at`.
    pub(crate) fn add(&mut self, at: usize, demand: Demand) {
        let current = &mut self.list[at].demand;
        let before = current.count();
        current.add(demand);
        self.total += u128::from(current.count() - before);
        self.blocked = false;
    }

    /// Takes `count` from the demand of the subscriber at `at`.
    pub(crate) fn spend(&mut self, at: usize, count: usize) {
        let spent = self.list[at].demand.take(Demand::from(count));
        debug_assert_eq!(spent.as_len(), count);
        self.total -= u128::from(spent.count());
    }

    /// Forgets a subscriber. Returns the place where it stood.
    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Option<usize> {
        let at = self.position(id)?;
        self.remove_at(at);
        Some(at)
    }

    /// Gives each event to the first subscriber, from the one at `first` on and around, that has demand and accepts
    /// it; `in_turn` moves `first` on behind whoever got one. What everybody refuses is discarded. Each subscriber
    /// gets one batch. Returns `first`.
    pub(crate) fn deal(
        &mut self,
        events: &mut VecDeque<T>,
        attempt: Attempt,
        deliveries: &mut Deliveries<T>,
        mut first: usize,
        in_turn: bool,
    ) -> usize {
        let share = if in_turn { events.len() / self.list.len().max(1) + 1 } else { 0 };
        let size = |subscriber: &Subscriber<T>| share.min(subscriber.demand.as_len());
        let mut batches: Vec<Vec<T>> =
            self.list.iter().map(|subscriber| Vec::with_capacity(size(subscriber))).collect();
        while self.can_give()
            && let Some(event) = events.pop_front()
        {
            match self.choose(first, &event) {
                Choice::Give(at) => {
                    batches[at].push(event);
                    self.spend(at, 1);
                    if in_turn {
                        first = if at + 1 == self.list.len() { 0 } else { at + 1 };
                    }
                }
                Choice::Nobody => deliveries.discard(1),
                Choice::Wait => {
                    events.push_front(event);
                    self.blocked = true;
                }
            }
        }
        for (subscriber, batch) in self.list.iter_mut().zip(batches) {
            subscriber.served = !batch.is_empty();
            if subscriber.served {
                deliveries.give_events(subscriber.id, batch, attempt);
            }
        }
        self.forget_failed(first, deliveries)
    }

    /// Lets `give` act in front of an event that blocks: what it gives is older.
    pub(crate) fn in_front(&mut self) -> bool {
        std::mem::take(&mut self.blocked)
    }

    /// Restores what [`in_front`](Self::in_front) returned.
    pub(crate) fn behind(&mut self, blocked: bool) {
        self.blocked |= blocked;
    }

    pub(crate) fn position(&self, id: SubscriptionId) -> Option<usize> {
        self.list.iter().position(|subscriber| subscriber.id == id)
    }

    pub(crate) fn list(&self) -> &[Subscriber<T>] {
        &self.list
    }

    /// The list, to be put in another order.
    pub(crate) fn reorder(&mut self) -> &mut Vec<Subscriber<T>> {
        &mut self.list
    }

    /// What could be given out now.
    pub(crate) fn demand(&self) -> Demand {
        if self.blocked { Demand::ZERO } else { Demand::new(u64::try_from(self.total).unwrap_or(u64::MAX)) }
    }

    pub(crate) fn can_give(&self) -> bool {
        self.total > 0 && !self.blocked
    }

    pub(crate) fn has_selectors(&self) -> bool {
        self.selective > 0
    }

    fn choose(&mut self, first: usize, event: &T) -> Choice {
        let mut none = Choice::Wait;
        let mut somebody_waits = false;
        for at in (first..self.list.len()).chain(0..first) {
            let subscriber = &mut self.list[at];
            if subscriber.failed.is_some() || (somebody_waits && subscriber.demand.is_zero()) {
                continue;
            }
            match accepts(subscriber.selector.as_ref(), event) {
                Ok(true) if !subscriber.demand.is_zero() => return Choice::Give(at),
                Ok(true) => somebody_waits = true,
                Ok(false) => none = Choice::Nobody,
                Err(why) => {
                    subscriber.failed = Some(why);
                    let demand = subscriber.demand.as_len();
                    self.spend(at, demand);
                }
            }
        }
        if somebody_waits { Choice::Wait } else { none }
    }

    fn forget_failed(&mut self, mut first: usize, deliveries: &mut Deliveries<T>) -> usize {
        if !self.has_selectors() {
            return first;
        }
        let blocked = self.blocked;
        let mut at = 0;
        while at < self.list.len() {
            if let Some(why) = self.list[at].failed.take() {
                deliveries.fail(self.remove_at(at), why);
                first -= usize::from(at < first);
            } else {
                at += 1;
            }
        }
        // What it left behind is still in front.
        self.blocked = blocked && !self.list.is_empty();
        if first < self.list.len() { first } else { 0 }
    }

    fn remove_at(&mut self, at: usize) -> SubscriptionId {
        let gone = self.list.remove(at);
        self.total -= u128::from(gone.demand.count());
        self.selective -= usize::from(gone.selector.is_some());
        self.blocked = false;
        gone.id
    }
}

impl<T> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.demand)
    }
}

/// What a selector says of an event; everything is accepted without one. The error is what it panicked with.
pub(crate) fn accepts<T>(selector: Option<&Selector<T>>, event: &T) -> Result<bool, String> {
    match selector {
        None => Ok(true),
        Some(selector) => catch_unwind(AssertUnwindSafe(|| selector(event))).map_err(|panic| message(&*panic)),
    }
}

/// What a selector panicked with, as a sentence.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the selector panicked: {}", text.unwrap_or("no message"))
}
