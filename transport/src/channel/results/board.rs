//! [`Board`]: how many values each worker of a results-only channel may send, and which have come. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aqueduct_stage::{Demand, SubscriptionId};

use super::SenderId;

/// The workers of a channel, and how far each sender has come.
///
/// Room for a value is a *ticket*: an event of the worker's link, which it answers with a value. A worker has, in tickets and
/// in values that nobody has received, no more than its window; all workers together no more than the capacity.
#[derive(Debug)]
pub(super) struct Board {
    capacity: usize,
    /// Tickets and unreceived values.
    used: usize,
    places: BTreeMap<SubscriptionId, Place>,
    senders: BTreeMap<SenderId, Progress>,
    /// Those whose place is gone, oldest first; at most [`MAX_GONE`].
    gone: VecDeque<SenderId>,
    /// Whose turn it is when there is not enough for all: those behind this one.
    turn: Option<SubscriptionId>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Place {
    window: usize,
    asked: u64,
    /// Tickets given in all.
    given: u64,
    /// Tickets that are not used, by their numbers.
    tickets: BTreeSet<u64>,
    /// Values that came and were not received.
    unreceived: usize,
    sender: Option<SenderId>,
}

/// Of one sender, over all its places.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The number of the last value that came.
    accepted: u64,
    /// The number of the last one that was received.
    received: u64,
}

/// A ticket for a worker, with the number of the last of its values that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) to: SubscriptionId,
    pub(super) received: u64,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It goes to the receiver.
    New,
    /// It came before, on another link of the same sender, or nobody waits for it here.
    Dropped,
    /// The sender skips values, or says that it is another one.
    Broken,
}

impl Board {
    pub(super) fn new(capacity: usize) -> Self {
        let (places, senders, gone) = Default::default();
        Self { capacity, used: 0, places, senders, gone, turn: None, is_closed: false }
    }

    pub(super) fn enter(&mut self, id: SubscriptionId, window: usize) {
        self.places.insert(id, Place { window, ..Place::default() });
    }

    /// A worker wants `up_to` tickets in all.
    pub(super) fn ask(&mut self, id: SubscriptionId, up_to: Demand) {
        if let Some(place) = self.places.get_mut(&id) {
            place.asked = place.asked.max(up_to.count());
        }
    }

    /// A worker uses a ticket for value `number` of `sender`.
    pub(super) fn arrive(&mut self, id: SubscriptionId, ticket: u64, sender: &SenderId, number: u64) -> Arrival {
        let Some(place) = self.places.get_mut(&id) else { return Arrival::Dropped };
        if self.is_closed || !place.tickets.remove(&ticket) {
            return Arrival::Dropped;
        }
        self.used -= 1;
        if place.sender.get_or_insert_with(|| sender.clone()) != sender || number == 0 {
            return Arrival::Broken;
        }
        self.gone.retain(|gone| gone != sender);
        let progress = self.senders.entry(sender.clone()).or_default();
        if number <= progress.accepted {
            return Arrival::Dropped;
        }
        // One that is not known begins where it will: its earlier values came to an earlier server.
        if progress.accepted > 0 && number > progress.accepted + 1 {
            return Arrival::Broken;
        }
        progress.accepted = number;
        place.unreceived += 1;
        self.used += 1;
        Arrival::New
    }

    /// A worker gives a ticket back.
    pub(super) fn give_back(&mut self, id: SubscriptionId, ticket: u64) {
        if self.places.get_mut(&id).is_some_and(|place| place.tickets.remove(&ticket)) {
            self.used -= 1;
        }
    }

    /// Value `number` of `sender`, which came from `id`, was received.
    pub(super) fn receive(&mut self, id: SubscriptionId, sender: &SenderId, number: u64) {
        self.used -= 1;
        if let Some(progress) = self.senders.get_mut(sender) {
            progress.received = progress.received.max(number);
        }
        if let Some(place) = self.places.get_mut(&id) {
            place.unreceived -= 1;
        }
    }

    /// A worker is gone; its values are not.
    pub(super) fn leave(&mut self, id: SubscriptionId) {
        let Some(place) = self.places.remove(&id) else { return };
        self.used -= place.tickets.len();
        let Some(sender) = place.sender else { return };
        if self.places.values().all(|other| other.sender.as_ref() != Some(&sender)) {
            self.gone.push_back(sender);
        }
        if self.gone.len() > MAX_GONE
            && let Some(forgotten) = self.gone.pop_front()
        {
            self.senders.remove(&forgotten);
        }
    }

