//! The attacks. Whoever makes them holds a certificate of the cluster, and writes frames by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aqueduct_transport::Identity;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::descriptors;
use crate::frames::{self, Frames, Place};
use crate::suite::Role;
use crate::working;
use crate::world::*;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Attack {
    // Correct, too often.
    Connections,
    Reconnects,
    Frames(&'static Frames),
    // Correct frames, and nothing after them.
    TakesNothing,
    SmallWindow,
    Slowly,
    FramesSlowly,
    FallsSilent,
    Descriptors,
    UnfinishedResults,
    UnfinishedEvents,
}

impl Attack {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::TakesNothing,
            Self::SmallWindow,
            Self::Slowly,
            Self::FramesSlowly,
            Self::FallsSilent,
            Self::Descriptors,
            Self::UnfinishedResults,
            Self::UnfinishedEvents,
        ];
        let too_often = frames::ALL.iter().map(Self::Frames);
        [Self::Connections, Self::Reconnects].into_iter().chain(too_often).chain(others)
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Connections => "too often: connections".into(),
            Self::Reconnects => "too often: connects and leaves".into(),
            Self::Frames(frames) => format!("too often: {}", frames.name),
            Self::TakesNothing => "1024 links that take nothing".into(),
            Self::SmallWindow => "starved flow control, 256 links".into(),
            Self::Slowly => "subscribes byte by byte, 1000 times".into(),
            Self::FramesSlowly => "credit byte by byte, 1000 links".into(),
            Self::FallsSilent => "16 connections that fall silent".into(),
            Self::Descriptors => "no file descriptors are left".into(),
            Self::UnfinishedResults => "worker: unfinished results".into(),
            Self::UnfinishedEvents => "publisher: unfinished events".into(),
        }
    }

    /// For how long it goes on, at least.
    pub(crate) fn lasts(self) -> Duration {
        // Nobody misses it for the first three.
        Duration::from_secs(if matches!(self, Self::FallsSilent | Self::Descriptors) { 5 } else { 2 })
    }

    /// How often the target subscribes to each of the attacker's addresses.
    pub(crate) fn subscriptions(self) -> usize {
        match self {
            // It has what it has asked for, and that as fast as it can: how much of that is up to the target.
            Self::Frames(Frames { place: Place::Tasks, .. }) => 1,
            _ => 10,
        }
    }

    /// What the target does with the attacker.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Frames(Frames { place: Place::Tasks, .. }) => Role::Worker,
            Self::Frames(Frames { kind: COLUMNS, .. }) => Role::Numbers,
            Self::Frames(frames) if frames.place.is_of_publisher() => Role::Subscriber,
            Self::UnfinishedEvents => Role::Subscriber,
            _ => Role::Publisher,
        }
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
            Attack::Frames(frames) => self.repeats(at, frames).await,
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
            Attack::Descriptors => {
                let _clients = descriptors::connect(at, descriptors::CLIENTS).await;
                self.falls_silent(at).await;
            }
            Attack::UnfinishedResults => working::ends_no_result(self, at).await,
            Attack::UnfinishedEvents => std::future::pending().await,
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

    /// Says the same again and again, as fast as it can.
    async fn repeats(&self, at: SocketAddr, frames: &Frames) {
        loop {
            let Some((connection, (mut control, _hello))) = self.join(at).await else { continue };
            match frames.place {
                Place::Control => write_all_of(&mut control, 1.., frames.bytes).await,
                Place::Opening => opens(&connection, &(frames.bytes)(1)).await,
                Place::Subscription => {
                    let Some((mut send, _recv)) = accepted(&connection, "numbers", "u64").await else { continue };
                    write_all_of(&mut send, 1.., frames.bytes).await;
                }
                Place::Open => working::repeats(&connection, frames.bytes).await,
                Place::Settling => working::settles(&connection, frames.bytes).await,
                // The target comes by itself.
                _ => std::future::pending().await,
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

/// Opens streams that begin so, and leaves each when it is answered.
async fn opens(connection: &Connection, first: &[u8]) {
    while let Ok((mut send, mut recv)) = connection.open_bi().await {
        let _ = send.write_all(first).await;
        SAID.fetch_add(1, Ordering::Relaxed);
        let _ = recv.read_exact(&mut [0; 5]).await;
        let _ = send.reset(VarInt::from_u32(0));
        let _ = recv.stop(VarInt::from_u32(0));
    }
}

async fn accepted(connection: &Connection, producer: &str, signature: &str) -> Option<(SendStream, RecvStream)> {
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(&frame(SUBSCRIBE, &subscribe_as(producer, signature))).await.ok()?;
    let mut head = [0; 5];
    recv.read_exact(&mut head).await.ok()?;
    (head[4] == ACCEPTED).then_some((send, recv))
}

/// Dials as this node.
fn endpoint(identity: &Identity) -> Endpoint {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client(identity));
    endpoint
}
