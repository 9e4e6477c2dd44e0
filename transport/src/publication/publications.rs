//! [`Publications`]: what a node publishes, by name, and the streams on which other nodes subscribe to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aqueduct_stage::{BoxFuture, Sentence, notice};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::sessions::{Arrival, Sessions};
use super::share::KeepBounds;
use super::{IncomingLink, Publication, refuse};
use crate::bugs::bug;
use crate::connection::{Counters, HandshakeError, Opened, Slot, Streams, next_frame};
use crate::frame::{Frame, Reason, Subscribe};
use crate::identity::access::{Access, AccessError};
use crate::link::MAX_INSTANCES;
use crate::shared::FarConsumers;
use crate::{Limits, NodeConfig, NodeName};

/// What a node publishes.
pub(crate) struct Publications {
    config: Arc<NodeConfig>,
    counters: Arc<Counters>,
    by_name: Mutex<BTreeMap<String, Entry>>,
    /// The links that can be resumed.
    sessions: Arc<Sessions>,
    /// Who subscribes.
    consumers: Arc<FarConsumers>,
    /// Nothing new is taken, and links that are cut off are to end.
    ended: CancellationToken,
}

/// What is published by a name, and who may have it.
type Entry = (Access, Arc<dyn Publication>);

impl Publications {
    pub(crate) fn new(config: Arc<NodeConfig>, counters: Arc<Counters>, ended: CancellationToken) -> Self {
        let (sessions, consumers) = (Arc::default(), Arc::default());
        Self { config, counters, by_name: Mutex::default(), sessions, consumers, ended }
    }

    /// Lets `subscribers` have something by that name.
    pub(crate) fn publish(
        &self,
        name: &str,
        subscribers: Access,
        publication: Arc<dyn Publication>,
    ) -> Result<(), PublishError> {
        let mut publications = self.lock();
        if publications.contains_key(name) {
            return Err(PublishError::Taken(name.to_owned()));
        }
        publications.insert(name.to_owned(), (subscribers, publication));
        Ok(())
    }

    /// Takes back a name, and returns whether anything was published by it.
    pub(crate) fn unpublish(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }

    /// Takes back everything.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Changes who may have what is published by a name, and returns whether there is such a thing.
    pub(crate) fn set_subscribers(&self, name: &str, subscribers: Access) -> bool {
        let mut publications = self.lock();
        let Some(published) = publications.get_mut(name) else { return false };
        if !bug!(OldSubscribersKept) {
            published.0 = subscribers;
        }
        true
    }

    /// Links of this peer that are cut off are not waited for.
    pub(crate) fn abandon(&self, peer: &str) {
        self.sessions.abandon(peer);
    }

    /// What is published by that name, if `peer` may have it.
    fn find(&self, name: &str, peer: &NodeName) -> Result<Option<Arc<dyn Publication>>, AccessError> {
        match self.lock().get(name) {
            None => Ok(None),
            Some((access, publication)) if access.allows(peer) => Ok(Some(Arc::clone(publication))),
            Some(_) => Err(AccessError::Subscribe { node: peer.clone(), producer: name.to_owned() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams for Publications {
    fn take(self: Arc<Self>, opened: Opened) -> BoxFuture<'static> {
        Box::pin(take_stream(self, opened))
    }

    fn superseded(&self, peer: &str, incarnation: u64) {
        self.sessions.abandon_before(peer, incarnation);
    }
}

/// Reads what a subscriber wants, and serves it.
async fn take_stream(all: Arc<Publications>, mut opened: Opened) {
    let limit = all.config.handshake_timeout;
    let wanted = timeout(limit, next_frame(&mut opened.stream)).await.unwrap_or(Err(HandshakeError::Timeout(limit)));
    let is_expired = opened.expires.is_some_and(|expires| expires <= Instant::now()) && !bug!(ExpiredLetIn);
    let error = match wanted {
        Ok(Frame::Subscribe(_) | Frame::Resume(_)) if is_expired => {
            let Opened { stream, peer, limits, offences, .. } = opened;
            offences.refused();
            let message = format!("the certificate of {peer} has expired since it was connected");
            notice!(all.counters.notices, warn, "subscription refused", error = message);
            return refuse(stream, limits, Reason::Unauthorized, &message, None).await;
        }
        Ok(Frame::Subscribe(subscribe)) => return answer(all, subscribe, opened).await,
        Ok(Frame::Resume(resume)) => {
            let Opened { stream, peer, limits, offences, .. } = opened;
            return resume_link(&all, Arrival { resume, stream, offences }, &peer, limits).await;
        }
        Ok(other) => HandshakeError::Unexpected(other.name()),
        Err(error) => error,
    };
    let (notices, peer) = (&all.counters.notices, &opened.peer);
    notice!(notices, warn, "expected a subscription", %peer, error = Sentence(&error).to_string());
    let code = error.code();
    opened.stream.reset(code as u32);
    // Neither a slow line nor a change of mind is an offence.
    if error.is_breach() {
        opened.offences.add(&Sentence(&error).to_string());
    }
}

/// Hands a stream to the link that it is for.
async fn resume_link(all: &Publications, arrival: Arrival, peer: &NodeName, limits: Limits) {
    if let Some(unknown) = all.sessions.resume(&peer.to_string(), arrival) {
        unknown.offences.refused();
        refuse(unknown.stream, limits, Reason::NoSession, "", None).await;
    }
}

async fn answer(all: Arc<Publications>, subscribe: Subscribe, opened: Opened) {
    let Opened { stream, peer, limits, can_revoke, offences, .. } = opened;
    let publication = all.find(&subscribe.producer, &peer);
    let shutting_down = all.ended.is_cancelled();
    let grace = all.config.session_grace;
    let max_subscriptions = all.config.max_subscriptions as usize;
    let slot = Slot::take(offences.peer(), max_subscriptions);
    let keep = KeepBounds { link_bytes: all.config.publish_window_bytes, peer_bytes: all.config.max_published_bytes };
    let (sessions, ended) = (Arc::clone(&all.sessions), all.ended.clone());
    let (counters, consumers) = (Arc::clone(&all.counters), Arc::clone(&all.consumers));
    let peer = peer.to_string();
    let link = IncomingLink {
        subscribe,
        stream,
        limits,
        can_revoke,
        peer,
        offences,
        grace,
        max_subscriptions,
        slot,
        keep,
        sessions,
        ended,
        counters,
        consumers,
    };
    // A link must not keep all that is published: it may hold the node.
    drop(all);
    match publication {
        Err(error) => {
            notice!(link.counters.notices, warn, "subscription refused", %error);
            link.refuse(Reason::Unauthorized, &error.to_string(), None).await;
        }
        _ if shutting_down => link.refuse(Reason::Shutdown, "the node is shutting down", None).await,
        Ok(None) => link.refuse(Reason::UnknownProducer, "", None).await,
        Ok(Some(publication)) => publication.serve(link).await,
    }
}

/// Why a source was not published.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// This node publishes something by that name already.
    #[error("this node has a source or a channel named {0:?} already: `Node::unpublish` frees the name")]
    Taken(String),
    /// A subscriber has a subscription to each instance.
    #[error("expected source {name:?} of at most {MAX_INSTANCES} instances, got {instances}")]
    Instances {
        /// What the source is called.
        name: String,
        /// How many there are.
        instances: usize,
    },
}

aqueduct_stage::debug_as_sentence!(PublishError);
