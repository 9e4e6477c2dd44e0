//! The TLS settings of both ends: TLS 1.3, mutual, within one cluster. Nothing here can be switched off.

use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::Identity;

impl Identity {
    /// What an endpoint needs in order to be dialled by nodes of this cluster, and by nobody else.
    pub(crate) fn server_config(&self) -> quinn::ServerConfig {
        let mut tls = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect(TLS13_PROVIDED)
            .with_client_cert_verifier(Arc::clone(&self.inner.trust) as _)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.inner.certified.clone())));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its certificate anew: a resumed session would outlive a change of authorities.
        // Early data stays off, as is the default: it could be replayed.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        let tls = QuicServerConfig::try_from(tls).expect(INITIAL_SUITE_PROVIDED);
        quinn::ServerConfig::with_crypto(Arc::new(tls))
    }

    /// What an endpoint needs in order to dial nodes of this cluster, as [`server_name`](Self::server_name).
    ///
    /// A server refuses a client only after the client thinks itself connected (TLS 1.3 lets a client finish first): a
    /// dialler is accepted when it hears the server's first message, not before.
    pub(crate) fn client_config(&self, transport: Arc<quinn::TransportConfig>) -> quinn::ClientConfig {
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect(TLS13_PROVIDED)
            // What is not rustls's own is called dangerous there; this one only puts the refusals of rustls's into words.
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.inner.trust) as _)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.inner.certified.clone())));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.resumption = Resumption::disabled();
        let tls = QuicClientConfig::try_from(tls).expect(INITIAL_SUITE_PROVIDED);
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(transport);
        config
    }

    /// The name under which every node of this cluster is dialled. It says which cluster is wanted, not which node:
    /// [`Identity::peer`] says who answered.
    pub(crate) fn server_name(&self) -> String {
        server_name(self.cluster())
    }
}

/// The DNS name in the certificate of every node of `cluster`. `.internal` is reserved for private use.
pub(super) fn server_name(cluster: &str) -> String {
    format!("{cluster}.aqueduct.internal")
}

