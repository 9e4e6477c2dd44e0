//! [`Driver`]: the task of a pool. It moves what [`Pulling`] decides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aqueduct_stage::notices::Notices;
use aqueduct_stage::{
    Answer, Attempt, ConsumerId, Demand, EndCause, Events, Exit, Failure, FailureKind, Interest, Publisher, ResultRow,
    Source, SubscribeError, Subscriber, Subscription, SubscriptionId, Window, notice,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::letters::Letters;
use super::{Edge, MAX_DEAD_LETTERS, Message, Results, Words};
use crate::pulling::rising::Rising;
use crate::pulling::{Counters, Decision, Given, Pulling, PullingOptions, Task, TaskId, WorkerId};
use crate::ranges::Ranges;

/// Everything a pool owns. When it is dropped, its subscribers and its source are told.
pub(super) struct Driver<T: Clone> {
    name: Arc<str>,
    pulling: Pulling<T>,
    workers: BTreeMap<SubscriptionId, Worker<T>>,
    /// How many they are, for their edges.
    crowd: Arc<AtomicUsize>,
    by_id: BTreeMap<WorkerId, SubscriptionId>,
    upstream: Upstream<T>,
    /// What came and has no room, with numbers: tasks that came back have taken it.
    arrivals: VecDeque<(u64, T)>,
    /// The workers that have a parcel, in the order in which that was begun.
    packed: Vec<SubscriptionId>,
    mailbox: mpsc::WeakUnboundedSender<Message<T>>,
    letters: Arc<Letters<T>>,
    counters: Arc<Mutex<Counters>>,
    /// Said before it ends, for whoever comes later.
    stops: Arc<AtomicBool>,
    notices: Notices,
    /// Answers to events that had been answered, or were never given.
    unheld: u64,
    /// The source has ended the subscription and hears what becomes of its events: nothing is given out any more.
    stopping: Option<EndCause>,
    is_over: bool,
    /// Where the results go, if workers answer with any.
    results: Option<Arc<dyn Results<T>>>,
    /// Since when the last tasks have been waiting without any worker.
    alone_since: Option<std::time::Instant>,
    /// How many of them nobody came for.
    abandoned: u64,
}

/// A subscriber.
struct Worker<T> {
    id: WorkerId,
    subscriber: Arc<dyn Subscriber<T>>,
    /// Whether it says what it has done; `None` before its first ask.
    answers: Option<bool>,
    /// How many events it was given.
    given: u64,
    /// Those that it has not answered, by their numbers on the edge. Some may be with others by now.
    open: Rising<Given>,
    /// What is given to it together with what follows.
    parcel: Option<Parcel<T>>,
    /// How many they are, for its edge.
    held: Arc<AtomicUsize>,
    /// Why it wants no more, if so: it was told that the edge has ended, and is gone when it has answered everything.
    parts: Option<Exit>,
    words: Arc<Mutex<Words>>,
}

impl<T> Worker<T> {
    fn show(&self) {
        self.held.store(self.open.len(), Ordering::Relaxed);
    }
}

/// Events of the same attempt.
struct Parcel<T> {
    attempt: Attempt,
    events: Vec<T>,
}

/// The subscription to the source. Its events are tasks by their numbers.
struct Upstream<T> {
    id: SubscriptionId,
    publisher: Option<Arc<dyn Publisher<T>>>,
    asked: u64,
    arrived: u64,
    /// Those that are done or dead.
    settled: Ranges,
    /// How many, from the first on, the source was told to be so.
    told: u64,
    /// Those behind them of which it was not told.
    untold: Vec<u64>,
    /// Those that came as another attempt than the first, and are not settled.
    again: BTreeMap<u64, Attempt>,
    ended: Option<EndCause>,
}

impl<T: Clone + Send + 'static> Driver<T> {
    pub(super) fn new(
        name: Arc<str>,
        options: PullingOptions,
        mailbox: &mpsc::UnboundedSender<Message<T>>,
        (letters, counters, stops): (Arc<Letters<T>>, Arc<Mutex<Counters>>, Arc<AtomicBool>),
        results: Option<Arc<dyn Results<T>>>,
    ) -> Self {
        let upstream = Upstream {
            id: SubscriptionId::new(),
            publisher: None,
            asked: 0,
            arrived: 0,
            settled: Ranges::default(),
            told: 0,
            untold: Vec::new(),
            again: BTreeMap::new(),
            ended: None,
        };
        let remembered = options.max_remembered.min(REMEMBERED);
        Self {
            name,
            pulling: Pulling::new(options.max_remembered(remembered)),
            workers: BTreeMap::new(),
            crowd: Arc::default(),
            by_id: BTreeMap::new(),
            upstream,
            arrivals: VecDeque::new(),
            packed: Vec::new(),
            mailbox: mailbox.downgrade(),
            letters,
            counters,
            stops,
            notices: Notices::default(),
            unheld: 0,
            stopping: None,
            is_over: false,
            results,
            alone_since: None,
            abandoned: 0,
        }
    }

    pub(super) async fn run(
        mut self,
        source: impl Source<Item = T>,
        mut messages: mpsc::UnboundedReceiver<Message<T>>,
    ) {
        let window = Window::new(0, self.pulling.room()).unwrap_or(Window::NEAR);
        let subscription = Subscription {
            id: self.upstream.id,
            consumer: ConsumerId::new(),
            options: window.into(),
            interest: Interest::ALL,
            subscriber: Arc::new(Inlet(self.mailbox.clone())),
        };
        let mut early = VecDeque::new();
        let opened = {
            let mut opening = std::pin::pin!(source.open(0, subscription));
            loop {
                tokio::select! {
                    biased;
                    opened = &mut opening => break opened,
                    message = messages.recv() => match message {
                        Some(message) => early.push_back(message),
                        // Nobody is left who could want anything.
                        None => return self.finish(None),
                    }
                }
            }
        };
        match opened {
            Ok(publisher) => {
                publisher.handled(self.upstream.id, Demand::ZERO);
                self.upstream.publisher = Some(publisher);
            }
            Err(error) => {
                let failure = Failure::new(&*self.name, FailureKind::Subscribe, error.to_string());
                self.upstream.ended = Some(EndCause::Down(Exit::Failed(failure)));
            }
        }
        for message in early {
            self.handle(message);
        }
        while !self.is_over {
            self.work();
            if self.is_over {
                break;
            }
            let letters = Arc::clone(&self.letters);
            let due = [self.pulling.poll_timeout(), self.abandons_at()].into_iter().flatten().min();
            let due = due.map(Instant::from_std);
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => self.handle(message),
                    None => self.finish(Some(EndCause::Cancelled(Exit::Shutdown))),
                },
                () = letters.taken.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            for _ in 0..MESSAGES_AT_ONCE {
                let Ok(message) = messages.try_recv() else { break };
                self.handle(message);
            }
        }
    }

    /// Takes note of what a neighbour says.
    fn handle(&mut self, message: Message<T>) {
        match message {
            Message::Open(subscription, reply) => {
                // If nobody waits for it, the edge is dropped, and that is a cancel.
                drop(reply.send(self.open(subscription)));
            }
            Message::Ask(id, up_to) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.answers.get_or_insert(false);
                    let _ = self.pulling.ask(now(), worker.id, up_to);
                }
            }
            Message::Handled(id, up_to) => self.handled(id, up_to.count()),
            Message::Answer(id, number, answer) => self.answer(id, number, answer),
            Message::Results(id, row) => self.results(id, &row),
            Message::Cancel(id, reason) => self.part(id, reason),
            Message::Words(id) => self.hear(id),
            Message::Leave(id, cause, unfinished) => self.leave(id, &cause, &unfinished),
            Message::Events(events, attempt) => {
                for event in events {
                    self.upstream.arrived += 1;
                    if attempt > Attempt::FIRST {
                        self.upstream.again.insert(self.upstream.arrived, attempt);
                    }
                    self.arrivals.push_back((self.upstream.arrived, event));
                }
            }
            Message::SourceEnded(cause) => self.upstream.ended = Some(cause),
        }
    }

    fn open(&mut self, subscription: Subscription<T>) -> Result<Edge<T>, SubscribeError> {
        let Subscription { id, interest, subscriber, .. } = subscription;
        let announces = subscriber.can_give_back();
        let refused = |reason: String| SubscribeError::Refused { at: self.name.to_string(), reason };
        if interest.selector.is_some() || interest.partition.is_some() {
            return Err(refused("tasks cannot be selected".to_owned()));
        }
        let Some(mailbox) = self.mailbox.upgrade() else { return Err(SubscribeError::Ended(self.name.to_string())) };
        let worker = self.pulling.join(now(), Demand::ZERO).map_err(|error| refused(error.to_string()))?;
        if announces {
            self.pulling.announces(worker);
        }
        self.by_id.insert(worker, id);
        let (held, words) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Words>>::default());
        let (edge_held, edge_words) = (Arc::clone(&held), Arc::clone(&words));
        let (given, open, parcel) = (0, Rising::default(), None);
        self.workers.insert(
            id,
            Worker { id: worker, subscriber, answers: None, given, open, parcel, held, parts: None, words },
        );
        self.crowd.store(self.workers.len(), Ordering::Relaxed);
        Ok(Edge { id, mailbox, held: edge_held, crowd: Arc::clone(&self.crowd), words: edge_words })
    }

    /// A worker has done its first `up_to` events, if it has not answered some of them otherwise.
    fn handled(&mut self, id: SubscriptionId, up_to: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.answers.get_or_insert(true);
        let done: Vec<_> = std::iter::from_fn(|| worker.open.pop_up_to(up_to)).collect();
        worker.show();
        for given in done {
            self.acknowledge(given, None);
        }
        self.leave_if_done(id);
    }

    /// Takes some of what a worker has said of events that it works on; the rest in its turn, so that a worker which has much
    /// to say does not hold up the others.
    fn hear(&mut self, id: SubscriptionId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (words, are_more) = worker.words.lock().unwrap_or_else(PoisonError::into_inner).take(WORDS_AT_ONCE);
        if are_more && let Some(mailbox) = self.mailbox.upgrade() {
            let _ = mailbox.send(Message::Words(id));
        }
        for (number, answer) in words {
            // It may have been answered since.
            let Some(given) = worker.open.get(number).copied() else { continue };
            let Given { worker, task, attempt, .. } = given;
            // What is refused has been counted.
            let _ = match answer {
                Answer::Begun => self.pulling.begin(now(), worker, task, attempt),
                _ => self.pulling.progress(now(), worker, task, attempt),
            };
        }
    }

    fn answer(&mut self, id: SubscriptionId, number: u64, answer: Answer) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let given = worker.open.remove(number);
        worker.show();
        let Some(given) = given else {
            // What was given back is let go of later, which is said again.
            self.unheld += u64::from(answer != Answer::Returned);
            return;
        };
        let Given { worker, task, attempt, .. } = given;
        // What is refused has been counted.
        let _ = match answer {
            Answer::Done => {
                self.acknowledge(given, None);
                Ok(())
            }
            Answer::DoneWith(result) => {
                self.acknowledge(given, Some(&result));
                Ok(())
            }
            Answer::Retry { delay, message } => self.pulling.nack(now(), worker, task, attempt, delay, &message),
            Answer::GiveUp { message } => self.pulling.terminate(now(), worker, task, attempt, &message),
            _ => self.pulling.give_back(now(), worker, task, attempt),
        };
        self.leave_if_done(id);
    }

    /// What came of events that a worker has done.
    fn results(&mut self, id: SubscriptionId, row: &ResultRow) {
        for (number, result) in row.iter() {
            let Some(worker) = self.workers.get_mut(&id) else { return };
            match worker.open.remove(number) {
                Some(given) => self.acknowledge(given, Some(result)),
                None => self.unheld += 1,
            }
        }
        if let Some(worker) = self.workers.get(&id) {
            worker.show();
        }
        self.leave_if_done(id);
    }

    /// A worker wants no more. What it was given it still answers.
    fn part(&mut self, id: SubscriptionId, reason: Exit) {
        // What has been decided goes out before it is told of the end.
        self.carry_out();
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.parts.is_none()) else { return };
        self.pulling.retire(now(), worker.id);
        worker.subscriber.ended(id, EndCause::Cancelled(reason.clone()));
        worker.parts = Some(reason);
        self.leave_if_done(id);
    }

    fn leave_if_done(&mut self, id: SubscriptionId) {
        let worker = self.workers.get(&id).filter(|worker| worker.open.len() == 0);
        if let Some(reason) = worker.and_then(|worker| worker.parts.clone()) {
            self.leave(id, &EndCause::Cancelled(reason), &[]);
        }
    }

    fn acknowledge(&mut self, given: Given, result: Option<&[u8]>) {
        let Given { worker, task, attempt, .. } = given;
        let (pulling, upstream) = (&mut self.pulling, &mut self.upstream);
        let mut counts = || match pulling.acknowledge(now(), worker, task, attempt) {
            Ok(_) => {
                upstream.settle(task);
                true
            }
            Err(error) => {
                tracing::debug!(pool = &*self.name, %error, "answer refused");
                false
            }
        };
        let Some(results) = &self.results else {
            counts();
            return;
        };
        if let Err(message) = results.take(task, result, &mut counts) {
            notice!(self.notices, warn, "not a result", pool = &*self.name, %worker, %task, message);
            // What is refused has been counted.
            let _ = self.pulling.nack(now(), worker, task, attempt, NO_DELAY, &message);
        }
    }

    /// A worker leaves. What it had goes to others; for what it had begun with, that was an attempt.
    fn leave(&mut self, id: SubscriptionId, cause: &EndCause, unfinished: &[(usize, Attempt)]) {
        // What has been decided goes out before, so that it is known to come too late.
        self.carry_out();
        let Some(worker) = self.workers.remove(&id) else { return };
        self.by_id.remove(&worker.id);
        self.crowd.store(self.workers.len(), Ordering::Relaxed);
        let events = worker.open.len();
        let next = unfinished.iter().flat_map(|(count, next)| std::iter::repeat_n(*next, *count));
        let said = worker.open.iter().map(|(_, given)| *given).zip(next);
        let (begun, untouched): (Vec<_>, Vec<_>) = said.partition(|(given, next)| *next > given.attempt);
        self.pulling.hand_back(now(), worker.id, untouched.iter().map(|(given, _)| (given.task, given.attempt)));
        if let EndCause::Down(exit @ Exit::Failed(_)) = cause {
            notice!(self.notices, info, "worker lost", pool = &*self.name, %exit, events);
            self.pulling.lost(now(), worker.id);
        } else {
            for (Given { task, attempt, .. }, _) in begun {
                let _ = self.pulling.nack(now(), worker.id, task, attempt, NO_DELAY, "its worker ended");
            }
            self.pulling.leave(now(), worker.id);
        }
        if worker.parts.is_none() {
            worker.subscriber.ended(id, EndCause::Cancelled(cause.reason().clone()));
        }
    }

    /// Does everything that can be done now.
    fn work(&mut self) {
        if self.pulling.poll_timeout().is_some_and(|due| due <= now()) {
            self.pulling.handle_timeout(now());
        }
        match self.upstream.ended.take_if(|cause| !cause.is_exhausted()) {
            Some(cause @ EndCause::Cancelled(_)) if self.stopping.is_none() => self.stop(cause),
            Some(cause) => return self.finish(Some(cause)),
            None => {}
        }
        let now = now();
        loop {
            self.push(now);
            if self.upstream.ended.is_some() && self.arrivals.is_empty() {
                self.pulling.close(now, None);
                self.wait_for_workers();
            }
            self.carry_out();
            // What was given out may have made room.
            if self.arrivals.is_empty() || self.pulling.room() == 0 {
                break;
            }
        }
        if let Some(results) = &self.results {
            results.flush(self.upstream.arrived);
        }
        self.upstream.tell();
        self.show();
        if self.pulling.is_closed() {
            let cause = self.stopping.clone().unwrap_or(EndCause::Down(Exit::Normal));
            return self.finish(Some(cause));
        }
        // Whoever takes results bounds how many events are open, those that are dead and not looked at included.
        let is_full = self.results.is_none() && self.letters.waiting() >= MAX_DEAD_LETTERS;
        let room = if is_full { 0 } else { self.pulling.room().saturating_sub(self.arrivals.len()) };
        self.upstream.ask(room as u64);
    }

    /// Takes in what has arrived, as far as there is room.
    fn push(&mut self, now: std::time::Instant) {
        while self.pulling.room() > 0
            && let Some((number, event)) = self.arrivals.pop_front()
        {
            let before = self.upstream.again.get(&number).map_or(0, |attempt| attempt.number() - 1);
            let key = self.results.as_ref().and_then(|results| results.key(&event));
            let task = Task::new(number, event).attempts_made(before);
            let task = if let Some(key) = key { task.key(key.to_le_bytes()) } else { task };
            let pushed = self.pulling.push(now, task);
            debug_assert!(pushed.is_ok(), "there is room, and each number comes once");
        }
    }

    /// Lets workers bring to an end what they have begun with, and takes the rest back for the source.
    fn stop(&mut self, cause: EndCause) {
        self.pulling.stop(now());
        // Who cannot be asked for single events gives back what he has not begun with when he hears of the end.
        let others = self.workers.iter().filter(|(_, worker)| !worker.subscriber.can_give_back());
        for id in others.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.part(id, early(&cause));
        }
        self.stopping = Some(cause);
        self.stops.store(true, Ordering::Relaxed);
    }

    /// Gives up the last tasks if there has been no worker for too long.
    fn wait_for_workers(&mut self) {
        if !self.workers.is_empty() || self.pulling.is_closed() {
            self.alone_since = None;
            return;
        }
        self.alone_since.get_or_insert_with(now);
        if self.abandons_at().is_some_and(|until| until <= now()) {
            self.abandoned = self.pulling.waiting() as u64;
            self.pulling.close(now(), Some(NO_DELAY));
            self.pulling.handle_timeout(now());
        }
    }

    fn abandons_at(&self) -> Option<std::time::Instant> {
        self.alone_since?.checked_add(self.results.as_ref()?.patience()?)
    }

    fn carry_out(&mut self) {
        loop {
            match self.pulling.poll_decision() {
                Some(Decision::Assign(given)) => self.assign(given),
                Some(Decision::Dead(letter)) => {
                    let (pool, task, reason) = (&*self.name, letter.task, &letter.reason);
                    notice!(self.notices, warn, "dead letter", pool, %task, %reason);
                    self.upstream.settle(letter.task);
                    if let Some(results) = &self.results {
                        results.dead(&letter);
                    }
                    self.letters.push(letter);
                }
                Some(Decision::Revoke(given)) => {
                    // Behind the event itself.
                    self.deliver_all();
                    self.tell(given, |subscriber, id, number| subscriber.revoke(id, number));
                }
                Some(Decision::Expired(given)) => {
                    let Given { worker, task, attempt, .. } = given;
                    let (pool, attempt) = (&*self.name, attempt.number());
                    notice!(self.notices, info, "not answered", pool, %worker, %task, attempt);
                    self.tell(given, |subscriber, id, number| subscriber.expired(id, number));
                }
                Some(Decision::Closed) => {}
                // What is delivered may be done by that, and decide more.
                None if !self.packed.is_empty() => self.deliver_all(),
                None => return,
            }
        }
    }

    fn assign(&mut self, given: Given) {
        let Some(id) = self.by_id.get(&given.worker).copied() else { return };
        let Some(event) = self.pulling.payload(given.task).cloned() else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let fits = |parcel: &Parcel<T>| parcel.attempt == given.attempt && parcel.events.len() < EVENTS_AT_ONCE;
        if !worker.parcel.as_ref().is_none_or(fits) {
            self.deliver(id);
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.given += 1;
        worker.open.push(worker.given, given);
        let parcel = worker.parcel.get_or_insert_with(|| {
            self.packed.push(id);
            Parcel { attempt: given.attempt, events: Vec::with_capacity(FEW_EVENTS) }
        });
        parcel.events.push(event);
    }

    /// Tells a worker something of an event that it was given.
    fn tell(&self, given: Given, tell: impl FnOnce(&dyn Subscriber<T>, SubscriptionId, u64)) {
        let Some(id) = self.by_id.get(&given.worker) else { return };
        let Some(worker) = self.workers.get(id) else { return };
        // What waits was given last.
        if let Some((number, _)) = worker.open.iter().rev().find(|(_, open)| **open == given) {
            tell(&*worker.subscriber, *id, number);
        }
    }

    /// Gives each worker what was decided for it.
    fn deliver_all(&mut self) {
        for id in std::mem::take(&mut self.packed) {
            self.deliver(id);
        }
    }

    fn deliver(&mut self, id: SubscriptionId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(Parcel { attempt, events }) = worker.parcel.take() else { return };
        let count = events.len() as u64;
        let is_delivered = worker.subscriber.try_deliver(id, events.into(), attempt).is_ok();
        if !is_delivered {
            // It has ended, and leaves at once. It cannot have begun with these.
            let numbers = worker.given + 1 - count..=worker.given;
            let untouched: Vec<_> = numbers.filter_map(|number| worker.open.remove(number)).collect();
            worker.show();
            let untouched = untouched.iter().map(|given| (given.task, given.attempt));
            self.pulling.hand_back(now(), worker.id, untouched);
        } else if worker.answers == Some(false) {
            let taken = std::mem::take(&mut worker.open);
            worker.show();
            for (_, given) in taken.iter() {
                self.acknowledge(*given, None);
            }
        } else {
            worker.show();
        }
    }

    fn show(&self) {
        let mut counters = self.pulling.counters();
        counters.not_held += self.unheld;
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }
}

