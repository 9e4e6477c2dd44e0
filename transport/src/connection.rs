//! Connections between two nodes: dialling, the introduction of both, and taking subscriptions.

pub(crate) mod admission;
pub(crate) mod close;
pub(crate) mod closed;
pub(crate) mod control;
pub(crate) mod counters;
pub(crate) mod fate;
pub(crate) mod incarnations;
pub(crate) mod knock;
pub(crate) mod pace;
pub(crate) mod peer_functions;
pub(crate) mod peers;
pub(crate) mod runtime;
pub(crate) mod silence;
pub(crate) mod stream;

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aqueduct_stage::{Sentence, SubscribeError, notice};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::bugs::bug;
use crate::connection::admission::{Place, Verdict};
use crate::connection::close::CloseCode;
use crate::connection::control::{Control, Inquiry, converse};
use crate::connection::counters::{Counters, Gauge, Present};
use crate::connection::fate::{Ended, Fate};
use crate::connection::incarnations::{Entered, NotEntered, Way};
use crate::connection::knock::Knocker;
use crate::connection::peers::{KnownPeer, Peer, Slot};
use crate::connection::silence::Silence;
use crate::connection::stream::{FrameStream, StreamError};
use crate::frame::{Frame, Hello, HelloAck, Reason, Refuse, Subscribe};
use crate::link::Reassembly;
use crate::node::Inner;
use crate::protocol::introduction::{self, Agreement, NoCommonVersion, Offer, Versions};
use crate::publication::sessions::Arrival;
use crate::publication::share::KeepBounds;
use crate::publication::{IncomingLink, refuse};
use crate::{FunctionsDigest, Identity, IdentityError, Limits, NodeName, PeerFunctions};

/// How often a peer may break the rules on one of its streams before the whole connection is closed: a fault of one
/// subscription should not end the others, and somebody who keeps trying should not go on.
const MAX_OFFENCES: u32 = 3;

/// A connection on which both nodes have introduced themselves.
#[derive(Clone)]
pub(crate) struct Established {
    connection: Connection,
    /// Who is at the other end, by its certificate.
    pub(crate) peer: Arc<NodeName>,
    /// How large anything may be that either end sends.
    pub(crate) limits: Limits,
    /// What the other node takes of this one.
    known: KnownPeer,
    /// Why this node has closed it.
    pub(crate) fate: Fate,
    /// When the certificate with which the other node has proved itself expires.
    expires: Option<Instant>,
    /// Both nodes know how events are asked back.
    pub(crate) can_revoke: bool,
    /// What can be called at the other end.
    inquiry: Arc<Inquiry>,
    /// How many use it.
    uses: Arc<watch::Sender<usize>>,
    /// Whether this value is one of them.
    _use: Option<Arc<Use>>,
}

impl Established {
    fn new(node: &Inner, connection: Connection, met: Met, stream: FrameStream, among: &Gauge) -> (Self, Conversation) {
        let Met { peer, agreement, presence, functions, fate, expires } = met;
        let can_revoke = agreement.has(introduction::REVOKE);
        let (peer, limits) = (Arc::new(peer), agreement.limits);
        let ours = Arc::clone(&node.functions);
        let inquiry = Arc::new(match functions {
            Some(theirs) if theirs == node.functions_digest => Inquiry::known(Arc::clone(&ours)),
            Some(_) => Inquiry::open(),
            None => Inquiry::hopeless("it does not say what can be called there"),
        });
        let control = Control::new(limits.clone(), ours, functions, node.config.control_frames_per_second);
        let conversation = Conversation { control, stream, _presence: presence, _counted: among.enter() };
        let known = node.peers.hold(peer.to_string(), || Peer::new(&node.config));
        let (uses, _use) = (Arc::default(), None);
        let established = Self { connection, peer, limits, known, fate, expires, can_revoke, inquiry, uses, _use };
        (established, conversation)
    }

    /// What can be called at the other end; asked for at most once on a connection.
    pub(crate) async fn functions(&self, at: SocketAddr) -> Result<PeerFunctions, SubscribeError> {
        match self.inquiry.functions().await {
            Ok(functions) => Ok(PeerFunctions::new((*self.peer).clone(), functions)),
            Err(reason) if self.is_alive() => Err(SubscribeError::Refused { at: at.to_string(), reason }),
            Err(reason) => Err(unreachable(at, reason)),
        }
    }

