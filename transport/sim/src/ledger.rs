//! The [`Ledger`]: an oracle that sees both ends of every edge.

use std::collections::BTreeMap;
use std::fmt;

/// Names an edge in the [`Ledger`]: any number the test can compute at both ends, as a subscription's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge(pub u64);

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "edge {}", self.0)
    }
}

/// How an edge broke the contract.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The producer sent more events than the consumer asked for (Reactive Streams rule 1.1).
    #[error("{edge}: sent {sent} events, asked for {asked}")]
    MoreThanAsked {
        /// Where it happened.
        edge: Edge,
        /// Events asked for so far.
        asked: u64,
        /// Events sent so far.
        sent: u64,
    },
    /// An event arrived out of turn: one was lost, came twice or overtook another.
    #[error("{edge}: received event {received}, expected {expected}")]
    OutOfOrder {
        /// Where it happened.
        edge: Edge,
        /// The sequence number whose turn it was.
        expected: u64,
        /// The sequence number that came.
        received: u64,
    },
    /// More events arrived than were sent.
    #[error("{edge}: received {received} events, sent {sent}")]
    MoreThanSent {
        /// Where it happened.
        edge: Edge,
        /// Events sent so far.
        sent: u64,
        /// Events received so far.
        received: u64,
    },
}

aqueduct_stage::debug_as_sentence!(Violation);

