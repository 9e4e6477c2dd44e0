//! What the two ends of an edge say to each other, and how a consumer finds its producer.
//!
//! An edge has a publishing end and a subscribing end. Between two stages of one process they talk directly; between
//! nodes a link stands on each side and plays the missing end. Neither stage can tell the difference, and anything
//! that keeps this protocol can take part:
//!
//! ```text
//!   consumer                                      producer
//!      │  Source::open(Subscription { id, .. }) ───►  │   subscribe; the consumer may ask at once
//!      │  Publisher::ask(id, up_to) ───────────────►  │   cumulative: `up_to` events in all since the subscription
//!      │  ◄─────────── Subscriber::deliver(id, batch) │   never more than `up_to` events in all
//!      │  Publisher::handled(id, up_to) ───────────►  │   cumulative too; only if it would hand events back
//!      │  Publisher::answer(id, n, answer) ────────►  │   of event n alone; only where answers are taken
//!      │  ◄────────────── Subscriber::revoke(id, n)   │   wants event n back; answered as above
//!      │  Publisher::cancel(id, reason) ───────────►  │   no more, please: answered with `ended`
//!      │  ◄──────────── Subscriber::ended(id, cause)  │   once, and no event follows it
//!      │  Publisher::handled(id, up_to) ───────────►  │   until everything that was delivered is handled,
//!      │  Publisher::leave(id, cause, unfinished) ─►  │   or the rest is handed back
//! ```
//!
//! Demand is cumulative, so repeating an ask is harmless and a later one makes an earlier one superfluous. None of the
//! calls blocks or waits: each puts a message into the other end's mailbox. What a mailbox can hold is bounded by the
//! demand that was granted.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct_dispatcher::{Attempt, Demand, Events, Interest, SubscribeOptions, SubscriptionId, Window};

use crate::{Answer, Exit, ResultRow, SubscribeError};

/// The publishing end of an edge, as its subscriber sees it.
pub trait Publisher<T>: Send + Sync {
    /// The subscriber allows `up_to` events in all, counted from the start of the subscription. Values that are not
    /// larger than an earlier one, and unknown subscriptions, are ignored.
    fn ask(&self, id: SubscriptionId, up_to: Demand);

    /// The subscriber has handled `up_to` of the events that it was given, counted like the asks. A subscriber that wants to
    /// hand back what it does not [finish](Self::leave) says so after each piece, and before its first ask that it has
    /// handled none: the publisher then does not end before everything is handled. A publisher that cannot take events
    /// back ignores it.
    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        let _ = (id, up_to);
    }

    /// The subscriber has dealt with `up_to` of the events that it was given, counted like the asks, and holds them no longer.
    /// One that says so at all says it after each piece, and before its first ask that it has taken none; one that says
    /// what it has [`handled`](Self::handled) has said it with that. A publisher on another node bounds by it how many bytes
    /// of events wait for the subscriber; others ignore it.
    fn taken(&self, id: SubscriptionId, up_to: Demand) {
        let _ = (id, up_to);
    }

    /// Whether [answers](Self::answer) of single events are taken here. Stages of a graph take none.
    fn takes_answers(&self) -> bool {
        false
    }

    /// The subscriber says what became of event `number` of this edge, counted from 1 in the order in which they were
    /// delivered. As the number belongs to one delivery, it stands for the attempt as well. A subscriber that answers says
    /// before its first ask that it has [handled](Self::handled) none, and then answers each event on its own and in any
    /// order; what it has not answered when the edge ends is given to somebody else.
    ///
    /// Answers to events that were answered before, or never delivered, are ignored. So are all answers by a publisher
    /// that does not [take](Self::takes_answers) them: whoever has to rely on them asks first.
    fn answer(&self, id: SubscriptionId, number: u64, answer: Answer) {
        let _ = (id, number, answer);
    }

    /// As [`answer`](Self::answer): event `number` is done, and this came of it.
    fn result(&self, id: SubscriptionId, number: u64, result: &[u8]) {
        self.answer(id, number, Answer::DoneWith(result.to_vec()));
    }

    /// As [`result`](Self::result) for each event of a row, in its order.
    fn results(&self, id: SubscriptionId, row: Arc<ResultRow>) {
        for (number, result) in row.iter() {
            self.result(id, number, result);
        }
    }

    /// Whether others wait for this subscriber: every event goes to all of them, this one has been given all that it asked
    /// for, and another one has not; or it holds events that others could do. Whoever looks after a subscriber that is cut
    /// off is less patient then.
    fn holds_back(&self, id: SubscriptionId) -> bool {
        let _ = id;
        false
    }

    /// The subscriber wants no more. It may still be given events that are on their way, and is told
    /// [`ended`](Subscriber::ended) after them.
    ///
    /// What was delivered to a subscriber that says what it has [handled](Self::handled), or [answers](Self::answer), stays
    /// its own, also after `ended`: it goes on to handle it and to say so. Only what it hands back when it
    /// [leaves](Self::leave) is given to somebody else. So nothing that is handled is given away once more.
    fn cancel(&self, id: SubscriptionId, reason: Exit);

    /// The last word of a subscriber, with or without a [`cancel`](Self::cancel) before: it handles nothing more. It says
    /// whether it has ended itself ([`Down`](EndCause::Down)), and hands back what it had been given and did not finish, oldest first, each with the
    /// number of the attempt that is to follow. A publisher that cannot take events back drops them.
    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<T>, Attempt)>) {
        drop(unfinished);
        self.cancel(id, cause.reason().clone());
    }
}

