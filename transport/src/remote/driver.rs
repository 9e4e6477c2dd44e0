//! [`Link`]: the subscribing node's half of a link, as its driver: it is decided by [`Inbound`] and [`Timers`].

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use aqueduct_stage::{Attempt, EndCause, Exit, Failure, FailureKind, Publisher, Sentence, Subscription, notice};
use quinn::{RecvStream, SendStream};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::arriving::{Batch, Turn};
use super::controls::Controls;
use crate::connection::{CLOSE_GIVEN_UP, Connections, Counters, Established, FrameStream, StreamError};
use crate::frame::Reason;
use crate::link::{Due, Inbound, InboundEvent, LinkError, Timers, exit_of_producer, reason_of_cancel};
use crate::{Limits, NodeName, Wire};

/// The subscribing node's half of a link.
pub(super) struct Link<T> {
    subscription: Subscription<T>,
    stream: FrameStream,
    /// In use for as long as the link is.
    connection: Established,
    /// Which stream of the link that is.
    epoch: u64,
    inbound: Inbound,
    /// They live for as long as the link, unless that has only its end to tell and cannot.
    connections: Option<Arc<Connections>>,
    far: Far,
    end_of_grace: CancellationToken,
    timers: Timers,
    /// Goes off at the next timeout of `timers`.
    alarm: Pin<Box<Sleep>>,
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
            self.controls.forget_consumer();
            self.subscription.subscriber.ended(self.subscription.id, cause);
        }
    }
}

/// Where the publisher is to be found.
#[derive(Clone)]
struct Far {
    connections: Weak<Connections>,
    at: SocketAddr,
    /// Who it is there: nobody else is told of the link.
    peer: Arc<NodeName>,
}

impl Far {
    async fn open(&self) -> Option<(Established, (SendStream, RecvStream))> {
        let connection = self.connections.upgrade()?.connect(self.at).await.ok()?;
        if connection.peer != self.peer {
            return None;
        }
        let stream = connection.open().await.ok()?;
        Some((connection, stream))
    }
}

/// Why there is no link.
pub(super) enum OpenError {
    Stream(StreamError),
    Link(LinkError),
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
    /// A link on the first stream to the node at `at`, on which nothing was said so far.
    pub(super) fn new(
        connections: &Arc<Connections>,
        (at, name): (SocketAddr, String),
        established: &Established,
        stream: (SendStream, RecvStream),
        inbound: Inbound,
        subscription: Subscription<T>,
        controls: Controls,
    ) -> Self {
        let (limits, now) = (established.limits.clone(), Instant::now());
        let timers = Timers::new(connections.config().session_grace, established.round_trip(), now);
        Self {
            subscription,
            stream: FrameStream::new(stream, limits.clone(), established.fate.clone()),
            connection: established.clone(),
            epoch: 0,
            inbound,
            connections: Some(Arc::clone(connections)),
            far: Far { connections: Arc::downgrade(connections), at, peer: Arc::clone(&established.peer) },
            end_of_grace: connections.ended().clone(),
            alarm: Box::pin(sleep_until(timers.poll_timeout())),
            timers,
            controls: Arc::new(controls),
            counters: Arc::clone(connections.counters()),
            limits,
            name,
            told: true,
        }
    }

