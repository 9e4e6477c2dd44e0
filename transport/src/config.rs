//! [`NodeConfig`]: how a node uses its connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::HashedConnectionIdGenerator;

use crate::Limits;
use crate::identity::EndpointKeys;
use crate::protocol::introduction::{self, Versions};

/// How a node uses its connections. The defaults suit nodes of one data centre, and of one machine.
///
/// ```
/// use std::time::Duration;
///
/// use aqueduct_transport::NodeConfig;
///
/// let config = NodeConfig::default().idle_timeout(Duration::from_secs(10));
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub(crate) limits: Limits,
    pub(crate) idle_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) unused_timeout: Duration,
    pub(crate) session_grace: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_node: usize,
    pub(crate) max_half_open: usize,
    pub(crate) connections_per_second: u32,
    pub(crate) max_subscriptions: u32,
    pub(crate) subscriptions_per_second: u32,
    pub(crate) refused_subscriptions_per_second: u32,
    pub(crate) control_frames_per_second: u32,
    pub(crate) event_window_bytes: u32,
    pub(crate) max_reassembly_bytes: usize,
    pub(crate) publish_window_bytes: usize,
    pub(crate) max_published_bytes: usize,
    pub(crate) close_expired: bool,
    stream_window_bytes: u32,
    connection_window_bytes: u32,
    initial_mtu: u16,
    /// `None` is what suits the peer.
    max_mtu: Option<u16>,
    migration: bool,
    pub(crate) versions: Versions,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            unused_timeout: Duration::from_secs(60),
            session_grace: Duration::from_secs(30),
            max_connections: 1024,
            max_connections_per_node: 16,
            max_half_open: 64,
            // A cluster of 50 on one machine comes in at once.
            connections_per_second: 64,
            max_subscriptions: 1024,
            // All that a node may have.
            subscriptions_per_second: 1024,
            // A hundred consumers that try again twice a second.
            refused_subscriptions_per_second: 256,
            control_frames_per_second: 100,
            // Four times what may be on its way on one subscription.
            event_window_bytes: 16 << 20,
            // Three of the longest events.
            max_reassembly_bytes: 3 * Limits::default().event_bytes(),
            // Twice what may be on its way on one subscription.
            publish_window_bytes: 8 << 20,
            // Two windows; with what each of 1024 may keep in any case, half of 64 MiB.
            max_published_bytes: 16 << 20,
            close_expired: true,
            // A round trip of 16 ms at 2 Gbit/s.
            stream_window_bytes: 4 << 20,
            // Four subscriptions at full speed.
            connection_window_bytes: 16 << 20,
            initial_mtu: MIN_MTU,
            max_mtu: None,
            migration: false,
            versions: introduction::SPOKEN,
        }
    }
}

impl NodeConfig {
    /// Sets how large anything may be that another node sends. Two nodes tell each other the sizes of frames and events,
    /// and keep to the smaller ones.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets after how long without a sign of life a peer is taken for lost. Default 5 s; the smaller one of the two
    /// ends counts. A lower value notices a lost machine earlier, and gives up on a merely slow one sooner. (A process
    /// that ends in an orderly way is noticed at once.)
    ///
    /// At least 1 ms. The [keep-alive](Self::keep_alive) must be below it, and should be well below it: what is lost of
    /// two signs of life is then made good by the third.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how often a sign of life is sent on an idle connection. Default 1 s; more than zero, and below the
    /// [idle timeout](Self::idle_timeout). It costs a packet of some 30 bytes and its acknowledgement. A peer that was
    /// killed and has been started again says so in its answer, so this is also how soon that is noticed.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// Sets how long dialling, the introduction of two nodes, and the answer to a subscription may take, each. Default
    /// 5 s. Who does not answer at all is dialled anew after a fifth of it, but after 1 s at least. Who is dialled gives the dialler as long for both together. A higher value suits slow machines, and lets
    /// somebody who dials and says nothing hold a [half-open connection](Self::max_half_open) for longer.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets after how long without a subscription a connection that this node has dialled is closed. Default 60 s. The next
    /// subscription dials again, which takes a few round trips. A lower value saves the memory and the signs of life of
    /// connections that nobody needs.
    #[must_use]
    pub fn unused_timeout(mut self, timeout: Duration) -> Self {
        self.unused_timeout = timeout;
        self
    }

