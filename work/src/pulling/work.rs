//! [`Work`]: an event of which its consumer says itself what became of it; and [`Works`], which makes work of a source.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aqueduct_stage::{
    Answer, Attempt, Demand, EndCause, Events, Exit, Expected, Interest, Publisher, Source, SubscribeError,
    SubscribeOptions, Subscriber, Subscription, SubscriptionId,
};

use crate::ranges::Ranges;

/// An event that is answered on its own: done, to be tried again, or given up.
///
/// It can go to another task, and be answered in any order with others. What is dropped without an answer is to be
/// tried again: at once after the first attempt, so that a panic costs little, and later after 0.1 s, 0.2 s, 0.4 s and so on, up
/// to 10 s, so that what ails all workers for a moment does not make dead letters of everything. There is no word back: an answer that comes too late, because
/// [`ack_wait`](super::PullingOptions::ack_wait) was over and somebody else has the event, is refused and counted by
/// the pool.
///
/// Its time begins when it is given to the consumer: by the stream of whoever reads one, or as the batch of one event that a
/// stage is called with. What was asked for and has not come so far waits, and runs out of nothing; the pool may take it back
/// and give it to a worker that has nothing to do, and then it is passed over here.
pub struct Work<T> {
    event: T,
    ticket: Ticket,
}

/// The right to one final answer.
struct Ticket {
    /// Of the event on its edge.
    number: u64,
    attempt: Attempt,
    /// `None` once the answer is given.
    line: Option<Arc<dyn Line>>,
}

/// Where answers go.
trait Line: Send + Sync {
    fn answer(&self, number: u64, answer: Answer);

    /// It is done, and this came of it.
    fn result(&self, number: u64, result: &[u8]) {
        self.answer(number, Answer::DoneWith(result.to_vec()));
    }

    /// Begins with an event; `false` if it was given back.
    fn begin(&self, number: u64) -> bool;

    /// Whether the consumer was given an event, or something was said of it.
    fn has_begun(&self, number: u64) -> bool;

    /// Nothing more is said of an event. Returns whether it was given back.
    fn end(&self, number: u64) -> bool;
}

impl<T> Work<T> {
    /// Which attempt this is. What is done with the event must be repeatable, or tell attempts apart.
    pub fn attempt(&self) -> Attempt {
        self.ticket.attempt
    }

    /// What there is to do.
    pub fn event(&self) -> &T {
        &self.event
    }

    /// It is done. Returns the event.
    pub fn done(self) -> T {
        self.answer(Answer::Done)
    }

    /// It is done, and this came of it.
    pub fn done_with(mut self, result: &[u8]) {
        self.ticket.result(result);
    }

    /// It could not be done, and is to be tried again by whoever asks, not before `delay` is over (at most
    /// [`max_delay`](super::PullingOptions::max_delay), 1 h by default). If this was the last attempt, it is a dead
    /// letter, with the message. At most 1 KiB of that is kept.
    pub fn retry(self, delay: Duration, message: impl Into<String>) {
        self.answer(Answer::Retry { delay, message: message.into() });
    }

    /// It can never be done: it is a dead letter at once, with the message. At most 1 KiB of that is kept.
    pub fn give_up(self, message: impl Into<String>) {
        self.answer(Answer::GiveUp { message: message.into() });
    }

    /// It takes longer: the time for the answer begins anew. To be said every third of
    /// [`ack_wait`](super::PullingOptions::ack_wait).
    pub fn in_progress(&self) {
        if let Some(line) = &self.ticket.line {
            line.answer(self.ticket.number, Answer::InProgress);
        }
    }

    fn answer(mut self, answer: Answer) -> T {
        self.ticket.answer(answer);
        self.event
    }

    /// Begins with it; `false` if it was given back.
    fn begin(&self) -> bool {
        self.ticket.line.as_ref().is_some_and(|line| line.begin(self.ticket.number))
    }

    /// The event, of which nothing is said.
    fn into_event(mut self) -> T {
        self.ticket.line = None;
        self.event
    }
}

impl Ticket {
    fn answer(&mut self, answer: Answer) {
        if let Some(line) = self.line.take() {
            // What was given back once is let go of now.
            let answer = if line.end(self.number) { Answer::Returned } else { answer };
            line.answer(self.number, answer);
        }
    }

    fn result(&mut self, result: &[u8]) {
        if let Some(line) = self.line.take() {
            if line.end(self.number) {
                line.answer(self.number, Answer::Returned);
            } else {
                line.result(self.number, result);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nobody has begun with it. Its consumer is about to leave, and it goes back with all that waits there.
        if let Some(line) = self.line.take_if(|line| !line.has_begun(self.number)) {
            if line.end(self.number) {
                line.answer(self.number, Answer::Returned);
            }
            return;
        }
        let (delay, message) = (delay_after(self.attempt), "dropped without an answer".to_owned());
        self.answer(Answer::Retry { delay, message });
    }
}

/// How long an event waits that was dropped in this attempt.
fn delay_after(attempt: Attempt) -> Duration {
    let doublings = attempt.number().saturating_sub(2);
    let delay = 2_u32.checked_pow(doublings).map_or(LAST_DELAY, |times| SECOND_DELAY.saturating_mul(times));
    if attempt == Attempt::FIRST { Duration::ZERO } else { delay.min(LAST_DELAY) }
}

impl<T: fmt::Debug> fmt::Debug for Work<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("event", &self.event).field("attempt", &self.ticket.attempt.number()).finish()
    }
}

