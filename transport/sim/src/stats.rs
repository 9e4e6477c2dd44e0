//! [`Stats`]: what the network did.

use std::fmt;
use std::ops::AddAssign;

/// Counts of what the network did. Numbers of datagrams, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Handed to the network.
    pub sent: u64,
    /// Put into the mailbox of a socket.
    pub delivered: u64,
    /// Lost at random.
    pub lost: u64,
    /// Delivered twice at random.
    pub duplicated: u64,
    /// Changed by one bit at random.
    pub corrupted: u64,
    /// Delivered after one that was sent later.
    pub reordered: u64,
    /// Dropped as larger than the MTU.
    pub too_big: u64,
    /// Dropped as the queue in front of a limited bandwidth was full.
    pub queue_full: u64,
    /// Dropped by a cut.
    pub cut: u64,
    /// Dropped as nobody listens at the destination, or its host is down.
    pub unreachable: u64,
    /// Dropped as the reader was too slow.
    pub overflowed: u64,
    /// How often a direction was cut.
    pub cuts: u64,
    /// How often a host crashed.
    pub crashes: u64,
    /// How often a host was stalled.
    pub stalls: u64,
    /// How many storms there were.
    pub storms: u64,
    /// How often a socket could not be written to at once.
    pub blocked: u64,
}

impl Stats {
    /// Faults injected: everything except what was sent, delivered, unreachable or overflowed.
    pub fn faults(&self) -> u64 {
        let at_random = self.lost + self.duplicated + self.corrupted + self.reordered;
        let to_hosts = self.crashes + self.stalls + self.blocked;
        at_random + self.too_big + self.queue_full + self.cut + self.cuts + self.storms + to_hosts
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.reordered += other.reordered;
        self.too_big += other.too_big;
        self.cut += other.cut;
        self.unreachable += other.unreachable;
        self.overflowed += other.overflowed;
        self.cuts += other.cuts;
        self.crashes += other.crashes;
        self.queue_full += other.queue_full;
        self.stalls += other.stalls;
        self.storms += other.storms;
        self.blocked += other.blocked;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} datagrams, {} faults: {} lost, ", self.sent, self.faults(), self.lost)?;
        write!(f, "{} duplicated, {} corrupted, ", self.duplicated, self.corrupted)?;
        write!(f, "{} reordered, {} too big, {} cut, ", self.reordered, self.too_big, self.cut)?;
        write!(f, "{} beyond the queue, {} blocked, {} cuts, ", self.queue_full, self.blocked, self.cuts)?;
        write!(f, "{} storms, {} stalls, {} crashes", self.storms, self.stalls, self.crashes)
    }
}
