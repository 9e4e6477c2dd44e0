//! [`DemandDispatcher`]: each batch to the subscriber with the largest demand.

mod ranking;

use std::collections::{BTreeSet, VecDeque};

use ranking::Ranking;

use crate::bugs::bug;
use crate::subscribers::Subscribers;
use crate::{Attempt, Deliveries, Demand, Dispatcher, Interest, Lane, Refused, SubscriptionId};

/// Gives events to the subscriber with the largest outstanding demand: the default, and GenStage's `DemandDispatcher`.
///
/// A batch goes whole to one subscriber as far as its demand reaches; the rest to the next largest. Of equals the one
/// that has waited longer comes first. So work is shared by who is ready for it.
///
/// ```
/// use aqueduct_dispatcher::*;
///
/// let mut dispatcher = DemandDispatcher::new();
/// let mut deliveries = Deliveries::new();
/// let (first, second) = (SubscriptionId::new(), SubscriptionId::new());
/// for (id, demand) in [(first, 3), (second, 2)] {
///     dispatcher.subscribe(id, Interest::ALL)?;
///     dispatcher.ask(id, Demand::new(demand), &mut deliveries);
/// }
/// let mut events = (1..=6).collect();
/// dispatcher.dispatch(&mut events, Attempt::FIRST, &mut deliveries);
/// let mut given = std::iter::from_fn(|| match deliveries.pop()? {
///     Decision::Deliver(delivery) => Some((delivery.to, delivery.events.into_vec())),
///     _ => None,
/// });
/// assert_eq!(given.next(), Some((first, vec![1, 2, 3])));
/// assert_eq!(given.next(), Some((second, vec![4, 5])));
/// assert_eq!(events, [6]); // nobody asked for it
/// # Ok::<(), Refused>(())
/// ```
///
/// * **Guaranteed:** each event goes to one subscriber; each subscriber sees its events in order. Fairness is not: a
///   subscriber that asks for 10 at a time gets little beside one that asks for 1000
///   ([`RoundRobinDispatcher`](crate::RoundRobinDispatcher) is fair).
/// * **A slow subscriber**, whose demand stays low, gets less. It holds nobody up.
/// * **A leaving subscriber** takes its demand along; what was produced for it serves the next that asks.
/// * **A new subscriber** is served from its first ask on.
/// * **With [selectors](Interest::selector)** the subscribers stand in the same order, and each event goes to the first
///   that accepts it and has demand left; each gets one batch. What everybody refuses is discarded and counted, and
///   the demand for it stays. What only subscribers without demand accept waits for them, and so does everything
///   behind it: a subscriber that does not ask then holds the others up. A selector that panics ends its subscription,
///   which keeps what it was given before, and no other.
///
/// GenStage offers selectors for broadcasts only. Its [shuffle](Self::shuffle) stalls if the first of the shuffled
/// subscribers has no demand; ours passes it over.
#[derive(Debug)]
pub struct DemandDispatcher<T> {
    subscribers: Subscribers<T>,
    /// Their slots by demand, largest first; a new equal stands behind the old ones.
    ranking: Ranking,
    /// The seed, before the first dispatch.
    shuffle: Option<u64>,
    /// An ask above it is remarked upon.
    max_demand: Option<Demand>,
    /// Whose asks were remarked upon; they are not again.
    remarked: BTreeSet<SubscriptionId>,
}

impl<T> DemandDispatcher<T> {
    /// A dispatcher without subscribers.
    pub const fn new() -> Self {
        Self {
            subscribers: Subscribers::new(),
            ranking: Ranking::new(),
            shuffle: None,
            max_demand: None,
            remarked: BTreeSet::new(),
        }
    }

