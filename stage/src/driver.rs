//! [`Driver`]: the one task of a stage. It receives, hands on to the pure halves, and carries out what they answer.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use aqueduct_dispatcher::{Attempt, SubscriptionId};

use crate::callbacks::{Callbacks, Role, guarded};
use crate::downstream::Downstream;
use crate::ending::{Counts, Ending};
use crate::mailbox::Message;
use crate::upstream::{AfterEnd, Piece, Upstream};
use crate::{Batch, Cx, EndCause, Exit, Failure, FailureKind, Publisher, Subscriber, Subscription};

/// Everything a running stage owns.
///
/// It ends in one of three ways: by its own decision, by the graph's, or by being dropped, which counts as killed.
/// Whichever it is, every neighbour is told and the outcome is reported, once.
pub(crate) struct Driver<I, O> {
    ending: Ending<I, O>,
    role: Role,
    callbacks: Box<dyn Callbacks<I, O>>,

    upstream: Upstream,
    publishers: BTreeMap<SubscriptionId, Edge>,
    /// A producer-consumer's in-queue: worked off only while there is demand.
    arrivals: VecDeque<Arrival<I>>,
    pieces: VecDeque<Piece>,

    downstream: Downstream<O>,
    subscribers: BTreeMap<SubscriptionId, Arc<dyn Subscriber<O>>>,
    out: Vec<O>,

    state: State,
    /// End as soon as there is nothing left to do.
    completing: bool,
    counts: Counts,
}

/// A producer this stage is subscribed to.
struct Edge {
    /// What it is called, for reports.
    to: String,
    /// There once the subscription is made.
    publisher: Option<Arc<dyn Publisher>>,
}

/// Something that keeps its place in a producer-consumer's in-queue.
enum Arrival<I> {
    Events(SubscriptionId, Vec<I>, Attempt),
    Ended(SubscriptionId, EndCause),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Nothing more will be emitted; what is in the buffer is still delivered.
    Exhausted,
    /// The neighbours were told of the end.
    Over,
}

/// `Break` carries the reason for which the stage ends.
type Flow = ControlFlow<Exit>;

impl<I: Send + 'static, O: Send + 'static> Driver<I, O> {
    pub(crate) fn new(ending: Ending<I, O>, callbacks: Box<dyn Callbacks<I, O>>, downstream: Downstream<O>) -> Self {
        Self {
            ending,
            role: callbacks.role(),
            callbacks,
            upstream: Upstream::default(),
            publishers: BTreeMap::new(),
            arrivals: VecDeque::new(),
            pieces: VecDeque::new(),
            downstream,
            subscribers: BTreeMap::new(),
            out: Vec::new(),
            state: State::Running,
            completing: false,
            counts: Counts::default(),
        }
    }

    /// Runs the stage to its end.
    pub(crate) async fn run(mut self) {
        tracing::debug!(stage = self.ending.stage, role = ?self.role, "stage started");
        let exit = self.serve().await;
        let exit = self.terminate(exit).await;
        self.end(exit);
    }

    async fn serve(&mut self) -> Exit {
        let mailbox = Arc::clone(&self.ending.mailbox);
        let mut received = VecDeque::new();
        loop {
            mailbox.receive(&mut received).await;
            while let Some(message) = received.pop_front() {
                let flow = match self.handle(message).await {
                    ControlFlow::Continue(()) => self.settle().await,
                    stop => stop,
                };
                if let ControlFlow::Break(exit) = flow {
                    received.into_iter().for_each(|message| self.ending.decline(message));
                    return exit;
                }
            }
        }
    }

    async fn handle(&mut self, message: Message<I, O>) -> Flow {
        match message {
            Message::Deliver(id, events, attempt) => match self.role {
                Role::Consumer => self.handle_events(id, events, attempt).await,
                _ => self.queue(Arrival::Events(id, events, attempt)).await,
            },
            Message::Ask(id, up_to) => {
                self.downstream.ask(id, up_to);
                self.on_demand().await
            }
            Message::Subscribe(subscription) => self.on_subscribe(subscription).await,
            Message::Cancel(id, reason) => self.on_cancel(id, reason).await,
            Message::Opening { id, to, window, cancel } => {
                self.upstream.subscribe(id, window, cancel);
                self.publishers.insert(id, Edge { to, publisher: None });
                ControlFlow::Continue(())
            }
            Message::Opened(id, Ok(publisher)) => {
                if let (Some(edge), Some(ask)) = (self.publishers.get_mut(&id), self.upstream.opened(id)) {
                    publisher.ask(id, ask);
                    edge.publisher = Some(publisher);
                } else {
                    publisher.cancel(id, Exit::Normal);
                }
                ControlFlow::Continue(())
            }
            Message::Opened(id, Err(error)) => {
                let failure = Failure::new(&self.ending.stage, FailureKind::Subscribe, error.to_string());
                self.on_ended(id, EndCause::Down(Exit::Failed(failure))).await
            }
            Message::Ended(id, cause) => match self.role {
                Role::Consumer => self.on_ended(id, cause).await,
                _ => self.queue(Arrival::Ended(id, cause)).await,
            },
            Message::WaitForSubscribers(subscribers) => {
                self.downstream.wait_for(subscribers);
                ControlFlow::Continue(())
            }
            Message::Complete => {
                self.completing = true;
                ControlFlow::Continue(())
            }
            Message::Stop(exit) => ControlFlow::Break(exit),
        }
    }

