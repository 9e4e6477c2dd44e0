//! [`Worker`]: a task that drives some of the futures of a stage.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::work::{Done, Fault, Job, Receipt, Turn};
use super::workers::SharedWork;
use crate::Result;

/// Takes jobs from those of its stage, several at a time where they are small, and drives up to `places` of them at once.
///
/// The first poll of each happens here and now: what is ready at once costs neither a task nor an allocation.
pub(super) struct Worker<J, R, F, Fut> {
    shared: Arc<SharedWork<J, R>>,
    /// Which of the stage's workers it is.
    number: usize,
    work: Arc<F>,
    places: Vec<Place<Fut>>,
    /// Places that hold no future.
    free: Vec<usize>,
    most_places: usize,
    woken: Arc<Woken>,
    pace: Pace,
    /// Empty between polls; kept for their memory.
    scratch: Vec<usize>,
    done: Vec<Done<R>>,
    jobs: VecDeque<Job<J>>,
}

/// Where a future is driven. Its memory and its waker serve one future after the other.
struct Place<Fut> {
    future: Pin<Box<Option<Fut>>>,
    /// There while there is a future.
    receipt: Option<Receipt>,
    bell: Arc<PlaceWaker>,
    /// The same.
    waker: Waker,
}

impl<J, R, F, Fut> Worker<J, R, F, Fut>
where
    F: Fn(J) -> Fut,
    Fut: Future<Output = Result<R>>,
{
    pub(super) fn new(shared: Arc<SharedWork<J, R>>, number: usize, work: Arc<F>, most_places: usize) -> Self {
        let (places, free, scratch, done, jobs) = Default::default();
        let (woken, pace) = (Arc::default(), Pace::default());
        Self { shared, number, work, places, free, most_places, woken, pace, scratch, done, jobs }
    }

    /// Polls the futures that were woken.
    fn poll_woken(&mut self) {
        let mut woken = std::mem::take(&mut self.scratch);
        self.woken.take(&mut woken);
        for index in woken.drain(..) {
            let Place { future, receipt, bell, waker } = &mut self.places[index];
            bell.is_woken.store(false, Ordering::Release);
            // A waker may outlive its future; then there is nothing to poll.
            if let Poll::Ready(result) = poll_caught(future, None::<fn() -> Fut>, waker)
                && let Some(receipt) = receipt.take()
            {
                self.done.push(receipt.done(result));
                self.free.push(index);
            }
        }
        self.scratch = woken;
    }

    /// Begins what it was given, until every place is taken.
    fn begin_jobs(&mut self) -> Began {
        let mut began = Began::default();
        'places: while !self.jobs.is_empty()
            && let Some(index) = self.free_place()
        {
            let Place { future, receipt: slot, waker, .. } = &mut self.places[index];
            // What is ready at once leaves the place to the next.
            while let Some(job) = self.jobs.pop_front() {
                began.all += 1;
                let (job, receipt) = job.begin();
                match poll_caught(future, Some(|| (self.work)(job)), waker) {
                    Poll::Ready(result) => self.done.push(receipt.done(result)),
                    Poll::Pending => {
                        *slot = Some(receipt);
                        began.pending += 1;
                        continue 'places;
                    }
                }
            }
            self.free.push(index);
        }
        began
    }

    fn free_place(&mut self) -> Option<usize> {
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        let index = self.places.len();
        (index < self.most_places).then(|| {
            let woken = Arc::clone(&self.woken);
            let bell = Arc::new(PlaceWaker { index, woken, is_woken: AtomicBool::new(false) });
            let waker = Waker::from(Arc::clone(&bell));
            self.places.push(Place { future: Box::pin(None), receipt: None, bell, waker });
            index
        })
    }
}

/// Polls the future in a place, after putting one there if there is a new one. It is dropped when it is done; a panic of
/// any of that is its result.
fn poll_caught<R, Fut: Future<Output = Result<R>>>(
    future: &mut Pin<Box<Option<Fut>>>,
    begin: Option<impl FnOnce() -> Fut>,
    waker: &Waker,
) -> Poll<Result<R, Fault>> {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        if let Some(begin) = begin {
            future.set(Some(begin()));
        }
        let Some(polled) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = polled.poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            future.set(None);
        }
        polled
    }));
    match polled {
        Ok(polled) => polled.map_err(Fault::Error),
        Err(panic) => {
            // The first panic is the one to tell.
            let _ = catch_unwind(AssertUnwindSafe(|| future.set(None)));
            Poll::Ready(Err(Fault::Panic(panic)))
        }
    }
}

