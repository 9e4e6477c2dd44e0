//! [`Remote`]: a producer on another node, to which a consumer subscribes as if it were near.

pub(crate) mod arriving;

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aqueduct_stage::{
    Answer, Attempt, Demand, EndCause, Events, Exit, Failure, FailureKind, Publisher, ResultRow, Sentence, Source,
    SubscribeError, SubscribeOptions, Subscription, SubscriptionId, Window, notice,
};
use quinn::{RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::connection::counters::Counters;
use crate::connection::stream::{CLOSE_GIVEN_UP, FrameStream, StreamError};
use crate::connection::{Established, refused};
use crate::frame::{Reason, Subscribe};
use crate::identity::access::AccessError;
use crate::link::patience::Grace;
use crate::link::{Inbound, InboundEvent};
use crate::node::{Inner, Node};
use crate::pauses::Pauses;
use crate::remote::arriving::{Batch, Turn};
use crate::{Access, Limits, NodeName, Wire};

/// A producer on another node: made by [`Node::source`], and a [`Source`] like a stage of the own graph.
///
/// Nothing happens before a consumer subscribes. How many instances the producer has is known with the first answer, and the
/// consumer then subscribes to each, as to a near one. Each subscription is a stream of its own on the one connection between
/// the two nodes. The default window is [that of `SubscribeOptions::far`](SubscribeOptions::far).
pub struct Remote<T> {
    node: Node,
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
    pub(crate) fn new(node: Node, producer: &str, at: SocketAddr) -> Self {
        let (publishers, instances) = (Access::everybody(), Arc::new(AtomicUsize::new(1)));
        let (producer, selector, signature) = (producer.into(), None, None);
        Self { node, producer, at, publishers, selector, instances, signature, events: PhantomData }
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
        let (limits, grace) = (established.limits.clone(), self.node.config().session_grace);
        let window = subscription.options.window_or(Window::FAR);
        let (consumer, held) = self.node.consumer_at(subscription.consumer, self.at, &self.producer, instance);
        let subscribe = Subscribe {
            producer: self.producer.to_string(),
            signature: self.signature(),
            max_demand: window.max().count(),
            min_demand: window.min().count(),
            session: (!grace.is_zero()).then(|| self.node.next_session()),
            selector: self.selector.as_deref().map(str::to_owned),
            instance: instance as u64,
            consumer: Some(consumer),
            announces: established.can_revoke && subscription.subscriber.can_give_back(),
        };
        let mut inbound = Inbound::new(limits.clone(), subscribe).map_err(|error| unreachable(error.to_string()))?;
        inbound.bound_bytes(self.node.config().event_window_bytes.into());
        inbound.share_reassembly(established.reassembly());
        let controls = Arc::new(Controls::of(subscription.id, Box::new(held)));
        let mut link = Link {
            subscription,
            stream: FrameStream::new(stream, limits.clone(), established.fate.clone()),
            epoch: 0,
            inbound,
            node: Some(self.node.clone()),
            far: Far {
                node: Arc::downgrade(&self.node.inner),
                at: self.at,
                peer: Arc::clone(&established.peer),
                patience: (established.round_trip() * ROUND_TRIPS).max(ATTEMPT),
            },
            connection: established.clone(),
            end_of_grace: self.node.inner.ended.clone(),
            grace: Grace::new(grace),
            pauses: Pauses::new(FIRST_PAUSE, LAST_PAUSE),
            idle: Idle::new(),
            controls,
            counters: Arc::clone(&self.node.inner.counters),
            limits,
            name: format!("{} at {}", self.producer, established.peer),
            told: true,
        };
        let instances = link.answer().await.map_err(|error| self.explain(error))?;
        self.instances.store(instances, Ordering::Relaxed);
        link.told = false;
        let controls = Arc::clone(&link.controls);
        controls.takes_answers.store(link.inbound.takes_answers(), Ordering::Relaxed);
        self.node.inner.spawn_link(link.run());
        Ok(controls)
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
            let by = self.node.identity().name().to_string();
            return Err(SubscribeError::Denied { at: by, reason: error.to_string() });
        }
        let limit = self.node.config().handshake_timeout;
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
        let established = self.node.connect(self.at).await?;
        match self.open_on(&established, instance, subscription).await {
            // It was there from before, and the node at the other end was restarted since.
            Err(SubscribeError::Unreachable { .. }) if established.is_disowned() => {
                self.open_on(&self.node.connect(self.at).await?, instance, again).await
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
        let (node, at) = (self.node.clone(), self.at);
        Self { node, producer, at, publishers, selector, instances, signature, events: PhantomData }
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
    /// In use for as long as the link is.
    connection: Established,
    /// Which stream of the link that is.
    epoch: u64,
    inbound: Inbound,
    /// It lives for as long as the link, unless that has only its end to tell and cannot.
    node: Option<Node>,
    far: Far,
    end_of_grace: CancellationToken,
    grace: Grace,
    /// Before each attempt to reach the publisher again.
    pauses: Pauses,
    idle: Idle,
    controls: Arc<Controls>,
    counters: Arc<Counters>,
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
            self.controls.lock().consumer = None;
            self.subscription.subscriber.ended(self.subscription.id, cause);
        }
    }
}

/// Where the publisher is to be found.
#[derive(Clone)]
struct Far {
    /// The own node.
    node: Weak<Inner>,
    at: SocketAddr,
    /// Who it is there: nobody else is told of the link.
    peer: Arc<NodeName>,
    /// How long the first attempt to reach it may take.
    patience: Duration,
}

impl Far {
    async fn open(&self) -> Option<(Established, (SendStream, RecvStream))> {
        let node = Node { inner: self.node.upgrade()? };
        let connection = node.connect(self.at).await.ok()?;
        if connection.peer != self.peer {
            return None;
        }
        let stream = connection.open().await.ok()?;
        Some((connection, stream))
    }
}

/// Notices when nothing has happened for a while: after 0.25 s, 0.5 s, 1 s and so on, and then every 30 s; and every 0.25 s
/// while nothing at all comes on the connection.
struct Idle {
    timer: Pin<Box<Sleep>>,
    pause: Duration,
    is_busy: bool,
    /// How many datagrams had come at the end of the last pause.
    heard: u64,
}

impl Idle {
    fn new() -> Self {
        Self { timer: Box::pin(sleep(FIRST_IDLE)), pause: FIRST_IDLE, is_busy: false, heard: 0 }
    }

    /// Waits for the end of the pause.
    async fn over(&mut self) {
        self.timer.as_mut().await;
    }

    /// Something else has happened: a frame came, or the consumer wants something. What is only said again does not count.
    fn interrupt(&mut self) {
        self.is_busy = true;
    }

    /// The pause is over: whether nothing else has happened in it, or nothing was heard of the peer; to be told how much has
    /// been heard so far.
    fn begin_next(&mut self, heard: u64) -> bool {
        let was_busy = std::mem::take(&mut self.is_busy);
        let is_silent = std::mem::replace(&mut self.heard, heard) == heard;
        self.pause = match (is_silent, was_busy) {
            (true, _) => SILENT,
            (false, true) => FIRST_IDLE,
            (false, false) => (self.pause * 2).min(LAST_IDLE),
        };
        self.timer.as_mut().reset(Instant::now() + self.pause);
        is_silent || !was_busy
    }
}

/// The first attempt to reach the publisher again may take so many round trips, but so long at least; later ones up to four
/// times as long.
const ROUND_TRIPS: u32 = 8;
const ATTEMPT: Duration = Duration::from_secs(1);
const LONGEST_ATTEMPT: u32 = 4;
/// Before the second attempt, and before the last ones; the first is at once, unless the link had only just gone on.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// After so long without a word, what is wanted is said again.
const FIRST_IDLE: Duration = SILENT;
const LAST_IDLE: Duration = Duration::from_secs(30);
/// While nothing is heard of the peer, it is said so often: a node that was killed and started again answers that it knows of
/// no such connection, and QUIC's own probes come ever more seldom.
const SILENT: Duration = Duration::from_millis(250);

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
    /// It does not say that it goes on.
    Unanswered,
}

