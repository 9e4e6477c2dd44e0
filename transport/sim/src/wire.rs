//! Pure: the network itself. Decides what becomes of every datagram and keeps those under way. Time and seed come from
//! outside; it never sleeps, spawns or reads a clock.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::conditions::LinkConditions;
use crate::stats::Stats;
use crate::trace::{TextLog, Trace};

/// Datagrams a socket keeps for a reader that does not come; further ones are dropped, as a kernel does. About 1.4 MB of
/// full-size datagrams.
const MAILBOX_DATAGRAMS: usize = 1024;

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// The two bits of Explicit Congestion Notification.
    pub(crate) ecn: u8,
    pub(crate) contents: Vec<u8>,
}

/// A bound port. The id tells a socket from an earlier one at the same address: what a crashed host left behind can
/// neither send nor read what belongs to its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) address: SocketAddr,
    id: u64,
}

#[derive(Debug)]
pub(crate) struct Wire {
    rng: StdRng,
    default_conditions: LinkConditions,
    conditions: BTreeMap<(IpAddr, IpAddr), LinkConditions>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    down: BTreeSet<IpAddr>,
    mailboxes: BTreeMap<SocketAddr, Mailbox>,
    under_way: BinaryHeap<Packet>,
    /// The highest packet number delivered per direction: a lower one after it was overtaken.
    newest: BTreeMap<(SocketAddr, SocketAddr), u64>,
    packets: u64,
    bindings: u64,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
}

#[derive(Debug)]
struct Mailbox {
    id: u64,
    datagrams: VecDeque<Datagram>,
    reader: Option<Waker>,
}

