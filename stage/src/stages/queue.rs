//! [`queue`]: a producer that emits what is pushed into it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::bell::{Bell, Chime, Ring};
use crate::{Cx, Exit, Handle, Producer, Result};

/// A bounded queue, and a factory for the producer that emits what is pushed into it: the `QueueBroadcaster` of
/// GenStage's documentation.
///
/// Events wait in the queue until they are asked for, and demand waits until there are events. The queue holds
/// `capacity` events; whoever pushes more waits for a place. It ends, and with it the stream, when it is
/// [closed](Queue::close) or every [`Queue`] was dropped, and everything in it was emitted.
///
/// With [`broadcast`](crate::Stage::broadcast) each consumer is given every event. Several instances of the producer, and
/// one that is made anew after a failure, share the queue.
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Graph, Result};
/// use aqueduct_stage::stages;
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = &'static str;
/// #     async fn handle_events(&mut self, events: Batch<&'static str>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let (queue, producer) = stages::queue(100);
/// let graph = Graph::new("demo");
/// let events = graph.producer("events", producer).broadcast();
/// graph.consumer("print", || Print).subscribe(&events, 5..10);
/// let mut running = graph.start();
/// queue.push("hello").await?; // waits until a consumer has asked for it
/// queue.close();
/// running.join().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// If `capacity` is 0, or more than [`Semaphore::MAX_PERMITS`].
#[track_caller]
pub fn queue<T: Send + 'static>(
    capacity: usize,
) -> (Queue<T>, impl FnMut() -> QueueProducer<T> + Clone + Send + 'static) {
    assert!(capacity > 0, "expected a queue of at least 1 place, got 0");
    let entries = Entries { waiting: VecDeque::new(), next: 0, closed: false, hungry: Vec::new() };
    let shared = Arc::new(Shared { entries: Mutex::new(entries), places: Semaphore::new(capacity), capacity });
    let reader = Arc::new(Reader(Arc::clone(&shared)));
    (Queue { writer: Arc::new(Writer(shared)) }, move || QueueProducer { reader: Arc::clone(&reader), bell: None })
}

/// Pushes events into the [`queue`] of a producer. Cheap to clone; when the last is dropped, the queue is closed.
pub struct Queue<T: Send + 'static> {
    writer: Arc<Writer<T>>,
}

/// The stage that emits what is in a [`queue`].
pub struct QueueProducer<T: Send + 'static> {
    reader: Arc<Reader<T>>,
    bell: Option<Arc<Bell<Self, T>>>,
}

/// Closes the queue as the last who can push is dropped.
struct Writer<T: Send + 'static>(Arc<Shared<T>>);
/// Gives back what nobody will take, as the last producer and its factory are dropped.
struct Reader<T: Send + 'static>(Arc<Shared<T>>);

struct Shared<T: Send + 'static> {
    entries: Mutex<Entries<T>>,
    /// A permit for each free place.
    places: Semaphore,
    capacity: usize,
}

struct Entries<T: Send + 'static> {
    /// In the order of their numbers.
    waiting: VecDeque<Entry<T>>,
    next: u64,
    closed: bool,
    /// Producers that owe events.
    hungry: Vec<Arc<Bell<QueueProducer<T>, T>>>,
}

struct Entry<T> {
    number: u64,
    event: T,
    /// Who waits until it is taken, or is given it back.
    pusher: Option<oneshot::Sender<Result<(), T>>>,
}

impl<T: Send + 'static> Queue<T> {
    /// Pushes an event and waits until a producer has taken it out to emit it: until somebody has asked for it.
    ///
    /// Events are emitted in the order in which their pushes got a place, and those that wait for one get it in the order in
    /// which they came.
    ///
    /// # Errors
    ///
    /// [`Closed`] gives the event back: the queue was closed before there was a place for it, or the graph has ended
    /// before anybody asked for it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the event was taken, the event is withdrawn: it will not be emitted.
    pub async fn push(&self, event: T) -> Result<(), Closed<T>> {
        let shared = &self.writer.0;
        let Ok(place) = shared.places.acquire().await else { return Err(Closed(event)) };
        let (pusher, mut answer) = oneshot::channel();
        let number = match shared.enter(event, Some(pusher)) {
            Ok(number) => number,
            Err(event) => return Err(Closed(event)),
        };
        // Given back when the event is taken.
        place.forget();
        let withdrawal = Withdrawal { shared, number };
        let answer = (&mut answer).await;
        std::mem::forget(withdrawal);
        match answer {
            Ok(Err(event)) => Err(Closed(event)),
            // Who takes an entry answers.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Pushes an event if there is a place for it, and does not wait for anything.
    ///
    /// # Errors
    ///
    /// [`TryPushError`] gives the event back.
    pub fn try_push(&self, event: T) -> Result<(), TryPushError<T>> {
        let shared = &self.writer.0;
        match shared.places.try_acquire() {
            Ok(place) => {
                shared.enter(event, None).map_err(TryPushError::Closed)?;
                place.forget();
                Ok(())
            }
            Err(_) if shared.lock().closed => Err(TryPushError::Closed(event)),
            Err(_) => Err(TryPushError::Full { event, capacity: shared.capacity }),
        }
    }

    /// Takes in no more events. What is in the queue is still emitted; then the producer ends, as an exhausted one does.
    pub fn close(&self) {
        self.writer.0.close();
    }

    /// Whether no more events are taken in.
    pub fn is_closed(&self) -> bool {
        self.writer.0.lock().closed
    }

    /// How many events wait to be asked for.
    pub fn len(&self) -> usize {
        self.writer.0.lock().waiting.len()
    }

    /// Whether no event waits to be asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Send + 'static> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { writer: Arc::clone(&self.writer) }
    }
}

