//! [`Edge`]: what a callback is told of a subscription; and how a stage demands.

use aqueduct_dispatcher::{Cancel, SubscriptionId, Window};

/// A subscription, seen from one of its ends.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Edge {
    /// Names it.
    pub id: SubscriptionId,
    /// What stands at the other end.
    pub peer: Peer,
    /// Its demand window.
    pub window: Window,
    /// What its end means for the consumer.
    pub cancel: Cancel,
}

/// The other end of an [`Edge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// This stage consumes.
    Producer,
    /// This stage produces.
    Consumer,
}

/// Who asks the producer of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The stage does, by the subscription's window. The default.
    #[default]
    Automatic,
    /// The consumer does, with [`Cx::ask`](crate::Cx::ask). Each batch that arrives is handled whole.
    Manual,
}

/// What a producing stage does with demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DemandMode {
    /// Passes it on at once. The default.
    #[default]
    Forward,
    /// Keeps it, and whatever is emitted, until the mode is `Forward` again: so that all consumers can subscribe before
    /// the first event goes out.
    Accumulate,
}
