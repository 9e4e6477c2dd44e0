//! What can be wrong with an identity.

use std::io;
use std::path::PathBuf;

use rustls::pki_types::pem;

use super::{NameError, NodeName};

/// Why an identity could not be made or read, or why a peer has none that we accept. `place` is the file, or which of the
/// given texts it was. No message holds key material.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A text holds no PEM section at all; DER files must be converted.
    #[error("{place} is not PEM")]
    NotPem {
        /// Where the text comes from.
        place: String,
    },
    /// A PEM section is damaged.
    #[error("{place} holds damaged PEM")]
    BadPem {
        /// Where the text comes from.
        place: String,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A text is PEM but holds no certificate.
    #[error("{place} holds no certificate")]
    NoCertificate {
        /// Where the text comes from.
        place: String,
    },
    /// A text is PEM but holds no private key, or only an encrypted one.
    #[error("{place} holds no unencrypted private key")]
    NoKey {
        /// Where the text comes from.
        place: String,
    },
    /// A certificate or key was decoded and cannot be used: it is malformed, or of a kind that TLS 1.3 does not know.
    #[error("{place} holds something unusable")]
    Unusable {
        /// Where the text comes from.
        place: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is not the certificate's.
    #[error("the key in {key} does not belong to the certificate in {certificate}")]
    KeyMismatch {
        /// Where the certificate comes from.
        certificate: String,
        /// Where the key comes from.
        key: String,
    },
    /// A certificate does not name a node, or a name is not allowed.
    #[error("no usable node name in {place}")]
    Name {
        /// Where the name comes from.
        place: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A running node cannot become another one.
    #[error("expected an identity of {ours}, got one of {given}")]
    OtherNode {
        /// Who the node is.
        ours: NodeName,
        /// Whom the new certificate names.
        given: NodeName,
    },
    /// A development certificate could not be made.
    #[error("cannot issue a certificate")]
    Issue(#[from] rcgen::Error),
    /// A certificate was signed by an authority that is not trusted where it was looked at.
    #[error("{certificate} was signed by {issuer}, which is not among the authorities {authorities}")]
    Untrusted {
        /// The certificate: its file, or who it names.
        certificate: String,
        /// Who signed it.
        issuer: String,
        /// Where the authorities come from, and what they are called.
        authorities: String,
    },
    /// A certificate has expired, or is not valid yet.
    #[error("{certificate} {why}")]
    Dates {
        /// The certificate: its file, or who it names.
        certificate: String,
        /// Since or until when.
        why: String,
    },
    /// A certificate lacks the name under which nodes of its cluster are dialled.
    #[error("expected {certificate} to have the DNS name {expected}, got {got}")]
    DnsName {
        /// The certificate: its file, or who it names.
        certificate: String,
        /// The name.
        expected: String,
        /// The names that it has.
        got: String,
    },
    /// A certificate is not accepted for another reason, for instance because it is not for servers and clients both.
    #[error("{certificate} is not accepted: {why}")]
    NotAccepted {
        /// The certificate: its file, or who it names.
        certificate: String,
        /// What TLS says of it.
        why: String,
    },
    /// The connection has no verified peer: its handshake is not complete.
    #[error("the connection has no verified peer yet")]
    NoPeer,
    /// The peer is trusted, and belongs to another cluster.
    #[error("the peer {peer} does not belong to cluster \"{ours}\"")]
    WrongCluster {
        /// Our cluster.
        ours: String,
        /// Who the peer is.
        peer: NodeName,
    },
}

aqueduct_stage::debug_as_sentence!(IdentityError);
