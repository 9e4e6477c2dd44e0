//! [`Place`]: where a stage runs, and how what runs there is to be made.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_dispatcher::{Buffer, Dispatcher, Keep};

use crate::callbacks::{Callbacks, guarded};
use crate::counters::Counters;
use crate::downstream::Downstream;
use crate::driver::Driver;
use crate::ending::Ending;
use crate::mailbox::{Mailbox, Message};
use crate::members::{Control, Member, Shared};
use crate::{DemandMode, Exit, OnCancel, StageRef};

/// A place in a graph, and how what runs there is to be made.
pub(crate) struct Place<I, O> {
    pub(crate) name: Arc<str>,
    pub(super) spec: Mutex<Spec<I, O>>,
}

/// What was said of the stage.
pub(crate) struct Spec<I, O> {
    /// One for each instance.
    pub(super) instances: Vec<Arc<Mailbox<I, O>>>,
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
}

/// Makes the dispatcher of an instance.
pub(crate) type MakeDispatcher<O> = Box<dyn Fn() -> Box<dyn Dispatcher<O>> + Send + Sync>;

impl<I: Send + 'static, O: Send + 'static> Place<I, O> {
    pub(super) fn launch<S: 'static, C: Callbacks<In = I, Out = O>>(
        &self,
        make: &Arc<Mutex<impl FnMut() -> C + Send + 'static>>,
        shared: &Arc<Shared>,
    ) {
        let spec = self.lock();
        for (instance, mailbox) in spec.instances.iter().enumerate() {
            let counters = Arc::new(Counters::new());
            let control = Arc::clone(mailbox) as Arc<dyn Control>;
            let number = shared.enrol(Member::new(
                Arc::clone(&self.name),
                instance,
                control,
                Arc::clone(&counters),
                spec.may_drop,
            ));
            if spec.on_cancel == OnCancel::Stop {
                mailbox.complete();
            }
            let reporter = Arc::clone(shared);
            let report = Box::new(move |exit| reporter.report(number, exit));
            let mut ending = Ending::new(Arc::clone(&self.name), Arc::clone(mailbox), counters, report);
            let buffer = Buffer::new(spec.capacity, spec.keep);
            let downstream = Downstream::new((spec.dispatcher)(), buffer, spec.mode, spec.awaited);
            let stage_ref = StageRef::<S, O>::new(Arc::clone(&self.name), Arc::clone(mailbox) as _, Arc::clone(shared));
            let (make, keep) = (Arc::clone(make), spec.keep);
            let task = async move {
                let made = guarded(&ending.stage, async {
                    let mut make = make.lock().unwrap_or_else(PoisonError::into_inner);
                    Ok(make())
                });
                match made.await {
                    Ok(callbacks) => {
                        let driver = Driver::new(ending, callbacks, Arc::new(stage_ref), downstream, keep);
                        driver.run().await;
                    }
                    Err(failure) => ending.announce(Exit::Failed(failure)),
                }
            };
            shared.spawn(&self.name, Box::pin(task));
        }
    }
}

impl<I, O> Place<I, O> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Spec<I, O>> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Send, O: Send> Control for Mailbox<I, O> {
    fn complete(&self) {
        let _ = self.push(Message::Complete);
    }

    fn drain(&self) {
        let _ = self.push(Message::Drain);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}
