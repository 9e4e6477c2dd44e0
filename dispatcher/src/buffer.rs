//! [`Buffer`]: what a stage produced and nobody has asked for yet.

use std::collections::VecDeque;

use crate::bugs::bug;

/// A bounded queue of events without demand.
///
/// When it is full, [`Keep`] says which end survives. What is dropped is counted and returned, never silent.
#[derive(Debug)]
pub struct Buffer<T> {
    events: VecDeque<T>,
    /// `events.len() <= capacity` between calls.
    capacity: usize,
    keep: Keep,
}

/// Which events survive when a [`Buffer`] is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The oldest: newcomers are dropped.
    First,
    /// The newest: the oldest are dropped, one for one. The default, as in GenStage.
    #[default]
    Last,
    /// All of them: when there is no room, whoever fills the buffer fails. (A [`Buffer`] by itself then keeps the
    /// first, and tells how many did not fit.)
    Fail,
}

impl<T> Buffer<T> {
    /// The default capacity of a producer's buffer, in events (GenStage's `buffer_size`).
    pub const DEFAULT_CAPACITY: usize = 10_000;

    /// An empty buffer of at most `capacity` events; 0 is a valid size, and drops everything.
    pub const fn new(capacity: usize, keep: Keep) -> Self {
        Self { events: VecDeque::new(), capacity, keep }
    }

    /// Moves all of `events` in behind what is there. Returns how many were dropped for want of room.
    pub fn store(&mut self, events: &mut VecDeque<T>) -> usize {
        if self.events.is_empty() && events.len() <= self.capacity {
            std::mem::swap(&mut self.events, events);
            return 0;
        }
        let excess = (self.events.len() + events.len()).saturating_sub(self.capacity);
        match self.keep {
            Keep::First | Keep::Fail => events.truncate(events.len() - excess),
            Keep::Last if bug!(NewestDropped) && excess <= events.len() => events.truncate(events.len() - excess),
            Keep::Last => {
                let old = excess.min(self.events.len());
                self.events.drain(..old);
                events.drain(..excess - old);
            }
        }
        self.events.append(events);
        excess
    }

    /// Moves the oldest `count` events, or all if there are fewer, to the end of `to`.
    pub fn take(&mut self, count: usize, to: &mut VecDeque<T>) {
        if count >= self.events.len() {
            to.append(&mut self.events);
        } else {
            // As it knows its length, this asks for room once, where a drain does for each event.
            let mut rest = std::mem::take(&mut self.events).into_iter();
            to.extend(rest.by_ref().take(count));
            self.events = rest.collect();
        }
    }

    /// Puts events that [`take`](Self::take) gave out, and that found no demand, back in front.
    pub fn put_back(&mut self, events: &mut VecDeque<T>) {
        events.append(&mut self.events);
        std::mem::swap(&mut self.events, events);
    }

    /// How many events fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Which end survives.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(buffer: &mut Buffer<u32>, events: impl IntoIterator<Item = u32>) -> usize {
        buffer.store(&mut events.into_iter().collect())
    }

    fn all(buffer: &mut Buffer<u32>) -> Vec<u32> {
        let mut events = VecDeque::new();
        buffer.take(usize::MAX, &mut events);
        events.into()
    }

    #[test]
    fn keeps_the_first() {
        let mut buffer = Buffer::new(5, Keep::First);
        assert_eq!((store(&mut buffer, 0..3), store(&mut buffer, 3..8)), (0, 3));
        assert_eq!(all(&mut buffer), [0, 1, 2, 3, 4]);
        assert_eq!(store(&mut buffer, 0..8), 3);
        assert_eq!(all(&mut buffer), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn keeps_the_last() {
        let mut buffer = Buffer::new(5, Keep::Last);
        assert_eq!((store(&mut buffer, 0..3), store(&mut buffer, 3..8)), (0, 3));
        assert_eq!(all(&mut buffer), [3, 4, 5, 6, 7]);
        assert_eq!(store(&mut buffer, 0..12), 7);
        assert_eq!(all(&mut buffer), [7, 8, 9, 10, 11]);
    }

    #[test]
    fn zero_is_a_valid_size() {
        for keep in [Keep::First, Keep::Last] {
            let mut buffer = Buffer::new(0, keep);
            assert_eq!(store(&mut buffer, 0..3), 3);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_put_back_stands_in_front() {
        let mut buffer = Buffer::new(5, Keep::Last);
        store(&mut buffer, 0..5);
        let mut taken = VecDeque::new();
        buffer.take(3, &mut taken);
        assert_eq!(taken.pop_front(), Some(0));
        buffer.put_back(&mut taken);
        assert_eq!(all(&mut buffer), [1, 2, 3, 4]);
    }
}
