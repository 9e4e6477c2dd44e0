//! The attacks. Whoever makes them holds a certificate of the cluster, and writes frames by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_transport::Identity;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::working;
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
    Skipped,
    // Correct frames, and nothing after them.
    TakesNothing,
    SmallWindow,
    Slowly,
    FramesSlowly,
    FallsSilent,
    // As a worker of a channel.
    InProgress,
    Answers,
    UnfinishedResults,
    // As a publisher.
    UnfinishedEvents,
    PublisherSkipped,
    Breaks,
}

impl Attack {
    pub(crate) const ALL: [Self; 19] = [
        Self::Connections,
        Self::Reconnects,
        Self::Refused,
        Self::Churn,
        Self::Credits,
        Self::Acknowledgements,
        Self::Resumes,
        Self::Skipped,
        Self::TakesNothing,
        Self::SmallWindow,
        Self::Slowly,
        Self::FramesSlowly,
        Self::FallsSilent,
        Self::InProgress,
        Self::Answers,
        Self::UnfinishedResults,
        Self::UnfinishedEvents,
        Self::PublisherSkipped,
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
            Self::Skipped => "too often: unknown frames",
            Self::TakesNothing => "1024 links that take nothing",
            Self::SmallWindow => "starved flow control, 256 links",
            Self::Slowly => "subscribes byte by byte, 1000 times",
            Self::FramesSlowly => "credit byte by byte, 1000 links",
            Self::FallsSilent => "16 connections that fall silent",
            Self::InProgress => "worker: in progress, too often",
            Self::Answers => "worker: old answers, too often",
            Self::UnfinishedResults => "worker: unfinished results",
            Self::UnfinishedEvents => "publisher: unfinished events",
            Self::PublisherSkipped => "publisher: unknown frames",
            Self::Breaks => "publisher: breaks every link",
        }
    }

    /// For how long it goes on, at least.
    pub(crate) fn lasts(self) -> Duration {
        // Nobody misses it for the first three.
        Duration::from_secs(if self == Self::FallsSilent { 5 } else { 2 })
    }

    /// Whether the target subscribes to the attacker.
    pub(crate) fn publishes(self) -> bool {
        matches!(self, Self::UnfinishedEvents | Self::PublisherSkipped | Self::Breaks)
    }
}

pub(crate) struct Attacker {
    pub(crate) identity: Identity,
    endpoint: Endpoint,
    /// What it publishes is hostile from then on.
    pub(crate) begins: watch::Sender<bool>,
}

pub(crate) type Joined = (Connection, (SendStream, RecvStream));

impl Attacker {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { endpoint: endpoint(&identity), identity, begins: watch::Sender::new(false) }
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
            Attack::Skipped => self.repeats(at, |_| frame(UNKNOWN, &[7; 10])).await,
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
            Attack::FramesSlowly => self.credits_slowly(at).await,
            Attack::FallsSilent => self.falls_silent(at).await,
            Attack::InProgress => working::says_again_and_again(self, at, working::IN_PROGRESS, 0).await,
            Attack::Answers => working::says_again_and_again(self, at, working::DONE, 1).await,
            Attack::UnfinishedResults => working::ends_no_result(self, at).await,
            Attack::UnfinishedEvents | Attack::PublisherSkipped | Attack::Breaks => std::future::pending().await,
        }
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

    /// Goes on in the middle of a frame, on many links.
    async fn credits_slowly(&self, at: SocketAddr) {
        let Some((connection, _control)) = self.join(at).await else { return };
        let mut links = Vec::new();
        for _ in 0..1000 {
            links.extend(accepted(&connection, "numbers", "u64").await);
        }
        // A frame of 60,000 bytes.
        let head = [0, 0, 0xea, 0x60, CREDIT];
        for byte in head.iter().copied().chain(std::iter::repeat(0)) {
            for (send, _) in &mut links {
                let _ = send.write_all(&[byte]).await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has connections to which nothing more is said, as if its machine were switched off.
    async fn falls_silent(&self, at: SocketAddr) {
        let identity = self.identity.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _joined = runtime.block_on(async {
                let attacker = Self::new(identity);
                let mut joined = Vec::new();
                for _ in 0..16 {
                    joined.extend(attacker.join(at).await);
                }
                joined
            });
            // Nothing runs there any more, and the socket stays open.
            std::thread::park_timeout(Duration::from_secs(10));
        });
        std::future::pending::<()>().await;
    }

    /// Connects, and introduces itself; `None` if it is not let in.
    pub(crate) async fn join(&self, at: SocketAddr) -> Option<Joined> {
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

pub(crate) fn numbers<const N: usize>(numbers: [(&str, u64); N]) -> Vec<u8> {
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

/// Dials as this node.
fn endpoint(identity: &Identity) -> Endpoint {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client(identity));
    endpoint
}
