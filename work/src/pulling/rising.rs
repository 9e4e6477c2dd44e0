//! [`Rising`]: a map from numbers that come in order and mostly go in the same order.

use std::collections::{BTreeMap, VecDeque};

/// A map to which only ever higher numbers are added. The newest stand side by side, so that to find one costs nothing; those
/// that stay while many others come and go are set aside, so that it takes memory for what is in it, and not for the gaps.
#[derive(Debug)]
pub(super) struct Rising<T> {
    /// The number of the first place; rises, and is above all that is set aside.
    first: u64,
    places: VecDeque<Option<T>>,
    /// How many of the places are taken.
    taken: usize,
    aside: BTreeMap<u64, T>,
}

impl<T> Default for Rising<T> {
    fn default() -> Self {
        Self { first: 0, places: VecDeque::new(), taken: 0, aside: BTreeMap::new() }
    }
}

impl<T> Rising<T> {
    /// Whether a number is higher than all that were ever added.
    pub(super) fn is_next(&self, number: u64) -> bool {
        number >= self.end()
    }

    /// Adds a number, which must be [the next](Self::is_next).
    pub(super) fn push(&mut self, number: u64, value: T) {
        debug_assert!(self.is_next(number) && number < u64::MAX, "{number} after {}", self.end());
        if number > self.end() {
            self.set_aside(0);
            self.first = number;
        }
        self.places.push_back(Some(value));
        self.taken += 1;
        self.set_aside(2 * self.taken + SPARE);
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        match number.checked_sub(self.first) {
            Some(place) => self.places.get(usize::try_from(place).ok()?)?.as_ref(),
            None => self.aside.get(&number),
        }
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        match number.checked_sub(self.first) {
            Some(place) => self.places.get_mut(usize::try_from(place).ok()?)?.as_mut(),
            None => self.aside.get_mut(&number),
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let Some(place) = number.checked_sub(self.first) else { return self.aside.remove(&number) };
        let value = self.places.get_mut(usize::try_from(place).ok()?)?.take()?;
        self.taken -= 1;
        while self.places.front().is_some_and(Option::is_none) {
            self.places.pop_front();
            self.first += 1;
        }
        Some(value)
    }

    /// Takes out the lowest number if it is at most `up_to`.
    pub(super) fn pop_up_to(&mut self, up_to: u64) -> Option<T> {
        let number = match self.aside.first_key_value() {
            Some((number, _)) => *number,
            // There is none without a value at the front.
            None => self.first,
        };
        if number <= up_to { self.remove(number) } else { None }
    }

    /// In rising order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        let places = self.places.iter().enumerate();
        let places = places.filter_map(|(place, value)| Some((self.first + place as u64, value.as_ref()?)));
        self.aside.iter().map(|(number, value)| (*number, value)).chain(places)
    }

    pub(super) fn len(&self) -> usize {
        self.taken + self.aside.len()
    }

    fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Sets aside what there is, but for the last `but` places.
    fn set_aside(&mut self, but: usize) {
        while self.places.len() > but
            && let Some(value) = self.places.pop_front()
        {
            if let Some(value) = value {
                self.aside.insert(self.first, value);
                self.taken -= 1;
            }
            self.first += 1;
        }
        while self.places.front().is_some_and(Option::is_none) {
            self.places.pop_front();
            self.first += 1;
        }
    }
}

/// So many places without a value cost less than to set anything aside.
const SPARE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_and_takes_no_memory_for_gaps() {
        let (mut rising, mut model, mut state, mut next) = (Rising::default(), BTreeMap::new(), 7_u64, 1_u64);
        for step in 0..200_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (what, any) = ((state >> 40) % 16, (state >> 20) % 40);
            let number = next.saturating_sub(any);
            match what {
                0 if any == 0 => next += 5000,
                0..8 => {
                    assert!(
                        rising.is_next(next) && model.last_key_value().is_none_or(|(last, _)| !rising.is_next(*last))
                    );
                    rising.push(next, step);
                    model.insert(next, step);
                    next += 1;
                }
                8..14 => assert_eq!(rising.remove(number), model.remove(&number)),
                14 => {
                    let up_to = number.saturating_sub(4000);
                    let first = model.first_key_value().map(|(first, _)| *first).filter(|first| *first <= up_to);
                    assert_eq!(rising.pop_up_to(up_to), first.and_then(|first| model.remove(&first)));
                }
                _ => assert_eq!(rising.get_mut(number), model.get_mut(&number)),
            }
            assert_eq!((rising.get(number), rising.len()), (model.get(&number), model.len()));
            assert!(rising.places.len() <= 2 * rising.len() + SPARE);
        }
        assert!(rising.aside.len() > 100 && rising.taken > 10, "both are tried");
        assert!(rising.iter().map(|(number, step)| (number, *step)).eq(model));
        assert_eq!((rising.get(0), rising.get(u64::MAX)), (None, None));
        assert_eq!((rising.remove(u64::MAX - 1), rising.get_mut(next)), (None, None));
    }
}
