//! [`Admission`]: who may take up a connection while nobody knows yet who it is.
//!
//! Until a dialler has proved who it is, all that is known is the address in its packets, and that can be forged. A
//! forged address is made useless by a retry packet (RFC 9000, section 8.1.2): the dialler must repeat a token that it
//! only gets at that address, and nothing is kept here meanwhile. That costs honest diallers a round trip, so it is asked
//! for only from half of the places on. Forged addresses can then take half of the places at most.
//!
//! Real addresses are harder to come by, and can take the other half. So no single one goes on there once it has a quarter.
//!
//! A handshake costs this node the time for keys and signatures, also where nobody stays half open: where somebody comes, goes
//! and comes again. So there is a pace for each address that has proved itself, and one for all that have not: above that,
//! one has to prove itself first. Forged addresses use up nobody's pace.
//!
//! Who finds no place is not refused but left without an answer: QUIC tries again by itself, so honest nodes that come all at
//! once are delayed and not turned away.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::pace::Pace;
use crate::NodeConfig;

/// Counts connections that others made to this node, and decides about further ones.
#[derive(Debug)]
pub(crate) struct Admission {
    max_connections: usize,
    max_half_open: usize,
    connections_per_second: u32,
    /// Who has proved who it is.
    connections: usize,
    /// Who has not.
    half_open: usize,
    /// Those of them that have proved their address, by that. No entry is zero. A forged address does not count: nobody
    /// can use up the share of another one.
    proved: BTreeMap<Origin, usize>,
    /// Of those that have not.
    claimed_pace: Pace,
    /// Of those that have, by their address. What a second's silence has made good is left out when there are many.
    paces: BTreeMap<Origin, Pace>,
    /// How many paces there are when that is looked for.
    look_at: usize,
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
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let NodeConfig { max_connections, max_half_open, connections_per_second, .. } = *config;
        Self {
            max_connections,
            max_half_open,
            connections_per_second,
            connections: 0,
            half_open: 0,
            proved: BTreeMap::new(),
            claimed_pace: Pace::new(connections_per_second),
            paces: BTreeMap::new(),
            look_at: LEAST_PACES,
        }
    }

    /// Somebody dials from an address.
    fn judge(&mut self, from: Address, now: Instant) -> Verdict {
        if self.connections >= self.max_connections {
            return Verdict::Refuse;
        }
        // Those that are half open may all turn out to be welcome.
        let full = self.connections + self.half_open >= self.max_connections;
        let is_roomy = !full && self.half_open < self.max_half_open / 2;
        let origin = match from {
            Address::Proved(origin) => origin,
            Address::Claimed if is_roomy && self.claimed_pace.count(1, now) => return Verdict::Accept,
            Address::Claimed => return Verdict::Validate,
        };
        let of_this_address = self.proved.get(&origin).copied().unwrap_or(0);
        let full = full || self.half_open >= self.max_half_open;
        let has_room = is_roomy || (!full && of_this_address < self.max_half_open.div_ceil(4));
        if has_room && self.keeps_pace(origin, now) { Verdict::Accept } else { Verdict::Defer }
    }

    /// Counts a connection from an address that is proved; `false` if there are too many of them.
    fn keeps_pace(&mut self, origin: Origin, now: Instant) -> bool {
        if self.paces.len() >= self.look_at {
            self.paces.retain(|_, pace| !pace.is_rested(now));
            self.look_at = (2 * self.paces.len()).max(LEAST_PACES);
        }
        let pace = self.paces.entry(origin).or_insert_with(|| Pace::new(self.connections_per_second));
        pace.count(1, now)
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
    Proved(Origin),
    Claimed,
}

/// An address, as far as it takes somebody else to have another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origin(IpAddr);

impl Origin {
    /// A machine has all addresses of its network in IPv6, which is one of 64 bits (RFC 4291, section 2.5.4).
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            address => address,
        })
    }
}

/// As many paces are not looked through.
const LEAST_PACES: usize = 64;

/// An [`Admission`] that tasks share.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Mutex<Admission>>);