impl<T: Clone> Driver<T> {
    /// Ends the pool: tells the subscribers `cause`, and hands back what is left to a source that has not ended.
    fn finish(&mut self, cause: Option<EndCause>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let left = self.pulling.waiting() + self.pulling.in_flight() + self.arrivals.len();
        if left > 0 && self.stopping.is_some() {
            tracing::info!(pool = &*self.name, left, "gives tasks back to its source");
        } else if left > 0 {
            tracing::warn!(pool = &*self.name, left, "ends with tasks left");
        }
        let cause = cause.unwrap_or(EndCause::Cancelled(Exit::Shutdown));
        self.upstream.tell();
        if let Some(publisher) = self.upstream.publisher.take() {
            let unfinished = self.unfinished();
            let is_early = !unfinished.is_empty() || self.upstream.ended.is_none();
            if is_early {
                publisher.leave(self.upstream.id, cause.clone(), unfinished);
            }
        }
        let exit = early(&cause);
        for (id, worker) in std::mem::take(&mut self.workers) {
            if worker.parts.is_none() {
                worker.subscriber.ended(id, EndCause::Down(exit.clone()));
            }
        }
        self.letters.end();
        if let Some(results) = self.results.take() {
            results.ended(&cause, self.abandoned);
        }
    }

    /// What is neither done nor dead, in the order of the source, with the attempt that is to follow. Says which of it somebody
    /// has begun with.
    fn unfinished(&mut self) -> Vec<(Events<T>, Attempt)> {
        let mut waiting: BTreeMap<_, _> = self.arrivals.drain(..).collect();
        let gaps = self.upstream.settled.gaps(1, self.upstream.arrived);
        let numbers = gaps.into_iter().flat_map(|(first, last)| first..=last);
        let event = |number| {
            let task = TaskId::from(number);
            let came_as = self.upstream.again.get(&number).copied().unwrap_or(Attempt::FIRST);
            if let Some(event) = waiting.remove(&number) {
                return Some((vec![event].into(), came_as));
            }
            let (event, next) = (self.pulling.payload(task)?.clone(), self.pulling.next_attempt(task)?);
            if next > came_as
                && let Some(results) = &self.results
            {
                results.begun(task);
            }
            Some((vec![event].into(), next))
        };
        numbers.filter_map(event).collect()
    }
}

