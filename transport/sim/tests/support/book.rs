//! What the tasks of a test write down, and others wait for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// A value with news of its changes.
pub(crate) struct Book<T> {
    page: Mutex<T>,
    changed: watch::Sender<()>,
    /// How long anything that is waited for may take.
    patience: Duration,
}

impl<T: Default> Book<T> {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { page: Mutex::default(), changed: watch::Sender::new(()), patience }
    }
}

impl<T> Book<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.lock());
        self.changed.send_replace(());
        changed
    }

    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&T) -> bool) {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            while !reached(&self.lock()) {
                changes.changed().await.expect("the sender is here");
            }
        };
        assert!(timeout(self.patience, waiting).await.is_ok(), "never: {what}");
    }
}
