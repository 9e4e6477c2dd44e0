//! [`TaskOptions`]: how the tasks of a graph are treated.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::child::Shutdown;
use crate::{Backoff, Failure, Intensity, Restart};

/// How the tasks of [`Graph::tasks_with`](crate::Graph::tasks_with) are treated. `R` says whether they are restarted.
///
/// Permanent tasks cannot be written, as a task that has done its event has nothing more to do:
///
/// ```compile_fail
/// let options = aqueduct_stage::TaskOptions::permanent();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskOptions<R = Temporary> {
    pub(super) shutdown: Shutdown,
    pub(super) tolerates: bool,
    pub(super) restart: R,
}

/// Tasks are not restarted. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Temporary;

/// Tasks that fail or panic are started again with the same event, which is cloned for that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transient {
    /// Nothing for the default, which depends on whether attempts are bounded.
    intensity: Option<Intensity>,
    max_attempts: Option<NonZeroU32>,
    backoff: Backoff,
}

/// As [`Transient`], and what is given up is handed over: made by [`TaskOptions::dead_letters`].
pub struct DeadLetters<T> {
    transient: Transient,
    bury: Arc<dyn Fn(DeadEvent<T>) + Send + Sync>,
}

/// An event that was given up, as its task failed as often as it [may](TaskOptions::max_attempts).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadEvent<T> {
    /// The event.
    pub event: T,
    /// Why the last attempt failed.
    pub failure: Failure,
    /// How often it was tried.
    pub attempts: u32,
}

impl TaskOptions {
    /// Tasks that are not restarted.
    pub fn temporary() -> Self {
        Self::default()
    }
}

impl TaskOptions<Transient> {
    /// Tasks that are started again with the same event when they fail or panic. While it waits for that, a task counts
    /// as one of the `max`.
    ///
    /// Beyond 3 restarts within 5 s, over all tasks together, the stage ends its other tasks and fails: enough for tasks
    /// that fail together, and too little for events that cannot be handled. For those, bound the
    /// [attempts](Self::max_attempts) of each event.
    pub fn transient() -> Self {
        Self::default()
    }

    /// Sets how many restarts are borne, over all tasks together, before the stage ends its other tasks and fails. Default
    /// 3 within 5 s; without bound if [attempts](Self::max_attempts) are bounded.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.restart.intensity = Some(intensity);
        self
    }

    /// Sets how often a task is started for one event, at least once. The event is then given up, and the others go on.
    /// Default: any number of times, within the [`intensity`](Self::intensity), which is without bound itself once this is
    /// set and it is not. A low number gives up what a moment would have mended, unless there is a
    /// [`backoff`](Self::backoff), which then grows with the attempts of each event by itself; a high one keeps one of the
    /// `max` places busy for as long.
    ///
    /// What was given up counts as [failed](crate::StageOutcome::failed), and the graph does not end in success, unless
    /// that is [tolerated](Self::tolerate_failures) or the events are [handed over](Self::dead_letters). A task that
    /// panics before it returns its future is not tried again.
    ///
    /// # Panics
    ///
    /// If `attempts` is 0.
    #[must_use]
    #[track_caller]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        let attempts = NonZeroU32::new(attempts);
        assert!(attempts.is_some(), "expected at least 1 attempt, got 0");
        self.restart.max_attempts = attempts;
        self
    }

    /// Has events that are given up handed to `bury`, which may keep them or send them on, and must not block. It is called
    /// before the stage can end. As they are not lost, the graph ends in success; they still count as
    /// [failed](crate::StageOutcome::failed).
    ///
    /// What a task was doing when the stage was stopped, failed or was killed is not handed over.
    #[must_use]
    pub fn dead_letters<T>(self, bury: impl Fn(DeadEvent<T>) + Send + Sync + 'static) -> TaskOptions<DeadLetters<T>> {
        let Self { shutdown, restart, .. } = self;
        let restart = DeadLetters { transient: restart, bury: Arc::new(bury) };
        TaskOptions { shutdown, tolerates: true, restart }
    }

    /// Sets how long a task waits before it is restarted. Default: not at all.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.restart.backoff = backoff;
        self
    }
}

impl<R> TaskOptions<R> {
    /// Sets how long a task that is told to end is given. Default 5 s.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Lets the graph end in success although tasks have failed: that their events were not handled is then yours to
    /// know, from [`StageOutcome::failed`](crate::StageOutcome::failed).
    #[must_use]
    pub fn tolerate_failures(mut self) -> Self {
        self.tolerates = true;
        self
    }
}

/// [`Temporary`] for all events, [`Transient`] for those that can be cloned.
#[diagnostic::on_unimplemented(
    message = "tasks for events of type `{T}` cannot be restarted as `{Self}` says",
    note = "`Transient` tasks need `{T}: Clone`: the event is kept for the restart"
)]
pub trait TaskRestart<T>: Clone + Send + Sync + 'static + sealed::Sealed {
    /// Which ends are followed by a restart.
    #[doc(hidden)]
    const RESTART: Restart;

    #[doc(hidden)]
    fn bounds(&self) -> (Option<Intensity>, Option<NonZeroU32>, Backoff);

    /// The event is given up.
    #[doc(hidden)]
    fn bury(&self, event: T, failure: &Failure, attempts: u32) {
        let _ = (failure, attempts);
        drop(event);
    }

    /// The event once more, for a restart.
    #[doc(hidden)]
    fn keep(event: &T) -> Option<T>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Temporary {}
    impl Sealed for super::Transient {}
    impl<T> Sealed for super::DeadLetters<T> {}
}

impl<T> TaskRestart<T> for Temporary {
    const RESTART: Restart = Restart::Temporary;

    fn bounds(&self) -> (Option<Intensity>, Option<NonZeroU32>, Backoff) {
        (Some(Intensity::default()), None, Backoff::NONE)
    }

    fn keep(_: &T) -> Option<T> {
        None
    }
}

impl<T: Clone> TaskRestart<T> for Transient {
    const RESTART: Restart = Restart::Transient;

    fn bounds(&self) -> (Option<Intensity>, Option<NonZeroU32>, Backoff) {
        let Self { intensity, max_attempts, backoff } = *self;
        let otherwise = || max_attempts.is_none().then(Intensity::default);
        (intensity.or_else(otherwise), max_attempts, backoff)
    }

    fn keep(event: &T) -> Option<T> {
        Some(event.clone())
    }
}

impl<T: Clone + 'static> TaskRestart<T> for DeadLetters<T> {
    const RESTART: Restart = Restart::Transient;

    fn bounds(&self) -> (Option<Intensity>, Option<NonZeroU32>, Backoff) {
        TaskRestart::<T>::bounds(&self.transient)
    }

    fn bury(&self, event: T, failure: &Failure, attempts: u32) {
        (self.bury)(DeadEvent { event, failure: failure.clone(), attempts });
    }

    fn keep(event: &T) -> Option<T> {
        Some(event.clone())
    }
}

impl<T> Clone for DeadLetters<T> {
    fn clone(&self) -> Self {
        Self { transient: self.transient, bury: Arc::clone(&self.bury) }
    }
}

impl<T> fmt::Debug for DeadLetters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeadLetters").field(&self.transient).finish()
    }
}
