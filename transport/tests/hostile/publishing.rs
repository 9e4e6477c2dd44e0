//! A hostile publisher.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aqueduct_transport::Identity;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::attacks::{Attack, Attacker};
use crate::frames::{Frames, Place};
use crate::nodes::begin;
use crate::world::*;

/// Publishes at so many addresses, to each of which the other node has a connection; returns them.
pub(crate) fn serve(attacker: &Attacker, attack: Attack, addresses: usize) -> Vec<SocketAddr> {
    (0..addresses).map(|_| serve_at_one(attacker, attack)).collect()
}

fn serve_at_one(attacker: &Attacker, attack: Attack) -> SocketAddr {
    let endpoint = Endpoint::server(server(&attacker.identity), "127.0.0.1:0".parse().unwrap()).unwrap();
    let (at, begins) = (endpoint.local_addr().unwrap(), attacker.begins.subscribe());
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
    at
}

/// A hostile publisher's side of a connection.
async fn publish(connection: Connection, attack: Attack, mut begins: watch::Receiver<bool>) -> Option<()> {
    let (mut control, mut hello) = connection.accept_bi().await.ok()?;
    hello.read_exact(&mut [0; 5]).await.ok()?;
    let (place, bytes) = match attack {
        Attack::Frames(Frames { place, bytes, .. }) => (Some(*place), Some(*bytes)),
        _ => (None, None),
    };
    let has_begun = *begins.borrow();
    if let (Some(Place::Greeting), Some(bytes), true) = (place, bytes, has_begun) {
        control.write_all(&bytes(1)).await.ok()?;
        SAID.fetch_add(1, Ordering::Relaxed);
        let _ = control.finish();
        let _ = control.stopped().await;
        return None;
    }
    control.write_all(&hello_ack()).await.ok()?;
    let subscribed = begin(serve_all(connection.clone(), attack, begins.clone()));
    begins.wait_for(|begins| *begins).await.ok()?;
    match (place, bytes) {
        (Some(Place::PublisherControl), Some(bytes)) => write_all_of(&mut control, 1.., bytes).await,
        // The target is to come again.
        (Some(Place::Greeting), _) => connection.close(0_u32.into(), b""),
        _ => {}
    }
    subscribed.await.ok()
}

async fn serve_all(connection: Connection, attack: Attack, begins: watch::Receiver<bool>) {
    while let Ok(stream) = connection.accept_bi().await {
        let _serving = begin(serve_one(connection.clone(), stream, attack, begins.clone()));
    }
}

async fn serve_one(
    connection: Connection,
    (mut events, mut asks): (SendStream, RecvStream),
    attack: Attack,
    mut begins: watch::Receiver<bool>,
) -> Option<()> {
    let (first, _) = next_frame(&mut asks).await?;
    let has_begun = *begins.borrow();
    if let Attack::Frames(Frames { place: Place::Answer, kind, bytes, .. }) = attack
        && has_begun
    {
        let is_due = *kind != RESUMED || first == RESUME;
        SAID.fetch_add(is_due.into(), Ordering::Relaxed);
        events.write_all(&if is_due { bytes(1) } else { accepted() }).await.ok()?;
        if *kind == RESUMED {
            // Once it has come.
            sleep(Duration::from_millis(1)).await;
            connection.close(EXPIRED, b"");
        }
        return None;
    }
    events.write_all(&accepted()).await.ok()?;
    begins.wait_for(|begins| *begins).await.ok()?;
    match attack {
        Attack::Frames(Frames { place: Place::Answer, .. }) => connection.close(EXPIRED, b""),
        Attack::Frames(Frames { place: Place::Publisher, bytes, .. }) => {
            write_all_of(&mut events, 1.., *bytes).await;
        }
        Attack::Frames(Frames { place: Place::Events | Place::Tasks, bytes, .. }) => {
            let mut sent = 0;
            loop {
                let (kind, body) = next_frame(&mut asks).await?;
                if kind == CREDIT {
                    let up_to = rmp_serde::from_slice::<Credit>(&body).ok()?.up_to;
                    write_all_of(&mut events, sent + 1..up_to + 1, *bytes).await;
                    sent = up_to;
                }
            }
        }
        Attack::UnfinishedEvents => {
            // By now it has been asked.
            sleep(Duration::from_millis(50)).await;
            for index in 0..LONGEST / PIECE - 1 {
                // Event 1, the first attempt, not the last piece.
                let head = [leb128(1), leb128(1), leb128(index), vec![0], leb128(LONGEST)].concat();
                let piece = [7; PIECE as usize];
                events.write_all(&frame(CHUNK, &[&head, &piece[..]].concat())).await.ok()?;
            }
            std::future::pending::<()>().await;
        }
        _ => std::future::pending().await,
    }
    None
}

#[derive(Deserialize)]
struct Credit {
    up_to: u64,
}

/// The longest event, a little less.
const LONGEST: u64 = 8 << 20;
const PIECE: u64 = 1 << 16;

pub(crate) fn leb128(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

pub(crate) fn read_leb128(rest: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = rest[0];
        *rest = &rest[1..];
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return number;
        }
    }
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
