//! [`Subscribers`]: what the dispatchers share that give each event to *one* subscriber.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bugs::bug;
use crate::{Attempt, Deliveries, Demand, Interest, Refused, Selector, SubscriptionId};

/// Subscribers, each in a slot of its own. In which order they are served is the dispatcher's business.
#[derive(Debug)]
pub(crate) struct Subscribers<T> {
    /// Those of subscribers that have left among them.
    slots: Vec<Subscriber<T>>,
    /// The slots of those that are there.
    taken: BTreeMap<SubscriptionId, usize>,
    /// The others.
    free: Vec<usize>,
    /// The sum of their demands, which may be more than a [`Demand`] can say.
    total: u128,
    /// How many of them have a selector.
    selective: usize,
    /// The event to be dispatched next is wanted only by subscribers without demand. Until an ask, a cancel or a
    /// newcomer changes that, nothing may pass it.
    blocked: bool,
}

/// One subscriber and its demand.
struct Subscriber<T> {
    id: SubscriptionId,
    demand: Demand,
    selector: Option<Selector<T>>,
    /// Got something from the last [`Subscribers::deal`].
    served: bool,
    /// Its selector panicked: it is to be forgotten.
    failed: Option<String>,
}

/// Who is to get an event.
enum Choice {
    /// The one at this place of the order.
    Give(usize),
    /// Everybody refused it.
    Nobody,
    /// Whoever accepts it has no demand.
    Wait,
}

