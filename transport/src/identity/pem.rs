//! Reading certificates and keys, with errors that say where and what.

use std::fmt;
use std::fs;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use super::IdentityError;

/// The three PEM texts of an [`Identity`](super::Identity), for handing it to a process of one's own or for writing it to
/// files. **Holds the private key**: `Debug` leaves it out, and so should whatever else the texts are put into.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityPem {
    /// The node's certificate, followed by intermediates if there are any.
    pub certificate: String,
    /// The node's private key.
    pub key: String,
    /// The certificates of the authorities the node trusts.
    pub authorities: String,
}

impl fmt::Debug for IdentityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityPem")
            .field("certificate", &self.certificate)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

/// The text of a PEM file.
pub(super) fn load(path: &Path) -> Result<String, IdentityError> {
    let bytes = fs::read(path).map_err(|source| IdentityError::Read { path: path.into(), source })?;
    String::from_utf8(bytes).map_err(|_| IdentityError::NotPem { place: path.display().to_string() })
}

/// The certificates in `text`, at least one.
pub(super) fn read_certificates(text: &str, place: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Vec<_> = sections(text, place)?;
    if certificates.is_empty() {
        return Err(IdentityError::NoCertificate { place: place.into() });
    }
    Ok(certificates)
}

/// The first private key in `text`.
pub(super) fn read_key(text: &str, place: &str) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let keys: Vec<_> = sections(text, place)?;
    keys.into_iter().next().ok_or_else(|| IdentityError::NoKey { place: place.into() })
}

/// The authorities in `text`, at least one.
pub(super) fn read_roots(text: &str, place: &str) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(text, place)? {
        roots.add(certificate).map_err(|source| IdentityError::Unusable { place: place.into(), source })?;
    }
    Ok(roots)
}

fn sections<T: PemObject>(text: &str, place: &str) -> Result<Vec<T>, IdentityError> {
    if !text.contains("-----BEGIN ") {
        return Err(IdentityError::NotPem { place: place.into() });
    }
    let sections: Result<Vec<T>, pem::Error> = T::pem_slice_iter(text.as_bytes()).collect();
    sections.map_err(|source| IdentityError::BadPem { place: place.into(), source })
}
