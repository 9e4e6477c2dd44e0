//! The publishing node's half of a link: a local source, served to a subscriber on another node.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{
    Attempt, BoxFuture, ConsumerId, Demand, EndCause, Events, Exit, Failure, FailureKind, Interest, Publisher, Source,
    SubscribeError, Subscriber, Subscription, SubscriptionId, Window,
};
use tokio::sync::Notify;

use crate::codec::encode;
use crate::connection::Offences;
use crate::error::error_chain;
use crate::frame::{Reason, Subscribe};
use crate::link::{Outbound, OutboundEvent};
use crate::stream::{CLOSE_GIVEN_UP, FrameStream, StreamError};
use crate::{EncodeError, Limits, Wire};

/// A source that other nodes may subscribe to, with its type erased.
pub(crate) trait Publication: Send + Sync {
    /// Serves one subscriber, to the end of the link.
    fn serve(self: Arc<Self>, link: IncomingLink) -> BoxFuture<'static>;
}

/// What a subscriber on another node asked for, and the stream on which it waits for the answer.
pub(crate) struct IncomingLink {
    pub(crate) subscribe: Subscribe,
    pub(crate) stream: FrameStream,
    pub(crate) limits: Limits,
    /// The subscriber's node, for reports.
    pub(crate) peer: String,
    /// What that node has done wrong on its connection.
    pub(crate) offences: Arc<Offences>,
}

/// A source of events that can cross to other nodes.
pub(crate) struct Published<Src>(pub(crate) Src);

impl<Src: Source<Item: Wire>> Publication for Published<Src> {
    fn serve(self: Arc<Self>, link: IncomingLink) -> BoxFuture<'static> {
        Box::pin(async move {
            let (producer, peer) = (link.subscribe.producer.clone(), link.peer.clone());
            tracing::debug!(producer, peer, "subscribed to from another node");
            match Serving::<Src::Item>::open(&self.0, link).await {
                Ok(Some(mut serving)) => {
                    let served = serving.run().await;
                    serving.close(&served);
                    match served {
                        Ok(()) => tracing::debug!(producer, peer, "link ended"),
                        Err(error) => tracing::debug!(producer, peer, %error, "link broken"),
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(producer, peer, %error, "link broken"),
            }
        })
    }
}

/// Answers a subscriber that there will be no link.
pub(crate) async fn refuse(mut link: IncomingLink, reason: Reason, message: &str, published: Option<&str>) {
    let mut outbound = Outbound::new(link.limits.clone());
    outbound.refuse(reason, message, published);
    while let Some(bytes) = outbound.poll_transmit() {
        link.stream.queue(bytes);
    }
    while !link.stream.is_flushed() {
        let moved = link.stream.progress(std::future::pending()).await;
        // What it says does not matter any more, and must not pile up.
        while let Ok(Some(_)) = link.stream.next_frame() {}
        if moved.is_err() {
            return;
        }
    }
    link.stream.finish();
    link.stream.delivered().await;
}

/// One link being served.
struct Serving<T> {
    id: SubscriptionId,
    publisher: Arc<dyn Publisher<T>>,
    outlet: Arc<Outlet<T>>,
    outbound: Outbound,
    stream: FrameStream,
    limits: Limits,
    stage: String,
    offences: Arc<Offences>,
    /// What the subscriber allows, and what was asked of the source: in all.
    wanted: Demand,
    asked: Demand,
    /// How many events the source has sent.
    taken: u64,
    /// The source knows that the edge has ended.
    ended: bool,
    events: PhantomData<fn(T)>,
}

impl<T: Wire> Serving<T> {
    /// Makes the edge to the local source; `None` if the subscriber was refused.
    async fn open<Src: Source<Item = T>>(source: &Src, link: IncomingLink) -> Result<Option<Self>, StreamError> {
        let signature = T::signature();
        if link.subscribe.signature != signature {
            refuse(link, Reason::TypeMismatch, "", Some(&signature)).await;
            return Ok(None);
        }
        if source.instances() != 1 {
            let message = format!("it has {} instances, and only one can be published", source.instances());
            refuse(link, Reason::Error, &message, None).await;
            return Ok(None);
        }
        let Some(window) = window(&link.subscribe) else {
            refuse(link, Reason::Protocol, "not a window of demand", None).await;
            return Ok(None);
        };
        let outlet = Arc::new(Outlet::default());
        let id = SubscriptionId::new();
        let subscription = Subscription {
            id,
            consumer: ConsumerId::new(),
            options: window.into(),
            interest: Interest::ALL,
            subscriber: Arc::clone(&outlet) as _,
        };
        let opened = tokio::select! {
            biased;
            opened = source.open(0, subscription) => opened,
            () = link.stream.refused() => return Ok(None),
        };
        let publisher = match opened {
            Ok(publisher) => publisher,
            Err(error) => {
                let reason = match error {
                    SubscribeError::Ended(_) => Reason::Ended,
                    _ => Reason::Error,
                };
                refuse(link, reason, &error.to_string(), None).await;
                return Ok(None);
            }
        };
        let IncomingLink { subscribe, stream, limits, offences, .. } = link;
        let mut outbound = Outbound::new(limits.clone());
        outbound.accept();
        Ok(Some(Self {
            id,
            publisher,
            outlet,
            outbound,
            stream,
            limits,
            stage: subscribe.producer,
            offences,
            wanted: Demand::ZERO,
            asked: Demand::ZERO,
            taken: 0,
            ended: false,
            events: PhantomData,
        }))
    }

