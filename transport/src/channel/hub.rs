//! [`Hub`]: what all parts of a channel's server share; [`Sink`], where results go; and [`Workplace`], where workers come in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_stage::{BoxFuture, EndCause, Publisher, Source, SubscribeError, Subscription, SubscriptionId};
use tokio::sync::{Semaphore, mpsc, watch};

use super::codec::{Codec, Value};
use super::durable::Desk;
use super::feed::Feed;
use super::{ChannelError, ChannelWorkers};
use crate::publication::EventSize;
use crate::publication::{IncomingLink, Publication, Published};
use crate::pulling::{DeadLetter, Results, TaskId, WorkPool};
use crate::{PublishOptions, Wire};

pub(super) struct Hub {
    pub(super) name: Arc<str>,
    pub(super) codec: Codec,
    pub(super) feed: Feed,
    /// One for each value that may be sent before another result is received.
    pub(super) permits: Semaphore,
    pub(super) capacity: usize,
    pub(super) workers: watch::Sender<ChannelWorkers>,
    /// Somebody looks at the dead letters.
    pub(super) are_letters_read: AtomicBool,
    /// How the channel ended.
    pub(super) end: watch::Sender<Option<Result<(), ChannelError>>>,
    /// What was taken from the queue, if the values come from one.
    pub(super) desk: Option<Desk>,
}

impl Hub {
    pub(super) fn new(name: &str, codec: Codec, capacity: usize) -> Self {
        Self {
            name: name.into(),
            codec,
            feed: Feed::default(),
            permits: Semaphore::new(capacity),
            capacity,
            workers: watch::Sender::default(),
            are_letters_read: AtomicBool::new(false),
            end: watch::Sender::new(None),
            desk: None,
        }
    }

    /// The result of a value was received, or its dead letter read: it need not be kept any more.
    pub(super) fn settle(&self, task: TaskId) {
        match &self.desk {
            Some(desk) => desk.settle(task),
            None => self.permits.add_permits(1),
        }
    }
}

/// Results that came together; an error is the last.
pub(super) type Together<Answer> = Result<Vec<Answer>, ChannelError>;

/// Where the results of a channel go.
pub(super) struct Sink<Answer> {
    hub: Arc<Hub>,
    /// `None` if nobody receives, or after the end.
    results: Mutex<Option<mpsc::UnboundedSender<Together<Answer>>>>,
    /// What goes on with the next flush.
    taken: Mutex<Vec<Answer>>,
    is_one_way: bool,
    patience: Duration,
    dead: AtomicU64,
}

impl<Answer> Sink<Answer> {
    pub(super) fn new(
        hub: Arc<Hub>,
        results: Option<mpsc::UnboundedSender<Together<Answer>>>,
        patience: Duration,
    ) -> Self {
        let is_one_way = results.is_none();
        let (results, taken) = (Mutex::new(results), Mutex::default());
        Self { hub, results, taken, is_one_way, patience, dead: AtomicU64::new(0) }
    }

    /// How it ends.
    fn outcome(&self, cause: &EndCause, abandoned: u64) -> Result<(), ChannelError> {
        let (name, missing) = (self.hub.name.to_string(), self.dead.load(Ordering::Relaxed));
        if !cause.is_exhausted() {
            return Err(ChannelError::Ended { name, cause: cause.clone() });
        }
        if abandoned > 0 {
            return Err(ChannelError::NoWorkers { name, missing: abandoned, waited: self.patience });
        }
        if missing > 0 && !self.hub.are_letters_read.load(Ordering::Relaxed) {
            return Err(ChannelError::Dead { name, missing });
        }
        Ok(())
    }
}

impl<Answer: Wire> Results<Value> for Sink<Answer> {
    fn key(&self, value: &Value) -> Option<u64> {
        value.key
    }

    fn take(&self, _: TaskId, result: Option<&[u8]>, counts: &mut dyn FnMut() -> bool) -> Result<(), String> {
        if self.is_one_way {
            if counts() {
                self.hub.permits.add_permits(1);
            }
            return Ok(());
        }
        let result = result.ok_or("expected a result")?;
        let answer = self.hub.codec.decode::<Answer>(result).map_err(|error| error.to_string())?;
        if counts() {
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        }
        Ok(())
    }

    fn flush(&self, arrived: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.is_empty() {
            let room = Vec::with_capacity(taken.len());
            let answers = std::mem::replace(&mut *taken, room);
            if let Some(results) = &*self.results.lock().unwrap_or_else(PoisonError::into_inner) {
                // A receiver that was dropped has abandoned the channel.
                let _ = results.send(Ok(answers));
            }
        }
        drop(taken);
        self.hub.feed.arrived(arrived);
    }

    fn dead(&self, _: &DeadLetter<Value>) {
        self.dead.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, cause: &EndCause, abandoned: u64) {
        self.flush(0);
        let outcome = self.outcome(cause, abandoned);
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Err(error), Some(results)) = (&outcome, results) {
            let _ = results.send(Err(error.clone()));
        }
        self.hub.feed.abandon();
        self.hub.permits.close();
        self.hub.end.send_replace(Some(outcome));
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.patience)
    }
}

/// Where workers of other nodes come in.
pub(super) struct Workplace {
    hub: Arc<Hub>,
    pool: WorkPool<Value>,
    signature: Arc<str>,
    sizes: Arc<EventSize>,
}

impl Workplace {
    pub(super) fn new(hub: Arc<Hub>, pool: WorkPool<Value>, signature: &str) -> Self {
        Self { hub, pool, signature: signature.into(), sizes: Arc::default() }
    }
}

impl Publication for Workplace {
    fn serve(self: Arc<Self>, link: IncomingLink) -> BoxFuture<'static> {
        let (hub, pool) = (Arc::clone(&self.hub), self.pool.clone());
        let place = Place { hub, pool, node: link.peer.clone(), id: Mutex::default() };
        let PublishOptions { selectors, lag_limit, stall_limit, .. } = PublishOptions::new();
        let signature = Some(Arc::clone(&self.signature));
        let (sizes, _expected) = (Arc::clone(&self.sizes), None);
        let published = Published { source: place, selectors, lag_limit, stall_limit, sizes, signature, _expected };
        Arc::new(published).serve(link)
    }
}

/// The place of one worker. Dropping it takes the worker off the list.
struct Place {
    hub: Arc<Hub>,
    pool: WorkPool<Value>,
    /// Where the worker is.
    node: String,
    id: Mutex<Option<SubscriptionId>>,
}

impl Source for Place {
    type Item = Value;

    fn name(&self) -> String {
        self.pool.name()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Value>,
    ) -> Result<Arc<dyn Publisher<Value>>, SubscribeError> {
        let id = subscription.id;
        let opened = self.pool.open(instance, subscription).await;
        let publisher = opened.map_err(|error| match &self.hub.desk {
            // So that the worker waits for the next start.
            Some(desk) if desk.is_stopped() => {
                let reason = "the channel has stopped; what is in its queue is done when it is served again";
                SubscribeError::Refused { at: self.name(), reason: reason.to_owned() }
            }
            _ => error,
        })?;
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        self.hub.workers.send_modify(|workers| workers.enter(id, &self.node));
        Ok(publisher)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(id) = self.id.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.hub.workers.send_modify(|workers| workers.leave(*id));
        }
    }
}
