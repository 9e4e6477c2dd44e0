//! Work pools over the simulated network: workers that hang, die and are cut off, and events that nobody can do.
//!
//! A pool on one machine gives events to workers on three others. What each worker got and said is written down; what
//! counts is what the pool took.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::{Attempt, Graph, Running, SourceExt};
use aqueduct_transport::pulling::{DeadLetter, PullingOptions, Work, WorkPool, WorkSource};
use aqueduct_transport::{Node, PublishOptions};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

#[path = "support/book.rs"]
mod book;
#[path = "support/nodes.rs"]
mod nodes;

use book::Book;
use nodes::{Nodes, PORT, lost_after, told};

const EVENTS: u64 = 120;
const WORKERS: usize = 3;
/// Enough for the worst conditions that are drawn.
const PATIENCE: Duration = Duration::from_secs(120);
/// So that a cut is noticed soon, and how long it is borne.
const IDLE: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(60);
const SHORT_GRACE: Duration = Duration::from_secs(5);
/// Longer than any cut and what it takes to resume, so that only those run out of time that hang.
const ACK_WAIT: Duration = Duration::from_secs(120);
/// What an event may wait for a worker, and be on its way.
const SLACK: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;

/// A worker takes events, and nothing is heard of it: others get them as the second attempt. It answers when it is too
/// late, and that does not count. Meanwhile another worker is cut off for a while, whose answers are not lost.
#[test]
fn failure_12_a_worker_that_hangs_loses_its_events_to_others() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net, GRACE, Fault::FirstHangs).await?;
        world.book.until("a worker hangs", |book| !book.hung.is_empty()).await;
        let mut rng = net.rng("cut");
        if rng.random_bool(0.7) {
            net.partition(&world.there, &world.here[1].host);
            sleep(Duration::from_millis(rng.random_range(100..20_000))).await;
            net.heal_all();
        }
        // All that it was given before its silence was noticed.
        world
            .book
            .until("all that hung is done by others", |book| {
                book.hung.keys().all(|event| book.done.get(event).is_some_and(|done| !done.is_empty()))
            })
            .await;
        world.book.update(|book| book.may_answer_late = true);
        let refused = async {
            while world.pool.counters().late == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SLACK, refused).await.expect("a late answer is not refused");
        assert!(world.pool.counters().finished < EVENTS, "a late answer counts");
        world.book.update(|book| book.late_is_refused = true);
        world.ends().await?;
        let (book, counters) = (world.book.lock(), world.pool.counters());
        assert!(counters.expired as usize >= book.hung.len(), "{counters:?}");
        assert_eq!((counters.finished, counters.dead), (EVENTS, 0), "{counters:?}");
        for (event, since) in &book.hung {
            let [(attempt, at)] = book.done[event][..] else { panic!("event {event}: {:?}", book.done[event]) };
            assert!(attempt > Attempt::FIRST, "event {event} was given to two");
            let waited = at.saturating_sub(*since);
            assert!(waited <= ACK_WAIT + SLACK, "event {event} waited for {waited:?}");
        }
        book.all_done_but(None);
        Ok(())
    });
}

/// No worker can do one of the events, and a machine may even die of it: after so many attempts it is a dead letter, and
/// the others are done.
#[test]
fn failure_13_a_poison_event_ends_as_a_dead_letter() {
    sim().swarm(0..300, async |net| {
        let poison = net.rng("poison").random_range(0..EVENTS);
        let kills = net.rng("kills").random_bool(0.5);
        let mut world = World::new(&net, SHORT_GRACE, Fault::Poison { event: poison, kills }).await?;
        let mut letters = world.pool.dead_letters();
        if kills {
            world.book.until("the poison kills a worker", |book| book.killed.is_some()).await;
            let killed = world.book.lock().killed.unwrap_or_default();
            world.here[killed].host.crash();
            world.here.remove(killed);
        }
        let letter = timeout(PATIENCE, letters.next()).await.expect("no dead letter in time");
        let DeadLetter { payload, attempts, .. } = letter.expect("the pool has not ended");
        assert_eq!(payload, poison);
        // Where it only waited as a worker was lost, that has a number too, and does not count.
        assert!((ATTEMPTS..=ATTEMPTS + u32::from(kills)).contains(&attempts), "attempt {attempts} was the last");
        world.ends().await?;
        assert_eq!(letters.next().await, None);
        let (book, counters) = (world.book.lock(), world.pool.counters());
        assert_eq!((counters.finished, counters.dead, counters.late), (EVENTS - 1, 1, 0), "{counters:?}");
        let again = book.done.values().filter(|done| done.len() > 1).count();
        assert!(kills || again == 0, "{again} events were done twice");
        book.all_done_but(Some(poison));
        Ok(())
    });
}

fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(1200))
}

/// What is wrong with the workers or their events.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The first worker goes on for a while, and then says no more until it is too late.
    FirstHangs,
    /// An event that everybody fails at; and that kills the first machine that gets it.
    Poison { event: u64, kills: bool },
}

/// A pool's machine and those of its workers.
struct World {
    there: Host,
    pool: WorkPool<u64>,
    producing: Running,
    here: Vec<Here>,
    book: Arc<Book<Page>>,
    _node: Node,
}

/// A worker's machine.
struct Here {
    host: Host,
    _node: Node,
    /// Whether its worker was told of the end, and how.
    ended: watch::Receiver<Option<Result<(), String>>>,
}

impl World {
    async fn new(net: &SimNet, grace: Duration, fault: Fault) -> Outcome<Self> {
        let mut rng = net.rng("world");
        net.set_default_conditions(LinkConditions::draw(&mut rng));
        let nodes = Nodes::new(lost_after(IDLE).session_grace(grace).handshake_timeout(PATIENCE))?;
        let there = net.host("there");
        let node = nodes.start(&there)?;
        let graph = Graph::with_spawner("producing", there.clone());
        let numbers = graph.iterate("numbers", || 0..EVENTS);
        let attempts = NonZeroU32::new(ATTEMPTS).expect("not zero");
        let options = PullingOptions::default().ack_wait(ACK_WAIT).max_attempts(attempts);
        let pool = WorkPool::new(&numbers, options, &there);
        // Workers do not come back by themselves.
        node.publish_with("work", &pool, PublishOptions::new().lag_limit(Duration::MAX))?;
        let producing = graph.start();

        let book = Arc::new(Book::new(ACK_WAIT + PATIENCE));
        let mut here = Vec::new();
        for number in 0..WORKERS {
            let host = net.host(&format!("here-{number}"));
            let node = nodes.start(&host)?;
            let far = node.source::<u64>("work", there.address(PORT));
            let max = rng.random_range(1..8);
            let demand = rng.random_range(0..max)..max;
            let mut stream = far.work().events(demand.clone());
            let (ended, ends) = watch::channel(None);
            let (net, rng) = (net.clone(), net.rng(host.name()));
            let mut worker = Worker { number, net, rng, fault, book: Arc::clone(&book), held: Vec::new(), last: None };
            host.spawn("worker", async move {
                let end = loop {
                    // Something is always done, also while nothing comes.
                    match timeout(Duration::from_millis(200), stream.next()).await {
                        Ok(Some(Ok(work))) => worker.take(work).await,
                        // On the worst network, dialling takes more than one attempt.
                        Ok(Some(Err(_))) if !worker.is_busy() => stream = far.work().events(demand.clone()),
                        Ok(Some(Err(error))) => break Err(error.to_string()),
                        Ok(None) => break Ok(()),
                        Err(_) => {
                            worker.answer_all();
                            worker.answer_last();
                        }
                    }
                };
                ended.send_replace(Some(end));
            });
            here.push(Here { host, _node: node, ended: ends });
        }
        Ok(Self { there, pool, producing, here, book, _node: node })
    }

    /// Waits for the end of the data, at every worker that is left.
    async fn ends(&mut self) -> Outcome {
        for here in &mut self.here {
            assert_eq!(told(ACK_WAIT + PATIENCE, &mut here.ended).await, Ok(()), "{}", here.host.name());
        }
        self.producing.join().await?;
        Ok(())
    }
}

