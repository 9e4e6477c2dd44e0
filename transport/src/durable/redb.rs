//! Positions and queues in a redb file.

mod effects;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aqueduct_stage::BoxError;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::Notify;

use super::{Numbered, Positions, Queue, QueueEntry, QueueId, StoreError};

/// A file with any number of positions and queues, which survive the process, also one that is killed, and the machine.
///
/// Every change is a transaction that is on the disk (fsync) when the call returns. That takes the disk's time, so hand
/// over entries in batches. The work is done on tokio's threads for blocking work, one call at a time, and never holds
/// up the runtime; it must be called on a tokio runtime. Cloning gives another handle to the same file. Only one process
/// can have it open.
///
/// ```
/// use aqueduct_transport::{Positions, Queue, RedbStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("aqueduct-doc-{}.redb", std::process::id()));
/// let store = RedbStore::open(&path).await?;
/// store.positions().store("orders to billing", 17).await?;
/// store.queue("mails", 1_000_000).push(vec!["a letter".into()]).await?;
/// drop(store);
///
/// let store = RedbStore::open(&path).await?;
/// assert_eq!(store.positions().position("orders to billing").await?, Some(17));
/// assert_eq!(store.queue("mails", 1_000_000).take(10).await?[0].payload, "a letter");
/// # drop(store);
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

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `None` after a failure, until the next call opens the file anew.
    database: Option<Database>,
    /// What is known of each queue that was used; as in the file whenever no call is under way.
    queues: BTreeMap<String, Index>,
}

