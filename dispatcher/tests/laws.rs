//! The laws of [`Dispatcher`], checked on every dispatcher under random sequences of calls.
//!
//! The model is a stage: a producer that answers demand exactly (or now and then with too much), a buffer that is
//! served first, and subscribers that ask, leave, and hand back what they did not finish. It knows for each event who
//! may get it, and holds every answer against that.
//!
//! `LAWS_CASES` sets how many sequences each configuration gets (default 3,200). A failure prints the shortest
//! sequence that was found for it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aqueduct_dispatcher::{
    Attempt, Decision, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest, Keep, Overflow, SubscriptionId,
};
use aqueduct_watchdog::Watch;

#[path = "laws/model.rs"]
mod model;
#[path = "laws/steps.rs"]
mod steps;
#[path = "laws/subject.rs"]
mod subject;

use model::Model;
use steps::{Random, Step};
use subject::{Hash, Rules, Subject};

fn run(subject: Subject, seed: u64, steps: &[Step]) -> u64 {
    let mut model = Model::new(subject, seed);
    for step in steps {
        model.apply(*step);
    }
    model.check()
}

/// Leaves steps out as long as the rest still fails.
fn shorten(subject: Subject, seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let fails = |steps: &[Step]| catch_unwind(AssertUnwindSafe(|| run(subject, seed, steps))).is_err();
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if fails(&fewer) {
            steps = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    steps
}

fn check(subject: Subject, selectors: bool) {
    let cases = std::env::var("LAWS_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3_200);
    let watch = Watch::over(format!("{subject:?}, seed "));
    for seed in 0..cases {
        watch.begin(seed);
        let steps = Random(seed).steps(selectors);
        let Ok(digest) = catch_unwind(AssertUnwindSafe(|| run(subject, seed, &steps))) else {
            let shortest = shorten(subject, seed, steps);
            panic!("{subject:?}, seed {seed}, fails (see the last panic above) after {shortest:#?}");
        };
        if seed % 8 == 0 {
            assert_eq!(run(subject, seed, &steps), digest, "{subject:?}, seed {seed}: the same calls, another run");
        }
    }
}

/// Every hash, with queues that fill up and queues that do not.
fn check_partitions(count: usize, overflow: Overflow) {
    for (hash, capacity) in [(Hash::Plain, 7), (Hash::Changing, 3), (Hash::Failing, 50)] {
        check(Subject::Partition(Rules { count, capacity, overflow, hash }), false);
    }
}

macro_rules! laws {
    ($($name:ident: $check:expr;)*) => {$(
        #[test]
        fn $name() {
            $check;
        }
    )*};
}

laws! {
    by_demand: check(Subject::ByDemand { shuffled: false }, false);
    by_demand_shuffled: check(Subject::ByDemand { shuffled: true }, false);
    by_demand_with_selectors: check(Subject::ByDemand { shuffled: false }, true);
    by_demand_shuffled_with_selectors: check(Subject::ByDemand { shuffled: true }, true);
    round_robin: check(Subject::RoundRobin, false);
    round_robin_with_selectors: check(Subject::RoundRobin, true);
    broadcast: check(Subject::Broadcast, false);
    broadcast_with_selectors: check(Subject::Broadcast, true);
    user_written: check(Subject::FirstCome, false);
    one_partition_that_blocks: check_partitions(1, Overflow::Block);
    one_partition_that_keeps_the_first: check_partitions(1, Overflow::Keep(Keep::First));
    one_partition_that_keeps_the_last: check_partitions(1, Overflow::Keep(Keep::Last));
    three_partitions_that_block: check_partitions(3, Overflow::Block);
    three_partitions_that_keep_the_first: check_partitions(3, Overflow::Keep(Keep::First));
    three_partitions_that_keep_the_last: check_partitions(3, Overflow::Keep(Keep::Last));
    eight_partitions_that_block: check_partitions(8, Overflow::Block);
    eight_partitions_that_keep_the_first: check_partitions(8, Overflow::Keep(Keep::First));
    eight_partitions_that_keep_the_last: check_partitions(8, Overflow::Keep(Keep::Last));
    the_same_seed_shuffles_the_same_way: check_shuffle();
}

fn check_shuffle() {
    let order = |seed| {
        let mut dispatcher = DemandDispatcher::new().shuffle(seed);
        let mut deliveries = Deliveries::new();
        let ids = [(); 8].map(|()| SubscriptionId::new());
        for id in ids {
            dispatcher.subscribe(id, Interest::ALL).expect("a new one");
            dispatcher.ask(id, Demand::new(1), &mut deliveries);
        }
        dispatcher.dispatch(&mut (0..8_u64).collect(), Attempt::FIRST, &mut deliveries);
        let batches = std::iter::from_fn(|| deliveries.pop()).map(|decision| match decision {
            Decision::Deliver(delivery) => (delivery.events[0], ids.iter().position(|id| *id == delivery.to)),
            other => panic!("{other:?}"),
        });
        let mut batches: Vec<_> = batches.collect();
        batches.sort_unstable();
        batches
    };
    assert_eq!(order(7), order(7));
    let orders: BTreeSet<_> = (0..100).map(order).collect();
    assert!(orders.len() > 95, "{} orders of 100 seeds", orders.len());
}
