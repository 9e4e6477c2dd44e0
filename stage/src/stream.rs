//! To and from `tokio_stream`: a stream or an iterator is a producer, and any source is a stream.
//!
//! ```text
//!   Graph::stream, Graph::iterate ──► [ producer ] ── events ──► SourceExt::events
//! ```

mod event_stream;
mod from_iter;
mod from_stream;

pub use event_stream::{EventStream, EventStreamError, SourceExt};
pub use from_iter::FromIter;
pub use from_stream::FromStream;

/// The most events that a producer of this module takes at a time, before it looks for messages: one default window.
const MOST_AT_A_TIME: usize = 1000;