impl<T: Send + 'static> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, capacity) = (self.len(), self.writer.0.capacity);
        f.debug_struct("Queue").field("len", &len).field("capacity", &capacity).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Producer for QueueProducer<T> {
    type Out = T;

    async fn handle_demand(&mut self, _demand: usize, cx: &mut Cx<'_, T>) -> Result {
        self.serve(cx);
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<T: Send + 'static> Handle<Ring, T> for QueueProducer<T> {
    type Reply = ();

    async fn handle(&mut self, _: Ring, cx: &mut Cx<'_, T>) -> Result {
        if let Some(bell) = &self.bell {
            bell.answered();
        }
        self.serve(cx);
        Ok(())
    }
}

impl<T: Send + 'static> QueueProducer<T> {
    /// Emits what was asked for and is there; has itself told of what comes later.
    fn serve(&mut self, cx: &mut Cx<'_, T>) {
        let bell = self.bell.get_or_insert_with(|| Arc::new(Bell::new(cx.stage_ref::<Self>())));
        let mut entries = self.reader.0.lock();
        let count = cx.demand().min(entries.waiting.len());
        let mut taken: Vec<_> = entries.waiting.drain(..count).collect();
        let exhausted = entries.closed && entries.waiting.is_empty();
        if !exhausted && cx.demand() > count && !entries.hungry.iter().any(|other| Arc::ptr_eq(other, bell)) {
            entries.hungry.push(Arc::clone(bell));
        }
        drop(entries);
        for entry in &mut taken {
            if let Some(pusher) = entry.pusher.take() {
                // A pusher that is gone and came too late to withdraw.
                let _ = pusher.send(Ok(()));
            }
        }
        cx.emit_all(taken.into_iter().map(|entry| entry.event));
        self.reader.0.places.add_permits(count);
        if exhausted {
            cx.stop(Exit::Normal);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for QueueProducer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueProducer").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Shared<T> {
    /// Takes an event in, whose place the caller has. Returns its number, or the event if the queue is closed.
    fn enter(&self, event: T, pusher: Option<oneshot::Sender<Result<(), T>>>) -> Result<u64, T> {
        let mut entries = self.lock();
        if entries.closed {
            return Err(event);
        }
        let number = entries.next;
        entries.next += 1;
        entries.waiting.push_back(Entry { number, event, pusher });
        ring(entries);
        Ok(number)
    }

    fn close(&self) {
        let mut entries = self.lock();
        entries.closed = true;
        self.places.close();
        ring(entries);
    }

    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the producers that owe events, without the lock.
fn ring<T: Send + 'static>(mut entries: MutexGuard<'_, Entries<T>>) {
    let hungry = std::mem::take(&mut entries.hungry);
    drop(entries);
    for bell in hungry {
        bell.ring();
    }
}

/// Takes an event out of the queue again, should it still be there.
struct Withdrawal<'a, T: Send + 'static> {
    shared: &'a Shared<T>,
    number: u64,
}

impl<T: Send + 'static> Drop for Withdrawal<'_, T> {
    fn drop(&mut self) {
        let mut entries = self.shared.lock();
        let withdrawn = entries.waiting.binary_search_by_key(&self.number, |entry| entry.number);
        let entry = withdrawn.ok().and_then(|index| entries.waiting.remove(index));
        drop(entries);
        if entry.is_some() {
            self.shared.places.add_permits(1);
        }
    }
}

impl<T: Send + 'static> Drop for Writer<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T: Send + 'static> Drop for Reader<T> {
    fn drop(&mut self) {
        self.0.close();
        let left = std::mem::take(&mut self.0.lock().waiting);
        let mut lost = 0;
        for Entry { event, pusher, .. } in left {
            match pusher {
                Some(pusher) => drop(pusher.send(Err(event))),
                None => lost += 1,
            }
        }
        if lost > 0 {
            tracing::warn!(lost, "a queue's producer ended before everything in it was asked for");
        }
    }
}

/// The queue is closed. Gives back what was not taken in.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is closed")]
pub struct Closed<T>(pub T);

aqueduct_dispatcher::debug_as_sentence!(Closed<T>);

/// Why an event was not taken in. Gives it back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TryPushError<T> {
    /// Every place is taken.
    #[error("the queue's {capacity} places are taken")]
    Full {
        /// What was to be pushed.
        event: T,
        /// How many places there are.
        capacity: usize,
    },
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed(T),
}

aqueduct_dispatcher::debug_as_sentence!(TryPushError<T>);
