//! The end of the driver, whoever brings it about.

use super::*;

impl<C: Callbacks> Driver<C> {
    /// Tells the neighbours and the graph. Does nothing the second time.
    pub(super) fn end(&mut self, exit: Exit) {
        if std::mem::replace(&mut self.state, State::Over) == State::Over {
            return;
        }
        let received = std::mem::take(&mut self.received);
        self.give_up(received, &exit);
        let unread = self.ending.mailbox.close();
        self.give_up(unread, &exit);
        self.leave_producers(&EndCause::Down(exit.clone()));
        for (id, Consumer { subscriber, .. }) in std::mem::take(&mut self.subscribers) {
            subscriber.ended(id, EndCause::Down(exit.clone()));
        }
        let counters = &self.ending.counters;
        let refused: usize = self.refused.values().flatten().map(|(events, _)| events.len()).sum();
        counters.discarded.add((self.downstream.waiting() + refused) as u64);
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

    /// Cancels every subscription to a producer, and hands back what was not finished where that was asked for.
    pub(super) fn leave_producers(&mut self, cause: &EndCause) {
        for (id, producer) in std::mem::take(&mut self.producers) {
            let Some(publisher) = producer.publisher else { continue };
            if producer.keep.is_none() {
                publisher.leave(id, cause.clone(), Vec::new());
                continue;
            }
            let mut unfinished = Vec::new();
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
            publisher.leave(id, cause.clone(), unfinished);
        }
        for arrival in std::mem::take(&mut self.arrivals) {
            if let Arrival::Events(_, events, _) = arrival {
                self.lose(events.len());
            }
        }
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
