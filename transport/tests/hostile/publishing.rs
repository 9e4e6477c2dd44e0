//! A hostile publisher.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_transport::Identity;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::attacks::{Attack, Attacker};
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
            match attack {
                Attack::PublisherSkipped => loop {
                    events.write_all(&frame(UNKNOWN, &[7; 10]).repeat(100)).await.ok()?;
                },
                // What no publisher says.
                Attack::Breaks => return events.write_all(&frame(CREDIT, &[0x80])).await.ok(),
                _ => {}
            }
            for index in 0..LONGEST / PIECE - 1 {
                // Event 1, the first attempt, not the last piece.
                let head = [leb128(1), leb128(1), leb128(index), vec![0], leb128(LONGEST)].concat();
                let piece = [7; PIECE as usize];
                events.write_all(&frame(CHUNK, &[&head, &piece[..]].concat())).await.ok()?;
            }
            std::future::pending().await
        });
    }
}

/// The longest event, a little less.
const LONGEST: u64 = 8 << 20;
const PIECE: u64 = 1 << 16;

fn leb128(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
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
