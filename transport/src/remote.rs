//! [`Remote`]: a producer on another node, to which a consumer subscribes as if it were near.
//!
//! | file | content |
//! |---|---|
//! | `subscriptions.rs` | [`Subscriptions`]: what a node's subscriptions to other nodes have in common |
//! | `driver.rs` | the subscribing node's half of a link; `controls.rs`: the publisher that the consumer sees |
//! | `arriving.rs` | what of that which has arrived is handed on together, and when others have their turn |

mod arriving;
mod controls;
mod driver;
mod subscriptions;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::{Publisher, Sentence, Source, SubscribeError, SubscribeOptions, Subscription, Window};
use tokio::time::timeout;

use crate::codec::is_number;
use crate::connection::{Established, refused};
use crate::frame::{Reason, Subscribe};
use crate::identity::access::AccessError;
use crate::link::Inbound;
use crate::{Access, Wire};
use controls::Controls;
use driver::{Link, OpenError};

pub(crate) use subscriptions::Subscriptions;

/// A producer on another node: made by [`Node::source`](crate::Node::source), and a [`Source`] like a stage of the own graph.
///
/// Nothing happens before a consumer subscribes. How many instances the producer has is known with the first answer, and the
/// consumer then subscribes to each, as to a near one. Each subscription is a stream of its own on the one connection between
/// the two nodes. The default window is [that of `SubscribeOptions::far`](SubscribeOptions::far).
pub struct Remote<T> {
    home: Arc<Subscriptions>,
    producer: Arc<str>,
    at: SocketAddr,
    publishers: Access,
    /// The name of the publisher's selector.
    selector: Option<Arc<str>>,
    /// How many instances the producer has, as its node said last; 1 before the first subscription.
    instances: Arc<AtomicUsize>,
    /// What its events are to be called, if that is not the name of their type.
    signature: Option<Arc<str>>,
    events: PhantomData<fn() -> T>,
}

impl<T: Wire> Remote<T> {
    pub(crate) fn new(home: Arc<Subscriptions>, producer: &str, at: SocketAddr) -> Self {
        let (publishers, instances) = (Access::everybody(), Arc::new(AtomicUsize::new(1)));
        let (producer, selector, signature) = (producer.into(), None, None);
        Self { home, producer, at, publishers, selector, instances, signature, events: PhantomData }
    }

    /// Subscribes only if the node at that address is one of `publishers`, by its certificate: an address says where a
    /// node is, and not who. Default: every node of the cluster. Another one gets to know nothing of the subscription,
    /// and the consumer gets [`SubscribeError::Denied`], with the node's name and the producer's.
    #[must_use]
    pub fn published_by(mut self, publishers: Access) -> Self {
        self.publishers = publishers;
        self
    }

    /// Those of its events that the publisher's selector of this name accepts, as a source. The selector
    /// [was given](crate::PublishOptions::selector) when the source was published and runs in the producer: what it refuses
    /// does not cross.
    ///
    /// If there is none of that name, the consumer gets [`SubscribeError::Refused`] with the names that there are.
    #[must_use]
    pub fn select(&self, selector: &str) -> Self {
        Self { selector: Some(selector.into()), ..self.clone() }
    }

    /// Expects events of this name, and not of that of their type.
    pub(crate) fn called(self, signature: &str) -> Self {
        Self { signature: Some(signature.into()), ..self }
    }

    fn signature(&self) -> String {
        self.signature.as_deref().map_or_else(T::signature, str::to_owned)
    }

