//! Work with every setting at its default: tasks of a millisecond, of seconds and of minutes, one worker and three. Each is done
//! once, in its first attempt, and nobody waits at a busy worker while another one has nothing to do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::{Attempt, Graph, Running, SourceExt, SubscribeOptions, each};
use aqueduct_transport::pulling::{Counters, PullingOptions, Work, WorkPool, WorkSource};
use aqueduct_transport::{ChannelOptions, JoinOptions, MemoryQueue, Node, NodeConfig};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{Nodes, PORT};

const VALUES: u64 = 30;
const SECOND: Duration = Duration::from_secs(1);
const TASKS: [Duration; 3] = [Duration::from_millis(1), Duration::from_secs(5), Duration::from_mins(10)];

#[test]
fn each_value_of_a_channel_is_done_once_whatever_it_takes() {
    all(Kind::Channel);
}

#[test]
fn each_value_of_a_durable_channel_is_done_once_whatever_it_takes() {
    all(Kind::Durable);
}

#[test]
fn each_event_of_a_far_pool_is_done_once_whatever_it_takes() {
    all(Kind::Pool);
}

#[test]
fn each_event_of_a_far_pool_is_done_once_by_stages_whatever_it_takes() {
    all(Kind::Stages);
}

/// What it works on goes to another when its time is over, and what waits behind it much sooner.
#[test]
fn a_worker_that_hangs_loses_what_waits_there_to_those_who_have_nothing_to_do() {
    for kind in [Kind::Channel, Kind::Pool, Kind::Stages] {
        Sim::new()
            .time_limit(Duration::from_hours(2))
            .run(1, async move |net| {
                let world = World::start(&net, kind, 3, 5 * SECOND, Some(0))?;
                let done = world.until(VALUES - 1).await;
                // Two workers do it, and a fifth of the time is for the questions.
                assert!(done < 5 * SECOND * 18, "{kind:?}: {done:?} for all but one");
                let done = world.until(VALUES).await;
                assert!(done < Duration::from_mins(31), "{kind:?}: {done:?}");
                let page = world.page();
                assert_eq!((page.begun, page.again), (VALUES + 1, 1), "{kind:?}: only what hangs is begun with again");
                Ok(())
            })
            .expect_ok();
    }
}

/// As many as there is room for in its window, where the way is long and tasks are short; and 16 where they are not.
#[test]
fn the_window_of_a_worker_grows_for_short_tasks_far_away_and_for_no_others() {
    for (task, count) in [(Duration::ZERO, 50_000), (SECOND / 50, 500), (SECOND, 100)] {
        Sim::new()
            .time_limit(Duration::from_hours(1))
            .run(1, async move |net| {
                let [(there, server), (_here, node)] = far_apart(&net)?;
                let (sender, mut receiver) = server.serve_channel::<u64, u64>("work", ChannelOptions::default())?;
                there.spawn("sender", async move {
                    for value in 0..count {
                        sender.send(value).await.expect("it is open");
                    }
                });
                there.spawn("receiver", async move { while let Some(Ok(_)) = receiver.recv().await {} });
                let mut tasks = node.join_channel::<u64, u64>("work", there.address(PORT), JoinOptions::default());
                let mut widest = 0;
                while let Some(given) = tasks.next().await.transpose()? {
                    sleep(task).await;
                    given.answer(&0)?;
                    widest = widest.max(tasks.window().max().count());
                }
                let expected = if task.is_zero() { 8192 } else { 16 };
                assert_eq!(widest, expected, "tasks of {task:?}");
                Ok(())
            })
            .expect_ok();
    }
}

