//! [`DeadLetters`]: what nobody could do, for somebody to look at.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio_stream::Stream;

use crate::pulling::DeadLetter;

/// The dead letters of a [`WorkPool`](super::WorkPool), oldest first, as a stream that ends with the pool.
///
/// Each goes to one of those who read. Nobody has to: letters wait in the pool, but when
/// [as many](super::MAX_DEAD_LETTERS) as may are waiting, the pool takes no further tasks.
pub struct DeadLetters<T> {
    letters: Arc<Letters<T>>,
}

/// The letters, between the pool and who reads them.
pub(super) struct Letters<T> {
    state: Mutex<State<T>>,
    /// Told when one was taken.
    pub(super) taken: Notify,
}

struct State<T> {
    waiting: VecDeque<DeadLetter<T>>,
    readers: Vec<Waker>,
    is_over: bool,
}

impl<T> DeadLetters<T> {
    pub(super) fn new(letters: Arc<Letters<T>>) -> Self {
        Self { letters }
    }
}

impl<T> Stream for DeadLetters<T> {
    type Item = DeadLetter<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DeadLetter<T>>> {
        let mut state = self.letters.lock();
        if let Some(letter) = state.waiting.pop_front() {
            drop(state);
            self.letters.taken.notify_one();
            return Poll::Ready(Some(letter));
        }
        if state.is_over {
            return Poll::Ready(None);
        }
        if !state.readers.iter().any(|reader| reader.will_wake(cx.waker())) {
            state.readers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for DeadLetters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("waiting", &self.letters.waiting()).finish()
    }
}

impl<T> Letters<T> {
    pub(super) fn new() -> Self {
        let state = State { waiting: VecDeque::new(), readers: Vec::new(), is_over: false };
        Self { state: Mutex::new(state), taken: Notify::new() }
    }

    pub(super) fn push(&self, letter: DeadLetter<T>) {
        self.update(|state| state.waiting.push_back(letter));
    }

    /// No more will come.
    pub(super) fn end(&self) {
        self.update(|state| state.is_over = true);
    }

    /// How many nobody has taken.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn update(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.lock();
        change(&mut state);
        let readers = std::mem::take(&mut state.readers);
        drop(state);
        readers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Letters<T> {
    fn drop(&mut self) {
        let letters = self.waiting();
        if letters > 0 {
            tracing::warn!(letters, "dead letters dropped that nobody has read");
        }
    }
}
