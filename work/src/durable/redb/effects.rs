//! [`RedbQueue::apply`]: an effect together with the end of its entry.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use aqueduct_stage::BoxError;
use redb::WriteTransaction;

use super::RedbQueue;
use super::file::{Inner, storage};
use super::records::{ATTEMPTS, ENTRIES, Tally};
use crate::{QueueId, StoreError};

impl RedbQueue {
    /// Applies the effect of each entry exactly once: in one transaction, calls `effect` for every entry that is still in the
    /// queue, and takes it out. Returns for how many it was called. What was applied before a crash is no longer there when
    /// it comes again, and is skipped; acknowledging an entry afterwards is harmless.
    ///
    /// The effect writes to tables of its own in the same file, through the transaction; `meta`, `positions`, `entries`,
    /// `attempts` and `tallies` are the store's. It runs on a thread for blocking work, and nothing else happens in the store meanwhile.
    /// It takes the disk's time, so hand over many at once, as
    /// `recv_many` of a durable channel does.
    ///
    /// ```
    /// use aqueduct_work::redb::{ReadableTable, TableDefinition};
    /// use aqueduct_work::{Queue, RedbStore};
    ///
    /// const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("aqueduct-doc-queue-apply-{}.redb", std::process::id()));
    /// let queue = RedbStore::open(&path).await?.queue("sums", 1000);
    /// let ids = queue.push(vec!["20 + 20".into(), "1 + 1".into()]).await?;
    /// for expected in [2, 0] {
    ///     // The second time, both have been applied.
    ///     let results = ids.iter().copied().zip([40, 2]).collect();
    ///     let apply = queue.apply(results, |transaction, sum: u64| {
    ///         let mut totals = transaction.open_table(TOTALS)?;
    ///         let total = totals.get("all")?.map_or(0, |total| total.value());
    ///         totals.insert("all", total + sum)?;
    ///         Ok(())
    ///     });
    ///     assert_eq!(apply.await?, expected);
    /// }
    /// # drop(queue);
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
        entries: Vec<(QueueId, T)>,
        mut effect: impl FnMut(&WriteTransaction, T) -> Result<(), BoxError> + Send + 'static,
    ) -> Result<usize, StoreError> {
        let name = Arc::clone(&self.name);
        let apply = move |inner: &mut Inner| {
            // The index is there from the first use on, and is read again when the file is opened anew.
            let Tally { next, len } = inner.index(&name)?.tally(0);
            let applied = inner.write(|transaction| {
                let mut applied = Vec::new();
                for (id, value) in entries {
                    {
                        let mut attempts = transaction.open_table(ATTEMPTS).map_err(storage)?;
                        if attempts.remove((&*name, id.0)).map_err(storage)?.is_none() {
                            continue;
                        }
                        let mut payloads = transaction.open_table(ENTRIES).map_err(storage)?;
                        payloads.remove((&*name, id.0)).map_err(storage)?;
                    }
                    call(&mut effect, transaction, value)?;
                    applied.push(id);
                }
                Tally { next, len: len - applied.len() as u64 }.set(transaction, &name)?;
                Ok(applied)
            })?;
            let index = inner.index(&name)?;
            for id in &applied {
                index.waiting.remove(&id.0);
                index.taken.remove(&id.0);
            }
            Ok(applied.len())
        };
        self.store.run(apply).await
    }
}

/// Calls an effect, and marks what it panics with as its own.
pub(super) fn call<T>(
    effect: &mut impl FnMut(&WriteTransaction, T) -> Result<(), BoxError>,
    transaction: &WriteTransaction,
    value: T,
) -> Result<(), StoreError> {
    match catch_unwind(AssertUnwindSafe(|| effect(transaction, value))) {
        Ok(result) => result.map_err(StoreError::Effect),
        Err(panic) => resume_unwind(Box::new(EffectPanic(panic))),
    }
}

/// What an effect has panicked with, which goes on to its caller.
pub(super) struct EffectPanic(pub(super) Box<dyn Any + Send>);