/// Taking a source's events as [`Work`].
pub trait WorkSource: Source + Clone {
    /// This source, with events that are answered one by one: of a [`WorkPool`](super::WorkPool) here, or of one that another
    /// node has published. Any consumer subscribes to it as to any source.
    ///
    /// Subscribing fails with [`SubscribeError::Refused`] where single answers are not taken, as by a stage of a graph: put
    /// a pool in between.
    fn work(&self) -> Works<Self> {
        Works { source: self.clone() }
    }
}

impl<S: Source + Clone> WorkSource for S {}

/// A source whose events are [`Work`]: made by [`WorkSource::work`].
#[derive(Clone)]
pub struct Works<S> {
    source: S,
}

impl<S: Source> Source for Works<S> {
    type Item = Work<S::Item>;

    fn name(&self) -> String {
        self.source.name()
    }

    fn default_options(&self) -> SubscribeOptions {
        self.source.default_options()
    }

    fn instances(&self) -> usize {
        self.source.instances()
    }

    fn expect_subscribers(&self) -> Option<Expected> {
        self.source.expect_subscribers()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Work<S::Item>>,
    ) -> Result<Arc<dyn Publisher<Work<S::Item>>>, SubscribeError> {
        let Subscription { id, consumer, options, interest, subscriber } = subscription;
        let refused = |reason: &str| SubscribeError::Refused { at: self.source.name(), reason: reason.to_owned() };
        if interest.selector.is_some() {
            return Err(refused("work cannot be selected"));
        }
        let interest = Interest { selector: None, partition: interest.partition };
        let wire = Arc::new(Wire { id, publisher: OnceLock::new(), window: Mutex::default() });
        let taker = Arc::new(Taker { subscriber, wire: Arc::clone(&wire), is_refused: AtomicBool::default() });
        let inner = Subscription { id, consumer, options, interest, subscriber: Arc::clone(&taker) as _ };
        let publisher = self.source.open(instance, inner).await?;
        if !publisher.takes_answers() {
            taker.is_refused.store(true, Ordering::Relaxed);
            publisher.cancel(id, Exit::Normal);
            return Err(refused("its events cannot be answered one by one"));
        }
        publisher.handled(id, Demand::ZERO);
        let _ = wire.publisher.set(Arc::clone(&publisher));
        Ok(Arc::new(Asker { publisher }))
    }
}

impl<S: Source> fmt::Debug for Works<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Works({:?})", self.source.name())
    }
}

/// From the work of an edge to its publisher.
struct Wire<T> {
    id: SubscriptionId,
    /// There before anything is asked for, so before there is work.
    publisher: OnceLock<Arc<dyn Publisher<T>>>,
    window: Mutex<WorkWindow>,
}

/// Which of the events of an edge wait at the consumer. Pure.
#[derive(Debug, Default)]
struct WorkWindow {
    delivered: u64,
    /// What the consumer was given, or has dropped.
    begun: Ranges,
    /// What was given back, and the consumer has not dropped yet.
    returned: BTreeSet<u64>,
}

impl WorkWindow {
    /// Takes note of so many events more, and returns the number of the first.
    fn deliver(&mut self, count: u64) -> u64 {
        let first = self.delivered + 1;
        self.delivered += count;
        first
    }

    /// The consumer begins with an event; `false` if it was given back.
    fn begin(&mut self, number: u64) -> bool {
        let is_here = !self.returned.contains(&number);
        if is_here {
            self.begun.add(number);
        }
        is_here
    }

    /// Gives an event back, unless the consumer has begun with it.
    fn give_back(&mut self, number: u64) -> bool {
        number <= self.delivered && !self.begun.contains(number) && self.returned.insert(number)
    }

    /// The consumer has dropped an event, or answered it. Returns whether it was given back.
    fn end(&mut self, number: u64) -> bool {
        let was_returned = self.returned.remove(&number);
        self.begun.add(number);
        was_returned
    }
}

impl<T> Wire<T> {
    fn window(&self) -> MutexGuard<'_, WorkWindow> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Line for Wire<T> {
    fn answer(&self, number: u64, answer: Answer) {
        if let Some(publisher) = self.publisher.get() {
            publisher.answer(self.id, number, answer);
        }
    }

    fn result(&self, number: u64, result: &[u8]) {
        if let Some(publisher) = self.publisher.get() {
            publisher.result(self.id, number, result);
        }
    }

    fn begin(&self, number: u64) -> bool {
        let is_here = self.window().begin(number);
        if is_here {
            self.answer(number, Answer::Begun);
        }
        is_here
    }

