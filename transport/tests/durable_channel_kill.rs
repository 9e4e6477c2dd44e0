//! A durable channel whose server is killed with SIGKILL again and again, and started again with the same file: every value
//! that its queue has accepted is answered, each effect that is applied with the end of its entry takes place once, and any
//! other comes again only as a later attempt.
//!
//! Servers and workers are this test binary again, running the test `as_a_worker`, which does nothing in the ordinary run. By
//! default there are 2 runs; `CHANNEL_KILL_RUNS=20` makes it 20. `CHANNEL_KILL_SEED` is the seed of the first.
#![cfg(all(unix, feature = "redb"))]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_transport::local;
use aqueduct_transport::redb::{ReadableTable, TableDefinition, WriteTransaction};
use aqueduct_transport::{
    Authority, ChannelOptions, DurableReceiver, DurableSender, JoinOptions, Queue, RedbQueue, RedbStore,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::StreamExt;

#[path = "support/processes.rs"]
mod processes;

use processes::{below, node, start, watch};

/// What is sent in each life of the server, if it lives long enough.
const VALUES: u64 = 2000;
/// As many in one step of the disk.
const AT_ONCE: u64 = 20;
const LIVES: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(120);
/// What came of each entry, and of how many values.
const EFFECTS: TableDefinition<'_, u64, u64> = TableDefinition::new("effects");

#[derive(Debug, Serialize, Deserialize)]
enum Role {
    Serve {
        store: PathBuf,
        port: u16,
        life: u64,
        /// Whether effects are applied in one step with the end of their entries.
        once: bool,
        observer: SocketAddr,
    },
    Work {
        server: SocketAddr,
    },
}

#[test]
fn as_a_worker() {
    let Some(worker) = local::worker().unwrap() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match worker.payload().unwrap() {
            Role::Work { server } => {
                let node = node(worker.identity().clone(), 0).await;
                let options = JoinOptions::default().values(20..40);
                let mut tasks = node.join_channel::<u64, u64>("squares", server, options);
                let _stop = worker.report_with_stop(node.local_addr()).unwrap();
                while let Some(task) = tasks.next().await {
                    let task = task.unwrap();
                    let square = task.value() * task.value();
                    task.answer(&square).unwrap();
                }
                node.shutdown(Duration::from_secs(5)).await;
            }
            Role::Serve { store, port, life, once, observer } => {
                let say = Say(Arc::new(Mutex::new(TcpStream::connect(observer).unwrap())));
                let node = node(worker.identity().clone(), port).await;
                let queue = Arc::new(RedbStore::open(store).await.unwrap().queue("squares", 1_000_000));
                let options = ChannelOptions::default().capacity(500);
                let (sender, receiver) =
                    node.serve_durable_channel::<u64, u64, _>("squares", Arc::clone(&queue), options).unwrap();
                let _stop = worker.report_with_stop(node.local_addr()).unwrap();
                tokio::join!(send(sender, life, &say), receive(receiver, &queue, once, &say));
                assert_eq!(queue.len().await.unwrap(), 0);
                say.line("end", &[]);
                node.shutdown(Duration::from_secs(5)).await;
            }
        }
    });
}

async fn send(sender: DurableSender<u64, RedbQueue>, life: u64, say: &Say) {
    let first = life * VALUES;
    for batch in (first..first + VALUES).step_by(AT_ONCE as usize) {
        let values: Vec<_> = (batch..batch + AT_ONCE).collect();
        let ids = sender.send_all(values.clone()).await.unwrap();
        for (id, value) in ids.into_iter().zip(values) {
            say.line("sent", &[id.number(), value]);
        }
    }
    // It is closed only by those that live to its end, and when everybody is there to be told.
    sender.wait_until_ready(3, PATIENCE).await.unwrap();
}