/// Up to ten times what it is at first, where the way is long and events are handled at once; and no further than at first where
/// each takes a millisecond.
#[test]
fn the_window_of_a_far_subscription_grows_for_fast_consumers_and_for_no_others() {
    for (each, count, expected) in [(Duration::ZERO, 1_000_000, 100_000), (SECOND / 1000, 30_000, 10_000)] {
        Sim::new()
            .time_limit(Duration::from_hours(1))
            .run(1, async move |net| {
                let [(there, server), (_here, node)] = far_apart(&net)?;
                let graph = Graph::with_spawner("numbers", there.clone());
                server.publish("numbers", &graph.iterate("numbers", move || 0..count))?;
                let _producing = graph.start();
                let source = node.source::<u64>("numbers", there.address(PORT));
                let mut numbers = source.events(SubscribeOptions::default());
                let (mut widest, mut next) = (0, 0);
                while let Some(number) = numbers.next().await.transpose()? {
                    assert_eq!(number, next);
                    next += 1;
                    if !each.is_zero() {
                        sleep(each).await;
                    }
                    widest = widest.max(numbers.window().max().count());
                }
                assert_eq!((next, widest), (count, expected), "{each:?} for each");
                Ok(())
            })
            .expect_ok();
    }
}

/// Two nodes with 50 ms between them.
fn far_apart(net: &SimNet) -> Outcome<[(Host, Node); 2]> {
    net.set_default_conditions(LinkConditions::default().delay(SECOND / 20));
    let nodes = Nodes::new(NodeConfig::default())?;
    let start = |name| -> Outcome<(Host, Node)> {
        let host = net.host(name);
        Ok((host.clone(), nodes.start(&host)?))
    };
    Ok([start("there")?, start("here")?])
}

