//! [`Chain`]: a list of slots from which any one is taken out at once.

/// A list over slots of a table, which keeps its [`Links`] apart: a slot is in at most one chain for each table of links.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    ends: Option<(u32, u32)>,
    len: usize,
}

/// The neighbours of each slot, one table for all chains of a kind.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Link>);

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    before: Option<u32>,
    after: Option<u32>,
}

impl Links {
    fn at(&mut self, slot: u32) -> &mut Link {
        let index = slot as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Link::default());
        }
        &mut self.0[index]
    }
}

impl Chain {
    /// Adds a slot that is in no chain of these links, at the end.
    pub(super) fn push_back(&mut self, links: &mut Links, slot: u32) {
        let last = self.ends.map(|(_, last)| last);
        *links.at(slot) = Link { before: last, after: None };
        if let Some(last) = last {
            links.at(last).after = Some(slot);
        }
        self.ends = Some((self.ends.map_or(slot, |(first, _)| first), slot));
        self.len += 1;
    }

    /// Takes out a slot that is in this chain.
    pub(super) fn remove(&mut self, links: &mut Links, slot: u32) {
        let Link { before, after } = std::mem::take(links.at(slot));
        if let Some(before) = before {
            links.at(before).after = after;
        }
        if let Some(after) = after {
            links.at(after).before = before;
        }
        self.ends = self.ends.and_then(|(first, last)| {
            let first = if first == slot { after } else { Some(first) };
            let last = if last == slot { before } else { Some(last) };
            first.zip(last)
        });
        self.len -= 1;
    }

    /// The slot that has been in it for longest.
    pub(super) fn first(&self) -> Option<u32> {
        self.ends.map(|(first, _)| first)
    }

    /// The slot that was added last.
    pub(super) fn last(&self) -> Option<u32> {
        self.ends.map(|(_, last)| last)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_chain_is_a_list_with_removal_anywhere() {
        let (mut chain, mut links) = (Chain::default(), Links::default());
        let mut model = VecDeque::new();
        let mut state = 7_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = (state >> 40) as u32 % 20;
            if let Some(at) = model.iter().position(|other| *other == slot) {
                model.remove(at);
                chain.remove(&mut links, slot);
            } else {
                model.push_back(slot);
                chain.push_back(&mut links, slot);
            }
            assert_eq!((chain.first(), chain.len()), (model.front().copied(), model.len()));
        }
        while let Some(slot) = chain.first() {
            assert_eq!(Some(slot), model.pop_front());
            chain.remove(&mut links, slot);
        }
        assert!(model.is_empty());
    }
}