/// Always passed explicitly: rustls panics when it has to choose and a build happens to hold two providers.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The protocol and its major version.
const ALPN: &[u8] = b"aqueduct/1";
const TLS13_PROVIDED: &str = "ring provides cipher suites of TLS 1.3";
const INITIAL_SUITE_PROVIDED: &str = "ring provides TLS13_AES_128_GCM_SHA256, with which QUIC protects first packets";

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use quinn::{Connection, ConnectionError, Endpoint};

    use super::*;
    use crate::{Authority, IdentityError};

    /// An endpoint on loopback that can dial and be dialled.
    fn endpoint(identity: &Identity) -> Endpoint {
        let server = identity.server_config();
        let mut endpoint = Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(identity.client_config(Arc::new(quinn::TransportConfig::default())));
        endpoint
    }

    type Outcome = Result<Connection, ConnectionError>;

    /// Dials `server`; what the dialler and what the dialled one gets.
    async fn meet(client: &Endpoint, server: &Endpoint, server_name: &str) -> (Outcome, Outcome) {
        let dial = client.connect(server.local_addr().unwrap(), server_name).unwrap();
        let accept = async { server.accept().await.unwrap().await };
        tokio::join!(dial, accept)
    }

    /// Whether the server refused the client: the client learns it after its handshake, or during it.
    async fn is_turned_away((client, server): (Outcome, Outcome)) -> bool {
        let told = match client {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        };
        server.is_err() && matches!(told, ConnectionError::ConnectionClosed(_))
    }

    #[tokio::test]
    async fn nodes_of_one_cluster_meet_and_know_each_other() {
        let authority = Authority::dev("Shop_1.eu-west").unwrap();
        let [a, b] = ["a", "b"].map(|node| authority.issue(node).unwrap());
        let (client, server) = (endpoint(&a), endpoint(&b));
        let (at_client, at_server) = meet(&client, &server, &a.server_name()).await;
        let (at_client, at_server) = (at_client.unwrap(), at_server.unwrap());
        assert_eq!(a.peer(&at_client).unwrap(), *b.name());
        assert_eq!(b.peer(&at_server).unwrap(), *a.name());
        let data = at_server.handshake_data().unwrap().downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
        assert_eq!(data.protocol.as_deref(), Some(ALPN));
    }

    #[tokio::test]
    async fn a_foreign_client_is_refused_and_the_server_goes_on() {
        let authority = Authority::dev("shop").unwrap();
        let [a, b] = ["a", "b"].map(|node| authority.issue(node).unwrap());
        // Knows whom to trust, and cannot prove that it is trusted.
        let stolen = Authority::dev("shop").unwrap().issue("a").unwrap().to_pem();
        let foreign = Identity::from_pem(&stolen.certificate, &stolen.key, &a.to_pem().authorities).unwrap();
        let server = endpoint(&b);
        for _ in 0..3 {
            assert!(is_turned_away(meet(&endpoint(&foreign), &server, &a.server_name()).await).await);
        }
        let (at_client, at_server) = meet(&endpoint(&a), &server, &a.server_name()).await;
        assert_eq!(b.peer(&at_server.unwrap()).unwrap(), *a.name());
        drop(at_client);
    }

    #[tokio::test]
    async fn a_client_without_a_certificate_is_refused() {
        let b = Authority::dev("shop").unwrap().issue("b").unwrap();
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(b.inner.trust.roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let anonymous = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        client.set_default_client_config(anonymous);
        assert!(is_turned_away(meet(&client, &endpoint(&b), &b.server_name()).await).await);
    }

    #[tokio::test]
    async fn a_foreign_server_is_refused() {
        let a = Authority::dev("shop").unwrap().issue("a").unwrap();
        let foreign = Authority::dev("shop").unwrap().issue("b").unwrap();
        let (client, server) = meet(&endpoint(&a), &endpoint(&foreign), &a.server_name()).await;
        assert!(matches!(client, Err(ConnectionError::TransportError(_))), "{client:?}");
        assert!(server.is_err());
    }

    #[tokio::test]
    async fn a_server_of_another_cluster_is_refused() {
        let mut authority = Authority::dev("shop").unwrap();
        let a = authority.issue("a").unwrap();
        authority.move_to("bank");
        let b = authority.issue("b").unwrap();
        let (client, server) = meet(&endpoint(&a), &endpoint(&b), &a.server_name()).await;
        let error = client.unwrap_err().to_string();
        assert!(error.contains(r#"the peer aqueduct://bank/node/b does not belong to cluster "shop""#), "{error}");
        assert!(server.is_err());
    }

    #[tokio::test]
    async fn a_client_of_another_cluster_is_refused() {
        let mut authority = Authority::dev("shop").unwrap();
        let a = authority.issue("a").unwrap();
        authority.move_to("bank");
        let b = authority.issue("b").unwrap();
        // It even asks for the right name.
        let (client, server) = meet(&endpoint(&a), &endpoint(&b), &b.server_name()).await;
        if let Ok(connection) = &client {
            assert!(matches!(a.peer(connection), Err(IdentityError::WrongCluster { .. })));
        }
        let error = server.as_ref().unwrap_err().to_string();
        assert!(error.contains(r#"the peer aqueduct://shop/node/a does not belong to cluster "bank""#), "{error}");
        assert!(is_turned_away((client, server)).await);
    }

    #[tokio::test]
    async fn another_protocol_version_is_refused() {
        let authority = Authority::dev("shop").unwrap();
        let [a, b] = ["a", "b"].map(|node| authority.issue(node).unwrap());
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(a.inner.trust.roots.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(a.inner.certified.clone())));
        tls.alpn_protocols = vec![b"aqueduct/2".to_vec()];
        let client_config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        client.set_default_client_config(client_config);
        assert!(is_turned_away(meet(&client, &endpoint(&b), &b.server_name()).await).await);
    }
}