    /// No more tickets, and no more values.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The tickets that can be given now, one to each worker in turn for as long as there is room.
    pub(super) fn tickets(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while !self.is_closed && self.used < self.capacity {
            let after = self.turn.map(|turn| (std::ops::Bound::Excluded(turn), std::ops::Bound::Unbounded));
            let wants = |(id, place): (&SubscriptionId, &Place)| place.wants().then_some(*id);
            let behind = after.and_then(|after| self.places.range(after).find_map(wants));
            let Some(id) = behind.or_else(|| self.places.iter().find_map(wants)) else { break };
            let place = self.places.get_mut(&id).expect("it was just found");
            place.given += 1;
            place.tickets.insert(place.given);
            self.used += 1;
            self.turn = Some(id);
            let progress = place.sender.as_ref().and_then(|sender| self.senders.get(sender));
            tickets.push(Ticket { to: id, received: progress.map_or(0, |progress| progress.received) });
        }
        tickets
    }
}

impl Place {
    fn wants(&self) -> bool {
        self.given < self.asked && self.tickets.len() + self.unreceived < self.window
    }
}

/// Of so many senders that are away it is known how far they have come: more than come back at one time.
const MAX_GONE: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: u64) -> SenderId {
        SenderId { node: "there".into(), number: number.into() }
    }

    fn board<const N: usize>(capacity: usize, window: usize) -> (Board, [SubscriptionId; N]) {
        let mut board = Board::new(capacity);
        let ids = std::array::from_fn(|_| {
            let id = SubscriptionId::new();
            board.enter(id, window);
            board.ask(id, Demand::new(100));
            id
        });
        (board, ids)
    }

    #[test]
    fn a_worker_has_no_more_than_its_window_until_its_values_are_received() {
        let (mut board, [id]) = board(100, 3);
        assert_eq!(board.tickets().len(), 3);
        for number in 1..=3 {
            assert_eq!(board.arrive(id, number, &sender(1), number), Arrival::New);
        }
        assert_eq!(board.tickets(), []);
        board.receive(id, &sender(1), 1);
        assert_eq!(board.tickets(), [Ticket { to: id, received: 1 }]);
    }

    #[test]
    fn the_capacity_is_shared_in_turn() {
        let (mut board, [_, _, _]) = board(7, 5);
        let mut counts = BTreeMap::new();
        for ticket in board.tickets() {
            *counts.entry(ticket.to).or_insert(0) += 1;
        }
        let mut counts: Vec<_> = counts.into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 2, 3]);
    }

    #[test]
    fn what_comes_again_on_another_link_is_dropped_and_a_gap_is_not_believed() {
        let (mut board, [old, new]) = board(100, 5);
        board.tickets();
        assert_eq!(board.arrive(old, 1, &sender(1), 1), Arrival::New);
        assert_eq!(board.arrive(old, 2, &sender(1), 2), Arrival::New);
        board.leave(old);
        assert_eq!(board.arrive(old, 3, &sender(1), 3), Arrival::Dropped);
        assert_eq!(board.arrive(new, 1, &sender(1), 2), Arrival::Dropped);
        assert_eq!(board.arrive(new, 1, &sender(1), 3), Arrival::Dropped, "a ticket is good for once");
        assert_eq!(board.arrive(new, 2, &sender(1), 3), Arrival::New);
        assert_eq!(board.arrive(new, 3, &sender(1), 5), Arrival::Broken);
        assert_eq!(board.arrive(new, 4, &sender(2), 1), Arrival::Broken, "it was another sender");
    }

    #[test]
    fn whoever_leaves_gives_its_tickets_back_and_not_its_values() {
        let (mut board, [left, _]) = board(4, 4);
        assert_eq!(board.tickets().len(), 4);
        assert_eq!(board.arrive(left, 1, &sender(1), 1), Arrival::New);
        board.leave(left);
        assert_eq!(board.tickets().len(), 1);
        board.receive(left, &sender(1), 1);
        assert_eq!(board.tickets().len(), 1);
    }
}
