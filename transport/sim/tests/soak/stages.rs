//! The stages of the soak: a producer that keeps time, a stage in the middle, and consumers; and what they have seen.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_sim::SimNet;
use aqueduct_stage::{Attempt, Batch, Consumer, Cx, Exit, Producer, ProducerConsumer, Result};
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

/// Of the producer.
pub(crate) const EVENTS_PER_SECOND: u64 = 1000;
/// They come a hundred at a time.
const TICK: Duration = Duration::from_millis(100);
/// One event in so many is long: it goes in three pieces, one every twenty seconds.
const LONG_EVERY: u64 = 20_000;
const LONG_BYTES: usize = 300_000;

/// A number, and a payload that follows from it.
pub(crate) type Event = (u64, Bytes);

fn event(number: u64) -> Event {
    let is_long = number % LONG_EVERY == LONG_EVERY / 2;
    (number, if is_long { vec![number as u8; LONG_BYTES].into() } else { Bytes::new() })
}

fn is_whole((number, payload): &Event) -> bool {
    *payload == event(*number).1
}

/// When events are due, and which have arrived.
pub(crate) struct Book {
    net: SimNet,
    page: Mutex<Page>,
}

#[derive(Default)]
struct Page {
    /// From this time on, …
    since: Duration,
    /// … with this number, events are due …
    from: u64,
    /// … up to this one.
    to: u64,
    is_over: bool,
    /// Everything below has arrived.
    through: u64,
    /// What has arrived beyond it: no more than is on its way to the other consumer.
    beyond: BTreeSet<u64>,
    /// Events that arrived once more, as another attempt.
    again: u64,
    /// How many may: what the consumers that were lost had in hand.
    may_come_again: u64,
    /// From here on, each consumer gets later events later: what a lost one had comes back to those after it at any time,
    /// and so does what it was never sent.
    in_order_from: u64,
}

impl Book {
    pub(crate) fn new(net: &SimNet) -> Self {
        Self { net: net.clone(), page: Mutex::default() }
    }

    /// From now on, events are due for so long; what was due before is due first.
    pub(crate) fn go_on_for(&self, span: Duration) {
        let mut page = self.page();
        page.since = self.net.now();
        page.from = page.to;
        page.to += events_in(span);
        page.in_order_from = page.in_order_from.min(page.from);
    }

    /// When everything has been emitted, it is the end of the data.
    pub(crate) fn end(&self) {
        self.page().is_over = true;
    }

    /// Consumers are lost that had asked for so many events.
    pub(crate) fn lost(&self, events: u64) {
        let mut page = self.page();
        page.may_come_again += events;
        page.in_order_from = u64::MAX;
    }

    /// Whether all events that were due have arrived.
    pub(crate) fn is_all_here(&self) -> bool {
        let page = self.page();
        page.through == page.to
    }

    /// How many events have arrived, and how many of them once more.
    pub(crate) fn arrived(&self) -> (u64, u64) {
        let page = self.page();
        (page.through + page.beyond.len() as u64, page.again)
    }

    fn due(&self) -> u64 {
        let page = self.page();
        page.to.min(page.from + events_in(self.net.now() - page.since))
    }

    fn is_the_end(&self, next: u64) -> bool {
        let page = self.page();
        page.is_over && page.to == next
    }

    fn take(&self, number: u64, attempt: Attempt) {
        let mut page = self.page();
        let page = &mut *page;
        if number == page.through {
            page.through += 1;
            while page.beyond.remove(&page.through) {
                page.through += 1;
            }
        } else if number < page.through || !page.beyond.insert(number) {
            page.again += 1;
            if attempt == Attempt::FIRST {
                self.net.fail(format_args!("event {number} arrived twice"));
            } else if page.again > page.may_come_again {
                self.net.fail(format_args!("event {number} arrived again, and nobody who had it was lost"));
            }
        }
        if number >= page.to {
            self.net.fail(format_args!("event {number} was never emitted"));
        }
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn events_in(span: Duration) -> u64 {
    (span.as_millis() as u64) * EVENTS_PER_SECOND / 1000
}

/// Emits what is due, as far as it was asked for, every tick.
pub(crate) struct Ticks {
    book: Arc<Book>,
    next: u64,
}

impl Ticks {
    pub(crate) fn new(book: &Arc<Book>) -> Self {
        Self { book: Arc::clone(book), next: 0 }
    }
}

impl Producer for Ticks {
    type Out = Event;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Event>) -> Result {
        sleep(TICK).await;
        let to = self.book.due().min(self.next + demand as u64).max(self.next);
        cx.emit_all((self.next..to).map(event));
        self.next = to;
        if self.book.is_the_end(self.next) {
            cx.stop(Exit::Normal);
        }
        cx.again();
        Ok(())
    }
}

/// Passes on what it gets: every event, once and in order, as neither it nor the producer is ever lost.
pub(crate) struct Relay {
    book: Arc<Book>,
    next: u64,
}

impl Relay {
    pub(crate) fn new(book: &Arc<Book>) -> Self {
        Self { book: Arc::clone(book), next: 0 }
    }
}

impl ProducerConsumer for Relay {
    type In = Event;
    type Out = Event;

    async fn handle_events(&mut self, events: Batch<Event>, cx: &mut Cx<'_, Event>) -> Result {
        let attempt = events.attempt();
        for event in &events {
            if event.0 != self.next || attempt != Attempt::FIRST || !is_whole(event) {
                let (got, expected) = (event.0, self.next);
                self.book.net.fail(format_args!("in the middle, expected event {expected}, got {got}, {attempt:?}"));
            }
            self.next += 1;
        }
        cx.emit_all(events);
        Ok(())
    }
}

/// Takes its part of the events, and its time: each later one is newer, unless somebody else had it before.
pub(crate) struct Sink {
    book: Arc<Book>,
    rng: StdRng,
    next: u64,
}

impl Sink {
    pub(crate) fn new(book: &Arc<Book>, label: &str) -> Self {
        Self { book: Arc::clone(book), rng: book.net.rng(label), next: 0 }
    }
}

impl Consumer for Sink {
    type In = Event;

    async fn handle_events(&mut self, events: Batch<Event>, _: &mut Cx<'_>) -> Result {
        let attempt = events.attempt();
        for event in &events {
            let number = event.0;
            let is_late = attempt == Attempt::FIRST && number < self.next;
            if is_late && number >= self.book.page().in_order_from || !is_whole(event) {
                self.book.net.fail(format_args!("event {number} is late or not whole; {} was next", self.next));
            }
            self.next = self.next.max(number + 1);
            self.book.take(number, attempt);
        }
        // If its machine is lost meanwhile, nobody knows that it had them.
        sleep(Duration::from_millis(self.rng.random_range(0..50))).await;
        Ok(())
    }
}
