//! [`Place`]: where a stage runs, and how what runs there is to be made. [`Seat`]: one instance of it, over all its
//! lives.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Buffer, Dispatcher, Keep, SubscriptionId};
use tracing::Instrument;

use super::siblings::Families;
use crate::callbacks::{Callbacks, guarded_now};
use crate::counters::Counters;
use crate::downstream::Downstream;
use crate::driver::Driver;
use crate::ending::{Ending, Report};
use crate::error::Origin;
use crate::handle::{CallError, Inbox, Post, Sender};
use crate::latecomer::{Latecomer, Siblings};
use crate::mailbox::{Mailbox, Message};
use crate::members::{Control, Made, Member, Shared};
use crate::protocol::{Expected, Local};
use crate::remainder::{Remainder, Returned};
use crate::supervision::driver::Enrolled;
use crate::{
    BoxFuture, DemandMode, Exit, Failure, FailureKind, OnCancel, Publisher, Restart, StageRef, SubscribeError,
    Subscription,
};

/// A place in a graph, and how what runs there is to be made.
pub(crate) struct Place<I, O> {
    pub(crate) name: Arc<str>,
    /// Names its graph among those of this process.
    pub(super) graph: usize,
    pub(super) spec: Mutex<Spec<I, O>>,
    /// What it subscribes to.
    pub(super) families: Mutex<Families>,
    /// Held by whoever may have somebody subscribe who is no part of the graph.
    pub(crate) expected: Expected,
}

/// What was said of the stage.
pub(crate) struct Spec<I, O> {
    /// One for each instance.
    pub(super) seats: Vec<Arc<Seat<I, O>>>,
    pub(super) dispatcher: MakeDispatcher<O>,
    pub(super) capacity: usize,
    pub(super) keep: Keep,
    /// Whether the user said what to do when the buffer is full.
    pub(super) may_drop: bool,
    pub(super) mode: DemandMode,
    pub(super) awaited: usize,
    pub(super) on_cancel: OnCancel,
    /// How many partitions there are, where there are any.
    pub(super) partitions: usize,
    pub(super) restart: Restart,
}

/// Makes the dispatcher of an instance.
pub(crate) type MakeDispatcher<O> = Box<dyn Fn() -> Box<dyn Dispatcher<O>> + Send + Sync>;

/// Where one instance of a stage receives its messages, whichever of its lives it is in. What is bound to one life, as
/// subscriptions are, holds its mailbox instead.
pub(crate) struct Seat<I, O> {
    stage: Arc<str>,
    mailbox: Mutex<Arc<Mailbox<I, O>>>,
    returned: Arc<Returned<O>>,
}

impl<I, O> Seat<I, O> {
    pub(super) fn new(stage: &Arc<str>) -> Self {
        let returned = Returned::new();
        let mailbox = Mutex::new(Arc::new(Mailbox::new(stage, Arc::clone(&returned))));
        Self { stage: Arc::clone(stage), mailbox, returned }
    }

    /// That of its present life, or of its last.
    pub(crate) fn mailbox(&self) -> Arc<Mailbox<I, O>> {
        Arc::clone(&self.lock())
    }

