//! [`ChannelOptions`] of a server and [`JoinOptions`] of a worker.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::SubscribeOptions;

use super::Transformer;
use crate::Access;
use crate::pulling::{Assignment, PullingOptions};

/// How a channel is served. Every bound of it is here.
///
/// ```
/// use std::time::Duration;
///
/// use aqueduct_transport::ChannelOptions;
/// use aqueduct_transport::pulling::Assignment;
///
/// let options = ChannelOptions::default().assignment(Assignment::RoundRobin).ack_wait(Duration::from_secs(5));
/// # let _ = options;
/// ```
#[derive(Clone)]
pub struct ChannelOptions {
    pub(super) application: String,
    pub(super) capacity: usize,
    pub(super) pulling: PullingOptions,
    pub(super) workers: Access,
    pub(super) wait_for_workers: Duration,
    pub(super) transformers: Vec<Arc<dyn Transformer>>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            application: String::new(),
            capacity: 10_000,
            pulling: PullingOptions::default(),
            workers: Access::everybody(),
            wait_for_workers: Duration::from_secs(30),
            transformers: Vec::new(),
        }
    }
}

impl ChannelOptions {
    /// Sets what tells this application from others with the same types: a number or a text, which a worker must name as
    /// well. Default: nothing. It is no secret, and no substitute for [`workers`](Self::workers).
    #[must_use]
    pub fn application(mut self, application: impl fmt::Display) -> Self {
        self.application = application.to_string();
        self
    }

    /// Sets how many values may be on their way, from when they are sent until their results are received. Default 10,000.
    /// It bounds the memory of the server, together with their lengths. Who sends everything before he receives
    /// anything needs as many.
    ///
    /// # Panics
    ///
    /// Unless it is of 1 to 1,000,000.
    #[must_use]
    #[track_caller]
    pub fn capacity(mut self, values: usize) -> Self {
        assert!((1..=MAX_CAPACITY).contains(&values), "expected capacity to be in 1..={MAX_CAPACITY}, got {values}");
        self.capacity = values;
        self
    }

    /// Sets to which worker a value goes. Default [`Assignment::ByDemand`].
    #[must_use]
    pub fn assignment(mut self, assignment: Assignment) -> Self {
        self.pulling = self.pulling.assignment(assignment);
        self
    }

    /// Sets how long a worker may take for a value without a word about it, from when it begins. Default 30 min. Then it goes to
    /// another. As [`PullingOptions::ack_wait`].
    ///
    /// # Panics
    ///
    /// Unless it is of 1 ms to 30 days.
    #[must_use]
    #[track_caller]
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.pulling = self.pulling.ack_wait(wait);
        self
    }

    /// Sets how often a value may fail before it is a dead letter. Default 5.
    #[must_use]
    pub fn max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.pulling = self.pulling.max_attempts(attempts);
        self
    }

    /// Sets everything about how values are given out. What [`assignment`](Self::assignment), [`ack_wait`](Self::ack_wait)
    /// and [`max_attempts`](Self::max_attempts) have set before is replaced;
    /// [`max_waiting`](PullingOptions::max_waiting) is the [`capacity`](Self::capacity) in any case.
    #[must_use]
    pub fn pulling(mut self, options: PullingOptions) -> Self {
        self.pulling = options;
        self
    }

    /// Sets which nodes may join. Default: every node of the cluster.
    #[must_use]
    pub fn workers(mut self, workers: Access) -> Self {
        self.workers = workers;
        self
    }

    /// Sets how long values may wait after the close while there is no worker at all. Default 30 s, in which a worker that
    /// is restarted is back. Then the channel ends with [`ChannelError::NoWorkers`](super::ChannelError::NoWorkers). If
    /// nothing waits, it ends at once.
    #[must_use]
    pub fn wait_for_workers(mut self, wait: Duration) -> Self {
        self.wait_for_workers = wait;
        self
    }

    /// Adds a transformer behind those that there are. Workers must have the same chain.
    #[must_use]
    pub fn transformer(mut self, transformer: impl Transformer) -> Self {
        self.transformers.push(Arc::new(transformer));
        self
    }
}

impl fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelOptions")
            .field("application", &self.application)
            .field("capacity", &self.capacity)
            .field("pulling", &self.pulling)
            .field("transformers", &names(&self.transformers))
            .finish_non_exhaustive()
    }
}

/// How a worker joins a channel.
#[derive(Clone)]
pub struct JoinOptions {
    pub(super) application: String,
    pub(super) window: SubscribeOptions,
    pub(super) patience: Duration,
    pub(super) servers: Access,
    pub(super) transformers: Vec<Arc<dyn Transformer>>,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            application: String::new(),
            window: SubscribeOptions::demand(8..16).growing_to(MAX_WINDOW),
            patience: Duration::from_mins(10),
            servers: Access::everybody(),
            transformers: Vec::new(),
        }
    }
}

impl JoinOptions {
    /// Sets the application, as the server calls it. Default: nothing.
    #[must_use]
    pub fn application(mut self, application: impl fmt::Display) -> Self {
        self.application = application.to_string();
        self
    }

    /// Sets how many values the worker asks for. Default `8..16`, [growing](SubscribeOptions::growing_to) to 8,192: it has at
    /// most 16 at first, and asks for more when 8 are left to be read. While it waits for the network it asks for more, as long
    /// as what it has takes it some milliseconds; with tasks of 10 ms and more there are always 16. What waits in one worker is
    /// given to another that has nothing to do, and the window is as at first again.
    #[must_use]
    #[track_caller]
    pub fn values(mut self, window: impl Into<SubscribeOptions>) -> Self {
        self.window = window.into();
        self
    }

    /// Sets how long the server may be away, at the start and later. Default 10 minutes, which a machine needs to be
    /// replaced. It is dialled every 500 ms at last. [`Duration::MAX`] waits for ever.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets which nodes the server may be. Default: every node of the cluster.
    #[must_use]
    pub fn servers(mut self, servers: Access) -> Self {
        self.servers = servers;
        self
    }

    /// Adds a transformer behind those that there are: the same chain as the server's.
    #[must_use]
    pub fn transformer(mut self, transformer: impl Transformer) -> Self {
        self.transformers.push(Arc::new(transformer));
        self
    }
}

impl fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinOptions")
            .field("application", &self.application)
            .field("window", &self.window)
            .field("patience", &self.patience)
            .field("transformers", &names(&self.transformers))
            .finish_non_exhaustive()
    }
}

fn names(transformers: &[Arc<dyn Transformer>]) -> Vec<&str> {
    transformers.iter().map(|transformer| transformer.name()).collect()
}

const MAX_CAPACITY: usize = 1_000_000;
/// A worker has no more values than this by default, however fast it is: several round trips' worth of the fastest.
const MAX_WINDOW: usize = 8192;
