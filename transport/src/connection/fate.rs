//! [`Fate`]: why this node has closed a connection, for those who use it. QUIC does not say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::stream::StreamError;

/// Shared by a connection and its streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate(Arc<AtomicU8>);

/// A connection was closed here, and not because of what was done on it.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    /// Its links may go on over another one.
    #[error("the certificate of the other node has expired")]
    Expired,
    /// They may not.
    #[error("the process of the other node is gone: nothing listens at its address")]
    Gone,
}

aqueduct_stage::debug_as_sentence!(Ended);

impl Fate {
    /// To be said before the connection is closed.
    pub(crate) fn set(&self, ended: Ended) {
        let number = match ended {
            Ended::Expired => EXPIRED,
            Ended::Gone => GONE,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    /// What an error of a stream means, if the connection was closed here.
    pub(crate) fn explain(&self, error: impl Into<StreamError>) -> StreamError {
        let error = error.into();
        match self.get() {
            Some(ended) if error.is_local() => ended.into(),
            _ => error,
        }
    }

    fn get(&self) -> Option<Ended> {
        match self.0.load(Ordering::Relaxed) {
            EXPIRED => Some(Ended::Expired),
            GONE => Some(Ended::Gone),
            _ => None,
        }
    }
}

const EXPIRED: u8 = 1;
const GONE: u8 = 2;
