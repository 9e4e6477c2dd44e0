//! [`Running`]: a graph that is alive.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_dispatcher::{SubscribeOptions, SubscriptionId};
use tokio::sync::oneshot;

use crate::graph::{Graph, Stage, Subscribing};
use crate::mailbox::Message;
use crate::members::{Shared, State};
use crate::supervision::driver::{How, Supervisor};
use crate::{Exit, Failure, FailureKind, GraphError, Outcome, Snapshot, Source};

/// How long [`Running::join`] waits for the other stages after one has failed: OTP's default for a worker.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The handle of a graph that was started.
///
/// Dropping it kills every stage: their callbacks are dropped where they wait, and `terminate` is not called. To end a
/// graph in an orderly way, [`join`](Self::join), [`shutdown`](Self::shutdown) or [`stop`](Self::stop) it.
#[must_use = "dropping it kills the graph: `join` it, or keep it for as long as it is to run"]
pub struct Running {
    graph: Graph,
    shared: Arc<Shared>,
    supervisor: Arc<Supervisor>,
}

impl Running {
    pub(crate) fn new(graph: Graph, shared: Arc<Shared>, supervisor: Arc<Supervisor>) -> Self {
        Self { graph, shared, supervisor }
    }

    /// Adds stages and subscriptions to the running graph: `describe` is given a graph to declare them in, and they are
    /// started when it returns. Sources may be stages that run already.
    ///
    /// ```
    /// # use aqueduct_stage::{Batch, Consumer, Cx, Graph, Producer, Result};
    /// # struct Numbers;
    /// # impl Producer for Numbers {
    /// #     type Out = u64;
    /// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
    /// #         cx.emit_all(0..demand as u64);
    /// #         Ok(())
    /// #     }
    /// # }
    /// # struct Print;
    /// # impl Consumer for Print {
    /// #     type In = u64;
    /// #     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let graph = Graph::new("demo");
    /// let numbers = graph.producer("numbers", || Numbers);
    /// let mut running = graph.start();
    /// running.add(|graph| graph.consumer("print", || Print).subscribe(&numbers, 500..1000));
    /// # running.stop(std::time::Duration::from_secs(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn add<T>(&mut self, describe: impl FnOnce(&Graph) -> T) -> T {
        self.graph.reopen();
        let added = describe(&self.graph);
        self.graph.launch();
        added
    }

    /// Subscribes the first instance of a running stage to a source. The subscription counts as made when it is sent: if
    /// it is refused, the stage is told so as of any end of a subscription.
    #[track_caller]
    pub fn subscribe<S, I, O, D, Src>(
        &self,
        consumer: &Stage<S, I, O, D>,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> SubscriptionId
    where
        S: 'static,
        D: 'static,
        I: Send + 'static,
        O: Send + 'static,
        Src: Source<Item = I> + Clone,
    {
        let (id, opening) = consumer.opening(0, source, (0, None), &Subscribing::new(options.into()), How::Once);
        self.shared.spawn_polled("subscribe", opening);
        id
    }

    /// As [`subscribe`](Self::subscribe), and the stage hands back what it was given and did not finish, as with
    /// [`Stage::subscribe_acknowledged`].
    #[track_caller]
    pub fn subscribe_acknowledged<S, I, O, D, Src>(
        &self,
        consumer: &Stage<S, I, O, D>,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> SubscriptionId
    where
        S: 'static,
        D: 'static,
        I: Clone + Send + Sync + 'static,
        O: Send + 'static,
        Src: Source<Item = I> + Clone,
    {
        let subscribing = Subscribing::new(options.into()).acknowledged();
        let (id, opening) = consumer.opening(0, source, (0, None), &subscribing, How::Once);
        self.shared.spawn_polled("subscribe", opening);
        id
    }

    /// Ends a subscription of a running stage, from either side. Nothing more is asked for; what the consumer was given it
    /// still handles and, [if it does so](crate::Stage::subscribe_acknowledged), acknowledges, before it is told of the end.
    /// What that means for the consumer depends on its [`Cancel`](crate::Cancel) policy. An unknown subscription is ignored.
    #[expect(clippy::needless_pass_by_value, reason = "it is written in place, and rarely")]
    pub fn cancel<S, I, O, D>(&self, stage: &Stage<S, I, O, D>, id: SubscriptionId, reason: Exit) {
        for seat in stage.seats() {
            let _ = seat.mailbox().push(Message::Unsubscribe(id, reason.clone(), None));
        }
    }

    /// Ends the subscription `old` and subscribes anew. The end of the old one does not end the consumer, whatever its
    /// policy, nor does the consumer count as having missed something. If `old` is acknowledged, everything that came through
    /// it is handled before the new one is made. An unknown `old` does not matter.
    #[expect(clippy::needless_pass_by_value, reason = "it is written in place, and rarely")]
    #[track_caller]
    pub fn resubscribe<S, I, O, D, Src>(
        &self,
        consumer: &Stage<S, I, O, D>,
        old: SubscriptionId,
        reason: Exit,
        source: &Src,
        options: impl Into<SubscribeOptions>,
    ) -> SubscriptionId
    where
        S: 'static,
        D: 'static,
        I: Send + 'static,
        O: Send + 'static,
        Src: Source<Item = I> + Clone,
    {
        let subscribing = Subscribing::new(options.into()).among(consumer.place.families().of(source));
        let (id, opening) = consumer.opening(0, source, (0, None), &subscribing, How::Once);
        let told: Vec<_> = consumer
            .seats()
            .iter()
            .map(|seat| {
                let (tell, told) = oneshot::channel();
                let _ = seat.mailbox().push(Message::Unsubscribe(old, reason.clone(), Some(tell)));
                told
            })
            .collect();
        let opening = async move {
            // A producer hears of the old one first: a broadcast has each consumer once. Who has ended tells nobody.
            for told in told {
                let _ = told.await;
            }
            opening.await;
        };
        self.shared.spawn_helper("subscribe", Box::pin(opening));
        id
    }

    /// What every stage is doing. Times are counted from the first call on.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Waits until every source is exhausted and everything that was emitted has been handled. Stages that
    /// [may be](Stage::restart) are restarted meanwhile.
    ///
    /// From this call on, a stage ends when it has nothing left to do, rather than wait for somebody to subscribe: a
    /// consumer when its last subscription has ended, a producer when its last subscriber has left. A producer that has had
    /// none waits for its first; if nobody is left who could come, that is an error
    /// [after 5 s](crate::Graph::patience).
    ///
    /// # Errors
    ///
    /// [`GraphError`] with the first failure; the other stages are then shut down, with five seconds of grace. A
    /// success is never short: if a stage was shut down before its work was done, dropped events from a full buffer
    /// without having been [told to](crate::Stage::buffer), or could not tell where an event goes, that is an error too.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; it can be called again.
    pub async fn join(&mut self) -> Result<Outcome, GraphError> {
        self.supervisor.complete();
        self.finish(true).await
    }

    /// Waits until a stage fails for good, or all have ended by themselves. Meanwhile stages wait for whoever may still
    /// subscribe, as consumers on other nodes do: other than with [`join`](Self::join), nothing ends because its last
    /// subscriber has left.
    ///
    /// A producer without an end is served until it fails, so wait for whatever ends the program at the same time, and
    /// [`shutdown`](Self::shutdown) then:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use aqueduct_stage::{Result, Running};
    /// # async fn serve(mut running: Running, told_to_end: impl Future<Output = ()>) -> Result {
    /// tokio::select! {
    ///     ended = running.serve() => ended?,
    ///     () = told_to_end => running.shutdown(Duration::from_secs(5)).await?,
    /// };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As of [`join`](Self::join).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; it can be called again.
    pub async fn serve(&mut self) -> Result<Outcome, GraphError> {
        self.finish(false).await
    }

    async fn finish(&mut self, is_joined: bool) -> Result<Outcome, GraphError> {
        self.shared.finished(is_joined).await;
        self.end(GRACE_AFTER_FAILURE).await;
        let (outcome, mut failures, exceeded) = self.shared.conclude();
        failures.extend(self.shared.losses());
        if failures.is_empty() {
            failures.extend(outcome.stages.iter().filter(|stage| matches!(stage.exit, Exit::Shutdown)).map(|stage| {
                Failure::at(&outcome.origin(stage), FailureKind::Shutdown, "its source was not exhausted")
            }));
        }
        GraphError::unless_empty(failures, exceeded, outcome)
    }

    /// Drains the graph: producers emit nothing more, and what they emitted is handled, stage after stage, before it
    /// ends. Stages that are not done after `grace` are killed.
    ///
    /// Sources outside of the graph (on other nodes, queues, stages of other graphs) are asked for nothing more from now on.
    /// What they have given is handled and, [where that is done](crate::Stage::subscribe_acknowledged), acknowledged; the rest
    /// they give to others, as if it had not been on its way here. What stages of this graph make of it is delivered before they
    /// end, and to consumers elsewhere that end is an early one. A producer in another graph of this process hears of it behind
    /// the callback that it is in, and is waited for: let `grace` be longer than such a callback may take.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if a stage has failed, or had to be killed: then events may be missing.
    ///
    /// # Cancel safety
    ///
    /// The stages have been told to drain; it can be called again.
    pub async fn shutdown(&mut self, grace: Duration) -> Result<Outcome, GraphError> {
        self.supervisor.end();
        self.shared.tell(|stage| {
            stage.complete();
            stage.drain();
        });
        self.kill_after(grace).await;
        let (outcome, mut failures, exceeded) = self.shared.conclude();
        failures.extend(self.shared.losses());
        GraphError::unless_empty(failures, exceeded, outcome)
    }

    /// Ends every stage now, without waiting for what is on its way. Stages that are still in a callback after `grace`
    /// are killed. What a stage that acknowledges has not begun with is given to others, and was no attempt.
    ///
    /// # Errors
    ///
    /// [`GraphError`] if a stage has failed, or had to be killed.
    ///
    /// # Cancel safety
    ///
    /// The stages have been told to end; it can be called again.
    pub async fn stop(&mut self, grace: Duration) -> Result<Outcome, GraphError> {
        self.end(grace).await;
        let (outcome, failures, exceeded) = self.shared.conclude();
        GraphError::unless_empty(failures, exceeded, outcome)
    }

    /// Ends all tasks of the graph, and waits until they are gone.
    async fn end(&self, grace: Duration) {
        self.supervisor.end();
        self.shared.stop();
        self.kill_after(grace).await;
    }

    /// Waits until every stage has ended, for so long at most, and until all tasks are gone.
    async fn kill_after(&self, grace: Duration) {
        if !self.shared.is_over() {
            let _ = tokio::time::timeout(grace, self.shared.until(State::is_over)).await;
        }
        self.shared.kill();
        self.shared.until(|state| state.tasks.is_empty()).await;
        // A channel that a factory has cloned ends with the graph, although its stages can still be named.
        self.shared.tell(|stage| stage.forget());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.kill();
        self.shared.dismiss();
        self.shared.tell(|stage| stage.forget());
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("graph", &self.graph).finish_non_exhaustive()
    }
}