    fn has_begun(&self, number: u64) -> bool {
        self.window().begun.contains(number)
    }

    fn end(&self, number: u64) -> bool {
        self.window().end(number)
    }
}

/// The subscriber that the source sees: makes work of events.
struct Taker<T> {
    subscriber: Arc<dyn Subscriber<Work<T>>>,
    wire: Arc<Wire<T>>,
    /// The consumer was told that there is no edge, and is told nothing else.
    is_refused: AtomicBool,
}

impl<T: Send + 'static> Taker<T> {
    fn wrap(&self, events: Events<T>, attempt: Attempt) -> Events<Work<T>> {
        let first = self.wire.window().deliver(events.len() as u64);
        let work = |(number, event)| {
            let line = Some(Arc::clone(&self.wire) as Arc<dyn Line>);
            Work { event, ticket: Ticket { number, attempt, line } }
        };
        Events::revocable((first..).zip(events).map(work).collect(), Work::begin)
    }
}

impl<T: Send + 'static> Subscriber<T> for Taker<T> {
    fn deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) {
        self.subscriber.deliver(id, self.wrap(events, attempt), attempt);
    }

    fn try_deliver(&self, id: SubscriptionId, events: Events<T>, attempt: Attempt) -> Result<(), Events<T>> {
        let refused = self.subscriber.try_deliver(id, self.wrap(events, attempt), attempt);
        refused.map_err(|works| works.into_iter().map(Work::into_event).collect::<Vec<_>>().into())
    }

    fn can_give_back(&self) -> bool {
        true
    }

    fn revoke(&self, _: SubscriptionId, number: u64) {
        let is_given_back = self.wire.window().give_back(number);
        self.wire.answer(number, if is_given_back { Answer::Returned } else { Answer::Begun });
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        if !self.is_refused.load(Ordering::Relaxed) {
            self.subscriber.ended(id, cause);
        }
    }
}

/// The publisher that the consumer sees. What it says of its events as a whole does not matter: each is answered.
struct Asker<T> {
    publisher: Arc<dyn Publisher<T>>,
}

impl<T: Send + 'static> Publisher<Work<T>> for Asker<T> {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        self.publisher.ask(id, up_to);
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.publisher.cancel(id, reason);
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<Work<T>>, Attempt)>) {
        let all = unfinished.into_iter().flat_map(|(works, next)| works.into_iter().map(move |work| (work, next)));
        let (begun, untouched): (Vec<_>, Vec<_>) = all.partition(|(work, next)| *next > work.ticket.attempt);
        // It was an attempt for these, which are answered by that; for the others it was none.
        drop(begun);
        self.publisher.leave(id, cause, Vec::new());
        for (work, _) in untouched {
            work.into_event();
        }
    }
}

/// After the second attempt; then twice as long after each.
const SECOND_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn what_was_given_back_is_not_begun_and_what_was_begun_is_not_given_back() {
        let mut window = WorkWindow::default();
        assert_eq!((window.deliver(3), window.deliver(1)), (1, 4));
        assert!(window.begin(1) && !window.give_back(1));
        assert!(window.give_back(3) && !window.give_back(3) && !window.give_back(5));
        assert!(!window.begin(3) && window.begin(2));
        assert!(window.end(3) && !window.end(2) && !window.end(4));
        assert!(!window.give_back(4), "it was answered before it was begun");
    }

    #[test]
    fn what_is_dropped_before_it_was_begun_is_no_attempt() {
        #[derive(Default)]
        struct Said(Mutex<WorkWindow>, Mutex<Vec<Answer>>);
        impl Line for Said {
            fn answer(&self, _: u64, answer: Answer) {
                self.1.lock().unwrap().push(answer);
            }
            fn begin(&self, number: u64) -> bool {
                self.0.lock().unwrap().begin(number)
            }
            fn has_begun(&self, number: u64) -> bool {
                self.0.lock().unwrap().begun.contains(number)
            }
            fn end(&self, number: u64) -> bool {
                self.0.lock().unwrap().end(number)
            }
        }
        let said = Arc::new(Said::default());
        said.0.lock().unwrap().deliver(2);
        let ticket = |number| {
            let line: Arc<dyn Line> = Arc::clone(&said) as _;
            Ticket { number, attempt: Attempt::FIRST, line: Some(line) }
        };
        drop(ticket(1));
        assert!(said.1.lock().unwrap().is_empty(), "it goes back when its consumer leaves");
        assert!(said.begin(2));
        drop(ticket(2));
        assert!(matches!(said.1.lock().unwrap()[..], [Answer::Retry { .. }]));
    }

    #[test]
    fn what_is_dropped_again_and_again_waits_longer_up_to_a_bound() {
        let after = |number| delay_after(Attempt::new(NonZeroU32::new(number).expect("not zero"))).as_millis();
        assert_eq!([1, 2, 3, 4, 8, 9, 40, u32::MAX].map(after), [0, 100, 200, 400, 6400, 10_000, 10_000, 10_000]);
    }
}
