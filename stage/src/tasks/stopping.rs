//! [`Stopping`]: how a child hears that it is to end. [`Seat`]: how it is told.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Tells a child of a supervisor that it is to end, so that it can do so by itself within its
/// [shutdown time](crate::Shutdown).
///
/// It is asked for within the child, and may be sent to whatever works for it:
///
/// ```
/// use aqueduct_stage::{Stopping, TaskSupervisor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let supervisor = TaskSupervisor::new("connections");
/// supervisor.start_child(async {
///     let stopping = Stopping::current();
///     tokio::select! {
///         biased;
///         () = stopping.told() => { /* say goodbye */ }
///         () = std::future::pending() => { /* serve */ }
///     }
///     Ok(())
/// })?;
/// # tokio::task::yield_now().await;
/// assert_eq!(supervisor.shutdown().await.killed, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Stopping(Option<Arc<Sign>>);

impl Stopping {
    /// Of the child that is running now. Outside of a child nobody is ever told: a stage hears of its end in
    /// [`terminate`](crate::Consumer::terminate).
    pub fn current() -> Self {
        Self(CURRENT.with_borrow(|seat| seat.as_ref().map(|seat| seat.sign())))
    }

    /// Whether the child was told to end.
    pub fn is_told(&self) -> bool {
        self.0.as_ref().is_some_and(|sign| sign.told.load(Ordering::Acquire))
    }

    /// Completes when the child is told to end.
    ///
    /// # Cancel safety
    ///
    /// It can be awaited any number of times.
    pub async fn told(&self) {
        let Some(sign) = &self.0 else { return std::future::pending().await };
        let mut notified = std::pin::pin!(sign.notify.notified());
        // Before the look at the sign, so that a change is either seen or heard.
        notified.as_mut().enable();
        if !self.is_told() {
            notified.await;
        }
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").field("told", &self.is_told()).finish()
    }
}

#[derive(Default)]
struct Sign {
    told: AtomicBool,
    notify: Notify,
}

impl Sign {
    fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }
}

/// Where a runner sits with one child after the other, seen by its supervisor.
#[derive(Default)]
pub(crate) struct Seat {
    /// Whether there is anything in `state` that concerns the child of the moment: read at each poll.
    concerned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Wakes the runner; it stays the same as long as the runtime does not move it.
    waker: Option<Waker>,
    order: Option<Order>,
    /// Made when the child asks for it.
    sign: Option<Arc<Sign>>,
}

/// What a runner is told about its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Drop it.
    Kill,
    /// Drop it if it has not ended at this time.
    EndBy(Instant),
    /// Let it end when it likes.
    End,
}

/// An order that was given and not heard yet.
#[must_use = "the runner does not know of it"]
pub(crate) struct Told {
    sign: Option<Arc<Sign>>,
    waker: Option<Waker>,
}

impl Told {
    pub(crate) fn wake(self) {
        if let Some(sign) = self.sign {
            sign.tell();
        }
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

impl Seat {
    /// Gives an order. The answer tells the child of it and wakes its runner, once no lock is held.
    pub(crate) fn order(&self, order: Order) -> Told {
        let mut state = self.lock();
        // Orders only get stricter.
        state.order = Some(match (state.order, order) {
            (Some(Order::Kill), _) | (_, Order::Kill) => Order::Kill,
            (Some(Order::EndBy(earlier)), Order::EndBy(later)) => Order::EndBy(earlier.min(later)),
            (Some(Order::EndBy(at)), Order::End) => Order::EndBy(at),
            (_, order) => order,
        });
        self.concerned.store(true, Ordering::Release);
        Told { sign: state.sign.clone().filter(|_| order != Order::Kill), waker: state.waker.clone() }
    }

    /// What the runner was told about its child.
    pub(crate) fn ordered(&self) -> Option<Order> {
        if self.concerned.load(Ordering::Acquire) { self.lock().order } else { None }
    }

    /// The child is gone: what it was told does not concern the next one.
    pub(crate) fn vacate(&self) {
        if self.concerned.load(Ordering::Acquire) {
            let mut state = self.lock();
            (state.order, state.sign) = (None, None);
            self.concerned.store(false, Ordering::Release);
        }
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        let former = self.lock().waker.replace(waker.clone());
        drop(former);
    }

    /// Wakes the runner, for another child.
    pub(crate) fn waker(&self) -> Option<Waker> {
        self.lock().waker.clone()
    }

    fn sign(&self) -> Arc<Sign> {
        let mut state = self.lock();
        self.concerned.store(true, Ordering::Release);
        let told = matches!(state.order, Some(Order::EndBy(_) | Order::End));
        let sign = state.sign.get_or_insert_default();
        if told {
            sign.tell();
        }
        Arc::clone(sign)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something on behalf of the child in this seat, which finds it by [`Stopping::current`].
pub(crate) fn seated<T>(seat: &mut Option<Arc<Seat>>, work: impl FnOnce() -> T) -> T {
    // Handed over and taken back rather than cloned: this is done at each poll.
    let outer = CURRENT.replace(seat.take());
    let done = work();
    *seat = CURRENT.replace(outer);
    done
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Seat>>> = const { RefCell::new(None) };
}