    /// The same connection, in use until the answer and all clones of it are dropped.
    pub(crate) fn in_use(&self) -> Self {
        Self { _use: Some(Arc::new(Use::new(&self.uses))), ..self.clone() }
    }

    pub(crate) fn is_used(&self) -> bool {
        *self.uses.borrow() > 0
    }

    /// Waits until it has not been used for so long.
    pub(crate) async fn unused_for(&self, limit: Duration) {
        let mut uses = self.uses.subscribe();
        // It cannot fail: the sender is ours.
        while uses.wait_for(|uses| *uses == 0).await.is_ok() && timeout(limit, uses.changed()).await.is_ok() {}
    }

    /// Waits for its end.
    pub(crate) async fn closed(&self) {
        self.connection.closed().await;
    }

    pub(crate) fn close(&self, code: CloseCode, why: &str) {
        self.connection.close(code.into(), why.as_bytes());
    }

    /// What is unfinished of the other node's events and results, over all of its connections.
    pub(crate) fn reassembly(&self) -> Reassembly {
        self.known.value.reassembly.clone()
    }

    /// How many datagrams have come from the peer so far.
    pub(crate) fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// How long a message and its answer take, as far as is known.
    pub(crate) fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether the node at the other end has said that there is no such connection, or this one did because the other was
    /// started again.
    pub(crate) fn is_disowned(&self) -> bool {
        use ConnectionError::{ApplicationClosed, ConnectionClosed, LocallyClosed, Reset};
        let reason = self.connection.close_reason();
        matches!(reason, Some(Reset | ConnectionClosed(_) | ApplicationClosed(_) | LocallyClosed))
    }

    /// Opens a stream for a subscription; waits if there are as many as the peer allows.
    pub(crate) async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.connection.open_bi().await
    }
}

/// Counts as a use for as long as it lives.
struct Use(Arc<watch::Sender<usize>>);

impl Use {
    fn new(uses: &Arc<watch::Sender<usize>>) -> Self {
        uses.send_modify(|uses| *uses += 1);
        Self(Arc::clone(uses))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.send_modify(|uses| *uses -= 1);
    }
}

/// Dials the node at `at`, and waits until both have introduced themselves.
pub(crate) async fn dial(node: &Arc<Inner>, at: SocketAddr) -> Result<Established, SubscribeError> {
    let limit = node.config.handshake_timeout;
    let connection = match timeout(limit, connect(node, at)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(unreachable(at, format_args!("no answer within {limit:?}"))),
    };
    let introduced = match timeout(limit, introduce(node, &connection)).await {
        Ok(introduced) => introduced,
        Err(_) => Err(HandshakeError::Timeout(limit)),
    };
    match introduced {
        Ok((met, control)) => {
            let (established, conversation) =
                Established::new(node, connection, met, control, &node.counters.connections_out);
            node.spawn_connection(serve(Arc::downgrade(node), established.clone(), conversation));
            Ok(established)
        }
        Err(error) => {
            // TLS 1.3 lets the dialler finish first, so a certificate that was refused shows only now. To be asked
            // before we close: quinn then remembers only that.
            let closed = connection.close_reason();
            connection.close(error.code().into(), b"handshake");
            Err(match closed {
                Some(closed) => explain(node, at, &closed),
                None => match error {
                    HandshakeError::Refused { reason, .. } => refused(reason, at.to_string(), error.to_string()),
                    HandshakeError::Version(_) | HandshakeError::NotEntered(_) => {
                        SubscribeError::Denied { at: at.to_string(), reason: error.to_string() }
                    }
                    other => unreachable(at, Sentence(&other).to_string()),
                },
            })
        }
    }
}

/// Dials, and dials anew as long as nobody answers: QUIC repeats its first packet ever more seldom, and a node that has just
/// been started is to be found soon. Whoever has answered once has the whole time to go on.
async fn connect(node: &Inner, at: SocketAddr) -> Result<Connection, SubscribeError> {
    let silence = (node.config.handshake_timeout / DIALS).max(LEAST_SILENCE);
    loop {
        let identity = node.identity();
        let mut connecting = node
            .endpoint
            .connect_with(identity.client_config(node.config.transport(Some(at.ip()))), at, &identity.server_name())
            .map_err(|error| unreachable(at, error))?;
        // An error comes again below.
        if timeout(silence, connecting.handshake_data()).await.is_ok() {
            return connecting.await.map_err(|error| explain(node, at, &error));
        }
    }
}