impl<T: Clone> Drop for Driver<T> {
    fn drop(&mut self) {
        let failure = Failure::new(&*self.name, FailureKind::Killed, "the pool was dropped");
        self.finish(Some(EndCause::Down(Exit::Failed(failure))));
    }
}

impl<T> Upstream<T> {
    /// A task is done or dead.
    fn settle(&mut self, task: TaskId) {
        if let Ok(number) = u64::try_from(task.number()) {
            self.settled.add(number);
            self.again.remove(&number);
            if number > self.settled.prefix() {
                self.untold.push(number);
            }
        }
    }

    /// Tells the source what it need not keep: everything up to some event, and what is done behind one that is not.
    fn tell(&mut self) {
        let Some(publisher) = &self.publisher else { return };
        if self.settled.prefix() > self.told {
            self.told = self.settled.prefix();
            publisher.handled(self.id, Demand::new(self.told));
        }
        for number in self.untold.drain(..).filter(|number| *number > self.told) {
            publisher.answer(self.id, number, Answer::Done);
        }
    }

    /// Asks the source, when less than half of what there is room for is on its way.
    fn ask(&mut self, room: u64) {
        let on_its_way = self.asked - self.arrived.min(self.asked);
        if let Some(publisher) = &self.publisher
            && room > on_its_way
            && on_its_way <= room / 2
        {
            self.asked = self.arrived + room;
            publisher.ask(self.id, Demand::new(self.asked));
        }
    }
}

