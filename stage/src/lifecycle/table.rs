//! What a stage is to do next, for each state that it may be in and each thing that it is told.

use super::*;
use crate::FailureKind;

const ALL: [Role; 3] = [Role::Producer, Role::ProducerConsumer, Role::Consumer];
const PRODUCING: [Role; 2] = [Role::Producer, Role::ProducerConsumer];
const CONSUMING: [Role; 2] = [Role::ProducerConsumer, Role::Consumer];

/// At work: it has producers and subscribers, and something waits everywhere.
const BUSY: WorkLeft = WorkLeft {
    has_producers: true,
    has_arrivals: true,
    is_left_alone: false,
    is_delivered: false,
    has_events: true,
    may_come_back: true,
};
/// The producers are over, and nothing waits; the subscribers are there.
const IDLE: WorkLeft = WorkLeft {
    has_producers: false,
    has_arrivals: false,
    is_left_alone: false,
    is_delivered: true,
    has_events: false,
    may_come_back: false,
};
/// All subscribers have left, and nothing else has changed.
const ALONE: WorkLeft = WorkLeft { is_left_alone: true, ..BUSY };

fn failure(why: &str) -> Failure {
    Failure::new("far", FailureKind::Error, why)
}

fn lifecycle(role: Role, tell: impl FnOnce(&mut Lifecycle)) -> Lifecycle {
    let mut lifecycle = Lifecycle::new(role);
    tell(&mut lifecycle);
    lifecycle
}

fn completing(role: Role) -> Lifecycle {
    lifecycle(role, Lifecycle::complete)
}

fn exhausted(role: Role) -> Lifecycle {
    lifecycle(role, Lifecycle::exhaust)
}

/// The answer as it reads.
fn answer(step: Step) -> String {
    match step {
        Step::End(exit) => format!("end: {exit}"),
        step => format!("{step:?}"),
    }
}

/// What is next, in so many words; and that the cheap question agrees.
fn next(mut lifecycle: Lifecycle, left: WorkLeft) -> String {
    let may_end = lifecycle.may_end(left.has_producers, left.is_left_alone);
    let answer = answer(lifecycle.next(left));
    assert!(may_end || answer == "Live", "{answer} was not expected");
    answer
}

#[test]
fn a_stage_that_waits_for_subscribers_lives_on() {
    for role in ALL {
        for left in [BUSY, IDLE, ALONE] {
            assert_eq!(next(Lifecycle::new(role), left), "Live", "{role:?} {left:?}");
            let is_asked = Lifecycle::new(role).may_end(left.has_producers, left.is_left_alone);
            assert!(!is_asked, "a look at everything after each message would be for nothing");
        }
    }
}

#[test]
fn a_stage_that_is_to_complete_ends_with_the_last_of_its_neighbours() {
    let no_arrivals = WorkLeft { has_arrivals: false, ..BUSY };
    let no_producers = WorkLeft { has_producers: false, ..BUSY };
    let handled = WorkLeft { has_arrivals: false, ..no_producers };
    for (role, left, expected) in [
        (Role::Producer, BUSY, "Live"),
        (Role::Producer, IDLE, "Live"),
        (Role::Producer, ALONE, "Exhaust"),
        (Role::ProducerConsumer, BUSY, "Live"),
        (Role::ProducerConsumer, no_arrivals, "Live"),
        (Role::ProducerConsumer, ALONE, "Exhaust"),
        (Role::ProducerConsumer, no_producers, "Live"),
        (Role::ProducerConsumer, handled, "ProducersAreOver"),
        (Role::Consumer, BUSY, "Live"),
        (Role::Consumer, no_arrivals, "Live"),
        (Role::Consumer, no_producers, "Live"),
        (Role::Consumer, handled, "ProducersAreOver"),
        // It has none, and that says nothing.
        (Role::Consumer, ALONE, "Live"),
    ] {
        assert_eq!(next(completing(role), left), expected, "{role:?} {left:?}");
    }
}

#[test]
fn an_exhausted_stage_ends_when_everything_is_delivered_and_cannot_come_back() {
    let may_come_back = WorkLeft { may_come_back: true, ..IDLE };
    // Nobody has come yet who is to be told of the end.
    let unattended = WorkLeft { is_delivered: false, ..IDLE };
    for role in PRODUCING {
        assert_eq!(next(exhausted(role), IDLE), "end: normal");
        for left in [BUSY, ALONE, may_come_back, unattended] {
            assert_eq!(next(exhausted(role), left), "Live", "{role:?} {left:?}");
        }
    }
}

#[test]
fn a_stage_that_drains_waits_for_nobody_who_has_not_come() {
    let unattended = WorkLeft { is_delivered: false, ..IDLE };
    for role in PRODUCING {
        let draining = |role| {
            lifecycle(role, |lifecycle| {
                lifecycle.drain();
                lifecycle.exhaust();
            })
        };
        assert_eq!(next(draining(role), unattended), "end: normal");
        for left in [WorkLeft { has_events: true, ..unattended }, WorkLeft { may_come_back: true, ..unattended }] {
            assert_eq!(next(draining(role), left), "Live", "what waits is delivered first");
        }
    }
    let told: Vec<_> = ALL.map(|role| answer(Lifecycle::new(role).drain())).into();
    assert_eq!(told, ["Exhaust", "Live", "Live"], "who has producers handles what they gave");
}