impl Gate {
    pub(crate) fn new(admission: Admission) -> Self {
        Self(Arc::new(Mutex::new(admission)))
    }

    /// Decides about somebody who dials; with [`Verdict::Accept`], it has a place.
    pub(crate) fn enter(&self, from: IpAddr, validated: bool, now: Instant) -> Result<Place, Verdict> {
        let from = if validated { Address::Proved(Origin::of(from)) } else { Address::Claimed };
        let mut admission = self.lock();
        match admission.judge(from, now) {
            Verdict::Accept => {
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
    use std::time::Duration;

    use super::*;

    fn address(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, n).into()
    }

    /// At the same time, unless it says otherwise.
    struct Dialled {
        gate: Gate,
        now: Instant,
    }

    impl Dialled {
        fn enter(&self, from: IpAddr, validated: bool) -> Result<Place, Verdict> {
            self.gate.enter(from, validated, self.now)
        }

        fn lock(&self) -> MutexGuard<'_, Admission> {
            self.gate.lock()
        }
    }

    fn gate() -> Dialled {
        paced(1000)
    }

    fn paced(connections_per_second: u32) -> Dialled {
        let config = NodeConfig::default().max_connections(10).max_half_open(8);
        let admission = Admission::new(&config.connections_per_second(connections_per_second));
        Dialled { gate: Gate::new(admission), now: Instant::now() }
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

    #[test]
    fn no_more_are_half_open_than_may_turn_out_to_be_welcome() {
        let gate = gate();
        let mut places = Vec::new();
        for n in 0..9 {
            places.push(gate.enter(address(n), false).unwrap());
            places.iter_mut().for_each(Place::joined);
        }
        places.push(gate.enter(address(1), false).unwrap());
        assert_eq!(gate.enter(address(2), false).unwrap_err(), Verdict::Validate);
        assert_eq!(gate.enter(address(2), true).unwrap_err(), Verdict::Defer);
        places.pop();
        gate.enter(address(2), true).unwrap();
    }

    #[test]
    fn an_address_that_comes_too_often_waits_and_others_do_not() {
        let mut gate = paced(4);
        // Each goes at once.
        let comes = |gate: &Dialled, from, validated| gate.enter(address(from), validated).map(drop);
        assert!((0..4).all(|_| comes(&gate, 1, false).is_ok()));
        assert_eq!(comes(&gate, 1, false), Err(Verdict::Validate));
        assert!((0..4).all(|_| comes(&gate, 1, true).is_ok()));
        assert_eq!(comes(&gate, 1, true), Err(Verdict::Defer));
        // Who has not proved its address has to, and then has a pace of its own.
        assert_eq!((comes(&gate, 2, false), comes(&gate, 2, true)), (Err(Verdict::Validate), Ok(())));
        gate.now += Duration::from_millis(250);
        assert_eq!((comes(&gate, 1, true), comes(&gate, 1, true)), (Ok(()), Err(Verdict::Defer)));
        assert_eq!((comes(&gate, 3, false), comes(&gate, 3, false)), (Ok(()), Err(Verdict::Validate)));
    }

    #[test]
    fn who_is_left_without_an_answer_costs_its_address_nothing() {
        let mut gate = paced(4);
        let places: Vec<_> = (0..4).map(|_| gate.enter(address(1), true).unwrap()).collect();
        gate.now += Duration::from_secs(1);
        assert!((0..100).all(|_| gate.enter(address(1), true).is_err()), "it has a quarter");
        drop(places);
        assert!((0..4).all(|_| gate.enter(address(1), true).is_ok()));
    }

    #[test]
    fn addresses_that_do_not_come_again_are_forgotten() {
        let mut gate = paced(4);
        for network in 0..10_000_u128 {
            let from = IpAddr::V6((network << 64).into());
            gate.enter(from, true).unwrap();
            gate.now += Duration::from_millis(1);
        }
        // Each is there for a quarter of a second.
        let paces = gate.lock().paces.len();
        assert!((250..=2 * 251).contains(&paces), "{paces}");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_so_is_ipv4_within_ipv6() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("::ffff:10.0.0.1"), of("10.0.0.2"));
    }
}
