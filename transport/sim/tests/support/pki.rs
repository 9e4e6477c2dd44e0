//! Certificates for simulated nodes: an authority, and QUIC configurations with mutual TLS signed by it.

use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate authority. Ed25519 throughout: its signatures always have the same size.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("ring has Ed25519");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("the parameters are valid").der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A server called `name` that accepts clients of this authority only.
    pub(crate) fn server(&self, name: &str) -> quinn::ServerConfig {
        let (chain, key) = self.issue(name);
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider());
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("there is a root"))
            .with_single_cert(chain, key)
            .expect("the key fits the certificate");
        let config = QuicServerConfig::try_from(config).expect("ring has QUIC's first cipher suite");
        quinn::ServerConfig::with_crypto(Arc::new(config))
    }

    /// A client called `name`, with a certificate of this authority, that trusts servers of `trusted`.
    pub(crate) fn client(&self, name: &str, trusted: &Self) -> quinn::ClientConfig {
        let (chain, key) = self.issue(name);
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .with_root_certificates(trusted.roots())
            .with_client_auth_cert(chain, key)
            .expect("the key fits the certificate");
        let config = QuicClientConfig::try_from(config).expect("ring has QUIC's first cipher suite");
        quinn::ClientConfig::new(Arc::new(config))
    }

    fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("ring has Ed25519");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("the name is a DNS name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are valid");
        (vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("it is a certificate");
        Arc::new(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