    /// Sets how long a subscription survives the loss of its connection, at either end: the subscriber's node dials again,
    /// and the publisher's keeps what did not arrive. Default 30 s: longer than the restart of a switch. Then the
    /// subscription fails at both ends. A node that ends in an orderly way, or comes back as another process, is not waited
    /// for.
    ///
    /// A higher value keeps the events of a lost consumer from others for longer; with zero a subscription ends with its
    /// connection.
    #[must_use]
    pub fn session_grace(mut self, grace: Duration) -> Self {
        self.session_grace = grace;
        self
    }

    /// Sets how many connections other nodes may have to this one. Default 1024; further ones are refused. Those that
    /// this node dials do not count. Each may hold a [connection window](Self::connection_window_bytes) of memory, if
    /// all of its subscriptions are stalled in the middle of an event.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets how many connections one other node, by the name in its certificate, may have to this one. Default 16; further
    /// ones are refused, so that no node can take the places of all others. Those that this node dials do not count. A
    /// node dials each address once, so more than one are needed only by a node that reaches this one under several
    /// addresses, and while a lost connection is not noticed yet: each that may still be there counts until its
    /// [idle timeout](Self::idle_timeout).
    #[must_use]
    pub fn max_connections_per_node(mut self, connections: usize) -> Self {
        self.max_connections_per_node = connections;
        self
    }

    /// Sets how many connections may be half open: somebody dials, and has not yet proved who it is. Default 64, at least
    /// 2.
    ///
    /// From half of it on, a dialler must first prove that it receives at its address, for which nothing is kept here:
    /// forged addresses cannot take the other half. Above that half, no address goes on that has a quarter already. A dialler that
    /// finds no room is not answered, and tries again by itself after about a second. Raising it lets more nodes join at
    /// the same time, for some 10 KB and one handshake's work each.
    #[must_use]
    pub fn max_half_open(mut self, connections: usize) -> Self {
        self.max_half_open = connections;
        self
    }

    /// Sets how many connections may begin in a second from one address, and how many from all those together that have not
    /// proved their address. Default 64, which may all come at once; at least 1. Further ones must prove their address first,
    /// and beyond their own pace they are not answered, and try again by themselves after some tenths of a second.
    ///
    /// It bounds what handshakes cost, keys and signatures, before anything is known of who dials. In IPv6 all addresses
    /// of a network (of 64 bits) count as one. Raise it where hundreds of nodes behind one address start together, or let them
    /// try for longer: they come in at this rate.
    #[must_use]
    pub fn connections_per_second(mut self, connections: u32) -> Self {
        self.connections_per_second = connections;
        self
    }

    /// Sets how many subscriptions a peer may have open, by the name in its certificate and over all of its connections.
    /// Default 1024. Further ones wait on one connection, and are refused beyond that. Those that are cut off and may still
    /// come back count.
    #[must_use]
    pub fn max_subscriptions(mut self, subscriptions: u32) -> Self {
        self.max_subscriptions = subscriptions;
        self
    }

    /// Sets how many subscriptions a peer may make or resume in a second, over all of its connections. Default 1024, which
    /// may all come at once; at least 1. Further ones wait.
    #[must_use]
    pub fn subscriptions_per_second(mut self, subscriptions: u32) -> Self {
        self.subscriptions_per_second = subscriptions;
        self
    }

    /// Sets how many subscriptions of a peer may be refused in a second, over all of its connections. Default 256, of which
    /// four seconds' worth may come at once; at least 1. A hundred consumers that wait for something that is not published
    /// yet, and [try again](crate::Retrying) twice a second, are below it. Each beyond it is an offence, and the third
    /// offence closes the connection.
    #[must_use]
    pub fn refused_subscriptions_per_second(mut self, subscriptions: u32) -> Self {
        self.refused_subscriptions_per_second = subscriptions;
        self
    }

