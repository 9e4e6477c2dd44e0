//! Connections and datagrams as events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::stages::{self, Connection, Datagram, TcpAcceptor, UdpDatagrams};
use aqueduct_stage::{Graph, Result, each};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::poll_once;

/// Whatever is waited for comes much sooner.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_place_is_free_again_when_its_connection_is_dropped() {
    let mut acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap().limit(2);
    let server = acceptor.local_addr().unwrap();
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = timeout(PATIENCE, TcpStream::connect(server)).await.unwrap().unwrap();
        client.write_all(&[number]).await.unwrap();
        clients.push(client);
    }
    let first = timeout(PATIENCE, acceptor.try_next()).await.unwrap().unwrap().unwrap();
    let second = timeout(PATIENCE, acceptor.try_next()).await.unwrap().unwrap().unwrap();
    assert!(timeout(Duration::from_millis(50), acceptor.next()).await.is_err(), "two are open");
    drop(first);
    let mut third = timeout(PATIENCE, acceptor.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!((third.read_u8().await.unwrap(), third.peer_addr()), (2, clients[2].local_addr().unwrap()));
    let (stream, place) = second.into_parts();
    drop(stream);
    assert!(poll_once(std::pin::pin!(acceptor.next())).is_pending(), "its place is kept");
    drop(place);
    assert!(timeout(PATIENCE, acceptor.try_next()).await.unwrap().unwrap().is_some());
}

/// One of the connections that are alive.
struct Alive(Connection, Arc<[AtomicUsize; 2]>);

impl Alive {
    fn new(connection: Connection, alive: &Arc<[AtomicUsize; 2]>) -> Self {
        let [now, most] = &**alive;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(connection, Arc::clone(alive))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Before its place is freed.
        self.1[0].fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers once.
async fn answer(mut alive: Alive) -> Result {
    let number = alive.0.read_u32().await?;
    alive.0.write_u32(number).await?;
    // Until the client has gone.
    let _ = alive.0.read(&mut [0]).await;
    Ok(())
}

/// One client after the other.
async fn clients(server: std::net::SocketAddr, numbers: impl Iterator<Item = u32>) {
    for number in numbers {
        let mut client = TcpStream::connect(server).await.unwrap();
        client.write_u32(number).await.unwrap();
        assert_eq!(client.read_u32().await.unwrap(), number);
        // Leaves no port behind that has to cool down.
        client.set_zero_linger().unwrap();
    }
}

/// So many connections; `AQUEDUCT_CONNECTIONS=100000` for a long run.
fn how_many() -> u32 {
    std::env::var("AQUEDUCT_CONNECTIONS").map_or(10_000, |count| count.parse().expect("a number of connections"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_connections_none_is_lost_and_no_more_are_alive_than_may() {
    const LIMIT: usize = 50;
    const CLIENTS: u32 = 120;
    let count = how_many();
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap().limit(LIMIT);
    let server = acceptor.local_addr().unwrap();
    let alive: Arc<[AtomicUsize; 2]> = Arc::default();
    let opened = Arc::clone(&alive);
    let graph = Graph::new("echo");
    let accepted = acceptor.map(move |connection| connection.map(|connection| Alive::new(connection, &opened)));
    let connections = graph.try_stream("connections", accepted.take(count as usize));
    let answered = graph.stage("answer", || stages::farm(1_000, answer)).subscribe(&connections, 500..1000);
    graph.consumer("count", || each(|()| async { Ok(()) })).subscribe(&answered, 500..1000);
    let mut running = graph.start();
    let mut tasks = JoinSet::new();
    for first in 0..CLIENTS {
        tasks.spawn(clients(server, (first..count).step_by(CLIENTS as usize)));
    }
    let per_connection = Duration::from_millis(20);
    timeout(PATIENCE + per_connection * count, tasks.join_all()).await.unwrap();
    let outcome = timeout(PATIENCE, running.join()).await.unwrap().unwrap();
    assert_eq!(outcome.stage("count").unwrap().events_in, u64::from(count));
    let [now, most] = &*alive;
    assert_eq!((now.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, LIMIT));
}

#[tokio::test]
async fn a_datagram_that_is_too_long_is_counted_and_not_handed_out_cut() {
    let mut datagrams = UdpDatagrams::bind("127.0.0.1:0").await.unwrap().max_bytes(4);
    let (oversized, to) = (datagrams.oversized(), datagrams.local_addr().unwrap());
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let from = sender.local_addr().unwrap();
    for bytes in [&b"1234"[..], b"12345", b"", b"too long by far", b"end"] {
        sender.send_to(bytes, to).await.unwrap();
    }
    for expected in [&b"1234"[..], b"", b"end"] {
        let datagram = timeout(PATIENCE, datagrams.try_next()).await.unwrap().unwrap();
        assert_eq!(datagram, Some(Datagram { bytes: expected.to_vec(), from }));
    }
    assert_eq!(oversized.count(), 2);
}

#[tokio::test]
async fn datagrams_and_ticks_and_lines_begin_graphs() {
    let (seen, graph) = (crate::support::Log::new(), Graph::new("test"));
    let datagrams = UdpDatagrams::bind("127.0.0.1:0").await.unwrap();
    let (to, sender) = (datagrams.local_addr().unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    sender.send_to(b"datagram", to).await.unwrap();
    let arrived = graph.try_stream("datagrams", datagrams.take(1).map(|datagram| datagram.map(|one| one.bytes)));
    let ticks = stages::interval(Duration::from_millis(1)).take(1).map(|tick| vec![b'0' + tick.min(1) as u8]);
    let ticks = graph.stream("ticks", ticks);
    let lines = stages::lines(&b"line"[..]).map(|line| line.map(String::into_bytes));
    let lines = graph.try_stream("lines", lines);
    graph
        .consumer("collect", crate::collect(&seen))
        .subscribe(&arrived, 5..10)
        .subscribe(&ticks, 5..10)
        .subscribe(&lines, 5..10);
    timeout(PATIENCE, graph.run()).await.unwrap().unwrap();
    let mut seen = seen.all();
    seen.sort();
    assert_eq!(seen, [&b"1"[..], b"datagram", b"line"]);
}

/// A process that may open few files is this one again, with a limit of the shell's.
#[cfg(target_os = "linux")]
#[test]
fn an_acceptor_without_free_file_descriptors_goes_on_when_there_are_some_again() {
    const LIMITED: &str = "AQUEDUCT_TEST_FEW_FILES";
    if std::env::var_os(LIMITED).is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(few_files());
    }
    let name = "net::an_acceptor_without_free_file_descriptors_goes_on_when_there_are_some_again";
    let run = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(LIMITED, "")
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&run.stdout));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[cfg(target_os = "linux")]
async fn few_files() {
    let mut accepted = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
    let at = accepted.local_addr().unwrap();
    // Each takes two, one at each end, until there is none left.
    let (mut diallers, mut connections) = (Vec::new(), Vec::new());
    while let Ok(stream) = TcpStream::connect(at).await {
        diallers.push(stream);
        if diallers.len().is_multiple_of(2) {
            let next = timeout(Duration::from_millis(200), accepted.next()).await;
            connections.extend(next.ok().map(|next| next.unwrap().unwrap()));
        }
    }
    println!("{} dialled, {} accepted", diallers.len(), connections.len());
    assert!(diallers.len() > connections.len(), "there were enough");
    // None can be accepted now: that is no end and no busy loop.
    let waits = timeout(Duration::from_millis(300), accepted.next()).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(connections);
    let next = timeout(Duration::from_secs(10), accepted.next()).await;
    next.expect("it does not go on").unwrap().unwrap();
}
