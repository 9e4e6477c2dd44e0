//! What one end of an edge says of it: its [`SubscriptionId`], its [`SubscribeOptions`], and how it ends.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Window, WindowError};

/// Names one edge between a producer and a consumer, uniquely in this process.
///
/// It never leaves the process: between nodes a link has a name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    /// An id that no other edge of this process has. Later ids compare larger.
    #[expect(clippy::new_without_default, reason = "a fresh id each time is not a default value")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a consumer does when one of its subscriptions ends. The names are GenStage's.
///
/// | | the producer is exhausted | cancelled, gracefully | failed or lost |
/// |---|---|---|---|
/// | `Permanent` | ends with its last producer | ends | fails |
/// | `Transient` | lives on | lives on | fails |
/// | `Temporary` | lives on | lives on | lives on |
///
/// GenStage ends a permanent consumer with its *first* exhausted producer, and whatever the others would still have
/// sent is lost. Here the end of the data is not a reason to lose data: the consumer ends when the last one is
/// exhausted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cancel {
    /// The consumer shares its producers' fate. The default.
    #[default]
    Permanent,
    /// The consumer survives a graceful end and fails with a failure.
    Transient,
    /// The consumer survives whatever happens to the producer.
    Temporary,
}

/// How a consumer subscribes: its demand window and its [`Cancel`] policy.
///
/// Defaults: the window that suits the producer ([`Window::NEAR`] in this process, on another node [`far`](Self::far)), and
/// [`Cancel::Permanent`].
///
/// ```
/// use aqueduct_dispatcher::{Cancel, SubscribeOptions};
///
/// let options = SubscribeOptions::demand(50..100).cancel(Cancel::Transient);
/// let shorter: SubscribeOptions = (50..100).into();
/// # let _ = (options, shorter);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    window: Option<Window>,
    growing_to: Option<usize>,
    cancel: Cancel,
}

impl SubscribeOptions {
    /// What suits a producer on another node: [`Window::FAR`], [growing](Self::growing_to) to 100,000 events. With small events
    /// that are handled fast, two processes would spend most of their time waking each other otherwise.
    pub fn far() -> Self {
        Self { window: Some(Window::FAR), ..Self::default() }.growing_to(10 * Window::FAR.max().as_len())
    }

    /// Options with a demand window of `min..max` events.
    ///
    /// # Panics
    ///
    /// If the range is not a [`Window`]. For numbers that are not written in the program use
    /// [`try_demand`](Self::try_demand).
    #[track_caller]
    pub fn demand(range: Range<usize>) -> Self {
        match Self::try_demand(range) {
            Ok(options) => options,
            Err(error) => panic!("{error}"),
        }
    }

    /// Options with a demand window of `min..max` events, for numbers that come from outside.
    ///
    /// # Errors
    ///
    /// [`WindowError`] names the range.
    pub fn try_demand(range: Range<usize>) -> Result<Self, WindowError> {
        Ok(Self { window: Some(Window::try_from(range)?), ..Self::default() })
    }

    /// Lets the demand window grow by itself, from what it is at first up to `most` events: while the consumer is kept waiting
    /// for events, and as long as what is in the window takes it no longer than 20 ms, or up to 200 ms where the way to the
    /// producer is as long. Where events are handled slowly the window stays as it is, and one that has grown shrinks again.
    /// Default: it stays as it is.
    #[must_use]
    pub fn growing_to(mut self, most: usize) -> Self {
        self.growing_to = Some(most);
        self
    }

    /// Sets what happens to the consumer when this subscription ends.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// These, with the window of `defaults`, and how far that grows, where no window was chosen.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        let growing_to = self.growing_to.or(defaults.growing_to);
        if self.window.is_some() { self } else { Self { window: defaults.window, growing_to, ..self } }
    }

    /// The window that was chosen, or `otherwise`.
    pub fn window_or(&self, otherwise: Window) -> Window {
        self.window.unwrap_or(otherwise)
    }

    /// How far the window may grow, if it does.
    pub fn grows_to(&self) -> Option<usize> {
        self.growing_to
    }

    /// The policy for the end of the subscription.
    pub fn cancel_policy(&self) -> Cancel {
        self.cancel
    }
}

impl From<Range<usize>> for SubscribeOptions {
    #[track_caller]
    fn from(range: Range<usize>) -> Self {
        Self::demand(range)
    }
}

impl From<Window> for SubscribeOptions {
    fn from(window: Window) -> Self {
        Self { window: Some(window), ..Self::default() }
    }
}
