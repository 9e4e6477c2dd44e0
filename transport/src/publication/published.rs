//! [`Published`]: a source with all that its links have in common.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{BoxFuture, Expected, Sentence, Source};

use super::options::Selectors;
use super::serving::Serving;
use super::share::EventSize;
use super::{IncomingLink, Publication};
use crate::Wire;

/// A source of events that can cross to other nodes.
pub(crate) struct Published<Src: Source> {
    pub(crate) source: Src,
    pub(crate) selectors: Selectors<Src::Item>,
    /// How long a subscriber that is cut off may hold back others.
    pub(crate) lag_limit: Duration,
    /// How long one that is not may.
    pub(crate) stall_limit: Option<Duration>,
    /// How long its events are.
    pub(crate) sizes: Arc<EventSize>,
    /// What its events are called, if that is not the name of their type.
    pub(crate) signature: Option<Arc<str>>,
    /// The source may be subscribed to for as long as this is there.
    pub(crate) _expected: Option<Expected>,
}

impl<Src: Source<Item: Wire>> Publication for Published<Src> {
    fn serve(self: Arc<Self>, link: IncomingLink) -> BoxFuture<'static> {
        Box::pin(async move {
            let (producer, peer) = (link.subscribe.producer.clone(), link.peer.clone());
            tracing::debug!(producer, peer, "subscribed to from another node");
            match Serving::<Src::Item>::open(&self, link).await {
                Ok(Some(mut serving)) => {
                    let _counted = serving.counters.links_published.enter();
                    let served = serving.run().await;
                    serving.close(&served);
                    match served {
                        Ok(()) => tracing::debug!(producer, peer, "link ended"),
                        Err(error) => tracing::debug!(producer, peer, error = %Sentence(&error), "link broken"),
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(producer, peer, error = %Sentence(&error), "link broken"),
            }
        })
    }
}
