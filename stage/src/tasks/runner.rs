//! [`Runner`]: a task that runs children, one at a time, and does to each what its supervisor says.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Sleep, sleep, sleep_until};

use super::child::ChildId;
use super::children::Ended;
use super::pool::{Pool, Turn, Work};
use super::stopping::{Order, Seat, seated};
use crate::Failure;
use crate::callbacks::guarded_now;

#[pin_project(PinnedDrop)]
pub(crate) struct Runner<W: Work> {
    pool: Arc<Pool<W>>,
    index: u32,
    /// There but while the child is polled, when the thread has it.
    seat: Option<Arc<Seat>>,
    /// What wakes it, as the seat knows it.
    woken_by: Option<Waker>,
    child: Option<Child<W::Item>>,
    #[pin]
    task: Option<W::Task>,
    /// Until the child is dropped, or started again.
    timer: Option<Pin<Box<Sleep>>>,
    over: bool,
}

struct Child<T> {
    id: ChildId,
    /// What it can be made from once more.
    again: Option<T>,
    /// It has ended, and is to be started again.
    restarting: bool,
    /// Why it has ended.
    failure: Option<Failure>,
}

enum Step {
    /// There is more to do.
    Go,
    Wait,
    End,
}

impl<W: Work> Runner<W> {
    pub(crate) fn new(pool: Arc<Pool<W>>, index: u32, seat: Arc<Seat>) -> Self {
        let seat = Some(seat);
        Self { pool, index, seat, woken_by: None, child: None, task: None, timer: None, over: false }
    }

    fn step(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step {
        let this = self.as_mut().project();
        let Some(child) = this.child else {
            let turn = this.pool.come(*this.index);
            return self.turn(turn);
        };
        let order = this.seat.as_ref().and_then(|seat| seat.ordered());
        let ended = if this.task.is_some() {
            match self.as_mut().poll_child(order, cx) {
                Poll::Ready(ended) => self.as_mut().drop_child(ended),
                Poll::Pending => return Step::Wait,
            }
        } else {
            // It waits to be started again.
            if order.is_none() {
                if let Some(timer) = this.timer
                    && timer.as_mut().poll(cx).is_pending()
                {
                    return Step::Wait;
                }
                return self.begin();
            }
            *this.timer = None;
            child.failure.take().map_or(Ended::Killed, Ended::Failed)
        };
        self.on_ended(ended)
    }

    /// The child has ended by itself, or its time is over.
    fn poll_child(self: Pin<&mut Self>, order: Option<Order>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.project();
        if order == Some(Order::Kill) {
            return Poll::Ready(Ended::Killed);
        }
        let Some(task) = this.task.as_pin_mut() else { return Poll::Ready(Ended::Killed) };
        let name = &this.pool.name;
        match seated(this.seat, || guarded_now(name, || task.poll(cx))) {
            Ok(Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Done),
            Ok(Poll::Ready(Err(error))) => return Poll::Ready(Ended::Failed(Failure::from_callback(name, &error))),
            Err(panic) => return Poll::Ready(Ended::Failed(panic)),
            Ok(Poll::Pending) => {}
        }
        let Some(Order::EndBy(at)) = order else { return Poll::Pending };
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).map(|()| Ended::Killed)
    }

    fn drop_child(self: Pin<&mut Self>, ended: Ended) -> Ended {
        let mut this = self.project();
        *this.timer = None;
        // Outside of unwinding, so that a panic in it is contained. It is empty afterwards all the same.
        match guarded_now(&this.pool.name, || this.task.set(None)) {
            Err(panic) if matches!(ended, Ended::Done) => Ended::Failed(panic),
            _ => ended,
        }
    }

    fn on_ended(mut self: Pin<&mut Self>, ended: Ended) -> Step {
        let this = self.as_mut().project();
        let Some(child) = this.child else { return Step::Go };
        let failure = match &ended {
            Ended::Failed(failure) | Ended::NotStarted(failure) => Some(failure.clone()),
            Ended::Done | Ended::Killed => None,
        };
        if let Some(failure) = &failure {
            tracing::warn!(supervisor = &*this.pool.name, child = %child.id, %failure, "child failed");
            // Before anybody can think that all is done.
            if child.again.is_some()
                && let Some(attempts) = this.pool.dies(child.id, &ended)
                && let Some(item) = child.again.take()
            {
                this.pool.bury(item, failure, attempts);
            }
        }
        match this.pool.ended(*this.index, child.id, ended) {
            Turn::Restart(delay) => {
                (child.restarting, child.failure) = (true, failure);
                *this.timer = (!delay.is_zero()).then(|| Box::pin(sleep(delay)));
                Step::Go
            }
            turn => {
                if let Some(again) = this.child.take().and_then(|child| child.again) {
                    this.pool.discard(again);
                }
                self.turn(turn)
            }
        }
    }

    fn turn(mut self: Pin<&mut Self>, turn: Turn<W::Item>) -> Step {
        let this = self.as_mut().project();
        match turn {
            Turn::Run(id, item) => {
                *this.child = Some(Child { id, again: Some(item), restarting: false, failure: None });
                self.begin()
            }
            Turn::Park => Step::Wait,
            Turn::Restart(_) => Step::Go,
            Turn::Over => {
                *this.over = true;
                Step::End
            }
        }
    }

    /// Starts the child, for the first time or again.
    fn begin(mut self: Pin<&mut Self>) -> Step {
        let mut this = self.as_mut().project();
        *this.timer = None;
        let Some(child) = this.child else { return Step::Go };
        let Some(item) = child.again.take() else { return self.on_ended(Ended::Killed) };
        let (work, name) = (&this.pool.work, &this.pool.name);
        match guarded_now(name, || work.keep(&item)) {
            Ok(kept) => child.again = kept,
            Err(panic) => {
                child.again = Some(item);
                return self.on_ended(Ended::NotStarted(panic));
            }
        }
        match seated(this.seat, || guarded_now(name, || work.start(item))) {
            Ok(task) => {
                this.task.set(Some(task));
                child.failure = None;
                if std::mem::take(&mut child.restarting) {
                    this.pool.restarted(child.id);
                }
                Step::Go
            }
            Err(panic) => self.on_ended(Ended::NotStarted(panic)),
        }
    }
}

impl<W: Work> Future for Runner<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_mut().project();
        if !this.woken_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *this.woken_by = Some(cx.waker().clone());
            // Before it is looked whether there is an order, so that one is either seen or wakes.
            this.seat.as_ref().inspect(|seat| seat.set_waker(cx.waker()));
        }
        for _ in 0..BURST {
            match self.as_mut().step(cx) {
                Step::Go => {}
                Step::Wait => return Poll::Pending,
                Step::End => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[pinned_drop]
impl<W: Work> PinnedDrop for Runner<W> {
    fn drop(mut self: Pin<&mut Self>) {
        if self.over {
            return;
        }
        let _ = self.as_mut().drop_child(Ended::Killed);
        let this = self.project();
        let child = this.child.take();
        let id = child.as_ref().map(|child| child.id);
        if let Some(again) = child.and_then(|child| child.again) {
            this.pool.discard(again);
        }
        this.pool.abandoned(id);
    }
}

/// So many steps are made before other tasks have their turn: a child that is done at once takes two.
const BURST: usize = 128;
