//! Positions and queues: the contract, in memory and in a file, and a writer that is killed with SIGKILL in the middle.
//!
//! The writer is this test binary again: it runs the test `as_a_writer`, which does nothing in the ordinary run.
#![cfg(feature = "redb")]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aqueduct_transport::{MemoryPositions, MemoryQueue, Positions, Queue, QueueId, RedbQueue, RedbStore, StoreError};
use bytes::Bytes;

const STORE_VARIABLE: &str = "AQUEDUCT_TEST_STORE";
const ALL: usize = 1_000_000;

/// A file of this test's own, which is not there yet.
fn file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.redb", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

async fn taken(queue: &impl Queue, max: usize) -> Vec<(u64, u32, Bytes)> {
    let entries = queue.take(max).await.unwrap();
    entries.into_iter().map(|entry| (entry.id.number(), entry.attempt, entry.payload)).collect()
}

fn payloads(from: &[&'static str]) -> Vec<Bytes> {
    from.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

/// What every queue does that may have five entries.
async fn queue_contract(queue: impl Queue) {
    assert_eq!(taken(&queue, 10).await, []);
    let ids = queue.push(payloads(&["a", "b", "", "d"])).await.unwrap();
    assert_eq!(ids, [1, 2, 3, 4].map(QueueId::new));
    let full = queue.push(payloads(&["e", "f"])).await.unwrap_err();
    assert!(matches!(full, StoreError::Full { len: 4, more: 2, bound: 5 }), "{full}");
    assert_eq!(queue.len().await.unwrap(), 4, "all or none");

    assert_eq!(taken(&queue, 2).await, [(1, 1, "a".into()), (2, 1, "b".into())]);
    assert_eq!(queue.requeue(&[ids[1], ids[1], ids[3]]).await.unwrap(), 1, "only what was taken");
    assert_eq!(taken(&queue, 2).await, [(2, 2, "b".into()), (3, 1, "".into())], "at its old place");
    assert_eq!(queue.acknowledge(&[ids[0], ids[0], ids[3], QueueId::new(99)]).await.unwrap(), 2);
    assert_eq!(queue.acknowledge(&ids[..1]).await.unwrap(), 0);
    assert_eq!(taken(&queue, 10).await, []);
    assert_eq!(queue.requeue_all().await.unwrap(), 2);
    assert_eq!(queue.push(payloads(&["g"])).await.unwrap(), [QueueId::new(5)], "ids are not used again");
    assert_eq!(taken(&queue, 10).await, [(2, 3, "b".into()), (3, 2, "".into()), (5, 1, "g".into())]);
    let back = [QueueId::new(5), ids[1], ids[1], ids[0]];
    assert_eq!(queue.put_back(&back).await.unwrap(), 2, "only what was taken");
    assert_eq!(taken(&queue, 10).await, [(2, 3, "b".into()), (5, 1, "g".into())], "as if it had not been taken");
}

async fn positions_contract(positions: impl Positions) {
    assert_eq!(positions.position("a").await.unwrap(), None);
    positions.store("a", 7).await.unwrap();
    positions.store("b", u64::MAX).await.unwrap();
    positions.store("a", 3).await.unwrap();
    assert_eq!(positions.position("a").await.unwrap(), Some(3));
    assert!(positions.remove("a").await.unwrap() && !positions.remove("a").await.unwrap());
    assert_eq!(positions.position("b").await.unwrap(), Some(u64::MAX));
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    queue_contract(MemoryQueue::new(5)).await;
    positions_contract(MemoryPositions::new()).await;
}

#[tokio::test]
async fn a_file_keeps_the_contract_for_each_of_its_queues() {
    let path = file("contract");
    let store = RedbStore::open(&path).await.unwrap();
    queue_contract(store.queue("one", 5)).await;
    queue_contract(store.queue("two", 5)).await;
    positions_contract(store.positions()).await;
    assert_eq!(store.queue("one", 5).len().await.unwrap(), 3, "handles of one name are one queue");
    drop(store);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn what_was_taken_waits_again_with_its_attempts_after_a_restart() {
    let path = file("restart");
    let store = RedbStore::open(&path).await.unwrap();
    let queue = store.queue("q", 5);
    queue.push(payloads(&["a", "b"])).await.unwrap();
    assert_eq!(taken(&queue, 1).await, [(1, 1, "a".into())]);
    drop((store, queue));
    let store = RedbStore::open(&path).await.unwrap();
    assert_eq!(taken(&store.queue("q", 5), 5).await, [(1, 2, "a".into()), (2, 1, "b".into())]);
    drop(store);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_file_is_open_once_and_what_is_no_store_is_refused() {
    let path = file("twice");
    let store = RedbStore::open(&path).await.unwrap();
    assert!(matches!(RedbStore::open(&path).await, Err(StoreError::Storage(_))));
    drop(store);
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    assert!(matches!(RedbStore::open(&path).await, Err(StoreError::Storage(_))));
    std::fs::remove_file(path).unwrap();
}

/// What must be in the file.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    position: u64,
    pushed: u64,
    /// Attempts and payloads by id.
    entries: BTreeMap<u64, (u32, String)>,
}

impl Model {
    /// Does what a line says that the writer does: `push 3`, `take 1 2`, `acknowledge 1`, `position 7`.
    fn apply(&mut self, line: &str) {
        let mut words = line.split(' ');
        let verb = words.next().unwrap();
        let numbers = words.map(|word| word.parse::<u64>().unwrap());
        match verb {
            "push" => {
                for _ in 0..numbers.sum() {
                    self.pushed += 1;
                    self.entries.insert(self.pushed, (0, format!("payload {}", self.pushed)));
                }
            }
            "take" => numbers.for_each(|id| self.entries.get_mut(&id).unwrap().0 += 1),
            "acknowledge" => numbers.for_each(|id| drop(self.entries.remove(&id).unwrap())),
            "position" => self.position = numbers.sum(),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// What is in the file. To see it, everything is taken, which counts as an attempt.
    async fn read(path: &Path) -> Self {
        let store = RedbStore::open(path).await.unwrap();
        let position = store.positions().position("s").await.unwrap().unwrap_or(0);
        let queue = store.queue("q", ALL);
        let entries = taken(&queue, ALL).await;
        let text = |payload: Bytes| String::from_utf8(payload.to_vec()).unwrap();
        let entries = entries.into_iter().map(|(id, attempt, payload)| (id, (attempt - 1, text(payload)))).collect();
        // The next id is seen by using it.
        let next = queue.push(payloads(&["x"])).await.unwrap()[0];
        queue.acknowledge(&[next]).await.unwrap();
        Self { position, pushed: next.number() - 1, entries }
    }
}

#[test]
fn as_a_writer() {
    let Some(path) = std::env::var_os(STORE_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(write_for_ever(&PathBuf::from(path)));
}

/// Says what it is about to do (`try`), does it, and says so (`done`).
async fn write_for_ever(path: &Path) {
    let say = |what: &str, line: &str| {
        let mut output = std::io::stdout().lock();
        output.write_all(format!("\n@{what} {line}\n").as_bytes()).unwrap();
        output.flush().unwrap();
    };
    let store = RedbStore::open(path).await.unwrap();
    let queue: RedbQueue = store.queue("q", ALL);
    let positions = store.positions();
    let mut position = positions.position("s").await.unwrap().unwrap_or(0);
    let mut next: u64 = std::env::var("AQUEDUCT_TEST_NEXT").unwrap().parse().unwrap();
    for round in 0_u64.. {
        let count = 1 + round % 4;
        say("try", &format!("push {count}"));
        let batch = (next..next + count).map(|id| Bytes::from(format!("payload {id}"))).collect();
        queue.push(batch).await.unwrap();
        next += count;
        say("done", "");

        // Which ones will be taken is known only afterwards: those that wait and are oldest.
        say("try", "take-oldest 3");
        let entries = queue.take(3).await.unwrap();
        say("done", &entries.iter().map(|entry| entry.id.to_string()).collect::<Vec<_>>().join(" "));

        if let Some((last, done)) = entries.split_last() {
            let ids: Vec<_> = done.iter().map(|entry| entry.id).collect();
            let words: Vec<_> = ids.iter().map(QueueId::to_string).collect();
            if !ids.is_empty() {
                say("try", &format!("acknowledge {}", words.join(" ")));
                queue.acknowledge(&ids).await.unwrap();
                say("done", "");
            }
            if round % 2 == 0 {
                queue.requeue(&[last.id]).await.unwrap();
            }
        }

        position += 1;
        say("try", &format!("position {position}"));
        positions.store("s", position).await.unwrap();
        say("done", "");
    }
}

#[tokio::test]
async fn after_kill_9_exactly_what_was_confirmed_is_there() {
    let path = file("killed");
    let mut model = Model::default();
    let mut in_the_middle = 0;
    for round in 0..15_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "as_a_writer", "--nocapture"])
            .env(STORE_VARIABLE, &path)
            .env("AQUEDUCT_TEST_NEXT", (model.pushed + 1).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        // What it tries and has not confirmed.
        let mut open: Option<String> = None;
        let mut told = 0;
        let until = 3 + round * 37 % 101;
        for line in lines {
            let line = String::from_utf8(line.unwrap()).unwrap();
            if let Some(what) = line.strip_prefix("@try ") {
                open = Some(what.to_owned());
            } else if let Some(ids) = line.strip_prefix("@done ") {
                let what = open.take().unwrap();
                if what.starts_with("take-oldest") {
                    model.apply(&format!("take {ids}"));
                } else {
                    model.apply(&what);
                }
            } else {
                continue;
            }
            told += 1;
            if told == until {
                child.kill().unwrap();
            }
        }
        assert!(told >= until, "it writes until it is killed");
        assert!(!child.wait().unwrap().success());

        let found = Model::read(&path).await;
        let mut with_open = model.clone();
        match open.as_deref() {
            Some("take-oldest 3") => {
                // At most three more were taken, by one attempt each.
                with_open = found.clone();
                let differ = found.entries.iter().filter(|(id, entry)| model.entries.get(id) != Some(entry));
                let differ: Vec<_> = differ.map(|(id, _)| *id).collect();
                assert!(differ.len() <= 3, "{differ:?}");
                let mut rest = found.clone();
                differ.iter().for_each(|id| rest.entries.get_mut(id).unwrap().0 -= 1);
                assert_eq!(rest, model, "round {round}: the rest is as confirmed");
            }
            Some(what) => with_open.apply(what),
            None => {}
        }
        in_the_middle += usize::from(open.is_some());
        assert!(found == model || found == with_open, "round {round}: {open:?}\nfound {found:?}\nconfirmed {model:?}");
        // All were taken to look at them, and one was pushed and acknowledged.
        model = found;
        model.entries.values_mut().for_each(|entry| entry.0 += 1);
        model.pushed += 1;
    }
    assert!(in_the_middle > 0, "some were killed in the middle of a change");
    assert!(model.position > 50 && !model.entries.is_empty(), "{model:?}");
    std::fs::remove_file(path).unwrap();
}
