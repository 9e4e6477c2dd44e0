//! [`Trust`]: whose certificates a node accepts, and why one is not accepted.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

use super::distinguished::describe;
use super::tls::{provider, server_name};
use super::{IdentityError, NodeName};

/// Lets rustls verify the certificates of both ends, and puts into words what it refuses. It also refuses a client whose
/// certificate names no node of the cluster. The other direction needs no such check: a client asks for the cluster's DNS
/// name. Without it, an authority that serves two clusters would let the nodes of one dial into the other.
#[derive(Debug)]
pub(super) struct Trust {
    cluster: String,
    pub(super) roots: Arc<RootCertStore>,
    of_servers: Arc<dyn ServerCertVerifier>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// `roots` is never empty.
    pub(super) fn new(cluster: &str, roots: &Arc<RootCertStore>) -> Self {
        let of_servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider()).build();
        let of_clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).build();
        Self {
            cluster: cluster.into(),
            roots: Arc::clone(roots),
            of_servers: of_servers.expect(BUILDS),
            of_clients: of_clients.expect(BUILDS),
        }
    }

    /// Judges a node's own certificate as its peers will, if they have the same authorities. `places` says where it and
    /// the authorities come from.
    pub(super) fn check_own(&self, chain: &[CertificateDer<'_>], places: [&str; 2]) -> Result<(), IdentityError> {
        let [certificate, authorities] = places;
        let (leaf, intermediates) = chain.split_first().expect("a chain has a leaf");
        let (now, dialled) = (UnixTime::now(), server_name(&self.cluster));
        let dialled = ServerName::try_from(dialled).expect("what can name a cluster makes a DNS name");
        let as_server = self.of_servers.verify_server_cert(leaf, intermediates, &dialled, &[], now).map(drop);
        let as_client = self.of_clients.verify_client_cert(leaf, intermediates, now).map(drop);
        as_server.and(as_client).map_err(|error| match error {
            Error::InvalidCertificate(why) => {
                self.explain(&why, leaf, format!("the certificate in {certificate}"), &format!("in {authorities}"))
            }
            source => IdentityError::Unusable { place: certificate.into(), source },
        })
    }

    /// Puts into words why a peer's certificate is refused.
    fn refused(&self, error: Error, leaf: &CertificateDer<'_>) -> Error {
        let Error::InvalidCertificate(why) = error else { return error };
        let name = NodeName::from_certificate(leaf);
        let certificate = match &name {
            Ok(name) => format!("the certificate of {name}"),
            Err(_) => format!("the certificate of {}", subject(leaf)),
        };
        let is_elsewhere =
            matches!(why, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. });
        other(match name {
            Ok(peer) if is_elsewhere && peer.cluster() != self.cluster => {
                IdentityError::WrongCluster { ours: self.cluster.clone(), peer }
            }
            // Where the file is that holds them is not told to strangers.
            _ => self.explain(&why, leaf, certificate, "that its peer trusts"),
        })
    }

    fn explain(
        &self,
        why: &CertificateError,
        leaf: &CertificateDer<'_>,
        certificate: String,
        place: &str,
    ) -> IdentityError {
        match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                let issuer = EndEntityCert::try_from(leaf).map(|leaf| describe(leaf.issuer())).unwrap_or_default();
                let mut names: Vec<_> = self.roots.roots.iter().map(|root| describe(&root.subject)).collect();
                names.dedup();
                let more = if names.len() > SHOWN { ", .." } else { "" };
                let another = if names.contains(&issuer) { " (the name is the same, the key is not)" } else { "" };
                names.truncate(SHOWN);
                let authorities = format!("{place}: {}{more}{another}", names.join(", "));
                IdentityError::Untrusted { certificate, issuer, authorities }
            }
            CertificateError::ExpiredContext { not_after, .. } => {
                IdentityError::Dates { certificate, why: format!("has expired on {}", date(*not_after)) }
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                IdentityError::Dates { certificate, why: format!("is not valid before {}", date(*not_before)) }
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let expected = server_name(&self.cluster);
                IdentityError::DnsName { certificate, expected, got: presented.join(", ") }
            }
            why => IdentityError::NotAccepted { certificate, why: why.to_string() },
        }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.of_servers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| self.refused(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_servers.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_servers.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.of_clients.verify_client_cert(end_entity, intermediates, now);
        let verified = verified.map_err(|error| self.refused(error, end_entity))?;
        match NodeName::from_certificate(end_entity) {
            Ok(peer) if peer.cluster() == self.cluster => Ok(verified),
            Ok(peer) => Err(other(IdentityError::WrongCluster { ours: self.cluster.clone(), peer })),
            Err(source) => Err(other(IdentityError::Name { place: "the client's certificate".into(), source })),
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.of_clients.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_clients.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_clients.supported_verify_schemes()
    }
}

fn other(why: IdentityError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// The words of [`Trust`], without what rustls puts around them; `None` if they are not in `reason`.
pub(super) fn words(reason: &str) -> Option<&str> {
    reason.strip_prefix("invalid peer certificate: Other(OtherError(")?.strip_suffix("))")
}

fn subject(leaf: &CertificateDer<'_>) -> String {
    EndEntityCert::try_from(leaf).map_or_else(|_| "a stranger".into(), |leaf| describe(leaf.subject()))
}

/// The day of a time, in UTC.
fn date(time: UnixTime) -> String {
    // Counted in years of 1 March to the end of February, whose leap day is the last.
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + 400 * era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// So many authorities are named in a message.
const SHOWN: usize = 4;
const BUILDS: &str = "fails without roots or with bad revocation lists: there is a root, and there are no lists";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_day_is_written_as_people_write_it() {
        let of = |seconds| date(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(of(0), "1970-01-01");
        assert_eq!(of(951_782_400), "2000-02-29");
        assert_eq!(of(951_868_800), "2000-03-01");
        assert_eq!(of(1_798_761_599), "2026-12-31");
        assert_eq!(of(67_090_118_400), "4096-01-01");
    }
}
