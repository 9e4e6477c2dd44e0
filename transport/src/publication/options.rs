//! [`PublishOptions`]: who may subscribe to what a node publishes, to which of its events, and for
//! whom others wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::Selector;

use crate::Access;

/// How a source is published: for [`Node::publish_with`](crate::Node::publish_with).
///
/// ```
/// use aqueduct_transport::{Access, PublishOptions};
///
/// # fn main() -> Result<(), aqueduct_transport::NameError> {
/// let options = PublishOptions::new()
///     .subscribers(Access::only(["billing", "audit-*"])?)
///     .selector("even", |number: &u64| number % 2 == 0);
/// # let _ = options;
/// # Ok(())
/// # }
/// ```
pub struct PublishOptions<T> {
    pub(crate) subscribers: Access,
    pub(crate) selectors: Selectors<T>,
    pub(crate) lag_limit: Duration,
    pub(crate) stall_limit: Option<Duration>,
}

impl<T> PublishOptions<T> {
    /// Everybody of the cluster may have everything.
    #[must_use]
    pub fn new() -> Self {
        let (subscribers, selectors) = (Access::everybody(), Selectors(BTreeMap::new()));
        Self { subscribers, selectors, lag_limit: LAG_LIMIT, stall_limit: None }
    }

    /// Sets which nodes may subscribe. Default: every node of the cluster.
    #[must_use]
    pub fn subscribers(mut self, subscribers: Access) -> Self {
        self.subscribers = subscribers;
        self
    }

    /// Sets how long a subscriber that is cut off may hold back others. Default 5 s: as long as it takes to notice that a
    /// machine is lost, so it has that time to come back, and others wait for twice as long at most.
    ///
    /// It matters for a [broadcast](aqueduct_stage::Stage::broadcast), which goes on at the pace of the slowest subscriber.
    /// One whose connection is lost stops all others as soon as it has been given what it had asked for. If it still does
    /// after so long, it is given up: a warning says so, it is [counted](crate::NodeSnapshot::links_given_up_early), and its consumer is told
    /// ([`FailureKind::Disconnected`](aqueduct_stage::FailureKind)) when it comes back. What it had not got is lost to it.
    /// So it is with a subscriber that is cut off with events which it has not acknowledged and another one could have: of a
    /// stage that gives each event to one of its consumers, of a [`QueueSource`](crate::QueueSource), of a
    /// [`WorkPool`](crate::pulling::WorkPool), of a [channel](crate::Node::serve_channel). A worker of a channel joins again
    /// by itself; elsewhere use [`Retrying`](crate::Retrying), or raise the limit. A subscriber that holds nobody back has the whole [grace](crate::NodeConfig::session_grace), and so has every
    /// subscriber of another source. A limit that is not below the grace has no effect; with zero, nobody waits.
    #[must_use]
    pub fn lag_limit(mut self, limit: Duration) -> Self {
        self.lag_limit = limit;
        self
    }

    /// Sets how long a subscriber whose connection is well may hold back others. Default: for ever, as the pace of the slowest
    /// is what a [broadcast](aqueduct_stage::Stage::broadcast) promises.
    ///
    /// It counts while the subscriber has been given all that it has asked for and others have not, without a break, so one
    /// that is slow and goes on asking is waited for; one that has stopped asking is given up then, as one that is
    /// [cut off](Self::lag_limit) is: its consumer fails ([`FailureKind::Disconnected`](aqueduct_stage::FailureKind)), it
    /// is [counted](crate::NodeSnapshot::links_given_up_early) and a warning says so. Set it where not all subscribers are
    /// your own, well above the longest time that a good one takes for a batch. Looked at every 250 ms.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = Some(limit);
        self
    }

    /// Lets subscribers choose the events for which `selector` answers `true`, by its name:
    /// [`Remote::select`](crate::Remote::select). A later one of the same name replaces an earlier one.
    ///
    /// It runs in the producer, so what it refuses does not cross to the other node and costs no demand. If it panics, the
    /// subscription fails and nothing else.
    #[must_use]
    pub fn selector(mut self, name: &str, selector: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.selectors.0.insert(name.to_owned(), Arc::new(selector));
        self
    }
}

impl<T> Default for PublishOptions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for PublishOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishOptions")
            .field("subscribers", &self.subscribers)
            .field("selectors", &self.selectors.0.keys())
            .field("lag_limit", &self.lag_limit)
            .field("stall_limit", &self.stall_limit)
            .finish_non_exhaustive()
    }
}

/// The default of [`lag_limit`](PublishOptions::lag_limit).
const LAG_LIMIT: Duration = Duration::from_secs(5);

/// The selectors of a published source, by name.
pub(crate) struct Selectors<T>(BTreeMap<String, Selector<T>>);

impl<T> Selectors<T> {
    /// The selector of that name.
    ///
    /// # Errors
    ///
    /// The names that there are.
    pub(crate) fn find(&self, name: &str) -> Result<Selector<T>, UnknownSelector> {
        self.0.get(name).map(Arc::clone).ok_or_else(|| {
            let names: Vec<_> = self.0.keys().map(|name| format!("{name:?}")).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            UnknownSelector { name: name.to_owned(), names }
        })
    }
}

/// A subscriber chose what is not there.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown selector {name:?}, there are: {names}")]
pub(crate) struct UnknownSelector {
    name: String,
    names: String,
}

aqueduct_stage::debug_as_sentence!(UnknownSelector);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_selector_is_answered_with_those_that_there_are() {
        let options = PublishOptions::new().selector("odd", |n: &u64| n % 2 == 1).selector("even", |n| n % 2 == 0);
        assert!(options.selectors.find("even").unwrap()(&2));
        let unknown = |options: &PublishOptions<u64>| options.selectors.find("all").err().unwrap().to_string();
        assert_eq!(unknown(&options), "unknown selector \"all\", there are: \"even\", \"odd\"");
        assert_eq!(unknown(&PublishOptions::new()), "unknown selector \"all\", there are: none");
    }
}
