//! The end of the driver, whoever brings it about.

use super::*;

impl<C: Callbacks> Driver<C> {
    /// Tells the neighbours and the graph. Does nothing the second time.
    pub(super) fn end(&mut self, exit: Exit) {
        if !self.lifecycle.end() {
            return;
        }
        self.ending.is_abandoned = self.lifecycle.is_abandoned();
        let received = std::mem::take(&mut self.received);
        self.give_up(received, &exit);
        let unread = self.ending.mailbox.close(&exit);
        self.give_up(unread, &exit);
        self.leave_producers(&EndCause::Down(exit.clone()));
        for (id, Consumer { subscriber, .. }) in std::mem::take(&mut self.subscribers) {
            subscriber.ended(id, EndCause::Down(exit.clone()));
        }
        let counters = &self.ending.counters;
        counters.discarded.add((self.downstream.waiting() + self.downstream.not_taken()) as u64);
        counters.buffered.set(0);
        counters.demand.set(0);
        counters.outstanding.set(0);
        counters.edges.clear();
        counters.waits.end();
        self.ending.announce(exit);
    }

    /// Keeps what was delivered and not handled, for [`leave_producers`](Self::leave_producers), and declines the rest.
    fn give_up(&mut self, received: VecDeque<Message<C::In, C::Out>>, exit: &Exit) {
        for message in received {
            match message {
                Message::Deliver(id, events, attempt) => self.arrivals.push_back(Arrival::Events(id, events, attempt)),
                message => self.ending.decline(message, exit),
            }
        }
    }

    /// Ends every subscription to a producer, and hands back what was not finished where that was asked for.
    pub(super) fn leave_producers(&mut self, cause: &EndCause) {
        let ids: Vec<_> = self.producers.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.leave_producer(id, cause);
        }
        for arrival in std::mem::take(&mut self.arrivals) {
            if let Arrival::Events(_, events, _) = arrival {
                self.lose(events.len());
            }
        }
    }

    /// Nothing more is handled. Whoever takes events back gets what is here, and what is on its way when that has come.
    pub(super) fn part_from_producers(&mut self) {
        let reason = Exit::Normal;
        let takes_back = |producer: &Producer<C::In>| producer.keep.is_some();
        let (back, not_back): (Vec<_>, Vec<_>) =
            self.producers.iter().partition(|(_, producer)| takes_back(producer) && producer.publisher.is_some());
        let not_back: Vec<_> = not_back.into_iter().map(|(id, _)| id).collect();
        for (id, producer) in back {
            if let Some(publisher) = &producer.publisher {
                publisher.cancel(id, reason.clone());
            }
        }
        not_back.into_iter().for_each(|id| self.leave_producer(id, &EndCause::Cancelled(reason.clone())));
        let arrivals = std::mem::take(&mut self.arrivals);
        for arrival in arrivals {
            match arrival {
                Arrival::Events(id, ..) if self.producers.contains(id) => self.arrivals.push_back(arrival),
                Arrival::Events(_, events, _) => self.lose(events.len()),
                // Everything that came before it is here.
                Arrival::Ended(id, cause) => self.leave_producer(id, &EndCause::Cancelled(cause.reason().clone())),
                Arrival::Info(_) => {}
            }
        }
    }

    /// Ends a subscription to a producer, and hands back what was not finished if that was asked for.
    pub(super) fn leave_producer(&mut self, id: SubscriptionId, cause: &EndCause) {
        let Some(producer) = self.producers.remove(id) else { return };
        let Some(publisher) = producer.publisher else { return };
        let mut unfinished = Vec::new();
        if producer.keep.is_some() {
            if let Some(in_hand) = self.in_hand.take_if(|in_hand| in_hand.id == id) {
                unfinished.extend(in_hand.unfinished());
            }
            for arrival in &mut self.arrivals {
                if let Arrival::Events(other, events, attempt) = arrival
                    && *other == id
                {
                    // It was not handled, so this was no attempt.
                    unfinished.push((std::mem::replace(events, Vec::new().into()), *attempt));
                }
            }
            unfinished.retain(|(events, _)| !events.is_empty());
        }
        publisher.leave(id, cause.clone(), unfinished);
    }

    /// Counts events that were delivered here and that nobody will handle.
    pub(super) fn lose(&self, events: usize) {
        if events > 0 && self.in_hand.is_none() {
            self.ending.counters.discarded.add(events as u64);
        }
    }
}

impl<C: Callbacks> Drop for Driver<C> {
    fn drop(&mut self) {
        self.end(self.ending.killed());
    }
}
