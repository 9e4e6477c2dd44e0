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
use crate::line::Line;
use crate::stats::Stats;
use crate::trace::{TextLog, Trace};

/// Datagrams a socket keeps for a reader that does not come; further ones are dropped, as a kernel does. About 1.4 MB of
/// full-size datagrams.
const MAILBOX_DATAGRAMS: usize = 1024;

/// How long a socket that is made to misbehave cannot be written to, at most.
const LONGEST_BLOCK: Duration = Duration::from_millis(5);

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
    lines: BTreeMap<(IpAddr, IpAddr), Line>,
    /// Instead of all other conditions until then.
    storm: Option<(Duration, LinkConditions)>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    down: BTreeSet<IpAddr>,
    mailboxes: BTreeMap<SocketAddr, Mailbox>,
    under_way: BinaryHeap<Packet>,
    /// The highest packet number delivered per direction: a lower one after it was overtaken.
    newest: BTreeMap<(SocketAddr, SocketAddr), u64>,
    packets: u64,
    bindings: u64,
    /// The probability with which a socket misbehaves, each time that it may.
    oddity: f64,
    /// Apart from `rng`, so that what sockets do does not change what becomes of datagrams.
    odd_rng: StdRng,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
}

#[derive(Debug)]
struct Mailbox {
    id: u64,
    datagrams: VecDeque<Datagram>,
    reader: Option<Waker>,
    /// Nothing can be sent before.
    blocked_until: Duration,
}

impl Wire {
    pub(crate) fn new(seed: u64, default_conditions: LinkConditions, text_log: TextLog) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            default_conditions,
            conditions: BTreeMap::new(),
            lines: BTreeMap::new(),
            storm: None,
            cuts: BTreeSet::new(),
            down: BTreeSet::new(),
            mailboxes: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            newest: BTreeMap::new(),
            packets: 0,
            bindings: 0,
            oddity: 0.0,
            odd_rng: StdRng::seed_from_u64(!seed),
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
        let (datagrams, reader, blocked_until) = Default::default();
        self.mailboxes.insert(address, Mailbox { id, datagrams, reader, blocked_until });
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
        let conditions = self.conditions_at(now, direction);
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

    /// Until then, these conditions are everywhere.
    pub(crate) fn storm(&mut self, until: Duration, conditions: LinkConditions) {
        self.stats.storms += 1;
        self.storm = Some((until, conditions));
    }

    /// From now on, sockets misbehave with this probability.
    pub(crate) fn buggify(&mut self, probability: f64) {
        self.oddity = probability;
    }

    /// Whether a socket refuses to send now. If it begins to, it goes on for a while.
    pub(crate) fn is_blocked(&mut self, now: Duration, binding: Binding) -> bool {
        if self.blocked_until(binding) > now {
            return true;
        }
        if self.oddity == 0.0 || !self.odd_rng.random_bool(self.oddity) {
            return false;
        }
        let until = now + self.odd_rng.random_range(Duration::ZERO..LONGEST_BLOCK);
        let Some(mailbox) = self.mailbox(binding) else { return false };
        mailbox.blocked_until = until;
        self.stats.blocked += 1;
        self.trace.note(now, "blocked", &until.as_nanos().to_le_bytes());
        true
    }

    /// Until when a socket refuses to send.
    pub(crate) fn blocked_until(&mut self, binding: Binding) -> Duration {
        self.mailbox(binding).map_or(Duration::ZERO, |mailbox| mailbox.blocked_until)
    }

    /// Whether a socket gives away one datagram only, though several are there.
    pub(crate) fn is_short(&mut self) -> bool {
        self.oddity > 0.0 && self.odd_rng.random_bool(self.oddity)
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

    fn conditions_at(&self, now: Duration, direction: (IpAddr, IpAddr)) -> LinkConditions {
        match self.storm {
            Some((until, conditions)) if now < until => conditions,
            _ => *self.conditions.get(&direction).unwrap_or(&self.default_conditions),
        }
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
        let line = self.lines.entry((datagram.from.ip(), datagram.to.ip())).or_default();
        let Some(left) = line.take(now, conditions, datagram.contents.len()) else {
            self.stats.queue_full += 1;
            return self.record(now, "queue-full", &datagram);
        };
        self.packets += 1;
        let due = left + conditions.delay + Duration::from_nanos(jitter);
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
mod tests;
