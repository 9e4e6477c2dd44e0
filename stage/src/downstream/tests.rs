//! What a stage asks of its callback, gives to its subscribers, and takes back from them.

use aqueduct_dispatcher::{DemandDispatcher, Keep};

use super::*;

fn downstream(capacity: usize, keep: Keep) -> Downstream<u32> {
    Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(capacity, keep), DemandMode::Forward, 1)
}

fn subscriber(downstream: &mut Downstream<u32>) -> SubscriptionId {
    let id = SubscriptionId::new();
    downstream.subscribe(id, ConsumerId::new(), Window::NEAR, Cancel::default(), Interest::ALL).expect("a new one");
    id
}

/// What is asked of the callback.
fn ask(downstream: &mut Downstream<u32>, id: SubscriptionId, up_to: u64) -> u64 {
    downstream.ask(id, Demand::new(up_to));
    downstream.pull().count()
}

fn sent(downstream: &mut Downstream<u32>) -> Vec<Vec<u32>> {
    let decisions = std::iter::from_fn(|| downstream.next_decision());
    decisions
        .filter_map(|decision| match decision {
            Decision::Deliver(delivery) => Some(delivery.events.into_vec()),
            _ => None,
        })
        .collect()
}

fn emit(downstream: &mut Downstream<u32>, events: impl IntoIterator<Item = u32>) -> usize {
    downstream.emit(&mut events.into_iter().collect())
}

#[test]
fn the_buffer_is_served_before_the_callback_is_asked() {
    let mut down = downstream(10, Keep::Last);
    assert_eq!((emit(&mut down, 0..3), emit(&mut down, 3..5)), (0, 0));
    let id = subscriber(&mut down);
    assert_eq!(ask(&mut down, id, 4), 0);
    assert_eq!(sent(&mut down), [vec![0, 1, 2, 3]]);
    assert_eq!(ask(&mut down, id, 8), 3);
    assert_eq!(sent(&mut down), [vec![4]]);
    assert!(down.is_delivered());
}

#[test]
fn asks_are_cumulative_so_a_repeated_one_changes_nothing() {
    let mut down = downstream(10, Keep::Last);
    let id = subscriber(&mut down);
    assert_eq!([4, 4, 2, 5].map(|up_to| ask(&mut down, id, up_to)), [4, 0, 0, 1]);
}

#[test]
fn what_a_leaving_subscriber_had_asked_for_serves_the_next() {
    let mut down = downstream(10, Keep::Last);
    let first = subscriber(&mut down);
    assert_eq!(ask(&mut down, first, 10), 10);
    assert!(down.cancel(first).is_some());
    let second = subscriber(&mut down);
    assert_eq!(ask(&mut down, second, 5), 0, "ten are on their way");
    emit(&mut down, 0..10);
    assert_eq!((sent(&mut down), down.waiting()), (vec![vec![0, 1, 2, 3, 4]], 5));
    assert_eq!(ask(&mut down, second, 12), 2, "five of the seven are here");
}

/// A subscriber that hands back what it does not finish, and that was given 0..count.
fn acknowledging(down: &mut Downstream<u32>, count: u32) -> SubscriptionId {
    let id = subscriber(down);
    down.handled(id, Demand::ZERO);
    ask(down, id, count.into());
    emit(down, 0..count);
    assert_eq!(sent(down), [Vec::from_iter(0..count)]);
    id
}

#[test]
fn what_a_subscriber_has_in_hand_that_wants_no_more_is_its_own_until_it_says_what_it_handled() {
    let mut down = downstream(10, Keep::Last);
    let id = acknowledging(&mut down, 6);
    down.handled(id, Demand::new(2));
    assert!(down.cancel(id).is_some() && down.is_abandoned());
    assert_eq!((down.waiting(), down.may_come_back()), (0, true));
    down.handled(id, Demand::new(4));
    assert!(down.leave(id, vec![(vec![4, 5].into(), Attempt::FIRST)]).is_none(), "it was told of already");
    assert_eq!((down.waiting(), down.may_come_back()), (2, false));
    let next = subscriber(&mut down);
    ask(&mut down, next, 5);
    assert_eq!(sent(&mut down), [vec![4, 5]]);
    let other = acknowledging(&mut downstream(10, Keep::Last), 3);
    let mut down = downstream(10, Keep::Last);
    let id = acknowledging(&mut down, 3);
    down.cancel(id);
    [id, other].iter().for_each(|id| down.handled(*id, Demand::new(3)));
    assert!(!down.may_come_back(), "it has handled everything");
}

#[test]
fn what_a_subscriber_did_not_take_waits_until_it_leaves() {
    for is_cancel in [true, false] {
        let mut down = downstream(10, Keep::Last);
        let id = acknowledging(&mut down, 3);
        ask(&mut down, id, 5);
        emit(&mut down, 3..5);
        assert_eq!(sent(&mut down), [vec![3, 4]]);
        down.refused(id, vec![3, 4].into(), Attempt::FIRST);
        down.handled(id, Demand::new(3));
        assert_eq!((down.waiting(), down.not_taken(), down.may_come_back()), (0, 2, true));
        let left = if is_cancel { down.cancel(id) } else { down.leave(id, Vec::new()) };
        assert!(left.is_some());
        assert_eq!((down.waiting(), down.not_taken(), down.may_come_back()), (2, 0, false));
    }
}