    fn renew(&self) {
        let fresh = Arc::new(Mailbox::new(&self.stage, Arc::clone(&self.returned)));
        let _former = std::mem::replace(&mut *self.lock(), fresh);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Mailbox<I, O>>> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Send, O: Send> Inbox<O> for Seat<I, O> {
    fn post(&self, post: Post<O>, sender: Sender) -> Result<(), CallError> {
        self.mailbox().post(post, sender)
    }
}

impl<I: Send + 'static, O: Send + 'static> Place<I, O> {
    /// The producing half of a new life, and what it does when its buffer is full.
    fn downstream(&self) -> (Downstream<O>, Keep) {
        let spec = self.lock();
        let buffer = Buffer::new(spec.capacity, spec.keep);
        (Downstream::new((spec.dispatcher)(), buffer, spec.mode, spec.awaited), spec.keep)
    }

    /// What makes sure that the end of a life of an instance is known.
    pub(super) fn ending(self: &Arc<Self>, instance: usize, counters: Arc<Counters>, report: Report) -> Ending<I, O> {
        let (stage, mailbox) = (self.origin(instance), self.seat(instance).mailbox());
        Ending::new(stage, mailbox, counters, (Arc::clone(self) as _, instance), report)
    }

    /// Takes the instances into the graph.
    pub(super) fn enrol<S: 'static, C: Callbacks<In = I, Out = O>, F: FnMut() -> C + Send + 'static>(
        self: &Arc<Self>,
        make: &Arc<Mutex<Option<F>>>,
        shared: &Shared,
    ) -> Vec<Enrolled> {
        let spec = self.lock();
        let enrol = |(instance, seat): (usize, &Arc<Seat<I, O>>)| {
            let counters = Arc::new(Counters::new(Arc::clone(&shared.changed)));
            let runs = Runs::<S, C, F> {
                place: Arc::clone(self),
                instance,
                seat: Arc::clone(seat),
                make: Arc::clone(make),
                counters: Arc::clone(&counters),
                stage: PhantomData,
            };
            let control: Arc<dyn Control> = Arc::new(runs);
            let stage = Origin::instance(Arc::clone(&self.name), instance, spec.seats.len());
            let member = Member::new(stage.clone(), instance, Arc::clone(&control), counters, spec.may_drop);
            let number = shared.enrol(member);
            Enrolled { number, stage, place: self.id(), instance, restart: spec.restart, control }
        };
        spec.seats.iter().enumerate().map(enrol).collect()
    }
}

impl<I, O> Place<I, O> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Spec<I, O>> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a failure of one of its instances begins.
    pub(crate) fn origin(&self, instance: usize) -> Origin {
        Origin::instance(Arc::clone(&self.name), instance, self.lock().seats.len())
    }

    pub(crate) fn families(&self) -> MutexGuard<'_, Families> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seat(&self, instance: usize) -> Arc<Seat<I, O>> {
        Arc::clone(&self.lock().seats[instance])
    }

    /// Names it among all places that there are.
    pub(super) fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

impl<I: Send + 'static, O: Send + 'static> Place<I, O> {
    /// Asks to subscribe to an instance.
    pub(crate) fn open(
        &self,
        instance: usize,
        subscription: Subscription<O>,
    ) -> Result<Arc<dyn Publisher<O>>, SubscribeError> {
        let mailbox = self.seat(instance).mailbox();
        let Err(Message::Subscribe(subscription)) = mailbox.push(Message::Subscribe(Box::new(subscription))) else {
            return Ok(mailbox);
        };
        let exit = mailbox.exit().expect("only the mailbox of one that has ended takes nothing");
        match self.latecomer(instance, &exit) {
            Latecomer::HasNothing => Ok(Remainder::nothing(*subscription)),
            Latecomer::IsTooLate => Err(SubscribeError::Ended(self.name.to_string())),
            Latecomer::MissesSomething => {
                let reason = format!("instance {instance} has ended early: {exit}");
                Err(SubscribeError::Refused { at: self.name.to_string(), reason })
            }
        }
    }
}

impl<I: Send + 'static, O: Send + 'static> Local<O> for Place<I, O> {
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn graph(&self) -> usize {
        self.graph
    }