/// The subscriber that the source sees.
struct Inlet<T>(mpsc::WeakUnboundedSender<Message<T>>);

impl<T> Inlet<T> {
    /// A pool that is gone has left.
    fn send(&self, message: Message<T>) {
        if let Some(mailbox) = self.0.upgrade() {
            let _ = mailbox.send(message);
        }
    }
}

impl<T: Send> Subscriber<T> for Inlet<T> {
    fn deliver(&self, _: SubscriptionId, events: Events<T>, attempt: Attempt) {
        self.send(Message::Events(events, attempt));
    }

    fn ended(&self, _: SubscriptionId, cause: EndCause) {
        self.send(Message::SourceEnded(cause));
    }
}

/// With what subscribers are told of an end. What is not the end of the data must not look like it.
fn early(cause: &EndCause) -> Exit {
    match cause {
        EndCause::Cancelled(Exit::Normal) => Exit::Shutdown,
        other => other.reason().clone(),
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

const NO_DELAY: std::time::Duration = std::time::Duration::ZERO;
/// Ended events that are remembered, to tell a late answer from one that was made up: few, so that they stay at hand.
const REMEMBERED: usize = 1024;
/// Messages that are taken before what they bring about is carried out: a batch, and not so many that a timer is late.
const MESSAGES_AT_ONCE: usize = 256;
/// Words on events that are taken at a time.
const WORDS_AT_ONCE: usize = 256;
/// How many events a parcel has room for at first.
const FEW_EVENTS: usize = 16;
/// What is delivered together: about a frame of small events.
const EVENTS_AT_ONCE: usize = 512;