    async fn run(&mut self) -> Result<(), StreamError> {
        loop {
            // First, as some may have come behind the subscription itself.
            while let Some(frame) = self.stream.next_frame()? {
                if let Err(error) = self.outbound.handle_frame(&frame) {
                    tracing::warn!(stage = self.stage, %error, "subscriber broke the protocol");
                    self.offences.add(&error.to_string());
                    self.outbound.end_of_stream();
                }
            }
            if self.stream.is_read_to_end() {
                self.outbound.end_of_stream();
            }
            while self.stream.queued_bytes() + self.outbound.queued_bytes() < HIGH_WATER_BYTES
                && let Some(parcel) = self.outlet.take()
            {
                self.send(parcel);
            }
            while let Some(event) = self.outbound.poll_event() {
                match event {
                    OutboundEvent::Demand { up_to } => self.wanted = up_to,
                    OutboundEvent::Cancelled { reason } => self.cancel(exit(reason)),
                }
            }
            self.ask();
            while let Some(bytes) = self.outbound.poll_transmit() {
                self.stream.queue(bytes);
            }
            if self.outbound.is_finished() && self.stream.is_flushed() {
                self.stream.finish();
                self.stream.delivered().await;
                return Ok(());
            }
            self.stream.progress(self.outlet.arrived.notified()).await?;
        }
    }

    /// Asks the source for what the subscriber wants, as far as it may have open at one time: another node does not
    /// decide how much is held here.
    fn ask(&mut self) {
        let bound = Demand::new(self.taken).saturating_add(MAX_OPEN_DEMAND);
        let up_to = self.wanted.min(bound);
        if up_to > self.asked && !self.ended {
            self.asked = up_to;
            self.publisher.ask(self.id, up_to);
        }
    }

    /// Moves what the source sent into the link.
    fn send(&mut self, parcel: Parcel<T>) {
        match parcel {
            Parcel::Events(events) => {
                self.taken += events.len() as u64;
                match encode(&events, &self.limits) {
                    Ok(encoded) => self.outbound.send(&encoded),
                    Err(error) => self.give_up(&events[..error.index], &error),
                }
            }
            Parcel::Ended(cause) => {
                self.ended = true;
                match cause.reason() {
                    _ if cause.is_exhausted() => self.outbound.finish(),
                    Exit::Normal => self.outbound.fail(Reason::Normal, &self.stage, ""),
                    Exit::Shutdown => self.outbound.fail(Reason::Shutdown, &self.stage, ""),
                    Exit::Failed(failure) => {
                        self.outbound.fail(reason(failure.kind()), failure.origin(), failure.message());
                    }
                }
            }
        }
    }

