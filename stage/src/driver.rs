//! [`Driver`]: the one task of a stage. It receives, hands on to the pure halves, and carries out what they answer.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;

use aqueduct_dispatcher::{Attempt, Decision, Demand, Events, Keep, Marker, SubscriptionId, Window};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::by_id::ById;
use crate::callbacks::{Callbacks, guarded, guarded_now};
use crate::context::Wishes;
use crate::counters::EdgeCounters;
use crate::downstream::{Downstream, Unfinished};
use crate::ending::Ending;
use crate::handle::{Letter, Post, Status};
use crate::lifecycle::{Lifecycle, Step, WorkLeft};
use crate::mailbox::{Message, Opening, Renews};
use crate::role::Role;
use crate::upstream::{AfterEnd, Upstream};
use crate::waiting::{Halves, WaitingFor};
use crate::{
    Batch, Cx, Edge, EndCause, Exit, Failure, FailureKind, Mode, Peer, Publisher, Refusal, Subscriber, Subscription,
};

/// Everything a running stage owns.
///
/// It ends in one of three ways: by its own decision, by the graph's, or by being dropped, which counts as killed.
/// Whichever it is, every neighbour is told and the outcome is reported, once.
///
/// It is generic in the user's stage, so that the futures of callbacks need no boxes. What happens with every batch is
/// in line; what is rare is boxed, which keeps a stage that waits small.
pub(crate) struct Driver<C: Callbacks> {
    ending: Ending<C::In, C::Out>,
    callbacks: C,
    stage_ref: Arc<dyn std::any::Any + Send + Sync>,
    wishes: Wishes,

    upstream: Upstream,
    producers: ById<Producer<C::In>>,
    /// A producer-consumer's in-queue: worked off only while there is demand.
    arrivals: VecDeque<Arrival<C::In, C::Out>>,
    /// How many of the arrivals are infos.
    infos_queued: usize,
    /// The arrival that is being handled, if it is to be handed back should the stage fail.
    in_hand: Option<InHand<C::In>>,

    downstream: Downstream<C::Out>,
    keep: Keep,
    subscribers: ById<Consumer<C::Out>>,
    out: Vec<C::Out>,
    /// Infos that wait for their place in the buffer.
    marked: BTreeMap<Marker, Box<dyn Letter<C::Out>>>,
    /// Infos whose turn has come.
    due: VecDeque<Box<dyn Letter<C::Out>>>,

    lifecycle: Lifecycle,
    /// What was taken from the mailbox and is not handled yet.
    received: VecDeque<Message<C::In, C::Out>>,
    /// There may be more to ask of the callback: nobody wanted what it emitted, several asks were kept, or it wants to be
    /// asked again. It is asked after whatever else has arrived.
    demand_left: bool,
}

/// A producer this stage is subscribed to.
struct Producer<I> {
    /// What it is called, for reports.
    name: Arc<str>,
    is_far: bool,
    is_outside: bool,
    /// How the edge ended, if that was before it was known to be made.
    ended_early: Option<EndCause>,
    /// There once the subscription is made.
    publisher: Option<Arc<dyn Publisher<I>>>,
    keep: Option<fn(Events<I>) -> Events<I>>,
    /// Dropped when nothing of the edge is in hand any more, for whoever takes its place.
    replaced: Option<oneshot::Sender<()>>,
    /// What was asked of it, and how many of its events were handled.
    counters: Arc<EdgeCounters>,
}

/// A consumer that is subscribed to this stage.
struct Consumer<O> {
    subscriber: Arc<dyn Subscriber<O>>,
    /// What it has asked for, and how many events it was given.
    counters: Arc<EdgeCounters>,
    /// What it has not handled others could have.
    is_shared: bool,
}

/// Something that keeps its place in a producer-consumer's in-queue.
enum Arrival<I, O> {
    Events(SubscriptionId, Events<I>, Attempt),
    Ended(SubscriptionId, EndCause),
    Info(Box<dyn Letter<O>>),
}

/// `Break` carries the reason for which the stage ends.
type Flow = ControlFlow<Exit>;

