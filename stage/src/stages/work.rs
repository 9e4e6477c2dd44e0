//! [`Work`]: what waits to be done, who does it, and what came of it. Pure.

use std::any::Any;
use std::collections::VecDeque;
use std::task::Waker;

use crate::{BoxError, SubscriptionId};

/// Jobs on their way through the workers of a stage. How many there are is bounded by whoever hands them in.
pub(super) struct Work<J, R> {
    order: Order,
    /// Jobs to be started, mostly oldest first.
    queue: VecDeque<Job<J>>,
    /// What came of each job, in the order of their numbers; nothing while it is not done. Without order, in that in which
    /// they were done.
    results: VecDeque<Option<Done<R>>>,
    /// The number of the first result.
    first: u64,
    /// The next job's number.
    next: u64,
    /// Jobs whose results were not taken.
    left: usize,
    known: Vec<Known>,
    /// Who waits for results, while it is not the stage.
    collector: Option<Waker>,
    closed: bool,
}

/// In which order results are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// That of the jobs.
    Kept,
    /// As they come.
    None,
}

/// Something to be done.
pub(super) struct Job<J> {
    number: u64,
    origin: Origin,
    pub(super) work: J,
}

/// Which events a job is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) from: SubscriptionId,
    pub(super) events: usize,
}

/// What came of a job.
pub(super) struct Done<R> {
    number: u64,
    pub(super) origin: Origin,
    pub(super) result: Result<R, Fault>,
}

/// Why nothing came of a job.
pub(super) enum Fault {
    Error(BoxError),
    Panic(Box<dyn Any + Send>),
}

/// Makes a result of what came of a job.
pub(super) struct Receipt {
    number: u64,
    origin: Origin,
}

impl<J> Job<J> {
    /// Separates what is to be done from what becomes of it.
    pub(super) fn begin(self) -> (J, Receipt) {
        (self.work, Receipt { number: self.number, origin: self.origin })
    }
}

impl Receipt {
    pub(super) fn done<R>(self, result: Result<R, Fault>) -> Done<R> {
        Done { number: self.number, origin: self.origin, result }
    }
}

/// What is known of a worker.
#[derive(Default)]
struct Known {
    waker: Option<Waker>,
    /// It has room for jobs, and found none.
    is_idle: bool,
}

/// What a worker is told when it hands results in.
pub(super) enum Turn {
    /// It was given jobs, or is woken when there are any.
    Work {
        /// Another worker to be woken, as there is more to do.
        call: Option<Waker>,
        /// Who waits for results, which there are.
        collector: Option<Waker>,
        /// Whether the stage is to be told of results.
        ring: bool,
    },
    /// The stage is gone.
    Over,
}

impl<J, R> Work<J, R> {
    pub(super) fn new(order: Order, workers: usize) -> Self {
        let mut known = Vec::new();
        known.resize_with(workers, Known::default);
        let (queue, results) = Default::default();
        Self { order, queue, results, first: 0, next: 0, left: 0, known, collector: None, closed: false }
    }

    /// Takes jobs in. Returns a worker to be woken.
    pub(super) fn add(&mut self, jobs: impl IntoIterator<Item = (Origin, J)>) -> Option<Waker> {
        for (origin, work) in jobs {
            self.queue.push_back(Job { number: self.next, origin, work });
            self.next += 1;
            self.left += 1;
            if self.order == Order::Kept {
                self.results.push_back(None);
            }
        }
        self.call_idle()
    }