    fn remainder(
        &self,
        instance: usize,
        former: &[SubscriptionId],
        subscription: Subscription<O>,
    ) -> Arc<dyn Publisher<O>> {
        let returned = Arc::clone(&self.lock().seats[instance].returned);
        Remainder::open(returned, former, subscription)
    }
}

impl<I: Send, O: Send> Siblings for Place<I, O> {
    fn latecomer(&self, instance: usize, exit: &Exit) -> Latecomer {
        let seats = self.lock().seats.clone();
        let others = seats.iter().enumerate().filter(|(other, _)| *other != instance);
        let others: Vec<_> = others.map(|(_, seat)| seat.mailbox().exit()).collect();
        Latecomer::of(exit, others.iter().map(Option::as_ref))
    }
}

/// Makes what runs at a seat, and tells it what the graph wants.
struct Runs<S, C: Callbacks, F> {
    place: Arc<Place<C::In, C::Out>>,
    instance: usize,
    seat: Arc<Seat<C::In, C::Out>>,
    /// Gone once the graph has ended, and what it has captured with it.
    make: Arc<Mutex<Option<F>>>,
    /// Those of all its lives.
    counters: Arc<Counters>,
    stage: PhantomData<fn() -> S>,
}

impl<S: 'static, C: Callbacks, F: FnMut() -> C + Send + 'static> Control for Runs<S, C, F> {
    fn complete(&self) {
        let _ = self.seat.mailbox().push(Message::Complete);
    }

    fn drain(&self) {
        self.seat.mailbox().drain();
    }

    fn stop(&self) {
        self.seat.mailbox().stop();
    }

    fn is_down(&self) -> bool {
        self.seat.mailbox().is_closed()
    }

    fn renew(&self) {
        self.seat.renew();
    }

    fn forget(&self) {
        // Whatever it has captured is dropped outside the lock.
        let _make = self.make.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_expected(&self) -> bool {
        Arc::strong_count(&self.place.expected.0) > 1
    }

    fn drop_returned(&self) -> usize {
        self.seat.returned.clear()
    }

    fn make(&self) -> Result<Made, Failure> {
        make_callbacks(&self.place.origin(self.instance), &self.make).map(|callbacks| Box::new(callbacks) as Made)
    }

    fn run(&self, number: usize, shared: &Arc<Shared>, made: Option<Made>) -> BoxFuture<'static> {
        let (name, mailbox) = (Arc::clone(&self.place.name), self.seat.mailbox());
        mailbox.count_with(&self.counters);
        let reporter = Arc::clone(shared);
        let report = Box::new(move |exit| reporter.report(number, exit));
        let mut ending = self.place.ending(self.instance, Arc::clone(&self.counters), report);
        if self.place.lock().on_cancel == OnCancel::Stop {
            let _ = mailbox.push(Message::Complete);
        }
        // Bound to this life: timers that a stage has set for itself end with it.
        let stage_ref = StageRef::<S, C::Out>::new(name, self.instance, mailbox as _, Arc::clone(shared));
        let made = made.and_then(|made| made.downcast::<C>().ok());
        let (make, shared, place) = (Arc::clone(&self.make), Arc::clone(shared), Arc::clone(&self.place));
        let span = tracing::info_span!(
            "stage.run",
            graph = &*shared.graph,
            stage = &*self.place.name,
            instance = self.instance,
            role = ?C::ROLE
        );
        let life = async move {
            match made.map_or_else(|| make_callbacks(&ending.stage, &make), |made| Ok(*made)) {
                Ok(callbacks) => {
                    // Made here, so that it is not carried about twice.
                    let (downstream, keep) = place.downstream();
                    let mut driver = Driver::new(ending, callbacks, Arc::new(stage_ref), downstream, keep);
                    driver.run().await;
                }
                Err(failure) => {
                    shared.could_not_be_made(number);
                    ending.announce(Exit::Failed(failure));
                }
            }
        };
        Box::pin(life.instrument(span))
    }
}

fn make_callbacks<C>(origin: &Origin, make: &Mutex<Option<impl FnMut() -> C>>) -> Result<C, Failure> {
    // A factory that has panicked may be asked again.
    let mut make = make.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *make {
        Some(make) => guarded_now(origin, make),
        None => Err(Failure::at(origin, FailureKind::Killed, "its graph had ended before it was made")),
    }
}