    /// Sets how many frames a second a peer may send on the control stream of a connection, where nodes that have nothing
    /// to ask each other are silent. Default 100, which may all come at once; at least 1. A peer that sends more is closed.
    /// What this node has asked for does not count.
    #[must_use]
    pub fn control_frames_per_second(mut self, frames: u32) -> Self {
        self.control_frames_per_second = frames;
        self
    }

    /// Sets how many bytes may be on their way on one subscription. Default 4 MiB, which is a round trip of 16 ms at
    /// 2 Gbit/s; at least 64 KiB. A long fast line needs more (its round trip times its rate); less bounds what a
    /// subscription can hold of memory while its consumer is slow.
    #[must_use]
    pub fn stream_window_bytes(mut self, bytes: u32) -> Self {
        self.stream_window_bytes = bytes;
        self
    }

    /// Sets how many bytes of events one subscription of this node may hold that its consumer has not taken yet. Default
    /// 16 MiB, four times what may be on its way: a consumer that keeps up never notices. At least 64 KiB. The demand
    /// bounds events by number; this bounds the memory of large ones. An event begins only while less than this waits, so
    /// one that is longer gets through alone.
    ///
    /// It counts encoded bytes, for consumers that say what they have taken: stages do. What an event is decoded to may be
    /// larger. A number that came by its difference to the one before counts for 8 bytes.
    #[must_use]
    pub fn event_window_bytes(mut self, bytes: u32) -> Self {
        self.event_window_bytes = bytes;
        self
    }

    /// Sets how many bytes the unfinished events and results of one other node may hold, over all of its connections: those
    /// of which only some pieces have arrived. Default 24 MiB and 12 KiB, three of the
    /// [longest](crate::Limits::max_event_bytes). An event that fits into a frame is never unfinished.
    ///
    /// It bounds what a node can make this one hold by beginning many large events and ending none. A subscription
    /// that would go beyond it fails ([`FailureKind::Protocol`](aqueduct_stage::FailureKind), with the bound); the others go
    /// on. So raise it if many subscriptions to one node bring events of several megabytes at the same time, and do not
    /// set it below the longest event: longer ones would never arrive.
    #[must_use]
    pub fn max_reassembly_bytes(mut self, bytes: usize) -> Self {
        self.max_reassembly_bytes = bytes;
        self
    }

    /// Sets how many bytes of events this node keeps for one subscription of another: those that are encoded and not
    /// acknowledged, and those that the source was asked for on its behalf. Default 8 MiB, twice what may be on its way; at
    /// least 64 KiB. The demand of the other node bounds them by number; this bounds the memory of large ones, as
    /// [`event_window_bytes`](Self::event_window_bytes) does at the other end. A source is asked only for as many events as
    /// fit, reckoned by the length of the last ones (16 KiB each before the first), but for one at least.
    ///
    /// So a source that emits nothing before it is asked for more than 512 events at once needs more, and so does a long
    /// fast line (twice its round trip times its rate).
    #[must_use]
    pub fn publish_window_bytes(mut self, bytes: usize) -> Self {
        self.publish_window_bytes = bytes;
        self
    }

    /// Sets how many bytes of events this node keeps for all subscriptions of one other node, by its name and over all of its
    /// connections. Default 16 MiB, two [windows](Self::publish_window_bytes). Each subscription may use half of what the
    /// others leave, and 16 KiB or one event in any case, so that none waits for another: 1024 of them that take nothing
    /// make this node keep 32 MiB. Raise it for nodes with many subscriptions to large events that are slow to acknowledge.
    #[must_use]
    pub fn max_published_bytes(mut self, bytes: usize) -> Self {
        self.max_published_bytes = bytes;
        self
    }

    /// Sets whether a connection is closed when the certificate expires with which the other node has proved itself. Default
    /// yes. Its subscriptions then go on over another connection, if the other node has a new certificate by then and gets
    /// one within the [grace](Self::session_grace); if not, they end. With `false` those that are there go on with the
    /// connection, and a new one is refused either way.
    #[must_use]
    pub fn close_expired(mut self, closes: bool) -> Self {
        self.close_expired = closes;
        self
    }

    /// Sets how many bytes may be on their way on one connection, in each direction. Default 16 MiB, which is four
    /// subscriptions at full speed; at least one [stream window](Self::stream_window_bytes). It bounds the memory of a
    /// connection.
    #[must_use]
    pub fn connection_window_bytes(mut self, bytes: u32) -> Self {
        self.connection_window_bytes = bytes;
        self
    }

