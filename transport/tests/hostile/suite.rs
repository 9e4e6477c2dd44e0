//! Every attack that a node with a valid certificate can make, on a node in a process of its own: what it takes there, and what
//! an honest peer sees meanwhile. One command prints the table, in some minutes:
//!
//!     cargo test --workspace --test hostile no_attack -- --ignored --nocapture
//!
//! `AQUEDUCT_ATTACK=worker` leaves only the rows with that in their names.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aqueduct_stage::stages::TcpAcceptor;
use aqueduct_stage::{Graph, Running, SourceExt};
use aqueduct_transport::local::{self, Options, Process};
use aqueduct_transport::{Authority, ChannelOptions, Identity, JoinOptions, Node, NodeConfig, Retrying, Wire};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;

use crate::attacks::{Attack, Attacker};
use crate::descriptors::{self, leave_descriptors};
use crate::nodes::{begin, node};
use crate::publishing;
use crate::taking::Large;
use crate::world::SAID;

/// What no attack may exceed.
const MEMORY_KIB: u64 = 64 << 10;
const SLOWER: f64 = 3.0;
/// What the honest peer does again and again: it subscribes, and takes so many events.
const EVENTS: usize = 10_000;
/// The machine does other things as well, so a slow one is looked at again.
const LOOKS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures, so nothing else may run beside it: a step of its own of .ci/run"]
async fn no_attack_takes_more_than_64_mib_or_makes_an_honest_peer_slower_than_three_times() {
    let authority = Authority::dev("test").unwrap();
    let honest = node(authority.issue("honest").unwrap(), NodeConfig::default()).await;
    println!(
        "{:<45} {:>8} {:>10} {:>9} {:>20} {:>7}",
        "attack", "said", "memory", "processor", "honest peer", "slower"
    );
    let mut failed = Vec::new();
    let only = std::env::var("AQUEDUCT_ATTACK").unwrap_or_default();
    for attack in Attack::all().filter(|attack| attack.name().contains(&only)) {
        let mut row = Row::measure(&authority, &honest, attack).await;
        for _ in 1..LOOKS {
            if row.is_fine() {
                break;
            }
            println!("{row}   (looked at again)");
            row = Row::measure(&authority, &honest, attack).await;
        }
        println!("{row}");
        if !row.is_fine() {
            failed.push(attack.name());
        }
    }
    assert!(failed.is_empty(), "too much, or too slow: {failed:?}");
}

/// What one attack did.
struct Row {
    attack: String,
    /// How often, where that can be counted.
    said: u64,
    memory_kib: u64,
    /// Of one core.
    processor: f64,
    before: Duration,
    meanwhile: Duration,
    seen: usize,
}

impl Row {
    async fn measure(authority: &Authority, honest: &Node, attack: Attack) -> Self {
        // On another machine it would not share threads with the honest peer.
        let elsewhere = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (mut attacker, target) = {
            let _entered = elsewhere.enter();
            let attacker = Attacker::new(authority.issue("hostile").unwrap());
            let addresses = if attack.role() == Role::Publisher { 0 } else { ADDRESSES };
            let hostile = publishing::serve(&attacker, attack, addresses);
            let target = Target { role: attack.role(), hostile, subscriptions: attack.subscriptions() };
            (attacker, target)
        };
        let target = target.start(authority).await;
        let at = target.address();
        if matches!(attack, Attack::Descriptors) {
            leave_descriptors(&target, 8);
        }
        let mut before = Vec::new();
        for _ in 0..7 {
            before.push(take(honest, at).await);
        }
        SAID.store(0, Ordering::Relaxed);
        let usage = Usage::begin(&target);
        let begun = Instant::now();
        {
            let _entered = elsewhere.enter();
            let _attacking = begin(async move { attacker.attack(attack, at).await });
        }
        let mut meanwhile = Vec::new();
        while begun.elapsed() < attack.lasts() || meanwhile.len() < 5 {
            meanwhile.push(take(honest, at).await);
        }
        let (memory_kib, processor) = usage.so_far(&target, begun.elapsed());
        let said = SAID.load(Ordering::Relaxed);
        elsewhere.shutdown_background();
        let seen = meanwhile.len();
        let (before, meanwhile) = (median(before), median(meanwhile));
        Self { attack: attack.name(), said, memory_kib, processor, before, meanwhile, seen }
    }

    fn slower(&self) -> f64 {
        self.meanwhile.as_secs_f64() / self.before.as_secs_f64()
    }

    fn is_fine(&self) -> bool {
        self.memory_kib <= MEMORY_KIB && self.slower() <= SLOWER
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attack, said, memory_kib, processor, before, meanwhile, seen, .. } = self;
        let honest =
            format!("{:.0} ms, {seen} times ({:.0})", meanwhile.as_secs_f64() * 1e3, before.as_secs_f64() * 1e3);
        let (memory, processor) = (format!("{memory_kib} KiB"), format!("{:.0} %", processor * 100.0));
        write!(f, "{attack:<45} {said:>8} {memory:>10} {processor:>9} {honest:>20} {:>6.1}x", self.slower())
    }
}

