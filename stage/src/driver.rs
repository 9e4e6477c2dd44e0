//! [`Driver`]: the one task of a stage. It receives, hands on to the pure halves, and carries out what they answer.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use aqueduct_dispatcher::{Attempt, Decision, Demand, Events, Keep, Marker, SubscriptionId, Window};
use tracing::Instrument;

use crate::callbacks::{Callbacks, Role, guarded, guarded_now};
use crate::context::Wishes;
use crate::downstream::Downstream;
use crate::ending::Ending;
use crate::handle::{Letter, Post, Status};
use crate::mailbox::{Message, Opening};
use crate::upstream::{AfterEnd, Piece, Upstream};
use crate::{Batch, Cx, Edge, EndCause, Exit, Failure, FailureKind, Mode, Peer, Publisher, Subscriber, Subscription};

/// Everything a running stage owns.
///
/// It ends in one of three ways: by its own decision, by the graph's, or by being dropped, which counts as killed.
/// Whichever it is, every neighbour is told and the outcome is reported, once.
pub(crate) struct Driver<I, O> {
    ending: Ending<I, O>,
    role: Role,
    callbacks: Box<dyn Callbacks<I, O>>,
    stage_ref: Arc<dyn std::any::Any + Send + Sync>,
    wishes: Wishes,

    upstream: Upstream,
    publishers: BTreeMap<SubscriptionId, Producer<I>>,
    /// A producer-consumer's in-queue: worked off only while there is demand.
    arrivals: VecDeque<Arrival<I, O>>,
    pieces: VecDeque<Piece>,
    /// How many of the arrivals are infos.
    infos_queued: usize,
    /// The arrival that is being handled, if it is to be handed back should the stage fail.
    in_hand: Option<InHand<I>>,

    downstream: Downstream<O>,
    keep: Keep,
    subscribers: BTreeMap<SubscriptionId, Arc<dyn Subscriber<O>>>,
    /// What was sent to subscribers that had ended, until their cancels arrive.
    refused: BTreeMap<SubscriptionId, Unfinished<O>>,
    out: Vec<O>,
    /// Infos that wait for their place in the buffer.
    marked: BTreeMap<Marker, Box<dyn Letter<O>>>,
    /// Infos whose turn has come.
    due: VecDeque<Box<dyn Letter<O>>>,

    /// Why the last subscriber left that failed.
    lost_subscriber: Option<Failure>,

    state: State,
    /// There may be more to ask of the callback: nobody wanted what it emitted, or several asks were kept. It is asked
    /// after whatever else has arrived.
    demand_left: bool,
    /// End as soon as there is nothing left to do.
    completing: bool,
    /// End as soon as nothing that was emitted waits, whether anybody has subscribed or not.
    draining: bool,
}

/// Batches to be given again, oldest first, and which attempt is to follow.
type Unfinished<T> = Vec<(Events<T>, Attempt)>;

/// A producer this stage is subscribed to.
struct Producer<I> {
    /// What it is called, for reports.
    name: String,
    /// There once the subscription is made.
    publisher: Option<Arc<dyn Publisher<I>>>,
    keep: Option<fn(Events<I>) -> Events<I>>,
}

/// Something that keeps its place in a producer-consumer's in-queue.
enum Arrival<I, O> {
    Events(SubscriptionId, Events<I>, Attempt),
    Ended(SubscriptionId, EndCause),
    Info(Box<dyn Letter<O>>),
}

/// An arrival of which handles are kept.
struct InHand<I> {
    id: SubscriptionId,
    attempt: Attempt,
    /// The piece that a callback has been given; empty between two pieces.
    begun: Events<I>,
    /// The pieces behind it.
    behind: Events<I>,
}

impl<I> InHand<I> {
    fn begin(&mut self, count: usize) {
        let behind = self.behind.split_off(count);
        self.begun = std::mem::replace(&mut self.behind, behind);
    }

    fn finish(&mut self) {
        self.begun = Vec::new().into();
    }

