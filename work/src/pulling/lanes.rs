//! [`Lanes`]: the tasks that wait, in order.

use std::collections::{BTreeMap, VecDeque};

/// Waiting tasks in one lane or several. In each, those that came back are first, and otherwise the order is that in which
/// they were pushed.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Never empty.
    lanes: Vec<Lane>,
    len: usize,
}

#[derive(Debug, Default)]
struct Lane {
    /// Slots of tasks that came back, by their number.
    back: BTreeMap<u64, u32>,
    fresh: VecDeque<u32>,
}

impl Lanes {
    pub(super) fn new(count: usize) -> Self {
        Self { lanes: std::iter::repeat_with(Lane::default).take(count).collect(), len: 0 }
    }

    /// The lane of a hash: all of its bits count.
    pub(super) fn lane_of(&self, hash: u64) -> usize {
        let lane = (u128::from(hash) * self.lanes.len() as u128) >> 64;
        usize::try_from(lane).expect("less than the number of lanes")
    }

    pub(super) fn push(&mut self, lane: usize, slot: u32) {
        self.lanes[lane].fresh.push_back(slot);
        self.len += 1;
    }

    /// Takes a task back that was pushed as the `number`th.
    pub(super) fn push_back(&mut self, lane: usize, number: u64, slot: u32) {
        let before = self.lanes[lane].back.insert(number, slot);
        debug_assert_eq!(before, None, "a task waits once");
        self.len += 1;
    }

    pub(super) fn pop(&mut self, lane: usize) -> Option<u32> {
        let Lane { back, fresh } = &mut self.lanes[lane];
        let slot = back.pop_first().map(|(_, slot)| slot).or_else(|| fresh.pop_front())?;
        self.len -= 1;
        Some(slot)
    }

    pub(super) fn is_lane_empty(&self, lane: usize) -> bool {
        self.lanes[lane].back.is_empty() && self.lanes[lane].fresh.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Drops all that wait.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.lanes.len());
    }
}