    /// An event cannot be sent: the edge fails behind those before it, at both ends.
    fn give_up(&mut self, before: &[T], error: &EncodeError) {
        let message = error_chain(error);
        tracing::warn!(stage = self.stage, message, "subscription given up");
        if let Ok(encoded) = encode(before, &self.limits) {
            self.outbound.send(&encoded);
        }
        self.outbound.fail(Reason::Error, &self.stage, &message);
        self.cancel(Exit::Failed(Failure::new(&self.stage, FailureKind::Protocol, message)));
    }

    /// Tells the source that the subscriber is gone, however the link ended.
    fn close(&mut self, served: &Result<(), StreamError>) {
        if let Err(error) = served {
            if !error.is_lost() {
                self.offences.add(&error.to_string());
            }
            self.stream.reset(CLOSE_GIVEN_UP);
            self.cancel(Exit::Failed(Failure::new(&self.stage, FailureKind::Disconnected, error.to_string())));
        }
    }

    fn cancel(&mut self, exit: Exit) {
        if !std::mem::replace(&mut self.ended, true) {
            self.publisher.cancel(self.id, exit);
        }
    }
}

impl<T> Drop for Serving<T> {
    fn drop(&mut self) {
        if !self.ended {
            self.publisher.cancel(self.id, Exit::Shutdown);
        }
    }
}

/// The subscriber that the local source sees: it keeps what arrives until the link takes it. Bounded by the demand that
/// the other node has allowed.
struct Outlet<T> {
    parcels: Mutex<VecDeque<Parcel<T>>>,
    arrived: Notify,
}

enum Parcel<T> {
    Events(Events<T>),
    Ended(EndCause),
}

impl<T> Outlet<T> {
    fn take(&self) -> Option<Parcel<T>> {
        self.lock().pop_front()
    }

    fn push(&self, parcel: Parcel<T>) {
        self.lock().push_back(parcel);
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Parcel<T>>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Outlet<T> {
    fn default() -> Self {
        Self { parcels: Mutex::default(), arrived: Notify::new() }
    }
}

impl<T: Send> Subscriber<T> for Outlet<T> {
    fn deliver(&self, _: SubscriptionId, events: Events<T>, _: Attempt) {
        self.push(Parcel::Events(events));
    }

    fn ended(&self, _: SubscriptionId, cause: EndCause) {
        self.push(Parcel::Ended(cause));
    }
}

/// The subscriber's window, if it is one. Its bounds are for information: what may be sent is said by credit.
fn window(subscribe: &Subscribe) -> Option<Window> {
    let [min, max] = [subscribe.min_demand, subscribe.max_demand].map(|n| Demand::new(n).as_len());
    Window::new(min, max).ok()
}

/// What a failure is called on the wire.
fn reason(kind: FailureKind) -> Reason {
    match kind {
        FailureKind::Panic => Reason::Panic,
        FailureKind::Killed => Reason::Killed,
        FailureKind::Shutdown => Reason::Shutdown,
        FailureKind::Disconnected => Reason::Disconnected,
        FailureKind::Protocol => Reason::Protocol,
        _ => Reason::Error,
    }
}

/// Why the subscriber's node wants no more.
fn exit(reason: Reason) -> Exit {
    match reason {
        Reason::Normal => Exit::Normal,
        Reason::Shutdown => Exit::Shutdown,
        other => Exit::Failed(Failure::new("the subscriber's node", FailureKind::Remote, other.to_string())),
    }
}

/// No more events are encoded while so many bytes wait for the network: enough to keep it busy between two wakes.
const HIGH_WATER_BYTES: usize = 256 << 10;
/// What one subscription may have open at the source, in events: several times the far default.
const MAX_OPEN_DEMAND: Demand = Demand::new(65_536);
