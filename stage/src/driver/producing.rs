//! The producing half of the driver: subscribers, demand, and what callbacks emit.

use super::*;
use crate::bugs::bug;
use crate::notice;

impl<C: Callbacks> Driver<C> {
    pub(super) async fn on_subscribe(&mut self, subscription: Subscription<C::Out>) -> Flow {
        let Subscription { id, consumer, options, interest, subscriber } = subscription;
        let window = options.window_or(Window::NEAR);
        let is_shared = self.downstream.gives_to_any() && interest.partition.is_none() && interest.selector.is_none();
        match self.downstream.subscribe(id, consumer, window, options.cancel_policy(), interest) {
            Ok(()) => {
                tracing::debug!(name: "edge.subscribe", %id, "subscribed to");
                let counters = self.ending.counters.edges.to_consumer(id);
                self.subscribers.insert(id, Consumer { subscriber, counters, is_shared });
                if self.lifecycle.is_running() {
                    let edge = Edge { id, peer: Peer::Consumer, window, cancel: options.cancel_policy() };
                    let answered = callback!(self, |callbacks, cx| async {
                        match callbacks.handle_subscribe(&edge, &mut cx).await {
                            Ok(_) => Ok(None),
                            Err(error) => error.downcast::<Refusal>().map(Some),
                        }
                    });
                    if let Some(refusal) = answered {
                        self.refuse(id, *refusal);
                    }
                    self.after_callback()?;
                }
                if self.subscribers.get(id).is_some() {
                    self.lifecycle.subscriber_came();
                }
                self.on_demand().await
            }
            Err(refused) => {
                let kind = match refused {
                    aqueduct_dispatcher::Refused::AlreadySubscribed => FailureKind::AlreadySubscribed,
                    _ => FailureKind::Refused,
                };
                let failure = Failure::at(&self.ending.stage, kind, refused.to_string());
                notice!(self.ending.counters.notices, warn, "subscription refused", %failure);
                subscriber.ended(id, EndCause::Cancelled(Exit::Failed(failure)));
                ControlFlow::Continue(())
            }
        }
    }

    /// The stage does not want a subscriber that its dispatcher would have taken.
    fn refuse(&mut self, id: SubscriptionId, refusal: Refusal) {
        self.downstream.refuse(id);
        self.ending.counters.edges.remove(id);
        let failure = Failure::at(&self.ending.stage, FailureKind::Refused, refusal.into_reason());
        tracing::debug!(%id, %failure, "subscription refused");
        if let Some(Consumer { subscriber, .. }) = self.subscribers.remove(id) {
            subscriber.ended(id, EndCause::Cancelled(Exit::Failed(failure)));
        }
    }

    pub(super) async fn leave(&mut self, id: SubscriptionId, cause: EndCause, unfinished: Unfinished<C::Out>) -> Flow {
        if self.downstream.may_hand_back(id) {
            self.lifecycle.subscriber_left(cause.reason());
        }
        let is_lost = matches!(cause.reason(), Exit::Failed(_)) && !self.downstream.has_not_come(id);
        let left = self.downstream.leave(id, unfinished);
        self.has_left(left, cause, is_lost).await
    }

    /// A subscriber wants no more. What it has in hand it still handles.
    pub(super) async fn part(&mut self, id: SubscriptionId, reason: Exit) -> Flow {
        let is_lost = matches!(reason, Exit::Failed(_)) && !self.downstream.has_not_come(id);
        let left = self.downstream.cancel(id);
        self.has_left(left, EndCause::Cancelled(reason), is_lost).await
    }

    async fn has_left(&mut self, left: Option<Edge>, cause: EndCause, is_lost: bool) -> Flow {
        // An unknown cancel needs no answer: whoever knew of the edge has been told of its end. What it handed back is given
        // again.
        let Some(edge) = left else { return self.on_demand().await };
        tracing::debug!(name: "edge.cancel", id = %edge.id, %cause, "subscription ended");
        if is_lost {
            self.lifecycle.subscriber_left(cause.reason());
        }
        self.ending.counters.edges.remove(edge.id);
        if let Some(Consumer { subscriber, .. }) = self.subscribers.remove(edge.id)
            && !bug!(CancelNotTold)
        {
            subscriber.ended(edge.id, EndCause::Cancelled(cause.reason().clone()));
        }
        if self.lifecycle.is_running() {
            callback!(self, |callbacks, cx| callbacks.handle_cancel(&edge, &cause, &mut cx));
            self.after_callback()?;
        }
        self.on_demand().await
    }

