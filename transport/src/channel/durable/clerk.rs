//! [`Clerk`]: the task of a durable channel, and the only one that takes from its queue.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aqueduct_stage::{Attempt, EndCause, Exit, Failure, FailureKind, Sentence};
use tokio::time::{Instant, sleep_until};

use super::Mark;
use super::desk::Desk;
use crate::channel::ChannelError;
use crate::channel::hub::Hub;
use crate::{Queue, QueueEntry, StoreError};

pub(super) struct Clerk<Q> {
    pub(super) hub: Arc<Hub>,
    pub(super) queue: Arc<Q>,
    pub(super) mark: Mark,
    /// How long values may wait after the close without any worker.
    pub(super) patience: Duration,
    pub(super) max_attempts: NonZeroU32,
    /// Since when they do.
    pub(super) alone_since: Option<Instant>,
    /// Why nothing is taken any more.
    pub(super) unreadable: Option<Failure>,
    /// Why it ends, if that is its own decision.
    pub(super) failure: Option<ChannelError>,
}

/// What is to be done next.
enum Next {
    Take(usize),
    /// Look at how much is in the queue.
    Count,
    Wait,
    End,
}

impl<Q: Queue> Clerk<Q> {
    pub(super) async fn run(mut self) {
        // Whoever had something before has gone.
        self.insist("requeue", || self.queue.requeue_all()).await;
        let mut workers = self.hub.workers.subscribe();
        loop {
            self.settle().await;
            // Before looking into the queue, so that nothing is missed.
            let queue = Arc::clone(&self.queue);
            let arrival = queue.arrival();
            workers.mark_unchanged();
            let mut next = self.next();
            if let Next::Take(count) = next {
                match self.insist("take", || self.queue.take(count)).await {
                    Some(taken) if !taken.is_empty() => {
                        self.give(taken).await;
                        continue;
                    }
                    _ => {
                        self.note_failure();
                        next = self.when_nothing_is_taken();
                    }
                }
            }
            if let Next::Count = next {
                let len = self.insist("count", || self.queue.len()).await;
                self.note_failure();
                // A queue that has failed for good is not counted.
                if let Some(len) = len.or_else(|| self.unreadable.is_some().then_some(0)) {
                    self.come_to_an_end(len);
                }
            }
            if let Next::End = next {
                break;
            }
            let due = self.alone_since.and_then(|since| since.checked_add(self.patience));
            let desk = self.desk();
            tokio::select! {
                biased;
                () = desk.changed.notified() => {}
                () = self.hub.feed.asked.notified() => {}
                () = arrival => {}
                _ = workers.changed() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        self.end().await;
    }

    fn next(&mut self) -> Next {
        let has_workers = !self.hub.workers.borrow().is_empty();
        if has_workers {
            self.alone_since = None;
        }
        let ledger = self.desk().lock();
        if ledger.is_abandoned || ledger.pool_end.is_some() {
            return Next::End;
        }
        if ledger.is_shut_down {
            drop(ledger);
            // Nobody waits for workers any more.
            self.alone_since = None;
            return Next::Wait;
        }
        // Being taken is an attempt, so nothing is taken for nobody.
        let room = self.hub.capacity.saturating_sub(ledger.len()).min(self.hub.feed.wanted());
        if has_workers && self.unreadable.is_none() && room > 0 {
            return Next::Take(room);
        }
        drop(ledger);
        self.when_nothing_is_taken()
    }

    /// If the queue has failed for good, nothing more is taken.
    fn note_failure(&mut self) {
        if self.unreadable.is_none() {
            let failure = self.desk().lock().failure.clone();
            self.unreadable = failure;
        }
    }

    fn when_nothing_is_taken(&self) -> Next {
        let ledger = self.desk().lock();
        let is_closing = (ledger.is_closed && ledger.pushing == 0) || self.unreadable.is_some();
        if is_closing { Next::Count } else { Next::Wait }
    }

    /// After the close: tells the pool of the end when everything is done, or gives up if nobody does it.
    fn come_to_an_end(&mut self, in_queue: usize) {
        let (here, working, ended) = {
            let ledger = self.desk().lock();
            (ledger.len(), ledger.working(), ledger.len() - ledger.working())
        };
        let name = || self.hub.name.to_string();
        if let Some(failure) = &self.unreadable {
            if working == 0 {
                let cause = EndCause::Down(Exit::Failed(failure.clone()));
                self.failure = Some(ChannelError::Ended { name: name(), cause });
                self.hub.feed.abandon();
            }
        } else if in_queue <= here && working == 0 {
            self.hub.feed.close();
        } else if self.hub.workers.borrow().is_empty() {
            let since = *self.alone_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.patience {
                let missing = in_queue.saturating_sub(ended) as u64;
                self.failure = Some(ChannelError::NoWorkers { name: name(), missing, waited: self.patience });
                self.hub.feed.abandon();
            }
        }
    }

    /// Hands what was taken to the pool.
    async fn give(&mut self, taken: Vec<QueueEntry>) {
        let mut unread = Vec::new();
        for entry in taken {
            let value = if self.unreadable.is_none() { self.mark.read(entry.payload.clone()) } else { None };
            let Some(mut value) = value else {
                if self.unreadable.is_none() {
                    let message = format!("entry {} of the queue was not written by such a channel", entry.id);
                    tracing::error!(channel = &*self.hub.name, message, "the channel stops");
                    self.unreadable = Some(Failure::new(&*self.hub.name, FailureKind::Error, message));
                }
                unread.push(entry.id);
                continue;
            };
            if self.desk().lock().give(&entry) {
                // Earlier starts count, but never so much that a worker has no attempt in this one.
                let attempt = NonZeroU32::new(entry.attempt).unwrap_or(NonZeroU32::MIN).min(self.max_attempts);
                value.attempt = Attempt::new(attempt);
                // A feed that takes no more has ended, and what is open then waits again.
                let _ = self.hub.feed.push(value);
            }
        }
        if !unread.is_empty() {
            self.insist("requeue", || self.queue.requeue(&unread)).await;
        }
    }

    /// Tells the queue what was received.
    async fn settle(&self) {
        let settled = self.desk().lock().take_settled();
        if settled.is_empty() {
            return;
        }
        if self.insist("acknowledge", || self.queue.acknowledge(&settled)).await.is_none()
            && self.desk().lock().failure.is_some()
        {
            return;
        }
        self.desk().lock().left(&settled);
        self.desk().acknowledged.notify_waiters();
    }

    /// The pool has ended, or nobody receives: sees the last results off, and leaves the rest to the next start.
    async fn end(mut self) {
        let cause = loop {
            self.settle().await;
            let changed = self.desk().changed.notified();
            {
                let ledger = self.desk().lock();
                if ledger.is_abandoned {
                    break EndCause::Cancelled(Exit::Shutdown);
                }
                if let Some(failure) = &ledger.failure {
                    break EndCause::Down(Exit::Failed(failure.clone()));
                }
                let is_received = ledger.unreceived() == 0 && ledger.is_acknowledged();
                if let Some(cause) = ledger.pool_end.clone().filter(|_| is_received) {
                    break cause;
                }
            }
            changed.await;
        };
        let outcome = self.outcome(&cause);
        let is_done = matches!(outcome, Ok(()) | Err(ChannelError::Dead { .. }));
        self.desk().lock().is_stopped = !is_done;
        self.hub.feed.abandon();
        self.finish(outcome);
        // Letters can be read after the end.
        while {
            self.settle().await;
            let ledger = self.desk().lock();
            let are_wanted = ledger.letter_readers > 0 && !ledger.is_given_up;
            // The pool says what was begun.
            ledger.pool_end.is_none() || (ledger.dead() > 0 && are_wanted && ledger.failure.is_none())
        } {
            self.desk().changed.notified().await;
        }
        let (begun, untouched) = self.desk().lock().take_back();
        let values = begun.len() + untouched.len();
        if values > 0 {
            tracing::info!(channel = &*self.hub.name, values, "left in the queue");
        }
        if !begun.is_empty() {
            self.insist("requeue", || self.queue.requeue(&begun)).await;
        }
        if !untouched.is_empty() {
            self.insist("put back", || self.queue.put_back(&untouched)).await;
        }
    }

    fn outcome(&mut self, cause: &EndCause) -> Result<(), ChannelError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let name = self.hub.name.to_string();
        if !cause.is_exhausted() {
            return Err(ChannelError::Ended { name, cause: cause.clone() });
        }
        let missing = self.desk().lock().dead() as u64;
        if missing > 0 && !self.hub.are_letters_read.load(Ordering::Relaxed) {
            return Err(ChannelError::Dead { name, missing });
        }
        Ok(())
    }

    /// Uses the queue until it works; `None` if nobody needs the answer any more, or if it never will.
    async fn insist<R, Fut>(&self, what: &'static str, mut use_queue: impl FnMut() -> Fut) -> Option<R>
    where
        Fut: Future<Output = Result<R, StoreError>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match use_queue().await {
                Ok(done) => {
                    if self.desk().lock().trouble.take().is_some() {
                        tracing::info!(channel = &*self.hub.name, what, "the store works again");
                    }
                    return Some(done);
                }
                Err(error) if error.is_permanent() => {
                    let message = Sentence(&error).to_string();
                    tracing::error!(channel = &*self.hub.name, what, message, "the channel stops");
                    let mut ledger = self.desk().lock();
                    ledger.failure = Some(Failure::new(&*self.hub.name, FailureKind::Error, message));
                    ledger.trouble = Some(Arc::new(error));
                    return None;
                }
                Err(error) => error,
            };
            tracing::warn!(channel = &*self.hub.name, what, error = %Sentence(&error), again_in = ?pause, "the store fails");
            self.desk().lock().trouble = Some(Arc::new(error));
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if self.desk().lock().is_abandoned {
                    return None;
                }
                tokio::select! {
                    biased;
                    () = sleep_until(until) => {}
                    () = self.desk().changed.notified() => {}
                }
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

impl<Q> Clerk<Q> {
    fn desk(&self) -> &Desk {
        self.hub.desk.as_ref().expect("the hub of a durable channel has a desk")
    }

    /// Tells everybody how it ended, once.
    fn finish(&self, outcome: Result<(), ChannelError>) {
        self.hub.end.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(outcome);
            is_first
        });
        self.desk().acknowledged.notify_waiters();
    }
}

/// When the task ends. If it is dropped where it stands, that is not the end of the data.
impl<Q> Drop for Clerk<Q> {
    fn drop(&mut self) {
        self.hub.feed.abandon();
        let failure = Failure::new(&*self.hub.name, FailureKind::Killed, "the task of the channel was dropped");
        let cause = EndCause::Down(Exit::Failed(failure));
        self.finish(Err(ChannelError::Ended { name: self.hub.name.to_string(), cause }));
        self.desk().update(|ledger| ledger.is_over = true);
        self.desk().acknowledged.notify_waiters();
    }
}

/// After a failure of the store: soon, as it may have been a hiccup; and at last often enough that nobody waits for long
/// when there is space again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
