//! Watches the stages of a graph that somebody waits for: what they lack is said, and what lacks it in vain fails.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Shared, State};
use crate::waiting::{Overdue, SHORTEST_LOOK, Standing, crossing, in_vain};
use crate::{Failure, FailureKind, WaitingFor};

impl Shared {
    /// Sets how long a stage may wait for somebody who is missing.
    pub(crate) fn set_patience(&self, patience: Duration) {
        self.lock().patience = patience;
    }

    /// Waits until all stages have ended, or one has failed. `is_joined` says that the graph ends with its work: then it
    /// is a failure if a stage waits in vain.
    pub(crate) async fn finished(&self, is_joined: bool) {
        // Stages may wait already.
        let mut next = Next { at: Some(Instant::now()), is_at_each_change: false };
        while let Some(patience) = self.patience_unless_finished() {
            if next.is_due(Instant::now()) {
                let (look_again, failures) = self.lock().look(Instant::now(), is_joined);
                if !failures.is_empty() {
                    self.fail(failures, None);
                    return;
                }
                next = look_again;
            }
            tokio::select! {
                biased;
                () = self.changed.notified() => next.add(Instant::now().checked_add(patience)),
                () = next.due() => {}
            }
        }
    }

    fn patience_unless_finished(&self) -> Option<Duration> {
        let state = self.lock();
        (!state.is_over() && !state.has_failed()).then_some(state.patience)
    }
}

/// When all stages are looked at: not whenever one of them has changed, as there may be very many.
struct Next {
    /// When one may have waited for too long: what a stage begins to wait for is due after its patience.
    at: Option<Instant>,
    /// One has, and waits in vain once all others have ended or wait as well.
    is_at_each_change: bool,
}

impl Next {
    fn is_due(&self, now: Instant) -> bool {
        self.is_at_each_change || self.at.is_some_and(|at| at <= now)
    }

    fn add(&mut self, at: Option<Instant>) {
        self.at = self.at.into_iter().chain(at).min();
    }

    async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

impl State {
    /// Says what stages have lacked for too long. Returns when to look again, and what waits in vain.
    fn look(&self, now: Instant, is_joined: bool) -> (Next, Vec<Failure>) {
        let (mut next, mut overdue) = (Next { at: None, is_at_each_change: false }, vec![false; self.stages.len()]);
        for (number, stage) in self.stages.iter().enumerate().filter(|(_, stage)| stage.is_up()) {
            let waits = &stage.counters.waits;
            match waits.overdue(now, self.patience, !stage.counters.is_waiting()) {
                Some(Overdue::At(at)) => next.add(Some(at)),
                Some(Overdue::Said) => overdue[number] = true,
                Some(Overdue::Now(what)) => {
                    overdue[number] = true;
                    let (stage, instance) = (&*stage.stage, stage.instance);
                    let may_come =
                        matches!(what, WaitingFor::Subscribers { .. }) && self.stages[number].control.is_expected();
                    if may_come {
                        tracing::info!(stage, instance, "stage waits {what}");
                    } else {
                        tracing::warn!(stage, instance, "stage waits {what}");
                    }
                }
                None => {}
            }
        }
        if !is_joined || !overdue.contains(&true) {
            return (next, Vec::new());
        }
        next.is_at_each_change = true;
        // Others may come to wait without anybody being told.
        next.add(now.checked_add(self.patience.max(SHORTEST_LOOK)));
        (next, self.in_vain(&overdue))
    }

    fn in_vain(&self, overdue: &[bool]) -> Vec<Failure> {
        // Whatever else is at work may bring somebody.
        let up = self.stages.iter().filter(|stage| stage.is_up()).count();
        if self.tasks.len() > up + usize::from(self.is_supervised) {
            return Vec::new();
        }
        let stages: Vec<_> = self.stages.iter().zip(overdue).filter(|(stage, _)| stage.ended.is_none()).collect();
        let held: Vec<Vec<_>> = stages.iter().map(|(stage, _)| stage.counters.edges.ids()).collect();
        let crosses = crossing(held.iter().flatten().copied());
        let waits: Vec<_> = stages
            .iter()
            .map(|(stage, _)| stage.counters.waits.last().filter(|_| stage.is_up() && stage.counters.is_waiting()))
            .collect();
        let standings = stages.iter().zip(&held).zip(&waits).map(|(((stage, overdue), held), waits)| Standing {
            waits_for: waits.as_ref(),
            is_overdue: **overdue,
            is_reached_from_outside: stage.control.is_expected() || held.iter().any(|id| crosses(*id)),
        });
        let lacking = in_vain(standings);
        let failure = |number: usize| {
            let what = waits[number].as_ref().map_or_else(String::new, ToString::to_string);
            let why = format!("{what}: all others have ended or wait as well, and it is not published for other nodes");
            Failure::new(&*stages[number].0.stage, FailureKind::Waiting, why)
        };
        lacking.into_iter().map(failure).collect()
    }
}

/// How long a stage may wait for somebody who is missing, unless something else is said.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
