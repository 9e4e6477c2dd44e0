//! What these tests have in common: a node that is attacked, and attackers that write frames by hand.
#![allow(dead_code, reason = "each part uses its own")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_transport::{Authority, Identity, Node, NodeConfig};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use quinn_proto::{ConnectionHandle, DatagramEvent};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::time::Instant;

use crate::nodes::{GUARD, node};

/// A node `there` with settings, and a well-behaved one `here`.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) here: Node,
    pub(crate) there: Node,
}

impl World {
    pub(crate) async fn new(config: NodeConfig) -> Self {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), NodeConfig::default()).await;
        let there = node(authority.issue("there").unwrap(), config).await;
        Self { authority, here, there }
    }

    pub(crate) async fn node(&self, name: &str, config: NodeConfig) -> Node {
        node(self.authority.issue(name).unwrap(), config).await
    }

    /// Connects with a good certificate, and says nothing.
    pub(crate) async fn connect(&self, name: &str) -> Connection {
        self.dial(name).await.unwrap()
    }

    pub(crate) async fn dial(&self, name: &str) -> Result<Connection, ConnectionError> {
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(client(&self.authority.issue(name).unwrap()));
        endpoint.connect(self.there.local_addr(), SERVER_NAME).unwrap().await
    }

    /// Whether a further connection is let in.
    pub(crate) async fn is_let_in(&self, name: &str) -> bool {
        let connection = self.connect(name).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&hello("test", name)).await.unwrap();
        let mut head = [0; 5];
        recv.read_exact(&mut head).await.is_ok() && head[4] == HELLO_ACK
    }

    /// Connects, and introduces itself.
    pub(crate) async fn join(&self, name: &str) -> (Connection, (SendStream, RecvStream)) {
        let connection = self.connect(name).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&hello("test", name)).await.unwrap();
        let mut head = [0; 5];
        recv.read_exact(&mut head).await.unwrap();
        assert_eq!(head[4], HELLO_ACK);
        (connection, (send, recv))
    }
}

/// Somebody who begins connections with a plain socket, and does not go on.
pub(crate) struct Flood {
    socket: UdpSocket,
    endpoint: quinn_proto::Endpoint,
    config: quinn::ClientConfig,
}

impl Flood {
    pub(crate) fn new(address: &str, identity: &Identity) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let endpoint = quinn_proto::Endpoint::new(Arc::default(), None, true, None);
        Self { socket, endpoint, config: client(identity) }
    }

    /// Sends first packets, and throws away what comes back; how many retries that was.
    pub(crate) fn dial(&mut self, count: usize, at: SocketAddr) -> usize {
        let (mut retries, mut packet) = (0, [0; 2048]);
        for _ in 0..count {
            let (_, mut connection) = self.begin(at);
            self.send(&mut connection, at);
            while let Ok(length) = self.socket.recv(&mut packet) {
                retries += usize::from(length > 0 && packet[0] & 0xf0 == RETRY);
            }
        }
        retries
    }

    /// Sends first packets, answers to retries, and nothing after it; how many answered.
    pub(crate) fn dial_and_prove(mut self, count: usize, at: SocketAddr) -> usize {
        let mut begun = BTreeMap::new();
        for _ in 0..count {
            let (handle, mut connection) = self.begin(at);
            self.send(&mut connection, at);
            begun.insert(handle.0, connection);
        }
        self.socket.set_nonblocking(false).unwrap();
        self.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let (mut proved, mut packet, mut answer) = (0, [0; 2048], Vec::new());
        // Until nothing comes any more.
        while let Ok(length) = self.socket.recv(&mut packet) {
            if packet[0] & 0xf0 != RETRY {
                continue;
            }
            let event = self.endpoint.handle(now(), at, None, None, packet[..length].into(), &mut answer);
            if let Some(DatagramEvent::ConnectionEvent(ConnectionHandle(handle), event)) = event
                && let Some(connection) = begun.get_mut(&handle)
            {
                connection.handle_event(event);
                self.send(&mut begun.remove(&handle).unwrap(), at);
                proved += 1;
            }
        }
        proved
    }

    pub(crate) fn begin(&mut self, at: SocketAddr) -> (ConnectionHandle, quinn_proto::Connection) {
        self.endpoint.connect(now(), self.config.clone(), at, SERVER_NAME).unwrap()
    }

    pub(crate) fn send(&self, connection: &mut quinn_proto::Connection, at: SocketAddr) {
        let mut packet = Vec::new();
        if let Some(transmit) = connection.poll_transmit(now(), 1, &mut packet) {
            let _ = self.socket.send_to(&packet[..transmit.size], at);
        }
    }
}

/// The time as quinn wants it.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// What a node's process has in memory.
pub(crate) fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Gives up soon.
pub(crate) fn impatient() -> NodeConfig {
    NodeConfig::default().handshake_timeout(Duration::from_millis(500))
}

/// The code with which the other side closes.
pub(crate) async fn code(connection: &Connection) -> VarInt {
    match tokio::time::timeout(GUARD, connection.closed()).await.expect("it is not closed") {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        other => panic!("{other}"),
    }
}

/// What a node of the cluster dials with.
pub(crate) fn client(identity: &Identity) -> quinn::ClientConfig {
    let pem = identity.to_pem();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.authorities.as_bytes()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"aqueduct/1".to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
    [length.as_slice(), &[kind], body].concat()
}

