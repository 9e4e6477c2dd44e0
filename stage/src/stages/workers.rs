//! [`Workers`]: the workers of a stage, seen from the stage.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::runtime::Handle as Runtime;

use super::bell::{Bell, Chime, Ring};
use super::intake::Intake;
use super::work::{Done, Fault, Job, Order, Origin, Turn, Work};
use super::worker::Worker;
use crate::handle::Message;
use crate::{Batch, BoxError, BoxFuture, Cx, Edge, Mode, Peer, Result, StageRef, SubscriptionId};

/// Has jobs done by tasks of their own, one for each of the runtime's threads, and asks for more events as results
/// leave. It ends its workers, and drops what they have begun, when it is dropped.
pub(super) struct Workers<J, R> {
    intake: Intake,
    /// There once the stage runs.
    shared: Option<Arc<SharedWork<J, R>>>,
    order: Order,
    /// How many jobs may be under way.
    places: usize,
    /// What is raised when everything before it has left.
    fault: Option<Fault>,
    /// Empty between calls; kept for its memory.
    done: Vec<Done<R>>,
}

/// Where the stage and its workers meet.
pub(super) struct SharedWork<J, R> {
    work: Mutex<Work<J, R>>,
    bell: Box<dyn Chime>,
}

impl<J: Send + 'static, R: Send + 'static> Workers<J, R> {
    pub(super) fn new(order: Order, places: usize) -> Self {
        Self { intake: Intake::default(), shared: None, order, places, fault: None, done: Vec::new() }
    }

    /// Starts the workers if they have not been.
    pub(super) fn start<S, O, F, Fut>(&mut self, name: &str, stage: &StageRef<S, O>, work: &Arc<F>)
    where
        S: 'static,
        O: Send + 'static,
        Ring: Message<S, O>,
        F: Fn(J) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
    {
        if self.shared.is_some() {
            return;
        }
        let workers = Runtime::current().metrics().num_workers().clamp(1, self.places);
        let (jobs, bell) = (Mutex::new(Work::new(self.order, workers)), Box::new(Bell::new(stage.clone())));
        let shared = self.shared.insert(Arc::new(SharedWork { work: jobs, bell }));
        for worker in 0..workers {
            let places = self.places / workers + usize::from(worker < self.places % workers);
            stage.spawn(name, Worker::new(Arc::clone(shared), worker, Arc::clone(work), places));
        }
    }

    /// A subscription was made: this stage asks by itself.
    pub(super) fn opened<O>(&mut self, edge: &Edge, cx: &mut Cx<'_, O>) -> Mode {
        if edge.peer == Peer::Producer {
            self.intake.opened(edge);
            self.ask(cx);
        }
        Mode::Manual
    }

    pub(super) fn ended(&mut self, id: SubscriptionId) {
        self.intake.ended(id);
    }

    /// Hands in a job for each event.
    pub(super) fn hand_in_each(&self, events: Batch<J>) {
        let from = events.from();
        self.hand_in(events.into_iter().map(|event| (Origin { from, events: 1 }, event)));
    }

    /// Hands in jobs.
    pub(super) fn hand_in(&self, jobs: impl IntoIterator<Item = (Origin, J)>) {
        if let Some(shared) = &self.shared {
            let called = shared.lock().add(jobs);
            called.into_iter().for_each(Waker::wake);
        }
    }

    /// The stage is done with events for which there is no job.
    pub(super) fn skip<O>(&mut self, origin: Origin, cx: &mut Cx<'_, O>) {
        tell(&mut self.intake, Some(origin));
        self.ask(cx);
    }

    /// Emits what is done, and asks for more.
    pub(super) fn serve<O>(&mut self, cx: &mut Cx<'_, O>, emit: impl FnMut(&mut Cx<'_, O>, R)) -> Result {
        if let Some(fault) = self.fault.take() {
            return Err(raise(fault));
        }
        match self.emit_done(cx, emit) {
            (_, None) => self.ask(cx),
            (0, Some(fault)) => return Err(raise(fault)),
            // What a failing callback has emitted is dropped, so that it is the next one that fails.
            (_, Some(fault)) => {
                self.fault = Some(fault);
                self.shared.iter().for_each(|shared| shared.ring());
            }
        }
        Ok(())
    }

    /// Waits until everything is done, and emits it all, as there is one callback only for the end.
    pub(super) async fn finish<O>(
        &mut self,
        cx: &mut Cx<'_, O>,
        mut emit: impl FnMut(&mut Cx<'_, O>, R) + Send,
    ) -> Result {
        loop {
            if let Some(fault) = self.fault.take() {
                return Err(raise(fault));
            }
            if let (_, Some(fault)) = self.emit_done(cx, &mut emit) {
                return Err(raise(fault));
            }
            let Some(shared) = &self.shared else { return Ok(()) };
            if shared.lock().left() == 0 {
                return Ok(());
            }
            shared.results().await;
        }
    }

    /// Emits what is done, until something is wrong with it. Returns how many results there were.
    fn emit_done<O>(&mut self, cx: &mut Cx<'_, O>, mut emit: impl FnMut(&mut Cx<'_, O>, R)) -> (usize, Option<Fault>) {
        let Some(shared) = &self.shared else { return (0, None) };
        shared.bell.answered();
        shared.lock().take(&mut self.done);
        let (mut emitted, mut fault) = (0, None);
        // Told together, as most come from where the one before came from.
        let mut gone: Option<Origin> = None;
        for Done { origin, result, .. } in self.done.drain(..) {
            match &mut gone {
                Some(gone) if gone.from == origin.from => gone.events += origin.events,
                _ => tell(&mut self.intake, gone.replace(origin)),
            }
            match result {
                Ok(result) => emit(cx, result),
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
            emitted += 1;
        }
        tell(&mut self.intake, gone);
        (emitted, fault)
    }

    fn ask<O>(&mut self, cx: &mut Cx<'_, O>) {
        self.intake.asks(|wanted| wanted, |id, events| cx.ask(id, events));
    }
}

impl<J, R> Drop for Workers<J, R> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            // What is left is dropped outside the lock.
            let (workers, _left) = shared.lock().close();
            workers.into_iter().for_each(Waker::wake);
        }
    }
}

/// The stage is done with events.
fn tell(intake: &mut Intake, gone: Option<Origin>) {
    if let Some(Origin { from, events }) = gone {
        intake.done(from, events);
    }
}

/// The error, or the panic, of a job as that of the stage.
pub(super) fn raise(fault: Fault) -> BoxError {
    match fault {
        Fault::Error(error) => error,
        Fault::Panic(panic) => resume_unwind(panic),
    }
}

/// Has a panic of the future answered, like an error. It is not polled again after one.
pub(super) async fn caught<T>(mut future: BoxFuture<'static, Result<T>>) -> Result<T, Fault> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map_err(Fault::Error),
        Err(panic) => Poll::Ready(Err(Fault::Panic(panic))),
    })
    .await
}

impl<J, R> SharedWork<J, R> {
    pub(super) fn exchange(
        &self,
        worker: usize,
        waker: &Waker,
        done: &mut Vec<Done<R>>,
        jobs: &mut VecDeque<Job<J>>,
        room: usize,
    ) -> Turn {
        self.lock().exchange(worker, waker, done, jobs, room)
    }

    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// Waits until there are results to take.
    async fn results(&self) {
        poll_fn(|cx| {
            let mut work = self.lock();
            if work.has_results() {
                return Poll::Ready(());
            }
            work.collect(cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Work<J, R>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
