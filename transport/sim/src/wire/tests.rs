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

#[test]
fn a_limited_bandwidth_spaces_datagrams_and_drops_what_its_queue_cannot_hold() {
    let mut pair = Pair::new(LinkConditions::default().bandwidth(10_000).queue_bytes(1000));
    // One of 100 bytes per millisecond, where one per ten milliseconds gets through.
    let arrived = pair.send(50).len() as u64;
    assert!((13..=15).contains(&arrived), "{arrived}");
    assert_eq!(pair.wire.stats.queue_full, 50 - arrived);
}

#[test]
fn a_storm_replaces_all_conditions_and_passes() {
    let mut pair = Pair::new(LinkConditions::default());
    pair.wire.set_conditions(A, B, LinkConditions::default());
    pair.wire.storm(Duration::from_millis(10), LinkConditions::default().loss(1.0));
    assert_eq!(pair.send(30), numbered(30)[10..]);
    assert_eq!((pair.wire.stats.storms, pair.wire.stats.lost), (1, 10));
}

#[test]
fn a_blocked_socket_stays_so_for_a_while_and_is_free_again() {
    let mut pair = Pair::new(LinkConditions::default());
    assert!(!pair.wire.is_blocked(Duration::ZERO, pair.a), "nobody asked for it");
    pair.wire.buggify(0.5);
    while !pair.wire.is_blocked(Duration::ZERO, pair.a) {}
    let until = pair.wire.blocked_until(pair.a);
    assert!(until < LONGEST_BLOCK && pair.wire.stats.blocked == 1);
    assert_eq!(pair.wire.blocked_until(pair.b), Duration::ZERO, "each socket for itself");
    pair.wire.buggify(0.0);
    assert!(!pair.wire.is_blocked(until, pair.a));
}
