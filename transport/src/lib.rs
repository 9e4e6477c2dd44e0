//! Stub, being written.

mod identity;
pub mod local;

pub use identity::{Authority, Identity, IdentityError, IdentityPem, NameError, NodeName};