/// What the honest peer does; how long it takes.
pub(crate) async fn take(honest: &Node, at: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut events = honest.source::<u64>("numbers", at).events(50..100);
    for _ in 0..EVENTS {
        let next = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
        next.expect("the honest peer is shut out").unwrap().unwrap();
    }
    begun.elapsed()
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// What a process had before an attack.
pub(crate) struct Usage {
    resident_kib: u64,
    ticks: u64,
}

impl Usage {
    pub(crate) fn begin(process: &Process) -> Self {
        // The peak counts from here on.
        std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5").unwrap();
        Self { resident_kib: status_kib(process, "VmRSS:"), ticks: ticks(process) }
    }

    /// How much memory it has taken at most since then, and which part of a core.
    pub(crate) fn so_far(&self, process: &Process, elapsed: Duration) -> (u64, f64) {
        let memory = status_kib(process, "VmHWM:").saturating_sub(self.resident_kib);
        let seconds = (ticks(process) - self.ticks) as f64 / TICKS_PER_SECOND;
        (memory, seconds / elapsed.as_secs_f64())
    }
}

fn status_kib(process: &Process, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processor time of a process: its 14th and 15th field, of which the second may hold spaces.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = rest.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

const TICKS_PER_SECOND: f64 = 100.0;

/// What is attacked.
#[derive(Serialize, Deserialize)]
pub(crate) struct Target {
    role: Role,
    /// Where it subscribes, or works, and how often at each.
    hostile: Vec<SocketAddr>,
    subscriptions: usize,
}

impl Target {
    /// That nobody publishes anything to.
    pub(crate) fn alone() -> Self {
        Self { role: Role::Publisher, hostile: Vec::new(), subscriptions: 0 }
    }

    /// In a process of its own.
    pub(crate) async fn start(&self, authority: &Authority) -> Process {
        let options = Options::default().args(["--exact", "as_a_worker", "--nocapture"]);
        local::spawn(&authority.issue("there").unwrap(), self, &options.quiet(true)).await.unwrap()
    }
}

/// What the target does with a hostile node.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Publisher,
    Subscriber,
    /// A subscriber to numbers, of a window like those of far subscriptions.
    Numbers,
    Worker,
}

/// The process that is attacked: this test binary again.
pub(crate) fn as_a_worker() {
    let Some(worker) = local::worker().unwrap() else { return };
    let target: Target = worker.payload().unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (node, acceptor) = with_the_same_port(worker.identity()).await;
        let _running = publish(&node);
        let _accepting = descriptors::accept(acceptor);
        let _working = begin(work(node.clone()));
        for hostile in target.hostile {
            for _ in 0..target.subscriptions {
                match target.role {
                    Role::Worker => drop(begin(work_for_hostile(node.clone(), hostile))),
                    Role::Numbers => drop(begin(take_from_hostile::<u64>(node.clone(), hostile, 5000..10_000))),
                    _ => drop(begin(take_from_hostile::<Bytes>(node.clone(), hostile, 500..1000))),
                }
            }
        }
        worker.report(node.local_addr()).unwrap();
        sleep(Duration::from_secs(600)).await;
    });
}

/// A node, and a TCP socket at its address.
async fn with_the_same_port(identity: &Identity) -> (Node, TcpAcceptor) {
    loop {
        let node = node(identity.clone(), NodeConfig::default()).await;
        if let Ok(acceptor) = TcpAcceptor::bind(node.local_addr()).await {
            return (node, acceptor);
        }
    }
}

/// A hostile publisher has so many addresses.
const ADDRESSES: usize = 4;
/// What a program waits before it subscribes again to what has ended. What could not be subscribed to is tried again without.
const PAUSE: Duration = Duration::from_millis(20);

fn publish(node: &Node) -> Running {
    let graph = Graph::new("target");
    node.publish("numbers", &graph.iterate("numbers", || 0_u64..)).unwrap();
    node.publish("large", &graph.producer("large", Large::default)).unwrap();
    graph.start()
}

/// Values for whoever works.
async fn work(node: Node) {
    let (sender, mut receiver) =
        node.serve_channel::<u64, Bytes>("work", ChannelOptions::default().capacity(100)).unwrap();
    let send = async {
        for number in 0.. {
            if sender.send(number).await.is_err() {
                return;
            }
        }
    };
    // A value that was tried five times keeps its place until somebody has looked at it: a hundred of them would end the attack.
    let mut dead = sender.monitor().dead_letters();
    let receive = async { while receiver.recv().await.is_some() {} };
    tokio::join!(send, receive, async { while dead.next().await.is_some() {} });
}

async fn take_from_hostile<T: Wire>(node: Node, hostile: SocketAddr, window: Range<usize>) {
    loop {
        let patient = Retrying::new(&node.source::<T>("evil", hostile), Duration::from_secs(60));
        let mut events = patient.events(window.clone());
        while let Some(Ok(_)) = events.next().await {}
        sleep(PAUSE).await;
    }
}

async fn work_for_hostile(node: Node, hostile: SocketAddr) {
    loop {
        let mut tasks = node.join_channel::<u64, Bytes>("evil", hostile, JoinOptions::default());
        while let Some(Ok(task)) = tasks.next().await {
            let _ = task.answer(&Bytes::from_static(&[7]));
        }
        sleep(PAUSE).await;
    }
}
