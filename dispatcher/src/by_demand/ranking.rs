//! [`Ranking`]: whose demand is the largest.

use std::cmp::Reverse;

use crate::Demand;

/// Slots in the order of their demand, the largest first; of equals the one that was ranked earlier.
///
/// It is a binary heap that knows where everybody stands in it: a change moves as many entries as the heap is deep,
/// which is ten for a thousand subscribers.
#[derive(Debug)]
pub(super) struct Ranking {
    /// Nobody belongs in front of the one at half its place.
    heap: Vec<Rank>,
    /// For each slot that is ranked, its place in the heap.
    places: Vec<usize>,
    /// How often anybody was ranked.
    ranked: u64,
}

/// Compares as it stands: the first is the least. No two have the same `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    demand: Reverse<Demand>,
    since: u64,
    slot: usize,
}

impl Ranking {
    pub(super) const fn new() -> Self {
        Self { heap: Vec::new(), places: Vec::new(), ranked: 0 }
    }

    /// Puts a slot that is not there yet behind all others, without demand.
    pub(super) fn insert(&mut self, slot: usize) {
        if slot >= self.places.len() {
            self.places.resize(slot + 1, 0);
        }
        self.places[slot] = self.heap.len();
        let rank = self.next(slot, Demand::ZERO);
        self.heap.push(rank);
    }

    /// Puts a slot where this demand belongs, behind its equals.
    pub(super) fn rank(&mut self, slot: usize, demand: Demand) {
        let rank = self.next(slot, demand);
        self.settle(self.places[slot], rank);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let place = self.places[slot];
        self.heap.swap_remove(place);
        if let Some(moved) = self.heap.get(place) {
            self.settle(place, *moved);
        }
    }

    pub(super) fn first(&self) -> Option<usize> {
        self.heap.first().map(|rank| rank.slot)
    }

    /// All of them, in order.
    pub(super) fn sorted(&self) -> Vec<usize> {
        let mut ranks = self.heap.clone();
        ranks.sort_unstable();
        ranks.iter().map(|rank| rank.slot).collect()
    }

    fn next(&mut self, slot: usize, demand: Demand) -> Rank {
        self.ranked += 1;
        Rank { demand: Reverse(demand), since: self.ranked, slot }
    }

    /// Fills the gap at `place` with `rank`, or with others that must make way for it.
    fn settle(&mut self, mut place: usize, rank: Rank) {
        while place > 0 && rank < self.heap[(place - 1) / 2] {
            self.put(place, self.heap[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        while let Some(behind) = self.first_behind(place).filter(|behind| self.heap[*behind] < rank) {
            self.put(place, self.heap[behind]);
            place = behind;
        }
        self.put(place, rank);
    }

    /// The place of the first of the two that stand directly behind `place`.
    fn first_behind(&self, place: usize) -> Option<usize> {
        let left = 2 * place + 1;
        match self.heap.get(left..)? {
            [] => None,
            [one, other, ..] if other < one => Some(left + 1),
            [..] => Some(left),
        }
    }

    fn put(&mut self, place: usize, rank: Rank) {
        self.heap[place] = rank;
        self.places[rank.slot] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_a_sorted_list() {
        let mut numbers = 7_u64;
        let mut random = |below: u64| {
            numbers = numbers.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (numbers >> 33) % below
        };
        let mut ranking = Ranking::new();
        let mut list: Vec<(usize, u64)> = Vec::new();
        for _ in 0..20_000 {
            let slot = random(40) as usize;
            let found = list.iter().position(|(other, _)| *other == slot).map(|at| list.remove(at));
            let demand = match (found, random(8)) {
                (None, _) => {
                    ranking.insert(slot);
                    0
                }
                (Some(_), 0) => {
                    ranking.remove(slot);
                    continue;
                }
                (Some(_), demand) => {
                    ranking.rank(slot, Demand::new(demand));
                    demand
                }
            };
            list.insert(list.partition_point(|(_, other)| *other >= demand), (slot, demand));
            let slots: Vec<_> = list.iter().map(|(slot, _)| *slot).collect();
            assert_eq!((ranking.first(), ranking.sorted()), (slots.first().copied(), slots));
        }
    }
}
