//! A peer that takes file descriptors of a process: with connections to what it accepts beside its node, and by falling silent,
//! as a node opens a socket to ask whether such a peer is still there. A node itself has one socket for all connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use aqueduct_stage::stages::{self, Connection, TcpAcceptor};
use aqueduct_stage::{Graph, Result, Running, each};
use aqueduct_transport::local::Process;
use aqueduct_transport::{Authority, NodeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::nodes::{GUARD, guarded, node};
use crate::suite::{Target, Usage, take};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_file_descriptors_serves_its_peers_and_accepts_again_as_soon_as_some_are_closed() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let target = Target::alone().start(&authority).await;
        let (at, bound) = (target.address(), leave_descriptors(&target, 8));
        let clients = connect(at, CLIENTS).await;
        while descriptors(&target).range(..bound).count() < bound {
            sleep(Duration::from_millis(10)).await;
        }
        // The acceptor tries again, and not all the time.
        let (usage, begun) = (Usage::begin(&target), Instant::now());
        sleep(Duration::from_secs(2)).await;
        let (_, processor) = usage.so_far(&target, begun.elapsed());
        println!("all descriptors below {bound} in use: {:.0} % of a core", processor * 100.0);
        assert!(processor < 0.25, "it spins: {processor}");
        let newcomer = node(authority.issue("newcomer").unwrap(), NodeConfig::default()).await;
        take(&newcomer, at).await;
        drop(clients);
        let mut client = TcpStream::connect(at).await.unwrap();
        let answer = timeout(GUARD, client.read_u8()).await.expect("nobody accepts any more");
        assert_eq!(answer.unwrap(), GREETING);
    })
    .await;
}

/// Accepts whoever comes, greets it, and keeps it until it closes.
pub(crate) fn accept(acceptor: TcpAcceptor) -> Running {
    let graph = Graph::new("accepting");
    let connections = graph.try_stream("connections", acceptor);
    let kept = graph.stage("keep", || stages::farm(1_000, keep)).subscribe(&connections, 500..1000);
    graph.consumer("end", || each(|()| async { Ok(()) })).subscribe(&kept, 500..1000);
    graph.start()
}

async fn keep(mut connection: Connection) -> Result<()> {
    // Whatever becomes of one, the others go on.
    let _ = connection.write_u8(GREETING).await;
    let _ = connection.read(&mut [0]).await;
    Ok(())
}

/// Has so many connections; those that are not accepted wait.
pub(crate) async fn connect(at: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.extend(TcpStream::connect(at).await);
    }
    clients
}

/// Lets a process open so many files more than it has; returns the first number that none of them can have. What it was
/// started with can have higher ones.
pub(crate) fn leave_descriptors(process: &Process, more: usize) -> usize {
    let in_use = descriptors(process);
    let bound = (0..).filter(|number| !in_use.contains(number)).nth(more).unwrap();
    let (process, files) = (format!("--pid={}", process.id()), format!("--nofile={bound}"));
    let status = Command::new("prlimit").args([process, files]).status();
    assert!(status.expect("prlimit (util-linux) is needed").success());
    bound
}

fn descriptors(process: &Process) -> BTreeSet<usize> {
    let all = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// More than the descriptors that are left, and fewer than the system lets wait to be accepted: the next would not connect.
pub(crate) const CLIENTS: usize = 100;
const GREETING: u8 = 7;