impl Broken {
    /// Whether the publisher's node is gone, rather than at fault.
    fn is_loss(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_lost(),
            Self::Unanswered => true,
            Self::Peer(_) => false,
        }
    }
}

impl<T: Wire> Link<T> {
    /// Waits for the publisher's answer; returns how many instances the producer has.
    async fn answer(&mut self) -> Result<usize, OpenError> {
        loop {
            while let Some(frame) = self.stream.next_frame().map_err(OpenError::Stream)? {
                self.inbound.handle_frame(self.epoch, frame).map_err(OpenError::Link)?;
                // No event can have come with it: nothing has been asked for.
                match self.inbound.poll_event() {
                    Some(InboundEvent::Refused { reason, message, published }) => {
                        return Err(OpenError::Refused { reason, message, published });
                    }
                    Some(InboundEvent::Accepted { instances }) => {
                        return Ok(usize::try_from(instances).expect("it is bounded"));
                    }
                    Some(_) => unreachable!("the answer comes first"),
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
        let _counted = self.counters.links_subscribed.enter();
        let (mut carried, mut not_back_after) = (self.carry().await, None);
        while let Err(Broken::Stream(error)) = &carried
            && error.is_cut()
            && let Some(epoch) = self.inbound.resume()
        {
            self.epoch = epoch;
            let cause = Sentence(error).to_string();
            let (producer, grace) = (&self.name, self.grace.length());
            notice!(self.counters.notices, info, "cut off from the producer", producer, error = cause, ?grace);
            carried = match self.reconnect().await {
                Some(stream) => {
                    self.stream = stream;
                    self.carry().await
                }
                None => {
                    not_back_after = self.grace.waited(Instant::now());
                    break;
                }
            };
        }
        tracing::debug!(producer = self.name, events = self.inbound.arrived(), "link ended");
        if let Err(broken) = carried {
            let counter = if broken.is_loss() { &self.counters.links_given_up } else { &self.counters.offences };
            counter.add(1);
            let failure = match broken {
                Broken::Stream(error) if error.is_lost() => {
                    let mut message = match error.is_too_slow() {
                        true => "given up by the producer's node: it held back others".to_owned(),
                        false => Sentence(&error).to_string(),
                    };
                    if let Some(waited) = not_back_after {
                        message += &format!(", and not made again within {waited:.1?}");
                    }
                    Failure::new(&self.name, FailureKind::Disconnected, message)
                }
                Broken::Stream(error) => Failure::new(&self.name, FailureKind::Protocol, Sentence(&error).to_string()),
                Broken::Unanswered => {
                    let message = format!("no answer within {:?}", self.grace.length());
                    Failure::new(&self.name, FailureKind::Disconnected, message)
                }
                Broken::Peer(message) => Failure::new(&self.name, FailureKind::Protocol, message),
            };
            self.stream.reset(CLOSE_GIVEN_UP);
            self.tell(EndCause::Down(Exit::Failed(failure)));
        }
    }

    /// Opens another stream to the publisher, as soon as that can be reached; `None` if it cannot in time.
    async fn reconnect(&mut self) -> Option<FrameStream> {
        let controls = Arc::clone(&self.controls);
        let until = self.grace.cut(Instant::now());
        let mut patience = self.far.patience;
        for attempt in 1_u64.. {
            let (far, pause, patience_now) = (self.far.clone(), self.pauses.lost(Instant::now()), patience);
            let opening = async move {
                // Even the shortest sleep lasts until the clock's next tick.
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                timeout(patience_now, far.open()).await.ok().flatten()
            };
            tokio::pin!(opening);
            let opened = loop {
                self.obey();
                // What was handled is still to be said.
                if self.told && !self.inbound.is_retiring() {
                    self.node = None;
                }
                tokio::select! {
                    biased;
                    () = self.end_of_grace.cancelled() => return None,
                    () = sleep_until(until) => return None,
                    () = controls.changed.notified() => {}
                    opened = &mut opening => break opened,
                }
            };
            if let Some((connection, stream)) = opened {
                self.inbound.share_reassembly(connection.reassembly());
                self.connection = connection;
                tracing::debug!(producer = self.name, attempt, "connected to the producer's node again");
                return Some(FrameStream::new(stream, self.limits.clone(), self.connection.fate.clone()));
            }
            // Where packets are lost, a short attempt hardly ever succeeds.
            patience = (patience * 2).min(self.far.patience * LONGEST_ATTEMPT);
        }
        None
    }

    /// Takes over what the consumer wants.
    fn obey(&mut self) {
        let wishes = self.controls.take();
        if let Some(taken) = wishes.taken {
            self.inbound.taken(taken);
        }
        if let Some(handled) = wishes.handled {
            self.inbound.handled(handled);
        }
        self.inbound.ask(wishes.up_to);
        // First, as nothing else is said of what is done.
        for (number, result) in wishes.results.iter() {
            self.inbound.result(number, result);
        }
        for (number, answer) in wishes.answers {
            self.inbound.answer(number, answer);
        }
        if let Some(reason) = wishes.parts {
            self.inbound.retire(cancel_reason(&reason));
            self.tell(EndCause::Cancelled(reason));
        }
        if let Some((cause, unfinished)) = wishes.cancel {
            let reason = cancel_reason(cause.reason());
            match &cause {
                EndCause::Down(_) => self.inbound.down(reason, &unfinished),
                EndCause::Cancelled(_) => self.inbound.cancel(reason, &unfinished),
            }
            self.tell(EndCause::Cancelled(cause.reason().clone()));
        }
    }

    async fn carry(&mut self) -> Result<(), Broken> {
        let controls = Arc::clone(&self.controls);
        self.idle = Idle::new();
        let mut turn = Turn::begin();
        loop {
            // First, as some may have come behind the answer.
            let received = self.receive(&mut turn);
            // Also what came before a frame that is wrong.
            self.deliver()?;
            let has_all = received?;
            if has_all && self.stream.is_read_to_end() {
                self.inbound.end_of_stream().map_err(|error| Broken::Peer(error.to_string()))?;
            }
            self.obey();
            self.transmit();
            self.controls.wake_when_taken(self.inbound.raises_from());
            if self.inbound.is_finished() && self.stream.is_flushed() {
                self.stream.finish();
                return self.stream.delivered().await.map_err(Broken::Stream);
            }
            if turn.is_over() {
                tokio::task::yield_now().await;
                turn = Turn::begin();
                continue;
            }
            let end_of_grace = self.grace.ends();
            let mut is_pause_over = false;
            let woken = async {
                tokio::select! {
                    biased;
                    () = controls.changed.notified() => self.idle.interrupt(),
                    () = self.idle.over() => is_pause_over = true,
                    () = sleep_until(end_of_grace.unwrap_or_else(Instant::now)), if end_of_grace.is_some() => {}
                }
            };
            let mut has_waited = false;
            noting_a_wait(self.stream.progress(woken), &mut has_waited).await.map_err(Broken::Stream)?;
            if has_waited {
                turn = Turn::begin();
            }
            turn.moved();
            if end_of_grace.is_some_and(|end| end <= Instant::now()) {
                return Err(Broken::Unanswered);
            }
            if is_pause_over && self.idle.begin_next(self.connection.heard()) {
                self.inbound.restate();
            }
        }
    }

    /// Takes up frames until its turn is over; returns whether those were all.
    fn receive(&mut self, turn: &mut Turn) -> Result<bool, Broken> {
        while !turn.is_over() {
            let Some(frame) = self.stream.next_frame().map_err(Broken::Stream)? else { return Ok(true) };
            turn.frame();
            self.idle.interrupt();
            self.inbound.handle_frame(self.epoch, frame).map_err(|error| Broken::Peer(error.to_string()))?;
        }
        Ok(false)
    }

    /// Hands on what has arrived.
    fn deliver(&mut self) -> Result<(), Broken> {
        let mut batch = Batch::new();
        while let Some(event) = self.inbound.poll_event() {
            if let InboundEvent::Events { count, attempt, payload } = event {
                let added = batch
                    .add((count, attempt, &payload), &self.limits, |events, attempt| self.hand_on(events, attempt));
                if let Err(error) = added {
                    batch.end(|events, attempt| self.hand_on(events, attempt));
                    return Err(Broken::Peer(Sentence(&error).to_string()));
                }
            } else {
                batch.end(|events, attempt| self.hand_on(events, attempt));
                self.hear(event);
            }
        }
        batch.end(|events, attempt| self.hand_on(events, attempt));
        Ok(())
    }

    fn hand_on(&self, events: Vec<T>, attempt: Attempt) {
        self.counters.events_in.add(events.len() as u64);
        let Subscription { id, subscriber, .. } = &self.subscription;
        subscriber.deliver(*id, events.into(), attempt);
    }

    /// Hears of anything but events.
    fn hear(&mut self, event: InboundEvent) {
        match event {
            InboundEvent::Revoked { number } => {
                self.subscription.subscriber.revoke(self.subscription.id, number);
            }
            InboundEvent::Done => self.tell(EndCause::Down(Exit::Normal)),
            InboundEvent::Failed { reason, origin, message, is_cancel } => {
                let exit = far_exit(&self.name, reason, &origin, &message);
                self.tell(match (exit, is_cancel) {
                    (exit, true) => EndCause::Cancelled(exit),
                    (exit, false) => EndCause::Down(exit),
                });
            }
            InboundEvent::Resumed => {
                self.counters.links_resumed.add(1);
                let events = self.inbound.arrived();
                let now = Instant::now();
                let cut_off = self.grace.resumed(now);
                self.pauses.goes_on(|| now);
                let (notices, producer, epoch) = (&self.counters.notices, &self.name, self.epoch);
                notice!(notices, info, "link resumed", producer, events, ?cut_off, epoch);
            }
            InboundEvent::Lost { reason, message } => {
                self.counters.links_given_up.add(1);
                let why = match reason {
                    Reason::NoSession => "its node was started again, or has given this link up".to_owned(),
                    reason => format!("{reason}: {message}"),
                };
                let failure = Failure::new(&self.name, FailureKind::Disconnected, why);
                self.tell(EndCause::Down(Exit::Failed(failure)));
            }
            InboundEvent::Events { .. } | InboundEvent::Accepted { .. } | InboundEvent::Refused { .. } => {}
        }
    }

    fn transmit(&mut self) {
        while let Some(bytes) = self.inbound.poll_transmit() {
            self.stream.queue(bytes);
        }
    }
}

/// The publisher that the local consumer sees: it keeps the latest wishes until the link takes them.
struct Controls {
    /// Wishes of any other subscription are ignored.
    id: SubscriptionId,
    wishes: Mutex<Wishes>,
    changed: Notify,
    /// The publisher takes answers to single events. Set before anybody can ask.
    takes_answers: AtomicBool,
}

#[derive(Default)]
struct Wishes {
    /// Allowed in all; never falls.
    up_to: Demand,
    /// Taken in all, if the consumer says so; never falls.
    taken: Option<Demand>,
    /// It matters to the link from so many on.
    taken_matters_from: u64,
    /// Handled in all, if the consumer says so; never falls.
    handled: Option<Demand>,
    /// What became of single events, by their numbers, since it was last taken. An event is here once, or twice if it is
    /// begun as well, and both by those that the consumer holds.
    answers: Vec<(u64, Answer)>,
    /// What came of events, since it was last taken; they are as few.
    results: ResultRow,
    /// Why the consumer wants no more events, since it was last taken.
    parts: Option<Exit>,
    /// The events that are being worked on and take longer, however often that is said.
    in_progress: BTreeSet<u64>,
    /// Why the edge is to end, and what follows the events that were handled: how many, and the attempt that is to follow.
    cancel: Option<(EndCause, Vec<(u64, Attempt)>)>,
    /// The consumer's name at the publisher, held until it wants no more or knows that there is no more.
    consumer: Option<Box<dyn Send>>,
}

impl Controls {
    fn of(id: SubscriptionId, consumer: Box<dyn Send>) -> Self {
        let wishes = Wishes { consumer: Some(consumer), ..Wishes::default() };
        Self { id, wishes: Mutex::new(wishes), changed: Notify::new(), takes_answers: AtomicBool::new(false) }
    }

    /// Takes a wish, if it is one of this subscription.
    fn wish(&self, id: SubscriptionId, wish: impl FnOnce(&mut Wishes)) {
        if id == self.id {
            wish(&mut self.lock());
            self.changed.notify_one();
        }
    }

    fn take(&self) -> Wishes {
        let mut wishes = self.lock();
        let Wishes { up_to, taken, taken_matters_from, handled, .. } = *wishes;
        let mut answers = std::mem::take(&mut wishes.answers);
        answers.extend(std::mem::take(&mut wishes.in_progress).into_iter().map(|number| (number, Answer::InProgress)));
        let (parts, cancel, in_progress) = (wishes.parts.take(), wishes.cancel.take(), BTreeSet::new());
        // Next time they are about as many.
        let room = ResultRow::with_capacity(wishes.results.len().min(ROOM), wishes.results.bytes().len().min(ROOM));
        let results = std::mem::replace(&mut wishes.results, room);
        Wishes {
            up_to,
            taken,
            taken_matters_from,
            handled,
            answers,
            results,
            in_progress,
            parts,
            cancel,
            consumer: None,
        }
    }

    /// Wakes the link when so many events are taken: to be woken for each batch would cost more than the batch.
    fn wake_when_taken(&self, events: Option<u64>) {
        let mut wishes = self.lock();
        wishes.taken_matters_from = events.unwrap_or(u64::MAX);
        let is_due = wishes.taken.is_some_and(|taken| taken.count() >= wishes.taken_matters_from);
        drop(wishes);
        if is_due {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Publisher<T> for Controls {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        self.wish(id, |wishes| wishes.up_to = wishes.up_to.max(up_to));
    }

    fn taken(&self, id: SubscriptionId, up_to: Demand) {
        if id != self.id {
            return;
        }
        let mut wishes = self.lock();
        wishes.taken = wishes.taken.max(Some(up_to));
        let is_due = up_to.count() >= wishes.taken_matters_from;
        drop(wishes);
        if is_due {
            self.changed.notify_one();
        }
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        self.wish(id, |wishes| wishes.handled = wishes.handled.max(Some(up_to)));
    }

    fn takes_answers(&self) -> bool {
        self.takes_answers.load(Ordering::Relaxed)
    }

    fn answer(&self, id: SubscriptionId, number: u64, answer: Answer) {
        // A pool says it to every source of what is done out of turn.
        if !self.takes_answers.load(Ordering::Relaxed) {
            return;
        }
        self.wish(id, |wishes| {
            // What is said after a cancel is not heard.
            match answer {
                _ if wishes.cancel.is_some() => {}
                Answer::InProgress => drop(wishes.in_progress.insert(number)),
                answer => wishes.answers.push((number, answer)),
            }
        });
    }

    fn result(&self, id: SubscriptionId, number: u64, result: &[u8]) {
        self.wish(id, |wishes| {
            if wishes.cancel.is_none() {
                wishes.results.push(number, result);
            }
        });
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.wish(id, |wishes| {
            wishes.parts.get_or_insert(reason);
            wishes.consumer = None;
        });
    }

    /// The events themselves are kept by the publisher's node, and need not go back.
    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<T>, Attempt)>) {
        let counts = unfinished.iter().map(|(events, attempt)| (events.len() as u64, *attempt)).collect();
        self.wish(id, |wishes| {
            wishes.cancel.get_or_insert((cause, counts));
            wishes.consumer = None;
        });
    }
}

/// What comes of `future`, and whether it was not there at once.
async fn noting_a_wait<F: Future>(future: F, has_waited: &mut bool) -> F::Output {
    tokio::pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        *has_waited |= polled.is_pending();
        polled
    })
    .await
}

/// How the far producer, or its subscription, has ended.
fn far_exit(name: &str, reason: Reason, origin: &str, message: &str) -> Exit {
    let kind = match reason {
        Reason::AlreadySubscribed => FailureKind::AlreadySubscribed,
        Reason::Ended => FailureKind::AlreadyEnded,
        Reason::Refused => FailureKind::Refused,
        _ => FailureKind::Remote,
    };
    let message = match reason {
        Reason::Normal => return Exit::Normal,
        Reason::Shutdown => return Exit::Shutdown,
        Reason::Panic => format!("stage {origin:?} panicked: {message}"),
        Reason::Error => format!("stage {origin:?} failed: {message}"),
        Reason::AlreadySubscribed | Reason::Ended | Reason::Refused => message.to_owned(),
        other => format!("{origin}: {other}: {message}"),
    };
    Exit::Failed(Failure::new(name, kind, message))
}

/// There is room at once for so many results, and bytes of them.
const ROOM: usize = 4096;

/// What our wish to end is called on the wire.
fn cancel_reason(exit: &Exit) -> Reason {
    match exit {
        Exit::Normal => Reason::Normal,
        Exit::Shutdown => Reason::Shutdown,
        Exit::Failed(_) => Reason::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_is_said_again_ever_more_seldom_unless_nothing_is_heard() {
        let (mut idle, mut pauses) = (Idle::new(), Vec::new());
        for (is_busy, heard) in [(false, 1), (false, 2), (false, 2), (true, 2), (false, 3), (true, 4), (false, 5)] {
            if is_busy {
                idle.interrupt();
            }
            idle.over().await;
            let is_said = idle.begin_next(heard);
            pauses.push((idle.pause.as_millis(), is_said));
        }
        let silent = (250, true);
        let expected = [(500, true), (1000, true), silent, silent, (500, true), (250, false), (500, true)];
        assert_eq!(pauses, expected);
    }

    #[test]
    fn wishes_of_an_unknown_subscription_are_ignored() {
        let id = SubscriptionId::new();
        let controls = Controls::of(id, Box::new(()));
        let publisher: &dyn Publisher<u64> = &controls;
        let unknown = SubscriptionId::new();
        publisher.ask(unknown, Demand::MAX);
        publisher.handled(unknown, Demand::MAX);
        publisher.cancel(unknown, Exit::Shutdown);
        publisher.ask(id, Demand::new(3));
        let wishes = controls.take();
        assert_eq!((wishes.up_to, wishes.handled), (Demand::new(3), None));
        assert!(wishes.cancel.is_none() && wishes.parts.is_none());
        publisher.cancel(id, Exit::Shutdown);
        assert!(matches!(controls.take().parts, Some(Exit::Shutdown)));
        publisher.leave(id, EndCause::Down(Exit::Normal), Vec::new());
        assert!(matches!(controls.take().cancel, Some((EndCause::Down(Exit::Normal), _))));
    }
}
