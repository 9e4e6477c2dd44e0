//! The stages of these graphs.

use std::sync::{Arc, Mutex};

use aqueduct_stage::{Batch, BoxFuture, Consumer, Cx, Exit, ProducerConsumer, Result};

/// Passes on what it gets; emits the number of events it saw when everything was seen.
#[derive(Default)]
pub(crate) struct Tally {
    seen: u64,
}

impl ProducerConsumer for Tally {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_, u64>) -> Result {
        self.seen += events.len() as u64;
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all([self.seen; 3]);
        Ok(())
    }
}

/// What a [`Collect`] has seen.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<(Vec<u64>, Vec<&'static str>)>>);

impl Seen {
    pub(crate) fn collect(&self) -> impl Fn() -> Collect + use<> {
        let seen = self.clone();
        move || Collect(seen.clone())
    }

    pub(crate) fn events(&self) -> Vec<u64> {
        self.0.lock().unwrap().0.clone()
    }

    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().1.clone()
    }
}

pub(crate) struct Collect(Seen);

impl Consumer for Collect {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        self.0.0.lock().unwrap().0.extend(events);
        Ok(())
    }

    async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
        self.0.0.lock().unwrap().1.push("end");
        Ok(())
    }

    async fn terminate(&mut self, exit: &Exit) {
        self.0.0.lock().unwrap().1.push(if exit.is_graceful() { "terminate" } else { "terminate failed" });
    }
}

/// Does something else than handle its events, from the `after`th batch on.
pub(crate) struct Upset<F>(pub(crate) usize, pub(crate) F);

impl<F: FnMut(&mut Cx<'_>) -> BoxFuture<'static, Result> + Send + 'static> Consumer for Upset<F> {
    type In = u64;

    async fn handle_events(&mut self, _events: Batch<u64>, cx: &mut Cx<'_>) -> Result {
        if self.0 > 0 {
            self.0 -= 1;
            return Ok(());
        }
        (self.1)(cx).await
    }
}
