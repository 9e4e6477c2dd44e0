//! [`Edge`]: what a callback is told of a subscription; how a stage demands; and what the last end of one means.

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

/// What a producer does when its last consumer has left: GenStage's `on_cancel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnCancel {
    /// Lives on, and goes on for the next consumer where it is. The default. It still ends with its graph: see
    /// [`Running::join`](crate::Running::join).
    #[default]
    Continue,
    /// Ends: normally, or, if its last consumer failed, with that failure.
    Stop,
}
