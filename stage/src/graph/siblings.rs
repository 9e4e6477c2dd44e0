//! [`Siblings`]: the subscriptions of one declaration, when some of them come too late.
//!
//! The instances of a stage subscribe one after the other, and a short source may have ended before the last has. If
//! another instance saw its end, nothing is missing: the late one has an empty share. If none did, it is an error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Attempt, Events, SubscriptionId};
use tokio::sync::oneshot;

use crate::bugs::bug;
use crate::{EndCause, Exit, FailureKind, Subscriber};

/// What the subscriptions of one declaration know of each other: of those to one instance of the source at a time.
#[derive(Debug, Default)]
pub(crate) struct Siblings(Mutex<BTreeMap<usize, Family>>);

/// The subscriptions of all instances of a stage to one instance of a source. Pure.
#[derive(Debug, Default)]
struct Family {
    /// How many may still see the end of the source.
    open: usize,
    saw_the_end: bool,
    /// Those that came too late, each told whether that is an empty success as soon as it is known.
    late: Vec<oneshot::Sender<bool>>,
}

impl Family {
    /// One of them has ended, or cannot be made.
    fn close(&mut self, saw_the_end: bool) {
        self.open = self.open.saturating_sub(1);
        self.saw_the_end |= saw_the_end;
        if self.saw_the_end || self.open == 0 {
            let verdict = self.saw_the_end && !bug!(LateSiblingFails);
            self.late.drain(..).for_each(|late| _ = late.send(verdict));
        }
    }

    /// One of them came too late.
    fn come_late(&mut self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        self.late.push(tell);
        self.close(false);
        told
    }
}

impl Siblings {
    /// A subscription is about to be made to an instance of the source.
    pub(super) fn begin(self: &Arc<Self>, instance: usize) -> Arc<Sibling> {
        self.lock().entry(instance).or_default().open += 1;
        Arc::new(Sibling { siblings: Arc::clone(self), instance, is_open: Mutex::new(true) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Family>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the subscriptions. Dropped, it has not seen the end.
#[derive(Debug)]
pub(super) struct Sibling {
    siblings: Arc<Siblings>,
    instance: usize,
    is_open: Mutex<bool>,
}

impl Sibling {
    /// It has ended, or could not be made.
    pub(super) fn close(&self, saw_the_end: bool) {
        self.settle(|family| family.close(saw_the_end));
    }

    /// The source had ended before. Resolves to whether another one saw the end of it, as soon as that is known.
    pub(super) fn come_late(&self) -> oneshot::Receiver<bool> {
        self.settle(Family::come_late).unwrap_or_else(|| oneshot::channel().1)
    }

    fn settle<T>(&self, settle: impl FnOnce(&mut Family) -> T) -> Option<T> {
        let mut is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = std::mem::replace(&mut *is_open, false);
        was_open.then(|| settle(self.siblings.lock().entry(self.instance).or_default()))
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// The subscribing end of an edge that has siblings.
pub(super) struct Witness<T> {
    pub(super) subscriber: Arc<dyn Subscriber<T>>,
    pub(super) sibling: Arc<Sibling>,
    /// Runs what is left to do for one that was late.
    pub(super) spawn: Box<dyn Fn(crate::BoxFuture<'static>) + Send + Sync>,
}

impl<T: 'static> Subscriber<T> for Witness<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        self.subscriber.deliver(id, events, attempt);
    }

    fn try_deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) -> Result<(), Events<T>> {
        self.subscriber.try_deliver(id, events, attempt)
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        if !matches!(cause.reason(), Exit::Failed(failure) if failure.kind() == FailureKind::AlreadyEnded) {
            self.sibling.close(cause.is_exhausted());
            return self.subscriber.ended(id, cause);
        }
        let (told, subscriber) = (self.sibling.come_late(), Arc::clone(&self.subscriber));
        (self.spawn)(Box::pin(async move {
            let is_empty = told.await.unwrap_or(false);
            subscriber.ended(id, if is_empty { EndCause::Down(Exit::Normal) } else { cause });
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a late one was told so far.
    fn told(late: &mut oneshot::Receiver<bool>) -> Option<bool> {
        late.try_recv().ok()
    }

    #[test]
    fn a_late_one_has_an_empty_share_if_another_saw_the_end() {
        let siblings = Arc::<Siblings>::default();
        let [first, second, third] = [0; 3].map(|instance| siblings.begin(instance));
        let mut late = second.come_late();
        assert_eq!(told(&mut late), None, "two may still see it");
        first.close(false);
        assert_eq!(told(&mut late), None, "one may");
        third.close(true);
        assert_eq!(told(&mut late), Some(true));
        assert_eq!(told(&mut siblings.begin(0).come_late()), Some(true), "it is known already");
        assert_eq!(told(&mut siblings.begin(1).come_late()), Some(false), "that is another producer");
    }

    #[test]
    fn if_all_are_late_or_gone_nobody_saw_the_end() {
        let siblings = Arc::<Siblings>::default();
        let [first, second, third] = [0; 3].map(|instance| siblings.begin(instance));
        let (mut one, mut other) = (first.come_late(), second.come_late());
        drop(first);
        assert_eq!((told(&mut one), told(&mut other)), (None, None));
        drop(third);
        assert_eq!((told(&mut one), told(&mut other)), (Some(false), Some(false)));
    }
}
