//! What must hold whatever bytes a peer sends: one function for each [target](TARGETS), which panics if it does not.
//!
//! They are run in two ways: by cargo-fuzz, from the package in `transport/fuzz`, which finds its way by coverage, and by the
//! tests of this crate, which need no other tool. Both begin with the inputs in `transport/fuzz/corpus`.

#![cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "public for the fuzzer only"))]

mod frames;
mod handshake;
mod input;
mod link;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;

pub use frames::{frame, stream};
pub use handshake::handshake;
pub use link::link;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target by name, which is also the name of its file and of its corpus.
pub const TARGETS: [(&str, Target); 5] =
    [("frame", frame), ("stream", stream), ("handshake", handshake), ("link", link), ("pulling", pulling)];

/// Tasks and workers, good and lying, in the order that the bytes say: against the model that the laws of
/// [`pulling`](crate::pulling) are tested with.
pub fn pulling(data: &[u8]) {
    crate::pulling::laws::obey(data);
}
