//! More than two nodes in a row, tasks that are fed from another node, and what a consumer hands back to a far producer.

use std::time::Duration;

use aqueduct_stage::{Cancel, Graph, Running, Stage, SubscribeOptions, TaskOptions};

use crate::support::{
    Gate, Log, Note, Numbers, Say, Sink, count, emit, endless, idle, oops, relay, sink, sink_with, with,
};
use crate::two_nodes::machine;
use crate::{between, far, graphs, scenario, settled};

/// A producer, a producer-consumer and a consumer, each on a node of its own.
struct Chain {
    numbers: Stage<Numbers, aqueduct_stage::Never, u64>,
    /// What each of them is told.
    notes: [Log; 3],
    running: [Running; 3],
}

impl Chain {
    fn new(
        make: impl FnOnce(&Log) -> Box<dyn Fn() -> Numbers + Send + Sync>,
        change: impl FnOnce(&mut Sink),
        cancel: Cancel,
    ) -> Self {
        let notes = [Log::new(), Log::new(), Log::new()];
        let [first, second, third] = [0, 1, 2].map(|n| Graph::with_spawner("chain", machine(n).host));
        let numbers = first.producer("numbers", make(&notes[0]));
        let options = SubscribeOptions::demand(5..10).cancel(cancel);
        let middle = second.stage("relay", relay(&notes[1])).subscribe(&between(0, 1, &numbers), 5..10);
        third.consumer("sink", sink_with(&notes[2], change)).subscribe(&between(1, 2, &middle), options);
        Self { numbers, notes, running: [first.start(), second.start(), third.start()] }
    }
}

#[test]
fn three_nodes_in_a_row_lose_nothing_and_keep_the_order() {
    scenario(async || {
        let mut chain = Chain::new(|notes| Box::new(count(300, notes)), |_| {}, Cancel::Permanent);
        for graph in &mut chain.running {
            graph.join().await.unwrap();
        }
        assert_eq!(chain.notes[2].events(), (0..300).collect::<Vec<_>>());
        assert!(chain.notes.iter().all(|log| log.all().last() == Some(&Note::Terminated("normal".into()))));
    });
}

#[test]
fn a_stuck_consumer_holds_back_the_producer_two_nodes_away() {
    scenario(async || {
        let gate = Gate::closed();
        let door = gate.clone();
        let chain = Chain::new(|notes| Box::new(endless(notes)), |sink| sink.gate = Some(door), Cancel::Permanent);
        settled().await;
        settled().await;
        let asked: usize = chain.notes[0].asked().iter().sum();
        // A window at the consumer; one in the queue of the stage between, and what it has made of another.
        assert!((10..=30).contains(&asked), "{asked}");
        settled().await;
        assert_eq!(chain.notes[0].asked().iter().sum::<usize>(), asked);
        gate.open(1_000);
        let events = chain.notes[2].events_reach(100).await;
        assert!(events.iter().copied().eq(0..events.len() as u64));
    });
}