async fn receive(mut receiver: DurableReceiver<u64>, queue: &RedbQueue, once: bool, say: &Say) {
    loop {
        let results = receiver.recv_many(50).await.unwrap();
        if results.is_empty() {
            return;
        }
        if once {
            let entries = results.iter().map(|result| (result.id, (result.id.number(), result.answer))).collect();
            let effect = |transaction: &WriteTransaction, (id, square)| {
                let before = transaction.open_table(EFFECTS)?.insert(id, square)?.is_some();
                if before { Err("twice".into()) } else { Ok(()) }
            };
            queue.apply(entries, effect).await.unwrap();
        }
        for result in results {
            say.line("got", &[result.id.number(), result.answer, result.attempt.into()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_02_a_durable_server_that_is_killed_again_and_again_loses_nothing() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("CHANNEL_KILL_SEED").unwrap_or(1);
    for seed in first..first + number("CHANNEL_KILL_RUNS").unwrap_or(2) {
        timeout(PATIENCE, run(seed)).await.unwrap_or_else(|_| panic!("seed {seed}: it hangs"));
    }
}

async fn run(seed: u64) {
    let watch = watch(seed);
    let (mut random, once) = (seed, seed % 2 == 1);
    let authority = Authority::dev("test").unwrap();
    let identity = authority.issue("server").unwrap();
    let store = std::env::temp_dir().join(format!("aqueduct-channel-kill-{seed}-{}.redb", std::process::id()));
    let _ = std::fs::remove_file(&store);
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let mut workers = Vec::new();
    for name in ["one", "two", "three"] {
        workers.push(start(authority.issue(name).unwrap(), &Role::Work { server }, PATIENCE).await);
    }
    // By id: what was sent, and how often its result came.
    let (mut sent, mut got) = (BTreeMap::new(), BTreeMap::<u64, u64>::new());
    for life in 0..LIVES {
        let observer = listener.local_addr().unwrap();
        let role = Role::Serve { store: store.clone(), port, life, once, observer };
        let mut serving = start(identity.clone(), &role, PATIENCE).await;
        let mut lines = BufReader::new(listener.accept().await.unwrap().0).lines();
        let is_last = life + 1 == LIVES;
        let kill_after = if is_last { u64::MAX } else { below(&mut random, 3 * VALUES / 2) };
        let mut is_at_end = false;
        for _ in 0..kill_after {
            let Some(line) = next_line(&mut lines).await else { break };
            watch.goes_on();
            is_at_end |= note(&line, &mut sent, &mut got, seed);
        }
        if is_last {
            assert!(is_at_end, "seed {seed}: it does not end");
            let status = serving.exited().await.unwrap();
            assert!(status.success(), "seed {seed}: {status}");
            break;
        }
        let status = serving.shutdown(Duration::ZERO).await.unwrap();
        assert!(status.signal() == Some(9) || is_at_end, "seed {seed}: {status}");
        // What it had said.
        while let Some(line) = next_line(&mut lines).await {
            note(&line, &mut sent, &mut got, seed);
        }
        if is_at_end {
            // Its workers have seen the end.
            break;
        }
    }
    let lost: Vec<_> = sent.keys().filter(|id| !got.contains_key(*id)).collect();
    // In that mode the effect is what counts: it may be there although nothing was said of it any more.
    assert!(once || lost.is_empty(), "seed {seed}: of {} are lost: {lost:?}", sent.len());
    let again = got.values().filter(|count| **count > 1).count();
    println!("seed {seed}: {} sent, {} received, {again} again", sent.len(), got.len());
    assert!(sent.len() as u64 >= VALUES, "seed {seed}: only {} were sent", sent.len());
    if once {
        let store = RedbStore::open(&store).await.unwrap();
        let effects = Arc::new(Mutex::new(BTreeMap::new()));
        let read = Arc::clone(&effects);
        let queue = store.queue("look", 1);
        let ids = queue.push(vec!["".into()]).await.unwrap();
        let look = move |transaction: &WriteTransaction, ()| {
            for effect in transaction.open_table(EFFECTS)?.iter()? {
                let (id, square) = effect?;
                read.lock().unwrap().insert(id.value(), square.value());
            }
            Ok(())
        };
        queue.apply(vec![(ids[0], ())], look).await.unwrap();
        let effects = effects.lock().unwrap();
        for (id, value) in &sent {
            assert_eq!(effects.get(id), Some(&(value * value)), "seed {seed}: {id}");
        }
    }
    for mut worker in workers {
        let status = worker.exited().await.unwrap();
        assert!(status.success(), "seed {seed}: a worker ended with {status}");
    }
    std::fs::remove_file(store).unwrap();
}

/// Takes note of what a server says, and answers whether it was at its end.
fn note(line: &str, sent: &mut BTreeMap<u64, u64>, got: &mut BTreeMap<u64, u64>, seed: u64) -> bool {
    let mut words = line.split(' ');
    let what = words.next().unwrap();
    let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    match (what, &numbers[..]) {
        ("sent", [id, value]) => drop(sent.insert(*id, *value)),
        ("got", [id, square, attempt]) => {
            let count = got.entry(*id).or_default();
            *count += 1;
            assert!(*count == 1 || *attempt > 1, "seed {seed}: {id} came again as the first");
            // It may be received before it is known to have been sent.
            if let Some(value) = sent.get(id) {
                assert_eq!(*square, value * value, "seed {seed}");
            }
        }
        ("end", []) => return true,
        // The last line may be torn.
        _ => {}
    }
    false
}

async fn next_line(lines: &mut Lines<BufReader<tokio::net::TcpStream>>) -> Option<String> {
    lines.next_line().await.ok().flatten()
}

/// The server's word to the test.
struct Say(Arc<Mutex<TcpStream>>);

impl Say {
    fn line(&self, what: &str, numbers: &[u64]) {
        let numbers: String = numbers.iter().map(|number| format!(" {number}")).collect();
        self.0.lock().unwrap().write_all(format!("{what}{numbers}\n").as_bytes()).unwrap();
    }
}
