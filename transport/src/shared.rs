//! [`Shared`]: values by key, each there for as long as somebody holds it. By two of them nodes agree on who is the same
//! consumer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aqueduct_stage::ConsumerId;

use crate::frame::FarConsumer;

/// What a consumer of this node is called in its subscriptions to one instance of a far producer: a number for as long as
/// it has one of them, and another one when it subscribes anew after that. The two would otherwise be taken for each other
/// where the new one arrives before the end of the old one. One that is given up before it was answered counts until the
/// answer.
pub(crate) type ConsumerNumbers = Shared<(ConsumerId, SocketAddr, Arc<str>, usize), u64>;

/// The consumers of other nodes (which are named by their certificates), as the sources of this one know them.
pub(crate) type FarConsumers = Shared<(String, FarConsumer), ConsumerId>;

/// Values by key. There are never more than are held, and here each link holds one.
#[derive(Debug)]
pub(crate) struct Shared<K: Ord + Clone, V>(Mutex<BTreeMap<K, Weak<Held<K, V>>>>);

/// A value, held. The last one to be dropped takes it out.
#[derive(Debug)]
pub(crate) struct Held<K: Ord + Clone, V> {
    pub(crate) value: V,
    key: K,
    all: Arc<Shared<K, V>>,
}

impl<K: Ord + Clone, V> Shared<K, V> {
    /// The value by that key; a fresh one if nobody holds one.
    pub(crate) fn hold(self: &Arc<Self>, key: K, fresh: impl FnOnce() -> V) -> Arc<Held<K, V>> {
        let mut all = self.lock();
        if let Some(held) = all.get(&key).and_then(Weak::upgrade) {
            return held;
        }
        let held = Arc::new(Held { value: fresh(), key: key.clone(), all: Arc::clone(self) });
        all.insert(key, Arc::downgrade(&held));
        held
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Weak<Held<K, V>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord + Clone, V> Drop for Held<K, V> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // There may be a fresh one by now.
        if all.get(&self.key).is_some_and(|there| there.strong_count() == 0) {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_there_for_as_long_as_it_is_held() {
        let all = Arc::new(Shared::<&str, u64>::default());
        let (first, second) = (all.hold("a", || 1), all.hold("a", || 2));
        let other = all.hold("b", || 3);
        assert_eq!((first.value, second.value, other.value), (1, 1, 3));
        drop(first);
        assert_eq!(all.hold("a", || 4).value, 1);
        drop((second, other));
        assert_eq!(all.lock().len(), 0);
        assert_eq!(all.hold("a", || 5).value, 5);
    }
}
