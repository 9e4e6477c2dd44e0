//! Plain QUIC: quinn with the settings that our nodes have, and bytes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aqueduct::transport::Identity;
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;

use crate::rate::{Meter, Rate};

/// How large the pieces are that are written.
pub const PIECE_BYTES: usize = 64 << 10;
/// How large an echoed message is: what an event and the demand for it take.
pub const ECHO_BYTES: usize = 16;

/// Serves bytes without an end, and echoes, until the process ends.
///
/// # Errors
///
/// If there is no socket.
pub fn serve(identity: &Identity, jumbo: bool) -> Result<SocketAddr> {
    let pem = identity.to_pem();
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport(jumbo));
    let endpoint = endpoint(jumbo, Some(config))?;
    let address = endpoint.local_addr()?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(answer(send, recv));
                }
            });
        }
    });
    Ok(address)
}

/// Connects to what [`serve`] serves.
///
/// # Errors
///
/// If it cannot be reached.
pub async fn connect(identity: &Identity, jumbo: bool, at: SocketAddr) -> Result<Connection> {
    let mut endpoint = endpoint(jumbo, None)?;
    endpoint.set_default_client_config(client(identity, jumbo)?);
    let name = format!("{}.aqueduct.internal", identity.name().cluster());
    Ok(endpoint.connect(at, &name)?.await?)
}

/// Takes bytes on a stream of its own, for as long as the `meter` runs.
///
/// # Errors
///
/// If the connection fails.
pub async fn take(connection: &Connection, mut meter: Meter) -> Result<Rate> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[BYTES]).await?;
    loop {
        let piece = recv.read_chunk(usize::MAX, true).await?.context("bytes have no end")?;
        if let Some(rate) = meter.take(piece.bytes.len() as u64) {
            recv.stop(VarInt::from_u32(0))?;
            return Ok(rate);
        }
    }
}

/// A stream on which messages are echoed.
pub struct Echo {
    send: SendStream,
    recv: RecvStream,
}

impl Echo {
    /// Opens the stream.
    ///
    /// # Errors
    ///
    /// If the connection fails.
    pub async fn open(connection: &Connection) -> Result<Self> {
        let (mut send, recv) = connection.open_bi().await?;
        send.write_all(&[ECHO]).await?;
        Ok(Self { send, recv })
    }

    /// Sends a message, and waits for it to come back.
    ///
    /// # Errors
    ///
    /// If the connection fails.
    pub async fn round_trip(&mut self, n: u64) -> Result<()> {
        let (mut sent, mut received) = ([0; ECHO_BYTES], [0; ECHO_BYTES]);
        sent[..8].copy_from_slice(&n.to_le_bytes());
        self.send.write_all(&sent).await?;
        self.recv.read_exact(&mut received).await?;
        ensure!(sent == received, "an echo came back as something else");
        Ok(())
    }
}

/// Opens a stream over which nothing comes.
///
/// # Errors
///
/// If the connection fails.
pub async fn hold(connection: &Connection) -> Result<(SendStream, RecvStream)> {
    let (mut send, recv) = connection.open_bi().await?;
    send.write_all(&[HOLD]).await?;
    Ok((send, recv))
}

async fn answer(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut wanted = [0];
    recv.read_exact(&mut wanted).await?;
    match wanted {
        [BYTES] => {
            let piece = Bytes::from(vec![7; PIECE_BYTES]);
            // Until the other end has enough.
            while send.write_chunk(piece.clone()).await.is_ok() {}
            Ok(())
        }
        [ECHO] => loop {
            let mut message = [0; ECHO_BYTES];
            recv.read_exact(&mut message).await?;
            send.write_all(&message).await?;
        },
        // Until the other end closes it.
        [HOLD] => Ok(recv.read_exact(&mut wanted).await?),
        [other] => Err(anyhow!("no service has the number {other}")),
    }
}

fn client(identity: &Identity, jumbo: bool) -> Result<quinn::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(identity.to_pem().authorities.as_bytes()) {
        roots.add(authority?)?;
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(jumbo));
    Ok(config)
}

fn endpoint(jumbo: bool, server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(max_mtu(jumbo).max(1472))?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

/// The settings of `aqueduct::transport::NodeConfig`.
fn transport(jumbo: bool) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(max_mtu(jumbo));
    transport
        .max_idle_timeout(Some(VarInt::from_u32(5000).into()))
        .keep_alive_interval(Some(Duration::from_secs(1)))
        .initial_rtt(Duration::from_millis(100))
        .max_concurrent_bidi_streams(VarInt::from_u32(1025))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(4 << 20))
        .receive_window(VarInt::from_u32(16 << 20))
        .send_window(16 << 20)
        .initial_mtu(1200)
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    Arc::new(transport)
}

fn max_mtu(jumbo: bool) -> u16 {
    if jumbo { 6000 } else { 1452 }
}

const ALPN: &[u8] = b"bench/1";
const BYTES: u8 = b'b';
const ECHO: u8 = b'e';
const HOLD: u8 = b'h';
