//! The file itself: opened at first, anew after a failure, and closed. What redb panics about is an error.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::effects::EffectPanic;
use super::records::{ATTEMPTS, Attempts, ENTRIES, META, TALLIES, Tally, check_positions};
use crate::StoreError;
use crate::bugs::bug;

#[derive(Debug)]
pub(super) struct Inner {
    path: PathBuf,
    /// `None` after a failure, until the next call opens the file anew, and after the close.
    database: Option<Database>,
    is_closed: bool,
    /// What is known of each queue that was used; as in the file whenever no call is under way.
    queues: BTreeMap<String, Index>,
}

/// What of a queue is in memory: about 50 bytes for each entry.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) next: u64,
    /// With the attempts made.
    pub(super) waiting: BTreeMap<u64, u32>,
    /// Not in the file: after a start, everything is waiting.
    pub(super) taken: BTreeMap<u64, u32>,
}

impl Inner {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, database: None, is_closed: false, queues: BTreeMap::new() }
    }

    /// Does something with the open file. After a failure it is opened anew for the next call: what redb has in memory of it
    /// is not to be trusted then, and the file is as after a crash.
    ///
    /// # Panics
    ///
    /// With what an effect panics with.
    pub(super) fn run<R>(&mut self, work: impl FnOnce(&mut Self) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let result = catch_unwind(AssertUnwindSafe(|| self.open().and_then(|()| work(self))));
        if matches!(result, Err(_) | Ok(Err(StoreError::Storage(_)))) {
            self.let_go();
        }
        result.unwrap_or_else(|panic| match panic.downcast::<EffectPanic>() {
            Ok(effect) => resume_unwind(effect.0),
            Err(panic) => Err(storage(format!("the file is damaged: {}", message_of(&*panic)))),
        })
    }

    /// Closes the file for good; it can be opened by others then.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.queues.clear();
        self.let_go();
    }

    fn let_go(&mut self) {
        let database = self.database.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(database))) {
            tracing::warn!(path = %self.path.display(), error = message_of(&*panic), "the file was not closed in order");
        }
    }

    fn open(&mut self) -> Result<(), StoreError> {
        if self.is_closed {
            return Err(StoreError::Closed);
        }
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
            transaction.open_table(ENTRIES).map_err(storage)?;
            transaction.open_table(ATTEMPTS).map_err(storage)?;
        }
        check_positions(&transaction)?;
        transaction.commit().map_err(storage)?;
        // Whether the last change before a failure is in the file shows only now. What is taken stays taken.
        for (name, index) in &mut self.queues {
            let taken: BTreeSet<_> = index.taken.keys().copied().filter(|_| !bug!(LentForgotten)).collect();
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

    pub(super) fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| storage("the store is not open"))
    }

    /// A change that is on the disk afterwards.
    pub(super) fn write<R>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let transaction = self.database()?.begin_write().map_err(storage)?;
        let result = change(&transaction)?;
        transaction.commit().map_err(storage)?;
        Ok(result)
    }

    pub(super) fn index(&mut self, name: &str) -> Result<&mut Index, StoreError> {
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
    let tally = Tally::of(&transaction.open_table(TALLIES).map_err(storage)?, name)?;
    let mut waiting = BTreeMap::new();
    for entry in attempts.range((name, 0)..=(name, u64::MAX)).map_err(storage)? {
        let (key, stored) = entry.map_err(storage)?;
        let id = key.value().1;
        waiting.insert(id, Attempts::read(name, id, stored.value())?);
    }
    if waiting.len() as u64 != tally.len {
        let (expected, got) = (tally.len, waiting.len());
        return Err(StoreError::Damaged(format!("queue {name:?}: expected {expected} entries, got {got}")));
    }
    Ok(Index { next: tally.next, waiting, taken: BTreeMap::new() })
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.taken.len()
    }

    /// What is in the file when `fewer` have left.
    pub(super) fn tally(&self, fewer: usize) -> Tally {
        Tally { next: self.next, len: (self.len() - fewer) as u64 }
    }
}

pub(super) fn storage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Storage(error.into())
}

/// What a panic says.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}

const FORMAT_KEY: &str = "format";
/// What this version writes. Any other one is refused. 1 had no checksums.
const FORMAT: u64 = 2;
