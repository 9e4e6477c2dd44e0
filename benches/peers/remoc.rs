//! remoc over TCP: typed channels between processes, one value at a time or in vectors.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use remoc::rch::{base, mpsc};
use remoc::{Cfg, Connect};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use crate::events::{Event, Trade, check};
use crate::peers::LOOPBACK;
use crate::rate::{Meter, Rate};

/// How many values make a vector.
pub const VECTOR: u64 = 1000;

/// What a client wants: the sending half of a channel over which it is to come.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is a kind of events, one by one or in vectors")]
pub enum Request {
    Number(mpsc::Sender<u64>),
    Numbers(mpsc::Sender<Vec<u64>>),
    Text(mpsc::Sender<Bytes>),
    Texts(mpsc::Sender<Vec<Bytes>>),
    Trade(mpsc::Sender<Trade>),
    Trades(mpsc::Sender<Vec<Trade>>),
}

/// Serves events without an end, until the process ends.
///
/// # Errors
///
/// If there is no socket.
pub async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind(LOOPBACK).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (_sender, mut requests) = connect::<(), Request>(stream).await?;
                while let Some(request) = requests.recv().await? {
                    tokio::spawn(answer(request));
                }
                anyhow::Ok(())
            });
        }
    });
    Ok(address)
}

/// A connection to what [`serve`] serves.
pub struct Client {
    requests: base::Sender<Request>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If it cannot be reached.
    pub async fn connect(at: SocketAddr) -> Result<Self> {
        let (requests, _answers) = connect::<Request, ()>(TcpStream::connect(at).await?).await?;
        Ok(Self { requests })
    }

    /// Takes events one by one, for as long as the `meter` runs.
    ///
    /// # Errors
    ///
    /// If the connection fails, or an event is missing.
    pub async fn take<E: Event>(&mut self, mut meter: Meter) -> Result<Rate> {
        let (sender, mut receiver) = mpsc::channel();
        self.requests.send(E::one_by_one(sender)).await?;
        for next in 0.. {
            let event = receiver.recv().await?.context("events have no end")?;
            check(&[event], next)?;
            if let Some(rate) = meter.take(1) {
                return Ok(rate);
            }
        }
        unreachable!("the numbers do not end in a lifetime")
    }

    /// Takes them in vectors.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub async fn take_vectors<E: Event>(&mut self, mut meter: Meter) -> Result<Rate> {
        let (sender, mut receiver) = mpsc::channel();
        self.requests.send(E::in_vectors(sender)).await?;
        let mut next = 0;
        loop {
            let events = receiver.recv().await?.context("events have no end")?;
            check(&events, next)?;
            next += events.len() as u64;
            if let Some(rate) = meter.take(events.len() as u64) {
                return Ok(rate);
            }
        }
    }
}

async fn answer(request: Request) {
    match request {
        Request::Number(sender) => one_by_one(sender).await,
        Request::Numbers(sender) => in_vectors(sender).await,
        Request::Text(sender) => one_by_one(sender).await,
        Request::Texts(sender) => in_vectors(sender).await,
        Request::Trade(sender) => one_by_one(sender).await,
        Request::Trades(sender) => in_vectors(sender).await,
    }
}

/// Sends until the other end has enough.
async fn one_by_one<E: Event>(sender: mpsc::Sender<E>) {
    for n in 0.. {
        if sender.send(E::number(n)).await.is_err() {
            return;
        }
    }
}

async fn in_vectors<E: Event>(sender: mpsc::Sender<Vec<E>>) {
    for n in 0.. {
        if sender.send((n * VECTOR..(n + 1) * VECTOR).map(E::number).collect()).await.is_err() {
            return;
        }
    }
}

/// Drives a connection, at either end.
///
/// # Errors
///
/// If it fails before it begins.
pub async fn connect<S, R>(stream: TcpStream) -> Result<(base::Sender<S>, base::Receiver<R>)>
where
    S: remoc::RemoteSend,
    R: remoc::RemoteSend,
{
    stream.set_nodelay(true)?;
    let (reading, writing) = stream.into_split();
    let (connection, sender, receiver) = Connect::io(Cfg::default(), reading, writing).await?;
    tokio::spawn(connection);
    Ok((sender, receiver))
}
