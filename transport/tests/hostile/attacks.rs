//! The attacks. Whoever makes them holds a certificate of the cluster, and writes frames by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_transport::Identity;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::nodes::begin;
use crate::world::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    // Correct frames, too often.
    Connections,
    Reconnects,
    Refused,
    Churn,
    Credits,
    Acknowledgements,
    Resumes,
    // Correct frames, and nothing after them.
    TakesNothing,
    SmallWindow,
    Slowly,
    // As a publisher.
    UnfinishedEvents,
    Breaks,
}

impl Attack {
    pub(crate) const ALL: [Self; 12] = [
        Self::Connections,
        Self::Reconnects,
        Self::Refused,
        Self::Churn,
        Self::Credits,
        Self::Acknowledgements,
        Self::Resumes,
        Self::TakesNothing,
        Self::SmallWindow,
        Self::Slowly,
        Self::UnfinishedEvents,
        Self::Breaks,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "too often: connections",
            Self::Reconnects => "too often: connects and leaves",
            Self::Refused => "too often: refused subscriptions",
            Self::Churn => "too often: subscribes and leaves",
            Self::Credits => "too often: credits",
            Self::Acknowledgements => "too often: acknowledgements",
            Self::Resumes => "too often: resumes unknown links",
            Self::TakesNothing => "1024 links that take nothing",
            Self::SmallWindow => "starved flow control, 256 links",
            Self::Slowly => "subscribes byte by byte, 1000 times",
            Self::UnfinishedEvents => "publisher: unfinished events",
            Self::Breaks => "publisher: breaks every link",
        }
    }

    /// Whether the target subscribes to the attacker.
    pub(crate) fn publishes(self) -> bool {
        matches!(self, Self::UnfinishedEvents | Self::Breaks)
    }
}

pub(crate) struct Attacker {
    identity: Identity,
    endpoint: Endpoint,
    /// What it publishes is hostile from then on.
    begins: watch::Sender<bool>,
}

type Joined = (Connection, (SendStream, RecvStream));

impl Attacker {
    pub(crate) fn new(identity: Identity) -> Self {
        let at = "127.0.0.1:0".parse().unwrap();
        let mut endpoint = Endpoint::server(server(&identity), at).unwrap();
        endpoint.set_default_client_config(client(&identity));
        Self { identity, endpoint, begins: watch::Sender::new(false) }
    }

    pub(crate) async fn attack(&mut self, attack: Attack, at: SocketAddr) {
        self.begins.send_replace(true);
        match attack {
            Attack::Connections => self.connects(at, true).await,
            Attack::Reconnects => self.connects(at, false).await,
            Attack::Refused => self.opens(at, &frame(SUBSCRIBE, &subscribe("nothing")), 1).await,
            Attack::Churn => self.opens(at, &frame(SUBSCRIBE, &subscribe("numbers")), 1).await,
            Attack::Resumes => self.opens(at, &resume(), 1).await,
            Attack::Credits => self.repeats(at, |number| frame(CREDIT, &numbers([("up_to", number)]))).await,
            Attack::Acknowledgements => {
                self.repeats(at, |_| frame(ACK, &numbers([("up_to", 0)]))).await;
            }
            Attack::TakesNothing => self.takes_nothing(at, 16, 64).await,
            Attack::SmallWindow => {
                let mut transport = quinn::TransportConfig::default();
                transport.stream_receive_window(VarInt::from_u32(64)).receive_window(VarInt::from_u32(4096));
                let mut config = client(&self.identity);
                config.transport_config(Arc::new(transport));
                self.endpoint.set_default_client_config(config);
                self.takes_nothing(at, 4, 64).await;
            }
            Attack::Slowly => self.subscribes_slowly(at).await,
            Attack::UnfinishedEvents | Attack::Breaks => std::future::pending().await,
        }
    }

    /// Publishes; returns where.
    pub(crate) fn serve(&self, attack: Attack) -> SocketAddr {
        let (endpoint, begins) = (self.endpoint.clone(), self.begins.subscribe());
        let _serving = begin(async move {
            while let Some(incoming) = endpoint.accept().await {
                let begins = begins.clone();
                let _connected = begin(async move {
                    if let Ok(connection) = incoming.await {
                        publish(connection, attack, begins).await;
                    }
                });
            }
        });
        self.endpoint.local_addr().unwrap()
    }

    async fn connects(&self, at: SocketAddr, stays: bool) {
        let mut joined = Vec::new();
        loop {
            match self.join(at).await {
                Some(connection) if stays => joined.push(connection),
                Some((connection, _)) => connection.close(VarInt::from_u32(0), b""),
                None => {}
            }
        }
    }

    /// Opens streams that begin with `first`, so many at a time, and leaves each when it is answered.
    async fn opens(&self, at: SocketAddr, first: &[u8], at_a_time: usize) {
        loop {
            let Some((connection, _control)) = self.join(at).await else { continue };
            loop {
                let mut streams = Vec::new();
                for _ in 0..at_a_time {
                    let Ok((mut send, recv)) = connection.open_bi().await else { break };
                    let _ = send.write_all(first).await;
                    streams.push((send, recv));
                }
                if streams.is_empty() {
                    break;
                }
                for (mut send, mut recv) in streams {
                    let _ = recv.read_exact(&mut [0; 5]).await;
                    let _ = send.reset(VarInt::from_u32(0));
                    let _ = recv.stop(VarInt::from_u32(0));
                }
            }
        }
    }

