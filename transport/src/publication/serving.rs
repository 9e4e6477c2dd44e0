//! [`Serving`]: one link being served, as its driver: it is decided by [`Outbound`].

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{
    Attempt, ConsumerId, Demand, EndCause, Exit, Failure, FailureKind, Interest, Publisher, Sentence, Source,
    SubscribeError, Subscription, SubscriptionId, Window, notice,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::IncomingLink;
use super::outlet::{Outlet, Parcel};
use super::published::Published;
use super::sessions::{Arrival, Door};
use super::share::{EventSize, Share};
use crate::codec::{Written, decode_behind, encode};
use crate::connection::{CLOSE_GIVEN_UP, CLOSE_TOO_SLOW, Counters, FrameStream, Offences, Slot, StreamError};
use crate::frame::{FarConsumer, Reason, Subscribe};
use crate::link::{LOOK_EVERY, Outbound, OutboundEvent, Stall, exit_of_subscriber, patience, reason_of_failure};
use crate::shared::Held;
use crate::{EncodeError, Limits, Wire};

/// One link being served.
pub(super) struct Serving<T: Wire> {
    id: SubscriptionId,
    publisher: Arc<dyn Publisher<T>>,
    outlet: Arc<Outlet<T>>,
    outbound: Outbound,
    stream: FrameStream,
    /// Which stream of the link that is.
    epoch: u64,
    /// Where the next one comes in; `None` if the link does not survive its connection.
    door: Option<Door>,
    grace: Duration,
    lag_limit: Duration,
    stall_limit: Option<Duration>,
    stall: Stall,
    /// How long the source's events are, and how much is kept of them.
    sizes: Arc<EventSize>,
    share: Share,
    end_of_grace: CancellationToken,
    limits: Limits,
    stage: String,
    /// What the subscriber's node has done wrong on its connection.
    offences: Arc<Offences>,
    pub(super) counters: Arc<Counters>,
    peer: String,
    /// The subscriber takes numbers by their differences.
    takes_columns: bool,
    /// What was asked of the source, in all.
    asked: Demand,
    /// The source has ended the edge, and hears of what it has given.
    is_let_go: bool,
    /// The source knows that the edge has ended.
    ended: bool,
    /// Who subscribes, for as long as this lives.
    _consumer: Option<Arc<Held<(String, FarConsumer), ConsumerId>>>,
    /// Its place among the links of the peer.
    slot: Slot,
    events: PhantomData<fn(T)>,
}

impl<T: Wire> Serving<T> {
    /// Makes the edge to the local source; `None` if the subscriber was refused.
    pub(super) async fn open<Src: Source<Item = T>>(
        published: &Published<Src>,
        mut link: IncomingLink,
    ) -> Result<Option<Self>, StreamError> {
        let source = &published.source;
        let signature = published.signature.as_deref().map_or_else(T::signature, str::to_owned);
        if link.subscribe.signature != signature {
            link.refuse(Reason::TypeMismatch, "", Some(&signature)).await;
            return Ok(None);
        }
        // A far source that is published again learns with its first subscription how many it has.
        let instance = usize::try_from(link.subscribe.instance).unwrap_or(usize::MAX);
        if instance > 0 && instance >= source.instances() {
            let message = format!("expected an instance below {}, got {instance}", source.instances());
            link.refuse(Reason::Error, &message, None).await;
            return Ok(None);
        }
        let Some(slot) = link.slot.take() else {
            let message =
                format!("expected at most {} subscriptions of one node, got one more", link.max_subscriptions);
            link.refuse(Reason::Overloaded, &message, None).await;
            return Ok(None);
        };
        let Some(window) = window(&link.subscribe) else {
            link.refuse(Reason::Protocol, "not a window of demand", None).await;
            return Ok(None);
        };
        let selector = match link.subscribe.selector.as_deref().map(|name| published.selectors.find(name)).transpose() {
            Ok(selector) => selector,
            Err(unknown) => {
                link.refuse(Reason::Error, &unknown.to_string(), None).await;
                return Ok(None);
            }
        };
        let can_give_back = link.subscribe.announces && link.can_revoke;
        let outlet = Arc::new(Outlet::new(can_give_back));
        let subscriber = Arc::clone(&outlet) as _;
        #[cfg(aqueduct_bugs)]
        let (selector, subscriber) = crate::bugs::choose_late(selector, subscriber);
        let id = SubscriptionId::new();
        let consumer =
            link.subscribe.consumer.map(|far| link.consumers.hold((link.peer.clone(), far), ConsumerId::new));
        let subscription = Subscription {
            id,
            consumer: consumer.as_ref().map_or_else(ConsumerId::new, |held| held.value),
            options: window.into(),
            interest: Interest { selector, partition: None },
            subscriber,
        };
        let opened = tokio::select! {
            biased;
            opened = source.open(instance, subscription) => opened,
            () = link.stream.refused() => return Ok(None),
        };
        let publisher = match opened {
            Ok(publisher) => publisher,
            Err(error) => {
                let reason = match error {
                    SubscribeError::Ended(_) => Reason::Ended,
                    _ => Reason::Error,
                };
                link.refuse(reason, &error.to_string(), None).await;
                return Ok(None);
            }
        };
        let IncomingLink {
            subscribe,
            stream,
            limits,
            peer,
            offences,
            grace,
            max_subscriptions,
            slot: _,
            keep,
            sessions,
            ended,
            ..
        } = link;
        let counters = link.counters;
        let session = subscribe.session.filter(|_| !grace.is_zero());
        let door = session.and_then(|session| sessions.open(&peer, session, max_subscriptions, &outlet.arrived));
        let mut outbound = Outbound::new(limits.clone());
        if publisher.takes_answers() {
            outbound.take_answers();
            outbound.share_reassembly(slot.peer().reassembly.clone());
            if can_give_back {
                outbound.announced();
            }
        }
        outbound.accept_one_of(source.instances() as u64);
        Ok(Some(Self {
            id,
            publisher,
            outlet,
            outbound,
            stream,
            epoch: 0,
            door,
            grace,
            lag_limit: published.lag_limit,
            stall_limit: published.stall_limit,
            stall: Stall::default(),
            sizes: Arc::clone(&published.sizes),
            share: Share::new(keep),
            end_of_grace: ended,
            limits,
            stage: subscribe.producer,
            offences,
            counters,
            takes_columns: subscribe.takes_columns,
            asked: Demand::ZERO,
            peer,
            is_let_go: false,
            ended: false,
            _consumer: consumer,
            slot,
            events: PhantomData,
        }))
    }

    pub(super) async fn run(&mut self) -> Result<(), StreamError> {
        loop {
            match self.carry().await {
                // Only whether its last bytes have arrived is not known, and nothing would be said on another stream.
                Err(error) if error.is_cut() && self.outbound.is_over() => return Ok(()),
                Err(error) if error.is_cut() && self.door.is_some() => self.wait_for_subscriber(error).await?,
                ended => return ended,
            }
        }
    }

    /// Waits until the subscriber comes back.
    ///
    /// # Errors
    ///
    /// The one with which it was lost, if it has not come back in time or is known to be gone.
    async fn wait_for_subscriber(&mut self, error: StreamError) -> Result<(), StreamError> {
        let (stage, peer) = (self.stage.clone(), self.peer.clone());
        let (notices, grace) = (&self.counters.notices, self.grace);
        notice!(notices, info, "subscriber cut off", stage, peer, error = %Sentence(&error), ?grace);
        self.outbound.cut();
        let cut_at = Instant::now();
        while !self.let_in() {
            if self.outbound.is_over() {
                return Ok(());
            }
            if self.door.as_ref().is_none_or(Door::is_abandoned) {
                return Err(error);
            }
            let (cut_for, others_wait) = (cut_at.elapsed(), self.publisher.holds_back(self.id));
            let Some(look_after) = patience(cut_for, grace, self.lag_limit, others_wait) else {
                let notices = &self.counters.notices;
                notice!(notices, warn, "subscriber given up", stage, peer, ?cut_for, ?grace, others_wait);
                if cut_for < self.grace {
                    self.counters.links_given_up_early.add(1);
                }
                return Err(error);
            };
            tokio::select! {
                biased;
                () = self.end_of_grace.cancelled() => return Err(error),
                () = self.outlet.arrived.notified() => {}
                () = sleep(look_after) => {}
            }
        }
        notice!(self.counters.notices, info, "subscriber is back", stage, peer, epoch = self.epoch);
        Ok(())
    }

    /// Takes the stream that waits at the door, if there is one that counts.
    fn let_in(&mut self) -> bool {
        let Some(Arrival { resume, mut stream, offences }) = self.door.as_ref().and_then(Door::take) else {
            return false;
        };
        match self.outbound.resume(resume.epoch, resume.arrived) {
            Ok(()) => {
                self.epoch = resume.epoch;
                self.counters.links_resumed.add(1);
                self.offences = offences;
                std::mem::swap(&mut self.stream, &mut stream);
                stream.reset(CLOSE_GIVEN_UP);
                true
            }
            Err(reason) => {
                let Self { stage, peer, counters, .. } = self;
                notice!(counters.notices, warn, "a stream cannot resume the link", stage, peer, %reason);
                stream.reset(CLOSE_GIVEN_UP);
                false
            }
        }
    }

    async fn carry(&mut self) -> Result<(), StreamError> {
        loop {
            self.let_in();
            // First, as some may have come behind the subscription itself.
            while let Some(frame) = self.stream.next_frame()? {
                if let Err(error) = self.outbound.handle_frame(self.epoch, &frame) {
                    let Self { stage, peer, counters, .. } = self;
                    notice!(counters.notices, warn, "subscriber broke the protocol", stage, peer, %error);
                    self.offences.add(&error.to_string());
                    self.outbound.give_up();
                }
            }
            if self.stream.is_read_to_end() {
                self.outbound.end_of_stream();
            }
            self.pass_on();
            self.ask();
            while self.stream.queued_bytes() < HIGH_WATER_BYTES {
                if let Some(bytes) = self.outbound.poll_transmit() {
                    self.stream.queue(bytes);
                } else if self.outbound.unacknowledged_bytes() < self.share.link_bytes()
                    && let Some(parcel) = self.outlet.take()
                {
                    self.send(parcel);
                } else {
                    break;
                }
            }
            if self.outbound.is_finished() && self.stream.is_flushed() {
                self.stream.finish();
                if self.outbound.is_over() {
                    // Whom the source has let go is done with what it was given.
                    self.leave(EndCause::Cancelled(Exit::Normal));
                    return self.stream.delivered().await;
                }
            }
            self.stalls()?;
            let woken = async {
                match self.stall_limit {
                    Some(_) => drop(timeout(LOOK_EVERY, self.outlet.arrived.notified()).await),
                    None => self.outlet.arrived.notified().await,
                }
            };
            self.stream.progress(woken).await?;
        }
    }

    /// Asks the source for what the subscriber wants, as far as it may have open at one time, in events and in bytes: another
    /// node does not decide how much is held here.
    fn ask(&mut self) {
        if self.ended || self.is_let_go {
            return;
        }
        let (last, kept) = (self.outbound.last(), self.outbound.unacknowledged_bytes());
        let fit = self.share.ask_up_to(&self.slot.peer().kept_bytes, &self.sizes, (last, self.asked), kept);
        let up_to = self.outbound.allows_up_to(MAX_OPEN_DEMAND).min(fit);
        if up_to > self.asked {
            self.asked = up_to;
            self.publisher.ask(self.id, up_to);
        }
    }

    /// Gives up a subscriber that has held back others for too long.
    fn stalls(&mut self) -> Result<(), StreamError> {
        let Some(limit) = self.stall_limit.filter(|_| !self.ended) else { return Ok(()) };
        if self.stall.look(self.publisher.holds_back(self.id), limit, Instant::now()) {
            notice!(
                self.counters.notices,
                warn,
                "subscriber given up: others wait",
                stage = self.stage,
                peer = self.peer
            );
            self.counters.links_given_up_early.add(1);
            return Err(StreamError::Stalled(limit));
        }
        Ok(())
    }

    /// Moves what the source sent into the link.
    fn send(&mut self, parcel: Parcel<T>) {
        match parcel {
            Parcel::Events(events, attempt) => match self.write(&events) {
                Ok(written) => {
                    self.counters.events_out.add(events.len() as u64);
                    self.sizes.learn(events.len(), written.byte_len());
                    self.outbound.send(written, attempt);
                }
                Err(error) => self.give_up(&events[..error.index], attempt, &error),
            },
            Parcel::Revoke(number) => self.outbound.revoke(number),
            Parcel::Expired(number) => self.outbound.expire(number),
            Parcel::Ended(cause) => {
                // A source that lives on is told what becomes of the events that it has given.
                self.is_let_go = matches!(cause, EndCause::Cancelled(_)) && self.outbound.is_acknowledged();
                self.ended = !self.is_let_go;
                let (reason, origin, message) = match cause.reason() {
                    Exit::Normal => (Reason::Normal, &*self.stage, ""),
                    Exit::Shutdown => (Reason::Shutdown, &*self.stage, ""),
                    Exit::Failed(failure) => (reason_of_failure(failure.kind()), failure.origin(), failure.message()),
                };
                match &cause {
                    _ if cause.is_exhausted() => self.outbound.finish(),
                    EndCause::Down(_) => self.outbound.fail(reason, origin, message),
                    EndCause::Cancelled(_) => self.outbound.let_go(reason, origin, message),
                }
            }
        }
    }

    fn write(&self, events: &[T]) -> Result<Written, EncodeError> {
        if self.takes_columns {
            Written::of(events, &self.limits)
        } else {
            encode(events, &self.limits).map(Into::into)
        }
    }

    /// An event cannot be sent: the edge fails behind those before it, at both ends.
    fn give_up(&mut self, before: &[T], attempt: Attempt, error: &EncodeError) {
        let message = Sentence(error).to_string();
        notice!(self.counters.notices, warn, "subscription given up", stage = self.stage, message);
        if let Ok(written) = self.write(before) {
            self.outbound.send(written, attempt);
        }
        self.outbound.fail(Reason::Error, &self.stage, &message);
        let failure = Failure::new(&self.stage, FailureKind::Protocol, message);
        self.leave(EndCause::Cancelled(Exit::Failed(failure)));
    }

    /// Tells the source that the subscriber is gone, however the link ended.
    pub(super) fn close(&mut self, served: &Result<(), StreamError>) {
        if let Err(error) = served {
            let why = Sentence(error).to_string();
            if error.is_lost() {
                self.counters.links_given_up.add(1);
            } else {
                self.offences.add(&why);
            }
            let is_stalled = matches!(error, StreamError::Stalled(_));
            self.stream.reset(if is_stalled { CLOSE_TOO_SLOW } else { CLOSE_GIVEN_UP });
            self.outbound.give_up();
            let (stage, peer, lost) = (&self.stage, &self.peer, self.outbound.lost());
            if lost > 0 {
                let notices = &self.counters.notices;
                notice!(
                    notices,
                    warn,
                    "events lost with their subscriber, or not acknowledged by it",
                    stage,
                    peer,
                    lost
                );
            }
            let failure = Failure::new(&self.stage, FailureKind::Disconnected, why);
            self.leave(EndCause::Down(Exit::Failed(failure)));
        }
    }
}

impl<T: Wire> Serving<T> {
    /// Tells the source what the subscriber has said.
    fn pass_on(&mut self) {
        while let Some(event) = self.outbound.poll_event() {
            match event {
                OutboundEvent::Handled { up_to } => self.publisher.handled(self.id, up_to),
                OutboundEvent::Answered { first, last, answer } if first == last => {
                    self.publisher.answer(self.id, first, answer);
                }
                OutboundEvent::Answered { first, last, answer } => {
                    for number in first..=last {
                        self.publisher.answer(self.id, number, answer.clone());
                    }
                }
                OutboundEvent::Results { row } => self.publisher.results(self.id, row),
                // How far it goes is asked for by whoever calls this.
                OutboundEvent::Demand { .. } => {}
                OutboundEvent::Cancelled { reason, is_down: true } => {
                    self.leave(EndCause::Down(exit_of_subscriber(reason, &self.peer)));
                }
                OutboundEvent::Cancelled { reason, .. } => {
                    self.leave(EndCause::Cancelled(exit_of_subscriber(reason, &self.peer)));
                }
            }
        }
    }

    /// Tells the source that the subscriber is gone, and hands back what that has not handled, if it would have said so.
    fn leave(&mut self, cause: EndCause) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // What it has said with its last words comes first.
        self.pass_on();
        let mut unfinished = Vec::new();
        while let Some(run) = self.outbound.poll_unfinished() {
            let mut events = Vec::<T>::new();
            match decode_behind(&mut events, (run.form, &run.payload, run.count), &self.limits) {
                Ok(()) => unfinished.push((events.into(), run.attempt)),
                Err(error) => {
                    let (stage, events, error) = (&self.stage, run.count, Sentence(&error).to_string());
                    tracing::error!(stage, events, error, "events lost: they cannot be read back");
                }
            }
        }
        let never_sent = self.outlet.close();
        if self.outbound.is_acknowledged() {
            unfinished.extend(never_sent);
        }
        self.publisher.leave(self.id, cause, unfinished);
    }
}

impl<T: Wire> Drop for Serving<T> {
    fn drop(&mut self) {
        self.outbound.give_up();
        self.leave(EndCause::Cancelled(Exit::Shutdown));
        self.share.release(&self.slot.peer().kept_bytes);
    }
}

/// The subscriber's window, if it is one. Its bounds are for information: what may be sent is said by credit.
fn window(subscribe: &Subscribe) -> Option<Window> {
    let [min, max] = [subscribe.min_demand, subscribe.max_demand].map(|n| Demand::new(n).as_len());
    Window::new(min, max).ok()
}

/// No more events are encoded while so many bytes wait for the network: enough to keep it busy between two wakes.
const HIGH_WATER_BYTES: usize = 256 << 10;
/// What one subscription may have open at the source, in events: several times the far default.
const MAX_OPEN_DEMAND: Demand = Demand::new(65_536);
