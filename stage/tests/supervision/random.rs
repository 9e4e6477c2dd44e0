//! Graphs in which anything fails at any time. They end, and nothing is lost that was acknowledged.

use aqueduct_watchdog::Watch;

use super::support::Note;
use super::*;

/// A small generator of well mixed numbers.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Collects, and fails at random batches: before, or by a panic.
struct Shaky {
    random: Arc<Mutex<Random>>,
    one_in: u64,
    log: Log,
}

impl Consumer for Shaky {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        let draw = self.random.lock().unwrap().below(2 * self.one_in);
        assert_ne!(draw, 0, "shaken");
        if draw == 1 {
            return Err("shaken".into());
        }
        tokio::task::yield_now().await;
        self.log.push(Note::Events(events.to_vec(), events.attempt().number()));
        Ok(())
    }
}

async fn nothing_is_lost(seed: u64) {
    let watch = Watch::over("seed ");
    watch.begin(seed);
    let mut random = Random(seed);
    let count = random.below(400);
    let (log, one_in, instances) = (Log::new(), 3 + random.below(20), 1 + random.below(3) as usize);
    let max = 1 + random.below(50) as usize;
    let milli = Duration::from_millis(1);
    let backoff = [Backoff::NONE, Backoff::exponential(milli, 20 * milli)][random.below(2) as usize];
    let graph = Graph::new("demo").intensity(Intensity::new(100_000, Duration::from_secs(5))).backoff(backoff);
    let numbers = graph.producer("numbers", support::count(count, &Log::new()));
    let shared = Arc::new(Mutex::new(random));
    let collected = log.clone();
    graph
        .consumer("shaky", move || Shaky { random: Arc::clone(&shared), one_in, log: collected.clone() })
        .concurrency(instances)
        .subscribe_acknowledged(&numbers, max / 2..max)
        .restart(Restart::Transient);
    let outcome = limited(graph.run()).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let mut events = log.events();
    events.sort_unstable();
    assert_eq!(events, (0..count).collect::<Vec<_>>(), "seed {seed}: {outcome}");
    assert!(outcome.stages.iter().all(|stage| stage.discarded == 0), "seed {seed}: {outcome}");
}

#[tokio::test(start_paused = true)]
async fn with_acknowledgement_nothing_is_lost_however_often_consumers_fail() {
    for seed in 0..300 {
        nothing_is_lost(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_acknowledgement_nothing_is_lost_on_several_threads() {
    for seed in 1_000..1_300 {
        tokio::time::timeout(Duration::from_secs(60), nothing_is_lost(seed)).await.expect("it hangs");
    }
}

/// Without acknowledgement: whatever fails, the graph ends, and what the consumers were given is accounted for.
async fn everything_is_accounted_for(seed: u64) {
    let watch = Watch::over("seed ");
    watch.begin(seed);
    let mut random = Random(seed);
    let strategy = [Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll][random.below(3) as usize];
    let (log, one_in, max) = (Log::new(), 5 + random.below(20), 1 + random.below(50) as usize);
    let restarts = random.below(8) as usize;
    let graph = Graph::new("demo").strategy(strategy).intensity(Intensity::new(restarts, Duration::from_secs(3_600)));
    let numbers = graph.producer("numbers", support::count(random.below(300), &Log::new())).restart(Restart::Transient);
    let relay = graph.stage("relay", support::relay(&Log::new())).subscribe(&numbers, max / 2..max);
    let relay = relay.restart(Restart::Transient);
    let shared = Arc::new(Mutex::new(random));
    let collected = log.clone();
    graph
        .consumer("shaky", move || Shaky { random: Arc::clone(&shared), one_in, log: collected.clone() })
        .subscribe(&relay, max / 2..max)
        .restart(Restart::Transient);
    match limited(graph.run()).await {
        Ok(outcome) => {
            let [relay, shaky] = ["relay", "shaky"].map(|name| outcome.stage(name).unwrap());
            let handled = log.events().len() as u64;
            assert_eq!(handled + shaky.discarded, relay.events_out, "seed {seed}: {outcome}");
        }
        Err(error) => assert!(error.exceeded.is_some(), "seed {seed}: {error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_the_graph_ends_and_what_was_given_is_accounted_for() {
    for seed in 0..300 {
        everything_is_accounted_for(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_the_graph_ends_on_several_threads() {
    for seed in 1_000..1_300 {
        tokio::time::timeout(Duration::from_secs(60), everything_is_accounted_for(seed)).await.expect("it hangs");
    }
}