#[test]
fn a_failure_goes_down_the_chain_and_says_where_it_was() {
    scenario(async || {
        let chain = Chain::new(|notes| Box::new(idle(notes)), |_| {}, Cancel::Temporary);
        settled().await;
        chain.numbers.stage_ref().cast(with(|cx| cx.stop(oops()))).unwrap();
        for log in &chain.notes[1..] {
            let cause = log.cancelled().await;
            assert!(cause.starts_with("down: ") && cause.ends_with(r#"stage "test" failed: oops"#), "{cause}");
        }
        settled().await;
        let ended: Vec<_> = chain.running.iter().map(|graph| graph.snapshot().stages[0].ended).collect();
        assert_eq!(ended, [true, true, false], "the last survives failures");
    });
}

#[test]
fn a_node_in_the_middle_that_crashes_is_noticed_by_both_of_its_neighbours() {
    scenario(async || {
        let chain = Chain::new(|notes| Box::new(idle(notes)), |_| {}, Cancel::Temporary);
        settled().await;
        machine(1).host.crash();
        chain.notes[0].cancelled().await;
        chain.notes[2].cancelled().await;
        settled().await;
        assert!([0, 2].iter().all(|n| !chain.running[*n].snapshot().stages[0].ended));
        assert_eq!(chain.numbers.stage_ref().call(Say("alive")).await, Ok("alive"));
    });
}

#[test]
fn tasks_that_are_fed_by_a_far_producer_are_bounded_by_demand() {
    scenario(async || {
        let ((there, here), asked) = (graphs(), Log::new());
        let (begun, gate) = (Log::<u64>::new(), Gate::closed());
        let numbers = there.producer("numbers", endless(&asked));
        let (written, door) = (begun.clone(), gate.clone());
        let task = move |event| {
            let (written, door) = (written.clone(), door.clone());
            async move {
                written.push(event);
                door.pass().await;
                Ok(())
            }
        };
        let tasks = here.tasks("tasks", task).subscribe(&far(&numbers), 3..5);
        let _running = (there.start(), here.start());
        let children = tasks.stage_ref().children().await.unwrap();
        settled().await;
        assert_eq!((children.count_children().active, asked.asked()), (5, vec![5]));
        gate.open(1);
        settled().await;
        assert_eq!((children.count_children().active, asked.asked()), (4, vec![5]));
        for round in 1..=3 {
            gate.open(if round == 1 { 2 } else { 3 });
            settled().await;
            let expected = [vec![5], vec![3; round]].concat();
            assert_eq!((children.count_children().active, asked.asked()), (5, expected));
        }
        assert_eq!(begun.all(), (0..14).collect::<Vec<_>>());
    });
}

#[test]
fn genstage_139_a_temporary_task_that_fails_is_gone_and_returns_its_demand() {
    scenario(async || {
        let ((there, here), asked) = (graphs(), Log::new());
        let numbers = there.producer("numbers", idle(&asked));
        let options = TaskOptions::temporary();
        let task = async |event: u64| if event == 1 { Err("no luck".into()) } else { Ok(()) };
        let tasks = here.tasks_with("tasks", options, task).subscribe(&far(&numbers), 1..2);
        let _running = (there.start(), here.start());
        settled().await;
        numbers.stage_ref().call(emit(0..2)).await.unwrap();
        settled().await;
        let counts = tasks.stage_ref().children().await.unwrap().count_children();
        assert_eq!((counts.active, counts.failed, counts.restarts), (0, 1, 0));
        assert_eq!(asked.asked().iter().sum::<usize>(), 4);
    });
}

/// A consumer that fails hands back what it did not finish: one on yet another node gets it, as a second attempt.
#[test]
fn what_a_far_consumer_fails_on_goes_to_another_node() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
        let numbers = there.producer("numbers", idle(&Log::new()));
        here.consumer("sick", sink_with(&logs[0], |sink| sink.poison = Some(7)))
            .subscribe_acknowledged(&between(0, 1, &numbers), 5..10);
        let (_there, _here) = (there.start(), here.start());
        settled().await;
        numbers.stage_ref().call(emit(0..10)).await.unwrap();
        logs[0].has(&Note::Terminated(r#"stage "sick" panicked: poisoned"#.into())).await;
        settled().await;
        let elsewhere = Graph::with_spawner("elsewhere", machine(2).host);
        elsewhere.consumer("well", sink(&logs[1])).subscribe_acknowledged(&between(0, 2, &numbers), 5..10);
        let _elsewhere = elsewhere.start();
        logs[1].events_reach(5).await;
        settled().await;
        assert_eq!(
            (logs[0].events(), logs[1].all()[1].clone()),
            ((0..5).collect(), Note::Events((5..10).collect(), 2))
        );
        assert_eq!(logs[1].events(), (5..10).collect::<Vec<_>>());
    });
}

/// A late consumer takes over from one that has left.
#[test]
fn a_consumer_on_another_node_goes_on_where_the_first_left_off() {
    scenario(async || {
        let ((there, here), logs) = (graphs(), [Log::new(), Log::new()]);
        let numbers = there.producer("numbers", count(20, &Log::new()));
        let [first, second] =
            [("first", &logs[0]), ("second", &logs[1])].map(|(name, log)| here.consumer(name, sink(log)));
        let (_there, mut here) = (there.start(), here.start());
        let [one, other] = [between(0, 1, &numbers), between(0, 2, &numbers)];
        let stops = SubscribeOptions::demand(0..5).cancel(Cancel::Temporary);
        let id = here.subscribe(&first, &one, stops);
        logs[0].events_reach(5).await;
        here.cancel(&first, id, aqueduct_stage::Exit::Normal);
        logs[0].cancelled().await;
        let before = logs[0].events();
        here.subscribe(&second, &other, 0..5);
        logs[1].has(&Note::End).await;
        assert!(before.iter().copied().eq(0..before.len() as u64));
        let after = logs[1].events();
        assert!(after.is_sorted() && after[0] >= before.len() as u64 && after.last() == Some(&19));
        let _ = here.stop(Duration::from_secs(1)).await;
    });
}
