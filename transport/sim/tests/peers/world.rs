//! The world of these tests: a producer's machine and that of a well-behaved consumer, and how a peer is played by
//! hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{
    Batch, Consumer, Cx, Exit, Graph, Producer, Publisher, Result, Running, Source, SubscribeError, Subscription,
};
use aqueduct_transport::{Access, Node, NodeConfig};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use crate::nodes::{PORT, lost_after, start, until};
use crate::raw::{self, ACCEPTED, CREDIT, HELLO_ACK, Issues, SUBSCRIBE, frame, hello, subscribe};

const EVENTS: u64 = 200;
/// How long anything may take on the worst network that is drawn.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// After much loss, QUIC's closing period is long; its tasks live so long.
pub(crate) const CLOSING: Duration = Duration::from_secs(600);
pub(crate) const MAX_SUBSCRIPTIONS: u32 = 16;
pub(crate) const MAX_REASSEMBLY_BYTES: usize = 300_000;

pub(crate) fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(1800))
}

pub(crate) fn config() -> NodeConfig {
    lost_after(PATIENCE)
        .handshake_timeout(PATIENCE)
        .max_subscriptions(MAX_SUBSCRIPTIONS)
        .max_reassembly_bytes(MAX_REASSEMBLY_BYTES)
}

/// Packets come late, twice, in another order and in small pieces. None is lost, so that whoever tries once succeeds.
pub(crate) fn conditions(rng: &mut StdRng) -> LinkConditions {
    LinkConditions::draw(rng).loss(0.0).corruption(0.0)
}

/// Shuts a node down in an orderly way, after which nothing may run on its machine.
pub(crate) async fn end(host: &Host, node: Node) {
    assert!(node.shutdown(PATIENCE).await, "a link is left: {:?}", host.task_names());
    drop(node);
    until(CLOSING, "a task is left", || host.alive_tasks() == 0).await;
}

pub(crate) async fn try_subscribe(node: &Node, name: &str, there: &Host) -> Result<ProbeSink<u64>, SubscribeError> {
    ProbeSink::try_subscribe(&node.source::<u64>(name, there.address(PORT)), 1..10).await
}

/// A subscription that has been accepted, by hand.
pub(crate) async fn accepted(connection: &Connection, producer: &str) -> Outcome<(SendStream, RecvStream)> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&frame(SUBSCRIBE, &subscribe(producer))).await?;
    let mut head = [0; 5];
    recv.read_exact(&mut head).await?;
    assert_eq!(head[4], ACCEPTED);
    send.write_all(&frame(CREDIT, &raw::map(&[("up_to", 1)]))).await?;
    Ok((send, recv))
}

/// The code with which the other side closes.
pub(crate) async fn code(connection: &Connection) -> VarInt {
    match timeout(PATIENCE, connection.closed()).await.expect("it is not closed") {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        other => panic!("{other}"),
    }
}

/// A producer's machine, and one of a well-behaved consumer.
pub(crate) struct World {
    pub(crate) issues: Issues,
    pub(crate) there: Host,
    pub(crate) node: Node,
    /// How often somebody subscribed to what only the node "nobody" may have.
    pub(crate) opened: Arc<AtomicUsize>,
    pub(crate) producing: Running,
    pub(crate) good: Good,
}

pub(crate) struct Good {
    pub(crate) host: Host,
    pub(crate) node: Node,
    pub(crate) consuming: Running,
    pub(crate) seen: Arc<Mutex<Vec<u64>>>,
}

impl World {
    pub(crate) async fn new(net: &SimNet) -> Outcome<Self> {
        let mut rng = net.rng("world");
        net.set_default_conditions(conditions(&mut rng));
        let issues = Issues::new();
        let (there, here) = (net.host("there"), net.host("good"));
        let node = start(&there, issues.issue("there"), config())?;
        let graph = Graph::with_spawner("producing", there.clone());
        node.publish("numbers", &graph.producer("numbers", || Numbers { next: 0 }))?;
        let producing = graph.start();
        let guarded = Counted::new(ProbeSource::new());
        node.publish_to(Access::only(["nobody"])?, "guarded", &guarded)?;
        node.publish("numbers-for-hostile", &Counted::new(ProbeSource::new()))?;

        let good = start(&here, issues.issue("good"), config())?;
        let graph = Graph::with_spawner("consuming", here.clone());
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let (log, net) = (Arc::clone(&seen), net.clone());
        let sink = graph.consumer("sink", move || Sink { rng: net.rng("sink"), seen: Arc::clone(&log) });
        sink.subscribe(&good.source::<u64>("numbers", there.address(PORT)), 5..10);
        let good = Good { host: here, node: good, consuming: graph.start(), seen };
        Ok(Self { issues, there, node, opened: guarded.opened, producing, good })
    }

    /// A connection by hand, on which nothing was said.
    pub(crate) async fn dial(&self, host: &Host, name: &str) -> Connection {
        let mut endpoint = host.endpoint(PORT, None);
        endpoint.set_default_client_config(raw::client(&self.issues.issue(name)));
        let connecting = endpoint.connect(self.there.address(PORT), raw::SERVER_NAME).expect("a good address");
        connecting.await.expect("a good certificate")
    }

    /// The same, introduced.
    pub(crate) async fn join(&self, host: &Host) -> Outcome<(Connection, (SendStream, RecvStream))> {
        let connection = self.dial(host, "hostile").await;
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&hello("sim", "hostile")).await?;
        let mut head = [0; 5];
        recv.read_exact(&mut head).await?;
        assert_eq!(head[4], HELLO_ACK);
        Ok((connection, (send, recv)))
    }

    /// The well-behaved consumer gets everything, once and in order.
    pub(crate) async fn the_link_is_exact(&mut self) -> Outcome {
        timeout(PATIENCE, self.good.consuming.join()).await.expect("stuck")?;
        let seen = self.good.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(seen, (0..EVENTS).collect::<Vec<_>>());
        Ok(())
    }

    pub(crate) async fn end(self) -> Outcome {
        let Self { there, node, mut producing, good, .. } = self;
        producing.join().await?;
        let Good { host, node: consumer, consuming, .. } = good;
        drop(consuming);
        end(&host, consumer).await;
        end(&there, node).await;
        Ok(())
    }
}

struct Numbers {
    next: u64,
}

impl Producer for Numbers {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let to = EVENTS.min(self.next + demand as u64);
        cx.emit_all(self.next..to);
        self.next = to;
        if to == EVENTS {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

struct Sink {
    rng: StdRng,
    pub(crate) seen: Arc<Mutex<Vec<u64>>>,
}

impl Consumer for Sink {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _: &mut Cx<'_>) -> Result {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
        sleep(Duration::from_millis(self.rng.random_range(0..20))).await;
        Ok(())
    }
}

/// Counts who gets as far as the source.
#[derive(Clone)]
pub(crate) struct Counted {
    source: ProbeSource<u64>,
    pub(crate) opened: Arc<AtomicUsize>,
}

impl Counted {
    pub(crate) fn new(source: ProbeSource<u64>) -> Self {
        Self { source, opened: Arc::default() }
    }
}

impl Source for Counted {
    type Item = u64;

    fn name(&self) -> String {
        self.source.name()
    }

    async fn open(
        &self,
        instance: usize,
        subscription: Subscription<u64>,
    ) -> Result<Arc<dyn Publisher<u64>>, SubscribeError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.source.open(instance, subscription).await
    }
}