/// How often a node that does not answer is dialled within the timeout, and for how long at least each time.
const DIALS: u32 = 5;
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// Accepts connections for as long as there is a node.
pub(crate) async fn listen(endpoint: Endpoint, node: Weak<Inner>) {
    while let Some(incoming) = endpoint.accept().await {
        let Some(node) = node.upgrade() else { return };
        let from = incoming.remote_address();
        match node.gate.enter(from.ip(), incoming.remote_address_validated(), Instant::now()) {
            _ if node.is_shutting_down() => {
                node.counters.connections_refused.add(1);
                incoming.refuse();
            }
            Ok(place) => node.spawn_connection(accept(Arc::downgrade(&node), incoming, place)),
            // An address that is not validated can always be asked to prove itself.
            Err(Verdict::Validate) => drop(incoming.retry()),
            Err(Verdict::Refuse) => {
                let bound = node.config.max_connections;
                notice!(node.counters.notices, warn, "connection refused: there are enough", %from, bound);
                node.counters.connections_refused.add(1);
                incoming.refuse();
            }
            Err(Verdict::Defer | Verdict::Accept) => incoming.ignore(),
        }
    }
}

async fn accept(node: Weak<Inner>, incoming: Incoming, mut place: Place) {
    let from = incoming.remote_address();
    let Some(shared) = node.upgrade() else { return };
    match admit(&shared, incoming).await {
        Ok((connection, met, control)) => {
            let Met { peer, agreement, .. } = &met;
            tracing::debug!(%peer, %from, version = agreement.version, features = ?agreement.features, "connected");
            place.joined();
            let (established, conversation) =
                Established::new(&shared, connection, met, control, &shared.counters.connections_in);
            drop(shared);
            serve(node, established, conversation).await;
        }
        Err(error) => {
            let by_tls = match &error {
                HandshakeError::Connection(error) => shared.identity().said_by_tls(error),
                _ => None,
            };
            let why = by_tls.unwrap_or_else(|| Sentence(&error).to_string());
            notice!(shared.counters.notices, warn, "connection refused", %from, error = why);
            shared.counters.connections_refused.add(1);
            if error.is_breach() {
                shared.counters.offences.add(1);
            }
        }
    }
}

/// Lets a dialler prove who it is and introduce itself, all in one time limit.
async fn admit(node: &Arc<Inner>, incoming: Incoming) -> Result<(Connection, Met, FrameStream), HandshakeError> {
    let limit = node.config.handshake_timeout;
    let end = Instant::now() + limit;
    let server = node.server_config(incoming.remote_address().ip());
    let connecting = incoming.accept_with(Arc::new(server))?;
    let connection = timeout_at(end, connecting).await.map_err(|_| HandshakeError::Timeout(limit))??;
    match timeout_at(end, welcome(node, &connection)).await.unwrap_or(Err(HandshakeError::Timeout(limit))) {
        Ok((met, control)) => Ok((connection, met, control)),
        Err(error) => {
            connection.close(error.code().into(), Sentence(&error).to_string().as_bytes());
            Err(error)
        }
    }
}

/// What is said beside subscriptions.
struct Conversation {
    control: Control,
    stream: FrameStream,
    /// The connection counts for as long as it is served.
    _presence: Presence,
    _counted: Present,
}

/// Takes subscriptions, and answers questions, for as long as the connection lives.
async fn serve(node: Weak<Inner>, established: Established, mut conversation: Conversation) {
    let Established { connection, peer, limits, known, fate, expires, can_revoke, inquiry, .. } = established;
    let Some(counters) = node.upgrade().map(|node| Arc::clone(&node.counters)) else { return };
    let converses = async {
        let Conversation { control, stream, .. } = &mut conversation;
        if let Err(error) = converse(control, stream, &inquiry).await
            && error.is_breach()
        {
            let why = Sentence(&error).to_string();
            notice!(counters.notices, warn, "peer broke the protocol", %peer, error = why);
            counters.offences.add(1);
            connection.close(CloseCode::Protocol.into(), why.as_bytes());
        }
        // The control stream stays open for as long as the connection does.
    };
    let (count, counters) = (AtomicU32::new(0), Arc::clone(&counters));
    let offences = Arc::new(Offences { connection: connection.clone(), peer: known, count, counters });
    let opens = Opens { peer: Arc::clone(&peer), limits, can_revoke, fate: fate.clone(), expires, offences };
    let lives = async {
        tokio::join!(converses, take_subscriptions(node.clone(), &connection, &opens));
    };
    let watches = watch_over(&node, &connection, &peer, &fate, expires);
    tokio::select! {
        biased;
        () = lives => {}
        never = watches => match never {},
    }
}

