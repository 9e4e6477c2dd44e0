//! Processes that are killed with SIGKILL in the middle of a stream: what must not be lost, and must not happen twice.
//!
//! Every other process is this test binary again, running the test `as_a_worker`, which does nothing in the ordinary run.
//! What a worker does is told over a TCP connection of its own, one line for each thing; what it wrote before it was
//! killed arrives. Ends are those of the processes; nothing waits for time to pass, and a limit ends a test that hangs.
#![cfg(all(unix, feature = "redb"))]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{
    Backoff, Batch, Consumer, Cx, FailureKind, Graph, Intensity, Restart, Result, Running, Spawner, TokioSpawner, each,
};
use aqueduct_transport::local::{self, Process};
use aqueduct_transport::redb::{ReadableTable, TableDefinition, WriteTransaction};
use aqueduct_transport::{
    Authority, Identity, MemoryPositions, MemoryQueue, Node, Numbered, Once, Positions, QueueSource, RedbStore,
    Retrying,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

#[path = "support/processes.rs"]
mod processes;

use processes::{node, start, watch};

const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a lost node is noticed.
const DETECTED_WITHIN: Duration = Duration::from_secs(5);
/// The goal is half a second, and one is promised; the rest is for a machine that does other things as well.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
const EFFECTS: TableDefinition<'_, u64, u64> = TableDefinition::new("effects");

/// What a worker of these tests does.
#[derive(Debug, Serialize, Deserialize)]
enum Role {
    /// Consumes `numbers` at an address, and says `number attempt` before each event counts as handled.
    Consume { from: SocketAddr },
    /// The same in a node with the default settings, and never handles any.
    Hold { from: SocketAddr },
    /// Publishes `numbers` from memory, without an end.
    Count,
    /// Publishes a queue as `numbers` on a port, and pushes `round * 1_000_000 ..`; says each that was accepted.
    Push { store: PathBuf, port: u16, round: u64, last: bool },
    /// Consumes `numbers` with patience from where it is said to be, and says each.
    Follow { from: SocketAddr },
    /// Consumes `numbers`, applies each once, and kills itself between an effect and its acknowledgement; in the last
    /// round it does not.
    Apply { from: SocketAddr, store: PathBuf, crash_at: Option<u64> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    role: Role,
    observer: SocketAddr,
}

#[test]
fn as_a_worker() {
    let Some(worker) = local::worker().unwrap() else { return };
    let job: Job = worker.payload().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let say = Say(Arc::new(Mutex::new(TcpStream::connect(job.observer).unwrap())));
        let port = if let Role::Push { port, .. } = &job.role { *port } else { 0 };
        let node = node(worker.identity().clone(), port).await;
        let report = || worker.report_with_stop(node.local_addr()).unwrap();
        let _running: Option<Running> = match job.role {
            Role::Consume { from } => {
                let graph = Graph::new("consuming");
                let far = node.source::<u64>("numbers", from);
                graph.consumer("say", move || Telling { say: say.clone() }).subscribe_acknowledged(&far, 5..10);
                report();
                let mut running = graph.start();
                let _ = running.join().await;
                None
            }
            Role::Hold { from } => {
                let settled = Node::bind("127.0.0.1:0", worker.identity().clone()).await.unwrap();
                let graph = Graph::new("holding");
                let far = settled.source::<u64>("numbers", from);
                let hold = move |number: u64| {
                    say.line(&[number]);
                    std::future::pending::<Result>()
                };
                graph.consumer("hold", move || each(hold.clone())).subscribe_acknowledged(&far, 5..10);
                report();
                Some(graph.start())
            }
            Role::Count => {
                let graph = Graph::new("counting");
                node.publish("numbers", &graph.iterate("numbers", || 0..u64::MAX)).unwrap();
                let running = graph.start();
                report();
                Some(running)
            }
            Role::Push { store, round, last, .. } => {
                let queue = RedbStore::open(store).await.unwrap().queue("q", 1_000_000);
                let source = QueueSource::new("numbers", Arc::new(queue));
                node.publish("numbers", &source.exclusive()).unwrap();
                report();
                for batch in 0..if last { 5 } else { u64::MAX } {
                    let first = round * 1_000_000 + batch * 3;
                    source.push(first..first + 3).await.unwrap();
                    (first..first + 3).for_each(|number| say.line(&[number]));
                }
                source.close();
                std::future::pending().await
            }
            Role::Follow { from } => {
                let far = node.source::<Numbered<u64>>("numbers", from);
                let patient = Retrying::new(&far, PATIENCE);
                let graph = Graph::new("following");
                graph.consumer("say", move || Following { say: say.clone() }).subscribe_acknowledged(&patient, 5..10);
                report();
                Some(graph.start())
            }
            Role::Apply { from, store, crash_at } => {
                let positions = Arc::new(RedbStore::open(store).await.unwrap().positions());
                let far = node.source::<Numbered<u64>>("numbers", from);
                let once = Retrying::new(&Once::new(&far, Arc::clone(&positions), "apply"), PATIENCE);
                let graph = Graph::new("applying");
                let apply = move || Applying { positions: Arc::clone(&positions), crash_at };
                graph.consumer("apply", apply).subscribe_acknowledged(&once, 5..10);
                report();
                let mut running = graph.start();
                running.join().await.unwrap();
                say.line(&[0]);
                None
            }
        };
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_01_what_a_killed_consumer_had_goes_to_the_other() {
    limited(async {
        for round in 0..3_u64 {
            let authority = Authority::dev("test").unwrap();
            let here = node(authority.issue("here").unwrap(), 0).await;
            let graph = Graph::new("producing");
            let numbers = graph.iterate("numbers", || 0..SHARED).wait_for_subscribers(2);
            here.publish("numbers", &numbers).unwrap();
            let mut producing = graph.start();
            let mut observer = Observer::new().await;
            let role = || Role::Consume { from: here.local_addr() };
            let killed = observer.start(authority.issue("killed").unwrap(), role()).await;
            let mut first = observer.accept().await;
            let other = observer.start(authority.issue("other").unwrap(), role()).await;
            let mut second = observer.accept().await;
            let mut seen = Vec::new();
            while seen.len() < 10 + 23 * round as usize {
                seen.push(first.recv().await.unwrap());
            }
            kill(killed).await;
            let gone = Instant::now();
            while let Some(line) = first.recv().await {
                seen.push(line);
            }
            producing.join().await.unwrap();
            // Detected, given to the other, and handled by it.
            assert!(gone.elapsed() < DETECTED_WITHIN + Duration::from_secs(5), "{:?}", gone.elapsed());
            // Whatever it has said arrives before its end.
            kill(other).await;
            let mut by_other = BTreeMap::new();
            while let Some(line) = second.recv().await {
                assert_eq!(by_other.insert(line[0], line[1]), None, "twice at one consumer");
            }
            let mut all: Vec<u64> = by_other.keys().copied().collect();
            for line in seen {
                match by_other.get(&line[0]) {
                    Some(attempt) => assert_eq!(*attempt, 2, "{} twice, and not said", line[0]),
                    None => all.push(line[0]),
                }
            }
            all.sort_unstable();
            assert_eq!(all, (0..SHARED).collect::<Vec<_>>());
        }
    })
    .await;
}

/// With the default settings at both ends, where a lost machine would be noticed after 5 s and waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_consumer_had_is_given_to_another_as_soon_as_its_machine_says_that_it_is_gone() {
    limited(async {
        let authority = Authority::dev("test").unwrap();
        let here = Node::bind("127.0.0.1:0", authority.issue("here").unwrap()).await.unwrap();
        let source = QueueSource::<u64, _>::new("numbers", Arc::new(MemoryQueue::new(1000)));
        here.publish("numbers", &source).unwrap();
        source.push(0..5).await.unwrap();
        let mut observer = Observer::new().await;
        let role = Role::Hold { from: here.local_addr() };
        let killed = observer.start(authority.issue("killed").unwrap(), role).await;
        let mut first = observer.accept().await;
        assert_eq!(first.recv().await.unwrap(), [0]);
        let role = Role::Consume { from: here.local_addr() };
        let _other = observer.start(authority.issue("other").unwrap(), role).await;
        let mut second = observer.accept().await;
        // More than the first has room for.
        source.push(5..30).await.unwrap();
        second.recv().await.unwrap();
        kill(killed).await;
        let gone = Instant::now();
        while second.recv().await.unwrap()[0] != 0 {}
        println!("the other consumer has event 0 after {:.1?}", gone.elapsed());
        // 3 s are promised.
        assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_02_a_killed_producer_is_no_end_of_the_data() {
    limited(async {
        for _ in 0..2 {
            let authority = Authority::dev("test").unwrap();
            let here = node(authority.issue("here").unwrap(), 0).await;
            let mut observer = Observer::new().await;
            let there = observer.start(authority.issue("there").unwrap(), Role::Count).await;
            let (mut running, mut seen) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                let (say, lines) = mpsc::unbounded_channel();
                let graph = Graph::new("consuming");
                let far = here.source::<u64>("numbers", there.address());
                graph.consumer("watch", move || Watching { say: say.clone() }).subscribe(&far, 5..10);
                running.push(graph.start());
                seen.push(lines);
            }
            for lines in &mut seen {
                lines.recv().await.unwrap();
            }
            kill(there).await;
            let gone = Instant::now();
            for running in &mut running {
                let failure = running.join().await.unwrap_err().failure;
                assert_eq!(failure.kind(), FailureKind::Disconnected, "{failure}");
            }
            assert!(gone.elapsed() < DETECTED_WITHIN, "{:?}", gone.elapsed());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_03_a_killed_producer_with_a_durable_queue_loses_nothing() {
    limited(async {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), 0).await;
        let (store, mut observer) = (file("pushed"), Observer::new().await);
        // A port that is free, for all lives of the producer.
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let far = here.source::<Numbered<u64>>("numbers", SocketAddr::from(([127, 0, 0, 1], port)));
        let positions = Arc::new(MemoryPositions::new());
        let once = Retrying::new(&Once::new(&far, Arc::clone(&positions), "watch"), PATIENCE);
        let (say, mut effects) = mpsc::unbounded_channel();
        let graph = Graph::new("consuming")
            .intensity(Intensity::new(100, Duration::from_secs(1)))
            .backoff(Backoff::exponential(Duration::from_millis(10), Duration::from_millis(100)));
        let watch = move || Storing { say: say.clone(), positions: Arc::clone(&positions) };
        graph.consumer("watch", watch).subscribe_acknowledged(&once, 5..10).restart(Restart::Transient);
        let mut running = graph.start();
        let (mut accepted, mut applied) = (Vec::new(), Vec::new());
        for round in 0..5 {
            let last = round == 4;
            let role = Role::Push { store: store.clone(), port, round, last };
            let producer = observer.start(authority.issue("there").unwrap(), role).await;
            let mut said = observer.accept().await;
            let started = Instant::now();
            applied.push(effects.recv().await.unwrap());
            assert!(started.elapsed() < DETECTED_WITHIN, "it goes on after {:?}", started.elapsed());
            if last {
                running.join().await.unwrap();
            } else {
                for _ in 0..5 + 17 * round {
                    applied.push(effects.recv().await.unwrap());
                }
            }
            kill(producer).await;
            while let Some(line) = said.recv().await {
                accepted.push(line[0]);
            }
        }
        while let Ok(number) = effects.try_recv() {
            applied.push(number);
        }
        applied.sort_unstable();
        let with_twice = applied.len();
        applied.dedup();
        assert_eq!(with_twice, applied.len(), "something was applied twice");
        let lost: Vec<_> = accepted.iter().filter(|number| applied.binary_search(number).is_err()).collect();
        assert!(lost.is_empty() && accepted.len() > 100, "of {} accepted are lost: {lost:?}", accepted.len());
        std::fs::remove_file(store).unwrap();
    })
    .await;
}

/// However long it was away, and with the settings that everybody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_03_a_restarted_producer_is_heard_again_within_a_second() {
    limited(async {
        let authority = Authority::dev("test").unwrap();
        let here = Node::bind("127.0.0.1:0", authority.issue("here").unwrap()).await.unwrap();
        // With the same key it can say that it knows nothing of its earlier self's connections.
        let there = authority.issue("there").unwrap();
        let (store, mut observer) = (file("heard"), Observer::new().await);
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let far = here.source::<Numbered<u64>>("numbers", SocketAddr::from(([127, 0, 0, 1], port)));
        let positions = Arc::new(MemoryPositions::new());
        let once = Retrying::new(&Once::new(&far, Arc::clone(&positions), "watch"), PATIENCE);
        let (say, mut effects) = mpsc::unbounded_channel();
        let graph = Graph::new("consuming").intensity(Intensity::new(100, Duration::from_secs(1)));
        let watch = move || Storing { say: say.clone(), positions: Arc::clone(&positions) };
        graph.consumer("watch", watch).subscribe_acknowledged(&once, 5..10).restart(Restart::Transient);
        let _running = graph.start();
        let mut took = Vec::new();
        for round in 0..=10 {
            let role = Role::Push { store: store.clone(), port, round, last: false };
            let producer = observer.start(there.clone(), role).await;
            // What the consumer had in hand when the last one was killed has been handled by now.
            while effects.try_recv().is_ok() {}
            let started = Instant::now();
            let _said = observer.accept().await;
            effects.recv().await.unwrap();
            took.push(started.elapsed());
            kill(producer).await;
            // Nobody waits for this: it is how long the machine is down.
            sleep(Duration::from_millis(370 * round)).await;
        }
        report("a restarted producer is heard again after", &took[1..]);
        std::fs::remove_file(store).unwrap();
    })
    .await;
}

/// The publisher's grace is 30 s here, and its exclusive source takes nobody else: it must not wait for the process that is
/// gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_36_a_restarted_exclusive_consumer_takes_its_place_within_a_second() {
    limited(async {
        let authority = Authority::dev("test").unwrap();
        let here = Node::bind("127.0.0.1:0", authority.issue("here").unwrap()).await.unwrap();
        let source = QueueSource::<u64, _>::new("numbers", Arc::new(MemoryQueue::new(1_000_000)));
        here.publish("numbers", &source.exclusive()).unwrap();
        let (mut observer, mut took) = (Observer::new().await, Vec::new());
        for _ in 0..=10 {
            source.push(0..20).await.unwrap();
            let role = Role::Follow { from: here.local_addr() };
            let consumer = observer.start(authority.issue("consumer").unwrap(), role).await;
            let started = Instant::now();
            let mut said = observer.accept().await;
            said.recv().await.unwrap();
            took.push(started.elapsed());
            kill(consumer).await;
        }
        report("a restarted consumer is served again after", &took[1..]);
    })
    .await;
}

/// Prints what was measured, and bounds it for a machine that is busy with other things.
fn report(what: &str, took: &[Duration]) {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let (median, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!("{what} {took:.2?}; median {median:.2?}, longest {longest:.2?}");
    assert!(longest < HEARD_WITHIN, "{what} {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_11_a_consumer_that_is_killed_between_effect_and_acknowledgement_applies_it_once() {
    limited(async {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), 0).await;
        let (store, mut observer) = (file("applied"), Observer::new().await);
        let source = QueueSource::new("numbers", Arc::new(MemoryQueue::new(1000)));
        here.publish("numbers", &source.exclusive()).unwrap();
        source.push(0..EVENTS).await.unwrap();
        source.close();
        for crash_at in [Some(3), Some(60), Some(90), Some(170), Some(250), None] {
            let role = Role::Apply { from: here.local_addr(), store: store.clone(), crash_at };
            let mut process = observer.start(authority.issue("consumer").unwrap(), role).await;
            let mut said = observer.accept().await;
            if crash_at.is_some() {
                assert_eq!(process.exited().await.unwrap().signal(), Some(9));
                assert_eq!(said.recv().await, None);
            } else {
                assert_eq!(said.recv().await, Some(vec![0]), "it ends");
                kill(process).await;
            }
        }
        let positions = RedbStore::open(&store).await.unwrap().positions();
        let effects = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&effects);
        let after = EVENTS + 1;
        let look = vec![Numbered { number: after, event: () }];
        let read = move |transaction: &WriteTransaction, ()| {
            for effect in transaction.open_table(EFFECTS)?.iter()? {
                let (number, times) = effect?;
                found.lock().unwrap().push((number.value(), times.value()));
            }
            Ok(())
        };
        assert_eq!(positions.position("apply").await.unwrap(), Some(EVENTS));
        positions.apply("apply", look, read).await.unwrap();
        assert_eq!(*effects.lock().unwrap(), (0..EVENTS).map(|number| (number, 1)).collect::<Vec<_>>());
        drop(positions);
        std::fs::remove_file(store).unwrap();
    })
    .await;
}

const EVENTS: u64 = 300;
/// So many that one process cannot have all but a few before the other has got its time.
const SHARED: u64 = 3000;

async fn limited(test: impl Future<Output = ()>) {
    let _watch = watch(0);
    timeout(PATIENCE, test).await.expect("the test hangs");
}

/// SIGKILL, and waits until it is gone.
async fn kill(process: Process) {
    let status = process.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
}

/// A file of this test's own, which is not there yet.
fn file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kill-{name}-{}.redb", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// Where workers connect to tell what they do.
struct Observer {
    listener: TcpListener,
}

impl Observer {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    async fn start(&mut self, identity: Identity, role: Role) -> Process {
        let job = Job { role, observer: self.listener.local_addr().unwrap() };
        start(identity, &job, PATIENCE).await
    }

    /// What the next worker says, line by line, to its end.
    async fn accept(&mut self) -> mpsc::UnboundedReceiver<Vec<u64>> {
        let (stream, _) = self.listener.accept().await.unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        let read = async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The last one may be torn.
                let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
                let Ok(numbers) = numbers else { break };
                if sender.send(numbers).is_err() {
                    break;
                }
            }
        };
        TokioSpawner.spawn("observer", Box::pin(read));
        receiver
    }
}

/// The worker's end.
#[derive(Clone)]
struct Say(Arc<Mutex<TcpStream>>);

impl Say {
    fn line(&self, numbers: &[u64]) {
        let words: Vec<_> = numbers.iter().map(u64::to_string).collect();
        let line = words.join(" ") + "\n";
        self.0.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

struct Telling {
    say: Say,
}

impl Consumer for Telling {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        for number in &events {
            self.say.line(&[*number, u64::from(events.attempt().number())]);
        }
        Ok(())
    }
}

struct Following {
    say: Say,
}

impl Consumer for Following {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, events: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        for numbered in &events {
            self.say.line(&[numbered.number]);
        }
        Ok(())
    }
}

struct Watching {
    say: mpsc::UnboundedSender<u64>,
}

impl Consumer for Watching {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        for number in events {
            self.say.send(number)?;
        }
        Ok(())
    }

    async fn handle_end(&mut self, _: &mut Cx<'_>) -> Result {
        Err("told of an end".into())
    }
}

/// This process is not killed, so an effect and its position are one without a transaction.
struct Storing {
    say: mpsc::UnboundedSender<u64>,
    positions: Arc<MemoryPositions>,
}

impl Consumer for Storing {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, events: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        for numbered in events {
            self.say.send(numbered.event)?;
            self.positions.store("watch", numbered.number).await?;
        }
        Ok(())
    }
}

struct Applying {
    positions: Arc<aqueduct_transport::RedbPositions>,
    crash_at: Option<u64>,
}

impl Consumer for Applying {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, events: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        let crashes = events.iter().any(|numbered| Some(numbered.event) == self.crash_at);
        let effect = |transaction: &WriteTransaction, number: u64| {
            let mut effects = transaction.open_table(EFFECTS)?;
            let times = effects.get(number)?.map_or(0, |times| times.value());
            effects.insert(number, times + 1)?;
            Ok(())
        };
        self.positions.apply("apply", events.into_vec(), effect).await?;
        if crashes {
            let kill = format!("kill -s KILL {}", std::process::id());
            std::process::Command::new("sh").args(["-c", &kill]).status()?;
        }
        Ok(())
    }
}