impl<T> Subscribers<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), taken: BTreeMap::new(), free: Vec::new(), total: 0, selective: 0, blocked: false }
    }

    /// Takes a newcomer in, without demand. Returns its slot.
    pub(crate) fn admit(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<usize, Refused> {
        if let Some(got) = interest.partition {
            return Err(Refused::NotPartitioned { got });
        }
        if self.taken.contains_key(&id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.blocked = false;
        self.selective += usize::from(interest.selector.is_some());
        let newcomer =
            Subscriber { id, demand: Demand::ZERO, selector: interest.selector, served: false, failed: None };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = newcomer;
                slot
            }
            None => {
                self.slots.push(newcomer);
                self.slots.len() - 1
            }
        };
        self.taken.insert(id, slot);
        Ok(slot)
    }

    /// Adds to a demand. Returns what it is now.
    pub(crate) fn add(&mut self, slot: usize, demand: Demand) -> Demand {
        let current = &mut self.slots[slot].demand;
        let before = current.count();
        current.add(demand);
        self.total += u128::from(current.count() - before);
        self.blocked = false;
        *current
    }

    /// Takes `count` from a demand. Returns what it is now.
    pub(crate) fn spend(&mut self, slot: usize, count: usize) -> Demand {
        let current = &mut self.slots[slot].demand;
        let spent = current.take(Demand::from(count));
        debug_assert_eq!(spent.as_len(), count);
        self.total -= u128::from(spent.count());
        *current
    }

    /// Forgets a subscriber. Returns the slot that it had.
    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Option<usize> {
        let slot = self.taken.remove(&id)?;
        let gone = &mut self.slots[slot];
        if !bug!(CancelledDemandStays) {
            self.total -= u128::from(gone.demand.count());
        }
        self.selective -= usize::from(gone.selector.take().is_some());
        self.blocked = false;
        self.free.push(slot);
        Some(slot)
    }

    /// Gives each event to the first in `order`, from the one at `first` on and around, that has demand and accepts it;
    /// `in_turn` moves `first` on behind whoever got one. What everybody refuses is discarded. Each subscriber gets one
    /// batch. Returns `first`.
    ///
    /// Those whose selectors panicked get nothing more, and are to be [forgotten](Self::forget_failed).
    pub(crate) fn deal(
        &mut self,
        order: &[usize],
        events: &mut VecDeque<T>,
        attempt: Attempt,
        deliveries: &mut Deliveries<T>,
        mut first: usize,
        in_turn: bool,
    ) -> usize {
        let mut batches: Vec<_> = order.iter().map(|_| Vec::new()).collect();
        while self.can_give()
            && let Some(event) = events.pop_front()
        {
            match self.choose(order, first, &event) {
                Choice::Give(at) => {
                    batches[at].push(event);
                    self.spend(order[at], 1);
                    if in_turn {
                        first = if at + 1 == order.len() { 0 } else { at + 1 };
                    }
                }
                Choice::Nobody => deliveries.discard(1),
                Choice::Wait => {
                    events.push_front(event);
                    self.blocked = true;
                }
            }
        }
        for (slot, batch) in order.iter().zip(batches) {
            let subscriber = &mut self.slots[*slot];
            subscriber.served = !batch.is_empty();
            if subscriber.served {
                deliveries.give_events(subscriber.id, batch, attempt);
            }
        }
        first
    }

    /// Forgets those in `order` whose selectors panicked, and says why. Returns their slots.
    pub(crate) fn forget_failed(&mut self, order: &[usize], deliveries: &mut Deliveries<T>) -> Vec<usize> {
        let mut failed = Vec::new();
        if !self.has_selectors() {
            return failed;
        }
        let blocked = self.blocked;
        for slot in order {
            let subscriber = &mut self.slots[*slot];
            if let Some(why) = subscriber.failed.take() {
                let id = subscriber.id;
                deliveries.fail(id, why);
                failed.extend(self.remove(id));
            }
        }
        // What it left behind is still in front.
        self.blocked = blocked && !self.taken.is_empty();
        failed
    }

    /// Lets what is older than an event that blocks be given out. Returns how many subscribers there are, if there is such an
    /// event.
    pub(crate) fn in_front(&mut self) -> Option<usize> {
        std::mem::take(&mut self.blocked).then_some(self.taken.len())
    }

    /// Restores what [`in_front`](Self::in_front) returned, unless somebody was forgotten meanwhile: the event may have waited
    /// for that one.
    pub(crate) fn behind(&mut self, blocked: Option<usize>) {
        self.blocked |= blocked == Some(self.taken.len()) && !bug!(BlockedIsPassed);
    }

    pub(crate) fn slot(&self, id: SubscriptionId) -> Option<usize> {
        self.taken.get(&id).copied()
    }

    pub(crate) fn id_at(&self, slot: usize) -> SubscriptionId {
        self.slots[slot].id
    }

    pub(crate) fn demand_at(&self, slot: usize) -> Demand {
        self.slots[slot].demand
    }

    /// Whether it got something from the last [`deal`](Self::deal).
    pub(crate) fn was_served(&self, slot: usize) -> bool {
        self.slots[slot].served
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

    fn choose(&mut self, order: &[usize], first: usize, event: &T) -> Choice {
        let mut none = Choice::Wait;
        let mut somebody_waits = false;
        for at in (first..order.len()).chain(0..first) {
            let subscriber = &mut self.slots[order[at]];
            if subscriber.failed.is_some() || (somebody_waits && subscriber.demand.is_zero()) {
                continue;
            }
            let selector = subscriber.selector.as_ref().filter(|_| order.len() > 1 || !bug!(SelectorOfOneIgnored));
            match accepts(selector, event) {
                Ok(true) if !subscriber.demand.is_zero() => return Choice::Give(at),
                Ok(true) => somebody_waits = true,
                Ok(false) => none = Choice::Nobody,
                Err(why) => {
                    subscriber.failed = Some(why);
                    let demand = subscriber.demand.as_len();
                    self.spend(order[at], demand);
                }
            }
        }
        if somebody_waits { Choice::Wait } else { none }
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
        Some(selector) => {
            catch_unwind(AssertUnwindSafe(|| selector(event))).map_err(|panic| panicked("its selector", &*panic))
        }
    }
}

/// What a function panicked with, as a sentence.
pub(crate) fn panicked(function: &str, panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("{function} panicked: {}", text.unwrap_or("a value that is not a string"))
}
