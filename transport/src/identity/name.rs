//! The name a certificate gives to a node.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A node's name: its cluster and its id in it. Written `aqueduct://<cluster>/node/<id>`, which is how it stands in the
/// certificate, as a URI among the subject alternative names.
///
/// Both parts are 1 to 63 ASCII letters, digits, `-`, `_` and `.`; each piece between dots begins and ends with a letter
/// or digit. That is what is safe in a URI, in a DNS name, in a file name and in a log line alike. Case counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName {
    cluster: String,
    node: String,
}

impl NodeName {
    /// Puts a name together.
    ///
    /// # Errors
    ///
    /// [`NameError::Cluster`] or [`NameError::Node`] when that part is not allowed.
    pub fn new(cluster: impl Into<String>, node: impl Into<String>) -> Result<Self, NameError> {
        let (cluster, node) = (cluster.into(), node.into());
        check_cluster(&cluster)?;
        if !is_allowed(&node) {
            return Err(NameError::Node { name: node });
        }
        Ok(Self { cluster, node })
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node's id, unique in the cluster.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Reads the name out of a certificate. URIs of other schemes (SPIFFE's, say) may stand beside it.
    pub(super) fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, NameError> {
        let certificate = EndEntityCert::try_from(certificate).map_err(NameError::Certificate)?;
        let mut ours = certificate.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        match (ours.next(), ours.next()) {
            (Some(uri), None) => uri.parse(),
            (None, _) => Err(NameError::Missing),
            // Which of two names is meant must not depend on who reads them.
            (Some(_), Some(_)) => Err(NameError::Ambiguous),
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{NODE}{}", self.cluster, self.node)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<Self, NameError> {
        let parts = uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once(NODE));
        let (cluster, node) = parts.ok_or_else(|| NameError::NotAName { uri: uri.into() })?;
        Self::new(cluster, node)
    }
}

/// What is wrong with a node's name.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The cluster's name is not allowed.
    #[error("{name:?} cannot name a cluster: {RULE}")]
    Cluster {
        /// The name.
        name: String,
    },
    /// The node's id is not allowed.
    #[error("{name:?} cannot name a node: {RULE}")]
    Node {
        /// The id.
        name: String,
    },
    /// A pattern can stand for no node's id.
    #[error("{pattern:?} stands for no node: {RULE}, or '*' for any of them")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// A text is not of the form `aqueduct://<cluster>/node/<id>`.
    #[error("{uri:?} is not of the form aqueduct://<cluster>/node/<id>")]
    NotAName {
        /// The text.
        uri: String,
    },
    /// A certificate holds no such name.
    #[error("the certificate has no subject alternative name of the form aqueduct://<cluster>/node/<id>")]
    Missing,
    /// A certificate holds several such names.
    #[error("the certificate names more than one node")]
    Ambiguous,
    /// A certificate cannot be parsed.
    #[error("the certificate is malformed")]
    Certificate(#[source] webpki::Error),
}

aqueduct_stage::debug_as_sentence!(NameError);

/// Refuses what cannot name a cluster.
pub(super) fn check_cluster(name: &str) -> Result<(), NameError> {
    if is_allowed(name) { Ok(()) } else { Err(NameError::Cluster { name: name.into() }) }
}

fn is_allowed(name: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    name.len() <= MAX_NAME_BYTES
        && name
            .split('.')
            .map(str::as_bytes)
            .all(|piece| is_edge(piece.first()) && is_edge(piece.last()) && piece.iter().copied().all(is_inner))
}

const SCHEME: &str = "aqueduct://";
const NODE: &str = "/node/";
/// The longest label of a DNS name (RFC 1035, section 2.3.4), so that a name without dots is one.
const MAX_NAME_BYTES: usize = 63;
const RULE: &str = "use 1 to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends of each piece";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "worker-1", "eu.west_2", "A9", "10.0.0.7", &"x".repeat(63)] {
            assert!(is_allowed(name), "{name}");
        }
        for name in ["", ".", "a..b", "-a", "a-", "a.-b", "_a", "a b", "a/b", "a\nb", "ä", "a%2f", &"x".repeat(64)] {
            assert!(!is_allowed(name), "{name:?}");
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let name = NodeName::new("shop", "worker-1").unwrap();
        assert_eq!(name.to_string(), "aqueduct://shop/node/worker-1");
        assert_eq!(name.to_string().parse::<NodeName>().unwrap(), name);
    }

    #[test]
    fn what_is_almost_a_name_is_refused() {
        for uri in ["", "aqueduct://shop", "http://shop/node/a", "aqueduct://shop/nodes/a", "Aqueduct://shop/node/a"] {
            assert!(matches!(uri.parse::<NodeName>(), Err(NameError::NotAName { .. })), "{uri}");
        }
        assert!(matches!("aqueduct:///node/a".parse::<NodeName>(), Err(NameError::Cluster { .. })));
        assert!(matches!("aqueduct://shop/node/".parse::<NodeName>(), Err(NameError::Node { .. })));
        assert!(matches!("aqueduct://shop/node/a/node/b".parse::<NodeName>(), Err(NameError::Node { .. })));
    }

    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn a_certificate_names_one_node() {
        let read = |uris: &[&str]| NodeName::from_certificate(&certificate(uris));
        assert_eq!(read(&["spiffe://x/y", "aqueduct://shop/node/a"]).unwrap().node(), "a");
        assert!(matches!(read(&["spiffe://x/y"]), Err(NameError::Missing)));
        assert!(matches!(read(&["aqueduct://shop/node/a", "aqueduct://shop/node/b"]), Err(NameError::Ambiguous)));
        // Not skipped in favour of the good one: what cannot be understood is refused.
        assert!(matches!(read(&["aqueduct://shop/node/a", "aqueduct://shop/"]), Err(NameError::Ambiguous)));
        assert!(matches!(read(&["aqueduct://shop/node/a b"]), Err(NameError::Node { .. })));
    }

    #[test]
    fn a_bad_name_cannot_break_a_log_line() {
        let error = NodeName::new("shop", "a\nfake line").unwrap_err();
        assert!(error.to_string().starts_with(r#""a\nfake line" cannot name a node"#), "{error}");
    }
}
