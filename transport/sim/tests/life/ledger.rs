//! The oracle: what became of each event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aqueduct_sim::SimNet;
use aqueduct_stage::Attempt;

use crate::book::Book;

/// What all consumers of a world have done. A rule that is broken fails the run at once, so that its trace ends there.
pub(crate) struct Ledger {
    net: SimNet,
    pub(crate) book: Book<Page>,
}

#[derive(Default)]
pub(crate) struct Page {
    events: BTreeMap<u64, Fate>,
    is_exhausted: bool,
    /// Its consumers are told of the end only when everything is handled.
    ends_when_handled: bool,
    /// How many events consumers that do not acknowledge may have taken with them.
    may_be_lost: u64,
    /// Which events somebody has begun with since the producer's machine was started last, and in how many of its lives before.
    begun: BTreeSet<u64>,
    begun_before: BTreeMap<u64, Attempt>,
    /// How many consumers there are, and how many have ended.
    pub(crate) lives: usize,
    pub(crate) ended: usize,
}

/// What has become of an event.
enum Fate {
    /// Nobody has begun with it.
    Waits,
    /// Somebody is at it.
    Begun(Arc<str>, Attempt),
    /// Somebody broke off.
    Unfinished(Arc<str>, Attempt),
    /// A consumer has handled it, at this time.
    Handled(Arc<str>, Duration),
}

/// Who handles events.
#[derive(Clone)]
pub(crate) struct Who {
    name: Arc<str>,
    /// It was told to end at once, whatever it is at.
    breaks_off: Arc<AtomicBool>,
}

impl Who {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), breaks_off: Arc::default() }
    }

    /// From now on it may leave unfinished what it has begun.
    pub(crate) fn may_break_off(&self) {
        self.breaks_off.store(true, Ordering::Relaxed);
    }
}

/// Events that a consumer has begun with. If this is dropped, the consumer has broken off.
#[must_use]
pub(crate) struct InHand {
    ledger: Arc<Ledger>,
    who: Who,
    events: Vec<u64>,
    attempt: Attempt,
}

/// Longer than any world lasts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3000);

impl Ledger {
    pub(crate) fn new(net: &SimNet) -> Self {
        Self { net: net.clone(), book: Book::new(PATIENCE) }
    }

    /// There are more events.
    pub(crate) fn emitted(&self, events: impl IntoIterator<Item = u64>) {
        self.book.update(|page| page.events.extend(events.into_iter().map(|event| (event, Fate::Waits))));
    }

    /// A consumer begins to handle these events. That is another attempt if, and only if, a consumer has begun with them before
    /// and not finished.
    pub(crate) fn begin(self: &Arc<Self>, who: &Who, events: Vec<u64>, attempt: Attempt) -> InHand {
        let page = &mut *self.book.lock();
        for event in &events {
            let begun = Fate::Begun(Arc::clone(&who.name), attempt);
            let expected = match page.events.insert(*event, begun) {
                Some(Fate::Waits) => Attempt::FIRST,
                Some(Fate::Unfinished(_, last)) => last.next(),
                None => {
                    self.fails(format_args!("{event} is given to {}, and there is no such event", who.name));
                    continue;
                }
                Some(before) => {
                    self.fails(format_args!("{event} is given to {} ({attempt:?}), and {before}", who.name));
                    continue;
                }
            };
            page.begun.insert(*event);
            if attempt != expected {
                self.fails(format_args!("{event} is given to {} as {attempt:?}, expected {expected:?}", who.name));
            }
        }
        InHand { ledger: Arc::clone(self), who: who.clone(), events, attempt }
    }

    fn fails(&self, why: fmt::Arguments<'_>) {
        self.net.fail(why);
    }

    /// A consumer that does not acknowledge ends now, and may take so many events with it.
    pub(crate) fn may_lose(&self, events: u64) {
        self.book.update(|page| page.may_be_lost += events);
    }

    pub(crate) fn has_ended(&self) {
        self.book.update(|page| page.ended += 1);
    }

    /// The machine of a queue is restarted. What was begun and not finished since it was started counts there as one attempt,
    /// however many workers have tried.
    pub(crate) fn restarted(&self) {
        let page = &mut *self.book.lock();
        for event in std::mem::take(&mut page.begun) {
            let attempt = page.begun_before.get(&event).map_or(Attempt::FIRST, |before| before.next());
            if let Some(Fate::Unfinished(_, last)) = page.events.get_mut(&event) {
                *last = attempt;
                page.begun_before.insert(event, attempt);
            }
        }
    }

    /// There will be no further events.
    pub(crate) fn exhausted(&self) {
        self.book.update(|page| page.is_exhausted = true);
    }

    /// Consumers are told of the end only when everything is handled, as that of a stage is when it has emitted everything.
    pub(crate) fn ends_when_handled(&self) {
        self.book.update(|page| page.ends_when_handled = true);
    }

    /// Whether a consumer that comes now may be told that it is late.
    pub(crate) fn is_exhausted(&self) -> bool {
        let page = self.book.lock();
        page.is_exhausted && !(page.ends_when_handled && page.unhandled().count() as u64 > page.may_be_lost)
    }

    /// How many of how many events have not been handled.
    pub(crate) fn unhandled(&self) -> (usize, usize) {
        let page = self.book.lock();
        (page.unhandled().count(), page.events.len())
    }

    /// At the end of the world.
    pub(crate) fn check(&self) -> Result<(), String> {
        let page = self.book.lock();
        let lost = page.unhandled().count() as u64;
        if lost > page.may_be_lost {
            let (all, may, some) = (
                page.events.len(),
                page.may_be_lost,
                page.unhandled().map(|(event, fate)| format!("{event}: {fate}")).take(10).collect::<Vec<_>>(),
            );
            return Err(format!("{lost} of {all} are lost, {may} may be: {some:?}"));
        }
        Ok(())
    }
}

impl Page {
    fn unhandled(&self) -> impl Iterator<Item = (&u64, &Fate)> + '_ {
        self.events.iter().filter(|(_, fate)| !matches!(fate, Fate::Handled(..)))
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits => f.write_str("nobody has begun with it"),
            Self::Begun(who, attempt) => write!(f, "{who} is at it ({attempt:?})"),
            Self::Unfinished(who, attempt) => write!(f, "{who} has broken off ({attempt:?})"),
            Self::Handled(who, at) => write!(f, "{who} has handled it at {at:?}"),
        }
    }
}

impl InHand {
    /// He has handled them.
    pub(crate) fn handled(mut self) {
        let (events, now) = (std::mem::take(&mut self.events), self.ledger.net.now());
        self.ledger.book.update(|page| {
            for event in events {
                page.events.insert(event, Fate::Handled(Arc::clone(&self.who.name), now));
            }
        });
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let (ledger, who) = (Arc::clone(&self.ledger), self.who.clone());
        if !self.events.is_empty() && !who.breaks_off.load(Ordering::Relaxed) {
            ledger.fails(format_args!("{} ends in order, and has not finished {:?}", who.name, self.events));
        }
        let page = &mut *ledger.book.lock();
        for event in self.events.drain(..) {
            page.events.insert(event, Fate::Unfinished(Arc::clone(&who.name), self.attempt));
        }
    }
}
