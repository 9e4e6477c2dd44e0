//! What a consumer supervisor asks for, and when.

use std::time::Duration;

use aqueduct_stage::{Cancel, EndCause, Exit, Graph, Running, StageRef, SubscribeOptions, TaskOptions, Tasks};
use proptest::prelude::*;

use crate::script::{How, Script};
use crate::support::{Far, Log, Note, Warnings, count, endless, settled};

const SECOND: Duration = Duration::from_secs(1);

/// A supervisor of scripted children, subscribed to a producer that the test plays.
pub async fn supervised(script: &Script, options: impl Into<SubscribeOptions>) -> (Running, StageRef<Tasks<u64>>, Far) {
    let (graph, far) = (Graph::new("test"), Far::new());
    let options: SubscribeOptions = options.into();
    let tasks = graph.tasks("tasks", script.task()).subscribe(&far, options.cancel(Cancel::Temporary));
    let running = graph.start();
    settled().await;
    (running, tasks.stage_ref(), far)
}

#[tokio::test(start_paused = true)]
async fn max_3_min_2_asks_only_after_two_have_ended() {
    let script = Script::new();
    let (_running, _tasks, far) = supervised(&script, 2..3).await;
    assert_eq!(far.asks(), [3]);
    far.deliver(0..3);
    script.begun.until(|begun| begun.len() == 3).await;
    script.end(1, How::Well).await;
    assert_eq!(far.asks(), [3], "an ordinary consumer would ask now");
    script.end(0, How::Well).await;
    assert_eq!(far.asks(), [3, 5]);
    script.end(2, How::Well).await;
    assert_eq!(far.asks(), [3, 5], "it counts from 0 again");
}