fn all(kind: Kind) {
    for (task, workers) in TASKS.into_iter().flat_map(|task| [(task, 1), (task, 3)]) {
        Sim::new()
            .time_limit(Duration::from_hours(12))
            .run(1, async move |net| {
                let world = World::start(&net, kind, workers, task, None)?;
                let took = world.until(VALUES).await;
                let page = world.page();
                assert_eq!(
                    (page.begun, page.again),
                    (VALUES, 0),
                    "{kind:?}, {task:?}, {workers}: done once, in the first attempt"
                );
                let counters = (world.counters)();
                assert_eq!((counters.finished, counters.dead, counters.expired), (VALUES, 0, 0), "{counters:?}");
                // As evenly as can be, and a task's time for who comes late.
                let rounds = u32::try_from(VALUES.div_ceil(workers as u64) + 1).expect("few");
                assert!(took <= task * rounds + 10 * SECOND, "{kind:?}, {task:?}, {workers}: {took:?}");
                Ok(())
            })
            .expect_ok();
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Channel,
    Durable,
    /// Workers read a stream of work.
    Pool,
    /// Workers are stages.
    Stages,
}

struct World {
    net: SimNet,
    page: Arc<Mutex<Page>>,
    counters: Box<dyn Fn() -> Counters>,
    _kept: Vec<Box<dyn std::any::Any>>,
}

/// What workers have seen.
#[derive(Clone, Default)]
struct Page {
    begun: u64,
    /// Begun with in a later attempt.
    again: u64,
    done: BTreeSet<u64>,
}

/// A worker's way with a task: it takes its time, or for ever.
#[derive(Clone)]
struct Way {
    page: Arc<Mutex<Page>>,
    task: Duration,
    hangs: bool,
}

impl Way {
    async fn work(&self, value: u64, attempt: Attempt) {
        self.update(|page| {
            page.begun += 1;
            page.again += u64::from(attempt > Attempt::FIRST);
        });
        if self.hangs {
            std::future::pending::<()>().await;
        }
        sleep(self.task).await;
        self.update(|page| page.done.insert(value));
    }

    fn update<R>(&self, change: impl FnOnce(&mut Page) -> R) -> R {
        change(&mut self.page.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl World {
    fn start(net: &SimNet, kind: Kind, workers: usize, task: Duration, hangs: Option<usize>) -> Outcome<Self> {
        let nodes = Nodes::new(NodeConfig::default())?;
        let there = net.host("there");
        let node = nodes.start(&there)?;
        let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
        let counters = serve(kind, &there, &node, &mut kept)?;
        let page = Arc::<Mutex<Page>>::default();
        for number in 0..workers {
            let host = net.host(&format!("here-{number}"));
            let node = nodes.start(&host)?;
            let way = Way { page: Arc::clone(&page), task, hangs: hangs == Some(number) };
            let running = join(kind, &host, &node, there.address(PORT), way);
            kept.push(Box::new((running, node)));
        }
        kept.push(Box::new(node));
        Ok(Self { net: net.clone(), page, counters, _kept: kept })
    }

    fn page(&self) -> Page {
        self.page.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many values are done, and says when that was.
    async fn until(&self, values: u64) -> Duration {
        let wait = async {
            while (self.page().done.len() as u64) < values || (self.counters)().finished < values {
                sleep(SECOND / 10).await;
            }
        };
        let limit = Duration::from_hours(10);
        assert!(timeout(limit, wait).await.is_ok(), "{} of {values}, {:?}", self.page().done.len(), (self.counters)());
        self.net.now()
    }
}

fn serve(
    kind: Kind,
    there: &Host,
    node: &Node,
    kept: &mut Vec<Box<dyn std::any::Any>>,
) -> Outcome<Box<dyn Fn() -> Counters>> {
    match kind {
        Kind::Channel => {
            let (sender, mut receiver) = node.serve_channel::<u64, u64>("work", ChannelOptions::default())?;
            let monitor = sender.monitor();
            there.spawn("sender", async move {
                for value in 0..VALUES {
                    sender.send(value).await.expect("it is open");
                }
            });
            there.spawn("receiver", async move { while let Some(Ok(_)) = receiver.recv().await {} });
            Ok(Box::new(move || monitor.counters()))
        }
        Kind::Durable => {
            let queue = Arc::new(MemoryQueue::new(1000));
            let options = ChannelOptions::default();
            let (sender, mut receiver) = node.serve_durable_channel::<u64, u64, _>("work", queue, options)?;
            let monitor = sender.monitor();
            there.spawn("sender", async move {
                for value in 0..VALUES {
                    sender.send(value).await.expect("it is open");
                }
            });
            there.spawn("receiver", async move { while let Some(Ok(_)) = receiver.recv().await {} });
            Ok(Box::new(move || monitor.counters()))
        }
        Kind::Pool | Kind::Stages => {
            let graph = Graph::with_spawner("producing", there.clone());
            let numbers = graph.iterate("numbers", || 0..VALUES);
            let pool = WorkPool::new(&numbers, PullingOptions::default(), there);
            node.publish("work", &pool)?;
            kept.push(Box::new(graph.start()));
            Ok(Box::new(move || pool.counters()))
        }
    }
}

/// Starts a worker; what it runs in is to be kept.
fn join(kind: Kind, host: &Host, node: &Node, at: SocketAddr, way: Way) -> Option<Running> {
    match kind {
        Kind::Channel | Kind::Durable => {
            let mut tasks = node.join_channel::<u64, u64>("work", at, JoinOptions::default());
            host.spawn("worker", async move {
                while let Some(Ok(task)) = tasks.next().await {
                    way.work(*task.value(), task.attempt()).await;
                    let value = *task.value();
                    task.answer(&value).expect("it can be written");
                }
            });
        }
        Kind::Pool => {
            let source = node.source::<u64>("work", at).work();
            host.spawn("worker", async move {
                let mut work = source.events(SubscribeOptions::default());
                while let Some(Ok(work)) = work.next().await {
                    way.work(*work.event(), work.attempt()).await;
                    work.done();
                }
            });
        }
        Kind::Stages => {
            let source = node.source::<u64>("work", at).work();
            let graph = Graph::with_spawner("working", host.clone());
            let handle = move || {
                let way = way.clone();
                each(move |work: Work<u64>| {
                    let way = way.clone();
                    async move {
                        way.work(*work.event(), work.attempt()).await;
                        work.done();
                        Ok(())
                    }
                })
            };
            graph.consumer("worker", handle).subscribe(&source, SubscribeOptions::default());
            return Some(graph.start());
        }
    }
    None
}