    /// Sets the largest packet, in bytes of UDP payload, that is tried from the start. Default 1200, which every path must
    /// carry (RFC 9000, section 14); at most [`max_mtu`](Self::max_mtu). Raise it only where the path and the peer are
    /// known to take it: a handshake whose packets are too large for the path does not complete.
    #[must_use]
    pub fn initial_mtu(mut self, bytes: u16) -> Self {
        self.initial_mtu = bytes;
        self
    }

    /// Sets the largest packet, in bytes of UDP payload, that is sent and taken, 1200 to 65,527. Default: 6000 to a peer at
    /// a loopback address, which is on this machine, and 1452 to any other, which fits into Ethernet's 1500 bytes. What the
    /// path really carries, up to this, is found out within the first round trips, and what the other node takes is
    /// respected. Receive buffers grow with it.
    #[must_use]
    pub fn max_mtu(mut self, bytes: u16) -> Self {
        self.max_mtu = Some(bytes);
        self
    }

    /// Sets [`max_mtu`](Self::max_mtu) to 6000 bytes to every peer, for links with jumbo frames: a fourth of the packets for
    /// the same data. Where the path takes no such packets, it costs a few probes that are lost.
    #[must_use]
    pub fn jumbo(self) -> Self {
        self.max_mtu(JUMBO_MTU)
    }

    /// Sets whether a peer may go on from another address, as a laptop does that changes its network. Default no: nodes of
    /// a cluster stay where they are, and nobody who sees their packets can then draw a connection to himself.
    #[must_use]
    pub fn migration(mut self, allowed: bool) -> Self {
        self.migration = allowed;
        self
    }

    /// Makes it claim to speak other versions of the protocol than it does, so that a rolling update can be tested with one
    /// program.
    #[doc(hidden)]
    #[must_use]
    pub fn versions(mut self, oldest: u16, newest: u16) -> Self {
        self.versions = Versions { oldest, newest };
        self
    }

