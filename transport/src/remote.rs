//! [`Remote`]: a producer on another node, to which a consumer subscribes as if it were near.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_stage::{
    Attempt, Demand, EndCause, Events, Exit, Failure, FailureKind, Publisher, Source, SubscribeError, Subscription,
    SubscriptionId, Window,
};
use tokio::sync::Notify;

use crate::access::AccessError;
use crate::codec::decode;
use crate::connection::Established;
use crate::error::error_chain;
use crate::frame::{Reason, Subscribe};
use crate::link::{Inbound, InboundEvent};
use crate::node::Node;
use crate::stream::{CLOSE_GIVEN_UP, FrameStream, StreamError};
use crate::{Access, Limits, Wire};

/// A producer on another node: made by [`Node::source`], and a [`Source`] like a stage of the own graph.
///
/// Nothing happens before a consumer subscribes. Each subscription is a stream of its own on the one connection between
/// the two nodes. The default window is [`Window::FAR`].
pub struct Remote<T> {
    node: Node,
    producer: Arc<str>,
    at: SocketAddr,
    publishers: Access,
    events: PhantomData<fn() -> T>,
}

impl<T: Wire> Remote<T> {
    pub(crate) fn new(node: Node, producer: &str, at: SocketAddr) -> Self {
        Self { node, producer: producer.into(), at, publishers: Access::everybody(), events: PhantomData }
    }

    /// Subscribes only if the node at that address is one of `publishers`, by its certificate: an address says where a
    /// node is, and not who. Default: every node of the cluster. Another one gets to know nothing of the subscription,
    /// and the consumer gets [`SubscribeError::Refused`], with the node's name and the producer's.
    #[must_use]
    pub fn published_by(mut self, publishers: Access) -> Self {
        self.publishers = publishers;
        self
    }

    async fn subscribe(
        &self,
        subscription: Subscription<T>,
        established: &Established,
    ) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        let unreachable = |reason: String| SubscribeError::Unreachable { at: self.at.to_string(), reason };
        let stream = established.open().await.map_err(|error| unreachable(error.to_string()))?;
        let limits = self.node.config().limits.clone();
        let window = subscription.options.window_or(Window::FAR);
        let subscribe = Subscribe {
            producer: self.producer.to_string(),
            signature: T::signature(),
            max_demand: window.max().count(),
            min_demand: window.min().count(),
        };
        let inbound = Inbound::new(limits.clone(), subscribe).map_err(|error| unreachable(error.to_string()))?;
        let mut link = Link {
            subscription,
            stream: FrameStream::new(stream, limits.clone()),
            inbound,
            controls: Arc::default(),
            limits,
            name: format!("{} at {}", self.producer, established.peer),
            told: true,
        };
        link.answer().await.map_err(|error| self.explain(error))?;
        link.told = false;
        let controls = Arc::clone(&link.controls);
        let in_use = established.clone();
        self.node.spawn_link(async move {
            link.run().await;
            drop(in_use);
        });
        Ok(controls)
    }

    /// Subscribes on a connection, if who is at its other end may publish this.
    async fn open_on(
        &self,
        established: &Established,
        subscription: Subscription<T>,
    ) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        if !self.publishers.allows(&established.peer) {
            let error = AccessError::Publish { node: (*established.peer).clone(), producer: self.producer.to_string() };
            let by = self.node.identity().name().to_string();
            return Err(SubscribeError::Refused { at: by, reason: error.to_string() });
        }
        let limit = self.node.config().handshake_timeout;
        match tokio::time::timeout(limit, self.subscribe(subscription, established)).await {
            Ok(opened) => opened,
            Err(_) => Err(no_answer(self.at, limit)),
        }
    }

    fn explain(&self, error: OpenError) -> SubscribeError {
        let (name, at) = (self.producer.to_string(), self.at.to_string());
        match error {
            OpenError::Stream(error) => SubscribeError::Unreachable { at, reason: error_chain(&error) },
            OpenError::Link(error) => SubscribeError::Unreachable { at, reason: error.to_string() },
            OpenError::Refused { reason: Reason::UnknownProducer, .. } => SubscribeError::Unknown { name, at },
            OpenError::Refused { reason: Reason::Ended, .. } => SubscribeError::Ended(name),
            OpenError::Refused { reason: Reason::TypeMismatch, published: Some(published), .. } => {
                SubscribeError::TypeMismatch { name, at, published, expected: T::signature() }
            }
            OpenError::Refused { reason, message, .. } => {
                let reason = if message.is_empty() { reason.to_string() } else { message };
                SubscribeError::Refused { at, reason }
            }
        }
    }
}