    /// Serves subscribers in a random order in the first dispatch, whatever their demand (GenStage's
    /// `shuffle_demands_on_first_dispatch`). Default: the largest first, of equals the first to ask.
    ///
    /// It helps where many producers have the same subscribers: otherwise each of them sends its first batch to the
    /// same one. The same seed gives the same order, so each producer needs one of its own.
    #[must_use]
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.shuffle = Some(seed);
        self
    }

    /// The most events that a subscriber is expected to ask for at once. Default: the first ask there is.
    ///
    /// A larger ask is honoured, and logged as a warning once for each subscription: whoever asks for much more than
    /// the others starves them.
    #[must_use]
    pub fn max_demand(mut self, max_demand: Demand) -> Self {
        self.max_demand = Some(max_demand);
        self
    }

    /// Whether what [`demand`](Dispatcher::demand) says depends on the events, because some subscriber is choosy.
    pub(crate) fn has_selectors(&self) -> bool {
        self.subscribers.has_selectors()
    }

    /// Tells that the event which stayed last is gone.
    pub(crate) fn unblock(&mut self) {
        self.subscribers.in_front();
    }

    fn remark_on(&mut self, id: SubscriptionId, demand: Demand) {
        let bound = *self.max_demand.get_or_insert(demand);
        if demand > bound && self.remarked.insert(id) {
            tracing::warn!(subscription = %id, asked = %demand, %bound, "expected asks of at most {bound}, got {demand}");
        }
    }

    /// Whole batches, to one after the other.
    fn dispatch_whole(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        while let Some(first) = self.ranking.first() {
            let count = self.subscribers.demand_at(first).as_len().min(events.len());
            if count == 0 {
                break;
            }
            deliveries.give(self.subscribers.id_at(first), events, count, attempt);
            let left = self.subscribers.spend(first, count);
            if left.is_zero() || !bug!(ServedStaysFirst) {
                self.ranking.rank(first, left);
            }
        }
    }

    /// Event by event, to the first in `order` that wants it.
    fn dispatch_each(
        &mut self,
        order: &[usize],
        events: &mut VecDeque<T>,
        attempt: Attempt,
        deliveries: &mut Deliveries<T>,
    ) {
        self.subscribers.deal(order, events, attempt, deliveries, 0, false);
        // Whoever got something stands behind its equals.
        let (served, others): (Vec<_>, Vec<_>) = order.iter().partition(|slot| self.subscribers.was_served(**slot));
        for slot in others.into_iter().chain(served) {
            self.ranking.rank(slot, self.subscribers.demand_at(slot));
        }
        for slot in self.subscribers.forget_failed(order, deliveries) {
            self.ranking.remove(slot);
        }
    }
}

impl<T> Default for DemandDispatcher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Dispatcher<T> for DemandDispatcher<T> {
    fn subscribe(&mut self, id: SubscriptionId, interest: Interest<T>) -> Result<(), Refused> {
        self.ranking.insert(self.subscribers.admit(id, interest)?);
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        if let Some(slot) = self.subscribers.slot(id) {
            self.remark_on(id, demand);
            self.ranking.rank(slot, self.subscribers.add(slot, demand));
        }
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        if let Some(slot) = self.subscribers.remove(id) {
            self.ranking.remove(slot);
            self.remarked.remove(&id);
        }
    }

    fn demand(&self) -> Demand {
        self.subscribers.demand()
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        if events.is_empty() || !self.subscribers.can_give() {
            return;
        }
        if let Some(seed) = self.shuffle.take() {
            let mut order = self.ranking.sorted();
            shuffle(&mut order, seed);
            self.dispatch_each(&order, events, attempt, deliveries);
        } else if self.subscribers.has_selectors() {
            self.dispatch_each(&self.ranking.sorted(), events, attempt, deliveries);
        } else {
            self.dispatch_whole(events, attempt, deliveries);
        }
    }

    fn give_back(&mut self, _: Lane, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        let blocked = self.subscribers.in_front();
        self.dispatch(events, attempt, deliveries);
        self.subscribers.behind(blocked);
    }
}

