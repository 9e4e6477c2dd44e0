//! [`ById`]: what is known of each subscription.

use aqueduct_dispatcher::SubscriptionId;

/// A map in one sorted vector. Most stages have one subscription or two, and there it is smaller and faster than a tree;
/// ids grow, so that a new one goes to the end.
#[derive(Debug)]
pub(crate) struct ById<T>(Vec<(SubscriptionId, T)>);

impl<T> ById<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn insert(&mut self, id: SubscriptionId, value: T) {
        match self.place(id) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                if self.0.is_empty() {
                    // The first of a vector's own growth would make room for four.
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (id, value));
            }
        }
    }

    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Option<T> {
        let at = self.place(id).ok()?;
        Some(self.0.remove(at).1)
    }

    pub(crate) fn get(&self, id: SubscriptionId) -> Option<&T> {
        let at = self.place(id).ok()?;
        Some(&self.0[at].1)
    }

    pub(crate) fn get_mut(&mut self, id: SubscriptionId) -> Option<&mut T> {
        let at = self.place(id).ok()?;
        Some(&mut self.0[at].1)
    }

    pub(crate) fn contains(&self, id: SubscriptionId) -> bool {
        self.place(id).is_ok()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SubscriptionId, &T)> {
        self.0.iter().map(|(id, value)| (*id, value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, id: SubscriptionId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> IntoIterator for ById<T> {
    type Item = (SubscriptionId, T);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in_whatever_the_order() {
        let ids: Vec<_> = std::iter::repeat_with(SubscriptionId::new).take(4).collect();
        let mut map = ById::new();
        for at in [2, 0, 3] {
            map.insert(ids[at], at);
        }
        map.insert(ids[2], 20);
        assert_eq!(ids.iter().map(|id| map.get(*id).copied()).collect::<Vec<_>>(), [Some(0), None, Some(20), Some(3)]);
        assert_eq!((map.remove(ids[0]), map.remove(ids[0]), map.contains(ids[0])), (Some(0), None, false));
        assert_eq!(map.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), [20, 3]);
    }
}
