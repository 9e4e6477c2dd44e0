//! A TCP echo server that serves two clients at a time, and lets the others wait outside.
//!
//! ```text
//!   clients ──► backlog of the kernel ──► [ connections ] ──► [ echo ] ──► [ count ]
//! ```
//!
//! The source is a stream of connections with a limit of two that are open. It is polled only while connections are asked
//! for and there is room; until then clients wait in the kernel's backlog. They are connected, and can send, but nobody
//! answers: that is what back-pressure looks like from outside.
//!
//! `cargo run --release --example tcp_echo` prints
//!
//! ```text
//! client 1: hello 1
//! client 2: hello 2
//! client 3 is connected, and waits
//! client 1 leaves
//! client 3: hello 3
//! 13 connections, no more than 2 at once
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use aqueduct::stages::{self, Connection, TcpAcceptor};
use aqueduct::{Graph, Result, each};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// How many clients are served, and were at most.
#[derive(Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

async fn echo(mut client: Connection, open: Arc<Open>) -> Result {
    open.most.fetch_max(open.now.fetch_add(1, Relaxed) + 1, Relaxed);
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = client.read(&mut bytes).await {
        if client.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    open.now.fetch_sub(1, Relaxed);
    Ok(())
}

/// Says hello, and returns the answer.
async fn hello(client: &mut TcpStream, number: u32) -> Result<String> {
    let hello = format!("hello {number}");
    client.write_all(hello.as_bytes()).await?;
    answer(client, hello.len()).await
}

async fn answer(client: &mut TcpStream, length: usize) -> Result<String> {
    let mut answer = vec![0; length];
    client.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}

async fn clients(server: SocketAddr) -> Result {
    let (mut first, mut second) = (TcpStream::connect(server).await?, TcpStream::connect(server).await?);
    println!("client 1: {}", hello(&mut first, 1).await?);
    println!("client 2: {}", hello(&mut second, 2).await?);
    let mut third = TcpStream::connect(server).await?;
    if timeout(Duration::from_millis(50), hello(&mut third, 3)).await.is_err() {
        println!("client 3 is connected, and waits");
    }
    println!("client 1 leaves");
    drop(first);
    println!("client 3: {}", answer(&mut third, "hello 3".len()).await?);
    drop((second, third));
    let mut others = tokio::task::JoinSet::new();
    for number in 4..=13 {
        others.spawn(async move { hello(&mut TcpStream::connect(server).await?, number).await });
    }
    others.join_all().await.into_iter().try_for_each(|answer| answer.map(drop))
}

#[tokio::main]
async fn main() -> Result {
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await?.limit(2);
    let (server, open) = (acceptor.local_addr()?, Arc::<Open>::default());
    let graph = Graph::new("echo");
    // Without `take` it would go on until somebody stops it.
    let connections = graph.try_stream("connections", acceptor.take(13));
    let served = Arc::clone(&open);
    let echo = move || {
        let served = Arc::clone(&served);
        stages::farm(100, move |client| echo(client, Arc::clone(&served)))
    };
    let echoed = graph.stage("echo", echo).subscribe(&connections, 50..100);
    graph.consumer("count", || each(async |()| Ok(()))).subscribe(&echoed, 50..100);
    let mut running = graph.start();
    clients(server).await?;
    let served = running.join().await?.stage("count").map_or(0, |count| count.events_in);
    println!("{served} connections, no more than {} at once", open.most.load(Relaxed));
    Ok(())
}