/// Closes a connection whose peer is not what it was: its certificate has expired, or its process is gone.
async fn watch_over(
    node: &Weak<Inner>,
    connection: &Connection,
    peer: &NodeName,
    fate: &Fate,
    expires: Option<Instant>,
) -> Infallible {
    let Some((closes_expired, look_every, knocker, counters)) = node.upgrade().map(|node| {
        let config = &node.config;
        (config.close_expired, config.keep_alive, node.knocker.clone(), Arc::clone(&node.counters))
    }) else {
        return pending().await;
    };
    let expires = async {
        match expires {
            Some(expires) if closes_expired => sleep_until(expires).await,
            _ => pending().await,
        }
        (Ended::Expired, CloseCode::Expired)
    };
    let gone = async {
        match knocker {
            Some(knocker) => is_gone(connection, look_every, &knocker).await,
            None => pending().await,
        }
        (Ended::Gone, CloseCode::Gone)
    };
    let (ended, code) = tokio::select! {
        biased;
        ended = expires => ended,
        ended = gone => ended,
    };
    notice!(counters.notices, info, "connection closed", %peer, %ended);
    fate.set(ended);
    connection.close(code.into(), ended.to_string().as_bytes());
    pending().await
}

/// Waits until the peer is silent, and nothing listens at its address any more.
async fn is_gone(connection: &Connection, look_every: Duration, knocker: &Knocker) {
    let heard = || connection.stats().udp_rx.datagrams;
    let mut silence = Silence::new(heard());
    loop {
        sleep(look_every).await;
        if silence.look(heard()) && knocker.is_refused(connection.remote_address()).await {
            return;
        }
    }
}

/// What streams that a peer opens on a connection have in common.
struct Opens {
    peer: Arc<NodeName>,
    limits: Limits,
    can_revoke: bool,
    fate: Fate,
    expires: Option<Instant>,
    offences: Arc<Offences>,
}

async fn take_subscriptions(node: Weak<Inner>, connection: &Connection, opens: &Opens) {
    let Opens { peer, limits, can_revoke, fate, expires, offences } = opens;
    loop {
        match connection.accept_bi().await {
            Ok(stream) => {
                let pause = offences.peer.value.next_stream_in(Instant::now());
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                let Some(node) = node.upgrade() else { return };
                let stream = Stream {
                    stream: FrameStream::new(stream, limits.clone(), fate.clone()),
                    peer: Arc::clone(peer),
                    limits: limits.clone(),
                    can_revoke: *can_revoke,
                    expires: *expires,
                    offences: Arc::clone(offences),
                };
                node.spawn_link(take_subscription(Arc::clone(&node), stream));
            }
            Err(closed) => {
                tracing::debug!(%peer, %closed, "connection ended");
                return;
            }
        }
    }
}

/// What a peer has done wrong on one connection.
pub(crate) struct Offences {
    connection: Connection,
    /// What it takes, on all of them.
    peer: KnownPeer,
    count: AtomicU32,
    counters: Arc<Counters>,
}

impl Offences {
    /// Counts a subscription that is refused, which is an offence if there are too many of them.
    pub(crate) fn refused(&self) {
        self.counters.subscriptions_refused.add(1);
        if !self.peer.value.count_refusal(Instant::now()) {
            self.add("too many of its subscriptions had to be refused");
        }
    }

    /// Counts one, and closes the connection at the last.
    pub(crate) fn add(&self, why: &str) {
        self.counters.offences.add(1);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_OFFENCES {
            self.connection.close(CloseCode::Protocol.into(), why.as_bytes());
        }
    }
}

