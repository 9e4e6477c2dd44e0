//! [`Pieces`]: the result of an event, of which a part has come.

use bytes::Bytes;

use crate::frame::gather::Gather;
use crate::link::LinkError;
use crate::link::reassembly::{Reassembly, Share};

/// What has come of one result. It is accounted for with all that is unfinished of its node.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// The event's number.
    pub(crate) seq: u64,
    /// How much has come, also when it is not kept.
    len: usize,
    /// `None` if nobody waits for the result any more.
    kept: Option<(Gather, Share)>,
}

impl Pieces {
    /// Nothing yet of a result of at most `bound` bytes.
    pub(crate) fn new(seq: u64, bound: usize, reassembly: &Reassembly) -> Self {
        Self { seq, len: 0, kept: Some((Gather::new(bound), reassembly.share())) }
    }

    /// Adds a piece. The result is no longer than its bound with it.
    ///
    /// # Errors
    ///
    /// [`LinkError::Reassembly`] if its node has no room for it.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), LinkError> {
        if let Some((bytes, share)) = &mut self.kept {
            share.take(bytes.growth(piece.len()))?;
            bytes.push(piece);
        }
        self.len += piece.len();
        Ok(())
    }

    /// Nobody waits for it any more: nothing of it is kept.
    pub(crate) fn give_up(&mut self) {
        self.kept = None;
    }

    /// How long it is so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The result, with its last piece; `None` if nobody waits for it.
    pub(crate) fn finish(self, last: &[u8]) -> Option<Bytes> {
        let (mut bytes, _) = self.kept?;
        bytes.push(last);
        Some(bytes.into_bytes())
    }
}
