//! [`AnyPool`]: the children of a stage of [`Graph::tasks`](crate::Graph::tasks), whatever function they are made by.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use aqueduct_dispatcher::{SubscriptionId, Window};
use tokio::sync::oneshot;

use super::child::{ChildCounts, ChildId, ChildInfo, ChildNotFound, StartChildError};
use super::children::Spec;
use super::for_events::TasksRef;
use super::options::TaskRestart;
use super::pool::{Pool, Work};
use crate::members::Companion;
use crate::{BoxFuture, Exit, Failure, FailureKind, Result};

/// A child is the user's function, called with an event.
pub(super) struct EventWork<T, R, F> {
    pub(super) task: Arc<F>,
    pub(super) restart: R,
    pub(super) types: PhantomData<fn(T)>,
}

impl<T, R, F, Fut> Work for EventWork<T, R, F>
where
    T: Send + 'static,
    R: TaskRestart<T>,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    type Item = T;
    type Task = Fut;

    fn keep(&self, event: &T) -> Option<T> {
        R::keep(event)
    }

    fn start(&self, event: T) -> Fut {
        (self.task)(event)
    }

    fn bury(&self, event: T, failure: &Failure, attempts: u32) {
        self.restart.bury(event, failure, attempts);
    }
}

/// A pool of whatever functions, as the stage sees it: called once for each batch.
pub(super) trait AnyPool<T>: Send + Sync {
    fn set_owner(&self, instance: usize, call: Box<dyn Fn() + Send + Sync>);
    fn subscribe(&self, id: SubscriptionId, window: Window);
    fn unsubscribe(&self, id: SubscriptionId);
    fn start_all(&self, events: Vec<T>, from: SubscriptionId);
    fn start(&self, event: T) -> Result<ChildId, StartChildError>;
    fn terminate(&self, id: ChildId) -> Result<oneshot::Receiver<Exit>, ChildNotFound>;
    fn returned(&self) -> Vec<(SubscriptionId, usize)>;
    fn gave_up(&self) -> Option<Failure>;
    fn which(&self) -> Vec<ChildInfo>;
    fn counts(&self) -> ChildCounts;
    fn until_empty(&self) -> BoxFuture<'_>;
    fn shutdown(&self) -> BoxFuture<'_>;
    fn kill(&self);
}

pub(super) struct EventPool<W: Work> {
    pub(super) pool: Arc<Pool<W>>,
    pub(super) spec: Spec,
    pub(super) tolerates: bool,
    /// Which of the stage's instances it works for.
    pub(super) instance: OnceLock<usize>,
}

impl<W: Work> AnyPool<W::Item> for EventPool<W> {
    fn set_owner(&self, instance: usize, call: Box<dyn Fn() + Send + Sync>) {
        // There is one stage, which says so once.
        let _ = self.instance.set(instance);
        self.pool.set_owner(call);
    }

    fn subscribe(&self, id: SubscriptionId, window: Window) {
        self.pool.subscribe(id, window);
    }

    fn unsubscribe(&self, id: SubscriptionId) {
        self.pool.unsubscribe(id);
    }

    fn start_all(&self, events: Vec<W::Item>, from: SubscriptionId) {
        self.pool.start_all(events, self.spec, from);
    }

    fn start(&self, event: W::Item) -> Result<ChildId, StartChildError> {
        self.pool.start(event, self.spec, None)
    }

    fn terminate(&self, id: ChildId) -> Result<oneshot::Receiver<Exit>, ChildNotFound> {
        self.pool.terminate(id)
    }

    fn returned(&self) -> Vec<(SubscriptionId, usize)> {
        self.pool.returned()
    }

    fn gave_up(&self) -> Option<Failure> {
        self.pool.gave_up()
    }

    fn which(&self) -> Vec<ChildInfo> {
        self.pool.which()
    }

    fn counts(&self) -> ChildCounts {
        self.pool.counts()
    }

    fn until_empty(&self) -> BoxFuture<'_> {
        Box::pin(self.pool.until_empty())
    }

    fn shutdown(&self) -> BoxFuture<'_> {
        Box::pin(self.pool.shutdown())
    }

    fn kill(&self) {
        self.pool.kill();
    }
}

impl<W: Work> Companion for EventPool<W> {
    fn stop(&self) {
        self.pool.close();
    }

    fn loss(&self) -> Option<Failure> {
        if self.pool.has_given_up() {
            // As a rule the stage has told of it.
            return self.pool.gave_up();
        }
        let first = self.pool.first_failure().filter(|_| !self.tolerates)?;
        let ChildCounts { failed, started, .. } = self.pool.counts();
        let why = format!("{failed} of {started} failed; the first: {}", first.message());
        Some(Failure::at(&self.pool.name, FailureKind::Tasks, why))
    }

    fn reference(self: Arc<Self>, stage: &str, instance: usize) -> Option<Box<dyn Any>> {
        let is_its = *self.pool.name == *stage && self.instance.get() == Some(&instance);
        is_its.then(|| Box::new(TasksRef::<W::Item> { pool: self }) as _)
    }
}
