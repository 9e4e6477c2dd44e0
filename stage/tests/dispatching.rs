//! Graphs with every way of dispatching, and what becomes of a selector or a hash that panics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/count.rs"]
mod count;

use std::sync::{Arc, Mutex};

use aqueduct_stage::{
    Batch, Cancel, Consumer, Cx, Exit, FailureKind, Graph, Partitions, Producer, Result, SubscribeOptions,
    SubscriptionId,
};

use count::count;

/// Keeps its events, and which subscription they came through.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(SubscriptionId, u64)>>>);

impl Seen {
    fn events(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|(_, event)| *event).collect()
    }

    fn collect(&self) -> impl FnMut() -> Self + use<> {
        let seen = self.clone();
        move || seen.clone()
    }
}

impl Consumer for Seen {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        let from = events.from();
        self.0.lock().unwrap().extend(events.into_iter().map(|event| (from, event)));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_gives_everything_to_everybody() {
    let (graph, seen) = (Graph::new("test"), [Seen::default(), Seen::default(), Seen::default()]);
    let numbers = graph.producer("numbers", count(10_000)).broadcast();
    for (number, seen) in seen.iter().enumerate() {
        graph.consumer(&format!("collect {number}"), seen.collect()).subscribe(&numbers, 10 * number..10 * number + 20);
    }
    let outcome = graph.run().await.unwrap();
    for seen in &seen {
        assert_eq!(seen.events(), (0..10_000).collect::<Vec<_>>());
    }
    assert_eq!(outcome.stage("numbers").unwrap().events_out, 30_000);
}

#[tokio::test]
async fn a_selector_runs_at_the_producer_and_what_it_refuses_costs_no_demand() {
    let (graph, even, all) = (Graph::new("test"), Seen::default(), Seen::default());
    let numbers = graph.producer("numbers", count(1_000)).broadcast();
    graph.consumer("even", even.collect()).subscribe(&numbers.select(|n| n % 2 == 0), 5..10);
    graph.consumer("all", all.collect()).subscribe(&numbers, 5..10);
    graph.run().await.unwrap();
    assert_eq!(even.events(), (0..1_000).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    assert_eq!(all.events().len(), 1_000);
}

#[tokio::test]
async fn a_selector_on_a_demand_edge_filters_too() {
    let (graph, small) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(1_000));
    graph.consumer("small", small.collect()).subscribe(&numbers.select(|n| *n < 10), 5..10);
    let outcome = graph.run().await.unwrap();
    assert_eq!(small.events(), (0..10).collect::<Vec<_>>());
    assert_eq!(outcome.stage("numbers").unwrap().discarded, 990);
}

#[tokio::test]
async fn a_selector_that_panics_fails_its_subscription_only() {
    let (graph, brave, all) = (Graph::new("test"), Seen::default(), Seen::default());
    let numbers = graph.producer("numbers", count(1_000)).broadcast();
    let nervous = numbers.select(|n| if *n == 500 { panic!("too much") } else { true });
    let options = SubscribeOptions::demand(5..10).cancel(Cancel::Temporary);
    graph.consumer("nervous", brave.collect()).subscribe(&nervous, options);
    graph.consumer("all", all.collect()).subscribe(&numbers, 5..10);
    graph.run().await.unwrap();
    assert_eq!(all.events().len(), 1_000);
    assert!(brave.events().len() <= 500, "{}", brave.events().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_has_its_own_consumer() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(10_000)).partition(4, |n| (*n % 4) as usize);
    let shards = graph.consumer("shards", seen.collect()).subscribe_each(&numbers, 5..10);
    assert_eq!(shards.instances().len(), 4);
    let outcome = graph.run().await.unwrap();
    let seen = seen.0.lock().unwrap().clone();
    assert_eq!(seen.len(), 10_000);
    for partition in 0..4 {
        let of_it: Vec<_> = seen.iter().filter(|(_, n)| n % 4 == partition).collect();
        assert!(of_it.iter().all(|(from, _)| *from == of_it[0].0), "one consumer for a partition");
        assert!(of_it.iter().map(|(_, n)| n).is_sorted());
    }
    assert_eq!(outcome.stages.iter().filter(|stage| stage.stage == "shards").count(), 4);
}

#[tokio::test]
async fn what_a_partition_discards_does_not_stall_the_graph() {
    // In GenStage this stops for good after five events.
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let place = |n: u64| n.is_multiple_of(2).then_some((n + 1, 0));
    let numbers = graph.producer("numbers", count(1_000)).partition_by(Partitions::numbered(1).unwrap(), place);
    graph.consumer("odd", seen.collect()).subscribe(&numbers.part(0), 0..10);
    let outcome = graph.run().await.unwrap();
    assert_eq!(seen.events(), (0..1_000).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    assert_eq!(outcome.stage("numbers").unwrap().discarded, 500);
}

#[tokio::test]
async fn an_event_whose_partition_cannot_be_told_is_counted_as_failed() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let place = |n: &u64| match n {
        7 => panic!("seven"),
        8 => 99,
        _ => 0,
    };
    let numbers = graph.producer("numbers", count(100)).partition(1, place);
    graph.consumer("rest", seen.collect()).subscribe(&numbers.part(0), 0..10);
    // Everything else is handled, and the loss is not passed over in silence.
    let error = graph.run().await.unwrap_err();
    assert_eq!(seen.events().len(), 98);
    assert_eq!((error.failure.kind(), error.others.len()), (FailureKind::Dispatch, 0));
    let why = r#"stage "numbers" could not dispatch: its partition function panicked: seven (events: 2; "#;
    assert!(error.to_string().starts_with(why), "{error}");
    let [numbers, rest] = ["numbers", "rest"].map(|name| error.outcome.stage(name).unwrap().clone());
    assert_eq!((numbers.failed, rest.events_in), (2, 98));
    assert!(matches!((numbers.exit, rest.exit), (Exit::Normal, Exit::Normal)));
}

#[tokio::test]
async fn a_partition_out_of_range_is_an_error_that_names_the_number_and_the_range() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(10)).partition(4, |n: &u64| if *n == 7 { 4 } else { 0 });
    graph.consumer("shards", seen.collect()).subscribe_each(&numbers, 0..10);
    let error = graph.run().await.unwrap_err().to_string();
    assert!(error.contains("expected a partition, one of 0..4, got 4 (events: 1; "), "{error}");
}