/// A stream that a peer has opened.
struct Stream {
    stream: FrameStream,
    peer: Arc<NodeName>,
    limits: Limits,
    expires: Option<Instant>,
    can_revoke: bool,
    offences: Arc<Offences>,
}

/// Reads what a subscriber wants, and serves it.
async fn take_subscription(node: Arc<Inner>, mut opened: Stream) {
    let limit = node.config.handshake_timeout;
    let wanted = timeout(limit, next_frame(&mut opened.stream)).await.unwrap_or(Err(HandshakeError::Timeout(limit)));
    let is_expired = opened.expires.is_some_and(|expires| expires <= Instant::now()) && !bug!(ExpiredLetIn);
    let error = match wanted {
        Ok(Frame::Subscribe(_) | Frame::Resume(_)) if is_expired => {
            let Stream { stream, peer, limits, offences, .. } = opened;
            offences.refused();
            let message = format!("the certificate of {peer} has expired since it was connected");
            notice!(node.counters.notices, warn, "subscription refused", error = message);
            return refuse(stream, limits, Reason::Unauthorized, &message, None).await;
        }
        Ok(Frame::Subscribe(subscribe)) => return answer(node, subscribe, opened).await,
        Ok(Frame::Resume(resume)) => {
            let Stream { stream, peer, limits, offences, .. } = opened;
            return resume_link(&node, Arrival { resume, stream, offences }, &peer, limits).await;
        }
        Ok(other) => HandshakeError::Unexpected(other.name()),
        Err(error) => error,
    };
    let (notices, peer) = (&node.counters.notices, &opened.peer);
    notice!(notices, warn, "expected a subscription", %peer, error = Sentence(&error).to_string());
    let code = error.code();
    opened.stream.reset(code as u32);
    // Neither a slow line nor a change of mind is an offence.
    if error.is_breach() {
        opened.offences.add(&Sentence(&error).to_string());
    }
}

/// Hands a stream to the link that it is for.
async fn resume_link(node: &Inner, arrival: Arrival, peer: &NodeName, limits: Limits) {
    if let Some(unknown) = node.sessions.resume(&peer.to_string(), arrival) {
        unknown.offences.refused();
        refuse(unknown.stream, limits, Reason::NoSession, "", None).await;
    }
}

async fn answer(node: Arc<Inner>, subscribe: Subscribe, opened: Stream) {
    let Stream { stream, peer, limits, can_revoke, offences, .. } = opened;
    let publication = node.publication(&subscribe.producer, &peer);
    let shutting_down = node.is_shutting_down();
    let grace = node.config.session_grace;
    let max_subscriptions = node.config.max_subscriptions as usize;
    let slot = Slot::take(&offences.peer, max_subscriptions);
    let keep = KeepBounds { link_bytes: node.config.publish_window_bytes, peer_bytes: node.config.max_published_bytes };
    let (sessions, ended) = (Arc::clone(&node.sessions), node.ended.clone());
    let (counters, consumers) = (Arc::clone(&node.counters), Arc::clone(&node.far_consumers));
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
    // A link must not keep its node alive: whoever publishes decides how long.
    drop(node);
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

/// A node that has introduced itself.
struct Met {
    /// Who it is, by its certificate.
    peer: NodeName,
    agreement: Agreement,
    presence: Presence,
    /// What can be called there, if it says so.
    functions: Option<FunctionsDigest>,
    fate: Fate,
    expires: Option<Instant>,
}

/// When the certificate of a connection's peer expires, on tokio's clock; `None` if that is too far away to matter.
fn expires(connection: &Connection) -> Option<Instant> {
    let left = Identity::peer_expires(connection)?.saturating_sub(wall_clock());
    Instant::now().checked_add(left)
}

/// The time since 1970.
#[expect(clippy::disallowed_methods, reason = "a certificate says when it expires by the time of day")]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A connection that counts among those of its peer's incarnation, for as long as this lives.
struct Presence {
    node: Weak<Inner>,
    peer: String,
    number: u64,
}

impl Presence {
    /// Lets a connection in, which ends those of earlier incarnations.
    fn enter(
        node: &Arc<Inner>,
        way: Way,
        connection: &Connection,
        peer: &NodeName,
        incarnation: u64,
    ) -> Result<Self, NotEntered> {
        let peer = peer.to_string();
        let entered = node.incarnations().enter(&peer, incarnation, (way, connection.clone()), Instant::now());
        let Entered { number, superseded } = entered?;
        if !superseded.is_empty() {
            let connections = superseded.len();
            notice!(node.counters.notices, info, "started again", peer, incarnation, connections);
        }
        node.sessions.abandon_before(&peer, incarnation);
        for connection in superseded {
            let why = format!("superseded by incarnation {incarnation}: a node of this name was started later");
            connection.close(CloseCode::Superseded.into(), why.as_bytes());
        }
        Ok(Self { node: Arc::downgrade(node), peer, number })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.incarnations().leave(&self.peer, self.number, Instant::now());
        }
    }
}