    /// What is to be handed back. Only what was begun was an attempt.
    fn unfinished(self) -> [(Events<I>, Attempt); 2] {
        [(self.begun, self.attempt.next()), (self.behind, self.attempt)]
    }
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

/// Calls a callback with everything that it may touch, and turns its failure into the end of the stage.
macro_rules! callback {
    ($driver:ident, |$callbacks:ident, $cx:ident| $call:expr) => {{
        let mut $cx = Cx::new(&mut $driver.out, $driver.downstream.owed(), &mut $driver.wishes, &*$driver.stage_ref);
        let $callbacks = &mut $driver.callbacks;
        // Within the guard, so that a panic before the first `await` is caught too.
        match guarded(&$driver.ending.stage, async { $call.await }).await {
            Ok(answer) => {
                $driver.after_callback()?;
                answer
            }
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        }
    }};
}

impl<I: Send + 'static, O: Send + 'static> Driver<I, O> {
    pub(crate) fn new(
        ending: Ending<I, O>,
        role: Role,
        callbacks: Box<dyn Callbacks<I, O>>,
        stage_ref: Arc<dyn std::any::Any + Send + Sync>,
        downstream: Downstream<O>,
        keep: Keep,
    ) -> Self {
        Self {
            ending,
            role,
            callbacks,
            stage_ref,
            wishes: Wishes::default(),
            upstream: Upstream::default(),
            publishers: BTreeMap::new(),
            arrivals: VecDeque::new(),
            pieces: VecDeque::new(),
            infos_queued: 0,
            in_hand: None,
            downstream,
            keep,
            subscribers: BTreeMap::new(),
            refused: BTreeMap::new(),
            out: Vec::new(),
            marked: BTreeMap::new(),
            due: VecDeque::new(),
            lost_subscriber: None,
            state: State::Running,
            demand_left: false,
            completing: false,
            draining: false,
        }
    }

    /// Runs the stage to its end.
    pub(crate) async fn run(mut self) {
        let span = tracing::info_span!("stage.run", stage = &*self.ending.stage, role = ?self.role);
        async {
            let exit = self.serve().await;
            let exit = self.terminate(exit).await;
            self.end(exit);
        }
        .instrument(span)
        .await;
    }

    async fn serve(&mut self) -> Exit {
        let mailbox = Arc::clone(&self.ending.mailbox);
        let mut received = VecDeque::new();
        loop {
            // A stage whose mailbox is never empty makes way for others all the same.
            tokio::task::consume_budget().await;
            mailbox.take(&mut received, self.infos_queued + self.marked.len());
            if received.is_empty() && !self.demand_left && mailbox.stopping().is_none() {
                self.show();
                let waiting = self.ending.counters.wait(self.is_blocked());
                mailbox.arrived().await;
                self.ending.counters.waited(waiting);
            } else if let ControlFlow::Break(exit) = self.work(&mut received).await {
                self.give_up(received, &exit);
                return exit;
            }
        }
    }

