//! A selector in the wrong place: what it refuses has been asked for by then, and nobody asks for it again.

use std::sync::Arc;

use aqueduct_stage::{Attempt, EndCause, Events, Selector, Subscriber, SubscriptionId};

struct Choosing<T> {
    selector: Selector<T>,
    subscriber: Arc<dyn Subscriber<T>>,
}

/// Puts the selector before the subscriber, if the bug is on.
pub(crate) fn choose_late<T: Send + 'static>(
    selector: Option<Selector<T>>,
    subscriber: Arc<dyn Subscriber<T>>,
) -> (Option<Selector<T>>, Arc<dyn Subscriber<T>>) {
    match selector {
        Some(selector) if super::is_on("SelectorRefusalsNotAskedAgain") => {
            (None, Arc::new(Choosing { selector, subscriber }))
        }
        selector => (selector, subscriber),
    }
}

impl<T: Send + 'static> Subscriber<T> for Choosing<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        let chosen: Vec<_> = events.into_iter().filter(|event| (self.selector)(event)).collect();
        if !chosen.is_empty() {
            self.subscriber.deliver(id, chosen.into(), attempt);
        }
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        self.subscriber.ended(id, cause);
    }
}
