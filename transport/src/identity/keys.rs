//! [`EndpointKeys`]: what a node must remember of itself across a restart.

use ring::{hkdf, hmac};

/// The keys with which a node marks its connections as its own. They follow from its private key, so that a node that was
/// restarted recognises packets of connections it has forgotten, and can tell its peers at once that these are over
/// (RFC 9000, section 10.3.2) instead of leaving them to their idle timeout.
///
/// A node that comes back with another private key does not recognise them, and its peers wait.
#[derive(Clone)]
pub(crate) struct EndpointKeys {
    /// Makes the token with which only this node can end a connection.
    pub(crate) reset: hmac::Key,
    /// Marks connection ids, so that packets that never were for this node are not answered. No secret worth keeping:
    /// quinn's check is 24 bits.
    pub(crate) connection_ids: u64,
    /// Protects the tokens by which diallers prove their address.
    pub(crate) tokens: hkdf::Prk,
}

impl EndpointKeys {
    /// Derives them from a private key, by HKDF (RFC 5869).
    pub(super) fn derive(private_key: &[u8]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(private_key);
        let [a, b, c, d, e, f, g, h, ..] = expand(&root, b"connection ids");
        Self {
            reset: hmac::Key::new(hmac::HMAC_SHA256, &expand(&root, b"stateless reset")),
            connection_ids: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            tokens: hkdf::Salt::new(hkdf::HKDF_SHA256, &expand(&root, b"address validation")).extract(private_key),
        }
    }
}

fn expand(root: &hkdf::Prk, label: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    root.expand(&[label], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("HKDF gives up to 255 times the length of a hash");
    key
}

const SALT: &[u8] = b"aqueduct endpoint keys 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_private_key_gives_the_same_keys_and_another_one_others() {
        let tag = |keys: &EndpointKeys| hmac::sign(&keys.reset, b"connection").as_ref().to_vec();
        let [one, again, other] = [b"one".as_slice(), b"one", b"other"].map(EndpointKeys::derive);
        assert_eq!((tag(&one), one.connection_ids), (tag(&again), again.connection_ids));
        assert_ne!(tag(&one), tag(&other));
        assert_ne!(one.connection_ids, other.connection_ids);
    }

    #[test]
    fn an_identity_keeps_its_keys_across_a_restart() {
        let authority = crate::Authority::dev("shop").unwrap();
        let identity = authority.issue("a").unwrap();
        let pem = identity.to_pem();
        let restarted = crate::Identity::from_pem(&pem.certificate, &pem.key, &pem.authorities).unwrap();
        assert_eq!(identity.endpoint_keys().connection_ids, restarted.endpoint_keys().connection_ids);
        let other = authority.issue("a").unwrap();
        assert_ne!(identity.endpoint_keys().connection_ids, other.endpoint_keys().connection_ids);
    }
}
