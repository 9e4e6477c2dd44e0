//! [`Siblings`]: the subscriptions of one declaration, when some of them come too late.
//!
//! The instances of a consumer subscribe one after the other, to one instance of the source after the other, and by then the
//! source may be over. If one of the subscriptions saw the end of the data, they were there in time, and nothing is missing:
//! the late one has an empty share. If none did, it is an error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aqueduct_dispatcher::{Attempt, Events, SubscriptionId};
use tokio::sync::oneshot;

use crate::bugs::bug;
use crate::remainder::Remainder;
use crate::{EndCause, Exit, FailureKind, Publisher, Source, SubscribeError, Subscriber, Subscription};

/// What the subscriptions of one declaration know of each other.
#[derive(Default)]
pub(crate) struct Siblings(Mutex<Family>);

/// All subscriptions of a consumer to a source. Pure.
#[derive(Default)]
struct Family {
    /// How many may still see the end of the source.
    open: usize,
    saw_the_end: bool,
    /// Those that came too late, each told whether that is an empty success as soon as it is known.
    late: Vec<Tell>,
}

/// Tells one that came too late whether another one saw the end.
type Tell = Box<dyn FnOnce(bool) + Send>;

impl Family {
    /// One of them has ended, or cannot be made. Returns those that are to be told now [`saw_the_end`](Self::saw_the_end).
    #[must_use]
    fn close(&mut self, saw_the_end: bool) -> Vec<Tell> {
        self.open = self.open.saturating_sub(1);
        self.saw_the_end |= saw_the_end;
        let is_known = self.saw_the_end || self.open == 0;
        if is_known { std::mem::take(&mut self.late) } else { Vec::new() }
    }

    /// One of them came too late. Returns those that are to be told now.
    #[must_use]
    fn come_late(&mut self, tell: Tell) -> Vec<Tell> {
        self.late.push(tell);
        self.close(false)
    }
}

impl Siblings {
    /// A subscription is about to be made.
    pub(crate) fn begin(self: &Arc<Self>) -> Arc<Sibling> {
        self.lock().open += 1;
        Arc::new(Sibling { siblings: Arc::clone(self), is_open: Mutex::new(true) })
    }

    fn settle(&self, settle: impl FnOnce(&mut Family) -> Vec<Tell>) {
        let mut family = self.lock();
        let (told, verdict) = (settle(&mut family), family.saw_the_end && !bug!(LateSiblingFails));
        // They call others.
        drop(family);
        told.into_iter().for_each(|tell| tell(verdict));
    }

    fn lock(&self) -> MutexGuard<'_, Family> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the subscriptions. Dropped, it has not seen the end.
pub(crate) struct Sibling {
    siblings: Arc<Siblings>,
    is_open: Mutex<bool>,
}

impl Sibling {
    /// It has ended, or could not be made.
    fn close(&self, saw_the_end: bool) {
        if self.was_open() {
            self.siblings.settle(|family| family.close(saw_the_end));
        }
    }

    /// The source had ended before. Tells whether another one saw the end of it, as soon as that is known.
    fn come_late(&self, tell: impl FnOnce(bool) + Send + 'static) {
        match self.was_open() {
            true => self.siblings.settle(|family| family.come_late(Box::new(tell))),
            false => tell(false),
        }
    }

