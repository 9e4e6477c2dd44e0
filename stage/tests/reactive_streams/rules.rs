//! The rules, generic over how a consumer gets to its producer. Whoever includes this file brings `support`, `settled`
//! and a `rules!` that makes the tests of one route.

mod consumer;
mod producer;
mod subscription;

use std::time::Duration;

use aqueduct_stage::{Graph, Source};

pub(crate) use consumer::*;
pub(crate) use producer::*;
pub(crate) use subscription::*;

/// How a consumer gets to its producer.
pub(crate) trait Route {
    /// What stands for `source` at the consumer's end. Stages and links that it takes belong to `graph`.
    async fn route<S: Source<Item = u64> + Clone>(graph: &Graph, source: &S) -> impl Source<Item = u64> + Clone;

    /// How many events may be taken from the producer beyond what the consumer has asked for.
    const PREFETCH: usize = 0;
    /// How long an event may take that was asked for: no more than its way takes.
    const AT_ONCE: Duration = Duration::ZERO;
    /// How often a ping-pong of demand and events has to work.
    const STEPS: usize = 100_000;
    /// The producer is on another node.
    const IS_FAR: bool = false;
}

/// Checks that a consumer was told of a failure of its producer, or of a node beyond: the report says where that was.
#[track_caller]
fn assert_told<R: Route>(told: &str, failure: &str) {
    if R::IS_FAR {
        assert!(told.starts_with("down: on ") && told.ends_with(&format!(": {failure}")), "{told}");
    } else {
        assert_eq!(told, format!("down: {failure}"));
    }
}

/// Calls a macro for one route with the name of every rule.
macro_rules! every_rule {
    ($rules:ident: $route:ident) => {
        $rules! {
            $route:
            rs_1_01_never_more_than_was_asked_for
            rs_1_02_fewer_than_were_asked_for_and_then_the_end
            rs_1_03_callbacks_of_one_consumer_never_overlap
            rs_1_04_a_failure_reaches_the_consumer
            rs_1_05_a_finite_producer_ends_after_its_last_event
            rs_1_06_an_end_ends_the_edge_on_both_sides
            rs_1_07_nothing_follows_the_end
            rs_1_08_after_a_cancel_events_stop
            rs_1_09_a_refusal_is_told
            rs_1_10_one_consumer_may_hold_several_subscriptions
            rs_1_11_several_consumers_share_the_events
            rs_2_01_no_demand_no_events
            rs_2_02_a_slow_consumer_holds_up_nobody_else
            rs_2_03_an_ended_subscription_is_not_entered_again
            rs_2_04_asking_after_the_end_does_nothing
            rs_2_05_a_second_subscription_of_the_same_id_is_refused
            rs_2_06_a_consumer_that_ends_cancels
            rs_2_07_asks_and_cancels_are_taken_in_order
            rs_2_08_events_on_their_way_are_tolerated_after_a_cancel
            rs_2_09_the_end_may_come_before_any_demand
            rs_2_10_a_failure_may_come_before_any_demand
            rs_2_12_a_subscription_is_told_once
            rs_2_13_a_callback_that_fails_ends_the_consumer_and_cancels
            rs_3_02_asking_from_within_the_handler
            rs_3_03_no_recursion_from_ask_to_event_to_ask
            rs_3_04_asking_does_not_wait_for_the_producer
            rs_3_05_cancelling_is_prompt_and_may_come_from_any_thread
            rs_3_06_asking_after_a_cancel_does_nothing
            rs_3_07_cancelling_after_a_cancel_does_nothing
            rs_3_08_asks_add_up
            rs_3_09_asking_for_nothing_or_again_for_the_same_does_nothing
            rs_3_10_an_ask_may_be_answered_at_once
            rs_3_12_a_cancel_ends_the_work_for_that_consumer
            rs_3_13_a_cancel_drops_every_reference_to_the_consumer
            rs_3_14_the_last_cancel_may_end_the_producer
            rs_3_15_asks_and_cancels_of_the_unknown_do_no_harm
            rs_3_17_demand_without_bound
            rs_4_02_who_survives_a_failure_above_recovers
        }
    };
}

pub(crate) use every_rule;
