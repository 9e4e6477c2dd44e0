//! [`Admission`]: who may take up a connection while nobody knows yet who it is.
//!
//! Until a dialler has proved who it is, all that is known is the address in its packets, and that can be forged. A
//! forged address is made useless by a retry packet (RFC 9000, section 8.1.2): the dialler must repeat a token that it
//! only gets at that address, and nothing is kept here meanwhile. That costs honest diallers a round trip, so it is asked
//! for only from half of the places on. Forged addresses can then take half of the places at most.
//!
//! Real addresses are harder to come by, and can take the other half. So no single one goes on there once it has a quarter.
//! Who finds no place is not refused but left without an answer: QUIC tries again by itself after about a second, so
//! honest nodes that come all at once are delayed and not turned away.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections that others made to this node, and decides about further ones.
#[derive(Debug)]
pub(crate) struct Admission {
    max_connections: usize,
    max_half_open: usize,
    /// Who has proved who it is.
    connections: usize,
    /// Who has not.
    half_open: usize,
    /// Those of them that have proved their address, by that. No entry is zero. A forged address does not count: nobody
    /// can use up the share of another one.
    proved: BTreeMap<IpAddr, usize>,
}

/// What to do with somebody who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Let it prove who it is.
    Accept,
    /// First let it prove that it receives at its address.
    Validate,
    /// Do not answer: it comes again.
    Defer,
    /// Tell it that there is no room.
    Refuse,
}

impl Admission {
    pub(crate) fn new(max_connections: usize, max_half_open: usize) -> Self {
        Self { max_connections, max_half_open, connections: 0, half_open: 0, proved: BTreeMap::new() }
    }

    /// Somebody dials from an address, which is proved or not.
    pub(crate) fn judge(&self, from: IpAddr, validated: bool) -> Verdict {
        if self.connections >= self.max_connections {
            return Verdict::Refuse;
        }
        // Those that are half open may all turn out to be welcome.
        let full = self.connections + self.half_open >= self.max_connections;
        if !full && self.half_open < self.max_half_open / 2 {
            return Verdict::Accept;
        }
        if !validated {
            return Verdict::Validate;
        }
        let of_this_address = self.proved.get(&from).copied().unwrap_or(0);
        let full = full || self.half_open >= self.max_half_open;
        if full || of_this_address >= self.max_half_open.div_ceil(4) { Verdict::Defer } else { Verdict::Accept }
    }

    fn begin(&mut self, from: Address) {
        self.half_open += 1;
        if let Address::Proved(from) = from {
            *self.proved.entry(from).or_default() += 1;
        }
    }

    fn end(&mut self, from: Address) {
        self.half_open -= 1;
        if let Address::Proved(from) = from
            && let Entry::Occupied(mut count) = self.proved.entry(from)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Where somebody dials from.
#[derive(Clone, Copy, Debug)]
enum Address {
    Proved(IpAddr),
    Claimed,
}

/// An [`Admission`] that tasks share.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Mutex<Admission>>);

impl Gate {
    pub(crate) fn new(admission: Admission) -> Self {
        Self(Arc::new(Mutex::new(admission)))
    }

    /// Decides about somebody who dials; with [`Verdict::Accept`], it has a place.
    pub(crate) fn enter(&self, from: IpAddr, validated: bool) -> Result<Place, Verdict> {
        let mut admission = self.lock();
        match admission.judge(from, validated) {
            Verdict::Accept => {
                let from = if validated { Address::Proved(from) } else { Address::Claimed };
                admission.begin(from);
                Ok(Place { gate: self.clone(), half_open: Some(from) })
            }
            other => Err(other),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Admission> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Gate,
    /// From where, until it is known who it is.
    half_open: Option<Address>,
}

impl Place {
    /// It is known who it is.
    pub(crate) fn joined(&mut self) {
        if let Some(from) = self.half_open.take() {
            let mut admission = self.gate.lock();
            admission.end(from);
            admission.connections += 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut admission = self.gate.lock();
        match self.half_open {
            Some(from) => admission.end(from),
            None => admission.connections -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, n).into()
    }

    fn gate() -> Gate {
        Gate::new(Admission::new(10, 8))
    }

    #[test]
    fn forged_addresses_take_half_of_the_places() {
        let gate = gate();
        let places: Vec<_> = (0..4).map(|n| gate.enter(address(n), false).unwrap()).collect();
        assert_eq!(gate.enter(address(9), false).unwrap_err(), Verdict::Validate);
        let proved = gate.enter(address(9), true).unwrap();
        drop(places);
        gate.enter(address(9), false).unwrap();
        drop(proved);
        assert_eq!(gate.lock().half_open, 0);
        assert!(gate.lock().proved.is_empty());
    }

    #[test]
    fn a_forged_address_costs_its_owner_nothing() {
        let gate = gate();
        let _forged: Vec<_> = (0..4).map(|_| gate.enter(address(1), false).unwrap()).collect();
        gate.enter(address(1), true).unwrap();
    }

    #[test]
    fn one_address_does_not_take_the_other_half() {
        let gate = gate();
        let mut places: Vec<_> = (0..4).map(|_| gate.enter(address(1), true).unwrap()).collect();
        assert_eq!(gate.enter(address(1), true).unwrap_err(), Verdict::Defer);
        places.extend((0..2).map(|_| gate.enter(address(2), true).unwrap()));
        assert_eq!(gate.enter(address(2), true).unwrap_err(), Verdict::Defer);
        places.extend((0..2).map(|_| gate.enter(address(3), true).unwrap()));
        assert_eq!(gate.enter(address(4), true).unwrap_err(), Verdict::Defer);
    }

    #[test]
    fn who_is_known_makes_room_for_the_next() {
        let gate = gate();
        let mut places: Vec<_> = (0..4).map(|n| gate.enter(address(n), false).unwrap()).collect();
        places.iter_mut().for_each(Place::joined);
        places.extend((0..4).map(|n| gate.enter(address(n), false).unwrap()));
        places.iter_mut().for_each(Place::joined);
        places.extend((0..2).map(|n| gate.enter(address(n), false).unwrap()));
        places.iter_mut().for_each(Place::joined);
        assert_eq!(gate.enter(address(1), true).unwrap_err(), Verdict::Refuse);
        places.pop();
        gate.enter(address(1), false).unwrap();
    }
}
