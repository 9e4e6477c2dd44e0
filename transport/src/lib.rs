//! Stub, being written.

mod identity;

pub use identity::{Authority, Identity, IdentityError, IdentityPem, NameError, NodeName};