impl Wire {
    pub(crate) fn new(seed: u64, default_conditions: LinkConditions, text_log: TextLog) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            default_conditions,
            conditions: BTreeMap::new(),
            cuts: BTreeSet::new(),
            down: BTreeSet::new(),
            mailboxes: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            newest: BTreeMap::new(),
            packets: 0,
            bindings: 0,
            stats: Stats::default(),
            trace: Trace::new(text_log),
        }
    }

    /// Opens a port; `None` if it is open already or the host is down.
    pub(crate) fn bind(&mut self, address: SocketAddr) -> Option<Binding> {
        if self.down.contains(&address.ip()) || self.mailboxes.contains_key(&address) {
            return None;
        }
        self.bindings += 1;
        let id = self.bindings;
        self.mailboxes.insert(address, Mailbox { id, datagrams: VecDeque::new(), reader: None });
        Some(Binding { address, id })
    }

    /// Closes a port, unless it belongs to somebody else by now.
    pub(crate) fn unbind(&mut self, binding: Binding) {
        if self.mailbox(binding).is_some() {
            self.mailboxes.remove(&binding.address);
        }
    }

    /// Takes a datagram from a socket and decides its fate. Whatever does not arrive vanishes without an error, as on a
    /// real network.
    pub(crate) fn send(&mut self, now: Duration, binding: Binding, datagram: Datagram) {
        if self.mailbox(binding).is_none() {
            return; // the rest of a crashed host
        }
        self.stats.sent += 1;
        self.record(now, "sent", &datagram);
        let direction = (datagram.from.ip(), datagram.to.ip());
        let conditions = *self.conditions.get(&direction).unwrap_or(&self.default_conditions);
        if self.cuts.contains(&direction) {
            self.stats.cut += 1;
            return self.record(now, "cut", &datagram);
        }
        if datagram.contents.len() > conditions.mtu_bytes {
            self.stats.too_big += 1;
            return self.record(now, "too-big", &datagram);
        }
        if self.rng.random_bool(conditions.loss) {
            self.stats.lost += 1;
            return self.record(now, "lost", &datagram);
        }
        if self.rng.random_bool(conditions.duplication) {
            self.stats.duplicated += 1;
            self.put_under_way(now, &conditions, datagram.clone());
        }
        self.put_under_way(now, &conditions, datagram);
    }

    /// Puts every datagram that is due into its mailbox; the readers to wake are added to `wake`.
    pub(crate) fn deliver(&mut self, now: Duration, wake: &mut Vec<Waker>) {
        while self.under_way.peek().is_some_and(|packet| packet.due <= now) {
            let Some(packet) = self.under_way.pop() else { return };
            wake.extend(self.arrive(now, packet));
        }
    }

    /// Takes the oldest datagram that arrived, or remembers `reader`. A dead socket never gets anything.
    pub(crate) fn receive(&mut self, binding: Binding, reader: &Waker) -> Option<Datagram> {
        let mailbox = self.mailbox(binding)?;
        let datagram = mailbox.datagrams.pop_front();
        if datagram.is_none() {
            mailbox.reader = Some(reader.clone());
        }
        datagram
    }

    pub(crate) fn set_default_conditions(&mut self, conditions: LinkConditions) {
        self.default_conditions = conditions;
    }

    pub(crate) fn set_conditions(&mut self, from: IpAddr, to: IpAddr, conditions: LinkConditions) {
        self.conditions.insert((from, to), conditions);
    }

    pub(crate) fn cut(&mut self, from: IpAddr, to: IpAddr) {
        self.stats.cuts += u64::from(self.cuts.insert((from, to)));
    }

    pub(crate) fn heal(&mut self, from: IpAddr, to: IpAddr) {
        self.cuts.remove(&(from, to));
    }

    pub(crate) fn heal_all(&mut self) {
        self.cuts.clear();
    }

    /// The host's sockets are gone with all they hold, and nothing reaches it any more.
    pub(crate) fn crash(&mut self, host: IpAddr) {
        self.stats.crashes += u64::from(self.down.insert(host));
        self.mailboxes.retain(|address, _| address.ip() != host);
    }

    pub(crate) fn restart(&mut self, host: IpAddr) {
        self.down.remove(&host);
    }

    pub(crate) fn is_down(&self, host: IpAddr) -> bool {
        self.down.contains(&host)
    }

    /// When the next datagram is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.under_way.peek().map(|packet| packet.due)
    }

    pub(crate) fn name(&mut self, host: IpAddr, name: Arc<str>) {
        self.trace.name(host, name);
    }

    fn put_under_way(&mut self, now: Duration, conditions: &LinkConditions, mut datagram: Datagram) {
        if self.rng.random_bool(conditions.corruption) && !datagram.contents.is_empty() {
            let at = self.rng.random_range(0..datagram.contents.len());
            datagram.contents[at] ^= 1 << self.rng.random_range(0..8);
            self.stats.corrupted += 1;
        }
        let jitter = match conditions.jitter.as_nanos() as u64 {
            0 => 0,
            most => self.rng.random_range(0..most),
        };
        self.packets += 1;
        let due = now + conditions.delay + Duration::from_nanos(jitter);
        self.under_way.push(Packet { due, number: self.packets, datagram });
    }

    fn arrive(&mut self, now: Duration, packet: Packet) -> Option<Waker> {
        let Packet { number, datagram, .. } = packet;
        let (from, to) = (datagram.from, datagram.to);
        if self.cuts.contains(&(from.ip(), to.ip())) {
            self.stats.cut += 1;
            self.record(now, "cut", &datagram);
            return None;
        }
        let Some(mailbox) = self.mailboxes.get_mut(&to) else {
            self.stats.unreachable += 1;
            self.record(now, "nobody", &datagram);
            return None;
        };
        if mailbox.datagrams.len() == MAILBOX_DATAGRAMS {
            self.stats.overflowed += 1;
            self.record(now, "overflow", &datagram);
            return None;
        }
        let newest = self.newest.entry((from, to)).or_default();
        self.stats.reordered += u64::from(number < *newest);
        *newest = number.max(*newest);
        self.stats.delivered += 1;
        self.trace.datagram(now, "delivered", (from, to), &datagram.contents);
        mailbox.datagrams.push_back(datagram);
        mailbox.reader.take()
    }

    fn mailbox(&mut self, binding: Binding) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(&binding.address).filter(|mailbox| mailbox.id == binding.id)
    }

    fn record(&mut self, now: Duration, what: &str, datagram: &Datagram) {
        self.trace.datagram(now, what, (datagram.from, datagram.to), &datagram.contents);
    }
}