impl<T: Wire> Source for Remote<T> {
    type Item = T;

    fn name(&self) -> String {
        format!("{} at {}", self.producer, self.at)
    }

    fn default_window(&self) -> Window {
        Window::FAR
    }

    async fn open(&self, _: usize, subscription: Subscription<T>) -> Result<Arc<dyn Publisher<T>>, SubscribeError> {
        let Subscription { id, consumer, options, interest, subscriber } = &subscription;
        let (interest, subscriber) = (interest.clone(), Arc::clone(subscriber));
        let again = Subscription { id: *id, consumer: *consumer, options: *options, interest, subscriber };
        // Dialling has limits of its own.
        let established = self.node.connect(self.at).await?;
        match self.open_on(&established, subscription).await {
            // It was there from before, and the node at the other end was restarted since.
            Err(SubscribeError::Unreachable { .. }) if established.is_disowned() => {
                self.open_on(&self.node.connect(self.at).await?, again).await
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
        Self { node: self.node.clone(), producer, at: self.at, publishers, events: PhantomData }
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({:?} at {})", self.producer, self.at)
    }
}

/// The subscribing node's half of a link.
struct Link<T> {
    subscription: Subscription<T>,
    stream: FrameStream,
    inbound: Inbound,
    controls: Arc<Controls>,
    limits: Limits,
    /// The producer and its node, for reports.
    name: String,
    /// The consumer knows that the edge has ended, or that there never was one.
    told: bool,
}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        self.tell(EndCause::Down(Exit::Failed(Failure::new(&self.name, FailureKind::Killed, "the link was dropped"))));
    }
}

impl<T> Link<T> {
    fn tell(&mut self, cause: EndCause) {
        if !std::mem::replace(&mut self.told, true) {
            self.subscription.subscriber.ended(self.subscription.id, cause);
        }
    }
}

/// Why there is no link.
enum OpenError {
    Stream(StreamError),
    Link(crate::link::LinkError),
    Refused { reason: Reason, message: String, published: Option<String> },
}

/// Why a link ends early.
enum Broken {
    Stream(StreamError),
    Peer(String),
}