struct Worker {
    number: usize,
    net: SimNet,
    rng: StdRng,
    fault: Fault,
    book: Arc<Book<Page>>,
    held: Vec<Work<u64>>,
    /// The last event of all, which keeps the pool open until a late answer was refused.
    last: Option<Work<u64>>,
}

impl Worker {
    async fn take(&mut self, work: Work<u64>) {
        let number = self.number;
        self.book.update(|book| book.busy.insert(number));
        self.answer_last();
        // Otherwise the first may do everything before the others have come.
        self.book.until("everybody takes part", |book| book.busy.len() == WORKERS).await;
        sleep(Duration::from_millis(self.rng.random_range(0..200))).await;
        match self.fault {
            Fault::FirstHangs if self.number == 0 && *work.event() > 5 => self.hang(work).await,
            Fault::FirstHangs if *work.event() == EVENTS - 1 => self.last = Some(work),
            Fault::Poison { event, kills } if *work.event() == event => self.fail(work, kills).await,
            _ => {
                self.held.push(work);
                if self.held.len() > self.rng.random_range(0..3) {
                    self.answer_all();
                }
            }
        }
    }

    /// Whether it has got something.
    fn is_busy(&self) -> bool {
        self.book.lock().busy.contains(&self.number)
    }

    /// In any order.
    fn answer_all(&mut self) {
        while !self.held.is_empty() {
            let work = self.held.swap_remove(self.rng.random_range(0..self.held.len()));
            self.answer(work);
        }
    }

    fn answer(&self, work: Work<u64>) {
        let (attempt, at) = (work.attempt(), self.net.now());
        let event = work.done();
        self.book.update(|book| book.done.entry(event).or_default().push((attempt, at)));
    }

    fn answer_last(&mut self) {
        if let Some(work) = self.last.take_if(|_| self.book.lock().late_is_refused) {
            self.answer(work);
        } else if let Some(work) = &self.last {
            work.in_progress();
        }
    }

    /// Says nothing of this event before it is too late.
    async fn hang(&mut self, work: Work<u64>) {
        self.answer_all();
        let since = self.net.now();
        // Those that had to wait behind it are late as well; others were given to it since, and are not.
        let is_late = self.book.lock().may_answer_late;
        if !is_late {
            self.book.update(|book| book.hung.insert(*work.event(), since));
            self.book.until("it may answer", |book| book.may_answer_late).await;
        } else {
            self.book.update(|book| book.perhaps.insert(*work.event()));
        }
        work.done();
    }

    async fn fail(&mut self, work: Work<u64>, kills: bool) {
        let number = self.number;
        let is_killed = kills
            && self.book.update(|book| {
                let is_first = book.killed.is_none();
                book.killed.get_or_insert(number);
                is_first
            });
        if is_killed {
            std::future::pending::<()>().await;
        }
        match self.rng.random_range(0..3) {
            0 => work.retry(Duration::from_millis(self.rng.random_range(0..2000)), "cannot"),
            1 => work.retry(Duration::ZERO, "cannot"),
            _ => drop(work),
        }
    }
}

/// What workers have seen and said.
#[derive(Default)]
struct Page {
    /// Who has got something.
    busy: BTreeSet<usize>,
    /// Which events were said to be done, in which attempts and when; answers that come too late on purpose are not here.
    done: BTreeMap<u64, Vec<(Attempt, Duration)>>,
    /// Which events a worker hangs with, and since when.
    hung: BTreeMap<u64, Duration>,
    /// Which events were said to be done by a worker that had hung, perhaps too late.
    perhaps: BTreeSet<u64>,
    may_answer_late: bool,
    late_is_refused: bool,
    killed: Option<usize>,
}

impl Page {
    fn all_done_but(&self, other: Option<u64>) {
        let expected: Vec<_> = (0..EVENTS).filter(|event| Some(*event) != other).collect();
        let done: BTreeSet<_> = self.done.keys().chain(&self.perhaps).copied().collect();
        assert_eq!(done.into_iter().collect::<Vec<_>>(), expected);
    }
}
