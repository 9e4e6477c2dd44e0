//! A certificate authority for development, examples and tests.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::name::check_cluster;
use super::{Identity, IdentityError, NodeName, tls};

/// Issues the certificates of one cluster, in memory, for development, examples and tests. In production a cluster has
/// an authority of its own elsewhere, and nodes read what it issued with [`Identity::from_pem_files`].
///
/// Keys are Ed25519. Certificates are valid from 1975 to 4096 and cannot be revoked: to end their validity, make another
/// authority. The authority's own key never leaves this value, and `Debug` does not show it.
pub struct Authority {
    cluster: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority with a fresh key. Two of them trust each other's nodes in no way, even for the same `cluster`.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Name`] when `cluster` cannot be a name (see [`NodeName`]).
    pub fn dev(cluster: &str) -> Result<Self, IdentityError> {
        check_cluster(cluster)
            .map_err(|source| IdentityError::Name { place: "the wanted authority".into(), source })?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("aqueduct development authority of {cluster}"));
        // It issues nodes, not other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = new_key()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { cluster: cluster.into(), certificate, issuer: Issuer::new(params, key) })
    }

    /// Issues a certificate with a fresh key to the node with the id `node`. The authority does not remember ids: giving
    /// one to two nodes is the caller's mistake.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Name`] when `node` cannot be a name (see [`NodeName`]).
    pub fn issue(&self, node: &str) -> Result<Identity, IdentityError> {
        let name = NodeName::new(&*self.cluster, node)
            .map_err(|source| IdentityError::Name { place: "the wanted identity".into(), source })?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(node);
        params.subject_alt_names = vec![
            SanType::URI(name.to_string().try_into()?),
            SanType::DnsName(tls::server_name(&self.cluster).try_into()?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Identity::from_pem(&certificate, &key.serialize_pem(), &self.certificate)
    }

    /// The cluster whose nodes this authority names.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Issues for another cluster from now on, with the same key.
    #[cfg(test)]
    pub(super) fn move_to(&mut self, cluster: &str) {
        self.cluster = cluster.into();
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ED25519)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_issues_what_was_asked_for() {
        let authority = Authority::dev("shop.eu_west").unwrap();
        let identity = authority.issue("worker-1").unwrap();
        assert_eq!(*identity.name(), NodeName::new("shop.eu_west", "worker-1").unwrap());
        assert_eq!(authority.cluster(), "shop.eu_west");
    }

    #[test]
    fn bad_names_are_refused() {
        assert!(matches!(Authority::dev("a b"), Err(IdentityError::Name { .. })));
        assert!(matches!(Authority::dev("shop").unwrap().issue(""), Err(IdentityError::Name { .. })));
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", Authority::dev("shop").unwrap()), r#"Authority { cluster: "shop", .. }"#);
    }
}
