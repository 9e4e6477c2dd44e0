//! Who a node is and whom it trusts.
//!
//! Every node holds a certificate that names it, `aqueduct://<cluster>/node/<id>`, and a list of authorities. Two nodes
//! talk only when each one's certificate leads to an authority the other trusts and both name the same cluster. There is
//! no mode without it: for development, [`Authority::dev`] makes everything that is needed in memory.
//!
//! | file | content |
//! |---|---|
//! | `name.rs` | [`NodeName`]: the name in a certificate, and what may be a name |
//! | `authority.rs` | [`Authority`]: issues development certificates |
//! | `pem.rs` | reading certificates and keys, with errors that name the file |
//! | `keys.rs` | [`EndpointKeys`]: what a node must remember of itself across a restart |
//! | `trust.rs` | whose certificates are accepted, and in words why one is not |
//! | `der.rs` | [`Der`](der::Der): reads what certificates are made of |
//! | `distinguished.rs` | the names in certificates, for those words |
//! | `validity.rs` | until when a certificate is valid |
//! | `tls.rs` | the TLS settings of both ends |
//! | `error.rs` | [`IdentityError`] |

pub(crate) mod access;
mod authority;
mod der;
mod distinguished;
mod error;
mod keys;
mod name;
mod pem;
mod tls;
mod trust;
mod validity;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use quinn::ConnectionError;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

pub use authority::Authority;
pub use error::IdentityError;
pub use name::{NameError, NodeName};
pub use pem::IdentityPem;

pub(crate) use keys::EndpointKeys;

use pem::{load, read_certificates, read_key, read_roots};
use trust::Trust;

/// A node's certificate, its key and the authorities it trusts. Cheap to clone; immutable.
///
/// The certificate must carry exactly one subject alternative name of the form `aqueduct://<cluster>/node/<id>`, which
/// says who the node is, the DNS name `<cluster>.aqueduct.internal`, which is what a node of that cluster is dialled as,
/// and both extended key usages (server and client), since every node is both.
///
/// `Debug` shows the name only, never the key.
///
/// ```
/// use aqueduct_transport::Authority;
///
/// let authority = Authority::dev("shop")?;
/// let identity = authority.issue("worker-1")?;
/// assert_eq!(identity.name().to_string(), "aqueduct://shop/node/worker-1");
/// # Ok::<(), aqueduct_transport::IdentityError>(())
/// ```
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    name: NodeName,
    /// The text everything else was read from, kept so that it can be handed on unchanged.
    pem: IdentityPem,
    /// The chain, leaf first, with the key that was checked to belong to the leaf.
    certified: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    /// Where the certificate and the authorities come from.
    places: [String; 2],
    keys: EndpointKeys,
}

impl Identity {
    /// Reads an identity from three PEM texts: the certificate (with intermediates after it, if any), its private key
    /// (PKCS #8, SEC 1 or PKCS #1, not encrypted), and the certificates of the trusted authorities.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with one of the texts, or with the certificate and the key together. Validity dates and the
    /// certificate's own issuer are not looked at here: the peer judges those, at its time and by its authorities. So an
    /// identity can be had whose authorities are others than its own.
    pub fn from_pem(certificate: &str, key: &str, authorities: &str) -> Result<Self, IdentityError> {
        let pem = IdentityPem { certificate: certificate.into(), key: key.into(), authorities: authorities.into() };
        Self::read(pem, ["the certificate text", "the key text", "the authorities text"])
    }