    /// Demand may have changed: serves what waits, and asks the callback for the rest.
    pub(super) async fn on_demand(&mut self) -> Flow {
        loop {
            let more = self.downstream.pull();
            self.carry_out();
            if !self.due.is_empty() {
                Box::pin(self.open_due()).await?;
            }
            let demand = if std::mem::take(&mut self.wishes.again) { self.downstream.owed() } else { more };
            if !self.lifecycle.is_running() || demand.is_zero() {
                return ControlFlow::Continue(());
            }
            if C::ROLE != Role::Producer {
                self.work_off().await?;
                continue;
            }
            callback!(self, |callbacks, cx| callbacks.handle_demand(demand.as_len(), &mut cx));
            self.after_callback()?;
            self.demand_left = self.wishes.again || self.downstream.wants_more();
            return ControlFlow::Continue(());
        }
    }

    /// Sends what a callback emitted, and does what it asked for.
    pub(super) fn after_callback(&mut self) -> Flow {
        if !self.out.is_empty() {
            let discarded = self.downstream.emit(&mut self.out);
            if discarded > 0 {
                self.on_overflow(discarded)?;
            }
            self.carry_out();
        }
        for (id, more) in std::mem::take(&mut self.wishes.asks) {
            if let Some(up_to) = self.upstream.ask(id, more) {
                self.ask(id, up_to);
            }
        }
        for (id, reason) in std::mem::take(&mut self.wishes.cancels) {
            // Nothing more is asked for, and nothing more goes out. The rest is done when its turn comes, like any cancel: a
            // callback is not called within another.
            self.upstream.leave(id);
            self.downstream.begin_to_leave(id);
            let _ = self.ending.mailbox.push(Message::Unsubscribe(id, reason, None));
        }
        match self.wishes.stop.take() {
            None => ControlFlow::Continue(()),
            Some(exit) => self.follow(self.lifecycle.wants_to_end(exit)),
        }
    }

    pub(super) fn on_overflow(&mut self, discarded: usize) -> Flow {
        if self.keep == Keep::Fail {
            let message = format!("{discarded} events more than the buffer holds");
            return ControlFlow::Break(Exit::Failed(Failure::at(&self.ending.stage, FailureKind::Overflow, message)));
        }
        self.ending.counters.discarded.add(discarded as u64);
        self.ending.counters.overflowed.add(discarded as u64);
        let reported = match guarded_now(&self.ending.stage, || self.callbacks.handle_discarded(discarded)) {
            Ok(reported) => reported,
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        };
        if reported {
            tracing::warn!(stage = &*self.ending.stage, discarded, "buffer is full: events were dropped");
        }
        ControlFlow::Continue(())
    }

    /// Does what the dispatcher has decided.
    pub(super) fn carry_out(&mut self) {
        while let Some(decision) = self.downstream.next_decision() {
            match decision {
                Decision::Deliver(delivery) => {
                    let Some(consumer) = self.subscribers.get_mut(delivery.to) else { continue };
                    let count = delivery.events.len();
                    match consumer.subscriber.try_deliver(delivery.to, delivery.events, delivery.attempt) {
                        Ok(()) => {
                            consumer.counters.passed.add(count as u64);
                            self.ending.counters.events_out.add(count as u64);
                        }
                        Err(events) => self.downstream.refused(delivery.to, events, delivery.attempt),
                    }
                }
                Decision::Fail(id, why) => {
                    let failure = Failure::at(&self.ending.stage, FailureKind::Selector, why);
                    tracing::warn!(%id, %failure, "subscription failed");
                    self.ending.counters.edges.remove(id);
                    if let Some(Consumer { subscriber, .. }) = self.subscribers.remove(id) {
                        subscriber.ended(id, EndCause::Cancelled(Exit::Failed(failure)));
                    }
                }
                Decision::Pass(marker) => self.due.extend(self.marked.remove(&marker)),
            }
        }
        let (discarded, failed) = self.downstream.take_counts();
        if discarded > 0 {
            self.ending.counters.discarded.add(discarded);
        }
        if failed > 0 {
            self.ending.counters.failed.add(failed);
            self.ending.counters.undispatched.add(failed);
            let why = self.downstream.take_failure().unwrap_or_default();
            tracing::warn!(stage = &*self.ending.stage, failed, why, "events could not be dispatched");
            let _first = self.ending.counters.undispatched_why.set(why);
        }
    }
}