    /// A worker hands in what is done and what it took and did not begin, and is given up to `room` more jobs, but no more
    /// than its share. It leaves its waker.
    pub(super) fn exchange(
        &mut self,
        worker: usize,
        waker: &Waker,
        done: &mut Vec<Done<R>>,
        jobs: &mut VecDeque<Job<J>>,
        room: usize,
    ) -> Turn {
        if self.closed {
            return Turn::Over;
        }
        let has_done = !done.is_empty();
        for done in done.drain(..) {
            self.put(done);
        }
        while let Some(job) = jobs.pop_back() {
            self.queue.push_front(job);
        }
        let share = self.queue.len().div_ceil(self.known.len());
        jobs.extend(self.queue.drain(..room.min(share)));
        let place = &mut self.known[worker];
        place.is_idle = room > 0 && jobs.is_empty();
        if !place.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            place.waker = Some(waker.clone());
        }
        let has_results = has_done && self.has_results();
        let collector = self.collector.take_if(|_| has_results);
        Turn::Work { call: self.call_idle(), ring: has_results && collector.is_none(), collector }
    }

    /// Moves what is done into `to`, in order.
    pub(super) fn take(&mut self, to: &mut Vec<Done<R>>) {
        let before = to.len();
        while let Some(done) = self.results.front_mut().and_then(Option::take) {
            self.results.pop_front();
            self.first += 1;
            to.push(done);
        }
        self.left -= to.len() - before;
    }

    /// Whether [`take`](Self::take) would find something.
    pub(super) fn has_results(&self) -> bool {
        matches!(self.results.front(), Some(Some(_)))
    }

    /// How many jobs there are whose results were not taken.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Has `waker` woken for the next results, instead of the stage.
    pub(super) fn collect(&mut self, waker: &Waker) {
        self.collector = Some(waker.clone());
    }

    /// Forgets everything, and returns the workers, which are to see it.
    pub(super) fn close(&mut self) -> (Vec<Waker>, impl Sized + use<J, R>) {
        self.closed = true;
        let left = (std::mem::take(&mut self.queue), std::mem::take(&mut self.results));
        (self.known.iter_mut().filter_map(|worker| worker.waker.take()).collect(), left)
    }

    fn put(&mut self, done: Done<R>) {
        match self.order {
            Order::None => self.results.push_back(Some(done)),
            Order::Kept => {
                let place = (done.number - self.first) as usize;
                debug_assert!(self.results[place].is_none(), "a job is done once");
                self.results[place] = Some(done);
            }
        }
    }

    /// Somebody who has room, if there is something to do.
    fn call_idle(&mut self) -> Option<Waker> {
        if self.queue.is_empty() {
            return None;
        }
        let worker = self.known.iter_mut().find(|worker| worker.is_idle)?;
        worker.is_idle = false;
        worker.waker.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(work: &mut Work<u64, u64>, jobs: impl IntoIterator<Item = u64>) -> bool {
        let origin = Origin { from: SubscriptionId::new(), events: 1 };
        work.add(jobs.into_iter().map(|job| (origin, job))).is_some()
    }

    /// Lets a worker hand in these and take others. Answers what it was given, whether another is called, and whether the
    /// stage is.
    fn exchange(
        work: &mut Work<u64, u64>,
        worker: usize,
        done: Vec<Job<u64>>,
        room: usize,
    ) -> (Vec<Job<u64>>, bool, bool) {
        let mut done = done.into_iter().map(Job::begin).map(|(job, receipt)| receipt.done(Ok(job))).collect();
        let mut jobs = VecDeque::new();
        match work.exchange(worker, Waker::noop(), &mut done, &mut jobs, room) {
            Turn::Work { call, collector, ring } => {
                assert!(!ring || collector.is_none());
                (jobs.into(), call.is_some(), ring)
            }
            Turn::Over => panic!("it is not over"),
        }
    }

    fn take(work: &mut Work<u64, u64>) -> Vec<u64> {
        let mut done = Vec::new();
        work.take(&mut done);
        done.into_iter().map(|done| done.result.unwrap_or(u64::MAX)).collect()
    }

    #[test]
    fn results_leave_in_the_order_of_the_jobs() {
        for (order, expected) in [(Order::Kept, [vec![], vec![0, 1, 2]]), (Order::None, [vec![1, 2], vec![0]])] {
            let mut work = Work::new(order, 1);
            add(&mut work, 0..3);
            let (mut jobs, ..) = exchange(&mut work, 0, Vec::new(), 3);
            let later = jobs.split_off(1);
            let rings = [exchange(&mut work, 0, later, 0).2, { expected[0] == take(&mut work) }];
            assert_eq!(rings, [order == Order::None, true]);
            assert!(exchange(&mut work, 0, jobs, 0).2);
            assert_eq!((take(&mut work), work.left()), (expected[1].clone(), 0));
        }
    }

    #[test]
    fn a_worker_takes_its_share_and_calls_the_next_for_the_rest() {
        let mut work = Work::new(Order::Kept, 2);
        assert!(!add(&mut work, []));
        let (_, called, _) = exchange(&mut work, 1, Vec::new(), 9);
        assert!(!called);
        assert!(add(&mut work, 0..10), "worker 1 is idle");
        assert!(!add(&mut work, 10..11), "it was called already");
        exchange(&mut work, 0, Vec::new(), 0);
        let (jobs, called, _) = exchange(&mut work, 1, Vec::new(), 100);
        assert_eq!((jobs.len(), called), (6, false), "worker 0 has no room");
    }

    #[test]
    fn what_a_worker_gives_back_comes_first_again() {
        let mut work = Work::new(Order::Kept, 1);
        add(&mut work, 0..4);
        let (jobs, ..) = exchange(&mut work, 0, Vec::new(), 3);
        let mut back = VecDeque::from(jobs);
        let begun = back.pop_front().expect("it was given three");
        assert!(matches!(work.exchange(0, Waker::noop(), &mut Vec::new(), &mut back, 0), Turn::Work { .. }));
        assert_eq!(begun.work, 0);
        let (jobs, ..) = exchange(&mut work, 0, Vec::new(), 9);
        assert_eq!(jobs.iter().map(|job| job.work).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_collector_is_woken_instead_of_the_stage() {
        let mut work = Work::new(Order::Kept, 1);
        add(&mut work, 0..2);
        work.collect(Waker::noop());
        let (mut jobs, ..) = exchange(&mut work, 0, Vec::new(), 2);
        let second = jobs.split_off(1);
        assert!(!exchange(&mut work, 0, second, 0).2);
        assert!(work.collector.is_some(), "the first is not done");
        assert!(!exchange(&mut work, 0, jobs, 0).2);
        assert!(work.collector.is_none());
    }

    #[test]
    fn after_the_end_workers_are_sent_home() {
        let mut work = Work::<u64, u64>::new(Order::Kept, 2);
        exchange(&mut work, 0, Vec::new(), 1);
        assert_eq!(work.close().0.len(), 1);
        let turn = work.exchange(0, Waker::noop(), &mut Vec::new(), &mut VecDeque::new(), 1);
        assert!(matches!(turn, Turn::Over));
    }
}
