//! [`Once`]: a subscription that goes on behind the consumer's stored position.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aqueduct_stage::{
    Attempt, Demand, EndCause, Events, Exit, Expected, Failure, FailureKind, Publisher, Sentence, Source,
    SubscribeError, SubscribeOptions, Subscriber, Subscription, SubscriptionId,
};
use serde::{Deserialize, Serialize};

use super::Positions;
use crate::Wire;

/// An event with its number in a queue: rising within a subscription, and the same whenever the event comes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The number, from 1; [`QueueId::number`](crate::QueueId::number).
    pub number: u64,
    /// The event.
    pub event: T,
}

impl<T: Wire> Wire for Numbered<T> {
    fn signature() -> String {
        format!("numbered<{}>", T::signature())
    }
}

/// A source of numbered events, for a consumer that must apply each of them once: whenever it is subscribed to, it goes on
/// behind the position that the consumer has stored.
///
/// The source behind it is an [`ExclusiveSource`](crate::ExclusiveSource), here or on another node. It gives out every
/// event at least once. `Once` reads [`Positions::position`] before it subscribes, and drops the events up to that number
/// (and acknowledges them): their effect is there. The consumer subscribes with
/// [`subscribe_acknowledged`](aqueduct_stage::Stage::subscribe_acknowledged), and stores its position, the number of the
/// last event of the batch, before it comes back from `handle_events`. What it gets for that depends on how it does so:
///
/// | the position is stored | each effect is applied |
/// |---|---|
/// | in one transaction with the effect, which skips the events up to the position that it finds | exactly once |
/// | by [`Positions::store`], after the effect | at least once: after a crash between the two, the events of that one batch come again, with a higher [attempt](aqueduct_stage::Batch::attempt) |
/// | not at all | at least once |
///
/// `RedbPositions::apply`, with the feature `redb`, is such a transaction; in another database, keep the position in a row
/// of the same one and implement [`Positions`] for it. That the transaction looks at the position itself matters where a
/// consumer was cut off for longer than the `session_grace`: it may still be busy with a
/// batch when the next one has taken its place.
///
/// A source whose numbers do not rise fails the subscription ([`FailureKind::Protocol`]), and so does a consumer that does
/// not acknowledge ([`FailureKind::Refused`]). If the position cannot be read, the subscription is refused.
///
/// ```
/// use std::sync::Arc;
///
/// use aqueduct_stage::{Batch, Consumer, Cx, Graph, Result};
/// use aqueduct_work::{MemoryPositions, MemoryQueue, Numbered, Once, Positions, QueueSource};
///
/// struct Bill {
///     positions: Arc<MemoryPositions>,
/// }
///
/// impl Consumer for Bill {
///     type In = Numbered<String>;
///
///     async fn handle_events(&mut self, orders: Batch<Numbered<String>>, _: &mut Cx<'_>) -> Result {
///         for order in &orders {
///             println!("a bill for {}", order.event);
///         }
///         if let Some(last) = orders.last() {
///             self.positions.store("billing", last.number).await?;
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let orders = QueueSource::new("orders", Arc::new(MemoryQueue::new(1000)));
/// orders.push(["a book".to_owned(), "a pen".to_owned()]).await?;
/// orders.close();
/// let positions = Arc::new(MemoryPositions::new());
/// positions.store("billing", 1).await?; // the book was billed in an earlier life
///
/// // From another node: `node.source::<Numbered<String>>("orders", address)` instead of `orders.exclusive()`.
/// let once = Once::new(&orders.exclusive(), Arc::clone(&positions), "billing");
/// let graph = Graph::new("billing");
/// let bills = graph.consumer("bill", move || Bill { positions: Arc::clone(&positions) });
/// bills.subscribe_acknowledged(&once, 50..100);
/// let outcome = graph.run().await?;
/// assert_eq!(outcome.stage("bill").map(|stage| stage.events_in), Some(1));
/// # Ok(())
/// # }
/// ```
pub struct Once<Src, P> {
    source: Src,
    positions: Arc<P>,
    subscription: Arc<str>,
}

impl<Src: Source + Clone, P: Positions> Once<Src, P> {
    /// The events of `source` behind the position of `subscription`.
    #[must_use]
    pub fn new(source: &Src, positions: Arc<P>, subscription: &str) -> Self {
        Self { source: source.clone(), positions, subscription: subscription.into() }
    }
}

impl<T: Send + 'static, Src: Source<Item = Numbered<T>>, P: Positions> Source for Once<Src, P> {
    type Item = Numbered<T>;

    fn name(&self) -> String {
        self.source.name()
    }

    fn default_options(&self) -> SubscribeOptions {
        self.source.default_options()
    }

    fn expect_subscribers(&self) -> Option<Expected> {
        self.source.expect_subscribers()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Numbered<T>>,
    ) -> Result<Arc<dyn Publisher<Numbered<T>>>, SubscribeError> {
        let position = self.positions.position(&self.subscription).await.map_err(|error| {
            let reason = format!("the position of {:?} cannot be read: {}", self.subscription, Sentence(&error));
            SubscribeError::Refused { at: self.source.name(), reason }
        })?;
        let book = Book { position: position.unwrap_or(0), ..Book::default() };
        let gate = Arc::new(Gate {
            name: self.source.name(),
            subscriber: Arc::clone(&subscription.subscriber),
            publisher: OnceLock::new(),
            book: Mutex::new(book),
        });
        let subscriber = Arc::clone(&gate) as _;
        let publisher = self.source.open(instance, Subscription { subscriber, ..subscription }).await?;
        // Nothing has been asked for, so no event has come.
        let _ = gate.publisher.set(publisher);
        Ok(gate)
    }
}

