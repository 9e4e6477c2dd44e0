//! The dispatchers that the laws are checked on, and where their partition functions send an event.

use std::collections::VecDeque;
use std::panic::resume_unwind;

use aqueduct_dispatcher::{
    Attempt, BroadcastDispatcher, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest, Overflow,
    PartitionDispatcher, Partitions, Refused, RoundRobinDispatcher, SubscriptionId,
};

/// A dispatcher with its options.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    ByDemand { shuffled: bool },
    RoundRobin,
    Broadcast,
    Partition(Rules),
    FirstCome,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) count: usize,
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    pub(crate) hash: Hash,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Hash {
    Plain,
    /// Changes each event, and discards some.
    Changing,
    /// Panics at some events, and sends others where nothing is.
    Failing,
}

/// Where an event belongs.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Lane(usize),
    Discarded,
    OutOfRange,
    Panics,
}

/// [`Hash::Changing`] adds this.
pub(crate) const CHANGED: u64 = 1 << 32;

impl Rules {
    pub(crate) fn place(self, event: u64) -> Place {
        let event = event as usize;
        match (self.hash, event % 5, event % 7) {
            (Hash::Changing, 3, _) => Place::Discarded,
            (Hash::Changing, ..) => Place::Lane(event / 2 % self.count),
            (Hash::Failing, _, 2) => Place::Panics,
            (Hash::Failing, _, 5) => Place::OutOfRange,
            _ => Place::Lane(event % self.count),
        }
    }

    pub(crate) fn hash(self, event: u64) -> Option<(u64, usize)> {
        let change = if matches!(self.hash, Hash::Changing) { CHANGED } else { 0 };
        assert!(event < CHANGED, "hashed twice");
        match self.place(event) {
            Place::Lane(lane) => Some((event + change, lane)),
            Place::Discarded => None,
            Place::OutOfRange => Some((event, self.count)),
            Place::Panics => resume_unwind(Box::new("no place")),
        }
    }
}

impl Subject {
    pub(crate) fn make(self, seed: u64) -> Box<dyn Dispatcher<u64>> {
        match self {
            Self::ByDemand { shuffled: false } => Box::new(DemandDispatcher::new()),
            Self::ByDemand { shuffled: true } => Box::new(DemandDispatcher::new().shuffle(seed)),
            Self::RoundRobin => Box::new(RoundRobinDispatcher::new()),
            Self::Broadcast => Box::new(BroadcastDispatcher::new()),
            Self::FirstCome => Box::new(FirstCome::default()),
            Self::Partition(rules) => {
                let partitions = Partitions::numbered(rules.count).expect("at least one");
                let dispatcher = PartitionDispatcher::new(partitions, move |event| rules.hash(event));
                Box::new(dispatcher.capacity(rules.capacity).overflow(rules.overflow))
            }
        }
    }
}

/// A dispatcher as a user might write it: everything to the first who still wants some.
#[derive(Default)]
pub(crate) struct FirstCome(Vec<(SubscriptionId, Demand)>);

impl<T> Dispatcher<T> for FirstCome {
    fn subscribe(&mut self, id: SubscriptionId, _: Interest<T>) -> Result<(), Refused> {
        if self.0.iter().any(|(other, _)| *other == id) {
            return Err(Refused::AlreadySubscribed);
        }
        self.0.push((id, Demand::ZERO));
        Ok(())
    }

    fn ask(&mut self, id: SubscriptionId, demand: Demand, _: &mut Deliveries<T>) {
        self.0.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, current)| current.add(demand));
    }

    fn cancel(&mut self, id: SubscriptionId, _: &mut Deliveries<T>) {
        self.0.retain(|(other, _)| *other != id);
    }

    fn demand(&self) -> Demand {
        self.0.iter().fold(Demand::ZERO, |sum, (_, demand)| sum.saturating_add(*demand))
    }

    fn dispatch(&mut self, events: &mut VecDeque<T>, attempt: Attempt, deliveries: &mut Deliveries<T>) {
        for (id, demand) in &mut self.0 {
            let count = demand.take(Demand::from(events.len())).as_len();
            deliveries.give(*id, events, count, attempt);
        }
    }
}