/// The dialler's side of the introduction.
async fn introduce(node: &Arc<Inner>, connection: &Connection) -> Result<(Met, FrameStream), HandshakeError> {
    let peer = node.identity().peer(connection)?;
    let limits = &node.config.limits;
    let fate = Fate::default();
    let mut control = FrameStream::new(connection.open_bi().await?, limits.clone(), fate.clone());
    let ours = introduction::offer(node.config.versions, limits);
    let hello = Hello {
        proto_min: ours.versions.oldest,
        proto_max: ours.versions.newest,
        cluster: node.identity().cluster().to_owned(),
        node: node.identity().node().to_owned(),
        incarnation: node.incarnation,
        features: ours.features.clone(),
        limits: ours.limits,
        functions: Some(node.functions_digest.to_bytes()),
    };
    send(&mut control, &Frame::Hello(hello), node).await?;
    let ack = match next_frame(&mut control).await? {
        Frame::HelloAck(ack) => ack,
        Frame::Refuse(Refuse { reason, message }) => return Err(HandshakeError::Refused { reason, message }),
        other => return Err(HandshakeError::Unexpected(other.name())),
    };
    if ack.node != peer.node() {
        return Err(HandshakeError::Impostor { says: ack.node, is: peer });
    }
    let versions = Versions { oldest: ack.proto, newest: ack.proto };
    let theirs = Offer { versions, features: ack.features, limits: ack.limits };
    let agreement = introduction::confirm(&ours, limits, &theirs)?;
    let presence = Presence::enter(node, Way::Out, connection, &peer, ack.incarnation)?;
    let functions = ack.functions.map(FunctionsDigest::from_bytes);
    Ok((Met { peer, agreement, presence, functions, fate, expires: expires(connection) }, control))
}

/// The listener's side of the introduction.
async fn welcome(node: &Arc<Inner>, connection: &Connection) -> Result<(Met, FrameStream), HandshakeError> {
    let peer = node.identity().peer(connection)?;
    let fate = Fate::default();
    let mut control = FrameStream::new(connection.accept_bi().await?, node.config.limits.clone(), fate.clone());
    let hello = match next_frame(&mut control).await? {
        Frame::Hello(hello) => hello,
        other => return Err(HandshakeError::Unexpected(other.name())),
    };
    let ours = introduction::offer(node.config.versions, &node.config.limits);
    let incarnation = hello.incarnation;
    let functions = hello.functions.map(FunctionsDigest::from_bytes);
    let judged = judge(node, &ours, hello, &peer).and_then(|agreement| {
        let way = Way::In { bound: node.config.max_connections_per_node };
        let presence = Presence::enter(node, way, connection, &peer, incarnation)?;
        Ok((agreement, presence))
    });
    let answer = match &judged {
        Ok((agreement, _)) => Frame::HelloAck(HelloAck {
            proto: agreement.version,
            node: node.identity().node().to_owned(),
            incarnation: node.incarnation,
            features: agreement.features.clone(),
            limits: introduction::offer(node.config.versions, &agreement.limits).limits,
            functions: Some(node.functions_digest.to_bytes()),
        }),
        Err(error) => {
            let reason = match error {
                HandshakeError::Version(_) => Reason::Version,
                HandshakeError::NotEntered(NotEntered::Superseded { .. }) => Reason::Superseded,
                HandshakeError::NotEntered(NotEntered::TooMany { .. }) => Reason::Overloaded,
                _ => Reason::Unauthorized,
            };
            Frame::Refuse(Refuse { reason, message: error.to_string() })
        }
    };
    send(&mut control, &answer, node).await?;
    if judged.is_err() {
        control.finish();
        // It is closed in any case.
        let _ = control.delivered().await;
    }
    let expires = expires(connection);
    judged.map(|(agreement, presence)| (Met { peer, agreement, presence, functions, fate, expires }, control))
}