/// Calls a callback with everything that it may touch, and turns its failure into the end of the stage.
macro_rules! callback {
    ($driver:ident, |$callbacks:ident, $cx:ident| $call:expr) => {{
        let mut $cx = Cx::new(&mut $driver.out, $driver.downstream.owed(), &mut $driver.wishes, &*$driver.stage_ref);
        let $callbacks = &mut $driver.callbacks;
        match guarded(&$driver.ending.stage, || $call).await {
            Ok(answer) => answer,
            Err(failure) => return ControlFlow::Break(Exit::Failed(failure)),
        }
    }};
}

mod consuming;
mod ending;
mod polling;
mod producing;

use consuming::InHand;

impl<C: Callbacks> Driver<C> {
    pub(crate) fn new(
        ending: Ending<C::In, C::Out>,
        callbacks: C,
        stage_ref: Arc<dyn std::any::Any + Send + Sync>,
        downstream: Downstream<C::Out>,
        keep: Keep,
    ) -> Self {
        Self {
            ending,
            callbacks,
            stage_ref,
            wishes: Wishes::default(),
            upstream: Upstream::default(),
            producers: ById::new(),
            arrivals: VecDeque::new(),
            infos_queued: 0,
            in_hand: None,
            downstream,
            keep,
            subscribers: ById::new(),
            out: Vec::new(),
            marked: BTreeMap::new(),
            due: VecDeque::new(),
            lifecycle: Lifecycle::new(C::ROLE),
            received: VecDeque::new(),
            demand_left: false,
        }
    }

    /// Runs the stage to its end.
    pub(crate) async fn run(&mut self) {
        let exit = self.serve().await;
        let exit = Box::pin(self.terminate(exit)).await;
        self.end(exit);
    }

    async fn serve(&mut self) -> Exit {
        loop {
            self.receive().await;
            if let ControlFlow::Break(exit) = self.work().await {
                return exit;
            }
        }
    }

