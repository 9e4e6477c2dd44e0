//! The rules of Reactive Streams over a link: the suite of the stages' own tests, with a producer on another node.
//!
//! Each rule runs on some networks that are drawn: delay, jitter, loss, duplication and corruption. What a rule says of the
//! same moment holds here once the network has come to rest; beyond that, these have a remote form:
//!
//! * 2.5: a subscription's id is known to its own node. The producer sees another one, so that the same id twice is two
//!   subscribers, and neither disturbs the other.
//! * 3.3: there is no stack to recurse on; the ping-pong is shorter.
//! * 3.10: an ask is answered at once, which is after one way there and one back.
//! * 3.17: what is on its way when it is cancelled is lost.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../../stage/tests/reactive_streams/rules.rs"]
mod rules;
#[path = "../../../stage/tests/support/mod.rs"]
mod support;
#[path = "far/two_nodes.rs"]
mod two_nodes;

use std::time::Duration;

use aqueduct_stage::{Graph, Source};
use rules::{Route, every_rule};
use two_nodes::{QUIET, far, settled};

const SEEDS: u64 = 20;

/// A link between two nodes.
struct Link;

impl Route for Link {
    const AT_ONCE: Duration = QUIET;
    const STEPS: usize = 300;
    const IS_FAR: bool = true;

    async fn route<S: Source<Item = u64> + Clone>(_: &Graph, source: &S) -> impl Source<Item = u64> + Clone {
        far(source)
    }
}

/// Every rule, for one route.
macro_rules! rules {
    ($route:ident: $($rule:ident)*) => {
        $(
            #[test]
            fn $rule() {
                crate::two_nodes::worlds(crate::SEEDS, crate::rules::$rule::<crate::$route>);
            }
        )*
    };
}

mod over_a_link {
    crate::every_rule!(rules: Link);
}