/// Fisher and Yates, with the numbers of SplitMix64.
fn shuffle<S>(list: &mut [S], mut seed: u64) {
    for last in (1..list.len()).rev() {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let other = (mixed ^ (mixed >> 31)) % (last as u64 + 1);
        list.swap(last, usize::try_from(other).expect("it is at most `last`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decision;

    /// A dispatcher of numbered events, and what it decided.
    #[derive(Default)]
    struct Bench {
        dispatcher: DemandDispatcher<u32>,
        deliveries: Deliveries<u32>,
    }

    impl Bench {
        fn subscriber(&mut self) -> SubscriptionId {
            let id = SubscriptionId::new();
            Dispatcher::<u32>::subscribe(&mut self.dispatcher, id, Interest::ALL).expect("a new one");
            id
        }

        fn ask(&mut self, id: SubscriptionId, n: u64) {
            self.dispatcher.ask(id, Demand::new(n), &mut self.deliveries);
        }

        /// What was left over.
        fn dispatch(&mut self, events: impl IntoIterator<Item = u32>) -> Vec<u32> {
            let mut events = events.into_iter().collect();
            self.dispatcher.dispatch(&mut events, Attempt::FIRST, &mut self.deliveries);
            events.into()
        }

        fn given(&mut self) -> Vec<(SubscriptionId, Vec<u32>)> {
            let deliveries = std::iter::from_fn(|| self.deliveries.pop()).map(|decision| match decision {
                Decision::Deliver(delivery) => (delivery.to, delivery.events.into_vec()),
                other => panic!("{other:?}"),
            });
            deliveries.collect()
        }

        fn demands(&self) -> Vec<u64> {
            let order = self.dispatcher.ranking.sorted();
            order.into_iter().map(|slot| self.dispatcher.subscribers.demand_at(slot).count()).collect()
        }

        fn total(&self) -> Demand {
            Dispatcher::<u32>::demand(&self.dispatcher)
        }
    }

    #[test]
    fn a_leaving_subscriber_takes_its_demand_along() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, 3);
        b.ask(second, 3);
        assert_eq!(b.total(), Demand::new(6));
        b.dispatcher.cancel(first, &mut b.deliveries);
        assert_eq!(b.total(), Demand::new(3));
        assert_eq!(b.dispatch(0..5), [3, 4]);
        assert_eq!(b.given(), [(second, vec![0, 1, 2])]);
    }

    #[test]
    fn subscribers_stand_in_the_order_of_their_demand() {
        let mut b = Bench::default();
        let (first, second, third) = (b.subscriber(), b.subscriber(), b.subscriber());
        for (id, n) in [(first, 4), (second, 2), (third, 3)] {
            b.ask(id, n);
        }
        assert_eq!(b.demands(), [4, 3, 2]);
        b.ask(third, 2);
        assert_eq!(b.demands(), [5, 4, 2]);
        b.ask(second, 4);
        assert_eq!(b.demands(), [6, 5, 4]);
    }

    #[test]
    fn a_batch_is_split_by_demand_and_equals_take_turns() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, 3);
        b.ask(second, 2);
        assert!(b.dispatch(0..5).is_empty());
        assert_eq!(b.given(), [(first, vec![0, 1, 2]), (second, vec![3, 4])]);
        assert_eq!(b.dispatch(5..7), [5, 6], "no demand");
        b.ask(first, 3);
        b.ask(second, 3);
        assert!(b.dispatch([7, 8]).is_empty());
        assert_eq!(b.given(), [(first, vec![7, 8])]);
        assert!(b.dispatch([9, 10]).is_empty());
        assert_eq!(b.given(), [(second, vec![9, 10])]);
        assert_eq!(b.dispatch([11, 12, 13]), [13]);
        assert_eq!(b.given(), [(first, vec![11]), (second, vec![12])]);
    }

    #[test]
    fn demand_without_bound_is_served_and_leaves_without_a_trace() {
        let mut b = Bench::default();
        let (first, second) = (b.subscriber(), b.subscriber());
        b.ask(first, u64::MAX);
        b.ask(second, u64::MAX);
        assert_eq!(b.total(), Demand::MAX);
        assert!(b.dispatch(0..4).is_empty());
        b.dispatcher.cancel(first, &mut b.deliveries);
        b.dispatcher.cancel(second, &mut b.deliveries);
        assert_eq!(b.total(), Demand::ZERO);
    }

    #[test]
    fn an_unknown_subscriber_is_ignored_and_a_known_one_refused() {
        let mut b = Bench::default();
        let first = b.subscriber();
        let again = Dispatcher::<u32>::subscribe(&mut b.dispatcher, first, Interest::ALL);
        assert_eq!(again, Err(Refused::AlreadySubscribed));
        b.dispatcher.cancel(first, &mut b.deliveries);
        b.dispatcher.cancel(first, &mut b.deliveries);
        b.ask(first, 10);
        assert_eq!(b.dispatch(0..1), [0]);
    }

    #[test]
    fn selectors_that_accept_everything_change_nothing() {
        let run = |interest: Interest<u32>, seed: u64| {
            let mut b = Bench::default();
            let ids = [(); 4].map(|()| SubscriptionId::new());
            let mut numbers = seed;
            let mut random = |below: u64| {
                numbers = numbers.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (numbers >> 33) % below
            };
            ids.iter().for_each(|id| b.dispatcher.subscribe(*id, interest.clone()).expect("a new one"));
            let mut all = Vec::new();
            for round in 0..20 {
                b.ask(ids[random(4) as usize], random(6));
                let left = b.dispatch(round * 10..round * 10 + random(6) as u32);
                let given = b.given().into_iter().map(|(id, events)| (ids.iter().position(|i| *i == id), events));
                all.push((given.collect::<Vec<_>>(), left, b.demands()));
            }
            all
        };
        for seed in 0..200 {
            let everything: crate::Selector<u32> = std::sync::Arc::new(|_| true);
            assert_eq!(run(Interest::ALL, seed), run(Interest { selector: Some(everything), partition: None }, seed));
        }
    }

    #[test]
    fn what_waits_for_somebody_without_demand_lets_nothing_pass_until_it_asks() {
        let mut b = Bench::default();
        let (even, odd) = (SubscriptionId::new(), SubscriptionId::new());
        for (id, rest) in [(even, 0), (odd, 1)] {
            let selector: crate::Selector<u32> = std::sync::Arc::new(move |event| event % 2 == rest && *event < 100);
            b.dispatcher.subscribe(id, Interest { selector: Some(selector), partition: None }).expect("a new one");
        }
        b.ask(even, 5);
        assert_eq!(b.dispatch([100, 0, 2, 3, 4]), [3, 4]);
        assert_eq!(b.deliveries.take_counts(), (1, 0), "nobody wants 100");
        assert_eq!(b.given(), [(even, vec![0, 2])]);
        assert_eq!((b.total(), b.dispatch([6])), (Demand::ZERO, vec![6]), "nothing passes");
        b.ask(odd, 1);
        assert_eq!(b.total(), Demand::new(4));
        assert!(b.dispatch([3, 4]).is_empty());
        assert_eq!(b.given(), [(even, vec![4]), (odd, vec![3])]);
    }

    #[test]
    fn what_is_given_back_lets_nothing_newer_pass_what_waits() {
        let mut b = Bench::default();
        let (even, odd) = (SubscriptionId::new(), SubscriptionId::new());
        for (id, rest) in [(even, 0), (odd, 1)] {
            let selector: crate::Selector<u32> = std::sync::Arc::new(move |event| event % 2 == rest);
            b.dispatcher.subscribe(id, Interest { selector: Some(selector), partition: None }).expect("a new one");
        }
        b.ask(even, 5);
        assert_eq!(b.dispatch([3]), [3]);
        let mut back = [2].into();
        b.dispatcher.give_back(Lane::COMMON, &mut back, Attempt::FIRST.next(), &mut b.deliveries);
        assert_eq!((back.is_empty(), b.given()), (true, vec![(even, vec![2])]));
        assert_eq!((b.total(), b.dispatch([4])), (Demand::ZERO, vec![4]));
    }

    #[test]
    fn what_waits_for_a_subscriber_whose_selector_panics_at_what_is_given_back_waits_no_more() {
        let mut b = Bench::default();
        let (fragile, odd) = (SubscriptionId::new(), SubscriptionId::new());
        let panics: crate::Selector<u32> =
            std::sync::Arc::new(|event| if *event == 2 { std::panic::resume_unwind(Box::new("two")) } else { true });
        let odds: crate::Selector<u32> = std::sync::Arc::new(|event| event % 2 == 1);
        for (id, selector) in [(fragile, panics), (odd, odds)] {
            b.dispatcher.subscribe(id, Interest { selector: Some(selector), partition: None }).expect("a new one");
        }
        b.ask(odd, 5);
        assert_eq!((b.dispatch([4]), b.total()), (vec![4], Demand::ZERO));
        let mut back = [2].into();
        b.dispatcher.give_back(Lane::COMMON, &mut back, Attempt::FIRST.next(), &mut b.deliveries);
        assert!(b.deliveries.pop().is_some_and(|decision| matches!(decision, Decision::Fail(id, _) if id == fragile)));
        assert_eq!(b.total(), Demand::new(5), "nobody else is waited for");
    }

    #[test]
    fn a_panicking_selector_ends_its_subscription_and_takes_its_demand_along() {
        let mut b = Bench::default();
        let (first, second) = (SubscriptionId::new(), b.subscriber());
        let selector: crate::Selector<u32> =
            std::sync::Arc::new(|event| if *event == 2 { std::panic::resume_unwind(Box::new("two")) } else { true });
        b.dispatcher.subscribe(first, Interest { selector: Some(selector), partition: None }).expect("a new one");
        b.ask(first, 9);
        b.ask(second, 2);
        assert_eq!(b.dispatch(0..5), [4]);
        let decisions: Vec<_> = std::iter::from_fn(|| b.deliveries.pop()).map(|d| format!("{d:?}")).collect();
        assert!(decisions[0].contains("[0, 1]") && decisions[1].contains("[2, 3]"), "{decisions:?}");
        assert_eq!(decisions[2], format!("Fail({first:?}, \"its selector panicked: two\")"));
        assert_eq!(b.total(), Demand::ZERO);
    }
}
