//! What the two processes do: one produces a thousand numbered events a second, the other takes them and tells.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{Backoff, Batch, Consumer, Cx, Exit, Graph, Intensity, Producer, Restart, Result, Running};
use aqueduct_transport::local::Worker;
use aqueduct_transport::redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use aqueduct_transport::{
    Node, NodeConfig, Numbered, Once, QueueSource, RedbPositions, RedbStore, Remote, Retrying, StoreError, Wire,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

/// After so long without a word from the other node the connection is lost.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long anything may take that is not measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What the producer adds to its queue at a time, at most: while one of these is being added, it may be killed.
pub(crate) const MOST_AT_A_TIME: u64 = 1000;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) role: Role,
    /// How a link is kept, and an event handled.
    pub(crate) delivery: Delivery,
    /// How long a link that is cut is waited for.
    pub(crate) grace: Duration,
    /// The socket of whoever is to be told.
    pub(crate) observer: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Produces `first..end`, one each millisecond. `queue` is where they are kept if they are to outlive the process.
    Produce { at: SocketAddr, first: u64, end: u64, queue: PathBuf },
    /// Takes them. `effects` is where it notes what it did with them if that is to outlive the process.
    Consume { from: SocketAddr, effects: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Delivery {
    /// Exactly once as long as both processes live.
    Plain,
    /// At least once; exactly once as long as both processes live.
    Acknowledged,
    /// Exactly once, whichever process is killed: a durable queue at one end, durable positions at the other.
    Durable,
}

/// What a process tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// These were handled, in this order.
    Effects(Vec<u64>),
    /// All up to this one are in the queue.
    Accepted(u64),
    /// The consumer has ended, with a failure or without.
    Ended { failure: Option<String>, resumed: u64, given_up: u64, dials_failed: u64 },
}

pub(crate) async fn play(worker: &Worker) {
    let Job { role, delivery, grace, observer } = worker.payload().unwrap();
    let say = Say(Arc::new(Mutex::new(UnixStream::connect(observer).unwrap())));
    let config =
        NodeConfig::default().idle_timeout(IDLE_TIMEOUT).keep_alive(Duration::from_millis(500)).session_grace(grace);
    let bind = |at: SocketAddr| Node::builder(worker.identity().clone()).config(config).bind(at);
    let mut stop;
    match role {
        Role::Produce { at, first, end, queue } => {
            let node = bind(at).await.unwrap();
            if delivery == Delivery::Durable {
                let queue = RedbStore::open(queue).await.unwrap().queue("numbers", 1_000_000);
                let source = QueueSource::new("numbers", Arc::new(queue));
                node.publish("numbers", &source.exclusive()).unwrap();
                stop = worker.report_with_stop(node.local_addr()).unwrap();
                push(&source, first, end, &say).await;
                stop.requested().await;
            } else {
                let graph = Graph::new("producing");
                let numbers = graph.producer("numbers", move || Numbers { started: None, first, next: first, end });
                node.publish("numbers", &numbers).unwrap();
                let _running = graph.start();
                stop = worker.report_with_stop(node.local_addr()).unwrap();
                stop.requested().await;
            }
        }
        Role::Consume { from, effects } => {
            let node = bind(SocketAddr::new(if from.ip().is_loopback() { from.ip() } else { [0; 4].into() }, 0)).await;
            let node = node.unwrap();
            stop = worker.report_with_stop(node.local_addr()).unwrap();
            let mut running = consume(&node, from, delivery, effects, &say).await;
            let failure = running.join().await.err().map(|error| format!("{:?}", error.failure.kind()));
            let seen = node.snapshot();
            let (resumed, given_up, dials_failed) = (seen.links_resumed, seen.links_given_up, seen.dials_failed);
            say.report(&Report::Ended { failure, resumed, given_up, dials_failed });
            stop.requested().await;
        }
    }
}

/// Pushes what is due, and says what was accepted.
async fn push(source: &QueueSource<u64, impl aqueduct_transport::Queue>, first: u64, end: u64, say: &Say) {
    let (started, mut next) = (Instant::now(), first);
    while next < end {
        // Each push waits for the disk.
        sleep_until(started + Duration::from_millis(next - first + 10)).await;
        let due = (first + started.elapsed().as_millis() as u64).min(next + MOST_AT_A_TIME).min(end);
        source.push(next..due).await.unwrap();
        say.report(&Report::Accepted(due));
        next = due;
    }
    source.close();
}

