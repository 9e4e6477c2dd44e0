//! [`NodeSnapshot`]: what a node is doing.

use std::fmt;

use crate::connection::Counters;

/// What a node is doing, and what has happened since its start: see [`Node::snapshot`](crate::Node::snapshot). Nothing is
/// computed until somebody asks for it, and asking disturbs nobody. The numbers are read one after the other while the
/// node works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeSnapshot {
    /// The node's name in its cluster.
    pub node: String,
    /// Connections now that others have made to it.
    pub connections_in: u64,
    /// Connections now that it has made to others.
    pub connections_out: u64,
    /// How often somebody who dialled it was not let in: there was no room, or it did not prove who it is, or it did not
    /// introduce itself properly and in time. Who is asked to come again later does not count.
    pub connections_refused: u64,
    /// How often it has dialled in vain: the other node was not there, or refused, or nobody waited for its answer any longer.
    pub dials_failed: u64,
    /// Subscriptions of other nodes now, those that are cut off and waited for included.
    pub links_published: u64,
    /// Its own subscriptions to other nodes now, those that are cut off included.
    pub links_subscribed: u64,
    /// How often a subscription, of either kind, has gone on over another connection.
    pub links_resumed: u64,
    /// How many subscriptions, of either kind, have ended with the loss of their connection: it was closed for good, or not
    /// replaced within the [grace](crate::NodeConfig::session_grace).
    pub links_given_up: u64,
    /// How many of those were cut off, and given up before the grace because others waited for them: see
    /// [`PublishOptions::lag_limit`](crate::PublishOptions::lag_limit).
    pub links_given_up_early: u64,
    /// How many subscriptions of other nodes it has refused, for whatever reason.
    pub subscriptions_refused: u64,
    /// How often another node broke a rule of the protocol.
    pub offences: u64,
    /// How many messages about what other nodes did were left out of the log, as there were many of a kind: 16 may come at
    /// once, and one a second after that, which says how many were left out.
    pub notices_left_out: u64,
    /// Events that its subscriptions have brought from other nodes.
    pub events_in: u64,
    /// Events that it has sent to other nodes. What is sent again after a cut does not count again.
    pub events_out: u64,
}

/// One number with its name and labels, as Prometheus and OpenTelemetry have them.
///
/// The names are part of the public interface. `dir` is `in` or `out`:
///
/// | name | kind | what |
/// |---|---|---|
/// | `remote_connections` | gauge | by `dir`: connections that others have made, and that it has |
/// | `remote_connections_refused_total` | counter | diallers that were not let in |
/// | `remote_dials_failed_total` | counter | other nodes that could not be reached, or refused |
/// | `remote_links` | gauge | by `dir`: subscriptions to other nodes, and of them |
/// | `remote_reconnects_total` | counter | subscriptions that have gone on over another connection |
/// | `remote_links_given_up_total` | counter | subscriptions that have ended with the loss of their connection |
/// | `remote_links_given_up_early_total` | counter | those of them that were given up because others waited for them |
/// | `remote_subscriptions_refused_total` | counter | subscriptions of other nodes that were refused |
/// | `remote_offences_total` | counter | broken rules of the protocol |
/// | `remote_notices_left_out_total` | counter | messages about what other nodes did that were left out of the log |
/// | `remote_events_total` | counter | by `dir`: events from other nodes, and to them |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeMetric<'a> {
    /// One of the names above.
    pub name: &'static str,
    /// The node's name.
    pub node: &'a str,
    /// Which way, where there are two.
    pub dir: Option<&'static str>,
    /// Counters never fall while the node runs.
    pub value: u64,
}

impl NodeSnapshot {
    pub(crate) fn of(node: &str, counters: &Counters) -> Self {
        Self {
            node: node.to_owned(),
            connections_in: counters.connections_in.count(),
            connections_out: counters.connections_out.count(),
            connections_refused: counters.connections_refused.count(),
            dials_failed: counters.dials_failed.count(),
            links_published: counters.links_published.count(),
            links_subscribed: counters.links_subscribed.count(),
            links_resumed: counters.links_resumed.count(),
            links_given_up: counters.links_given_up.count(),
            links_given_up_early: counters.links_given_up_early.count(),
            subscriptions_refused: counters.subscriptions_refused.count(),
            offences: counters.offences.count(),
            notices_left_out: counters.notices.left_out(),
            events_in: counters.events_in.count(),
            events_out: counters.events_out.count(),
        }
    }

    /// Its numbers under fixed names, for whatever exports them.
    pub fn metrics(&self) -> impl Iterator<Item = NodeMetric<'_>> {
        let (here, there) = (Some("in"), Some("out"));
        let all = [
            ("remote_connections", here, self.connections_in),
            ("remote_connections", there, self.connections_out),
            ("remote_connections_refused_total", None, self.connections_refused),
            ("remote_dials_failed_total", None, self.dials_failed),
            ("remote_links", here, self.links_subscribed),
            ("remote_links", there, self.links_published),
            ("remote_reconnects_total", None, self.links_resumed),
            ("remote_links_given_up_total", None, self.links_given_up),
            ("remote_links_given_up_early_total", None, self.links_given_up_early),
            ("remote_subscriptions_refused_total", None, self.subscriptions_refused),
            ("remote_offences_total", None, self.offences),
            ("remote_notices_left_out_total", None, self.notices_left_out),
            ("remote_events_total", here, self.events_in),
            ("remote_events_total", there, self.events_out),
        ];
        all.into_iter().map(|(name, dir, value)| NodeMetric { name, node: &self.node, dir, value })
    }
}

impl fmt::Display for NodeMetric<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, node, dir, value } = self;
        write!(f, "{name}{{node={node:?}")?;
        dir.map_or(Ok(()), |dir| write!(f, ",dir={dir:?}"))?;
        write!(f, "}} {value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_stay_as_they_are() {
        let snapshot = NodeSnapshot { node: "a".into(), links_resumed: 7, events_out: 9, ..NodeSnapshot::default() };
        let all: Vec<_> = snapshot.metrics().map(|metric| metric.to_string()).collect();
        let expected = [
            r#"remote_connections{node="a",dir="in"} 0"#,
            r#"remote_connections{node="a",dir="out"} 0"#,
            r#"remote_connections_refused_total{node="a"} 0"#,
            r#"remote_dials_failed_total{node="a"} 0"#,
            r#"remote_links{node="a",dir="in"} 0"#,
            r#"remote_links{node="a",dir="out"} 0"#,
            r#"remote_reconnects_total{node="a"} 7"#,
            r#"remote_links_given_up_total{node="a"} 0"#,
            r#"remote_links_given_up_early_total{node="a"} 0"#,
            r#"remote_subscriptions_refused_total{node="a"} 0"#,
            r#"remote_offences_total{node="a"} 0"#,
            r#"remote_notices_left_out_total{node="a"} 0"#,
            r#"remote_events_total{node="a",dir="in"} 0"#,
            r#"remote_events_total{node="a",dir="out"} 9"#,
        ];
        assert_eq!(all, expected);
    }
}
