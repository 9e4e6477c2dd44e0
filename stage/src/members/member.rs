//! [`Member`]: one instance of a stage, as its graph keeps it in the books.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Control;
use crate::counters::Counters;
use crate::error::Origin;
use crate::outcome::StageOutcome;
use crate::{Exit, Failure, FailureKind, StageSnapshot};

/// One instance of a stage.
pub(crate) struct Member {
    pub(crate) stage: Origin,
    pub(crate) instance: usize,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) counters: Arc<Counters>,
    /// Whether the user said what to do when the buffer is full.
    pub(super) may_drop: bool,
    /// The task of what runs there.
    pub(super) task: Option<usize>,
    /// Whether what runs there was made.
    pub(super) was_made: bool,
    pub(super) restarts: u64,
    /// How and when it ended, if it may be started again.
    pub(super) fallen: Option<(Exit, Instant)>,
    /// How and when it ended, for good.
    pub(super) ended: Option<(Exit, Instant)>,
    /// From when on its time is counted: since somebody looked first.
    timed: Option<Instant>,
    /// For how long it has been down since then, before it was started again.
    down: Duration,
}

impl Member {
    pub(crate) fn new(
        stage: Origin,
        instance: usize,
        control: Arc<dyn Control>,
        counters: Arc<Counters>,
        may_drop: bool,
    ) -> Self {
        let (task, was_made, restarts, fallen, ended) = (None, true, 0, None, None);
        let (timed, down) = (None, Duration::ZERO);
        Self { stage, instance, control, counters, may_drop, task, was_made, restarts, fallen, ended, timed, down }
    }

    /// Whether something runs there.
    pub(super) fn is_up(&self) -> bool {
        self.ended.is_none() && self.fallen.is_none()
    }

    /// Events that nobody got who should have, and that the user did not say may be dropped.
    pub(super) fn losses(&self) -> impl Iterator<Item = Failure> {
        let Counters { overflowed, undispatched, .. } = &*self.counters;
        let (dropped, failed) = (overflowed.get(), undispatched.get());
        let overflow = (dropped > 0 && !self.may_drop).then(|| {
            let why = format!("its buffer was full and {dropped} events were dropped; `buffer` says what to do then");
            Failure::at(&self.stage, FailureKind::Overflow, why)
        });
        let dispatch = (failed > 0).then(|| {
            let why = self.counters.undispatched_why.get().map_or("", String::as_str);
            let why = format!("{why} (events: {failed}; `partition_by` may answer `None` to discard one)");
            Failure::at(&self.stage, FailureKind::Dispatch, why)
        });
        overflow.into_iter().chain(dispatch)
    }

    pub(super) fn outcome(&self) -> Option<StageOutcome> {
        let (exit, _) = self.ended.clone()?;
        let Counters { events_in, events_out, discarded, failed, .. } = &*self.counters;
        Some(StageOutcome {
            stage: self.stage.to_string(),
            instance: self.instance,
            exit,
            events_in: events_in.get(),
            events_out: events_out.get(),
            discarded: discarded.get(),
            failed: failed.get(),
            restarts: self.restarts + self.counters.restarted.get(),
        })
    }

    /// It had fallen at `at`, and is started again.
    pub(super) fn is_up_again(&mut self, at: Instant) {
        if let Some(timed) = self.timed {
            self.down += Instant::now().saturating_duration_since(at.max(timed));
        }
    }

    pub(crate) fn snapshot(&mut self, now: Instant) -> StageSnapshot {
        let counters = &*self.counters;
        counters.time(now);
        let timed = *self.timed.get_or_insert(now);
        let until = self.ended.as_ref().or(self.fallen.as_ref()).map_or(now, |(_, at)| *at);
        let alive = until.saturating_duration_since(timed).saturating_sub(self.down);
        let (idle, blocked) = counters.idle_and_blocked(until);
        StageSnapshot {
            stage: self.stage.to_string(),
            instance: self.instance,
            ended: self.ended.is_some(),
            restarts: self.restarts + counters.restarted.get(),
            events_in: counters.events_in.get(),
            events_out: counters.events_out.get(),
            discarded: counters.discarded.get(),
            failed: counters.failed.get(),
            buffered: counters.buffered.get(),
            demand: crate::Demand::new(counters.demand.get()),
            outstanding: crate::Demand::new(counters.outstanding.get()),
            waiting_for: counters.waits.last().filter(|_| counters.is_waiting()),
            busy: alive.saturating_sub(idle + blocked),
            idle,
            blocked,
        }
    }
}