/// A datagram under way. Ordered so that the heap gives the one due first, and of several the one sent first.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    due: Duration,
    number: u64,
    datagram: Datagram,
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    struct Pair {
        wire: Wire,
        a: Binding,
        b: Binding,
    }

    impl Pair {
        fn new(conditions: LinkConditions) -> Self {
            let mut wire = Wire::new(1, conditions, TextLog::Off);
            let mut bind = |ip| wire.bind(SocketAddr::new(ip, 9)).unwrap();
            let (a, b) = (bind(A), bind(B));
            Self { wire, a, b }
        }

        /// Sends numbered datagrams one millisecond apart, then waits for all of them.
        fn send(&mut self, count: u8) -> Vec<Vec<u8>> {
            let (from, to) = (self.a.address, self.b.address);
            for number in 0..count {
                let now = Duration::from_millis(u64::from(number));
                self.wire.send(now, self.a, Datagram { from, to, ecn: 0, contents: vec![number; 100] });
            }
            self.arrivals()
        }

        fn arrivals(&mut self) -> Vec<Vec<u8>> {
            self.wire.deliver(Duration::from_secs(10), &mut Vec::new());
            std::iter::from_fn(|| self.wire.receive(self.b, Waker::noop())).map(|datagram| datagram.contents).collect()
        }
    }

    fn numbered(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|number| vec![number; 100]).collect()
    }

    #[test]
    fn a_good_network_delivers_everything_in_order() {
        let mut pair = Pair::new(LinkConditions::default());
        assert_eq!(pair.send(200), numbered(200));
        assert_eq!(pair.wire.stats, Stats { sent: 200, delivered: 200, ..Stats::default() });
    }

    #[test]
    fn nothing_arrives_before_its_delay() {
        let mut pair = Pair::new(LinkConditions::default().delay(Duration::from_millis(30)));
        let (from, to) = (pair.a.address, pair.b.address);
        pair.wire.send(Duration::ZERO, pair.a, Datagram { from, to, ecn: 0, contents: vec![1] });
        assert_eq!(pair.wire.next_due(), Some(Duration::from_millis(30)));
        pair.wire.deliver(Duration::from_millis(29), &mut Vec::new());
        assert_eq!(pair.wire.receive(pair.b, Waker::noop()), None);
        assert_eq!(pair.arrivals().len(), 1);
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let good = LinkConditions::default;
        let mut lossy = Pair::new(good().loss(0.5));
        let arrived = lossy.send(200).len() as u64;
        assert!((60..140).contains(&arrived) && lossy.wire.stats.lost == 200 - arrived);

        let mut doubling = Pair::new(good().duplication(0.5));
        let arrived = doubling.send(200).len() as u64;
        assert!((260..340).contains(&arrived) && doubling.wire.stats.duplicated == arrived - 200);

        let mut corrupting = Pair::new(good().corruption(0.5));
        let broken = corrupting.send(200).iter().zip(numbered(200)).filter(|(got, sent)| *got != sent).count() as u64;
        assert!((60..140).contains(&broken) && corrupting.wire.stats.corrupted == broken);

        let mut jittery = Pair::new(good().jitter(Duration::from_millis(20)));
        let mut arrived = jittery.send(200);
        assert_ne!(arrived, numbered(200));
        arrived.sort();
        assert_eq!(arrived, numbered(200));
        assert!(jittery.wire.stats.reordered > 50);

        let mut narrow = Pair::new(good().mtu_bytes(99));
        assert_eq!((narrow.send(200).len(), narrow.wire.stats.too_big), (0, 200));
    }

    #[test]
    fn a_cut_goes_one_way_and_catches_what_is_under_way() {
        let mut pair = Pair::new(LinkConditions::default());
        pair.wire.cut(B, A);
        assert_eq!(pair.send(3).len(), 3);
        let (from, to) = (pair.a.address, pair.b.address);
        pair.wire.send(Duration::ZERO, pair.a, Datagram { from, to, ecn: 0, contents: vec![1] });
        pair.wire.cut(A, B);
        assert_eq!(pair.arrivals().len(), 0);
        pair.wire.heal(A, B);
        assert_eq!(pair.send(3).len(), 3);
        assert_eq!((pair.wire.stats.cuts, pair.wire.stats.cut), (2, 1));
    }

    #[test]
    fn a_socket_of_before_the_crash_stays_dead_after_the_restart() {
        let mut pair = Pair::new(LinkConditions::default());
        pair.wire.crash(B);
        assert_eq!(pair.wire.bind(pair.b.address), None);
        assert_eq!(pair.send(3).len(), 0);
        pair.wire.restart(B);
        let successor = pair.wire.bind(pair.b.address).unwrap();
        assert_eq!(pair.send(3).len(), 0);
        assert!(pair.wire.receive(successor, Waker::noop()).is_some());
        pair.wire.unbind(pair.b);
        assert!(pair.wire.receive(successor, Waker::noop()).is_some());
    }

    #[test]
    fn a_mailbox_nobody_reads_is_bounded() {
        let mut pair = Pair::new(LinkConditions::default());
        for _ in 0..5 {
            let (from, to) = (pair.a.address, pair.b.address);
            for _ in 0..250 {
                pair.wire.send(Duration::ZERO, pair.a, Datagram { from, to, ecn: 0, contents: vec![1] });
            }
        }
        assert_eq!(pair.arrivals().len(), MAILBOX_DATAGRAMS);
        assert_eq!(pair.wire.stats.overflowed, 1250 - MAILBOX_DATAGRAMS as u64);
    }
}
