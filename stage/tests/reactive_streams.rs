//! The rules of Reactive Streams, in the words of stages: a test carries the number of the rule it checks.
//!
//! The suite is generic over how a consumer gets to its producer, a [`Route`]. It is instantiated for an edge within one
//! graph and for an edge through a producer-consumer (rule 4.1); the simulator's tests add a link between two nodes, and
//! anything that turns a source into a source can be another one. Rules 2.11 (published state) and 3.1 (only the consumer
//! asks) are kept by types; of 1.11 only the dispatcher by demand is tested here.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "reactive_streams/rules.rs"]
mod rules;
mod support;

use aqueduct_stage::{Graph, Source};
use rules::{Route, every_rule};
use support::{Log, relay, settled};

/// An edge within the graph.
struct Direct;

impl Route for Direct {
    async fn route<S: Source<Item = u64> + Clone>(_: &Graph, source: &S) -> impl Source<Item = u64> + Clone {
        source.clone()
    }
}

/// Through a producer-consumer.
struct Through;

impl Route for Through {
    // A window in its queue, and what it has made of another in its buffer.
    const PREFETCH: usize = 8;

    async fn route<S: Source<Item = u64> + Clone>(graph: &Graph, source: &S) -> impl Source<Item = u64> + Clone {
        graph.stage("between", relay(&Log::new())).subscribe(source, 2..4)
    }
}

/// Every rule, for one route.
macro_rules! rules {
    ($route:ident: $($rule:ident)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $rule() {
                crate::rules::$rule::<crate::$route>().await;
            }
        )*
    };
}

mod direct {
    crate::every_rule!(rules: Direct);
}

mod through_a_producer_consumer {
    crate::every_rule!(rules: Through);
}
