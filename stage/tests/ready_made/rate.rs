//! A limit on demand.

use std::time::Duration;

use aqueduct_stage::stages::Rate;
use aqueduct_stage::{Batch, Consumer, Cx, Graph, Result};
use tokio::time::Instant;

use crate::run;
use crate::support::{Log, count, endless, settled};

const SECOND: Duration = Duration::from_secs(1);

/// Writes down when which event came.
struct Timed(Log<(u128, u64)>, Instant);

impl Consumer for Timed {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        events.into_iter().for_each(|event| self.0.push((self.1.elapsed().as_millis(), event)));
        Ok(())
    }
}

/// How many events came in each second.
fn per_second(log: &Log<(u128, u64)>) -> Vec<usize> {
    let seen = log.all();
    let last = seen.last().map_or(0, |(at, _)| at / 1_000);
    (0..=last).map(|second| seen.iter().filter(|(at, _)| at / 1_000 == second).count()).collect()
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_rate_is_asked_for_and_nothing_is_lost() {
    let (asked, log, rate) = (Log::new(), Log::new(), Rate::new(10, SECOND));
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", count(45, &asked));
    let limited = graph.stage("limited", move || rate.limit()).subscribe(&numbers, 500..1000);
    let (seen, start) = (log.clone(), Instant::now());
    graph.consumer("timed", move || Timed(seen.clone(), start)).subscribe(&limited, 500..1000);
    run(graph).await.unwrap();
    assert_eq!(per_second(&log), [10, 10, 10, 10, 5]);
    assert_eq!(asked.asked(), [10, 10, 10, 10, 10]);
    assert_eq!(log.all().iter().map(|(_, event)| *event).collect::<Vec<_>>(), (0..45).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_changed_while_it_runs() {
    let (log, rate) = (Log::new(), Rate::new(0, SECOND));
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let limit = rate.clone();
    let limited = graph.stage("limited", move || limit.limit()).subscribe(&numbers, 500..1000);
    let (seen, start) = (log.clone(), Instant::now());
    graph.consumer("timed", move || Timed(seen.clone(), start)).subscribe(&limited, 500..1000);
    let mut running = graph.start();
    tokio::time::sleep(2 * SECOND + SECOND / 2).await;
    assert_eq!(log.all().len(), 0);
    rate.set(3, SECOND);
    tokio::time::sleep(2 * SECOND).await;
    rate.set(20, SECOND / 2);
    tokio::time::sleep(SECOND * 9 / 10).await;
    rate.set(0, SECOND);
    settled().await;
    let before = log.all().len();
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((log.all().len(), rate.get()), (before, (0, SECOND)));
    // At 2.5 s and 3.5 s three each; from 4.5 s on 20, and the rest at 5 s.
    assert_eq!(per_second(&log), [0, 0, 3, 3, 20, 20]);
    running.stop(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_rate_holds_for_all_its_stages_and_their_producers() {
    let (asked, log, rate) = ([Log::new(), Log::new(), Log::new()], Log::new(), Rate::new(6, SECOND));
    let graph = Graph::new("test");
    let start = Instant::now();
    let numbers: Vec<_> = (0..3).map(|n| graph.producer(&format!("numbers {n}"), endless(&asked[n]))).collect();
    let (one, two) = (rate.clone(), rate.clone());
    let first = graph.stage("first", move || one.limit()).subscribe(&numbers[0], 1..2).subscribe(&numbers[1], 1..2);
    let second = graph.stage("second", move || two.limit()).subscribe(&numbers[2], 1..2);
    let seen = log.clone();
    graph.consumer("timed", move || Timed(seen.clone(), start)).subscribe(&first, 5..10).subscribe(&second, 5..10);
    let mut running = graph.start();
    tokio::time::sleep(100 * SECOND - SECOND / 2).await;
    let counts = per_second(&log);
    assert!(counts.iter().all(|count| *count == 6), "{counts:?}");
    let shares = asked.map(|log| log.asked().iter().sum::<usize>());
    assert!(shares.iter().all(|share| *share > 100), "{shares:?}");
    running.stop(SECOND).await.unwrap();
}
