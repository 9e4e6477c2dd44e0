//! [`Unstarted`]: a stage whose graph may never be started.

use std::sync::Arc;

use super::place::Place;
use crate::counters::Counters;
use crate::{Exit, Failure, FailureKind};

/// A place until its graph is started. Dropped before, it tells whoever waits for the stage that there will be none.
pub(super) struct Unstarted<I: Send + 'static, O: Send + 'static>(Option<Arc<Place<I, O>>>);

impl<I: Send + 'static, O: Send + 'static> Unstarted<I, O> {
    pub(super) fn new(place: &Arc<Place<I, O>>) -> Self {
        Self(Some(Arc::clone(place)))
    }

    /// The place, as its graph is started.
    pub(super) fn start(mut self) -> Arc<Place<I, O>> {
        self.0.take().expect("nobody else takes it")
    }
}

impl<I: Send + 'static, O: Send + 'static> Drop for Unstarted<I, O> {
    fn drop(&mut self) {
        let Some(place) = &self.0 else { return };
        let count = place.lock().seats.len();
        for instance in 0..count {
            let why = "its graph was dropped before it was started";
            let never = Failure::at(&place.origin(instance), FailureKind::Killed, why);
            // No graph waits for it.
            let mut ending = place.ending(instance, Arc::new(Counters::new(Arc::default())), Box::new(drop));
            ending.announce(Exit::Failed(never));
        }
    }
}