pub(crate) fn hello(cluster: &str, node: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Hello<'a> {
        proto_min: u16,
        proto_max: u16,
        cluster: &'a str,
        node: &'a str,
        incarnation: u64,
        features: [&'a str; 0],
    }
    let hello = Hello { proto_min: 1, proto_max: 1, cluster, node, incarnation: 1, features: [] };
    frame(HELLO, &rmp_serde::to_vec_named(&hello).unwrap())
}

pub(crate) fn hello_ack() -> Vec<u8> {
    #[derive(Serialize)]
    struct HelloAck {
        proto: u16,
        node: &'static str,
        incarnation: u64,
        features: [&'static str; 1],
    }
    let ack = HelloAck { proto: 1, node: "hostile", incarnation: 1, features: ["revoke"] };
    frame(HELLO_ACK, &rmp_serde::to_vec_named(&ack).unwrap())
}

/// That takes answers, if it is asked to.
pub(crate) fn accepted() -> Vec<u8> {
    frame(ACCEPTED, &rmp_serde::to_vec_named(&BTreeMap::from([("takes_answers", true)])).unwrap())
}

/// A body of numbers.
pub(crate) fn numbers<const N: usize>(numbers: [(&str, u64); N]) -> Vec<u8> {
    rmp_serde::to_vec_named(&BTreeMap::from(numbers)).unwrap()
}

/// How often something hostile was said.
pub(crate) static SAID: AtomicU64 = AtomicU64::new(0);

/// Writes the bytes of each number, many at a time, until the other side does not take them any more.
pub(crate) async fn write_all_of(
    send: &mut SendStream,
    mut numbers: impl Iterator<Item = u64>,
    bytes: fn(u64) -> Vec<u8>,
) {
    loop {
        let many: Vec<_> = numbers.by_ref().take(1000).map(bytes).collect();
        if many.is_empty() || send.write_all(&many.concat()).await.is_err() {
            return;
        }
        SAID.fetch_add(many.len() as u64, Ordering::Relaxed);
        // Writing does not wait as long as there is room.
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn next_frame(recv: &mut RecvStream) -> Option<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    recv.read_exact(&mut frame).await.ok()?;
    Some((frame[0], frame.split_off(1)))
}

pub(crate) fn subscribe(producer: &str) -> Vec<u8> {
    subscribe_as(producer, "u64")
}

pub(crate) fn subscribe_as(producer: &str, signature: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Subscribe<'a> {
        producer: &'a str,
        signature: &'a str,
        max_demand: u64,
        min_demand: u64,
    }
    rmp_serde::to_vec_named(&Subscribe { producer, signature, max_demand: 10, min_demand: 5 }).unwrap()
}

pub(crate) const SERVER_NAME: &str = "test.aqueduct.internal";

/// The type of a packet, in its first byte (RFC 9000, section 17.2).
pub(crate) const RETRY: u8 = 0xf0;

// Types of frames.
pub(crate) const HELLO: u8 = 1;
pub(crate) const HELLO_ACK: u8 = 2;
pub(crate) const REFUSE: u8 = 3;
pub(crate) const ASK_FUNCTIONS: u8 = 4;
pub(crate) const FUNCTIONS_PART: u8 = 5;
pub(crate) const SUBSCRIBE: u8 = 16;
pub(crate) const ACCEPTED: u8 = 17;
pub(crate) const REFUSED_SUBSCRIPTION: u8 = 18;
pub(crate) const CREDIT: u8 = 19;
pub(crate) const CANCEL: u8 = 20;
pub(crate) const ACK: u8 = 21;
pub(crate) const RESUME: u8 = 22;
pub(crate) const RESUMED: u8 = 23;
pub(crate) const ANSWER: u8 = 24;
pub(crate) const ANSWERED: u8 = 25;
pub(crate) const REVOKE: u8 = 26;
pub(crate) const EVENTS: u8 = 32;
pub(crate) const CHUNK: u8 = 33;
pub(crate) const DONE_FRAME: u8 = 34;
pub(crate) const FAILED: u8 = 35;
pub(crate) const RESULTS: u8 = 36;
pub(crate) const COLUMNS: u8 = 37;
/// Nobody need understand it.
pub(crate) const UNKNOWN: u8 = 200;

// Codes with which a connection or a stream ends.
pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(2);
pub(crate) const REFUSED: VarInt = VarInt::from_u32(3);
pub(crate) const TIMEOUT: VarInt = VarInt::from_u32(4);
/// Its links may go on over another one.
pub(crate) const EXPIRED: VarInt = VarInt::from_u32(7);

/// Carries packets between a dialler and a node, each three times, and remembers what the dialler sent.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    recorded: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl Relay {
    pub(crate) async fn between(node: SocketAddr) -> Self {
        let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, recorded) = (front.local_addr().unwrap(), Arc::<std::sync::Mutex<Vec<Vec<u8>>>>::default());
        let records = Arc::clone(&recorded);
        let carry = async move {
            let (mut dialler, mut here, mut there) = (None, vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut here) => {
                        dialler = Some(from);
                        records.lock().unwrap().push(here[..length].to_vec());
                        for _ in 0..3 {
                            let _ = back.send_to(&here[..length], node).await;
                        }
                    }
                    Ok((length, _)) = back.recv_from(&mut there) => if let Some(dialler) = dialler {
                        for _ in 0..3 {
                            let _ = front.send_to(&there[..length], dialler).await;
                        }
                    },
                }
            }
        };
        #[allow(clippy::disallowed_methods, reason = "a relay is no part of a graph")]
        tokio::spawn(carry);
        Self { address, recorded }
    }

    pub(crate) fn recorded(&self) -> Vec<Vec<u8>> {
        self.recorded.lock().unwrap().clone()
    }
}
