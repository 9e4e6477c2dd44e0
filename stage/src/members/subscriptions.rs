//! The subscriptions of a graph: what their two ends know put together.

use std::collections::BTreeMap;

use super::Member;
use crate::SubscriptionSnapshot;

/// The subscriptions of all stages: what their two ends know put together.
pub(super) fn of(stages: &[Member]) -> Vec<SubscriptionSnapshot> {
    let mut all = BTreeMap::new();
    for stage in stages {
        for (id, name, counted) in stage.counters.edges.producers() {
            let one = SubscriptionSnapshot {
                id,
                from: name.to_string(),
                from_instance: None,
                to: Some(stage.stage.to_string()),
                to_instance: Some(stage.instance),
                window: Some(counted.window),
                asked: counted.asked,
                given: counted.passed,
                handled: Some(counted.passed),
            };
            all.insert(id, one);
        }
    }
    for stage in stages {
        for (id, counted) in stage.counters.edges.consumers() {
            let one = all.entry(id).or_insert_with(|| SubscriptionSnapshot {
                id,
                from: String::new(),
                from_instance: None,
                to: None,
                to_instance: None,
                window: None,
                asked: counted.asked,
                given: 0,
                handled: None,
            });
            one.from = stage.stage.to_string();
            one.from_instance = Some(stage.instance);
            // The consumer was read before its producer, which may have sent more since.
            one.given = counted.passed.max(one.given);
        }
    }
    all.into_values().collect()
}
