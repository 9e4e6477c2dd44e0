//! The consuming half of the driver: producers, and the events that arrive from them.

use tokio::time::Instant;

use super::*;
use crate::bugs::bug;
use crate::callbacks::guarded_in;
use crate::lifecycle::Seen;

/// An arrival of which handles are kept.
pub(super) struct InHand<I> {
    pub(super) id: SubscriptionId,
    attempt: Attempt,
    /// The piece that a callback has been given; empty between two pieces.
    begun: Events<I>,
    /// The pieces behind it.
    behind: Events<I>,
}

impl<I> InHand<I> {
    pub(super) fn begin(&mut self, count: usize) {
        let behind = self.behind.split_off(count);
        self.begun = std::mem::replace(&mut self.behind, behind);
    }

    pub(super) fn finish(&mut self) {
        self.begun = Vec::new().into();
    }

    /// What is to be handed back. Only what was begun was an attempt.
    pub(super) fn unfinished(self) -> [(Events<I>, Attempt); 2] {
        let next = if bug!(BegunIsNoAttempt) { self.attempt } else { self.attempt.next() };
        [(self.begun, next), (self.behind, self.attempt)]
    }
}

impl<C: Callbacks> Driver<C> {
    pub(super) async fn on_opened(&mut self, id: SubscriptionId, publisher: Arc<dyn Publisher<C::In>>) -> Flow {
        let (Some(producer), Some(edge)) = (self.producers.get_mut(id), self.upstream.edge(id)) else {
            publisher.cancel(id, Exit::Normal);
            return ControlFlow::Continue(());
        };
        if producer.keep.is_some() {
            publisher.handled(id, Demand::ZERO);
        } else if producer.is_far {
            publisher.taken(id, Demand::ZERO);
        }
        producer.publisher = Some(publisher);
        tracing::debug!(name: "edge.subscribe", producer = &*producer.name, %id, "subscribed");
        let mode: Mode = callback!(self, |callbacks, cx| callbacks.handle_subscribe(&edge, &mut cx));
        for (cancelled, _) in &self.wishes.cancels {
            self.upstream.leave(*cancelled);
        }
        // Before its wishes, so that a manual consumer may ask at once.
        if let Some(up_to) = self.upstream.opened(id, mode) {
            self.ask(id, up_to);
        }
        self.after_callback()
    }

    pub(super) fn ask(&self, id: SubscriptionId, up_to: Demand) {
        if let Some(Producer { publisher: Some(publisher), counters, .. }) = self.producers.get(id) {
            counters.asked.set(up_to.count());
            if self.upstream.is_growing()
                && let Some(edge) = self.upstream.edge(id)
            {
                counters.window.set(edge.window.max().count());
            }
            publisher.ask(id, up_to);
        }
    }

    /// Counts what was handled, and tells a producer that takes events back that it need not, or one on another node that
    /// there is room.
    fn handled(&self, id: SubscriptionId, count: usize) {
        if let Some(Producer { publisher: Some(publisher), counters, keep, is_far, .. }) = self.producers.get(id) {
            counters.passed.add(count as u64);
            if keep.is_some() {
                publisher.handled(id, Demand::new(counters.passed.get()));
            } else if *is_far {
                publisher.taken(id, Demand::new(counters.passed.get()));
            }
        }
    }

    /// A graph that drains takes nothing more from elsewhere; what was given is handled.
    pub(super) async fn leave_outside_producers(&mut self) -> Flow {
        let mut unopened = Vec::new();
        self.upstream.drain();
        for (id, producer) in self.producers.iter().filter(|(_, producer)| producer.is_outside) {
            self.upstream.leave(id);
            match &producer.publisher {
                Some(publisher) => publisher.cancel(id, Exit::Shutdown),
                None => unopened.push(id),
            }
        }
        for id in unopened {
            self.on_ended(id, EndCause::Cancelled(Exit::Shutdown)).await?;
        }
        ControlFlow::Continue(())
    }

