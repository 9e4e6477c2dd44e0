//! What errors are to people, and to the node at the other end.

use quinn::VarInt;

/// The code with which a connection is closed (RFC 9000, section 19.19). What TLS refuses, such as a certificate, has
/// a code of QUIC's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CloseCode {
    /// The node ends.
    Shutdown = 0,
    /// The peer broke a rule of the protocol.
    Protocol = 2,
    /// The peer is not wanted.
    Refused = 3,
    /// The peer took too long to say who it is.
    Timeout = 4,
    /// Nobody needs the connection.
    Unused = 5,
    /// The peer's node has been started again since.
    Superseded = 6,
    /// The peer's certificate has expired: it may come again with another one.
    Expired = 7,
    /// The peer's process is gone.
    Gone = 8,
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code as u32)
    }
}