    // The producing half.

    async fn on_subscribe(&mut self, subscription: Subscription<O>) -> Flow {
        let Subscription { id, subscriber, .. } = subscription;
        match self.downstream.subscribe(id) {
            Ok(()) => {
                tracing::debug!(stage = self.ending.stage, %id, "subscribed to");
                self.subscribers.insert(id, subscriber);
                self.on_demand().await
            }
            Err(refused) => {
                let failure = Failure::new(&self.ending.stage, FailureKind::Subscribe, refused.to_string());
                subscriber.ended(id, EndCause::Cancelled(Exit::Failed(failure)));
                ControlFlow::Continue(())
            }
        }
    }

    async fn on_cancel(&mut self, id: SubscriptionId, reason: Exit) -> Flow {
        // An unknown cancel needs no answer here: whoever knew of the edge has been told of its end.
        if !self.downstream.cancel(id) {
            return ControlFlow::Continue(());
        }
        tracing::debug!(stage = self.ending.stage, %id, %reason, "subscription cancelled");
        if let Some(subscriber) = self.subscribers.remove(&id) {
            subscriber.ended(id, EndCause::Cancelled(reason));
        }
        self.on_demand().await
    }

    /// Demand may have changed: serves what waits, and asks the callback for the rest.
    async fn on_demand(&mut self) -> Flow {
        let demand = self.downstream.pull();
        self.send_deliveries();
        if demand.is_zero() || self.state != State::Running {
            return ControlFlow::Continue(());
        }
        match self.role {
            Role::Producer => {
                let mut stop = None;
                let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut stop);
                let result = guarded(&self.ending.stage, self.callbacks.handle_demand(demand.as_len(), &mut cx)).await;
                self.after_callback(result, stop)
            }
            _ => self.work_off().await,
        }
    }

    /// Sends what a callback emitted, and does what it asked for.
    fn after_callback(&mut self, result: Result<(), Failure>, stop: Option<Exit>) -> Flow {
        if let Err(failure) = result {
            return ControlFlow::Break(Exit::Failed(failure));
        }
        if !self.out.is_empty() {
            let discarded = self.downstream.emit(&mut self.out);
            if discarded > 0 {
                self.counts.discarded += discarded as u64;
                tracing::warn!(stage = self.ending.stage, discarded, "buffer is full: events were dropped");
            }
            self.send_deliveries();
        }
        match stop {
            None => {}
            Some(Exit::Normal) if self.role != Role::Consumer => self.exhaust(),
            Some(exit) => return ControlFlow::Break(exit),
        }
        ControlFlow::Continue(())
    }

    fn send_deliveries(&mut self) {
        while let Some(delivery) = self.downstream.next_delivery() {
            self.counts.events_out += delivery.events.len() as u64;
            if let Some(subscriber) = self.subscribers.get(&delivery.to) {
                subscriber.deliver(delivery.to, delivery.events, delivery.attempt);
            }
        }
    }

    // The consuming half.

    /// A producer-consumer's arrivals keep their order, and wait for demand.
    async fn queue(&mut self, arrival: Arrival<I>) -> Flow {
        self.arrivals.push_back(arrival);
        self.work_off().await
    }

    async fn work_off(&mut self) -> Flow {
        while self.state == State::Running {
            match self.arrivals.front() {
                Some(Arrival::Events(..)) if self.downstream.owed().is_zero() => break,
                Some(_) => {}
                None => break,
            }
            match self.arrivals.pop_front() {
                Some(Arrival::Events(id, events, attempt)) => self.handle_events(id, events, attempt).await?,
                Some(Arrival::Ended(id, cause)) => self.on_ended(id, cause).await?,
                None => {}
            }
        }
        ControlFlow::Continue(())
    }

    async fn handle_events(&mut self, id: SubscriptionId, events: Vec<I>, attempt: Attempt) -> Flow {
        let mut pieces = std::mem::take(&mut self.pieces);
        match self.upstream.receive(id, events.len(), &mut pieces) {
            Some(0) => {}
            Some(excess) => tracing::warn!(stage = self.ending.stage, %id, excess, "more events than were asked for"),
            // The subscription has ended here, and the events were on their way.
            None => pieces.push_back(Piece { events: events.len(), then_ask: None }),
        }
        let flow = self.handle_pieces(id, events, attempt, &mut pieces).await;
        pieces.clear();
        self.pieces = pieces;
        flow
    }

    async fn handle_pieces(
        &mut self,
        id: SubscriptionId,
        mut events: Vec<I>,
        attempt: Attempt,
        pieces: &mut VecDeque<Piece>,
    ) -> Flow {
        while let Some(piece) = pieces.pop_front() {
            let rest = if piece.events < events.len() { events.split_off(piece.events) } else { Vec::new() };
            let batch = Batch::new(std::mem::replace(&mut events, rest), id, attempt);
            self.counts.events_in += batch.len() as u64;
            let mut stop = None;
            let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut stop);
            let result = guarded(&self.ending.stage, self.callbacks.handle_events(batch, &mut cx)).await;
            self.after_callback(result, stop)?;
            if self.state != State::Running {
                break;
            }
            if let (Some(up_to), Some(edge)) = (piece.then_ask, self.publishers.get(&id))
                && let Some(publisher) = &edge.publisher
            {
                publisher.ask(id, up_to);
            }
        }
        ControlFlow::Continue(())
    }

    async fn on_ended(&mut self, id: SubscriptionId, cause: EndCause) -> Flow {
        if let Some(edge) = self.publishers.remove(&id) {
            tracing::debug!(stage = self.ending.stage, producer = edge.to, %id, %cause, "subscription ended");
        }
        match self.upstream.ended(id, &cause) {
            AfterEnd::Live => ControlFlow::Continue(()),
            AfterEnd::Exhausted => self.on_exhausted().await,
            AfterEnd::Exit(exit) => ControlFlow::Break(exit),
        }
    }

    /// No producer is left, and everything they sent was handled.
    async fn on_exhausted(&mut self) -> Flow {
        if self.upstream.saw_everything() {
            let mut stop = None;
            let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut stop);
            let result = guarded(&self.ending.stage, self.callbacks.handle_end(&mut cx)).await;
            self.after_callback(result, stop)?;
        }
        match self.role {
            Role::Consumer => ControlFlow::Break(Exit::Normal),
            _ => {
                self.exhaust();
                ControlFlow::Continue(())
            }
        }
    }

    /// Nothing more is emitted or handled.
    fn exhaust(&mut self) {
        self.state = State::Exhausted;
        self.arrivals.clear();
        self.cancel_upstream(&Exit::Normal);
    }

    /// Ends the stage if there is nothing left for it to do.
    async fn settle(&mut self) -> Flow {
        if self.completing && self.state == State::Running {
            let abandoned = self.role != Role::Consumer && self.downstream.is_abandoned();
            if abandoned {
                self.exhaust();
            } else if self.role != Role::Producer && self.upstream.is_empty() && self.arrivals.is_empty() {
                self.on_exhausted().await?;
            }
        }
        let done = self.downstream.is_delivered() || (self.completing && self.downstream.is_abandoned());
        if self.state == State::Exhausted && done {
            return ControlFlow::Break(Exit::Normal);
        }
        ControlFlow::Continue(())
    }

    async fn terminate(&mut self, exit: Exit) -> Exit {
        let callbacks = &mut self.callbacks;
        let goodbye = async {
            callbacks.terminate(&exit).await;
            Ok(())
        };
        match guarded(&self.ending.stage, goodbye).await {
            Err(failure) if exit.is_graceful() => Exit::Failed(failure),
            _ => exit,
        }
    }
}

/// The end, whoever brings it about.
impl<I, O> Driver<I, O> {
    /// Tells the neighbours and the graph. Does nothing the second time.
    fn end(&mut self, exit: Exit) {
        if std::mem::replace(&mut self.state, State::Over) == State::Over {
            return;
        }
        self.cancel_upstream(&exit);
        for (id, subscriber) in std::mem::take(&mut self.subscribers) {
            subscriber.ended(id, EndCause::Down(exit.clone()));
        }
        self.counts.discarded += self.downstream.waiting() as u64;
        self.ending.announce(exit, self.counts);
    }

    fn cancel_upstream(&mut self, exit: &Exit) {
        for (id, edge) in std::mem::take(&mut self.publishers) {
            if let Some(publisher) = edge.publisher {
                publisher.cancel(id, exit.clone());
            }
        }
    }
}

impl<I, O> Drop for Driver<I, O> {
    fn drop(&mut self) {
        self.end(self.ending.killed());
    }
}