#[test]
fn what_is_owed_to_nobody_is_not_wanted() {
    let mut down = downstream(10, Keep::Last);
    let first = subscriber(&mut down);
    assert_eq!((ask(&mut down, first, 10), down.wanted()), (10, Demand::new(10)));
    down.set_mode(DemandMode::Accumulate);
    assert_eq!(down.wanted(), Demand::ZERO);
    down.set_mode(DemandMode::Forward);
    down.cancel(first);
    assert_eq!((down.owed(), down.wanted()), (Demand::new(10), Demand::ZERO));
    let second = subscriber(&mut down);
    assert_eq!((ask(&mut down, second, 4), down.wanted()), (0, Demand::new(4)));
}

#[test]
fn what_came_for_somebody_who_left_is_served_even_while_more_is_owed() {
    // In GenStage the second subscriber waits for the rest of the ten, and gets it before what is in the buffer.
    let mut down = downstream(10, Keep::Last);
    let first = subscriber(&mut down);
    assert_eq!(ask(&mut down, first, 10), 10);
    down.cancel(first);
    emit(&mut down, 0..3);
    let second = subscriber(&mut down);
    assert_eq!(ask(&mut down, second, 5), 0);
    assert_eq!(sent(&mut down), [vec![0, 1, 2]]);
    emit(&mut down, 3..10);
    assert_eq!(sent(&mut down), [vec![3, 4]]);
}

#[test]
fn what_the_buffer_cannot_hold_is_counted() {
    let mut down = downstream(5, Keep::First);
    assert_eq!(emit(&mut down, 0..8), 3);
    assert_eq!(down.waiting(), 5);
}

#[test]
fn nothing_moves_before_the_awaited_subscribers_have_come() {
    let mut down =
        Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(10, Keep::Last), DemandMode::Forward, 2);
    let first = subscriber(&mut down);
    assert_eq!(ask(&mut down, first, 4), 0);
    emit(&mut down, 0..2);
    assert!(sent(&mut down).is_empty() && !down.is_delivered());
    let second = subscriber(&mut down);
    assert_eq!(ask(&mut down, second, 3), 2, "two of the first four are here");
    assert_eq!(down.pull(), Demand::new(3), "each ask is answered by itself");
    assert_eq!(sent(&mut down), [vec![0, 1]]);
}

#[test]
fn who_is_leaving_is_given_nothing_and_still_hands_back() {
    let mut down = downstream(10, Keep::Last);
    let (first, second) = (subscriber(&mut down), subscriber(&mut down));
    assert_eq!(ask(&mut down, first, 3), 3);
    emit(&mut down, 0..2);
    assert_eq!(sent(&mut down), [vec![0, 1]]);
    down.begin_to_leave(first);
    assert_eq!(ask(&mut down, first, 100), 0);
    emit(&mut down, 2..3);
    assert!(sent(&mut down).is_empty() && !down.is_abandoned());
    assert!(down.leave(first, vec![(vec![1].into(), Attempt::FIRST)]).is_some());
    ask(&mut down, second, 2);
    assert_eq!(sent(&mut down), [vec![1], vec![2]]);
    let third = subscriber(&mut down);
    down.refuse(third);
    assert_eq!((down.edge(third).is_none(), down.waits_for(false)), (true, Some(WaitingFor::Demand { events: 0 })));
}

#[test]
fn who_is_refused_was_never_there() {
    let mut down = downstream(10, Keep::Last);
    let first = subscriber(&mut down);
    down.refuse(first);
    assert!(!down.is_abandoned());
    assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
}

#[test]
fn who_fails_before_it_has_asked_was_never_there() {
    let mut down =
        Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(10, Keep::Last), DemandMode::Forward, 2);
    let (silent, waiting) = (subscriber(&mut down), subscriber(&mut down));
    assert!(down.has_not_come(silent) && down.cancel(silent).is_some());
    assert_eq!(ask(&mut down, waiting, 3), 0, "it waits for the second, and has asked");
    assert!(!down.has_not_come(waiting) && !down.has_not_come(silent));
    assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
}

#[test]
fn says_who_or_what_is_missing() {
    let mut down =
        Downstream::new(Box::new(DemandDispatcher::new()), Buffer::new(10, Keep::Last), DemandMode::Accumulate, 2);
    assert_eq!(down.waits_for(false), Some(WaitingFor::Subscribers { missing: 2 }));
    let first = subscriber(&mut down);
    assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
    let second = subscriber(&mut down);
    assert_eq!(down.waits_for(false), Some(WaitingFor::Forwarding));
    down.set_mode(DemandMode::Forward);
    emit(&mut down, 0..3);
    assert_eq!(down.waits_for(false), Some(WaitingFor::Demand { events: 3 }));
    assert_eq!((ask(&mut down, first, 4), down.waits_for(false)), (1, None), "it owes one");
    down.cancel(second);
    emit(&mut down, 3..6);
    assert_eq!(down.waits_for(true), Some(WaitingFor::Demand { events: 2 }));
    down.cancel(first);
    assert_eq!(down.waits_for(false), Some(WaitingFor::NextSubscriber));
    assert_eq!(down.waits_for(true), Some(WaitingFor::Subscribers { missing: 1 }));
}

#[test]
fn a_subscriber_that_left_is_not_served() {
    let mut down = downstream(10, Keep::Last);
    let id = subscriber(&mut down);
    assert!(!down.is_abandoned());
    assert_eq!(ask(&mut down, id, 4), 4);
    assert!(down.cancel(id).is_some() && down.cancel(id).is_none());
    assert_eq!(ask(&mut down, id, 8), 0);
    emit(&mut down, 0..2);
    assert!(sent(&mut down).is_empty() && down.is_abandoned() && !down.is_delivered());
}
