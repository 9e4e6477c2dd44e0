//! Connections to other nodes.
//!
//! | file | content |
//! |---|---|
//! | `connections.rs` | [`Connections`]: a node's endpoint, its connections in both directions, and what they have in common |
//! | `established.rs` | [`Established`]: a connection on which both nodes have introduced themselves |
//! | `dial.rs`, `accept.rs` | the two ways to one; `handshake.rs` introduces the nodes to each other |
//! | `serve.rs` | what is done on a connection while it lives; `offences.rs` counts what the peer does wrong |
//! | `stream.rs` | [`FrameStream`]: frames over one QUIC stream |
//! | `control.rs` | what nodes ask each other; `peer_functions.rs`: what can be called by name at another one |
//! | `admission.rs` | who may dial, and how many; `pace.rs`: how often something may happen |
//! | `peers.rs` | what one node takes of this one, over all of its connections |
//! | `incarnations.rs` | which start of each node is the last one |
//! | `silence.rs`, `knock.rs` | when a peer of which nothing is heard may be gone, and whether it is |
//! | `fate.rs`, `close.rs` | why a connection was closed, for this node and for the other |
//! | `counters.rs` | what is counted of connections and links |
//! | `runtime.rs`, `closed.rs` | what quinn runs on, and its socket when that is over |

mod accept;
mod admission;
mod close;
mod closed;
mod connections;
mod control;
mod counters;
mod dial;
mod established;
mod fate;
mod handshake;
mod incarnations;
mod knock;
mod offences;
mod pace;
mod peer_functions;
mod peers;
mod runtime;
mod serve;
mod silence;
mod stream;

pub(crate) use connections::{Connections, Parts, Streams};
pub(crate) use counters::Counters;
pub(crate) use dial::refused;
pub(crate) use established::Established;
pub(crate) use handshake::{HandshakeError, next_frame};
pub(crate) use offences::Offences;
pub use peer_functions::PeerFunctions;
pub(crate) use peers::Slot;
pub(crate) use runtime::wrap_socket;
pub(crate) use serve::Opened;
pub(crate) use stream::{CLOSE_GIVEN_UP, CLOSE_TOO_SLOW, FrameStream, StreamError};