#[test]
fn whoever_is_abandoned_ends_though_something_waits() {
    for role in PRODUCING {
        let mut abandoned = completing(role);
        assert_eq!((answer(abandoned.next(ALONE)).as_str(), abandoned.is_abandoned()), ("Exhaust", true));
        abandoned.exhaust();
        assert_eq!(answer(abandoned.next(ALONE)), "end: normal");
        let mut exhausted = completing(role);
        exhausted.exhaust();
        assert_eq!((answer(exhausted.next(ALONE)).as_str(), exhausted.is_abandoned()), ("end: normal", true));
    }
    assert!(!completing(Role::Producer).is_abandoned());
}

#[test]
fn without_a_subscriber_that_failed_the_work_is_not_done() {
    let oops = failure("oops");
    for role in PRODUCING {
        for is_exhausted in [false, true] {
            let lost = |come: bool, reason: Exit| {
                lifecycle(role, |lifecycle| {
                    lifecycle.complete();
                    lifecycle.subscriber_left(&reason);
                    if come {
                        lifecycle.subscriber_came();
                    }
                    if is_exhausted {
                        lifecycle.exhaust();
                    }
                })
            };
            let failed = || Exit::Failed(oops.clone());
            let in_good_order = if is_exhausted { "end: normal" } else { "Exhaust" };
            assert_eq!(next(lost(false, failed()), ALONE), format!("end: {oops}"));
            assert_eq!(next(lost(false, failed()), BUSY), "Live", "others are there");
            assert_eq!(next(lost(true, failed()), ALONE), in_good_order, "somebody came after it");
            assert_eq!(next(lost(false, Exit::Shutdown), ALONE), in_good_order);
        }
    }
}

#[test]
fn what_was_seen_of_the_producers_says_how_the_stage_ends() {
    for (lost, saw_everything, expected) in [
        (None, true, "Everything"),
        (None, false, "NotAll"),
        (Some(Exit::Shutdown), false, "CutShort"),
        (Some(Exit::Normal), false, "CutShort"),
        (Some(Exit::Failed(failure("oops"))), false, "Lost"),
    ] {
        let seen = format!("{:?}", Lifecycle::new(Role::Consumer).producers_are_over(lost, saw_everything));
        assert!(seen.starts_with(expected), "{seen}, not {expected}");
    }
    for (role, is_draining, saw_everything, expected, then) in [
        (Role::Consumer, false, true, "end: normal", "Live"),
        (Role::Consumer, true, false, "end: normal", "Live"),
        (Role::ProducerConsumer, false, true, "Exhaust", "end: normal"),
        (Role::ProducerConsumer, false, false, "Exhaust", "end: normal"),
        (Role::ProducerConsumer, true, true, "Exhaust", "end: normal"),
        // Or whoever takes the rest would take it for the end of the data.
        (Role::ProducerConsumer, true, false, "Exhaust", "end: shutdown"),
    ] {
        let mut lifecycle = Lifecycle::new(role);
        if is_draining {
            lifecycle.drain();
        }
        let step = lifecycle.has_handled_everything(saw_everything);
        if matches!(step, Step::Exhaust) {
            lifecycle.exhaust();
        }
        assert_eq!((answer(step).as_str(), next(lifecycle, IDLE).as_str()), (expected, then), "{role:?}");
    }
}

#[test]
fn who_wants_to_end_delivers_first_if_its_work_is_done() {
    let oops = failure("oops");
    for role in ALL {
        let wants = |exit: Exit| answer(Lifecycle::new(role).wants_to_end(exit));
        assert_eq!(wants(Exit::Normal), if role == Role::Consumer { "end: normal" } else { "Exhaust" });
        assert_eq!(wants(Exit::Shutdown), "end: shutdown");
        assert_eq!(wants(Exit::Failed(oops.clone())), format!("end: {oops}"));
    }
}

#[test]
fn the_first_failure_is_the_reason() {
    let (first, last) = (failure("first"), failure("last"));
    for (exit, goodbye, expected) in [
        (Exit::Normal, None, "normal".to_owned()),
        (Exit::Shutdown, None, "shutdown".to_owned()),
        (Exit::Normal, Some(last.clone()), last.to_string()),
        (Exit::Shutdown, Some(last.clone()), last.to_string()),
        (Exit::Failed(first.clone()), Some(last.clone()), first.to_string()),
    ] {
        assert_eq!(Lifecycle::after_goodbye(exit, goodbye).to_string(), expected);
    }
}

#[test]
fn the_end_is_told_once_and_nothing_follows() {
    for role in CONSUMING {
        let mut over = completing(role);
        assert!(over.is_running() && !over.is_exhausted());
        over.exhaust();
        assert!(!over.is_running() && over.is_exhausted());
        assert_eq!([over.end(), over.end()], [true, false]);
        assert!(!over.is_running() && !over.is_exhausted());
        assert_eq!(next(over, IDLE), "Live");
    }
}