impl<T: Wire> Link<T> {
    /// Waits for the publisher's answer.
    async fn answer(&mut self) -> Result<(), OpenError> {
        loop {
            while let Some(frame) = self.stream.next_frame().map_err(OpenError::Stream)? {
                self.inbound.handle_frame(frame).map_err(OpenError::Link)?;
                // No event can have come with it: nothing has been asked for.
                match self.inbound.poll_event() {
                    Some(InboundEvent::Refused { reason, message, published }) => {
                        return Err(OpenError::Refused { reason, message, published });
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            if self.stream.is_read_to_end() {
                self.inbound.end_of_stream().map_err(OpenError::Link)?;
            }
            self.transmit();
            self.stream.progress(std::future::pending()).await.map_err(OpenError::Stream)?;
        }
    }

    async fn run(mut self) {
        let carried = self.carry().await;
        tracing::debug!(producer = self.name, events = self.inbound.arrived(), "link ended");
        if let Err(broken) = carried {
            let failure = match broken {
                Broken::Stream(error) if error.is_lost() => {
                    Failure::new(&self.name, FailureKind::Disconnected, error_chain(&error))
                }
                Broken::Stream(error) => Failure::new(&self.name, FailureKind::Protocol, error_chain(&error)),
                Broken::Peer(message) => Failure::new(&self.name, FailureKind::Protocol, message),
            };
            self.stream.reset(CLOSE_GIVEN_UP);
            self.tell(EndCause::Down(Exit::Failed(failure)));
        }
    }

    async fn carry(&mut self) -> Result<(), Broken> {
        let controls = Arc::clone(&self.controls);
        loop {
            // First, as some may have come behind the answer.
            while let Some(frame) = self.stream.next_frame().map_err(Broken::Stream)? {
                self.inbound.handle_frame(frame).map_err(|error| Broken::Peer(error.to_string()))?;
                self.deliver()?;
            }
            if self.stream.is_read_to_end() {
                self.inbound.end_of_stream().map_err(|error| Broken::Peer(error.to_string()))?;
            }
            let wishes = controls.take();
            if let Some(handled) = wishes.handled {
                self.inbound.handled(handled);
            }
            self.inbound.ask(wishes.up_to);
            if let Some((exit, unfinished)) = wishes.cancel {
                self.inbound.cancel(cancel_reason(&exit), &unfinished);
                self.tell(EndCause::Cancelled(exit));
            }
            self.transmit();
            if self.inbound.is_finished() && self.stream.is_flushed() {
                self.stream.finish();
                return Ok(());
            }
            self.stream.progress(controls.changed.notified()).await.map_err(Broken::Stream)?;
        }
    }

    /// Hands on what has arrived.
    fn deliver(&mut self) -> Result<(), Broken> {
        while let Some(event) = self.inbound.poll_event() {
            match event {
                InboundEvent::Events { count, attempt, payload } => {
                    let events = decode::<T>(&payload, count, &self.limits)
                        .map_err(|error| Broken::Peer(error_chain(&error)))?;
                    let Subscription { id, subscriber, .. } = &self.subscription;
                    subscriber.deliver(*id, events.into(), attempt);
                }
                InboundEvent::Done => self.tell(EndCause::Down(Exit::Normal)),
                // We did not cancel, so an end that is not the end of the data is an early one, whatever it is called.
                InboundEvent::Failed { reason: Reason::Normal | Reason::Shutdown, .. } => {
                    self.tell(EndCause::Down(Exit::Shutdown));
                }
                InboundEvent::Failed { reason, origin, message } => {
                    let message = match reason {
                        Reason::Panic => format!("stage {origin:?} panicked: {message}"),
                        Reason::Error => format!("stage {origin:?} failed: {message}"),
                        other => format!("{origin}: {other}: {message}"),
                    };
                    let failure = Failure::new(&self.name, FailureKind::Remote, message);
                    self.tell(EndCause::Down(Exit::Failed(failure)));
                }
                InboundEvent::Accepted | InboundEvent::Refused { .. } => {}
            }
        }
        Ok(())
    }

    fn transmit(&mut self) {
        while let Some(bytes) = self.inbound.poll_transmit() {
            self.stream.queue(bytes);
        }
    }
}

/// The publisher that the local consumer sees: it keeps the latest wishes until the link takes them.
#[derive(Default)]
struct Controls {
    wishes: Mutex<Wishes>,
    changed: Notify,
}

#[derive(Default)]
struct Wishes {
    /// Allowed in all; never falls.
    up_to: Demand,
    /// Handled in all, if the consumer says so; never falls.
    handled: Option<Demand>,
    /// Why the edge is to end, and what follows the events that were handled: how many, and the attempt that is to follow.
    cancel: Option<(Exit, Vec<(u64, Attempt)>)>,
}

impl Controls {
    fn take(&self) -> Wishes {
        let mut wishes = self.lock();
        Wishes { up_to: wishes.up_to, handled: wishes.handled, cancel: wishes.cancel.take() }
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Publisher<T> for Controls {
    fn ask(&self, _: SubscriptionId, up_to: Demand) {
        {
            let mut wishes = self.lock();
            wishes.up_to = wishes.up_to.max(up_to);
        }
        self.changed.notify_one();
    }

    fn handled(&self, _: SubscriptionId, up_to: Demand) {
        {
            let mut wishes = self.lock();
            wishes.handled = wishes.handled.max(Some(up_to));
        }
        self.changed.notify_one();
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        Publisher::<T>::leave(self, id, EndCause::Cancelled(reason), Vec::new());
    }

    /// The events themselves are kept by the publisher's node, and need not go back.
    fn leave(&self, _: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<T>, Attempt)>) {
        let counts = unfinished.iter().map(|(events, attempt)| (events.len() as u64, *attempt)).collect();
        self.lock().cancel.get_or_insert((cause.reason().clone(), counts));
        self.changed.notify_one();
    }
}

/// What our wish to end is called on the wire.
fn cancel_reason(exit: &Exit) -> Reason {
    match exit {
        Exit::Normal => Reason::Normal,
        Exit::Shutdown => Reason::Shutdown,
        Exit::Failed(_) => Reason::Error,
    }
}