impl<J, R, F, Fut> Future for Worker<J, R, F, Fut>
where
    F: Fn(J) -> Fut,
    Fut: Future<Output = Result<R>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Its futures are pinned in their places.
        let this = self.get_mut();
        this.woken.driven_by(cx.waker());
        this.poll_woken();
        let started = Instant::now();
        let mut round = started;
        loop {
            let free = this.most_places - this.places.len() + this.free.len();
            // Others run on this thread too.
            let is_over = round - started > TURN;
            let room = if is_over { 0 } else { this.pace.room(free) };
            match this.shared.exchange(this.number, cx.waker(), &mut this.done, &mut this.jobs, room) {
                Turn::Over => return Poll::Ready(()),
                Turn::Work { call, collector, ring } => {
                    call.into_iter().chain(collector).for_each(Waker::wake);
                    if ring {
                        this.shared.ring();
                    }
                }
            }
            if is_over {
                cx.waker().wake_by_ref();
            }
            if this.jobs.is_empty() {
                return Poll::Pending;
            }
            let began = this.begin_jobs();
            let now = Instant::now();
            this.pace.adapt(&began, now - round);
            round = now;
        }
    }
}

impl<J, R, F, Fut> Unpin for Worker<J, R, F, Fut> {}

/// What became of the jobs that were begun in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Began {
    all: usize,
    pending: usize,
}

/// How many jobs to take at a time: so many that taking them costs little beside doing them, and so few that they would
/// not be done sooner by somebody else. Pure.
#[derive(Clone, Copy, Debug)]
struct Pace {
    jobs: usize,
    /// Of the last round some were not ready at once.
    some_wait: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { jobs: 1, some_wait: false }
    }
}

impl Pace {
    /// How many to take, with so many places free.
    fn room(self, free: usize) -> usize {
        match (free, self.some_wait) {
            (0, _) => 0,
            (_, true) => self.jobs.min(free),
            // They are expected to be ready at once, and so to need one place after the other.
            (_, false) => self.jobs,
        }
    }

    fn adapt(&mut self, began: &Began, took: Duration) {
        self.some_wait = began.pending > 0;
        if took > 2 * ROUND {
            self.jobs = (self.jobs / 2).max(1);
        } else if began.all >= self.jobs && took < ROUND {
            self.jobs = (self.jobs * 2).min(MOST_JOBS);
        } else if self.some_wait {
            self.jobs = self.jobs.min(began.all.max(1));
        }
    }
}

/// How long the jobs of one round should take: many times what it costs to take them and to wake a worker for others.
const ROUND: Duration = Duration::from_micros(25);
/// More at a time make nothing cheaper.
const MOST_JOBS: usize = 128;
/// How long a worker keeps its thread, if its jobs let it.
const TURN: Duration = Duration::from_micros(200);

/// Which places are to be polled, and who polls them.
#[derive(Default)]
struct Woken(Mutex<Places>);

#[derive(Default)]
struct Places {
    /// Each place at most once.
    woken: Vec<usize>,
    worker: Option<Waker>,
}

impl Woken {
    fn driven_by(&self, waker: &Waker) {
        let mut places = self.lock();
        if !places.worker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            places.worker = Some(waker.clone());
        }
    }

    /// Swaps the list with an empty one.
    fn take(&self, list: &mut Vec<usize>) {
        std::mem::swap(&mut self.lock().woken, list);
    }

    fn wake(&self, place: usize) {
        let mut places = self.lock();
        places.woken.push(place);
        let worker = (places.woken.len() == 1).then(|| places.worker.clone()).flatten();
        drop(places);
        if let Some(worker) = worker {
            worker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct PlaceWaker {
    index: usize,
    woken: Arc<Woken>,
    /// It is on the list.
    is_woken: AtomicBool,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.wake(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rounds: impl IntoIterator<Item = (usize, usize, u64)>) -> Pace {
        let mut pace = Pace::default();
        for (all, pending, micros) in rounds {
            pace.adapt(&Began { all, pending }, Duration::from_micros(micros));
        }
        pace
    }

    #[test]
    fn small_jobs_are_taken_many_at_a_time() {
        assert_eq!(after([(1, 0, 1), (2, 0, 1), (4, 0, 1)]).room(1), 8);
        assert_eq!(after((0..20).map(|_| (1_000, 0, 1))).room(1), MOST_JOBS);
        assert_eq!(after([(1, 0, 1), (2, 0, 1), (1, 0, 1)]).room(1), 4, "there were no more");
    }

    #[test]
    fn large_jobs_are_taken_one_at_a_time() {
        assert_eq!(after([(1, 0, 30); 9]).room(5), 1);
        assert_eq!(after([(1, 0, 1), (2, 0, 1), (4, 0, 100), (2, 0, 100), (1, 0, 100)]).room(5), 1);
    }

    #[test]
    fn jobs_that_wait_are_taken_as_there_are_places() {
        let pace = after([(1, 1, 1), (2, 2, 1), (4, 4, 1)]);
        assert_eq!([pace.room(0), pace.room(3), pace.room(100)], [0, 3, 8]);
        assert_eq!(after([(1, 0, 1), (2, 0, 1), (4, 0, 1), (3, 1, 1)]).room(100), 3);
    }
}