    /// Whether all values go together.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let within = |name, value: u64, least: u64, most: u64| match value {
            _ if (least..=most).contains(&value) => Ok(()),
            _ => Err(ConfigError::OutOfBounds { name, least, most, value }),
        };
        if self.idle_timeout < MIN_IDLE_TIMEOUT {
            return Err(ConfigError::IdleTimeout { idle_timeout: self.idle_timeout });
        }
        if self.keep_alive.is_zero() || self.keep_alive >= self.idle_timeout {
            return Err(ConfigError::KeepAlive { keep_alive: self.keep_alive, idle_timeout: self.idle_timeout });
        }
        within("max_half_open", self.max_half_open as u64, 2, MAX_HALF_OPEN)?;
        within("connections_per_second", self.connections_per_second.into(), 1, u32::MAX.into())?;
        within("control_frames_per_second", self.control_frames_per_second.into(), 1, u32::MAX.into())?;
        within("subscriptions_per_second", self.subscriptions_per_second.into(), 1, u32::MAX.into())?;
        let refused = self.refused_subscriptions_per_second;
        within("refused_subscriptions_per_second", refused.into(), 1, u32::MAX.into())?;
        within("stream_window_bytes", self.stream_window_bytes.into(), MIN_WINDOW_BYTES, u32::MAX.into())?;
        within("event_window_bytes", self.event_window_bytes.into(), MIN_WINDOW_BYTES, u32::MAX.into())?;
        within("publish_window_bytes", self.publish_window_bytes as u64, MIN_WINDOW_BYTES, u64::MAX)?;
        let stream_window = self.stream_window_bytes.into();
        within("connection_window_bytes", self.connection_window_bytes.into(), stream_window, u32::MAX.into())?;
        let max_mtu = self.max_mtu.unwrap_or(ETHERNET_MTU);
        within("max_mtu", max_mtu.into(), MIN_MTU.into(), MAX_MTU.into())?;
        within("initial_mtu", self.initial_mtu.into(), MIN_MTU.into(), max_mtu.into())
    }

    /// The settings of the socket. `keys` make a node that was restarted recognise its old connections, so that it can
    /// end them at once.
    pub(crate) fn endpoint(&self, keys: &EndpointKeys) -> quinn::EndpointConfig {
        let connection_ids = keys.connection_ids;
        let mut endpoint = quinn::EndpointConfig::new(Arc::new(keys.reset.clone()));
        endpoint
            .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)))
            .max_udp_payload_size(self.max_mtu.unwrap_or(JUMBO_MTU).max(ETHERNET_PAYLOAD))
            .expect("bounds were checked");
        endpoint
    }

    /// The settings of a listener, for dialers at `from` or at any address. Tokens that it gave before hold for as long as
    /// the `keys` are the same.
    pub(crate) fn listening(
        &self,
        mut server: quinn::ServerConfig,
        keys: &EndpointKeys,
        from: Option<IpAddr>,
    ) -> quinn::ServerConfig {
        server
            .token_key(Arc::new(keys.tokens.clone()))
            .transport_config(self.transport(from))
            .migration(self.migration)
            // Each is looked at as soon as it is here, so few wait; what is above is dropped unseen.
            .max_incoming(self.max_half_open.saturating_mul(4))
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES.saturating_mul(self.max_half_open as u64));
        server
    }

    /// The settings of QUIC, to a peer at `peer` or at any address. quinn's own leave the memory of a connection without a
    /// bound.
    pub(crate) fn transport(&self, peer: Option<IpAddr>) -> Arc<quinn::TransportConfig> {
        let mut transport = quinn::TransportConfig::default();
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        let is_here = peer.is_some_and(|peer| peer.to_canonical().is_loopback());
        let max_mtu = self.max_mtu.unwrap_or(if is_here { JUMBO_MTU } else { ETHERNET_MTU });
        discovery.upper_bound(max_mtu);
        // A timeout that QUIC cannot express is longer than anybody waits.
        let idle = quinn::IdleTimeout::try_from(self.idle_timeout).unwrap_or(quinn::VarInt::MAX.into());
        transport
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(INITIAL_RTT)
            // One more for the control stream.
            .max_concurrent_bidi_streams(quinn::VarInt::from_u32(self.max_subscriptions.saturating_add(1)))
            .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
            .stream_receive_window(quinn::VarInt::from_u32(self.stream_window_bytes))
            .receive_window(quinn::VarInt::from_u32(self.connection_window_bytes))
            .send_window(u64::from(self.connection_window_bytes))
            .initial_mtu(self.initial_mtu)
            .mtu_discovery_config((max_mtu > self.initial_mtu).then_some(discovery))
            .datagram_receive_buffer_size(None);
        Arc::new(transport)
    }
}

/// What is wrong with a [`NodeConfig`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A connection without traffic would be taken for lost before its first sign of life, or there would be none.
    #[error("expected keep_alive above zero and below the idle_timeout of {idle_timeout:?}, got {keep_alive:?}")]
    KeepAlive {
        /// The interval between signs of life.
        keep_alive: Duration,
        /// The bound.
        idle_timeout: Duration,
    },
    /// No connection would live.
    #[error("expected idle_timeout of at least {MIN_IDLE_TIMEOUT:?}, got {idle_timeout:?}")]
    IdleTimeout {
        /// What was wanted.
        idle_timeout: Duration,
    },
    /// A number is too small or too large.
    #[error("expected {name} of {least} to {most}, got {value}")]
    OutOfBounds {
        /// The setting.
        name: &'static str,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed, given the other settings.
        most: u64,
        /// What was wanted.
        value: u64,
    },
}

aqueduct_stage::debug_as_sentence!(ConfigError);