    fn was_open(&self) -> bool {
        std::mem::replace(&mut *self.is_open.lock().unwrap_or_else(PoisonError::into_inner), false)
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// The declarations of a stage, by their sources, for subscriptions that take the place of declared ones.
#[derive(Default)]
pub(crate) struct Families(Vec<(Key, Weak<Siblings>)>);

/// Which stage of this process it is, if it is one, and what it is called.
type Key = (Option<usize>, String);

impl Families {
    /// Those of a new declaration.
    pub(super) fn declare<Src: Source>(&mut self, source: &Src) -> Arc<Siblings> {
        let siblings = Arc::default();
        self.0.retain(|(_, siblings)| siblings.strong_count() > 0);
        self.0.push((key(source), Arc::downgrade(&siblings)));
        siblings
    }

    /// Those of the last declaration of this source.
    pub(crate) fn of<Src: Source>(&self, source: &Src) -> Option<Arc<Siblings>> {
        let key = key(source);
        self.0.iter().rev().find(|known| known.0 == key)?.1.upgrade()
    }
}

fn key<Src: Source>(source: &Src) -> Key {
    (source.local().map(|place| place.id()), source.name())
}

/// Opens a subscription that has siblings: if it is too late and one of them saw the end of the source, nothing is missing.
pub(crate) async fn open_witnessed<Src: Source>(
    source: &Src,
    instance: usize,
    subscription: Subscription<Src::Item>,
    sibling: Arc<Sibling>,
) -> Result<Arc<dyn Publisher<Src::Item>>, SubscribeError> {
    let Subscription { id, consumer, options, interest, subscriber } = subscription;
    let witness = Witness { subscriber: Arc::clone(&subscriber), sibling: Arc::clone(&sibling) };
    let witnessed = Subscription { id, consumer, options, interest: interest.clone(), subscriber: Arc::new(witness) };
    let opened = source.open(instance, witnessed).await;
    match &opened {
        Ok(_) => {}
        Err(SubscribeError::Ended(_)) => {
            let (tell, told) = oneshot::channel();
            sibling.come_late(|saw_the_end| _ = tell.send(saw_the_end));
            if told.await.unwrap_or(false) {
                return Ok(Remainder::nothing(Subscription { id, consumer, options, interest, subscriber }));
            }
        }
        Err(_) => sibling.close(false),
    }
    opened
}

/// The subscribing end of an edge that has siblings.
struct Witness<T> {
    subscriber: Arc<dyn Subscriber<T>>,
    sibling: Arc<Sibling>,
}

impl<T: 'static> Subscriber<T> for Witness<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        self.subscriber.deliver(id, events, attempt);
    }

    fn try_deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) -> Result<(), Events<T>> {
        self.subscriber.try_deliver(id, events, attempt)
    }

    fn can_give_back(&self) -> bool {
        self.subscriber.can_give_back()
    }

    fn revoke(&self, id: SubscriptionId, number: u64) {
        self.subscriber.revoke(id, number);
    }

    fn expired(&self, id: SubscriptionId, number: u64) {
        self.subscriber.expired(id, number);
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        if !matches!(cause.reason(), Exit::Failed(failure) if failure.kind() == FailureKind::AlreadyEnded) {
            self.sibling.close(cause.is_exhausted());
            return self.subscriber.ended(id, cause);
        }
        let subscriber = Arc::clone(&self.subscriber);
        self.sibling.come_late(move |saw_the_end| {
            subscriber.ended(id, if saw_the_end { EndCause::Down(Exit::Normal) } else { cause });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One comes too late; returns where it is told.
    fn come_late(sibling: &Sibling) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        sibling.come_late(|saw_the_end| _ = tell.send(saw_the_end));
        told
    }

    /// What a late one was told so far.
    fn told(late: &mut oneshot::Receiver<bool>) -> Option<bool> {
        late.try_recv().ok()
    }

    #[test]
    fn a_late_one_has_an_empty_share_if_another_saw_the_end() {
        let siblings = Arc::<Siblings>::default();
        let [first, second, third] = [(); 3].map(|()| siblings.begin());
        let mut late = come_late(&second);
        assert_eq!(told(&mut late), None, "two may still see it");
        first.close(false);
        assert_eq!(told(&mut late), None, "one may");
        third.close(true);
        assert_eq!(told(&mut late), Some(true));
        assert_eq!(told(&mut come_late(&siblings.begin())), Some(true), "it is known already");
    }

    #[test]
    fn if_all_are_late_or_gone_nobody_saw_the_end() {
        let siblings = Arc::<Siblings>::default();
        let [first, second, third] = [(); 3].map(|()| siblings.begin());
        let (mut one, mut other) = (come_late(&first), come_late(&second));
        drop(first);
        assert_eq!((told(&mut one), told(&mut other)), (None, None));
        drop(third);
        assert_eq!((told(&mut one), told(&mut other)), (Some(false), Some(false)));
    }
}