/// An oracle that sees both ends of every edge: what the consumer asked for, what the producer sent, what arrived.
///
/// A check at the consumer alone misses a producer that sends more than it was asked for: what it sends too early hides
/// in the slack of the window. Here `sent <= asked` is checked at every step, and events must arrive in order and once.
///
/// Producers call [`sent`](Self::sent) *before* they hand the events to the network, consumers call
/// [`asked`](Self::asked) before they send the ask. Violations stay: the first is kept in
/// [`violation`](Self::violation). Pure; [`SimNet`](crate::SimNet) holds one per run and ends the run on a violation.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<Edge, Account>,
    violation: Option<Violation>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    asked: u64,
    sent: u64,
    received: u64,
    /// The sequence number of the first event of the edge.
    first: u64,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events of `edge` are numbered from `sequence` instead of 0, as those of a resumed subscription.
    pub fn starts_at(&mut self, edge: Edge, sequence: u64) {
        self.accounts.entry(edge).or_default().first = sequence;
    }

    /// The consumer's demand now reaches up to `up_to` events since the edge began. Absolute, so that an ask may be
    /// repeated; demand never shrinks, so a lower number changes nothing.
    pub fn asked(&mut self, edge: Edge, up_to: u64) {
        let account = self.accounts.entry(edge).or_default();
        account.asked = account.asked.max(up_to);
    }

    /// The producer sends `events` more events.
    ///
    /// # Errors
    /// [`Violation::MoreThanAsked`].
    pub fn sent(&mut self, edge: Edge, events: u64) -> Result<(), Violation> {
        let account = self.accounts.entry(edge).or_default();
        account.sent += events;
        let Account { asked, sent, .. } = *account;
        self.check(sent <= asked, Violation::MoreThanAsked { edge, asked, sent })
    }

    /// The event numbered `sequence` arrived at the consumer. The edge goes on behind it, whether it was its turn or not.
    ///
    /// # Errors
    /// [`Violation::OutOfOrder`] and [`Violation::MoreThanSent`].
    pub fn received(&mut self, edge: Edge, sequence: u64) -> Result<(), Violation> {
        let account = self.accounts.entry(edge).or_default();
        let expected = account.first + account.received;
        account.received = sequence.saturating_sub(account.first) + 1;
        let Account { sent, received, .. } = *account;
        self.check(sequence == expected, Violation::OutOfOrder { edge, expected, received: sequence })?;
        self.check(received <= sent, Violation::MoreThanSent { edge, sent, received })
    }

    /// Events asked for and not sent yet.
    pub fn demand(&self, edge: Edge) -> u64 {
        self.accounts.get(&edge).map_or(0, |account| account.asked.saturating_sub(account.sent))
    }

    /// Events sent and not received yet: under way, or lost when the edge has come to rest.
    pub fn under_way(&self, edge: Edge) -> u64 {
        self.accounts.get(&edge).map_or(0, |account| account.sent.saturating_sub(account.received))
    }

    /// The first violation of any edge.
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    fn check(&mut self, holds: bool, violation: Violation) -> Result<(), Violation> {
        if holds {
            return Ok(());
        }
        self.violation.get_or_insert(violation);
        Err(violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: Edge = Edge(7);

    fn asked_and_sent(asked: u64, sent: u64) -> Ledger {
        let mut ledger = Ledger::new();
        ledger.asked(EDGE, asked);
        ledger.sent(EDGE, sent).unwrap();
        ledger
    }

    #[test]
    fn as_much_as_asked_may_be_sent() {
        let mut ledger = asked_and_sent(10, 4);
        assert_eq!((ledger.demand(EDGE), ledger.under_way(EDGE)), (6, 4));
        ledger.sent(EDGE, 6).unwrap();
        assert_eq!((ledger.demand(EDGE), ledger.violation()), (0, None));
    }

    #[test]
    fn one_event_more_is_a_violation_that_stays() {
        let mut ledger = asked_and_sent(10, 10);
        let violation = Violation::MoreThanAsked { edge: EDGE, asked: 10, sent: 11 };
        assert_eq!(ledger.sent(EDGE, 1), Err(violation));
        ledger.asked(EDGE, 100);
        assert_eq!(ledger.violation(), Some(violation));
        assert_eq!(violation.to_string(), "edge 7: sent 11 events, asked for 10");
    }

    #[test]
    fn nothing_may_be_sent_unasked() {
        assert!(Ledger::new().sent(EDGE, 1).is_err());
    }

    #[test]
    fn repeated_and_older_asks_change_nothing() {
        let mut ledger = asked_and_sent(10, 0);
        ledger.asked(EDGE, 10);
        ledger.asked(EDGE, 3);
        assert_eq!(ledger.demand(EDGE), 10);
    }

    #[test]
    fn events_arrive_in_order() {
        let mut ledger = asked_and_sent(3, 3);
        for sequence in 0..3 {
            ledger.received(EDGE, sequence).unwrap();
        }
        assert_eq!((ledger.under_way(EDGE), ledger.violation()), (0, None));
    }

    #[test]
    fn a_gap_a_repeat_and_a_swap_are_violations() {
        for (order, expected, received) in [([0, 2], 1, 2), ([0, 0], 1, 0), ([1, 0], 0, 1)] {
            let mut ledger = asked_and_sent(3, 3);
            let answers = order.map(|sequence| ledger.received(EDGE, sequence));
            let violation = Violation::OutOfOrder { edge: EDGE, expected, received };
            assert!(answers.contains(&Err(violation)), "{order:?}");
            assert_eq!(ledger.violation(), Some(violation));
        }
    }

    #[test]
    fn what_was_not_sent_cannot_arrive() {
        let mut ledger = asked_and_sent(5, 1);
        ledger.received(EDGE, 0).unwrap();
        assert_eq!(ledger.received(EDGE, 1), Err(Violation::MoreThanSent { edge: EDGE, sent: 1, received: 2 }));
    }

    #[test]
    fn a_resumed_edge_starts_where_the_last_one_ended() {
        let mut ledger = asked_and_sent(5, 5);
        ledger.starts_at(EDGE, 100);
        ledger.received(EDGE, 100).unwrap();
        assert!(ledger.received(EDGE, 100).is_err());
    }

    #[test]
    fn edges_do_not_share_demand() {
        let mut ledger = asked_and_sent(10, 0);
        assert!(ledger.sent(Edge(8), 1).is_err());
    }
}