    /// Whether a producer that the graph does not drain is to be asked for nothing more.
    fn drains(&self, id: SubscriptionId) -> bool {
        self.ending.mailbox.is_draining() && self.producers.get(id).is_some_and(|producer| producer.is_outside)
    }

    /// Ends a subscription of this stage, on whichever side it is.
    pub(super) async fn cancel(&mut self, id: SubscriptionId, reason: Exit) -> Flow {
        match self.producers.get(id) {
            Some(Producer { publisher: Some(publisher), .. }) => {
                self.upstream.leave(id);
                publisher.cancel(id, reason);
                ControlFlow::Continue(())
            }
            Some(_) => self.on_ended(id, EndCause::Cancelled(reason)).await,
            None => self.part(id, reason).await,
        }
    }

    /// A producer-consumer's arrivals keep their order, and wait for demand. A producer has infos only.
    pub(super) async fn queue(&mut self, arrival: Arrival<C::In, C::Out>) -> Flow {
        self.arrivals.push_back(arrival);
        self.work_off().await
    }

    pub(super) async fn work_off(&mut self) -> Flow {
        while self.lifecycle.is_running() {
            if matches!(self.arrivals.front(), Some(Arrival::Events(..))) && self.downstream.owed().is_zero() {
                // What was emitted may have found nobody who wants it.
                if self.downstream.pull().is_zero() {
                    self.carry_out();
                    break;
                }
                self.carry_out();
            }
            match self.arrivals.pop_front() {
                Some(Arrival::Events(id, events, attempt)) => self.handle_events(id, events, attempt).await?,
                Some(Arrival::Ended(id, cause)) => Box::pin(self.on_ended(id, cause)).await?,
                Some(Arrival::Info(letter)) => {
                    self.infos_queued -= 1;
                    let marker = self.downstream.mark();
                    self.marked.insert(marker, letter);
                    self.carry_out();
                }
                None => break,
            }
            if !self.due.is_empty() {
                Box::pin(self.open_due()).await?;
            }
        }
        ControlFlow::Continue(())
    }

