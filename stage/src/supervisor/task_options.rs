//! [`TaskOptions`]: how the tasks of a graph are treated.

use super::child::Shutdown;
use crate::{Backoff, Intensity, Restart};

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
    intensity: Intensity,
    backoff: Backoff,
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
    /// Beyond 3 restarts within 5 s, over all tasks together, the stage ends its other tasks and fails.
    pub fn transient() -> Self {
        Self::default()
    }

    /// Sets how many restarts are borne.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.restart.intensity = intensity;
        self
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
pub trait TaskRestart<T>: Clone + Send + 'static + sealed::Sealed {
    /// Which ends are followed by a restart.
    #[doc(hidden)]
    const RESTART: Restart;

    #[doc(hidden)]
    fn bounds(&self) -> (Intensity, Backoff);

    /// The event once more, for a restart.
    #[doc(hidden)]
    fn keep(event: &T) -> Option<T>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Temporary {}
    impl Sealed for super::Transient {}
}

impl<T> TaskRestart<T> for Temporary {
    const RESTART: Restart = Restart::Temporary;

    fn bounds(&self) -> (Intensity, Backoff) {
        Default::default()
    }

    fn keep(_: &T) -> Option<T> {
        None
    }
}

impl<T: Clone> TaskRestart<T> for Transient {
    const RESTART: Restart = Restart::Transient;

    fn bounds(&self) -> (Intensity, Backoff) {
        (self.intensity, self.backoff)
    }

    fn keep(event: &T) -> Option<T> {
        Some(event.clone())
    }
}