#[tokio::test(start_paused = true)]
async fn at_most_max_tasks_are_alive() {
    let (log, script, graph) = (Log::new(), Script::new(), Graph::new("test"));
    let numbers = graph.producer("numbers", endless(&log));
    let tasks = graph.tasks("tasks", script.task()).subscribe(&numbers, 3..5);
    let _running = graph.start();
    let children = tasks.stage_ref().children().await.unwrap();
    settled().await;
    assert_eq!(children.count_children().active, 5);
    for child in 0..20 {
        script.end(child, How::Well).await;
        assert!((2..=5).contains(&children.count_children().active), "between max - min and max");
    }
    assert_eq!(log.asked(), [5, 3, 3, 3, 3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn events_in_excess_are_reported_and_started_all_the_same() {
    let (script, warnings) = (Script::new(), Warnings::collect());
    let (_running, tasks, far) = supervised(&script, 0..2).await;
    far.deliver(0..5);
    settled().await;
    assert_eq!(tasks.children().await.unwrap().count_children().active, 5);
    assert!(warnings.lines().concat().contains("more events than were asked for"), "{:?}", warnings.lines());
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_leaves_leaves_its_children_running() {
    let script = Script::new();
    let (_running, tasks, far) = supervised(&script, 0..2).await;
    far.deliver(0..2);
    settled().await;
    far.end(EndCause::Down(Exit::Normal));
    settled().await;
    let children = tasks.children().await.unwrap();
    assert_eq!(children.count_children().active, 2);
    script.end(0, How::Well).await;
    assert_eq!((children.count_children().active, far.asks()), (1, vec![2]), "it returns nothing");
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_has_demand_of_its_own() {
    // Children of the former one are still alive.
    let (script, graph, far) = (Script::new(), Graph::new("test"), Far::new());
    let options = SubscribeOptions::demand(1..2).cancel(Cancel::Temporary);
    let tasks = graph.tasks("tasks", script.task()).subscribe(&far, options);
    let running = graph.start();
    settled().await;
    far.deliver(0..2);
    settled().await;
    far.end(EndCause::Down(Exit::Shutdown));
    let again = Far::new();
    running.subscribe(&tasks, &again, options);
    settled().await;
    assert_eq!(again.asks(), [2]);
    again.deliver(2..4);
    settled().await;
    script.end(0, How::Well).await;
    script.end(1, How::Well).await;
    assert_eq!(again.asks(), [2], "those were not its events");
    script.end(2, How::Well).await;
    assert_eq!(again.asks(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn each_of_two_producers_has_its_own_demand() {
    let (script, graph, near, far) = (Script::new(), Graph::new("test"), Far::new(), Far::new());
    graph.tasks("tasks", script.task()).subscribe(&near, 1..2).subscribe(&far.clone().called("other"), 2..3);
    let _running = graph.start();
    settled().await;
    assert_eq!((near.asks(), far.asks()), (vec![2], vec![3]));
    near.deliver([1]);
    far.deliver([11, 12]);
    settled().await;
    script.end(11, How::Well).await;
    script.end(1, How::Well).await;
    assert_eq!((near.asks(), far.asks()), (vec![2, 3], vec![3]));
    script.end(12, How::WithError).await;
    assert_eq!(far.asks(), [3, 5]);
}

#[tokio::test(start_paused = true)]
async fn several_supervisors_share_one_producer() {
    let (log, graph) = (Log::new(), Graph::new("test"));
    let (one, other) = (Script::new(), Script::new());
    let numbers = graph.producer("numbers", count(6, &log)).wait_for_subscribers(2);
    graph.tasks("one", one.task()).subscribe(&numbers, 0..2);
    graph.tasks("other", other.task()).subscribe(&numbers, 0..4);
    let mut running = graph.start();
    settled().await;
    let mut all = [one.begun.all(), other.begun.all()].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    for (script, begun) in [(&one, one.begun.all()), (&other, other.begun.all())] {
        for child in begun {
            script.end(child, How::Well).await;
        }
    }
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_child_that_was_started_by_hand_returns_no_demand() {
    let script = Script::new();
    let (_running, tasks, far) = supervised(&script, 0..2).await;
    let children = tasks.children().await.unwrap();
    children.start_child(7).unwrap();
    settled().await;
    assert_eq!(script.begun.all(), [7]);
    script.end(7, How::Well).await;
    assert_eq!(far.asks(), [2]);
}

#[tokio::test(start_paused = true)]
async fn otp_terminated_child_returns_its_demand() {
    let script = Script::new();
    let (_running, tasks, far) = supervised(&script, 0..2).await;
    far.deliver([5]);
    settled().await;
    let children = tasks.children().await.unwrap();
    let id = children.which_children()[0].id;
    assert!(matches!(children.terminate_child(id).await, Ok(Exit::Normal)));
    assert!(children.terminate_child(id).await.is_err(), "it is gone");
    settled().await;
    assert_eq!((far.asks(), children.count_children().failed), (vec![2, 3], 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_cannot_even_be_made_returns_its_demand() {
    let (graph, far) = (Graph::new("test"), Far::new());
    let options = TaskOptions::transient();
    let tasks = graph.tasks_with("tasks", options, |_: u64| -> std::future::Ready<_> { panic!("no") });
    let tasks = tasks.subscribe(&far, 1..2);
    let _running = graph.start();
    settled().await;
    far.deliver(0..2);
    settled().await;
    let counts = tasks.stage_ref().children().await.unwrap().count_children();
    assert_eq!((far.asks(), counts.failed, counts.restarts, counts.specs), (vec![2, 4], 2, 0, 0));
}

/// What may happen to a child.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Ends(How),
    Terminated,
    /// It is terminated, does not listen, and is dropped when its time is over.
    HangsPastItsTime,
}

fn fate() -> impl Strategy<Value = Fate> {
    use How::*;
    let ends = prop_oneof![Just(Well), Just(WithError), Just(Panicking), Just(PanickingAsItIsDropped)];
    prop_oneof![4 => ends.prop_map(Fate::Ends), 1 => Just(Fate::Terminated), 1 => Just(Fate::HangsPastItsTime)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn otp_however_a_child_ends_it_returns_its_demand_exactly_once(
        min in 0_usize..4,
        more in 1_usize..4,
        fates in prop::collection::vec((any::<prop::sample::Index>(), fate()), 1..24),
    ) {
        let _watch = aqueduct_watchdog::Watch::over(format!("{min} and {more}, {fates:?} "));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (script, graph, far) = (Script::new(), Graph::new("test"), Far::new());
            let max = min + more;
            let tasks = graph.tasks("tasks", script.deaf()).subscribe(&far, min..max);
            let mut running = graph.start();
            let children = tasks.stage_ref().children().await.unwrap();
            settled().await;
            let (mut next, mut asked, mut returned) = (0, max, 0);
            let mut alive = Vec::new();
            for (index, fate) in fates {
                // Everything that was asked for comes.
                let to = asked as u64;
                far.deliver(next..to);
                alive.extend(next..to);
                next = to;
                settled().await;
                assert_eq!(children.which_children().len(), alive.len());
                if alive.is_empty() {
                    break;
                }
                let at = index.index(alive.len());
                let child = alive.remove(at);
                // They were started in this order, and are listed in it.
                let id = children.which_children()[at].id;
                match fate {
                    Fate::Ends(how) => script.end(child, how).await,
                    Fate::Terminated => {
                        let terminated = children.terminate_child(id);
                        let ended = script.end(child, How::Well);
                        let (exit, ()) = tokio::join!(biased; terminated, ended);
                        exit.unwrap();
                    }
                    Fate::HangsPastItsTime => drop(children.terminate_child(id).await.unwrap()),
                }
                settled().await;
                returned += 1;
                if returned >= min.max(1) {
                    asked += returned;
                    returned = 0;
                }
                assert_eq!(far.asks().last(), Some(&(asked as u64)));
                assert_eq!(script.gone.all().len(), script.begun.all().len() - alive.len(), "dropped exactly once");
            }
            running.stop(100 * SECOND).await.unwrap();
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_finite_source_waits_for_the_last_child() {
    let (log, script, graph) = (Log::new(), Script::new(), Graph::new("test"));
    let numbers = graph.producer("numbers", count(2, &log));
    let tasks = graph.tasks("tasks", script.task()).subscribe(&numbers, 5..10);
    let mut running = graph.start();
    let children = tasks.stage_ref().children().await.unwrap();
    log.until(|notes| notes.iter().any(|note| matches!(note, Note::Terminated(_)))).await;
    assert!(tokio::time::timeout(100 * SECOND, running.join()).await.is_err(), "there are children");
    // The reference answers although the stage waits.
    assert_eq!(children.which_children().len(), 2);
    script.end(0, How::Well).await;
    script.end(1, How::Well).await;
    let outcome = running.join().await.unwrap();
    assert_eq!(outcome.stage("tasks").unwrap().events_in, 2);
}