    async fn subscribe(
        &self,
        instance: usize,
        subscription: Subscription<T>,
        established: &Established,
    ) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        let unreachable = |reason: String| SubscribeError::Unreachable { at: self.at.to_string(), reason };
        let stream = established.open().await.map_err(|error| unreachable(error.to_string()))?;
        let (limits, grace) = (established.limits.clone(), self.home.connections.config().session_grace);
        let window = subscription.options.window_or(Window::FAR);
        let (consumer, held) = self.home.consumer_at(subscription.consumer, self.at, &self.producer, instance);
        let subscribe = Subscribe {
            producer: self.producer.to_string(),
            signature: self.signature(),
            max_demand: window.max().count(),
            min_demand: window.min().count(),
            session: (!grace.is_zero()).then(|| self.home.next_session()),
            selector: self.selector.as_deref().map(str::to_owned),
            instance: instance as u64,
            consumer: Some(consumer),
            announces: established.can_revoke && subscription.subscriber.can_give_back(),
            takes_columns: is_number::<T>(),
        };
        let mut inbound = Inbound::new(limits.clone(), subscribe).map_err(|error| unreachable(error.to_string()))?;
        inbound.bound_bytes(self.home.connections.config().event_window_bytes.into());
        inbound.share_reassembly(established.reassembly());
        let controls = Controls::of(subscription.id, Box::new(held));
        let called = (self.at, format!("{} at {}", self.producer, established.peer));
        let link = Link::new(&self.home.connections, called, established, stream, inbound, subscription, controls);
        let (instances, publisher) = link.start().await.map_err(|error| self.explain(error))?;
        self.instances.store(instances, Ordering::Relaxed);
        Ok(publisher)
    }

    /// Subscribes on a connection, if who is at its other end may publish this.
    async fn open_on(
        &self,
        established: &Established,
        instance: usize,
        subscription: Subscription<T>,
    ) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        if !self.publishers.allows(&established.peer) {
            let error = AccessError::Publish { node: (*established.peer).clone(), producer: self.producer.to_string() };
            let by = self.home.connections.identity().name().to_string();
            return Err(SubscribeError::Denied { at: by, reason: error.to_string() });
        }
        let limit = self.home.connections.config().handshake_timeout;
        match timeout(limit, self.subscribe(instance, subscription, established)).await {
            Ok(opened) => opened,
            Err(_) => Err(no_answer(self.at, limit)),
        }
    }

    fn explain(&self, error: OpenError) -> SubscribeError {
        let (name, at) = (self.producer.to_string(), self.at.to_string());
        match error {
            OpenError::Stream(error) => SubscribeError::Unreachable { at, reason: Sentence(&error).to_string() },
            OpenError::Link(error) => SubscribeError::Unreachable { at, reason: error.to_string() },
            OpenError::Refused { reason: Reason::UnknownProducer, .. } => SubscribeError::Unknown { name, at },
            OpenError::Refused { reason: Reason::Ended, .. } => SubscribeError::Ended(name),
            OpenError::Refused { reason: Reason::TypeMismatch, published: Some(published), .. } => {
                SubscribeError::TypeMismatch { name, at, published, expected: self.signature() }
            }
            OpenError::Refused { reason, message, .. } => {
                let why = if message.is_empty() { reason.to_string() } else { message };
                refused(reason, at, why)
            }
        }
    }
}

impl<T: Wire> Source for Remote<T> {
    type Item = T;

    fn name(&self) -> String {
        format!("{} at {}", self.producer, self.at)
    }

    fn default_options(&self) -> SubscribeOptions {
        SubscribeOptions::far()
    }

    fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<T>,
    ) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        let Subscription { id, consumer, options, interest, subscriber } = &subscription;
        if interest.selector.is_some() || interest.partition.is_some() {
            let reason = "a choice of events crosses to another node only by its name".to_owned();
            return Err(SubscribeError::Refused { at: self.name(), reason });
        }
        let (interest, subscriber) = (interest.clone(), Arc::clone(subscriber));
        let again = Subscription { id: *id, consumer: *consumer, options: *options, interest, subscriber };
        // Dialling has limits of its own.
        let established = self.home.connections.connect(self.at).await?;
        match self.open_on(&established, instance, subscription).await {
            // It was there from before, and the node at the other end was restarted since.
            Err(SubscribeError::Unreachable { .. }) if established.is_disowned() => {
                self.open_on(&self.home.connections.connect(self.at).await?, instance, again).await
            }
            opened => opened,
        }
    }
}

fn no_answer(at: SocketAddr, limit: Duration) -> SubscribeError {
    SubscribeError::Unreachable { at: at.to_string(), reason: format!("no answer within {limit:?}") }
}

impl<T> Clone for Remote<T> {
    fn clone(&self) -> Self {
        let (producer, publishers) = (Arc::clone(&self.producer), self.publishers.clone());
        let (selector, signature, instances) =
            (self.selector.clone(), self.signature.clone(), Arc::clone(&self.instances));
        let (home, at) = (Arc::clone(&self.home), self.at);
        Self { home, producer, at, publishers, selector, instances, signature, events: PhantomData }
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({:?} at {})", self.producer, self.at)
    }
}
