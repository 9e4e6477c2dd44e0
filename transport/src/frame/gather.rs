//! [`Gather`]: bytes of an announced length that arrive in pieces.

use bytes::Bytes;

/// Puts pieces together until they have the announced length.
///
/// An announcement costs its sender nothing, so memory grows with what has arrived (at most twofold), not with what was
/// announced.
#[derive(Debug)]
pub(crate) struct Gather {
    /// `bytes.len() <= total`
    bytes: Vec<u8>,
    total: usize,
}

impl Gather {
    /// Expects `total` bytes.
    pub(crate) fn new(total: usize) -> Self {
        Self { bytes: Vec::new(), total }
    }

    /// Adds a piece, which is no longer than what is [`missing`](Self::missing).
    pub(crate) fn push(&mut self, piece: &[u8]) {
        debug_assert!(piece.len() <= self.missing(), "{} of {} bytes missing", self.missing(), self.total);
        self.bytes.reserve_exact(self.grown_for(piece.len()) - self.bytes.len());
        self.bytes.extend_from_slice(piece);
    }

    /// How much more memory a piece of so many bytes takes.
    pub(crate) fn growth(&self, piece: usize) -> usize {
        self.grown_for(piece) - self.bytes.capacity()
    }

    /// How much memory there is to be for another piece, at least what there is now.
    fn grown_for(&self, piece: usize) -> usize {
        if piece <= self.bytes.capacity() - self.bytes.len() {
            return self.bytes.capacity();
        }
        let grown = self.bytes.len().max(FIRST_BYTES).max(piece);
        self.bytes.len() + grown.min(self.missing())
    }

    /// How many bytes have not arrived yet.
    pub(crate) fn missing(&self) -> usize {
        self.total - self.bytes.len()
    }

    /// How many bytes have arrived.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes were announced.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// What has arrived.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }
}

/// The first allocation, in bytes: a few packets' worth.
const FIRST_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_what_has_arrived() {
        let mut gather = Gather::new(1 << 30);
        gather.push(&[1; 10]);
        assert_eq!(gather.bytes.capacity(), FIRST_BYTES);
        gather.push(&[2; 5000]);
        assert!(gather.bytes.capacity() <= 2 * 5010 + FIRST_BYTES);
        assert_eq!((gather.len(), gather.missing()), (5010, (1 << 30) - 5010));
    }

    #[test]
    fn what_a_piece_will_take_is_known_before() {
        let mut gather = Gather::new(100_000);
        for piece in [10, 4000, 86, 1, 20_000, 75_903] {
            let before = gather.bytes.capacity();
            let growth = gather.growth(piece);
            gather.push(&vec![7; piece]);
            assert_eq!(gather.bytes.capacity(), before + growth, "a piece of {piece} bytes");
        }
        assert_eq!((gather.missing(), gather.bytes.capacity()), (0, 100_000));
    }

    #[test]
    fn memory_never_exceeds_the_announced_length() {
        let mut gather = Gather::new(10_000);
        for piece in [4000, 4000, 2000] {
            gather.push(&vec![7; piece]);
        }
        assert_eq!((gather.missing(), gather.bytes.capacity()), (0, 10_000));
        assert_eq!(gather.into_bytes(), vec![7; 10_000]);
    }
}