    pub(super) async fn handle_events(&mut self, id: SubscriptionId, events: Events<C::In>, attempt: Attempt) -> Flow {
        let Some(begins) = events.begins() else { return self.handle_all(id, events, attempt).await };
        // Those that can be taken back: one by one, so that the others can be for as long as possible.
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            if begins(&event) {
                let handled = self.handle_all(id, vec![event].into(), attempt).await;
                if handled.is_break() || !self.lifecycle.is_running() {
                    self.lose(events.len());
                    return handled;
                }
            } else {
                self.pass_over(id);
            }
        }
        ControlFlow::Continue(())
    }

    /// An event was taken back before it was handled: asks for another.
    fn pass_over(&mut self, id: SubscriptionId) {
        let Some(mut arrived) = self.upstream.receive(id, 1) else { return };
        self.upstream.is_taken_back(id);
        let piece = self.upstream.next_piece(id, &mut arrived, Instant::now);
        self.handled(id, 1);
        let then_ask = piece.and_then(|piece| piece.then_ask);
        if let Some(up_to) = then_ask.or_else(|| self.upstream.ask(id, Demand::new(1))) {
            self.ask(id, up_to);
        }
    }

    async fn handle_all(&mut self, id: SubscriptionId, mut events: Events<C::In>, attempt: Attempt) -> Flow {
        let Some(mut arrived) = self.upstream.receive(id, events.len()) else {
            // Its publisher was told of the end, or told it: there is nobody to be answered.
            tracing::warn!(%id, events = events.len(), "events for a subscription that has ended were dropped");
            self.lose(events.len());
            return ControlFlow::Continue(());
        };
        if arrived.excess > 0 {
            tracing::warn!(%id, excess = arrived.excess, "more events than were asked for");
        }
        if let Some(Producer { keep: Some(keep), .. }) = self.producers.get(id) {
            events = keep(events);
            self.in_hand = events.another().map(|behind| InHand { id, attempt, begun: Vec::new().into(), behind });
        }
        let keeps = self.in_hand.is_some();
        while let Some(piece) = self.upstream.next_piece(id, &mut arrived, Instant::now) {
            let rest = if piece.events < events.len() { events.split_off(piece.events) } else { Vec::new().into() };
            let batch = Batch::new(std::mem::replace(&mut events, rest), id, attempt);
            let count = batch.len();
            self.ending.counters.events_in.add(count as u64);
            if let Some(in_hand) = &mut self.in_hand {
                in_hand.begin(count);
            }
            let span = tracing::debug_span!("stage.handle", events = count);
            let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut self.wishes, &*self.stage_ref);
            let callbacks = &mut self.callbacks;
            let handling = guarded_in(span, &self.ending.stage, || callbacks.handle_events(batch, &mut cx));
            if let Err(failure) = handling.await {
                self.lose(count + events.len());
                return ControlFlow::Break(Exit::Failed(failure));
            }
            if let Some(in_hand) = self.in_hand.as_mut().filter(|_| !bug!(HandledGivenAway)) {
                in_hand.finish();
            }
            self.handled(id, count);
            self.after_callback()?;
            if !self.lifecycle.is_running() {
                return self.put_back(id, events, attempt, keeps);
            }
            if let Some(exit) = self.ending.mailbox.stopping() {
                self.lose(events.len());
                return ControlFlow::Break(exit);
            }
            if self.drains(id) {
                self.upstream.leave(id);
            }
            if let Some(up_to) = piece.then_ask.filter(|_| !self.upstream.is_leaving(id)) {
                self.ask(id, up_to);
            }
        }
        self.lose(events.len());
        self.in_hand = None;
        ControlFlow::Continue(())
    }

    /// The stage has ended itself in the middle of a batch: the rest is handed back with what waits, or lost.
    fn put_back(&mut self, id: SubscriptionId, rest: Events<C::In>, attempt: Attempt, keeps: bool) -> Flow {
        self.in_hand = None;
        match keeps {
            false => self.lose(rest.len()),
            // Otherwise it has been handed back.
            true if !rest.is_empty() && self.producers.contains(id) => {
                self.arrivals.push_front(Arrival::Events(id, rest, attempt));
            }
            true => {}
        }
        ControlFlow::Continue(())
    }

    pub(super) async fn on_ended(&mut self, id: SubscriptionId, cause: EndCause) -> Flow {
        self.ending.counters.edges.remove(id);
        if let Some(producer) = self.producers.remove(id) {
            tracing::debug!(name: "edge.cancel", producer = &*producer.name, %id, %cause, "subscription ended");
        }
        if let Some(edge) = self.upstream.edge(id) {
            callback!(self, |callbacks, cx| callbacks.handle_cancel(&edge, &cause, &mut cx));
            self.after_callback()?;
        }
        match self.upstream.ended(id, &cause) {
            AfterEnd::Live => ControlFlow::Continue(()),
            AfterEnd::Exhausted => self.on_producers_over().await,
            AfterEnd::Exit(exit) => ControlFlow::Break(exit),
        }
    }

    /// No producer is left, and everything they sent was handled.
    pub(super) async fn on_producers_over(&mut self) -> Flow {
        let saw_everything = self.upstream.saw_everything();
        match self.lifecycle.producers_are_over(self.upstream.lost(), saw_everything) {
            Seen::Lost(failure) => return ControlFlow::Break(Exit::Failed(failure)),
            Seen::CutShort => {
                let why = "a producer was shut down before it was exhausted";
                let failure = Failure::at(&self.ending.stage, FailureKind::Shutdown, why);
                return ControlFlow::Break(Exit::Failed(failure));
            }
            Seen::Everything => {
                callback!(self, |callbacks, cx| callbacks.handle_end(&mut cx));
                self.after_callback()?;
            }
            Seen::NotAll => {}
        }
        let step = self.lifecycle.has_handled_everything(saw_everything);
        self.follow(step)
    }

    /// Nothing more is emitted or handled.
    pub(super) fn exhaust(&mut self) {
        self.lifecycle.exhaust();
        self.part_from_producers();
        self.infos_queued = 0;
    }
}
