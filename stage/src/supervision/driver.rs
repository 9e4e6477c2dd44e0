//! [`Supervisor`]: starts the stages of a graph and makes its subscriptions, the first time and again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Cancel, SubscriptionId};
use tokio::time::{Instant, sleep_until};

use super::books::Books;
use super::{Command, Supervision};
use crate::error::Origin;
use crate::members::{Control, Made, Shared};
use crate::{Backoff, BoxFuture, Intensity, Restart, Strategy};

/// What knows all stages and declared subscriptions of a graph, and decides with [`Supervision`] what becomes of them.
///
/// In a graph in which nothing may be restarted it only starts them. In any other it is a task of the graph.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    books: Mutex<Books>,
}

/// An instance of a stage that was taken into the graph.
pub(crate) struct Enrolled {
    pub(crate) number: usize,
    pub(crate) stage: Origin,
    /// Names the stage, for [`Declared`].
    pub(crate) place: usize,
    pub(crate) instance: usize,
    pub(crate) restart: Restart,
    pub(crate) control: Arc<dyn Control>,
}

/// A subscription between two instances. Each is the place of a stage and the number of the instance.
pub(crate) struct Declared {
    pub(crate) consumer: (usize, usize),
    /// Nothing for a source that is no stage of this process.
    pub(crate) producer: Option<(usize, usize)>,
    pub(crate) cancel: Cancel,
    pub(crate) connect: Connect,
}

/// Tells the consumer, and returns what makes the subscription.
pub(crate) type Connect = Box<dyn Fn(How) -> (SubscriptionId, BoxFuture<'static>) + Send + Sync>;

/// How a subscription is made.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// It ends when it ends.
    Once,
    /// It may be made again, and takes the place of a former one, if there was one.
    Anew(Option<SubscriptionId>),
    /// As `Anew`, to a producer that was exhausted and has ended for good. It takes the place of all former ones.
    Remainder(Vec<SubscriptionId>),
}

/// What is left to do once the books are closed, as it may run the user's code.
#[derive(Default)]
pub(super) struct Work {
    pub(super) openings: Vec<BoxFuture<'static>>,
    started: Vec<(usize, BoxFuture<'static>)>,
}

impl Work {
    fn carry_out(self, shared: &Arc<Shared>) {
        for opening in self.openings {
            // Within the graph this completes at once, so subscriptions are made in the order of declaration.
            shared.spawn_polled("subscribe", opening);
        }
        for (number, run) in self.started {
            shared.spawn_stage(number, run);
        }
    }
}

impl Supervisor {
    pub(crate) fn new(shared: Arc<Shared>, graph: &str) -> Self {
        let seed = graph.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let (strategy, intensity, backoff) = (Strategy::default(), Intensity::default(), Backoff::default());
        let supervision = Supervision::new(strategy, intensity, backoff, seed);
        Self { shared, books: Mutex::new(Books::new(supervision)) }
    }

    /// Changes how it supervises, before it does.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Supervision)) {
        change(self.lock().supervision());
    }

    /// Starts stages that were declared, after making their subscriptions.
    pub(crate) fn launch(self: &Arc<Self>, enrolled: Vec<Enrolled>, declared: Vec<Declared>) {
        let (mut work, mut books) = (Work::default(), self.lock());
        let is_supervised = self.shared.is_supervised();
        let may_restart = enrolled.iter().any(|stage| stage.restart != Restart::Temporary);
        books.make_room(enrolled.len());
        for stage in enrolled {
            work.started.push((stage.number, stage.control.run(stage.number, &self.shared, None)));
            books.enrol(stage);
        }
        if may_restart && !is_supervised {
            for number in self.shared.supervise() {
                books.is_over(number);
            }
        }
        for wire in declared {
            books.declare(wire, &mut work);
        }
        drop(books);
        work.carry_out(&self.shared);
        if may_restart && !is_supervised {
            self.shared.spawn("supervisor", Box::pin(Arc::clone(self).supervise()));
        }
    }

    /// Tells every stage to end when it has nothing left to do; one that waits for others, when these are over.
    pub(crate) fn complete(&self) {
        self.lock().complete();
    }

    /// Starts nothing any more. What is down has failed.
    pub(crate) fn end(&self) {
        let (failures, exceeded) = self.lock().take_reasons();
        self.shared.fail(failures, exceeded);
        self.shared.leave_unsupervised();
    }

    async fn supervise(self: Arc<Self>) {
        // If this task is dropped, nobody starts anything any more, and nothing must wait for that.
        let _end = End(Arc::clone(&self));
        while self.shared.is_supervised() {
            let (work, timeout) = self.step(Instant::now());
            work.carry_out(&self.shared);
            let fell = self.shared.fell.notified();
            match timeout {
                None => fell.await,
                Some(timeout) => tokio::select! {
                    biased;
                    () = fell => {}
                    () = sleep_until(timeout) => {}
                },
            }
        }
    }

    /// Decides about what has happened, and does what is due. Returns when there is more to do, unless something happens.
    fn step(&self, now: Instant) -> (Work, Option<Instant>) {
        let (mut work, mut books) = (Work::default(), self.lock());
        while let Some(fallen) = self.shared.next_fallen() {
            books.fell(fallen, now, &self.shared, &mut work);
        }
        let mut started: Vec<(usize, Made)> = Vec::new();
        loop {
            let command = books.supervision().poll(now);
            if let Some(Command::Start(number)) = command {
                started.extend(books.start(number, now, &self.shared, &mut work).map(|made| (number, made)));
                continue;
            }
            // What starts together is subscribed before any of it runs, as at the very first.
            books.connect_started(started.iter().map(|(number, _)| *number), &mut work);
            for (number, made) in started.drain(..) {
                work.started.push((number, books.control(number).run(number, &self.shared, Some(made))));
            }
            match command {
                Some(Command::Stop(number)) => books.stop(number),
                Some(Command::Kill(number)) => self.shared.kill_stage(number),
                Some(Command::GiveUp) => {
                    let (failures, exceeded) = books.take_reasons();
                    self.shared.fail(failures, exceeded);
                    self.shared.leave_unsupervised();
                }
                Some(Command::Start(_)) | None => return (work, books.supervision().timeout()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the supervision when it is dropped.
struct End(Arc<Supervisor>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}
