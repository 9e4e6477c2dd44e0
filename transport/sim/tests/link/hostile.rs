//! A subscriber that is no node, but speaks the protocol by hand.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Edge, Host, Outcome, SimNet};
use aqueduct_transport::{Identity, Wire};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, RecvStream, SendStream};
use rand::Rng;
use rand::seq::SliceRandom;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::nodes::PORT;
use crate::stages::Event;
use crate::world::{PATIENCE, Setup, World, sim};

/// What is asked for is said again, before and after, and with less than was said already: the ledger sees each event that
/// leaves, and none is too many.
#[test]
fn failure_07_repeated_reordered_and_lower_credit_gives_no_extra_events() {
    sim().swarm(0..100, async |net| {
        let mut rng = net.rng("credit");
        let world = World::build(&net, Setup { consumers: 0, strangers: 1, ..Setup::default() }).await?;
        let edge = world.strangers[0].edge;
        let mut odd = Odd::join(&net, &world, edge).await?;
        let mut asked = 0;
        for _ in 0..15 {
            let up_to = asked + rng.random_range(0..=8);
            let mut credits = vec![up_to, up_to, asked, rng.random_range(0..=asked), 0];
            credits.shuffle(&mut rng);
            net.asked(edge, up_to);
            asked = up_to;
            for up_to in credits {
                odd.send(CREDIT, &Credit { up_to }).await?;
            }
            timeout(PATIENCE, odd.received.wait_for(|received| *received >= asked)).await.expect("too few")?;
            for up_to in [asked, rng.random_range(0..=asked), 0] {
                odd.send(ACK, &Ack { up_to, handled: false }).await?;
            }
        }
        // Whatever comes later was not asked for.
        sleep(Duration::from_secs(10)).await;
        assert_eq!((*odd.received.borrow(), net.ledger().demand(edge)), (asked, 0));
        assert!(odd.connection.close_reason().is_none(), "none of this breaks a rule");
        Ok(())
    });
}

/// Its half of a link.
struct Odd {
    connection: Connection,
    send: SendStream,
    /// How many events have arrived.
    received: watch::Receiver<u64>,
    _control: (SendStream, RecvStream),
    _endpoint: quinn::Endpoint,
}

impl Odd {
    async fn join(net: &SimNet, world: &World, edge: Edge) -> Outcome<Self> {
        let host = net.host("odd");
        let endpoint = host.endpoint(PORT, None);
        let config = client(&world.authority.issue("odd")?)?;
        let connection = endpoint.connect_with(config, world.there.address(PORT), "sim.aqueduct.internal")?.await?;
        let mut control = connection.open_bi().await?;
        let hello = Hello { proto_min: 1, proto_max: 1, cluster: "sim", node: "odd", incarnation: 1 };
        control.0.write_all(&frame(HELLO, &hello)?).await?;
        let (kind, _) = read(&mut control.1).await?;
        assert_eq!(kind, HELLO_ACK);

        let (mut send, mut recv) = connection.open_bi().await?;
        let (producer, signature) = (edge.to_string(), Event::signature());
        let subscribe = Subscribe { producer: &producer, signature: &signature, max_demand: 10, min_demand: 5 };
        send.write_all(&frame(SUBSCRIBE, &subscribe)?).await?;
        let (kind, _) = read(&mut recv).await?;
        assert_eq!(kind, ACCEPTED);
        let received = listen(net, &host, edge, recv);
        Ok(Self { connection, send, received, _control: control, _endpoint: endpoint })
    }

    async fn send(&mut self, kind: u8, body: &impl Serialize) -> Outcome {
        Ok(self.send.write_all(&frame(kind, body)?).await?)
    }
}

/// Counts the events that arrive, and tells the ledger.
fn listen(net: &SimNet, host: &Host, edge: Edge, mut recv: RecvStream) -> watch::Receiver<u64> {
    let (count, received) = watch::channel(0);
    let net = net.clone();
    host.spawn("listen", async move {
        while let Ok((kind, body)) = read(&mut recv).await {
            let mut body = body.as_slice();
            let (first, second) = (varint(&mut body), varint(&mut body));
            let events = match kind {
                EVENTS => second,
                // Of an event in pieces, the last one counts: behind the index come the flags.
                CHUNK => {
                    varint(&mut body);
                    u64::from(body[0])
                }
                other => return net.fail(format_args!("a frame of type {other}")),
            };
            (first..first + events).for_each(|number| net.received(edge, number - 1));
            count.send_modify(|count| *count += events);
        }
    });
    received
}

async fn read(recv: &mut RecvStream) -> Outcome<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    recv.read_exact(&mut frame).await?;
    let kind = frame.remove(0);
    Ok((kind, frame))
}

fn frame(kind: u8, body: &impl Serialize) -> Outcome<Vec<u8>> {
    let body = rmp_serde::to_vec_named(body)?;
    let length = u32::try_from(body.len() + 1)?.to_be_bytes();
    Ok([length.as_slice(), &[kind], &body].concat())
}

/// Takes a LEB128 number off the front.
fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for at in 0.. {
        let byte = bytes[at];
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            break;
        }
    }
    number
}

/// What a node of the cluster dials with.
fn client(identity: &Identity) -> Outcome<quinn::ClientConfig> {
    let pem = identity.to_pem();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.authorities.as_bytes())?)?;
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![b"aqueduct/1".to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

#[derive(Serialize)]
struct Hello<'a> {
    proto_min: u16,
    proto_max: u16,
    cluster: &'a str,
    node: &'a str,
    incarnation: u64,
}

#[derive(Serialize)]
struct Subscribe<'a> {
    producer: &'a str,
    signature: &'a str,
    max_demand: u64,
    min_demand: u64,
}

#[derive(Serialize)]
struct Credit {
    up_to: u64,
}

#[derive(Serialize)]
struct Ack {
    up_to: u64,
    handled: bool,
}

// Types of frames.
const HELLO: u8 = 1;
const HELLO_ACK: u8 = 2;
const SUBSCRIBE: u8 = 16;
const ACCEPTED: u8 = 17;
const CREDIT: u8 = 19;
const ACK: u8 = 21;
const EVENTS: u8 = 32;
const CHUNK: u8 = 33;
