//! Files that are damaged, of another version, full, or closed: each is an error, and no other payload or position is read.
#![cfg(feature = "redb")]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{Graph, each};
use aqueduct_transport::redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use aqueduct_transport::{Positions, Queue, QueueId, QueueSource, RedbQueue, RedbStore, StoreError};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{begin, guarded};

const ALL: usize = 1_000_000;
/// How many files are damaged, each in one bit.
const FLIPS: usize = 200;
const STORE_VARIABLE: &str = "AQUEDUCT_TEST_FULL";

/// A file of this test's own, which is not there yet.
fn file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("damaged-{name}-{}.redb", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// What is in a file: the attempts and payloads of each queue's entries by id, and the positions.
#[derive(Debug, Default, PartialEq)]
struct Content {
    queues: BTreeMap<String, BTreeMap<u64, (u32, Bytes)>>,
    positions: BTreeMap<String, Option<u64>>,
}

const QUEUES: [&str; 2] = ["orders", "bills"];
const SUBSCRIPTIONS: [&str; 3] = ["one", "two", "three"];

async fn fill(path: &Path) {
    let store = RedbStore::open(path).await.unwrap();
    for (number, name) in QUEUES.iter().enumerate() {
        let queue = store.queue(name, ALL);
        let payload = |id| Bytes::from(format!("{name} {id} ").repeat(10 * (number + 1)));
        queue.push((1..=40).map(payload).collect()).await.unwrap();
        let taken = queue.take(20).await.unwrap();
        queue.acknowledge(&taken.iter().map(|entry| entry.id).take(10).collect::<Vec<_>>()).await.unwrap();
    }
    for (number, name) in SUBSCRIPTIONS.iter().enumerate() {
        store.positions().store(name, 1000 + number as u64).await.unwrap();
    }
    store.close().await;
}

async fn read(path: &Path) -> Result<Content, StoreError> {
    let store = RedbStore::open(path).await?;
    let content = async {
        let mut content = Content::default();
        for name in QUEUES {
            let entries = store.queue(name, ALL).take(ALL).await?;
            let entries = entries.into_iter().map(|entry| (entry.id.number(), (entry.attempt, entry.payload)));
            content.queues.insert(name.to_owned(), entries.collect());
        }
        for name in SUBSCRIPTIONS {
            content.positions.insert(name.to_owned(), store.positions().position(name).await?);
        }
        Ok(content)
    };
    let content = content.await;
    store.close().await;
    content
}

#[tokio::test]
async fn a_bit_that_has_turned_is_an_error_and_never_another_payload_or_position() {
    quiet_redb();
    let (path, copy) = (file("bits"), file("bits-copy"));
    fill(&path).await;
    let bytes = std::fs::read(&path).unwrap();
    let expected = read(&path).await.unwrap();
    assert_eq!(expected.queues["bills"].len(), 30);
    // Most of the file is empty.
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let (mut random, mut refused, mut harmless, mut wrong) = (14_u64, 0, 0, Vec::new());
    for flip in 0..FLIPS {
        let (at, bit) = match flip % 3 {
            0 => (below(&mut random, bytes.len()), below(&mut random, 8)),
            _ => (used[below(&mut random, used.len())], below(&mut random, 8)),
        };
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        std::fs::write(&copy, damaged).unwrap();
        match timeout(Duration::from_secs(30), begin(read(Box::leak(copy.clone().into_boxed_path())))).await {
            Ok(Ok(Ok(content))) if content == expected => harmless += 1,
            // Those behind a damaged one wait, and all before it are right.
            Ok(Ok(Ok(content))) if is_cut_off(&content, &expected) => refused += 1,
            Ok(Ok(Ok(_))) => wrong.push((at, bit, "another content")),
            Ok(Ok(Err(_))) => refused += 1,
            Ok(Err(_)) => wrong.push((at, bit, "a panic")),
            Err(_) => wrong.push((at, bit, "it hangs")),
        }
    }
    println!("of {FLIPS} flips {refused} are errors, {harmless} change nothing, {} are not noticed", wrong.len());
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(refused > 15 && harmless > 15, "{refused} and {harmless}");
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(copy).unwrap();
}

fn is_cut_off(content: &Content, expected: &Content) -> bool {
    content.positions == expected.positions
        && content.queues.iter().all(|(name, entries)| {
            entries.iter().zip(&expected.queues[name]).all(|(entry, expected)| entry == expected)
        })
}

#[tokio::test]
async fn a_damaged_entry_stops_the_source_behind_what_is_before_it_and_can_be_taken_out() {
    guarded(async {
        let path = file("entry");
        let store = RedbStore::open(&path).await.unwrap();
        QueueSource::new("numbers", Arc::new(store.queue("numbers", ALL))).push(0..10_u64).await.unwrap();
        store.close().await;
        const ENTRIES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("entries");
        {
            let database = Database::create(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            {
                let mut entries = transaction.open_table(ENTRIES).unwrap();
                let mut payload = entries.get(("numbers", 4)).unwrap().unwrap().value().to_vec();
                *payload.last_mut().unwrap() ^= 1;
                entries.insert(("numbers", 4), &payload[..]).unwrap();
            }
            transaction.commit().unwrap();
        }
        let store = RedbStore::open(&path).await.unwrap();
        let queue = Arc::new(store.queue("numbers", ALL));
        let source = QueueSource::<u64, _>::new("numbers", Arc::clone(&queue));
        let (graph, seen) = consume(&source);
        let error = graph.run().await.unwrap_err().to_string();
        assert!(
            error.contains("the file is damaged: entry 4 of queue \"numbers\" is not as it was written"),
            "{error}"
        );
        assert_eq!(*seen.borrow(), [0, 1, 2]);
        queue.acknowledge(&[QueueId::new(4)]).await.unwrap();
        source.close();
        let (graph, seen) = consume(&source);
        graph.run().await.unwrap();
        assert_eq!(*seen.borrow(), [4, 5, 6, 7, 8, 9]);
        store.close().await;
        std::fs::remove_file(path).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_by_its_number() {
    let path = file("format");
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    for (format, age) in [(1, "an earlier"), (3, "another")] {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", format).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = RedbStore::open(&path).await.unwrap_err();
        let expected =
            format!("expected a store of format 2, got {format}, which {age} version of this crate has written");
        assert_eq!(error.to_string(), expected);
    }
    // It was not touched.
    let database = Database::open(&path).unwrap();
    assert_eq!(database.begin_read().unwrap().list_tables().unwrap().count(), 1);
    drop(database);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn what_an_effect_panics_with_is_its_callers_and_what_was_taken_stays_taken() {
    let path = file("effect");
    let store = RedbStore::open(&path).await.unwrap();
    let queue = store.queue("q", ALL);
    let ids = queue.push(["a", "b", "c"].map(Bytes::from).to_vec()).await.unwrap();
    assert_eq!(queue.take(2).await.unwrap().len(), 2);
    let (applying, id) = (queue.clone(), ids[0]);
    let apply = begin(async move { applying.apply(vec![(id, ())], |_, ()| panic!("of the effect's own")).await });
    let panic = apply.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the effect's own"));
    stays_taken(&queue, &ids).await;
    store.close().await;
    std::fs::remove_file(path).unwrap();
}

/// Two of three are taken, and the file was opened anew since.
async fn stays_taken(queue: &RedbQueue, ids: &[QueueId]) {
    assert_eq!(queue.len().await.unwrap(), 3);
    let taken = queue.take(10).await.unwrap();
    assert_eq!(taken.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids[2..], "what is lent is not given twice");
    assert_eq!(queue.requeue(&ids[..1]).await.unwrap(), 1);
    assert_eq!(queue.take(10).await.unwrap()[0].attempt, 2);
    assert_eq!(queue.acknowledge(ids).await.unwrap(), 3);
}

#[cfg(unix)]
#[test]
fn after_a_push_that_fails_what_is_lent_stays_lent() {
    let path = file("full");
    // No file may become longer than 16 MiB or 8 MiB, as the shell counts.
    let script = "trap '' XFSZ; ulimit -f 16384; exec \"$0\" --exact as_a_full_disk --nocapture";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(STORE_VARIABLE, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("it was full"), "{said}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn as_a_full_disk() {
    let Some(path) = std::env::var_os(STORE_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = RedbStore::open(path).await.unwrap();
        let queue = store.queue("q", ALL);
        let ids = queue.push(["a", "b", "c"].map(Bytes::from).to_vec()).await.unwrap();
        assert_eq!(queue.take(2).await.unwrap().len(), 2);
        let error = queue.push(vec![vec![7; 40 << 20].into()]).await.unwrap_err();
        assert!(matches!(error, StoreError::Storage(_)), "{error}");
        println!("it was full: {error}");
        stays_taken(&queue, &ids).await;
        store.close().await;
    });
}

#[tokio::test]
async fn a_store_is_free_when_its_close_has_returned_and_its_handles_say_so() {
    guarded(async {
        let path = file("closed");
        for round in 0..20 {
            let store = RedbStore::open(&path).await.unwrap();
            let queue = Arc::new(store.queue("numbers", ALL));
            let source = QueueSource::<u64, _>::new("numbers", Arc::clone(&queue));
            source.push(0..100).await.unwrap();
            let (graph, mut seen) = consume(&source);
            let mut running = graph.start();
            seen.wait_for(|seen| seen.len() == 100).await.unwrap();
            if round % 2 == 0 {
                running.shutdown(Duration::from_secs(5)).await.unwrap();
                // What was handled has left the queue when the shutdown ends.
                assert_eq!(queue.len().await.unwrap(), 0);
            }
            store.close().await;
            let again = RedbStore::open(&path).await.unwrap();
            assert!(matches!(queue.len().await, Err(StoreError::Closed)));
            assert!(matches!(store.positions().store("s", 1).await, Err(StoreError::Closed)));
            if round % 2 == 1 {
                let error = running.join().await.unwrap_err().to_string();
                assert!(error.contains("the store is closed"), "{error}");
                let left = again.queue("numbers", ALL);
                left.acknowledge(&left.take(ALL).await.unwrap().iter().map(|entry| entry.id).collect::<Vec<_>>())
                    .await
                    .unwrap();
            }
            again.close().await;
        }
        std::fs::remove_file(path).unwrap();
    })
    .await;
}

fn consume(source: &QueueSource<u64, RedbQueue>) -> (Graph, watch::Receiver<Vec<u64>>) {
    let (graph, (seen, see)) = (Graph::new("consuming"), watch::channel(Vec::new()));
    let handle = move || {
        let seen = seen.clone();
        each(move |number: u64| {
            seen.send_modify(|seen| seen.push(number));
            std::future::ready(Ok(()))
        })
    };
    graph.consumer("collect", handle).subscribe_acknowledged(source, 5..10);
    (graph, see)
}

/// Of what redb panics about, the error is enough.
fn quiet_redb() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("redb-")) {
            say(panic);
        }
    }));
}

/// splitmix64: the same for every machine.
fn below(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % bound as u64) as usize
}