impl<Src: Clone, P> Clone for Once<Src, P> {
    fn clone(&self) -> Self {
        let Self { source, positions, subscription } = self;
        Self { source: source.clone(), positions: Arc::clone(positions), subscription: Arc::clone(subscription) }
    }
}

impl<Src, P> fmt::Debug for Once<Src, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.subscription).finish_non_exhaustive()
    }
}

/// Stands between the two ends of an edge, and is each one's other end.
struct Gate<T> {
    name: String,
    subscriber: Arc<dyn Subscriber<Numbered<T>>>,
    /// There from before the first ask.
    publisher: OnceLock<Arc<dyn Publisher<Numbered<T>>>>,
    book: Mutex<Book>,
}

/// What has passed. Pure.
#[derive(Debug, Default)]
struct Book {
    /// Events up to this number are dropped.
    position: u64,
    /// The number of the latest event that came.
    latest: u64,
    /// How many were dropped, all before the first that was not.
    dropped: Demand,
    asked: Demand,
    /// What the consumer has handled, once it has said that it acknowledges.
    handled: Option<Demand>,
    is_over: bool,
}

/// What a batch is.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// So many of its first events are to be dropped.
    Drop(usize),
    /// It is no batch of a source that keeps its promise: this number after that.
    Broken(u64, u64),
    /// The edge has ended here.
    Late,
}

impl Book {
    fn receive(&mut self, numbers: impl Iterator<Item = u64>) -> Verdict {
        if self.is_over {
            return Verdict::Late;
        }
        let mut dropped = 0;
        for number in numbers {
            if number <= self.latest {
                self.is_over = true;
                return Verdict::Broken(number, self.latest);
            }
            self.latest = number;
            dropped += usize::from(number <= self.position);
        }
        self.dropped.add(Demand::from(dropped));
        Verdict::Drop(dropped)
    }
}

impl<T: Send + 'static> Gate<T> {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the edge from here, at both ends.
    fn fail(&self, id: SubscriptionId, kind: FailureKind, message: String) {
        let failure = Exit::Failed(Failure::new(&self.name, kind, message));
        if let Some(publisher) = self.publisher.get() {
            publisher.leave(id, EndCause::Cancelled(failure.clone()), Vec::new());
        }
        self.subscriber.ended(id, EndCause::Down(failure));
    }
}

impl<T: Send + 'static> Subscriber<Numbered<T>> for Gate<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<Numbered<T>>, attempt: Attempt) {
        let _ = self.try_deliver(id, events, attempt);
    }

    fn try_deliver(
        &self,
        id: SubscriptionId,
        mut events: Events<Numbered<T>>,
        attempt: Attempt,
    ) -> Result<(), Events<Numbered<T>>> {
        let (verdict, asked, handled) = {
            let mut book = self.book();
            let verdict = book.receive(events.iter().map(|event| event.number));
            let handled = book.handled.unwrap_or_default();
            (verdict, book.asked.saturating_add(book.dropped), handled.saturating_add(book.dropped))
        };
        match verdict {
            Verdict::Late => Err(events),
            Verdict::Broken(number, latest) => {
                let message = format!("expected numbers that rise, got {number} after {latest}");
                self.fail(id, FailureKind::Protocol, message);
                Err(events)
            }
            Verdict::Drop(0) => self.subscriber.try_deliver(id, events, attempt),
            Verdict::Drop(count) => {
                tracing::debug!(producer = self.name, events = count, "applied before, and dropped");
                let rest = events.split_off(count);
                if let Some(publisher) = self.publisher.get() {
                    publisher.handled(id, handled);
                    publisher.ask(id, asked);
                }
                if rest.is_empty() { Ok(()) } else { self.subscriber.try_deliver(id, rest, attempt) }
            }
        }
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        if !std::mem::replace(&mut self.book().is_over, true) {
            self.subscriber.ended(id, cause);
        }
    }
}

impl<T: Send + 'static> Publisher<Numbered<T>> for Gate<T> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        let (acknowledges, up_to) = {
            let mut book = self.book();
            if book.is_over {
                return;
            }
            book.asked = book.asked.max(up_to);
            book.is_over = book.handled.is_none();
            (book.handled.is_some(), book.asked.saturating_add(book.dropped))
        };
        match self.publisher.get() {
            Some(publisher) if acknowledges => publisher.ask(id, up_to),
            _ => {
                let message =
                    "an effect is applied once only by a consumer that acknowledges: `subscribe_acknowledged`";
                self.fail(id, FailureKind::Refused, message.to_owned());
            }
        }
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        let up_to = {
            let mut book = self.book();
            book.handled = book.handled.max(Some(up_to));
            up_to.saturating_add(book.dropped)
        };
        if let Some(publisher) = self.publisher.get() {
            publisher.handled(id, up_to);
        }
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        if let Some(publisher) = self.publisher.get() {
            publisher.cancel(id, reason);
        }
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<Numbered<T>>, Attempt)>) {
        if let Some(publisher) = self.publisher.get() {
            publisher.leave(id, cause, unfinished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_up_to_the_position_is_dropped() {
        let mut book = Book { position: 5, ..Book::default() };
        assert_eq!(book.receive([2, 4].into_iter()), Verdict::Drop(2));
        assert_eq!(book.receive([5, 6, 9].into_iter()), Verdict::Drop(1));
        assert_eq!(book.receive([10].into_iter()), Verdict::Drop(0));
        assert_eq!(book.dropped, Demand::new(3));
    }

    #[test]
    fn a_number_that_does_not_rise_is_the_end() {
        let mut book = Book::default();
        assert_eq!(book.receive([1, 3].into_iter()), Verdict::Drop(0));
        assert_eq!(book.receive([4, 3].into_iter()), Verdict::Broken(3, 4));
        assert_eq!(book.receive([5].into_iter()), Verdict::Late);
    }
}
