//! Subscriptions between nodes, over the simulated network: stages, links, quinn and TLS are the product's own.
//!
//! One producer is shared by two consumers on other machines. Both ends of both edges are watched: what was asked for,
//! sent and received goes into the [`Ledger`](aqueduct_sim::Ledger).
//!
//! Where a link must not survive its connection (the first tests), timeouts are chosen such that no connection is lost by
//! mere loss. Those named `failure_…` are what a link must survive, and how it must end when it cannot.
//!
//! More seeds, quicker: `SIM_SEEDS=2000 cargo test --release -p aqueduct-sim --test link whatever -- --nocapture`

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aqueduct_sim::{Edge, Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::{
    Attempt, Batch, Consumer, Cx, Demand, EndCause, Events, Exit, FailureKind, Graph, Producer, Publisher, Result,
    Running, Source, SubscribeError, Subscriber, Subscription, SubscriptionId,
};
use aqueduct_transport::{Authority, Node, NodeConfig};
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const EVENTS: u64 = 150;
const CONSUMERS: usize = 2;
/// Of an event in so many, the payload is long.
const LONG_EVERY: u64 = 70;
const LONG_BYTES: usize = 300_000;
const PORT: u16 = 4433;
/// Enough for the worst conditions that are drawn.
const PATIENCE: Duration = Duration::from_secs(120);
/// After this, a lost machine is noticed; what is added covers what was on its way.
const IDLE: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(5);
/// So that a cut is noticed soon, and how long it is borne.
const SHORT_IDLE: Duration = Duration::from_secs(2);
/// QUIC takes nobody for lost before three of its probe timeouts are over, and those are seconds on a bad network.
const DETECTED_WITHIN: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(60);
const SHORT_GRACE: Duration = Duration::from_secs(5);
/// After a cut is over. The worst network needs some attempts.
const RESUMED_WITHIN: Duration = Duration::from_secs(30);
/// After much loss, QUIC's closing period is long; its tasks live so long.
const CLOSING: Duration = Duration::from_secs(600);

#[test]
fn whatever_the_network_does_every_event_arrives_once() {
    sim().swarm(0..200, async |net| {
        let mut world = World::new(&net, PATIENCE, Pace::Brisk).await?;
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

#[test]
fn a_partition_that_is_shorter_than_the_idle_timeout_loses_nothing() {
    sim().swarm(0..30, async |net| {
        let mut world = World::new(&net, PATIENCE, Pace::Slow).await?;
        world.under_way().await;
        for here in &world.here {
            net.partition(&world.there, &here.host);
        }
        sleep(Duration::from_secs(5)).await;
        net.heal_all();
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

#[test]
fn a_consumer_that_crashes_costs_the_others_nothing() {
    sim().swarm(0..30, async |net| {
        let mut world = World::new(&net, IDLE, Pace::Slow).await?;
        world.under_way().await;
        let crashed = world.here.remove(0);
        crashed.host.crash();
        until(IDLE + SLACK, "a link of the crashed node is left", || links(&world.there) <= 1).await;
        world.the_other_gets_the_rest(&crashed).await?;
        world.end().await
    });
}

#[test]
fn a_consumer_that_is_cut_off_is_told_so_and_the_others_go_on() {
    sim().swarm(0..30, async |net| {
        let mut world = World::new(&net, IDLE, Pace::Slow).await?;
        world.under_way().await;
        let mut cut_off = world.here.remove(0);
        net.partition(&world.there, &cut_off.host);
        cut_off.is_disconnected().await;
        until(IDLE + SLACK, "a link of the lost node is left", || links(&world.there) <= 1).await;
        world.the_other_gets_the_rest(&cut_off).await?;
        net.heal_all();
        cut_off.end().await?;
        world.end().await
    });
}

#[test]
fn consumers_of_a_crashed_producer_are_told_so() {
    sim().swarm(0..30, async |net| {
        let mut world = World::new(&net, IDLE, Pace::Slow).await?;
        world.under_way().await;
        world.there.crash();
        for here in &mut world.here {
            here.is_disconnected().await;
        }
        for here in world.here {
            here.end().await?;
        }
        Ok(())
    });
}

/// A consumer's machine dies with events in hand: the other consumer gets them, as another attempt.
#[test]
fn failure_01_what_a_killed_consumer_had_goes_to_the_other() {
    sim().swarm(0..50, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, SHORT_GRACE, Pace::Slow, true).await?;
        world.under_way().await;
        let killed = world.here.remove(0);
        killed.host.crash();
        let limit = DETECTED_WITHIN + SHORT_GRACE;
        until(limit, "a link of the killed node is left", || links(&world.there) <= 1).await;
        world.everything_took_place(&killed).await?;
        world.end().await
    });
}

/// A producer's machine dies: consumers are told so, and never of the end of the data.
#[test]
fn failure_02_a_killed_producer_is_no_end_of_the_data() {
    sim().swarm(0..50, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, SHORT_GRACE, Pace::Slow, false).await?;
        world.under_way().await;
        world.there.crash();
        for here in &mut world.here {
            here.is_disconnected_within(DETECTED_WITHIN + SHORT_GRACE).await;
        }
        for here in world.here {
            here.end().await?;
        }
        Ok(())
    });
}

/// Both directions are cut for longer than a connection lives, several times.
#[test]
fn failure_04_a_cut_shorter_than_the_grace_loses_nothing() {
    survives(0..50, |net, there, here| net.partition(there, here));
}

/// The cut outlasts the grace: what the consumer did not acknowledge goes to the other, once.
#[test]
fn failure_05_a_cut_longer_than_the_grace_gives_its_events_to_the_other() {
    sim().swarm(0..50, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, SHORT_GRACE, Pace::Slow, true).await?;
        world.under_way().await;
        let mut cut_off = world.here.remove(0);
        net.partition(&world.there, &cut_off.host);
        cut_off.is_disconnected_within(DETECTED_WITHIN + SHORT_GRACE).await;
        until(DETECTED_WITHIN, "a link of the lost node is left", || links(&world.there) <= 1).await;
        net.heal_all();
        world.everything_took_place(&cut_off).await?;
        cut_off.end().await?;
        world.end().await
    });
}

/// Only what the consumer says is lost: demand is said again, and nothing stalls.
#[test]
fn failure_06_demand_lost_at_a_cut_is_said_again() {
    survives(300..350, |net, there, here| net.cut(here, there));
}

/// Only what the producer says is lost: events arrive again, and are taken once.
#[test]
fn failure_09_events_lost_at_a_cut_are_sent_again() {
    survives(600..650, |net, there, here| net.cut(there, here));
}

/// The producer has ended, and its last words are lost.
#[test]
fn failure_10_the_end_is_told_after_a_cut() {
    sim().swarm(0..50, async |net| {
        let mut rng = net.rng("cut");
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Brisk, false).await?;
        world.producing.join().await?;
        for here in &world.here {
            net.partition(&world.there, &here.host);
        }
        sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
        net.heal_all();
        for here in &mut world.here {
            timeout(GRACE, here.consuming.join()).await.expect("not told of the end")?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

/// Ten minutes of bad network: nobody takes it for an end.
#[test]
fn failure_42_no_false_end_in_ten_minutes_of_loss_and_jitter() {
    sim().time_limit(Duration::from_secs(3600)).swarm(0..50, async |net| {
        let mut world = World::with(&net, IDLE, GRACE, Pace::Crawling, false).await?;
        world.under_way().await;
        let bad =
            LinkConditions::default().delay(Duration::from_millis(20)).jitter(Duration::from_millis(200)).loss(0.3);
        net.set_default_conditions(bad);
        for here in &world.here {
            net.set_conditions_between(&world.there, &here.host, bad);
        }
        let all = async {
            for here in &mut world.here {
                here.consuming.join().await?;
            }
            Outcome::Ok(())
        };
        // However long it takes: it ends in success only.
        let ended = timeout(Duration::from_secs(600), all).await;
        ended.unwrap_or(Ok(()))?;
        net.set_default_conditions(LinkConditions::default());
        for here in &world.here {
            net.set_conditions_between(&world.there, &here.host, LinkConditions::default());
        }
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

#[test]
fn a_node_that_shuts_down_does_not_wait_for_a_link_that_is_cut_off() {
    sim().swarm(0..50, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, false).await?;
        world.under_way().await;
        for here in &world.here {
            net.partition(&world.there, &here.host);
        }
        // By now both ends have noticed, and wait for each other.
        sleep(DETECTED_WITHIN).await;
        assert_eq!(links(&world.there), CONSUMERS);
        let begun = net.now();
        world.node.shutdown(PATIENCE).await;
        assert_eq!(links(&world.there), 0);
        for here in &mut world.here {
            here.node.shutdown(PATIENCE).await;
            here.is_disconnected_within(SLACK).await;
        }
        assert!(net.now() - begun < SLACK, "shutting down takes {:?}", net.now() - begun);
        Ok(())
    });
}

/// Cuts several times, each time for longer than a connection lives and shorter than the grace. Everything arrives once
/// and in order, and soon after each cut something arrives.
fn survives(seeds: std::ops::Range<u64>, cut: impl Fn(&SimNet, &Host, &Host) + Sync) {
    sim().swarm(seeds, async |net| {
        let mut rng = net.rng("cuts");
        let acknowledges = rng.random_bool(0.5);
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, acknowledges).await?;
        world.under_way().await;
        for _ in 0..3 {
            for here in &world.here {
                cut(&net, &world.there, &here.host);
            }
            sleep(Duration::from_millis(rng.random_range(1000..20_000))).await;
            net.heal_all();
            let before = world.all_seen().len();
            let moved = || {
                let is_over = |here: &Here| here.edge.book().is_exhausted;
                world.all_seen().len() > before || world.here.iter().any(is_over)
            };
            until(RESUMED_WITHIN, "stuck after a cut", moved).await;
            sleep(Duration::from_millis(rng.random_range(0..1000))).await;
        }
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(1200))
}

fn everything() -> Vec<u64> {
    (0..EVENTS).collect()
}

/// How fast consumers are.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    Brisk,
    /// So that there is time for something to happen.
    Slow,
    /// So that it lasts for minutes.
    Crawling,
}

/// A producer's machine and those of its consumers.
struct World {
    net: SimNet,
    there: Host,
    node: Node,
    producing: Running,
    here: Vec<Here>,
}

/// A consumer's machine.
struct Here {
    host: Host,
    node: Node,
    consuming: Running,
    edge: Arc<Watched>,
}

impl World {
    /// Links that do not survive their connection.
    async fn new(net: &SimNet, idle: Duration, pace: Pace) -> Outcome<Self> {
        Self::with(net, idle, Duration::ZERO, pace, false).await
    }

    async fn with(net: &SimNet, idle: Duration, grace: Duration, pace: Pace, acknowledges: bool) -> Outcome<Self> {
        let mut rng = net.rng("world");
        net.set_default_conditions(LinkConditions::draw(&mut rng));
        let authority = Authority::dev("sim")?;
        let config = NodeConfig::default()
            .idle_timeout(idle)
            .keep_alive(idle / 4)
            .session_grace(grace)
            .handshake_timeout(PATIENCE);
        let start = |host: &Host| -> Outcome<Node> {
            let identity = authority.issue(host.name())?;
            Ok(Node::builder(identity).config(config.clone()).spawner(host.clone()).socket(host.bind(PORT))?)
        };

        let edges: Vec<_> = (0..CONSUMERS).map(|n| Arc::new(Watched::new(net, Edge(n as u64)))).collect();
        let there = net.host("there");
        let node = start(&there)?;
        let graph = Graph::with_spawner("producing", there.clone());
        let numbers = {
            let (net, edges) = (net.clone(), edges.clone());
            graph.producer("numbers", move || Numbers {
                net: net.clone(),
                rng: net.rng("numbers"),
                edges: edges.clone(),
                next: 0,
            })
        };
        for edge in &edges {
            // The same stage by several names, so that both ends know which edge they are.
            node.publish(
                &edge.edge.to_string(),
                &Watch { source: numbers.clone(), edge: edge.clone(), end: End::There },
            )?;
        }
        let producing = graph.start();

        let mut here = Vec::new();
        for edge in edges {
            let host = net.host(&format!("here-{}", edge.edge.0));
            let node = start(&host)?;
            let graph = Graph::with_spawner("consuming", host.clone());
            let far = node.source(&edge.edge.to_string(), there.address(PORT));
            let far = Watch { source: far, edge: edge.clone(), end: End::Here };
            let max = rng.random_range(1..if pace == Pace::Brisk { 60 } else { 12 });
            let (net, label) = (net.clone(), host.name().to_owned());
            let pauses = graph.consumer("pause", move || Pauses { rng: net.rng(&label), pace });
            let demand = rng.random_range(0..max)..max;
            if acknowledges {
                pauses.subscribe_acknowledged(&far, demand);
            } else {
                pauses.subscribe(&far, demand);
            }
            here.push(Here { host, node, consuming: graph.start(), edge });
        }
        Ok(Self { net: net.clone(), there, node, producing, here })
    }

    /// Waits until every consumer has got something, but by far not everything.
    async fn under_way(&self) {
        for here in &self.here {
            here.edge.until(3).await;
        }
        assert!(self.all_seen().len() < EVENTS as usize / 2, "too late for a fault");
    }

    /// What all consumers have got.
    fn all_seen(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.here.iter().flat_map(|here| here.edge.book().received.clone()).collect();
        all.sort_unstable();
        all
    }

    /// Everything arrives but what was on its way to the one that is gone.
    async fn the_other_gets_the_rest(&mut self, gone: &Here) -> Outcome {
        for here in &mut self.here {
            here.consuming.join().await?;
        }
        let lost: BTreeSet<_> = gone.edge.book().sent.keys().copied().collect();
        let rest: Vec<_> = everything().into_iter().filter(|n| !lost.contains(n)).collect();
        assert_eq!(self.all_seen(), rest);
        Ok(())
    }

    /// Everything reaches somebody; what reaches two says so.
    async fn everything_took_place(&mut self, gone: &Here) -> Outcome {
        for here in &mut self.here {
            here.consuming.join().await?;
        }
        let first: BTreeSet<_> = gone.edge.book().received.iter().copied().collect();
        let again: BTreeSet<_> = self.all_seen().into_iter().filter(|n| first.contains(n)).collect();
        for here in &self.here {
            assert!(again.is_subset(&here.edge.book().again), "twice, and not said");
        }
        let mut all: Vec<_> = self.all_seen().into_iter().chain(first.difference(&again).copied()).collect();
        all.sort_unstable();
        assert_eq!(all, everything(), "lost, or twice at one consumer");
        Ok(())
    }

    /// Shuts all down in an orderly way, after which nothing may run on any machine.
    async fn end(self) -> Outcome {
        let Self { net, there, node, mut producing, here } = self;
        producing.join().await?;
        let begun = net.now();
        assert!(node.shutdown(PATIENCE).await, "a link is left: {:?}", there.task_names());
        assert!(net.now() - begun < SLACK, "shutting down takes {:?}", net.now() - begun);
        for here in here {
            assert_eq!(net.ledger().under_way(here.edge.edge), 0, "lost");
            here.end().await?;
        }
        drop(node);
        until(CLOSING, "a task is left", || there.alive_tasks() == 0).await;
        Ok(())
    }
}

impl Here {
    /// Its consumer learns of the loss in time, and takes it for nothing else.
    async fn is_disconnected(&mut self) {
        self.is_disconnected_within(IDLE + SLACK).await;
    }

    async fn is_disconnected_within(&mut self, limit: Duration) {
        let ended = timeout(limit, self.consuming.join()).await.expect("not told in time");
        assert_eq!(ended.expect_err("it ended early").failure.kind(), FailureKind::Disconnected);
        assert!(!self.edge.book().is_exhausted, "told of an end");
    }

    async fn end(self) -> Outcome {
        let Self { host, node, consuming, .. } = self;
        drop(consuming);
        assert!(node.shutdown(IDLE).await, "a link is left: {:?}", host.task_names());
        drop(node);
        until(CLOSING, "a task is left", || host.alive_tasks() == 0).await;
        Ok(())
    }
}

fn links(host: &Host) -> usize {
    host.task_names().iter().filter(|name| *name == "link").count()
}

/// Waits until a machine has come to rest; the clock is the simulation's.
async fn until(limit: Duration, otherwise: &str, reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(limit, wait).await.is_ok(), "{otherwise}");
}

/// A number, and a payload that follows from it.
type Event = (u64, Bytes);

fn event(net: &SimNet, number: u64) -> Event {
    let mut rng = net.rng(&format!("event {number}"));
    let length = if rng.random_range(0..LONG_EVERY) == 0 { LONG_BYTES } else { rng.random_range(0..3000) };
    (number, vec![rng.random(); length].into())
}

struct Numbers {
    net: SimNet,
    rng: StdRng,
    edges: Vec<Arc<Watched>>,
    next: u64,
}

impl Producer for Numbers {
    type Out = Event;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Event>) -> Result {
        // Otherwise the first may take everything before the other has come.
        for edge in self.edges.drain(..) {
            edge.made().await;
        }
        if self.rng.random_bool(0.1) {
            sleep(Duration::from_millis(self.rng.random_range(0..20))).await;
        }
        // Sometimes more than was asked for: it waits in the stage's buffer.
        let extra = if self.rng.random_bool(0.3) { self.rng.random_range(0..5) } else { 0 };
        let to = EVENTS.min(self.next + demand as u64 + extra);
        cx.emit_all((self.next..to).map(|number| event(&self.net, number)));
        self.next = to;
        if to == EVENTS {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

struct Pauses {
    rng: StdRng,
    pace: Pace,
}

impl Consumer for Pauses {
    type In = Event;

    async fn handle_events(&mut self, _: Batch<Event>, _: &mut Cx<'_>) -> Result {
        match self.pace {
            Pace::Slow => sleep(Duration::from_millis(self.rng.random_range(100..500))).await,
            Pace::Crawling => sleep(Duration::from_millis(self.rng.random_range(4000..8000))).await,
            Pace::Brisk if self.rng.random_bool(0.2) => {
                sleep(Duration::from_millis(self.rng.random_range(0..50))).await;
            }
            Pace::Brisk => {}
        }
        Ok(())
    }
}

/// What both ends of an edge have seen.
struct Watched {
    net: SimNet,
    edge: Edge,
    book: Mutex<Book>,
    received: watch::Sender<usize>,
    is_made: watch::Sender<bool>,
}

#[derive(Default)]
struct Book {
    /// The events that were sent, and the place of each in their order.
    sent: BTreeMap<u64, u64>,
    received: Vec<u64>,
    /// Those that came as another attempt than the first.
    again: BTreeSet<u64>,
    is_exhausted: bool,
}

impl Watched {
    fn new(net: &SimNet, edge: Edge) -> Self {
        let (received, is_made) = Default::default();
        Self { net: net.clone(), edge, book: Mutex::default(), received, is_made }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the consumer has got `count` events.
    async fn until(&self, count: usize) {
        let enough = self.received.subscribe().wait_for(|received| *received >= count).await.map(drop);
        enough.expect("the sender is here");
    }

    /// Waits until the producer has a subscriber here.
    async fn made(&self) {
        let made = self.is_made.subscribe().wait_for(|made| *made).await.map(drop);
        made.expect("the sender is here");
    }

    fn sent(&self, events: &[Event]) {
        self.net.sent(self.edge, events.len() as u64);
        let mut book = self.book();
        for (number, _) in events {
            let place = book.sent.len() as u64;
            book.sent.insert(*number, place);
        }
    }

    fn received(&self, events: &[Event], attempt: Attempt) {
        if attempt > Attempt::FIRST {
            self.book().again.extend(events.iter().map(|(number, _)| *number));
        }
        for received in events {
            let place = self.book().sent.get(&received.0).copied();
            match place {
                Some(place) if *received == event(&self.net, received.0) => self.net.received(self.edge, place),
                _ => self.net.fail(format_args!("{}: event {} is not what was sent", self.edge, received.0)),
            }
            self.book().received.push(received.0);
        }
        self.received.send_modify(|count| *count += events.len());
    }

    fn ended(&self, cause: &EndCause) {
        self.net.note(&format!("{} ended", self.edge), cause.to_string().as_bytes());
        let under_way = self.net.ledger().under_way(self.edge);
        if cause.is_exhausted() {
            self.book().is_exhausted = true;
            if under_way > 0 {
                self.net.fail(format_args!("{}: the end came before {under_way} events", self.edge));
            }
        }
    }
}

/// A source whose edge is watched, at one of its ends.
#[derive(Clone)]
struct Watch<S> {
    source: S,
    edge: Arc<Watched>,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The producer's.
    There,
    /// The consumer's.
    Here,
}

impl<S: Source<Item = Event>> Source for Watch<S> {
    type Item = Event;

    fn name(&self) -> String {
        self.source.name()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<Event>,
    ) -> Result<Arc<dyn Publisher<Event>>, SubscribeError> {
        let (edge, end) = (Arc::clone(&self.edge), self.end);
        let subscriber = Arc::clone(&subscription.subscriber);
        let tap = Tap { subscriber, edge: Arc::clone(&edge), end, is_over: AtomicBool::new(false) };
        let publisher = self.source.open(instance, Subscription { subscriber: Arc::new(tap), ..subscription }).await?;
        if end == End::There {
            edge.is_made.send_replace(true);
        }
        Ok(Arc::new(Asks { publisher, edge, end }))
    }
}

/// Listens to what comes down the edge.
struct Tap {
    subscriber: Arc<dyn Subscriber<Event>>,
    edge: Arc<Watched>,
    end: End,
    is_over: AtomicBool,
}

impl Tap {
    fn must_go_on(&self) {
        if self.is_over.load(Ordering::Relaxed) {
            self.edge.net.fail(format_args!("{}: something came after the end", self.edge.edge));
        }
    }
}

impl Subscriber<Event> for Tap {
    fn deliver(&self, id: SubscriptionId, events: Events<Event>, attempt: Attempt) {
        self.must_go_on();
        match self.end {
            End::There => self.edge.sent(&events),
            End::Here => self.edge.received(&events, attempt),
        }
        self.subscriber.deliver(id, events, attempt);
    }

    fn ended(&self, id: SubscriptionId, cause: EndCause) {
        self.must_go_on();
        self.is_over.store(true, Ordering::Relaxed);
        if self.end == End::Here {
            self.edge.ended(&cause);
        }
        self.subscriber.ended(id, cause);
    }
}

/// Listens to what goes up the edge.
struct Asks {
    publisher: Arc<dyn Publisher<Event>>,
    edge: Arc<Watched>,
    end: End,
}

impl Publisher<Event> for Asks {
    fn ask(&self, id: SubscriptionId, up_to: Demand) {
        if self.end == End::Here {
            self.edge.net.asked(self.edge.edge, up_to.count());
        }
        self.publisher.ask(id, up_to);
    }

    fn handled(&self, id: SubscriptionId, up_to: Demand) {
        self.publisher.handled(id, up_to);
    }

    fn cancel(&self, id: SubscriptionId, reason: Exit) {
        self.publisher.cancel(id, reason);
    }

    fn leave(&self, id: SubscriptionId, cause: EndCause, unfinished: Vec<(Events<Event>, Attempt)>) {
        self.publisher.leave(id, cause, unfinished);
    }
}