/// The subscribing end of an edge, as its publisher sees it.
pub trait Subscriber<T>: Send + Sync {
    /// A batch of events that were asked for. It is empty only if a selector refused all of them.
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt);

    /// As [`deliver`](Self::deliver), and gives the batch back if the subscriber has ended: its cancel is on its way, and
    /// the publisher gives the events to others when it arrives. A subscriber that cannot tell takes every batch.
    ///
    /// # Errors
    ///
    /// The batch, untouched.
    fn try_deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) -> Result<(), Events<T>> {
        self.deliver(id, events, attempt);
        Ok(())
    }

    /// Whether it says when it [begins](Answer::Begun) with an event, and gives back what it has not begun when it is
    /// [asked to](Self::revoke). Only one that [answers](Publisher::answer) single events can.
    fn can_give_back(&self) -> bool {
        false
    }

    /// Event `number` of this edge, counted as for [`Publisher::answer`], is wanted back for somebody who has nothing to do.
    /// A subscriber that [can](Self::can_give_back) answers it with [`Answer::Returned`], and never begins with it; or with
    /// [`Answer::Begun`], if it has.
    fn revoke(&self, id: SubscriptionId, number: u64) {
        let _ = (id, number);
    }

    /// Nothing that is said of event `number` counts any more: it took too long, and others have it.
    fn expired(&self, id: SubscriptionId, number: u64) {
        let _ = (id, number);
    }

    /// The edge has ended, and nothing follows. What does all the same is dropped, and counted as discarded.
    fn ended(&self, id: SubscriptionId, cause: EndCause);
}

/// A request to become an edge: given to [`Source::open`].
pub struct Subscription<T> {
    /// Names the edge at both of its ends.
    pub id: SubscriptionId,
    /// Who subscribes: a broadcast takes a consumer only once.
    pub consumer: ConsumerId,
    /// What the consumer chose.
    pub options: SubscribeOptions,
    /// Which of the events it wants.
    pub interest: Interest<T>,
    /// Where events and the end go.
    pub subscriber: Arc<dyn Subscriber<T>>,
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).field("options", &self.options).finish_non_exhaustive()
    }
}

/// Names a consumer, uniquely in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(u64);

impl ConsumerId {
    /// An id that no other consumer of this process has.
    #[expect(clippy::new_without_default, reason = "a fresh id each time is not a default value")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Anything a consumer can subscribe to: a stage of this graph, or a producer on another node.
#[diagnostic::on_unimplemented(
    message = "cannot subscribe to `{Self}`",
    label = "not a source of events as a whole",
    note = "a consumer has no output; a partitioned stage is subscribed to with `.part(..)` or `subscribe_each`"
)]
pub trait Source: Send + Sync + 'static {
    /// The events that come out of it.
    type Item: Send + 'static;

    /// What it is called in reports and drawings.
    fn name(&self) -> String;

    /// The demand window for a consumer that did not choose one, and how far it may grow.
    fn default_options(&self) -> SubscribeOptions {
        Window::NEAR.into()
    }

    /// How many producers it stands for: the instances of a stage. A consumer subscribes to each of them. A source on another
    /// node may learn it with the first subscription: the consumer asks again after that, and subscribes to the rest.
    fn instances(&self) -> usize {
        1
    }

    /// Makes `subscription` an edge to one of its instances, and returns its publishing end.
    ///
    /// It is called once for each subscription and again, with a fresh one, whenever a consumer subscribes anew. The
    /// subscriber may be told of events or of the end before this returns.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if there is no such producer or it refuses; the subscriber is then told nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the attempt; an edge that was made in the meantime is cancelled.
    fn open(
        &self,
        instance: usize,
        subscription: Subscription<Self::Item>,
    ) -> impl Future<Output = Result<Arc<dyn Publisher<Self::Item>>, SubscribeError>> + Send;

    /// Held by whoever may have others subscribe at any time, as a node to which it is published: then it is waited for
    /// them. Nothing for a source that is not waited for. There is no need to call it; a source that wraps another one
    /// passes it on.
    #[doc(hidden)]
    fn expect_subscribers(&self) -> Option<Expected> {
        None
    }

    /// The stage of this process behind it, if there is one. There is no need to call or implement it.
    #[doc(hidden)]
    fn local(&self) -> Option<Arc<dyn Local<Self::Item>>> {
        None
    }
}

/// For as long as it lives, somebody may subscribe to a stage who is no part of its graph.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Expected(pub(crate) Arc<()>);

/// A stage of this process, as those see it who subscribe again.
pub trait Local<T>: Send + Sync {
    /// Names the stage among those of this process.
    fn id(&self) -> usize;

    /// Names its graph among those of this process.
    fn graph(&self) -> usize;

    /// What was handed back through former subscriptions to an instance after that had ended, as a producer of its own.
    fn remainder(
        &self,
        instance: usize,
        former: &[SubscriptionId],
        subscription: Subscription<T>,
    ) -> Arc<dyn Publisher<T>>;
}

/// How an edge ended, as the two stages are told.
#[derive(Clone, Debug)]
pub enum EndCause {
    /// One of the two ends asked for it.
    Cancelled(Exit),
    /// The stage at the other end has ended. Of a producer, [`Exit::Normal`] means that it was exhausted and everything it
    /// emitted was delivered.
    Down(Exit),
}

impl EndCause {
    /// The reason, whoever gave it.
    pub fn reason(&self) -> &Exit {
        match self {
            Self::Cancelled(exit) | Self::Down(exit) => exit,
        }
    }

    /// Whether this is the end of the data: the producer is exhausted, and nothing is missing.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::Down(Exit::Normal))
    }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(exit) => write!(f, "cancelled: {exit}"),
            Self::Down(exit) => write!(f, "down: {exit}"),
        }
    }
}
