//! Frames, certificates and TLS by hand, for peers that keep no rule.

use std::sync::Arc;

use aqueduct_transport::Identity;
use quinn::VarInt;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rand::Rng;
use rand::rngs::StdRng;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) const SERVER_NAME: &str = "sim.aqueduct.internal";

const PROTOCOL_NAME: &[u8] = b"aqueduct/1";

// Types of frames.
const HELLO: u8 = 1;
pub(crate) const HELLO_ACK: u8 = 2;
pub(crate) const ASK_FUNCTIONS: u8 = 4;
pub(crate) const SUBSCRIBE: u8 = 16;
pub(crate) const ACCEPTED: u8 = 17;
pub(crate) const CREDIT: u8 = 19;
pub(crate) const ACK: u8 = 21;
pub(crate) const EVENTS_FRAME: u8 = 32;
pub(crate) const CHUNK: u8 = 33;
const UNKNOWN: u8 = 99;
pub(crate) const SKIPPED: u8 = 200;

// Codes with which a connection or a stream ends.
pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(2);
pub(crate) const REFUSED: VarInt = VarInt::from_u32(3);
pub(crate) const SUPERSEDED: VarInt = VarInt::from_u32(6);

/// No MessagePack begins so.
const NO_VALUE: u8 = 0xc1;

/// A certificate authority that sets no bounds.
pub(crate) struct Issues {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Issues {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, node: &str) -> Identity {
        self.issue_until(node, 4000)
    }

    pub(crate) fn issue_until(&self, node: &str, last_year: i32) -> Identity {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1990, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        params.subject_alt_names = vec![
            SanType::URI(format!("aqueduct://sim/node/{node}").try_into().expect("a name")),
            SanType::DnsName(SERVER_NAME.try_into().expect("a name")),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity::from_pem(&certificate, &key.serialize_pem(), &self.certificate).expect("an identity")
    }
}

/// What a node of the cluster dials with.
pub(crate) fn client(identity: &Identity) -> quinn::ClientConfig {
    client_of(identity, identity)
}

/// What somebody dials with who trusts the authority of `knows` and says that he `is` another one.
pub(crate) fn client_of(knows: &Identity, is: &Identity) -> quinn::ClientConfig {
    let pem = knows.to_pem();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.authorities.as_bytes()).expect("PEM")).expect("an authority");
    let (chain, key) = credentials(is);
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a certificate");
    tls.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")))
}

/// What a node of the cluster listens with, if it lets everybody in.
pub(crate) fn server(identity: &Identity) -> quinn::ServerConfig {
    let (chain, key) = credentials(identity);
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    tls.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("TLS 1.3")))
}

fn credentials(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let pem = identity.to_pem();
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM")];
    (chain, PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("PEM"))
}

pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).expect("a short frame").to_be_bytes();
    [length.as_slice(), &[kind], body].concat()
}

pub(crate) fn hello(cluster: &str, node: &str) -> Vec<u8> {
    hello_of(cluster, node, 1)
}

pub(crate) fn hello_of(cluster: &str, node: &str, incarnation: u64) -> Vec<u8> {
    let numbers = [("proto_min", 1), ("proto_max", 1), ("incarnation", incarnation)];
    frame(HELLO, &map_of(&numbers, &[("cluster", cluster), ("node", node)]))
}

pub(crate) fn hello_ack(node: &str) -> Vec<u8> {
    frame(HELLO_ACK, &map_of(&[("proto", 1), ("incarnation", 1)], &[("node", node)]))
}

pub(crate) fn subscribe(producer: &str) -> Vec<u8> {
    map_of(&[("max_demand", 10), ("min_demand", 5)], &[("producer", producer), ("signature", "u64")])
}

/// A MessagePack map of numbers.
pub(crate) fn map(numbers: &[(&str, u64)]) -> Vec<u8> {
    map_of(numbers, &[])
}

fn map_of(numbers: &[(&str, u64)], texts: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str, bytes: &mut Vec<u8>| {
        bytes.extend([0xd9, u8::try_from(text.len()).expect("a short text")]);
        bytes.extend(text.as_bytes());
    };
    let mut bytes = vec![0x80 | u8::try_from(numbers.len() + texts.len()).expect("a small map")];
    for (name, number) in numbers {
        text(name, &mut bytes);
        bytes.push(0xcf);
        bytes.extend(number.to_be_bytes());
    }
    for (name, value) in texts {
        text(name, &mut bytes);
        text(value, &mut bytes);
    }
    bytes
}

/// Bytes that break a rule wherever they come.
pub(crate) fn breach(rng: &mut StdRng) -> Vec<u8> {
    let mut noise: Vec<u8> = (0..rng.random_range(16..4000)).map(|_| rng.random()).collect();
    let kind = if rng.random() { HELLO } else { SUBSCRIBE };
    match rng.random_range(0..7) {
        // A length beyond every limit, and anything behind it.
        0 => {
            noise[0] |= 0x40;
            noise
        }
        // Malformed.
        1 => {
            noise[0] = NO_VALUE;
            frame(kind, &noise)
        }
        // Longer than such a frame may be; the rest never comes.
        2 => [&rng.random_range(65_537..=u32::MAX).to_be_bytes(), &[kind][..], &noise].concat(),
        3 => frame(kind, &vec![0x91; rng.random_range(65..60_000)]),
        // Cut off, as the length says.
        4 => {
            let body = subscribe("numbers");
            frame(SUBSCRIBE, &body[..rng.random_range(0..body.len())])
        }
        5 => frame(UNKNOWN, &noise),
        // In the wrong place.
        _ => frame(ACCEPTED, &[0x80]),
    }
}