/// What of a queue is in memory: about 50 bytes for each entry.
#[derive(Debug, Default)]
struct Index {
    next: u64,
    /// With the attempts made.
    waiting: BTreeMap<u64, u32>,
    /// Not in the file: after a start, everything is waiting.
    taken: BTreeMap<u64, u32>,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Storage`] if it cannot be opened, for instance because another process has it open;
    /// [`StoreError::Format`] if a later version wrote it.
    ///
    /// # Cancel safety
    ///
    /// On cancel the file may have been made.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let inner = Inner { path, database: None, queues: BTreeMap::new() };
        let store = Self { inner: Arc::new(Mutex::new(inner)), arrived: Arc::default() };
        store.run(|_| Ok(())).await?;
        Ok(store)
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
            // A panic in redb leaves a file that is as after a crash, so it is opened anew.
            let mut inner = inner.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
                let mut inner = poisoned.into_inner();
                inner.database = None;
                inner
            });
            let result = inner.open().and_then(|()| work(&mut inner));
            if matches!(result, Err(StoreError::Storage(_))) {
                // After a failure to write, redb refuses everything.
                inner.database = None;
            }
            result
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

impl Inner {
    fn open(&mut self) -> Result<(), StoreError> {
        if self.database.is_some() {
            return Ok(());
        }
        let database = Database::create(&self.path).map_err(storage)?;
        let transaction = database.begin_write().map_err(storage)?;
        {
            let mut meta = transaction.open_table(META).map_err(storage)?;
            let got = meta.get(FORMAT_KEY).map_err(storage)?.map(|format| format.value());
            match got {
                None => drop(meta.insert(FORMAT_KEY, FORMAT).map_err(storage)?),
                Some(FORMAT) => {}
                Some(got) => return Err(StoreError::Format { expected: FORMAT, got }),
            }
            transaction.open_table(POSITIONS).map_err(storage)?;
            transaction.open_table(ENTRIES).map_err(storage)?;
            transaction.open_table(ATTEMPTS).map_err(storage)?;
        }
        transaction.commit().map_err(storage)?;
        // Whether the last change before a failure is in the file shows only now. What is taken stays taken.
        for (name, index) in &mut self.queues {
            let taken: BTreeSet<_> = index.taken.keys().copied().collect();
            *index = load(&database, name)?;
            for id in taken {
                if let Some(attempts) = index.waiting.remove(&id) {
                    index.taken.insert(id, attempts);
                }
            }
        }
        self.database = Some(database);
        Ok(())
    }

    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| storage("the store is not open"))
    }

    /// A change that is on the disk afterwards.
    fn write<R>(&self, change: impl FnOnce(&WriteTransaction) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let transaction = self.database()?.begin_write().map_err(storage)?;
        let result = change(&transaction)?;
        transaction.commit().map_err(storage)?;
        Ok(result)
    }

    fn index(&mut self, name: &str) -> Result<&mut Index, StoreError> {
        if !self.queues.contains_key(name) {
            let index = load(self.database()?, name)?;
            self.queues.insert(name.to_owned(), index);
        }
        Ok(self.queues.get_mut(name).expect("it was just inserted"))
    }
}

/// Reads what is in memory of a queue.
fn load(database: &Database, name: &str) -> Result<Index, StoreError> {
    let transaction = database.begin_read().map_err(storage)?;
    let attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
    let next = transaction.open_table(META).map_err(storage)?;
    let next = next.get(next_key(name).as_str()).map_err(storage)?.map_or(1, |next| next.value());
    let mut waiting = BTreeMap::new();
    for entry in attempts.range((name, 0)..=(name, u64::MAX)).map_err(storage)? {
        let (key, attempts) = entry.map_err(storage)?;
        waiting.insert(key.value().1, attempts.value());
    }
    Ok(Index { next, waiting, taken: BTreeMap::new() })
}

/// The positions in a [`RedbStore`].
#[derive(Clone, Debug)]
pub struct RedbPositions {
    store: RedbStore,
}

impl RedbPositions {
    /// Applies each event's effect exactly once: in one transaction, calls `effect` for every event behind the stored
    /// position, and stores the number of the last one. Returns for how many it was called. The effect writes to tables of
    /// its own in the same file, through the transaction; `meta`, `positions`, `entries` and `attempts` are the store's. It
    /// runs on a thread for blocking work, and nothing else happens in the store meanwhile.
    ///
    /// ```
    /// use aqueduct_transport::redb::{ReadableTable, TableDefinition};
    /// use aqueduct_transport::{Numbered, RedbStore};
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
                positions.get(subscription.as_str()).map_err(storage)?.map_or(0, |position| position.value())
            };
            let mut applied = 0;
            for Numbered { number, event } in events {
                if number > position {
                    effect(transaction, event).map_err(StoreError::Effect)?;
                    (position, applied) = (number, applied + 1);
                }
            }
            let mut positions = transaction.open_table(POSITIONS).map_err(storage)?;
            positions.insert(subscription.as_str(), position).map_err(storage)?;
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
            let position = positions.get(subscription.as_str()).map_err(storage)?;
            Ok(position.map(|position| position.value()))
        };
        self.store.run(read).await
    }

    async fn store(&self, subscription: &str, position: u64) -> Result<(), StoreError> {
        let subscription = subscription.to_owned();
        let store = move |transaction: &WriteTransaction| {
            let mut positions = transaction.open_table(POSITIONS).map_err(storage)?;
            positions.insert(subscription.as_str(), position).map_err(storage)?;
            Ok(())
        };
        self.store.run(|inner| inner.write(store)).await
    }

    async fn remove(&self, subscription: &str) -> Result<bool, StoreError> {
        let subscription = subscription.to_owned();
        let remove = move |transaction: &WriteTransaction| {
            let mut positions = transaction.open_table(POSITIONS).map_err(storage)?;
            let before = positions.remove(subscription.as_str()).map_err(storage)?;
            Ok(before.is_some())
        };
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
                    entries.insert((&*name, id), &payload[..]).map_err(storage)?;
                    attempts.insert((&*name, id), 0).map_err(storage)?;
                }
                let mut meta = transaction.open_table(META).map_err(storage)?;
                meta.insert(next_key(&name).as_str(), ids.end).map_err(storage)?;
                Ok(())
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
                    attempts.insert((&*name, id), attempt).map_err(storage)?;
                    let payload = entries.get((&*name, id)).map_err(storage)?;
                    let payload = payload.ok_or_else(|| storage(format!("entry {id} has no payload")))?;
                    let payload = Bytes::copy_from_slice(payload.value());
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
            inner.write(|transaction| {
                let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
                let mut attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
                for id in &there {
                    entries.remove((&*name, id.0)).map_err(storage)?;
                    attempts.remove((&*name, id.0)).map_err(storage)?;
                }
                Ok(())
            })?;
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

impl Index {
    fn len(&self) -> usize {
        self.waiting.len() + self.taken.len()
    }
}

fn storage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Storage(error.into())
}

/// Where the id of a queue's next entry stands.
fn next_key(queue: &str) -> String {
    format!("next/{queue}")
}

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const POSITIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("positions");
/// The payloads, by queue and id.
const ENTRIES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("entries");
/// How often each entry was taken; apart from the payloads, which are not written again for it.
const ATTEMPTS: TableDefinition<'_, (&str, u64), u32> = TableDefinition::new("attempts");
const FORMAT_KEY: &str = "format";
/// What this version writes. A later one is refused.
const FORMAT: u64 = 1;