#[tokio::test]
async fn a_partition_that_is_not_there_is_refused_and_the_producer_lives() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(100)).partition(2, |_| 0);
    graph.consumer("good", seen.collect()).subscribe(&numbers.part(0), 0..10);
    let options = SubscribeOptions::demand(0..10).cancel(Cancel::Temporary);
    graph.consumer("lost", Seen::default().collect()).subscribe(&numbers.part(2), options);
    graph.run().await.unwrap();
    assert_eq!(seen.events().len(), 100);

    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(100)).partition(2, |_| 0);
    graph.consumer("lost", Seen::default().collect()).subscribe(&numbers.part("two"), 0..10);
    let error = graph.run().await.unwrap_err();
    assert!(error.to_string().contains(r#"got "two""#), "{error}");
}

/// What the stages of a graph did, one after the other.
type Story = Arc<Mutex<Vec<String>>>;

/// Emits as many numbers as it is asked for, and tells of each ask.
struct Teller(u64, Story);

impl Producer for Teller {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        self.1.lock().unwrap().push(format!("asked for {demand}"));
        cx.emit_all(self.0..self.0 + demand as u64);
        self.0 += demand as u64;
        if self.0 > 100 {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Tells of what it is given.
struct Listener(&'static str, Story);

impl Consumer for Listener {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        self.1.lock().unwrap().push(format!("{} got {}", self.0, events.len()));
        Ok(())
    }
}

#[tokio::test]
async fn a_producer_with_partitions_lets_its_consumers_ask_before_it_emits_the_rest() {
    let (graph, story) = (Graph::new("test"), Story::default());
    let told = Arc::clone(&story);
    // Three of four are even, so that the odd partition has demand left when the even one has none.
    let numbers = graph.producer("numbers", move || Teller(0, Arc::clone(&told)));
    let numbers = numbers.partition(2, |n| usize::from(n % 4 == 3)).wait_for_subscribers(2);
    for (partition, name) in ["often", "rarely"].into_iter().enumerate() {
        let told = Arc::clone(&story);
        graph.consumer(name, move || Listener(name, Arc::clone(&told))).subscribe(&numbers.part(partition), 4..8);
    }
    graph.run().await.unwrap();
    let story = story.lock().unwrap().clone();
    // It may be asked for the rest once in the turn in which it was asked.
    let alone = story.windows(3).find(|acts| acts.iter().all(|act| act.starts_with("asked")));
    assert_eq!(alone, None, "{story:?}");
}

#[tokio::test]
async fn the_same_consumer_twice_is_one_subscription_to_a_broadcast() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(100)).broadcast();
    graph.consumer("collect", seen.collect()).subscribe(&numbers, 0..10).subscribe(&numbers, 0..10);
    graph.run().await.unwrap();
    assert_eq!(seen.events(), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn round_robin_deals_in_turn() {
    let (graph, seen) = (Graph::new("test"), [Seen::default(), Seen::default()]);
    let numbers = graph.producer("numbers", count(1_000)).round_robin();
    for (number, seen) in seen.iter().enumerate() {
        graph.consumer(&format!("collect {number}"), seen.collect()).subscribe(&numbers, 5..10);
    }
    graph.run().await.unwrap();
    let total: Vec<_> = seen.iter().map(|seen| seen.events().len()).collect();
    assert_eq!(total.iter().sum::<usize>(), 1_000);
    assert!(total.iter().all(|count| *count > 0), "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_the_work() {
    let (graph, seen) = (Graph::new("test"), Seen::default());
    let numbers = graph.producer("numbers", count(20_000));
    graph.consumer("collect", seen.collect()).concurrency(4).subscribe(&numbers, 5..10);
    graph.run().await.unwrap();
    let mut events = seen.events();
    events.sort_unstable();
    assert_eq!(events, (0..20_000).collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "got 0")]
fn no_partitions_are_a_mistake() {
    let graph = Graph::new("test");
    let _ = graph.producer("numbers", count(1)).partition(0, |_| 0);
}
