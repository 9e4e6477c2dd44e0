//! The oracle: what became of each event.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Which events there are.
    emitted: BTreeSet<u64>,
    is_exhausted: bool,
    /// Who has handled an event, and when.
    handled: BTreeMap<u64, (String, Duration)>,
    /// Who had begun with an event last.
    begun: BTreeMap<u64, (String, Attempt)>,
    /// How many subscriptions that acknowledge have ended before their source.
    early: u32,
    /// How many events others, that do not acknowledge, may have taken with them.
    may_be_lost: u64,
    /// How many consumers there are, and how many have ended.
    pub(crate) lives: usize,
    pub(crate) ended: usize,
}

/// Longer than any world lasts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3000);

impl Ledger {
    pub(crate) fn new(net: &SimNet) -> Self {
        Self { net: net.clone(), book: Book::new(PATIENCE) }
    }

    /// There is one more event.
    pub(crate) fn emitted(&self, events: impl IntoIterator<Item = u64>) {
        self.book.update(|page| page.emitted.extend(events));
    }

    /// Somebody begins to handle an event.
    pub(crate) fn begun(&self, who: &str, event: u64, attempt: Attempt) {
        let page = &mut *self.book.lock();
        if let Some((before, at)) = page.handled.get(&event) {
            return self
                .net
                .fail(format_args!("{event} is given to {who} ({attempt:?}), but {before} handled it at {at:?}"));
        }
        if attempt.number() > 1 + page.early {
            let early = page.early;
            self.net.fail(format_args!("{event} is given to {who} as {attempt:?}, and {early} have ended early"));
        }
        if let Some((before, last)) = page.begun.insert(event, (who.to_owned(), attempt))
            && attempt <= last
        {
            self.net
                .fail(format_args!("{event} is given to {who} as {attempt:?}, but {before} had begun it as {last:?}"));
        }
    }

    /// It has handled it.
    pub(crate) fn handled(&self, who: &str, event: u64) {
        let now = self.net.now();
        self.book.update(|page| {
            if let Some((before, at)) = page.handled.insert(event, (who.to_owned(), now)) {
                self.net.fail(format_args!("{event} is handled by {who}, and was by {before} at {at:?}"));
            }
        });
    }

    /// So many subscriptions that acknowledge end now, before their source does.
    pub(crate) fn ends_early(&self, edges: u32) {
        self.book.update(|page| page.early += edges);
    }

    /// A consumer that does not acknowledge ends now, and may take so many events with it.
    pub(crate) fn may_lose(&self, events: u64) {
        self.book.update(|page| page.may_be_lost += events);
    }

    pub(crate) fn has_ended(&self) {
        self.book.update(|page| page.ended += 1);
    }

    /// There will be no further events.
    pub(crate) fn exhausted(&self) {
        self.book.update(|page| page.is_exhausted = true);
    }

    /// Whether there are no further events.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.book.lock().is_exhausted
    }

    /// How many of how many events have not been handled.
    pub(crate) fn unhandled(&self) -> (usize, usize) {
        let page = self.book.lock();
        (page.missing().count(), page.emitted.len())
    }

    /// At the end of the world.
    pub(crate) fn check(&self) -> Result<(), String> {
        let page = self.book.lock();
        let missing: Vec<_> = page.missing().take(10).collect();
        let lost = page.missing().count() as u64;
        if lost > page.may_be_lost {
            let (all, may) = (page.emitted.len(), page.may_be_lost);
            let begun: Vec<_> = missing.iter().map(|event| (event, page.begun.get(event))).collect();
            return Err(format!("{lost} of {all} are lost, {may} may be; who had begun with them: {begun:?}"));
        }
        Ok(())
    }
}

impl Page {
    fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        self.emitted.iter().copied().filter(|event| !self.handled.contains_key(event))
    }
}