    /// Handles what was received, and then asks the callback for what is still wanted.
    async fn work(&mut self, received: &mut VecDeque<Message<I, O>>) -> Flow {
        loop {
            if let Some(exit) = self.ending.mailbox.stopping() {
                return ControlFlow::Break(exit);
            }
            let Some(message) = received.pop_front() else { break };
            self.handle(message).await?;
            self.settle().await?;
        }
        if std::mem::take(&mut self.demand_left) {
            tokio::task::consume_budget().await;
            self.on_demand().await?;
            self.settle().await?;
        }
        ControlFlow::Continue(())
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
            Message::Leave(id, reason, unfinished) => self.leave(id, reason, unfinished).await,
            Message::Opening(Opening { id, to, window, cancel, keep }) => {
                self.upstream.subscribe(id, window, cancel);
                self.publishers.insert(id, Producer { name: to, publisher: None, keep });
                ControlFlow::Continue(())
            }
            Message::Opened(id, Ok(publisher)) => self.on_opened(id, publisher).await,
            Message::Opened(id, Err(error)) => {
                let failure = Failure::new(&*self.ending.stage, FailureKind::Subscribe, error.to_string());
                self.on_ended(id, EndCause::Down(Exit::Failed(failure))).await
            }
            Message::Ended(id, cause) => match self.role {
                Role::Consumer => self.on_ended(id, cause).await,
                _ => self.queue(Arrival::Ended(id, cause)).await,
            },
            Message::Unsubscribe(id, reason, silently) => {
                if silently {
                    self.upstream.abandon(id);
                }
                self.cancel(id, reason).await
            }
            Message::Post(post) => self.on_post(post).await,
            Message::Drain => {
                self.draining = true;
                if self.role == Role::Producer {
                    self.exhaust();
                }
                ControlFlow::Continue(())
            }
            Message::Complete => {
                self.completing = true;
                ControlFlow::Continue(())
            }
        }
    }

    async fn on_post(&mut self, post: Post<O>) -> Flow {
        match post {
            Post::Letter(_) | Post::Info(_) if self.state != State::Running => ControlFlow::Continue(()),
            Post::Letter(letter) => {
                self.open(letter).await?;
                // What it emitted may have found nobody who wants it.
                self.on_demand().await
            }
            Post::Info(letter) => match self.role {
                Role::Consumer => self.open(letter).await,
                _ => {
                    self.infos_queued += 1;
                    self.queue(Arrival::Info(letter)).await
                }
            },
            Post::Demand(mode) => {
                self.downstream.set_mode(mode);
                self.on_demand().await
            }
            Post::Status(reply) => {
                let status = Status { buffered: self.downstream.waiting(), mode: self.downstream.mode() };
                let _ = reply.send(status);
                ControlFlow::Continue(())
            }
        }
    }

