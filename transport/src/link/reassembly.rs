//! [`Reassembly`]: how many bytes the unfinished events and results of one other node hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::link::LinkError;

/// An account that all links with one other node share: each takes from it before it sets memory aside for a piece of
/// an event, and gives back when the event is whole or the link ends.
#[derive(Clone, Debug)]
pub(crate) struct Reassembly(Arc<Account>);

#[derive(Debug)]
struct Account {
    bound: usize,
    /// `<= bound`
    taken: AtomicUsize,
}

/// What one event has taken; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Reassembly,
    bytes: usize,
}

impl Reassembly {
    /// Lets unfinished events hold `bound` bytes in all.
    pub(crate) fn new(bound: usize) -> Self {
        Self(Arc::new(Account { bound, taken: AtomicUsize::new(0) }))
    }

    /// A share of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { of: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Takes so many bytes more.
    ///
    /// # Errors
    ///
    /// [`LinkError::Reassembly`] if there are not so many left. Nothing is taken then.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), LinkError> {
        let Account { bound, taken } = &*self.of.0;
        let add = |taken: usize| taken.checked_add(bytes).filter(|sum| sum <= bound);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(taken) => Err(LinkError::Reassembly { bound: *bound, got: taken.saturating_add(bytes) }),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_are_bounded_and_what_is_dropped_is_free_again() {
        let reassembly = Reassembly::new(100);
        let (mut first, mut second) = (reassembly.share(), reassembly.share());
        first.take(60).unwrap();
        second.take(40).unwrap();
        assert_eq!(second.take(1), Err(LinkError::Reassembly { bound: 100, got: 101 }));
        drop(first);
        assert_eq!(second.take(61), Err(LinkError::Reassembly { bound: 100, got: 101 }));
        assert_eq!(second.take(60), Ok(()));
        assert!(second.take(usize::MAX).is_err());
        drop(second);
        assert_eq!(reassembly.share().take(100), Ok(()));
    }
}
