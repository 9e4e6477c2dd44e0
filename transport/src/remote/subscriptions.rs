//! [`Subscriptions`]: what a node's subscriptions to other nodes have in common.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct_stage::ConsumerId;

use crate::connection::Connections;
use crate::frame::{FarConsumer, Session};
use crate::shared::ConsumerNumbers;

/// It holds the connections, and is held by all that subscribe.
pub(crate) struct Subscriptions {
    pub(super) connections: Arc<Connections>,
    /// How many numbers were given to links and consumers, which no other has at this node.
    numbers_given: AtomicU64,
    /// Who subscribes elsewhere.
    consumers: Arc<ConsumerNumbers>,
}

impl Subscriptions {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections, numbers_given: AtomicU64::new(0), consumers: Arc::default() }
    }

    /// What the next link to another node is called there.
    pub(crate) fn next_session(&self) -> Session {
        Session { incarnation: self.connections.incarnation(), number: self.next_number() }
    }

    /// What a consumer is called there, for as long as the answer is held.
    pub(super) fn consumer_at(
        &self,
        consumer: ConsumerId,
        at: SocketAddr,
        producer: &Arc<str>,
        instance: usize,
    ) -> (FarConsumer, impl Send + use<>) {
        let key = (consumer, at, Arc::clone(producer), instance);
        let held = self.consumers.hold(key, || self.next_number());
        (FarConsumer { incarnation: self.connections.incarnation(), number: held.value }, held)
    }

    fn next_number(&self) -> u64 {
        self.numbers_given.fetch_add(1, Ordering::Relaxed)
    }
}
