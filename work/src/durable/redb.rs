//! Positions and queues in a redb file.

mod effects;
mod file;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aqueduct_stage::BoxError;
use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};
use tokio::sync::Notify;

use super::{Numbered, Positions, Queue, QueueEntry, QueueId, StoreError};
use crate::bugs::bug;
use effects::call;
use file::{Index, Inner, storage};
use records::{ATTEMPTS, Attempts, ENTRIES, POSITIONS, Payload, Position, Tally, put_position, remove_position};

/// A file with any number of positions and queues, which survive the process, also one that is killed, and the machine.
///
/// Every change is a transaction that is on the disk (fsync) when the call returns. That takes the disk's time, so hand
/// over entries in batches. The work is done on tokio's threads for blocking work, one call at a time, and never holds
/// up the runtime; it must be called on a tokio runtime. Cloning gives another handle to the same file. Only one process
/// can have it open. When the last handle is dropped, and those of its queues and of their sources, it is closed a little
/// later; [`close`](Self::close) waits for that.
///
/// Each entry and each position has a checksum (xxh3), and a file that was damaged is an error:
/// [`StoreError::Damaged`] where a checksum tells, [`StoreError::Storage`] where redb cannot read the file. What effects
/// write to tables of their own has none.
///
/// ```
/// use aqueduct_work::{Positions, Queue, RedbStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("aqueduct-doc-{}.redb", std::process::id()));
/// let store = RedbStore::open(&path).await?;
/// store.positions().store("orders to billing", 17).await?;
/// store.queue("mails", 1_000_000).push(vec!["a letter".into()]).await?;
/// store.close().await;
///
/// let store = RedbStore::open(&path).await?;
/// assert_eq!(store.positions().position("orders to billing").await?, Some(17));
/// assert_eq!(store.queue("mails", 1_000_000).take(10).await?[0].payload, "a letter");
/// # store.close().await;
/// # std::fs::remove_file(path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RedbStore {
    inner: Arc<Mutex<Inner>>,
    /// Something may wait in one of the queues that did not.
    arrived: Arc<Notify>,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Storage`] if it cannot be opened, for instance because another process has it open;
    /// [`StoreError::Format`] if another version wrote it, [`StoreError::Damaged`] if a position is not as it was written.
    ///
    /// # Cancel safety
    ///
    /// On cancel the file may have been made.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let inner = Inner::new(path.as_ref().to_owned());
        let store = Self { inner: Arc::new(Mutex::new(inner)), arrived: Arc::default() };
        store.run(|_| Ok(())).await?;
        Ok(store)
    }

    /// Closes the file, for all handles and for everything that was made of them, and returns when another one can open it.
    /// Calls that are under way end before; later ones fail with [`StoreError::Closed`], and a source or a channel that
    /// still uses one of its queues ends with that. End those before: a graph that has been shut down, or has run to its
    /// end, has told its queues everything.
    ///
    /// # Cancel safety
    ///
    /// On cancel it is closed a little later.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        let close = move || inner.lock().unwrap_or_else(PoisonError::into_inner).close();
        // It does not panic; and a runtime that shuts down drops the file as well.
        let _ = tokio::task::spawn_blocking(close).await;
        self.arrived.notify_waiters();
    }

    /// The positions in this file.
    #[must_use]
    pub fn positions(&self) -> RedbPositions {
        RedbPositions { store: self.clone() }
    }

    /// A queue in this file, empty if there was none of this name. It takes no more when it has `max_entries`.
    #[must_use]
    pub fn queue(&self, name: &str, max_entries: usize) -> RedbQueue {
        RedbQueue { store: self.clone(), name: name.into(), max_entries }
    }

    /// Does something that blocks.
    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.run(work)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Shutdown),
            },
        }
    }
}

/// The positions in a [`RedbStore`].
#[derive(Clone, Debug)]
pub struct RedbPositions {
    store: RedbStore,
}

impl RedbPositions {
    /// Applies each event's effect exactly once: in one transaction, calls `effect` for every event behind the stored
    /// position, and stores the number of the last one. Returns for how many it was called. The effect writes to tables of
    /// its own in the same file, through the transaction; `meta`, `positions`, `entries`, `attempts` and `tallies` are the
    /// store's. It runs on a thread for blocking work, and nothing else happens in the store meanwhile.
    ///
    /// ```
    /// use aqueduct_work::redb::{ReadableTable, TableDefinition};
    /// use aqueduct_work::{Numbered, RedbStore};
    ///
    /// const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("aqueduct-doc-apply-{}.redb", std::process::id()));
    /// let positions = RedbStore::open(&path).await?.positions();
    /// let batch = vec![Numbered { number: 1, event: 40 }, Numbered { number: 2, event: 2 }];
    /// for expected in [2, 0] {
    ///     // The second time, both have been applied.
    ///     let apply = positions.apply("totals", batch.clone(), |transaction, amount: u64| {
    ///         let mut totals = transaction.open_table(TOTALS)?;
    ///         let total = totals.get("all")?.map_or(0, |total| total.value());
    ///         totals.insert("all", total + amount)?;
    ///         Ok(())
    ///     });
    ///     assert_eq!(apply.await?, expected);
    /// }
    /// # drop(positions);
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Effect`] if `effect` fails: nothing has been changed. After any other [`StoreError`] all has been done,
    /// or nothing.
    ///
    /// # Cancel safety
    ///
    /// On cancel all may be done, or nothing.
    pub async fn apply<T: Send + 'static>(
        &self,
        subscription: &str,
        events: Vec<Numbered<T>>,
        mut effect: impl FnMut(&WriteTransaction, T) -> Result<(), BoxError> + Send + 'static,
    ) -> Result<usize, StoreError> {
        let subscription = subscription.to_owned();
        let apply = move |transaction: &WriteTransaction| {
            let mut position = {
                let positions = transaction.open_table(POSITIONS).map_err(storage)?;
                let stored = positions.get(subscription.as_str()).map_err(storage)?;
                stored.map_or(Ok(0), |stored| Position::read(&subscription, stored.value()))?
            };
            let mut applied = 0;
            for Numbered { number, event } in events {
                if number > position {
                    call(&mut effect, transaction, event)?;
                    (position, applied) = (number, applied + 1);
                }
            }
            put_position(transaction, &subscription, position)?;
            Ok(applied)
        };
        self.store.run(|inner| inner.write(apply)).await
    }
}

impl Positions for RedbPositions {
    async fn position(&self, subscription: &str) -> Result<Option<u64>, StoreError> {
        let subscription = subscription.to_owned();
        let read = move |inner: &mut Inner| {
            let transaction = inner.database()?.begin_read().map_err(storage)?;
            let positions = transaction.open_table(POSITIONS).map_err(storage)?;
            let stored = positions.get(subscription.as_str()).map_err(storage)?;
            stored.map(|stored| Position::read(&subscription, stored.value())).transpose()
        };
        self.store.run(read).await
    }

    async fn store(&self, subscription: &str, position: u64) -> Result<(), StoreError> {
        let subscription = subscription.to_owned();
        let store = move |transaction: &WriteTransaction| put_position(transaction, &subscription, position);
        self.store.run(|inner| inner.write(store)).await
    }

    async fn remove(&self, subscription: &str) -> Result<bool, StoreError> {
        let subscription = subscription.to_owned();
        let remove = move |transaction: &WriteTransaction| remove_position(transaction, &subscription);
        self.store.run(|inner| inner.write(remove)).await
    }
}

/// A queue in a [`RedbStore`]. Handles of one name are one queue. What was taken waits again when the store is opened anew
/// after the last handle to it was dropped, and after a crash.
#[derive(Clone, Debug)]
pub struct RedbQueue {
    store: RedbStore,
    name: Arc<str>,
    max_entries: usize,
}

impl Queue for RedbQueue {
    async fn push(&self, payloads: Vec<Bytes>) -> Result<Vec<QueueId>, StoreError> {
        let (name, bound) = (Arc::clone(&self.name), self.max_entries);
        let push = move |inner: &mut Inner| {
            let index = inner.index(&name)?;
            let (len, more, first) = (index.len(), payloads.len(), index.next);
            if more > bound.saturating_sub(len) {
                return Err(StoreError::Full { len, more, bound });
            }
            let ids = first..first + more as u64;
            inner.write(|transaction| {
                let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
                let mut attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
                for (id, payload) in ids.clone().zip(&payloads) {
                    entries.insert((&*name, id), &Payload::write(&name, id, payload)[..]).map_err(storage)?;
                    attempts.insert((&*name, id), Attempts::write(&name, id, 0)).map_err(storage)?;
                }
                Tally { next: ids.end, len: (len + more) as u64 }.set(transaction, &name)
            })?;
            let index = inner.index(&name)?;
            index.next = ids.end;
            index.waiting.extend(ids.clone().map(|id| (id, 0)));
            Ok(ids.map(QueueId).collect())
        };
        let arrived = Arc::clone(&self.store.arrived);
        self.store.run(move |inner| push(inner).inspect(|_| arrived.notify_waiters())).await
    }

    async fn take(&self, max: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let name = Arc::clone(&self.name);
        let take = move |inner: &mut Inner| {
            let next = inner.index(&name)?.waiting.iter().take(max);
            let next: Vec<_> = next.map(|(id, attempts)| (*id, attempts.saturating_add(1))).collect();
            if next.is_empty() {
                return Ok(Vec::new());
            }
            let taken = inner.write(|transaction| {
                let entries = transaction.open_table(ENTRIES).map_err(storage)?;
                let mut attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
                let mut taken = Vec::with_capacity(next.len());
                for (id, attempt) in next {
                    let stored = entries.get((&*name, id)).map_err(storage)?;
                    let payload = match Payload::read(&name, id, stored.as_ref().map_or(&[], |stored| stored.value())) {
                        Ok(payload) => payload,
                        // Those before it can be dealt with.
                        Err(_) if !taken.is_empty() => break,
                        Err(error) => return Err(error),
                    };
                    attempts.insert((&*name, id), Attempts::write(&name, id, attempt)).map_err(storage)?;
                    taken.push(QueueEntry { id: QueueId(id), attempt, payload });
                }
                Ok(taken)
            })?;
            let index = inner.index(&name)?;
            for entry in &taken {
                index.waiting.remove(&entry.id.0);
                index.taken.insert(entry.id.0, entry.attempt);
            }
            Ok(taken)
        };
        self.store.run(take).await
    }

    async fn acknowledge(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        let (name, ids) = (Arc::clone(&self.name), ids.to_vec());
        let acknowledge = move |inner: &mut Inner| {
            let index = inner.index(&name)?;
            let is_there = |id: &QueueId| index.waiting.contains_key(&id.0) || index.taken.contains_key(&id.0);
            let there: BTreeSet<_> = ids.into_iter().filter(is_there).collect();
            if there.is_empty() {
                return Ok(0);
            }
            let tally = index.tally(there.len());
            let write = |transaction: &WriteTransaction| {
                let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
                let mut attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
                for id in &there {
                    entries.remove((&*name, id.0)).map_err(storage)?;
                    attempts.remove((&*name, id.0)).map_err(storage)?;
                }
                tally.set(transaction, &name)
            };
            if !bug!(AckNotFlushed) {
                inner.write(write)?;
            }
            let index = inner.index(&name)?;
            for id in &there {
                index.waiting.remove(&id.0);
                index.taken.remove(&id.0);
            }
            Ok(there.len())
        };
        self.store.run(acknowledge).await
    }

    async fn requeue(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        let (name, ids) = (Arc::clone(&self.name), ids.to_vec());
        let requeue = move |inner: &mut Inner| {
            let Index { waiting, taken, .. } = inner.index(&name)?;
            let before = waiting.len();
            waiting.extend(ids.iter().filter_map(|id| taken.remove_entry(&id.0)));
            Ok(waiting.len() - before)
        };
        let arrived = Arc::clone(&self.store.arrived);
        self.store.run(move |inner| requeue(inner).inspect(|_| arrived.notify_waiters())).await
    }

    async fn put_back(&self, ids: &[QueueId]) -> Result<usize, StoreError> {
        let (name, ids) = (Arc::clone(&self.name), ids.to_vec());
        let put_back = move |inner: &mut Inner| {
            let taken = &inner.index(&name)?.taken;
            let back: BTreeMap<_, _> =
                ids.iter().filter_map(|id| Some((id.0, taken.get(&id.0)?.saturating_sub(1)))).collect();
            if back.is_empty() {
                return Ok(0);
            }
            inner.write(|transaction| {
                let mut attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
                for (id, attempt) in &back {
                    attempts.insert((&*name, *id), Attempts::write(&name, *id, *attempt)).map_err(storage)?;
                }
                Ok(())
            })?;
            let index = inner.index(&name)?;
            let count = back.len();
            index.taken.retain(|id, _| !back.contains_key(id));
            index.waiting.extend(back);
            Ok(count)
        };
        let arrived = Arc::clone(&self.store.arrived);
        self.store.run(move |inner| put_back(inner).inspect(|_| arrived.notify_waiters())).await
    }

    async fn requeue_all(&self) -> Result<usize, StoreError> {
        let name = Arc::clone(&self.name);
        let requeue = move |inner: &mut Inner| {
            let Index { waiting, taken, .. } = inner.index(&name)?;
            let count = taken.len();
            waiting.append(taken);
            Ok(count)
        };
        let arrived = Arc::clone(&self.store.arrived);
        self.store.run(move |inner| requeue(inner).inspect(|_| arrived.notify_waiters())).await
    }

    fn arrival(&self) -> impl Future<Output = ()> + Send {
        self.store.arrived.notified()
    }

    async fn len(&self) -> Result<usize, StoreError> {
        let name = Arc::clone(&self.name);
        self.store.run(move |inner| Ok(inner.index(&name)?.len())).await
    }
}