    /// Waits for the publisher's answer, and carries the link from then on, in a task of its own. Returns how many instances
    /// the producer has, and the publisher for the consumer.
    pub(super) async fn start(mut self) -> Result<(usize, Arc<dyn Publisher<T>>), OpenError> {
        let instances = self.answer().await?;
        self.told = false;
        let controls = Arc::clone(&self.controls);
        controls.take_answers(self.inbound.takes_answers());
        if let Some(connections) = self.connections.clone() {
            connections.spawn_link(self.run());
        }
        Ok((instances, controls))
    }

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
            let (producer, grace) = (&self.name, self.timers.grace());
            notice!(self.counters.notices, info, "cut off from the producer", producer, error = cause, ?grace);
            carried = match self.reconnect().await {
                Some(stream) => {
                    self.stream = stream;
                    self.carry().await
                }
                None => {
                    not_back_after = self.timers.cut_for(Instant::now());
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
                    let message = format!("no answer within {:?}", self.timers.grace());
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
        self.timers.cut(Instant::now());
        let mut attempts = 0_u64;
        while let Some(reach) = self.timers.reach(Instant::now()) {
            let far = self.far.clone();
            let opening = async move {
                // Even the shortest sleep lasts until the clock's next tick.
                if reach.begins > Instant::now() {
                    sleep_until(reach.begins).await;
                }
                timeout_at(reach.ends, far.open()).await.ok().flatten()
            };
            tokio::pin!(opening);
            let opened = loop {
                self.obey();
                // What was handled is still to be said.
                if self.told && !self.inbound.is_retiring() {
                    self.connections = None;
                }
                tokio::select! {
                    biased;
                    () = self.end_of_grace.cancelled() => return None,
                    () = controls.changed() => {}
                    opened = &mut opening => break opened,
                }
            };
            attempts += 1;
            if let Some((connection, stream)) = opened {
                self.inbound.share_reassembly(connection.reassembly());
                self.connection = connection;
                tracing::debug!(producer = self.name, attempts, "connected to the producer's node again");
                return Some(FrameStream::new(stream, self.limits.clone(), self.connection.fate.clone()));
            }
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
            self.inbound.retire(reason_of_cancel(&reason));
            self.tell(EndCause::Cancelled(reason));
        }
        if let Some((cause, unfinished)) = wishes.cancel {
            let reason = reason_of_cancel(cause.reason());
            match &cause {
                EndCause::Down(_) => self.inbound.down(reason, &unfinished),
                EndCause::Cancelled(_) => self.inbound.cancel(reason, &unfinished),
            }
            self.tell(EndCause::Cancelled(cause.reason().clone()));
        }
    }

    async fn carry(&mut self) -> Result<(), Broken> {
        let controls = Arc::clone(&self.controls);
        self.timers.carried(Instant::now());
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
            let due = self.timers.poll_timeout();
            if self.alarm.deadline() != due {
                self.alarm.as_mut().reset(due);
            }
            let (mut is_wanted, mut is_due, mut has_waited) = (false, false, false);
            let woken = async {
                tokio::select! {
                    biased;
                    () = controls.changed() => is_wanted = true,
                    () = self.alarm.as_mut() => is_due = true,
                }
            };
            noting_a_wait(self.stream.progress(woken), &mut has_waited).await.map_err(Broken::Stream)?;
            if is_wanted {
                self.timers.interrupt();
            }
            if has_waited {
                turn = Turn::begin();
            }
            turn.moved();
            // The alarm is not heard while there is always something to read.
            if is_due || self.timers.is_cut() {
                match self.timers.handle_timeout(Instant::now(), self.connection.heard()) {
                    Some(Due::GiveUp) => return Err(Broken::Unanswered),
                    Some(Due::Restate) => self.inbound.restate(),
                    None => {}
                }
            }
        }
    }

    /// Takes up frames until its turn is over; returns whether those were all.
    fn receive(&mut self, turn: &mut Turn) -> Result<bool, Broken> {
        while !turn.is_over() {
            let Some(frame) = self.stream.next_frame().map_err(Broken::Stream)? else { return Ok(true) };
            turn.frame();
            self.timers.interrupt();
            self.inbound.handle_frame(self.epoch, frame).map_err(|error| Broken::Peer(error.to_string()))?;
        }
        Ok(false)
    }

    /// Hands on what has arrived.
    fn deliver(&mut self) -> Result<(), Broken> {
        let mut batch = Batch::new();
        while let Some(event) = self.inbound.poll_event() {
            if let InboundEvent::Events { count, attempt, form, payload } = event {
                let arrived = (count, attempt, form, &payload[..]);
                let added = batch.add(arrived, &self.limits, |events, attempt| self.hand_on(events, attempt));
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
                let exit = exit_of_producer(&self.name, reason, &origin, &message);
                self.tell(match (exit, is_cancel) {
                    (exit, true) => EndCause::Cancelled(exit),
                    (exit, false) => EndCause::Down(exit),
                });
            }
            InboundEvent::Resumed => {
                self.counters.links_resumed.add(1);
                let events = self.inbound.arrived();
                let cut_off = self.timers.resumed(Instant::now());
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