/// The round trip that is assumed before one was measured: a first packet is repeated after three of them. QUIC's own third
/// of a second (RFC 9002, section 6.2.2) means a second, which is long for a node that is just coming up; on a path that is
/// slower than assumed it costs a few packets too many at the beginning.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// What every path carries (RFC 9000, section 14).
const MIN_MTU: u16 = 1200;
/// Ethernet's 1500 bytes, less the headers of IPv6 and UDP.
const ETHERNET_MTU: u16 = 1452;
/// The same with the header of IPv4: what is taken at least, whatever we send ourselves.
const ETHERNET_PAYLOAD: u16 = 1472;
const JUMBO_MTU: u16 = 6000;
/// What fits into a UDP datagram.
const MAX_MTU: u16 = 65_527;
/// QUIC counts in milliseconds, and 0 would mean none.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_millis(1);
/// One frame of the usual size.
const MIN_WINDOW_BYTES: u64 = 64 << 10;
const MAX_HALF_OPEN: u64 = 65_536;
/// What is kept of a dialler's packets until it is let in, in bytes: a first flight is two or three packets.
const INCOMING_BYTES: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_defaults_go_together() {
        NodeConfig::default().check().unwrap();
        NodeConfig::default().jumbo().check().unwrap();
    }

    #[test]
    fn a_sign_of_life_comes_before_the_end_of_patience() {
        let error = NodeConfig::default().keep_alive(5 * SECOND).check().unwrap_err();
        assert_eq!(error.to_string(), "expected keep_alive above zero and below the idle_timeout of 5s, got 5s");
        let error = NodeConfig::default().idle_timeout(SECOND).check().unwrap_err();
        assert_eq!(error, ConfigError::KeepAlive { keep_alive: SECOND, idle_timeout: SECOND });
        assert!(NodeConfig::default().keep_alive(Duration::ZERO).check().is_err());
        assert!(NodeConfig::default().idle_timeout(Duration::ZERO).check().is_err());
    }

    #[test]
    fn every_number_has_its_bounds() {
        let says = |config: NodeConfig| config.check().unwrap_err().to_string();
        let config = NodeConfig::default;
        assert_eq!(says(config().max_half_open(1)), "expected max_half_open of 2 to 65536, got 1");
        assert_eq!(
            says(config().control_frames_per_second(0)),
            "expected control_frames_per_second of 1 to 4294967295, got 0"
        );
        assert_eq!(says(config().max_mtu(1199)), "expected max_mtu of 1200 to 65527, got 1199");
        assert_eq!(says(config().initial_mtu(1453)), "expected initial_mtu of 1200 to 1452, got 1453");
        assert_eq!(says(config().event_window_bytes(1)), "expected event_window_bytes of 65536 to 4294967295, got 1");
        assert_eq!(says(config().stream_window_bytes(1)), "expected stream_window_bytes of 65536 to 4294967295, got 1");
        assert_eq!(
            says(config().connection_window_bytes(65_536)),
            "expected connection_window_bytes of 4194304 to 4294967295, got 65536"
        );
    }

    #[test]
    fn packets_to_peers_on_this_machine_may_be_larger() {
        let most = |config: &NodeConfig, peer: Option<&str>| {
            let transport = format!("{:?}", config.transport(peer.map(|peer| peer.parse().unwrap())));
            let (_, most) = transport.split_once("upper_bound: ").unwrap();
            most.split([',', ' ']).next().unwrap().parse::<u16>().unwrap()
        };
        let config = NodeConfig::default();
        for here in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(most(&config, Some(here)), 6000, "{here}");
        }
        for peer in [None, Some("10.0.0.1"), Some("fe80::1"), Some("0.0.0.0")] {
            assert_eq!(most(&config, peer), 1452, "{peer:?}");
        }
        assert_eq!(most(&config.max_mtu(1300), Some("127.0.0.1")), 1300);
    }

    #[test]
    fn the_memory_of_a_connection_is_bounded_and_it_stays_at_its_address() {
        let config = NodeConfig::default();
        let transport = format!("{:?}", config.transport(None));
        for setting in [
            "max_concurrent_bidi_streams: 1025",
            "max_concurrent_uni_streams: 0",
            "stream_receive_window: 4194304",
            "receive_window: 16777216",
            "send_window: 16777216",
            "datagram_receive_buffer_size: None",
        ] {
            assert!(transport.contains(setting), "{setting} is not in {transport}");
        }
        let identity = crate::Authority::dev("test").unwrap().issue("node").unwrap();
        let server = config.listening(identity.server_config(), identity.endpoint_keys(), None);
        assert!(format!("{server:?}").contains("migration: false"), "{server:?}");
    }
}