async fn consume(node: &Node, from: SocketAddr, delivery: Delivery, effects: PathBuf, say: &Say) -> Running {
    fn numbers<T: Wire>(node: &Node, from: SocketAddr) -> Remote<T> {
        node.source("numbers", from)
    }
    let say = say.clone();
    let graph = Graph::new("consuming")
        .intensity(Intensity::new(100, Duration::from_secs(1)))
        .backoff(Backoff::exponential(Duration::from_millis(10), Duration::from_millis(100)));
    if delivery == Delivery::Durable {
        let positions = Arc::new(RedbStore::open(effects).await.unwrap().positions());
        let once = Once::new(&numbers(node, from), Arc::clone(&positions), SUBSCRIPTION);
        let note = move || Note { positions: Arc::clone(&positions), say: say.clone() };
        let note = graph.consumer("note", note).restart(Restart::Transient);
        note.subscribe_acknowledged(&Retrying::new(&once, PATIENCE), 50..100);
    } else {
        let far = Retrying::new(&numbers(node, from), PATIENCE);
        let tell = graph.consumer("tell", move || Tell { say: say.clone() });
        match delivery {
            Delivery::Plain => tell.subscribe(&far, 50..100),
            _ => tell.subscribe_acknowledged(&far, 50..100),
        };
    }
    graph.start()
}

/// Emits one number each millisecond from the first demand on; what was not asked for in time comes later.
struct Numbers {
    started: Option<Instant>,
    first: u64,
    next: u64,
    end: u64,
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let started = *self.started.get_or_insert_with(Instant::now);
        sleep_until(started + Duration::from_millis(self.next - self.first + 1)).await;
        let due = self.first + started.elapsed().as_millis() as u64;
        let to = due.min(self.next + demand as u64).min(self.end);
        cx.emit_all(self.next..to);
        self.next = to;
        if to == self.end {
            cx.stop(Exit::Normal);
        } else if cx.demand() > 0 {
            cx.again();
        }
        Ok(())
    }
}

/// The effect of an event is that it is told.
struct Tell {
    say: Say,
}

impl Consumer for Tell {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        self.say.report(&Report::Effects(events.into_vec()));
        Ok(())
    }
}

/// The effect of an event is that it is noted behind the others, in a file.
struct Note {
    positions: Arc<RedbPositions>,
    say: Say,
}

impl Consumer for Note {
    type In = Numbered<u64>;

    async fn handle_events(&mut self, events: Batch<Numbered<u64>>, _: &mut Cx<'_>) -> Result {
        let numbers = events.iter().map(|numbered| numbered.event).collect();
        let note = |transaction: &WriteTransaction, number| {
            let mut effects = transaction.open_table(EFFECTS)?;
            let place = effects.len()?;
            effects.insert(place, number)?;
            Ok(())
        };
        self.positions.apply(SUBSCRIPTION, events.into_vec(), note).await?;
        self.say.report(&Report::Effects(numbers));
        Ok(())
    }
}

/// What is noted in a file, in order.
pub(crate) async fn noted(file: &PathBuf) -> Result<Vec<u64>, StoreError> {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&noted);
    let read = move |transaction: &WriteTransaction, ()| {
        for effect in transaction.open_table(EFFECTS)?.iter()? {
            found.lock().unwrap().push(effect?.1.value());
        }
        Ok(())
    };
    // Under another name, so that it is called whatever the position is.
    let look = vec![Numbered { number: 1, event: () }];
    RedbStore::open(file).await?.positions().apply("look", look, read).await?;
    let noted = std::mem::take(&mut *noted.lock().unwrap());
    Ok(noted)
}

/// The worker's end of the line to the observer.
#[derive(Clone)]
struct Say(Arc<Mutex<UnixStream>>);

impl Say {
    fn report(&self, report: &Report) {
        let body = rmp_serde::to_vec(report).unwrap();
        let message = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
        self.0.lock().unwrap().write_all(&message).unwrap();
    }
}

const EFFECTS: TableDefinition<'_, u64, u64> = TableDefinition::new("effects");
const SUBSCRIPTION: &str = "note";