    /// Says the same on a subscription, as fast as it can.
    async fn repeats(&self, at: SocketAddr, next: impl Fn(u64) -> Vec<u8>) {
        let mut number = 0;
        loop {
            let Some((connection, _control)) = self.join(at).await else { continue };
            let Some((mut send, _recv)) = accepted(&connection, "numbers", "u64").await else { continue };
            loop {
                let mut many = Vec::new();
                for _ in 0..1000 {
                    number += 1;
                    many.extend(next(number));
                }
                if send.write_all(&many).await.is_err() {
                    break;
                }
            }
        }
    }

    async fn takes_nothing(&self, at: SocketAddr, connections: usize, links: usize) {
        let mut kept = Vec::new();
        for _ in 0..connections {
            let Some((connection, control)) = self.join(at).await else { continue };
            for _ in 0..links {
                let Some((mut send, recv)) = accepted(&connection, "large", "bytes").await else { continue };
                let _ = send.write_all(&frame(CREDIT, &numbers([("up_to", 65_536)]))).await;
                kept.push((send, recv));
            }
            std::mem::forget((connection, control));
        }
        std::future::pending::<()>().await;
    }

    async fn subscribes_slowly(&self, at: SocketAddr) {
        let Some((connection, _control)) = self.join(at).await else { return };
        let whole = frame(SUBSCRIBE, &subscribe("numbers"));
        let mut streams = Vec::new();
        for byte in whole.iter().cycle() {
            while streams.len() < 1000 {
                let Ok(Ok(opened)) = timeout(Duration::from_millis(10), connection.open_bi()).await else { break };
                streams.push(opened);
            }
            let mut left = Vec::new();
            for (mut send, recv) in streams {
                if send.write_all(&[*byte]).await.is_ok() {
                    left.push((send, recv));
                }
            }
            streams = left;
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connects, and introduces itself; `None` if it is not let in.
    async fn join(&self, at: SocketAddr) -> Option<Joined> {
        let connecting = self.endpoint.connect(at, SERVER_NAME).ok()?;
        let connection = timeout(Duration::from_secs(5), connecting).await.ok()?.ok()?;
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        send.write_all(&hello("test", "hostile")).await.ok()?;
        let mut head = [0; 5];
        recv.read_exact(&mut head).await.ok()?;
        (head[4] == HELLO_ACK).then_some((connection, (send, recv)))
    }
}

async fn accepted(connection: &Connection, producer: &str, signature: &str) -> Option<(SendStream, RecvStream)> {
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(&frame(SUBSCRIBE, &subscribe_as(producer, signature))).await.ok()?;
    let mut head = [0; 5];
    recv.read_exact(&mut head).await.ok()?;
    (head[4] == ACCEPTED).then_some((send, recv))
}

/// A hostile publisher's side of a connection.
async fn publish(connection: Connection, attack: Attack, begins: watch::Receiver<bool>) -> Option<()> {
    let (mut control, mut hello) = connection.accept_bi().await.ok()?;
    hello.read_exact(&mut [0; 5]).await.ok()?;
    #[derive(Serialize)]
    struct HelloAck {
        proto: u16,
        node: &'static str,
        incarnation: u64,
    }
    let ack = HelloAck { proto: 1, node: "hostile", incarnation: 1 };
    control.write_all(&frame(HELLO_ACK, &rmp_serde::to_vec_named(&ack).unwrap())).await.ok()?;
    loop {
        let (mut events, mut asks) = connection.accept_bi().await.ok()?;
        let mut begins = begins.clone();
        let _serving = begin(async move {
            asks.read_exact(&mut [0; 5]).await.ok()?;
            events.write_all(&frame(ACCEPTED, &[0x80])).await.ok()?;
            begins.wait_for(|begins| *begins).await.ok()?;
            // By now it has been asked.
            sleep(Duration::from_millis(50)).await;
            if attack == Attack::Breaks {
                // What no publisher says.
                return events.write_all(&frame(CREDIT, &[0x80])).await.ok();
            }
            for index in 0_u64.. {
                // Event 1, the first attempt, not the last piece, of 60 MB: five bytes of LEB128.
                let mut body = vec![1, 1];
                let mut rest = index;
                while rest >= 0x80 {
                    body.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                body.extend([rest as u8, 0, 0x80, 0x8e, 0xce, 0x1c]);
                body.extend([7; 60_000]);
                events.write_all(&frame(CHUNK, &body)).await.ok()?;
                if index >= 990 {
                    break;
                }
            }
            std::future::pending().await
        });
    }
}

fn numbers<const N: usize>(numbers: [(&str, u64); N]) -> Vec<u8> {
    rmp_serde::to_vec_named(&BTreeMap::from(numbers)).unwrap()
}

fn resume() -> Vec<u8> {
    #[derive(Serialize)]
    struct Session {
        incarnation: u64,
        number: u64,
    }
    #[derive(Serialize)]
    struct Resume {
        session: Session,
        epoch: u64,
        arrived: u64,
    }
    let resume = Resume { session: Session { incarnation: 1, number: 1 }, epoch: 1, arrived: 0 };
    frame(RESUME, &rmp_serde::to_vec_named(&resume).unwrap())
}

/// What a node of the cluster listens with, if it lets everybody in.
fn server(identity: &Identity) -> quinn::ServerConfig {
    let pem = identity.to_pem();
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"aqueduct/1".to_vec()];
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
}

const ACK: u8 = 21;
const RESUME: u8 = 22;
const CHUNK: u8 = 33;
