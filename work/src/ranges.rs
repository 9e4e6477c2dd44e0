//! [`Ranges`]: a set of numbers that come in almost in order.

use std::collections::BTreeMap;

/// Numbers from 1 on, of which most are at the front. It takes memory for each gap only.
#[derive(Debug, Default)]
pub struct Ranges {
    /// All numbers up to this one are in, and the next is not.
    prefix: u64,
    /// First and last numbers of what is in behind it: neither overlapping nor touching.
    above: BTreeMap<u64, u64>,
    /// How many numbers that is.
    count_above: u64,
}

impl Ranges {
    /// Adds the numbers from `first` to `last`, and returns those that are new.
    pub fn insert(&mut self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let first = first.max(self.prefix + 1);
        if first > last {
            return Vec::new();
        }
        if self.above.is_empty() && first == self.prefix + 1 {
            self.prefix = last;
            return vec![(first, last)];
        }
        let new = self.gaps(first, last);
        self.count_above += new.iter().map(|(first, last)| last - first + 1).sum::<u64>();
        let (mut start, mut end) = (first, last);
        if let Some((before, to)) = self.above.range(..first).next_back().map(|(before, to)| (*before, *to))
            && to >= first - 1
        {
            (start, end) = (before, end.max(to));
            self.above.remove(&before);
        }
        while let Some((next, to)) = self.above.range(start..).next().map(|(next, to)| (*next, *to))
            && next <= last.saturating_add(1)
        {
            end = end.max(to);
            self.above.remove(&next);
        }
        if start == self.prefix + 1 {
            self.prefix = end;
            self.count_above -= end - start + 1;
        } else {
            self.above.insert(start, end);
        }
        new
    }

    /// Adds a number, and returns whether it is new.
    pub fn add(&mut self, number: u64) -> bool {
        if self.above.is_empty() && number == self.prefix + 1 {
            self.prefix = number;
            return true;
        }
        !self.insert(number, number).is_empty()
    }

    /// The numbers from `first` to `last` that are not in, as ranges.
    pub fn gaps(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut next = first.max(self.prefix + 1);
        if let Some((_, to)) = self.above.range(..next).next_back() {
            next = next.max(to + 1);
        }
        let after = next;
        if after <= last {
            for (start, to) in self.above.range(after..=last) {
                if *start > next {
                    gaps.push((next, start - 1));
                }
                next = to + 1;
            }
        }
        if next <= last {
            gaps.push((next, last));
        }
        gaps
    }

    /// All numbers up to this one are in, and the next is not.
    pub fn prefix(&self) -> u64 {
        self.prefix
    }

    /// How many numbers are in.
    pub fn count(&self) -> u64 {
        self.prefix + self.count_above
    }

    /// The first number that is in behind the first that is not.
    pub fn after_first_gap(&self) -> Option<u64> {
        self.above.first_key_value().map(|(first, _)| *first)
    }

    /// The highest number that is in; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.above.last_key_value().map_or(self.prefix, |(_, last)| *last)
    }

    /// Whether a number is in.
    pub fn contains(&self, number: u64) -> bool {
        number <= self.prefix || self.above.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aqueduct_watchdog::Watch;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(steps in vec((1..60_u64, 0..6_u64), 0..60)) {
            let _watch = Watch::over(format!("{steps:?} "));
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (first, more) in steps {
                let last = first + more;
                let expected: Vec<_> = (first..=last).filter(|number| !model.contains(number)).collect();
                let gaps = ranges.gaps(first, last);
                let new = if first == last && ranges.add(first) { vec![(first, last)] } else { ranges.insert(first, last) };
                prop_assert_eq!(&gaps, &new);
                let new: Vec<_> = new.into_iter().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(new, expected);
                model.extend(first..=last);
                let prefix = (1..).take_while(|number| model.contains(number)).last().unwrap_or(0);
                prop_assert_eq!((ranges.prefix(), ranges.count()), (prefix, model.len() as u64));
                prop_assert_eq!(ranges.last(), *model.last().unwrap());
                prop_assert_eq!(ranges.after_first_gap(), model.range(prefix + 1..).next().copied());
                prop_assert!((1..80).all(|number| ranges.contains(number) == model.contains(&number)));
            }
        }
    }
}