/// Whether a dialler is who its certificate says, and can be understood.
fn judge(node: &Inner, ours: &Offer, hello: Hello, peer: &NodeName) -> Result<Agreement, HandshakeError> {
    if (hello.cluster.as_str(), hello.node.as_str()) != (peer.cluster(), peer.node()) {
        return Err(HandshakeError::Impostor { says: hello.node, is: peer.clone() });
    }
    let versions = Versions { oldest: hello.proto_min, newest: hello.proto_max };
    let theirs = Offer { versions, features: hello.features, limits: hello.limits };
    Ok(introduction::negotiate(ours, &node.config.limits, &theirs)?)
}

async fn send(stream: &mut FrameStream, frame: &Frame, node: &Inner) -> Result<(), HandshakeError> {
    let parts = frame.encode(&node.config.limits).map_err(StreamError::from)?;
    stream.queue(parts.head);
    while !stream.is_flushed() {
        stream.progress(pending()).await?;
    }
    Ok(())
}

async fn next_frame(stream: &mut FrameStream) -> Result<Frame, HandshakeError> {
    loop {
        if let Some(frame) = stream.next_frame()? {
            return Ok(frame);
        }
        if stream.is_read_to_end() {
            return Err(HandshakeError::Closed);
        }
        stream.progress(pending()).await?;
    }
}

/// Why two nodes did not come together.
#[derive(thiserror::Error)]
enum HandshakeError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("no introduction within {0:?}")]
    Timeout(Duration),
    #[error("unexpected {0} frame in the introduction")]
    Unexpected(&'static str),
    #[error("the stream ended in the introduction")]
    Closed,
    #[error("calls itself {says:?}, but its certificate says {is}")]
    Impostor { says: String, is: NodeName },
    #[error(transparent)]
    Version(#[from] NoCommonVersion),
    #[error(transparent)]
    NotEntered(#[from] NotEntered),
    #[error("{reason}: {message}")]
    Refused { reason: Reason, message: String },
}

aqueduct_stage::debug_as_sentence!(HandshakeError);

impl HandshakeError {
    /// What the other node is told.
    fn code(&self) -> CloseCode {
        match self {
            Self::Timeout(_) => CloseCode::Timeout,
            Self::Identity(_)
            | Self::Impostor { .. }
            | Self::Version(_)
            | Self::NotEntered(_)
            | Self::Refused { .. } => CloseCode::Refused,
            Self::Connection(_) | Self::Stream(_) | Self::Unexpected(_) | Self::Closed => CloseCode::Protocol,
        }
    }

    /// Whether the other node broke a rule.
    fn is_breach(&self) -> bool {
        self.code() == CloseCode::Protocol && !self.is_lost()
    }

    /// Whether the other node has gone away, rather than broken a rule.
    fn is_lost(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_lost(),
            Self::Connection(_) | Self::Closed => true,
            _ => false,
        }
    }
}

/// A refusal for `reason`, as the other node names it.
pub(crate) fn refused(reason: Reason, at: String, why: String) -> SubscribeError {
    match reason {
        Reason::Unauthorized | Reason::Version | Reason::Superseded => SubscribeError::Denied { at, reason: why },
        _ => SubscribeError::Refused { at, reason: why },
    }
}

fn unreachable(at: SocketAddr, reason: impl std::fmt::Display) -> SubscribeError {
    SubscribeError::Unreachable { at: at.to_string(), reason: reason.to_string() }
}

/// Tells a refusal from a failure: whoever closed the connection on purpose, in TLS or after it, has refused it.
fn explain(node: &Inner, at: SocketAddr, error: &ConnectionError) -> SubscribeError {
    let (at, identity) = (at.to_string(), node.identity());
    match (identity.said_by_tls(error), error) {
        (Some(reason), ConnectionError::TransportError(_)) => {
            SubscribeError::Denied { at: identity.name().to_string(), reason }
        }
        (Some(reason), _) => SubscribeError::Denied { at, reason },
        (None, ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_)) => {
            SubscribeError::Refused { at, reason: error.to_string() }
        }
        (None, _) => SubscribeError::Unreachable { at, reason: error.to_string() },
    }
}
