//! Aqueduct's subscriptions across machines. Being written.

#[cfg_attr(not(test), expect(dead_code, reason = "the drivers of links are not there yet"))]
mod codec;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the drivers of links are not there yet"))]
mod frame;
mod gather;
mod limits;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the drivers of links are not there yet"))]
mod link;
mod prescan;
mod wire;

mod identity;
pub mod local;

pub use codec::{DecodeError, EncodeError, EncodeErrorCause};
pub use frame::FrameError;
pub use limits::Limits;
pub use link::LinkError;
pub use prescan::StructureError;
pub use wire::Wire;
pub use identity::{Authority, Identity, IdentityError, IdentityPem, NameError, NodeName};