    /// Reads an identity from three PEM files, as [`from_pem`](Self::from_pem) does, and judges the certificate as peers
    /// will that have the same authorities. Blocks while it reads them.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem), with the file named, [`IdentityError::Read`] for one that cannot be read, and,
    /// for a certificate that peers would refuse, [`IdentityError::Untrusted`], [`IdentityError::Dates`],
    /// [`IdentityError::DnsName`] or [`IdentityError::NotAccepted`].
    pub fn from_pem_files(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
        authorities: impl AsRef<Path>,
    ) -> Result<Self, IdentityError> {
        let paths = [certificate.as_ref(), key.as_ref(), authorities.as_ref()];
        let [certificate, key, authorities] = paths.map(load);
        let pem = IdentityPem { certificate: certificate?, key: key?, authorities: authorities? };
        let [certificate, key, authorities] = paths.map(|path| path.display().to_string());
        let identity = Self::read(pem, [&certificate, &key, &authorities])?;
        let Inner { trust, certified, .. } = &*identity.inner;
        trust.check_own(&certified.cert, [&certificate, &authorities])?;
        Ok(identity)
    }

    /// The PEM texts this identity was read from, private key included: for handing it to a process of one's own.
    #[must_use]
    pub fn to_pem(&self) -> IdentityPem {
        self.inner.pem.clone()
    }

