//! What a stage of this graph is as a [`Source`]: the whole of it, or a part.

use std::future::{Future, ready};
use std::sync::Arc;

use aqueduct_dispatcher::Interest;

use crate::graph::{ByDemand, Output, Stage};
use crate::{Publisher, Source, SubscribeError, Subscription};

/// A way of dispatching that serves a consumer which only says how much it wants.
pub trait ServesAnyone: Output {}

impl ServesAnyone for ByDemand {}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: ServesAnyone> Source for Stage<S, I, O, D> {
    type Item = O;

    fn name(&self) -> String {
        self.place.name.to_string()
    }

    fn instances(&self) -> usize {
        self.mailboxes().len()
    }

    fn open(
        &self,
        instance: usize,
        subscription: Subscription<O>,
    ) -> impl Future<Output = Result<Arc<dyn Publisher<O>>, SubscribeError>> + Send {
        ready(self.open_with(instance, subscription, None))
    }
}

impl<S: 'static, I: Send + 'static, O: Send + 'static, D: 'static> Stage<S, I, O, D> {
    /// Subscribes with an interest of its own.
    pub(crate) fn open_with(
        &self,
        instance: usize,
        mut subscription: Subscription<O>,
        interest: Option<Interest<O>>,
    ) -> Result<Arc<dyn Publisher<O>>, SubscribeError> {
        if let Some(interest) = interest {
            subscription.interest = interest;
        }
        let mailbox = Arc::clone(&self.mailboxes()[instance]);
        mailbox.subscribe(subscription)?;
        Ok(mailbox)
    }
}