    /// Waits until there is something to do.
    async fn receive(&mut self) {
        let letters = self.infos_queued + self.marked.len();
        let (driver, mut waiting, mut has_stood_back) = (&mut *self, None, false);
        let waited = poll_fn(move |cx| match driver.ending.mailbox.poll_take(cx, &mut driver.received, letters) {
            Poll::Pending if !driver.demand_left => {
                // Whoever has it polled a second time has woken it: the callbacks, if not the mailbox.
                if C::POLLED && waiting.is_some() {
                    return Poll::Ready(waiting.take());
                }
                if waiting.is_none() {
                    driver.show();
                    let is_blocked = driver.is_blocked();
                    waiting = Some(driver.ending.counters.wait(is_blocked));
                    if !is_blocked && driver.upstream.is_growing() {
                        driver.upstream.waits(Instant::now());
                    }
                }
                Poll::Pending
            }
            // Consumers that were just given something may ask at once: their asks are better answered together.
            Poll::Pending if driver.downstream.gathers_asks() && !has_stood_back => {
                has_stood_back = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(waiting.take()),
        });
        if let Some(waiting) = waited.await {
            self.ending.counters.waited(waiting);
            if self.upstream.is_growing() {
                self.upstream.goes_on(Instant::now());
            }
        }
    }

    /// Handles what was received, and then asks the callback for what is still wanted.
    async fn work(&mut self) -> Flow {
        loop {
            // However much there is to do, others have their turn: otherwise a producer would answer all its consumers,
            // and fill the memory, before the first of them runs.
            tokio::task::consume_budget().await;
            if let Some(exit) = self.ending.mailbox.stopping() {
                return ControlFlow::Break(exit);
            }
            match self.received.pop_front() {
                Some(Message::Deliver(id, events, attempt)) if C::ROLE == Role::Consumer => {
                    self.handle_events(id, events, attempt).await?;
                }
                Some(Message::Deliver(id, events, attempt)) => {
                    self.queue(Arrival::Events(id, events, attempt)).await?;
                }
                Some(Message::Ask(id, up_to)) => {
                    if let Some(consumer) = self.subscribers.get(id) {
                        consumer.counters.asked.set(up_to.count());
                    }
                    self.downstream.ask(id, up_to);
                    let another_follows = matches!(self.received.front(), Some(Message::Ask(..)));
                    if another_follows && self.downstream.gathers_asks() {
                        continue;
                    }
                    self.on_demand().await?;
                }
                Some(message) => Box::pin(self.handle(message)).await?,
                None => break,
            }
            if self.may_settle() {
                Box::pin(self.settle()).await?;
            }
        }
        if std::mem::take(&mut self.demand_left) {
            self.on_demand().await?;
            if self.may_settle() {
                Box::pin(self.settle()).await?;
            }
        }
        if C::POLLED {
            self.demand_left |= self.poll_events().await?;
        }
        ControlFlow::Continue(())
    }

    /// Handles what is not sent with every batch.
    async fn handle(&mut self, message: Message<C::In, C::Out>) -> Flow {
        match message {
            Message::Deliver(..) | Message::Ask(..) => unreachable!("they are handled where they are received"),
            Message::Subscribe(subscription) => self.on_subscribe(*subscription).await,
            Message::Handled(id, up_to) => {
                self.downstream.handled(id, up_to);
                if let Some(Consumer { counters, is_shared: true, .. }) = self.subscribers.get_mut(id) {
                    counters.shares(up_to.count());
                }
                ControlFlow::Continue(())
            }
            Message::Cancel(id, reason) => self.part(id, reason).await,
            Message::Leave(id, cause, unfinished) => self.leave(id, cause, unfinished).await,
            Message::Opening(opening) => {
                let Opening { id, to, is_far, is_outside, window, grows_to, cancel, keep, renews } = *opening;
                self.upstream.subscribe(id, window, cancel);
                if let Some(most) = grows_to {
                    self.upstream.let_grow(id, most);
                }
                if let Some(Renews { former }) = renews {
                    self.upstream.renew(id, former);
                }
                let counters = self.ending.counters.edges.to_producer(id, Arc::clone(&to));
                counters.window.set(window.max().count());
                let (ended_early, publisher, replaced) = (None, None, None);
                let producer =
                    Producer { name: to, is_far, is_outside, ended_early, publisher, keep, replaced, counters };
                self.producers.insert(id, producer);
                ControlFlow::Continue(())
            }
            Message::Opened(id, Ok(publisher)) => {
                self.on_opened(id, publisher).await?;
                match self.producers.get_mut(id).and_then(|producer| producer.ended_early.take()) {
                    Some(cause) => self.on_producer_ended(id, cause).await,
                    None => ControlFlow::Continue(()),
                }
            }
            Message::Opened(id, Err(error)) => {
                let failure = Failure::at(&self.ending.stage, FailureKind::Subscribe, error.to_string());
                self.on_ended(id, EndCause::Down(Exit::Failed(failure))).await
            }
            Message::Ended(id, cause) => self.on_producer_ended(id, cause).await,
            Message::Unsubscribe(id, reason, replaced) => {
                if replaced.is_some() {
                    self.upstream.abandon(id);
                }
                if let Some(producer) = self.producers.get_mut(id).filter(|producer| producer.keep.is_some()) {
                    // What it gave is handled, or handed back, before another takes its place.
                    producer.replaced = replaced;
                    return self.cancel(id, reason).await;
                }
                let flow = self.cancel(id, reason).await;
                drop(replaced);
                flow
            }
            Message::Post(post) => self.on_post(post).await,
            Message::Drain => {
                let step = self.lifecycle.drain();
                self.follow(step)?;
                self.downstream.hold_nothing_back();
                self.leave_outside_producers().await?;
                self.on_demand().await
            }
            Message::Complete => {
                self.lifecycle.complete();
                ControlFlow::Continue(())
            }
        }
    }

    /// Its end waits until it is known to be made: with that, a far one says how many there are beside it.
    async fn on_producer_ended(&mut self, id: SubscriptionId, cause: EndCause) -> Flow {
        match (self.producers.get_mut(id), C::ROLE) {
            (Some(producer), _) if producer.is_far && producer.publisher.is_none() => {
                producer.ended_early = Some(cause);
                ControlFlow::Continue(())
            }
            // Nothing more is handled: with this, everything is here that is to be handed back.
            _ if !self.lifecycle.is_running() => {
                self.leave_producer(id, &EndCause::Cancelled(cause.reason().clone()));
                ControlFlow::Continue(())
            }
            (_, Role::Consumer) => self.on_ended(id, cause).await,
            (Some(producer), _) => {
                producer.counters.left.set(1);
                self.queue(Arrival::Ended(id, cause)).await
            }
            _ => self.queue(Arrival::Ended(id, cause)).await,
        }
    }

    async fn on_post(&mut self, post: Post<C::Out>) -> Flow {
        match post {
            Post::Letter(_) | Post::Info(_) if !self.lifecycle.is_running() => ControlFlow::Continue(()),
            Post::Letter(letter) => {
                self.open(letter).await?;
                // What it emitted may have found nobody who wants it.
                self.on_demand().await
            }
            Post::Info(letter) => match C::ROLE {
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

    async fn open(&mut self, letter: Box<dyn Letter<C::Out>>) -> Flow {
        let mut cx = Cx::new(&mut self.out, self.downstream.owed(), &mut self.wishes, &*self.stage_ref);
        let reply = match guarded(&self.ending.stage, || letter.open(self.callbacks.stage(), &mut cx)).await {
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

    /// Whether [`settle`](Self::settle) has anything to do: after most messages it has not.
    fn may_settle(&self) -> bool {
        !self.due.is_empty() || self.lifecycle.may_end(!self.upstream.is_empty(), self.downstream.is_abandoned())
    }

    /// Ends the stage if there is nothing left for it to do.
    async fn settle(&mut self) -> Flow {
        self.open_due().await?;
        loop {
            match self.lifecycle.next(self.work_left()) {
                Step::Live => return ControlFlow::Continue(()),
                Step::ProducersAreOver => self.on_producers_over().await?,
                step => self.follow(step)?,
            }
        }
    }

    /// What is left to do.
    fn work_left(&self) -> WorkLeft {
        WorkLeft {
            has_producers: !self.upstream.is_empty(),
            has_arrivals: !self.arrivals.is_empty(),
            is_left_alone: self.downstream.is_abandoned(),
            is_delivered: self.downstream.is_delivered(),
            has_events: self.downstream.waiting() > 0,
            may_come_back: self.downstream.may_come_back(),
        }
    }

    /// Does what was decided about the end of the stage, where that takes no callback.
    fn follow(&mut self, step: Step) -> Flow {
        match step {
            Step::Live | Step::ProducersAreOver => {}
            Step::Exhaust => self.exhaust(),
            Step::End(exit) => return ControlFlow::Break(exit),
        }
        ControlFlow::Continue(())
    }

    async fn terminate(&mut self, exit: Exit) -> Exit {
        let callbacks = &mut self.callbacks;
        let goodbye = async {
            callbacks.terminate(&exit).await;
            Ok(())
        };
        let failure = guarded(&self.ending.stage, || goodbye).await.err();
        Lifecycle::after_goodbye(exit, failure)
    }

    /// Whether it waits for demand, rather than for events.
    fn is_blocked(&self) -> bool {
        match C::ROLE {
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
        counters.gives_to_all.set(self.downstream.gives_to_all().into());
        counters.outstanding.set(self.upstream.outstanding().count());
        counters.waits.begin(self.waits_for());
    }

    fn waits_for(&self) -> WaitingFor {
        let is_exhausted = self.lifecycle.is_exhausted();
        let name = |id| self.producers.get(id).map(|producer| Arc::clone(&producer.name));
        WaitingFor::of(Halves {
            role: C::ROLE,
            is_exhausted,
            has_arrivals: !self.arrivals.is_empty(),
            downstream: if C::ROLE == Role::Consumer { None } else { self.downstream.waits_for(is_exhausted) },
            upstream: self.upstream.waits_for(name),
        })
    }
}
