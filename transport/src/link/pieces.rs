//! [`Pieces`]: the result of an event, of which a part has come.

use bytes::Bytes;

use crate::link::LinkError;
use crate::link::reassembly::{Reassembly, Share};

/// What has come of one result. It is accounted for with the unfinished events of the connection.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// The event's number.
    pub(crate) seq: u64,
    pieces: Vec<Bytes>,
    /// How long they are together, also when they are dropped.
    len: usize,
    /// `None` if nobody waits for the result any more.
    share: Option<Share>,
}

impl Pieces {
    pub(crate) fn new(seq: u64, reassembly: &Reassembly) -> Self {
        Self { seq, pieces: Vec::new(), len: 0, share: Some(reassembly.share()) }
    }

    /// Adds a piece.
    ///
    /// # Errors
    ///
    /// [`LinkError::Reassembly`] if the connection has no room for it.
    pub(crate) fn push(&mut self, piece: &Bytes) -> Result<(), LinkError> {
        if let Some(share) = &mut self.share {
            share.take(piece.len() + PIECE_BYTES)?;
            self.pieces.push(piece.clone());
        }
        self.len += piece.len();
        Ok(())
    }

    /// Nobody waits for it any more: nothing of it is kept.
    pub(crate) fn give_up(&mut self) {
        (self.pieces, self.share) = (Vec::new(), None);
    }

    /// Goes on over another connection.
    ///
    /// # Errors
    ///
    /// [`LinkError::Reassembly`] if that has no room for what is here.
    pub(crate) fn move_to(&mut self, reassembly: &Reassembly) -> Result<(), LinkError> {
        if self.share.is_some() {
            let mut share = reassembly.share();
            share.take(self.len + self.pieces.len() * PIECE_BYTES)?;
            self.share = Some(share);
        }
        Ok(())
    }

    /// How long it is so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The result, with its last piece; `None` if nobody waits for it.
    pub(crate) fn finish(self, last: &Bytes) -> Option<Vec<u8>> {
        self.share.as_ref()?;
        let mut result = Vec::with_capacity(self.len + last.len());
        self.pieces.iter().chain([last]).for_each(|piece| result.extend_from_slice(piece));
        Some(result)
    }
}

/// What a piece takes besides its bytes.
const PIECE_BYTES: usize = 64;
