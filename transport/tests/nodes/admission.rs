//! Who is let in, by authority and by cluster.

use aqueduct_stage::FailureKind;
use aqueduct_transport::{Authority, Identity, Node, NodeConfig};

use crate::nodes::{guarded, node, nodes};
use crate::stages::{consume, fails, produce};

#[tokio::test]
async fn a_node_of_another_authority_is_refused_and_the_server_goes_on() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let mut producing = produce(&there, "numbers", 10, |n| n);
        // It knows whom to trust, and cannot prove that it is trusted.
        let stranger = Authority::dev("test").unwrap().issue("here").unwrap().to_pem();
        let trusted = here.identity().to_pem().authorities;
        let stranger = Identity::from_pem(&stranger.certificate, &stranger.key, &trusted).unwrap();
        let why = "the certificate of aqueduct://test/node/here was signed by \"CN=aqueduct development authority of test\", \
                   which is not among the authorities that its peer trusts: \"CN=aqueduct development authority of test\" \
                   (the name is the same, the key is not); the certificate here is read from the certificate text";
        refused(stranger, &there, why).await;
        assert_eq!(consume::<u64>(&here, "numbers", &there).await.unwrap().len(), 10);
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_whoever_issued_it() {
    guarded(async {
        let issuer = OneForAll::new();
        let (here, there) = (issuer.issue("shop", "shop", "here"), issuer.issue("shop", "shop", "there"));
        let here = node(here, NodeConfig::default()).await;
        let there = node(there, NodeConfig::default()).await;
        let mut producing = produce(&there, "numbers", 10, |n| n);

        // The dialler notices first.
        let bank = node(issuer.issue("bank", "bank", "here"), NodeConfig::default()).await;
        let (failure, _) = fails::<u64>(&bank, "numbers", &there).await;
        let why = r#"the peer aqueduct://shop/node/there does not belong to cluster "bank""#;
        assert!(failure.message().contains(why), "{failure}");
        // Even one that can be dialled as a node of that cluster.
        let hybrid = node(issuer.issue("shop", "bank", "there"), NodeConfig::default()).await;
        let (failure, _) = fails::<u64>(&bank, "numbers", &hybrid).await;
        assert!(failure.message().contains("cluster") || failure.message().contains("certificate"), "{failure}");
        assert_eq!(consume::<u64>(&here, "numbers", &there).await.unwrap().len(), 10);
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_by_the_dialler() {
    guarded(async {
        let [here, _] = nodes(["here", "there"]).await;
        let [_, there] = nodes(["here", "there"]).await;
        let _producing = produce(&there, "numbers", 10, |n| n);
        let (failure, _) = fails::<u64>(&here, "numbers", &there).await;
        assert_eq!(failure.kind(), FailureKind::Subscribe);
        let (whose, where_to_look) = (
            "the certificate of aqueduct://test/node/there was signed by",
            "; the authorities are read from the authorities text",
        );
        assert!(failure.message().contains(whose) && failure.message().ends_with(where_to_look), "{failure}");
    })
    .await;
}

/// A node with this identity must be refused, for a reason that says `why`.
async fn refused(identity: Identity, by: &Node, why: &str) {
    let node = node(identity, NodeConfig::default()).await;
    let (failure, seen) = fails::<u64>(&node, "numbers", by).await;
    assert_eq!((failure.kind(), seen.len()), (FailureKind::Subscribe, 0));
    let says = failure.message();
    assert!(says.starts_with(&format!("refused by {}: ", by.local_addr())) && says.contains(why), "{failure}");
}

/// An authority that serves several clusters.
struct OneForAll {
    certificate: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl OneForAll {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A node of `cluster`, which can be dialled as one of the cluster `dialled`.
    fn issue(&self, cluster: &str, dialled: &str, node: &str) -> Identity {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![
            rcgen::SanType::URI(format!("aqueduct://{cluster}/node/{node}").try_into().unwrap()),
            rcgen::SanType::DnsName(format!("{dialled}.aqueduct.internal").try_into().unwrap()),
        ];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity::from_pem(&certificate, &key.serialize_pem(), &self.certificate).unwrap()
    }
}