    async fn open(&mut self, letter: Box<dyn Letter<O>>) -> Flow {
        let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut self.wishes, &*self.stage_ref);
        let reply = match guarded(&self.ending.stage, letter.open(self.callbacks.stage(), &mut cx)).await {
            Ok(reply) => reply,
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        };
        // A message that ends the stage is answered too; one whose events could not be taken is not.
        let is_last = self.wishes.stop.is_some();
        let flow = self.after_callback();
        if is_last || flow.is_continue() {
            reply();
        }
        flow
    }

    /// Handles the infos whose turn has come.
    async fn open_due(&mut self) -> Flow {
        while let Some(letter) = self.due.pop_front() {
            self.open(letter).await?;
        }
        ControlFlow::Continue(())
    }

    // The producing half.

    async fn on_subscribe(&mut self, subscription: Subscription<O>) -> Flow {
        let Subscription { id, consumer, options, interest, subscriber } = subscription;
        let window = options.window_or(Window::NEAR);
        match self.downstream.subscribe(id, consumer, window, options.cancel_policy(), interest) {
            Ok(()) if self.state != State::Over => {
                tracing::debug!(%id, "subscribed to");
                self.subscribers.insert(id, subscriber);
                if self.state == State::Running {
                    let edge = Edge { id, peer: Peer::Consumer, window, cancel: options.cancel_policy() };
                    callback!(self, |callbacks, cx| callbacks.handle_subscribe(&edge, &mut cx));
                }
                self.on_demand().await
            }
            Ok(()) => ControlFlow::Continue(()),
            Err(refused) => {
                let kind = match refused {
                    aqueduct_dispatcher::Refused::AlreadySubscribed => FailureKind::AlreadySubscribed,
                    _ => FailureKind::Subscribe,
                };
                let failure = Failure::new(&*self.ending.stage, kind, refused.to_string());
                tracing::warn!(%failure, "subscription refused");
                subscriber.ended(id, EndCause::Cancelled(Exit::Failed(failure)));
                ControlFlow::Continue(())
            }
        }
    }

    async fn leave(&mut self, id: SubscriptionId, reason: Exit, mut unfinished: Unfinished<O>) -> Flow {
        unfinished.extend(self.refused.remove(&id).unwrap_or_default());
        let left = self.downstream.leave(id, unfinished);
        // An unknown cancel needs no answer: whoever knew of the edge has been told of its end.
        let Some(edge) = left else { return ControlFlow::Continue(()) };
        tracing::debug!(id = %edge.id, %reason, "subscription cancelled");
        if let Exit::Failed(failure) = &reason {
            self.lost_subscriber = Some(failure.clone());
        }
        let cause = EndCause::Cancelled(reason);
        if let Some(subscriber) = self.subscribers.remove(&edge.id) {
            subscriber.ended(edge.id, cause.clone());
        }
        if self.state == State::Running {
            callback!(self, |callbacks, cx| callbacks.handle_cancel(&edge, &cause, &mut cx));
        }
        self.on_demand().await
    }

    /// Demand may have changed: serves what waits, and asks the callback for the rest.
    async fn on_demand(&mut self) -> Flow {
        loop {
            let demand = self.downstream.pull();
            self.carry_out();
            self.open_due().await?;
            if self.state != State::Running || demand.is_zero() {
                return ControlFlow::Continue(());
            }
            if self.role != Role::Producer {
                self.work_off().await?;
                continue;
            }
            callback!(self, |callbacks, cx| callbacks.handle_demand(demand.as_len(), &mut cx));
            while self.wishes.again && self.state == State::Running && !self.downstream.owed().is_zero() {
                self.wishes.again = false;
                if let Some(exit) = self.ending.mailbox.stopping() {
                    return ControlFlow::Break(exit);
                }
                let owed = self.downstream.owed().as_len();
                callback!(self, |callbacks, cx| callbacks.handle_demand(owed, &mut cx));
                tokio::task::consume_budget().await;
            }
            self.wishes.again = false;
            self.demand_left = true;
            return ControlFlow::Continue(());
        }
    }

    /// Sends what a callback emitted, and does what it asked for.
    fn after_callback(&mut self) -> Flow {
        if !self.out.is_empty() {
            let discarded = self.downstream.emit(&mut self.out);
            if discarded > 0 {
                self.on_overflow(discarded)?;
            }
            self.carry_out();
        }
        for (id, more) in std::mem::take(&mut self.wishes.asks) {
            if let Some(up_to) = self.upstream.ask(id, more) {
                self.ask(id, up_to);
            }
        }
        for (id, reason) in std::mem::take(&mut self.wishes.cancels) {
            // Handled when its turn comes, like any cancel: a callback is not called within another.
            let _ = self.ending.mailbox.push(Message::Unsubscribe(id, reason, false));
        }
        match self.wishes.stop.take() {
            None => {}
            Some(Exit::Normal) if self.role != Role::Consumer => self.exhaust(),
            Some(exit) => return ControlFlow::Break(exit),
        }
        ControlFlow::Continue(())
    }

    fn on_overflow(&mut self, discarded: usize) -> Flow {
        if self.keep == Keep::Fail {
            let message = format!("{discarded} events more than the buffer holds");
            return ControlFlow::Break(Exit::Failed(Failure::new(&*self.ending.stage, FailureKind::Overflow, message)));
        }
        self.ending.counters.discarded.add(discarded as u64);
        self.ending.counters.overflowed.add(discarded as u64);
        let reported = match guarded_now(&self.ending.stage, || self.callbacks.handle_discarded(discarded)) {
            Ok(reported) => reported,
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        };
        if reported {
            tracing::warn!(stage = &*self.ending.stage, discarded, "buffer is full: events were dropped");
        }
        ControlFlow::Continue(())
    }

    /// Does what the dispatcher has decided.
    fn carry_out(&mut self) {
        while let Some(decision) = self.downstream.next_decision() {
            match decision {
                Decision::Deliver(delivery) => {
                    let Some(subscriber) = self.subscribers.get(&delivery.to) else { continue };
                    let count = delivery.events.len() as u64;
                    match subscriber.try_deliver(delivery.to, delivery.events, delivery.attempt) {
                        Ok(()) => self.ending.counters.events_out.add(count),
                        Err(events) => self.refused.entry(delivery.to).or_default().push((events, delivery.attempt)),
                    }
                }
                Decision::Fail(id, why) => {
                    let failure = Failure::new(&*self.ending.stage, FailureKind::Selector, why);
                    tracing::warn!(%id, %failure, "subscription failed");
                    if let Some(subscriber) = self.subscribers.remove(&id) {
                        subscriber.ended(id, EndCause::Cancelled(Exit::Failed(failure)));
                    }
                }
                Decision::Pass(marker) => self.due.extend(self.marked.remove(&marker)),
            }
        }
        let (discarded, failed) = self.downstream.take_counts();
        if discarded > 0 {
            self.ending.counters.discarded.add(discarded);
        }
        if failed > 0 {
            self.ending.counters.failed.add(failed);
            tracing::warn!(stage = &*self.ending.stage, failed, "events could not be dispatched");
        }
    }

    // The consuming half.

    async fn on_opened(&mut self, id: SubscriptionId, publisher: Arc<dyn Publisher<I>>) -> Flow {
        let (Some(producer), Some(edge)) = (self.publishers.get_mut(&id), self.upstream.edge(id)) else {
            publisher.cancel(id, Exit::Normal);
            return ControlFlow::Continue(());
        };
        producer.publisher = Some(publisher);
        tracing::debug!(producer = producer.name, %id, "subscribed");
        let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut self.wishes, &*self.stage_ref);
        let subscribing = self.callbacks.handle_subscribe(&edge, &mut cx);
        let mode: Mode = match guarded(&self.ending.stage, subscribing).await {
            Ok(mode) => mode,
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        };
        // Before its wishes, so that a manual consumer may ask at once.
        if let Some(up_to) = self.upstream.opened(id, mode) {
            self.ask(id, up_to);
        }
        self.after_callback()
    }

    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        if let Some(Producer { publisher: Some(publisher), .. }) = self.publishers.get(&id) {
            publisher.ask(id, up_to);
        }
    }

    /// Ends a subscription of this stage, on whichever side it is.
    async fn cancel(&mut self, id: SubscriptionId, reason: Exit) -> Flow {
        match self.publishers.get(&id) {
            Some(Producer { publisher: Some(publisher), .. }) => {
                publisher.cancel(id, reason);
                ControlFlow::Continue(())
            }
            Some(_) => self.on_ended(id, EndCause::Cancelled(reason)).await,
            None => self.leave(id, reason, Vec::new()).await,
        }
    }

    /// A producer-consumer's arrivals keep their order, and wait for demand. A producer has infos only.
    async fn queue(&mut self, arrival: Arrival<I, O>) -> Flow {
        self.arrivals.push_back(arrival);
        self.work_off().await
    }

    async fn work_off(&mut self) -> Flow {
        while self.state == State::Running {
            if matches!(self.arrivals.front(), Some(Arrival::Events(..))) && self.downstream.owed().is_zero() {
                // What was emitted may have found nobody who wants it.
                if self.downstream.pull().is_zero() {
                    self.carry_out();
                    break;
                }
                self.carry_out();
            }
            match self.arrivals.pop_front() {
                Some(Arrival::Events(id, events, attempt)) => self.handle_events(id, events, attempt).await?,
                Some(Arrival::Ended(id, cause)) => self.on_ended(id, cause).await?,
                Some(Arrival::Info(letter)) => {
                    self.infos_queued -= 1;
                    let marker = self.downstream.mark();
                    self.marked.insert(marker, letter);
                    self.carry_out();
                }
                None => break,
            }
            self.open_due().await?;
        }
        ControlFlow::Continue(())
    }

    async fn handle_events(&mut self, id: SubscriptionId, events: Events<I>, attempt: Attempt) -> Flow {
        let mut pieces = std::mem::take(&mut self.pieces);
        match self.upstream.receive(id, events.len(), &mut pieces) {
            Some(0) => {}
            Some(excess) => tracing::warn!(%id, excess, "more events than were asked for"),
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
        mut events: Events<I>,
        attempt: Attempt,
        pieces: &mut VecDeque<Piece>,
    ) -> Flow {
        if let Some(Producer { keep: Some(keep), .. }) = self.publishers.get(&id) {
            events = keep(events);
            self.in_hand = events.another().map(|behind| InHand { id, attempt, begun: Vec::new().into(), behind });
        }
        while let Some(piece) = pieces.pop_front() {
            let rest = if piece.events < events.len() { events.split_off(piece.events) } else { Vec::new().into() };
            let batch = Batch::new(std::mem::replace(&mut events, rest), id, attempt);
            let count = batch.len();
            self.ending.counters.events_in.add(count as u64);
            if let Some(in_hand) = &mut self.in_hand {
                in_hand.begin(count);
            }
            let span = tracing::debug_span!("stage.handle", events = count);
            let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut self.wishes, &*self.stage_ref);
            let callbacks = &mut self.callbacks;
            let handling = async { callbacks.handle_events(batch, &mut cx).instrument(span).await };
            if let Err(failure) = guarded(&self.ending.stage, handling).await {
                return ControlFlow::Break(Exit::Failed(failure));
            }
            if let Some(in_hand) = &mut self.in_hand {
                in_hand.finish();
            }
            self.after_callback()?;
            if self.state != State::Running {
                break;
            }
            if let Some(exit) = self.ending.mailbox.stopping() {
                self.lose(events.len());
                return ControlFlow::Break(exit);
            }
            if let Some(up_to) = piece.then_ask {
                self.ask(id, up_to);
            }
        }
        self.lose(events.len());
        self.in_hand = None;
        ControlFlow::Continue(())
    }

    async fn on_ended(&mut self, id: SubscriptionId, cause: EndCause) -> Flow {
        if let Some(producer) = self.publishers.remove(&id) {
            tracing::debug!(producer = producer.name, %id, %cause, "subscription ended");
        }
        if let Some(edge) = self.upstream.edge(id) {
            callback!(self, |callbacks, cx| callbacks.handle_cancel(&edge, &cause, &mut cx));
        }
        match self.upstream.ended(id, &cause) {
            AfterEnd::Live => ControlFlow::Continue(()),
            AfterEnd::Exhausted => self.on_exhausted().await,
            AfterEnd::Exit(exit) => ControlFlow::Break(exit),
        }
    }

    /// No producer is left, and everything they sent was handled.
    async fn on_exhausted(&mut self) -> Flow {
        if let Some(exit) = self.upstream.lost() {
            let failure = match exit {
                Exit::Failed(failure) => failure,
                _ => {
                    let why = "a producer was shut down before it was exhausted";
                    Failure::new(&*self.ending.stage, FailureKind::Shutdown, why)
                }
            };
            return ControlFlow::Break(Exit::Failed(failure));
        }
        if self.upstream.saw_everything() {
            callback!(self, |callbacks, cx| callbacks.handle_end(&mut cx));
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
        self.leave_producers(&Exit::Normal);
        self.infos_queued = 0;
    }

    /// Ends the stage if there is nothing left for it to do.
    async fn settle(&mut self) -> Flow {
        self.open_due().await?;
        if self.completing && self.state == State::Running {
            if self.role != Role::Consumer && self.downstream.is_abandoned() {
                // Whoever failed would have taken more: without them the work is not done.
                if let Some(failure) = self.lost_subscriber.take() {
                    return ControlFlow::Break(Exit::Failed(failure));
                }
                self.exhaust();
            } else if self.role != Role::Producer && self.upstream.is_empty() && self.arrivals.is_empty() {
                self.on_exhausted().await?;
            }
        }
        if self.state == State::Exhausted {
            let nothing_waits = self.downstream.waiting() == 0 && self.refused.is_empty();
            let delivered = self.downstream.is_delivered() && self.refused.is_empty();
            if delivered || (self.draining && nothing_waits) {
                return ControlFlow::Break(Exit::Normal);
            }
            if self.completing && self.downstream.is_abandoned() {
                return ControlFlow::Break(self.lost_subscriber.take().map_or(Exit::Normal, Exit::Failed));
            }
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

    /// Whether it waits for demand, rather than for events.
    fn is_blocked(&self) -> bool {
        match self.role {
            Role::Consumer => false,
            Role::Producer => self.downstream.owed().is_zero(),
            Role::ProducerConsumer => self.downstream.owed().is_zero() && !self.arrivals.is_empty(),
        }
    }

    /// Brings the gauges up to date, before the stage waits.
    fn show(&self) {
        let counters = &self.ending.counters;
        counters.buffered.set(self.downstream.waiting() as u64);
        counters.demand.set(self.downstream.demand().count());
        counters.outstanding.set(self.upstream.outstanding().count());
    }

    /// Keeps what was delivered and not handled, for [`leave_producers`](Self::leave_producers), and declines the rest.
    fn give_up(&mut self, received: VecDeque<Message<I, O>>, exit: &Exit) {
        for message in received {
            match message {
                Message::Deliver(id, events, attempt) => self.arrivals.push_back(Arrival::Events(id, events, attempt)),
                message => self.ending.decline(message, exit),
            }
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
        for message in self.ending.mailbox.close() {
            match message {
                Message::Deliver(id, events, attempt) => self.arrivals.push_back(Arrival::Events(id, events, attempt)),
                message => self.ending.decline(message, &exit),
            }
        }
        self.leave_producers(&exit);
        for (id, subscriber) in std::mem::take(&mut self.subscribers) {
            subscriber.ended(id, EndCause::Down(exit.clone()));
        }
        let counters = &self.ending.counters;
        let refused: usize = self.refused.values().flatten().map(|(events, _)| events.len()).sum();
        counters.discarded.add((self.downstream.waiting() + refused) as u64);
        counters.buffered.set(0);
        counters.demand.set(0);
        counters.outstanding.set(0);
        self.ending.announce(exit);
    }

    /// Cancels every subscription to a producer, and hands back what was not finished where that was asked for.
    fn leave_producers(&mut self, exit: &Exit) {
        for (id, producer) in std::mem::take(&mut self.publishers) {
            let Some(publisher) = producer.publisher else { continue };
            if producer.keep.is_none() {
                publisher.cancel(id, exit.clone());
                continue;
            }
            let mut unfinished = Vec::new();
            if let Some(in_hand) = self.in_hand.take_if(|in_hand| in_hand.id == id) {
                unfinished.extend(in_hand.unfinished());
            }
            for arrival in &mut self.arrivals {
                if let Arrival::Events(other, events, attempt) = arrival
                    && *other == id
                {
                    // It was not handled, so this was no attempt.
                    unfinished.push((std::mem::replace(events, Vec::new().into()), *attempt));
                }
            }
            unfinished.retain(|(events, _)| !events.is_empty());
            publisher.leave(id, exit.clone(), unfinished);
        }
        for arrival in std::mem::take(&mut self.arrivals) {
            if let Arrival::Events(_, events, _) = arrival {
                self.lose(events.len());
            }
        }
    }

    /// Counts events that were delivered here and that nobody will handle.
    fn lose(&self, events: usize) {
        if events > 0 && self.in_hand.is_none() {
            self.ending.counters.discarded.add(events as u64);
        }
    }
}

impl<I, O> Drop for Driver<I, O> {
    fn drop(&mut self) {
        self.end(self.ending.killed());
    }
}
