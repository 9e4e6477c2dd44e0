//! Events that come when they come: those of callbacks that are polled.

use std::future::poll_fn;
use std::task::Poll;

use super::*;

impl<C: Callbacks> Driver<C> {
    /// Takes what is there, if somebody wants it, and returns whether there was anything. If not, the callbacks wake this
    /// task when there is, and nothing may be awaited before it [waits](Driver::receive).
    pub(super) async fn poll_events(&mut self) -> ControlFlow<Exit, bool> {
        let wanted = self.downstream.wanted();
        if !self.lifecycle.is_running() || wanted.is_zero() {
            return ControlFlow::Continue(false);
        }
        let driver = &mut *self;
        let polled = poll_fn(move |task| {
            let mut cx = Cx::new(&mut driver.out, wanted, &mut driver.wishes, &*driver.stage_ref);
            Poll::Ready(guarded_now(&driver.ending.stage, || driver.callbacks.poll_events(&mut cx, task)))
        });
        match polled.await {
            Ok(Poll::Pending) => return ControlFlow::Continue(false),
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => {
                return ControlFlow::Break(Exit::Failed(Failure::from_callback(&self.ending.stage, &error)));
            }
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        }
        self.after_callback()?;
        // What was emitted may have found nobody who wants it.
        self.demand_left |= self.lifecycle.is_running() && self.downstream.wants_more();
        if self.may_settle() {
            Box::pin(self.settle()).await?;
        }
        ControlFlow::Continue(true)
    }
}
