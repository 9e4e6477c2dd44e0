//! The publishing node's half of links: local sources, served to subscribers on other nodes.
//!
//! | file | content |
//! |---|---|
//! | `publications.rs` | [`Publications`]: what a node publishes, by name, and the streams on which other nodes subscribe to it |
//! | `published.rs` | [`Published`]: a source with all that its links have in common; `options.rs`: who may have which of its events |
//! | `serving.rs` | one link being served; `outlet.rs`: the subscriber that the source sees |
//! | `sessions.rs` | the links that can go on over another connection |
//! | `share.rs` | how much is kept for a subscriber |

mod options;
mod outlet;
mod publications;
mod published;
mod serving;
mod sessions;
mod share;

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::Limits;
use crate::connection::{Counters, FrameStream, Offences, Slot};
use crate::frame::{Reason, Subscribe};
use crate::link::Outbound;
use crate::shared::FarConsumers;
use sessions::Sessions;
use share::KeepBounds;

pub use options::PublishOptions;
pub(crate) use publications::Publications;
pub use publications::PublishError;
pub(crate) use published::Published;
pub(crate) use share::EventSize;

/// A source that other nodes may subscribe to, with its type erased.
pub(crate) trait Publication: Send + Sync {
    /// Serves one subscriber, to the end of the link.
    fn serve(self: Arc<Self>, link: IncomingLink) -> BoxFuture<'static>;
}

/// What a subscriber on another node asked for, and the stream on which it waits for the answer.
pub(crate) struct IncomingLink {
    pub(crate) subscribe: Subscribe,
    pub(crate) stream: FrameStream,
    pub(crate) limits: Limits,
    /// Both nodes know how events are asked back.
    pub(crate) can_revoke: bool,
    /// The subscriber's node.
    pub(crate) peer: String,
    /// What that node has done wrong on its connection.
    pub(crate) offences: Arc<Offences>,
    /// How long it may be cut off.
    pub(crate) grace: Duration,
    /// How many links the peer may have, and the place of this one among them; `None` if there is none left.
    pub(crate) max_subscriptions: usize,
    pub(crate) slot: Option<Slot>,
    /// What may be kept for it.
    pub(crate) keep: KeepBounds,
    /// Where links wait that are cut off.
    pub(crate) sessions: Arc<Sessions>,
    /// Links that are cut off are to end.
    pub(crate) ended: CancellationToken,
    pub(crate) counters: Arc<Counters>,
    /// Who subscribes.
    pub(crate) consumers: Arc<FarConsumers>,
}

impl IncomingLink {
    /// Answers a subscriber that there will be no link.
    pub(crate) async fn refuse(self, reason: Reason, message: &str, published: Option<&str>) {
        self.offences.refused();
        refuse(self.stream, self.limits, reason, message, published).await;
    }
}

/// Answers a subscriber that there is no link.
pub(crate) async fn refuse(
    mut stream: FrameStream,
    limits: Limits,
    reason: Reason,
    message: &str,
    published: Option<&str>,
) {
    let mut outbound = Outbound::new(limits);
    outbound.refuse(reason, message, published);
    while let Some(bytes) = outbound.poll_transmit() {
        stream.queue(bytes);
    }
    while !stream.is_flushed() {
        let moved = stream.progress(std::future::pending()).await;
        // What it says does not matter any more, and must not pile up.
        while let Ok(Some(_)) = stream.next_frame() {}
        if moved.is_err() {
            return;
        }
    }
    stream.finish();
    // It subscribes again, if it did not hear it.
    let _ = stream.delivered().await;
}