    /// What the certificate calls this node.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.inner.name
    }

    /// The node's id, unique in its cluster.
    #[must_use]
    pub fn node(&self) -> &str {
        self.inner.name.node()
    }

    /// The cluster the node belongs to.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.inner.name.cluster()
    }

    /// What a node must remember of itself across a restart.
    pub(crate) fn endpoint_keys(&self) -> &EndpointKeys {
        &self.inner.keys
    }

    /// Who is at the other end of `connection`, by the certificate that the handshake verified. The one place from which
    /// a peer's name may be taken: whatever else a peer says about itself must equal it.
    ///
    /// # Errors
    ///
    /// [`IdentityError::NoPeer`] before the handshake is complete, [`IdentityError::Name`] when the certificate names no
    /// node or several, [`IdentityError::WrongCluster`] when it names another cluster. Close the connection then.
    pub(crate) fn peer(&self, connection: &quinn::Connection) -> Result<NodeName, IdentityError> {
        let presented = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let leaf = presented.as_deref().and_then(|chain| chain.first()).ok_or(IdentityError::NoPeer)?;
        let peer = NodeName::from_certificate(leaf)
            .map_err(|source| IdentityError::Name { place: "the peer's certificate".into(), source })?;
        if peer.cluster() != self.cluster() {
            return Err(IdentityError::WrongCluster { ours: self.cluster().into(), peer });
        }
        Ok(peer)
    }

    /// What was said of a certificate as TLS ended a connection, and where to look; `None` if it was about something else.
    pub(crate) fn said_by_tls(&self, error: &ConnectionError) -> Option<String> {
        let [certificate, authorities] = &self.inner.places;
        let (code, reason, look) = match error {
            ConnectionError::TransportError(ours) => {
                (ours.code, ours.reason.clone(), format!("the authorities are read from {authorities}"))
            }
            ConnectionError::ConnectionClosed(theirs) => {
                let reason = String::from_utf8_lossy(&theirs.reason).replace(char::is_control, " ");
                (theirs.error_code, reason, format!("the certificate here is read from {certificate}"))
            }
            _ => return None,
        };
        // Errors of TLS (RFC 9001, section 4.8).
        let said = trust::words(&reason).filter(|_| u64::from(code) >> 8 == 1)?;
        Some(format!("{said}; {look}"))
    }

    /// Until when the certificate of a connection's peer is valid, since 1970; `None` if it does not say.
    pub(crate) fn peer_expires(connection: &quinn::Connection) -> Option<std::time::Duration> {
        let presented = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        validity::not_after(presented.first()?)
    }

    /// `places` says where each text of `pem` comes from, in its order, for errors.
    fn read(pem: IdentityPem, places: [&str; 3]) -> Result<Self, IdentityError> {
        let [certificate, key, authorities] = places;
        let chain = read_certificates(&pem.certificate, certificate)?;
        let name = NodeName::from_certificate(&chain[0])
            .map_err(|source| IdentityError::Name { place: certificate.into(), source })?;
        let key_der = read_key(&pem.key, key)?;
        let keys = EndpointKeys::derive(key_der.secret_der());
        let trust = Arc::new(Trust::new(name.cluster(), &Arc::new(read_roots(&pem.authorities, authorities)?)));
        let places = [certificate, authorities].map(ToOwned::to_owned);
        let certified = CertifiedKey::from_der(chain, key_der, &tls::provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                IdentityError::KeyMismatch { certificate: certificate.into(), key: key.into() }
            }
            source => IdentityError::Unusable { place: key.into(), source },
        })?;
        Ok(Self { inner: Arc::new(Inner { name, pem, certified: Arc::new(certified), trust, places, keys }) })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.inner.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn pem(node: &str) -> IdentityPem {
        Authority::dev("shop").unwrap().issue(node).unwrap().to_pem()
    }

    /// A folder of this test's own, removed afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("aqueduct-identity-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, file: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(file);
            fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_identity_survives_its_way_through_pem() {
        let before = Authority::dev("shop").unwrap().issue("worker-1").unwrap();
        let pem = before.to_pem();
        let after = Identity::from_pem(&pem.certificate, &pem.key, &pem.authorities).unwrap();
        assert_eq!(after.name(), before.name());
        assert_eq!(after.to_pem(), pem);
        assert_eq!((after.cluster(), after.node()), ("shop", "worker-1"));
    }

    #[test]
    fn an_identity_survives_its_way_through_files() {
        let (folder, pem) = (Folder::new("files"), pem("worker-1"));
        let [certificate, key, authorities] =
            [("node.pem", &pem.certificate), ("node.key", &pem.key), ("ca.pem", &pem.authorities)]
                .map(|(file, text)| folder.write(file, text));
        assert_eq!(Identity::from_pem_files(&certificate, &key, &authorities).unwrap().node(), "worker-1");

        let missing = folder.0.join("missing.pem");
        let error = Identity::from_pem_files(&certificate, &key, &missing).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", missing.display()));

        let der = folder.write("node.der", [0x30, 0x82, 0xff]);
        let error = Identity::from_pem_files(&der, &key, &authorities).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is not PEM", der.display()));

        // The two most likely mix-ups.
        let error = Identity::from_pem_files(&key, &certificate, &authorities).unwrap_err();
        assert_eq!(error.to_string(), format!("{} holds no certificate", key.display()));
        let error = Identity::from_pem_files(&certificate, &certificate, &authorities).unwrap_err();
        assert_eq!(error.to_string(), format!("{} holds no unencrypted private key", certificate.display()));
    }

    /// A certificate for `a` of the cluster `shop`, its key, and the authority that has signed it.
    fn issue(authority: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> IdentityPem {
        use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

        let (mut ca, mut leaf) = (CertificateParams::default(), CertificateParams::default());
        ca.distinguished_name.push(DnType::CommonName, authority);
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authorities = ca.self_signed(&key).unwrap().pem();
        leaf.subject_alt_names = vec![
            SanType::URI("aqueduct://shop/node/a".try_into().unwrap()),
            SanType::DnsName("shop.aqueduct.internal".try_into().unwrap()),
        ];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut leaf);
        let own = KeyPair::generate().unwrap();
        let certificate = leaf.signed_by(&own, &Issuer::new(ca, key)).unwrap().pem();
        IdentityPem { certificate, key: own.serialize_pem(), authorities }
    }

    #[test]
    fn files_are_judged_as_peers_will_judge_them_and_the_error_names_file_and_value() {
        let folder = Folder::new("judged");
        let load = |pem: &IdentityPem, authorities: &str| {
            let [certificate, key, ca] =
                [("node.pem", &*pem.certificate), ("node.key", &*pem.key), ("ca.pem", authorities)]
                    .map(|(file, text)| folder.write(file, text));
            let loaded = Identity::from_pem_files(certificate, key, ca);
            loaded.map_err(|error| error.to_string().replace(&folder.0.display().to_string(), "."))
        };
        let refused = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
            let pem = issue("ours", |params| change(params));
            load(&pem, &pem.authorities).unwrap_err()
        };
        let (ours, same, theirs) = (issue("ours", |_| {}), issue("ours", |_| {}), issue("theirs", |_| {}));
        assert!(load(&ours, &ours.authorities).is_ok());
        assert!(load(&ours, &(theirs.authorities.clone() + &ours.authorities)).is_ok());

        let untrusted = r#"the certificate in ./node.pem was signed by "CN=ours", which is not among the authorities "#;
        let error = load(&ours, &theirs.authorities).unwrap_err();
        assert_eq!(error, format!(r#"{untrusted}in ./ca.pem: "CN=theirs""#));
        let error = load(&ours, &same.authorities).unwrap_err();
        assert_eq!(error, format!(r#"{untrusted}in ./ca.pem: "CN=ours" (the name is the same, the key is not)"#));

        let error = refused(&|params| params.not_after = rcgen::date_time_ymd(2024, 2, 29));
        assert_eq!(error, "the certificate in ./node.pem has expired on 2024-02-29");
        let error = refused(&|params| params.not_before = rcgen::date_time_ymd(4000, 1, 1));
        assert_eq!(error, "the certificate in ./node.pem is not valid before 4000-01-01");

        let bank = || rcgen::SanType::DnsName("bank.aqueduct.internal".try_into().unwrap());
        let error = refused(&|params| params.subject_alt_names[1] = bank());
        let expected = "expected the certificate in ./node.pem to have the DNS name shop.aqueduct.internal, got ";
        assert!(error.starts_with(expected) && error.contains("bank.aqueduct.internal"), "{error}");
        let error = refused(&|params| drop(params.extended_key_usages.pop()));
        assert!(
            error.starts_with("the certificate in ./node.pem is not accepted: ") && error.contains("client"),
            "{error}"
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_at_once() {
        let (ours, others) = (pem("worker-1"), pem("worker-1"));
        let error = Identity::from_pem(&ours.certificate, &others.key, &ours.authorities).unwrap_err();
        assert!(matches!(error, IdentityError::KeyMismatch { .. }), "{error}");
    }

    #[test]
    fn a_certificate_that_names_no_node_is_refused() {
        let pem = pem("worker-1");
        let error = Identity::from_pem(&pem.authorities, &pem.key, &pem.authorities).unwrap_err();
        assert_eq!(error.to_string(), "no usable node name in the certificate text");
        assert!(error.source().unwrap().to_string().contains("no subject alternative name"));
    }

    #[test]
    fn damaged_texts_are_refused_by_name() {
        let good = pem("worker-1");
        let cut = |text: &str| text.replace("-----END", "-----FIN");
        let read = |certificate: &str, key: &str, authorities: &str| {
            Identity::from_pem(certificate, key, authorities).unwrap_err().to_string()
        };
        assert_eq!(read("", &good.key, &good.authorities), "the certificate text is not PEM");
        assert_eq!(
            read(&cut(&good.certificate), &good.key, &good.authorities),
            "the certificate text holds damaged PEM"
        );
        assert_eq!(read(&good.certificate, &cut(&good.key), &good.authorities), "the key text holds damaged PEM");
        assert_eq!(read(&good.certificate, &good.key, "x"), "the authorities text is not PEM");
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(read(&good.certificate, &good.key, nonsense), "the authorities text holds something unusable");
        let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(read(&good.certificate, nonsense, &good.authorities), "the key text holds something unusable");
    }

    #[test]
    fn debug_shows_no_key() {
        let identity = Authority::dev("shop").unwrap().issue("worker-1").unwrap();
        assert_eq!(format!("{identity:?}"), r#"Identity(NodeName { cluster: "shop", node: "worker-1" })"#);
        assert!(!format!("{:?}", identity.to_pem()).contains("PRIVATE"));
    }
}
