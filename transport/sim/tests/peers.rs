//! Two nodes meet over the simulated network: old ones and new ones, strangers, and peers that keep no rule. Whatever they
//! are, the link of a well-behaved pair goes on exactly.
//!
//! Hostile peers are quinn's endpoints that write frames by hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Sim, SimNet};
use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{
    Batch, Consumer, Cx, Exit, Graph, Producer, Publisher, Result, Running, Source, SubscribeError, Subscription,
};
use aqueduct_transport::{Access, Functions, LookupError, Node, NodeConfig, Signature};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

#[path = "support/memory.rs"]
mod memory;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "support/raw.rs"]
mod raw;

use memory::Memory;
use nodes::{PORT, links, lost_after, start, until};
use raw::{Issues, frame, hello, hello_of, subscribe};

const EVENTS: u64 = 200;
/// How long anything may take on the worst network that is drawn.
const PATIENCE: Duration = Duration::from_secs(120);
/// After much loss, QUIC's closing period is long; its tasks live so long.
const CLOSING: Duration = Duration::from_secs(600);
const VERSIONS: u16 = 4;

// Types of frames.
const HELLO_ACK: u8 = 2;
const ASK_FUNCTIONS: u8 = 4;
const SUBSCRIBE: u8 = 16;
const ACCEPTED: u8 = 17;
const CREDIT: u8 = 19;
const ACK: u8 = 21;
const EVENTS_FRAME: u8 = 32;
const CHUNK: u8 = 33;
const SKIPPED: u8 = 200;

// Codes with which a connection or a stream ends.
const PROTOCOL: VarInt = VarInt::from_u32(2);
const REFUSED: VarInt = VarInt::from_u32(3);
const SUPERSEDED: VarInt = VarInt::from_u32(6);

/// A rolling update: nodes that speak several ranges of versions, each dialling each.
#[test]
fn failure_20_old_and_new_versions_agree_or_name_both_ranges() {
    sim().swarm(0..300, async |net| {
        let mut rng = net.rng("versions");
        net.set_default_conditions(conditions(&mut rng));
        let issues = Issues::new();
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            let oldest = rng.random_range(1..=VERSIONS);
            let newest = rng.random_range(oldest..=VERSIONS);
            let host = net.host(name);
            let node = start(&host, issues.issue(name), config().versions(oldest, newest))?;
            let source = ProbeSource::<u64>::new().within(PATIENCE);
            node.publish("probe", &source)?;
            nodes.push((host, node, source, (oldest, newest)));
        }
        for (here, dialler, _, (our_oldest, our_newest)) in &nodes {
            for (there, _, source, (oldest, newest)) in nodes.iter().filter(|(there, ..)| there.name() != here.name()) {
                let subscribed = try_subscribe(dialler, "probe", there).await;
                if our_newest.min(newest) >= our_oldest.max(oldest) {
                    let sink = subscribed?.within(PATIENCE);
                    source.expect_subscription().await;
                    sink.ask(1);
                    source.expect_demand(1).await;
                    source.send([7]);
                    sink.expect_events([7]).await;
                    sink.cancel();
                    source.expect_cancel().await;
                    continue;
                }
                let SubscribeError::Refused { at, reason } = subscribed.expect_err("they understand each other") else {
                    panic!("not told that it was refused")
                };
                assert_eq!(at, there.address(PORT).to_string());
                let ranges = format!(
                    "the dialler speaks versions {our_oldest} to {our_newest} of the protocol, the listener speaks \
                     versions {oldest} to {newest}"
                );
                assert!(reason.contains(&ranges), "{reason:?} does not name {ranges:?}");
            }
        }
        for (host, node, ..) in nodes {
            end(&host, node).await;
        }
        Ok(())
    });
}

/// Nodes that have functions of several programs: each knows of each what it has, and nobody had to be given work for it.
#[test]
fn failure_21_a_node_that_lacks_a_function_is_known_before_work() {
    sim().swarm(0..300, async |net| {
        let mut rng = net.rng("functions");
        net.set_default_conditions(conditions(&mut rng));
        let issues = Issues::new();
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            let host = net.host(name);
            let drawn = Drawn::draw(&mut rng);
            let builder = Node::builder(issues.issue(name)).config(config()).spawner(host.clone());
            let node = builder.functions(drawn.functions()).socket(host.bind(PORT))?;
            nodes.push((host, node, drawn));
        }
        for (here, node, _) in &nodes {
            for (there, _, has) in nodes.iter().filter(|(there, ..)| there.name() != here.name()) {
                let known = node.functions_at(there.address(PORT)).await?;
                assert_eq!(known.node().node(), there.name());
                assert_eq!(known.digest(), has.functions().digest());
                // What a driver does before it sends work there.
                let judged = known.require("step", 2, &Signature::of::<u64, u64>());
                match (has.version, has.is_text) {
                    (2, false) => assert_eq!(judged, Ok(())),
                    (2, true) => assert!(matches!(judged, Err(LookupError::Signature { name, .. }) if name == "step")),
                    (0, _) => {
                        assert!(matches!(judged, Err(LookupError::Missing { present, .. }) if present.is_empty()));
                    }
                    (version, _) => {
                        assert!(matches!(judged, Err(LookupError::Missing { present, .. }) if present == [version]));
                    }
                }
                // The same answer again, on the same connection.
                assert_eq!(node.functions_at(there.address(PORT)).await?.len(), known.len());
            }
        }
        for (host, node, _) in nodes {
            assert_eq!(links(&host), 0, "work was sent");
            end(&host, node).await;
        }
        Ok(())
    });
}

/// What a node has of the function that is wanted, and how many others.
struct Drawn {
    /// 0: it has none.
    version: u32,
    is_text: bool,
    others: u32,
}

impl Drawn {
    fn draw(rng: &mut StdRng) -> Self {
        let others = if rng.random_bool(0.3) { rng.random_range(300..600) } else { rng.random_range(0..3) };
        Self { version: rng.random_range(0..=3), is_text: rng.random_bool(0.3), others }
    }

    fn functions(&self) -> Functions {
        let mut functions = Functions::new();
        match (self.version, self.is_text) {
            (0, _) => {}
            (version, true) => {
                functions.register("step", version, |text: String| text).expect("the first");
            }
            (version, false) => {
                functions.register("step", version, |n: u64| n + 1).expect("the first");
            }
        }
        // Some take more than one control frame.
        for other in 0..self.others {
            let name = format!("{other:0>200}");
            functions.register(&name, 1, |n: u64| n).expect("a name of its own");
        }
        functions
    }
}

/// Nobody whom the cluster does not know, or who may not have it, gets as far as a stage.
#[test]
fn failure_19_a_stranger_gets_no_stage_state() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net).await?;
        let mut rng = net.rng("stranger");
        let host = net.host("stranger");
        match rng.random_range(0..5) {
            0 => {
                // It knows the cluster's authority, and has its certificate from another one.
                let mut endpoint = host.endpoint(PORT, None);
                let (knows, is) = (world.issues.issue("here"), Issues::new().issue("here"));
                endpoint.set_default_client_config(raw::client_of(&knows, &is));
                let refused = match endpoint.connect(world.there.address(PORT), raw::SERVER_NAME)?.await {
                    Ok(connection) => timeout(PATIENCE, connection.closed()).await?,
                    Err(refused) => refused,
                };
                assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
            }
            1 => {
                let node = start(&host, world.issues.issue_until("here", 2000), config())?;
                is_refused(try_subscribe(&node, "guarded", &world.there).await);
                end(&host, node).await;
            }
            2 => {
                // It says that it is somebody else.
                let connection = world.dial(&host, "stranger").await;
                let (mut send, _recv) = connection.open_bi().await?;
                send.write_all(&hello("sim", "here")).await?;
                assert_eq!(code(&connection).await, REFUSED);
            }
            3 => {
                let node = start(&host, world.issues.issue("stranger"), config())?;
                let refused = try_subscribe(&node, "guarded", &world.there).await;
                let error = is_refused(refused).to_string();
                assert!(error.contains("aqueduct://sim/node/stranger") && error.contains("guarded"), "{error}");
                end(&host, node).await;
            }
            _ => replay(&net, &world, &host).await?,
        }
        assert_eq!(world.opened.load(Ordering::Relaxed), 0, "a stage has heard of it");
        world.the_link_is_exact().await?;
        world.end().await
    });
}

/// Every packet of a good node comes again, from where it came from and from elsewhere.
async fn replay(net: &SimNet, world: &World, stranger: &Host) -> Outcome {
    let relay = net.host("relay");
    let recorded = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let (front, back) = (relay.bind(PORT), relay.bind(PORT + 1));
    let dialler = Arc::new(Mutex::new(None));
    {
        let (front, back, recorded) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&recorded));
        let (dialler, to) = (Arc::clone(&dialler), world.there.address(PORT));
        relay.spawn("there", async move {
            loop {
                let (from, packet) = front.recv_from().await;
                *dialler.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                back.send_to(to, &packet);
                recorded.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
            }
        });
    }
    {
        let back = Arc::clone(&back);
        relay.spawn("back", async move {
            loop {
                let (_, packet) = back.recv_from().await;
                let to = *dialler.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(to) = to {
                    front.send_to(to, &packet);
                }
            }
        });
    }
    let victim = net.host("victim");
    let node = start(&victim, world.issues.issue("victim"), config())?;
    let source = ProbeSource::<u64>::new().within(PATIENCE);
    let opened = Counted::new(source.clone());
    world.node.publish("replayed", &opened)?;
    let sink = try_subscribe(&node, "replayed", &relay).await?.within(PATIENCE);
    source.expect_subscription().await;
    sink.ask(1);
    source.expect_demand(1).await;
    source.send([7]);
    sink.expect_events([7]).await;

    let packets = recorded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let elsewhere = stranger.bind(PORT);
    for packet in &packets {
        back.send_to(world.there.address(PORT), packet);
        elsewhere.send_to(world.there.address(PORT), packet);
    }
    // Long enough for all of them to have come.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(opened.opened.load(Ordering::Relaxed), 1, "subscribed twice");
    source.expect_no_demand().await;
    sink.ask(1);
    source.expect_demand(1).await;
    source.send([8]);
    sink.expect_events([8]).await;
    sink.cancel();
    source.expect_cancel().await;
    end(&victim, node).await;
    relay.crash();
    Ok(())
}

/// More than was agreed: more events, more acknowledged than was sent, more streams.
#[test]
fn failure_18_a_peer_that_takes_too_much_is_closed_with_a_code() {
    let memory = Memory::bounded(SEED_BYTES);
    sim().swarm(0..300, async |net| {
        let began = memory.begin();
        let mut world = World::new(&net).await?;
        let mut rng = net.rng("hostile");
        let host = net.host("hostile");
        match rng.random_range(0..5) {
            0 => exceeds_credit(&world, &host, &mut rng).await?,
            4 => hoards(&world, &host, &mut rng).await?,
            3 => talks_too_much(&world, &host, &mut rng).await?,
            1 => {
                let (connection, _control) = world.join(&host).await?;
                let unsent = rng.random_range(1..=u64::MAX);
                for _ in 0..3 {
                    let (mut send, _recv) = accepted(&connection, "numbers-for-hostile").await?;
                    let ack = raw::map(&[("up_to", unsent)]);
                    let _ = send.write_all(&frame(ACK, &ack)).await;
                    // The stream must live until it was judged.
                    let _ = send.stopped().await;
                }
                assert_eq!(code(&connection).await, PROTOCOL);
                assert_eq!(world.node.snapshot().offences, 3);
            }
            _ => {
                let (connection, _control) = world.join(&host).await?;
                let mut streams = Vec::new();
                for _ in 0..100_000 {
                    let opened = timeout(Duration::from_secs(1), connection.open_bi()).await;
                    let Ok(opened) = opened else { break };
                    let (mut send, recv) = opened?;
                    send.write_all(&[0]).await?;
                    streams.push((send, recv));
                    assert!(streams.len() <= MAX_SUBSCRIPTIONS as usize, "the limit does not hold");
                }
                assert!(links(&world.there) <= MAX_SUBSCRIPTIONS as usize + 1, "the limit does not hold");
                assert_eq!(world.node.snapshot().offences, 0, "who waits has done nothing wrong");
                connection.close(VarInt::from_u32(0), b"");
            }
        }
        world.the_link_is_exact().await?;
        until(CLOSING, "something of the peer is left", || world.node.snapshot().links_published == 0).await;
        world.end().await?;
        memory.check(&began);
        Ok(())
    });
    println!("{memory}");
}

/// A producer that sends more than it was asked for: its subscriber gets none of it, and is told so.
async fn exceeds_credit(world: &World, host: &Host, rng: &mut StdRng) -> Outcome {
    let endpoint = host.endpoint(PORT, Some(raw::server(&world.issues.issue("hostile"))));
    let excess = rng.random_range(1..100);
    host.spawn("hostile", async move {
        let serve = async {
            let connection = endpoint.accept().await?.await.ok()?;
            let (mut send, mut recv) = connection.accept_bi().await.ok()?;
            recv.read_exact(&mut [0; 5]).await.ok()?;
            send.write_all(&raw::hello_ack("hostile")).await.ok()?;
            let (mut events, mut asks) = connection.accept_bi().await.ok()?;
            asks.read_exact(&mut [0; 5]).await.ok()?;
            events.write_all(&frame(ACCEPTED, &[0x80])).await.ok()?;
            let mut body = vec![1, 10 + excess, 1];
            body.extend(vec![7; usize::from(10 + excess)]);
            events.write_all(&frame(EVENTS_FRAME, &body)).await.ok()?;
            connection.closed().await;
            Some(())
        };
        serve.await;
    });
    // It has said nothing of functions, as a node of an earlier version does: it is not asked.
    let error = world.good.node.functions_at(host.address(PORT)).await.expect_err("it has not said");
    assert!(error.to_string().contains("does not say what can be called there"), "{error}");
    let sink = try_subscribe(&world.good.node, "numbers", host).await?.within(PATIENCE);
    sink.ask(10);
    let failure = sink.expect_failure().await;
    assert_eq!(failure.kind(), aqueduct_stage::FailureKind::Protocol, "{failure}");
    assert_eq!(world.good.node.snapshot().offences, 1);
    Ok(())
}

/// A producer that begins an event of 64 MiB on each of many subscriptions, and ends none: what they hold together is
/// bounded, and those that go beyond it are told so.
async fn hoards(world: &World, host: &Host, rng: &mut StdRng) -> Outcome {
    let endpoint = host.endpoint(PORT, Some(raw::server(&world.issues.issue("hostile"))));
    let piece = rng.random_range(20_000..100_000);
    host.spawn("hostile", async move {
        let serve = async {
            let connection = endpoint.accept().await?.await.ok()?;
            let (mut send, mut recv) = connection.accept_bi().await.ok()?;
            recv.read_exact(&mut [0; 5]).await.ok()?;
            send.write_all(&raw::hello_ack("hostile")).await.ok()?;
            let mut streams = Vec::new();
            for _ in 0..MAX_SUBSCRIPTIONS {
                let (mut events, mut asks) = connection.accept_bi().await.ok()?;
                asks.read_exact(&mut [0; 5]).await.ok()?;
                events.write_all(&frame(ACCEPTED, &[0x80])).await.ok()?;
                streams.push((events, asks));
            }
            for (events, _) in &mut streams {
                // By now the piece before is there, and so is the demand of all.
                sleep(Duration::from_secs(5)).await;
                // Event 1, the first attempt, piece 0, not the last, of 64 MiB.
                let mut body = vec![1, 1, 0, 0, 0x80, 0x80, 0x80, 0x20];
                body.resize(body.len() + piece, 7);
                events.write_all(&frame(CHUNK, &body)).await.ok()?;
            }
            connection.closed().await;
            Some(())
        };
        serve.await;
    });
    let mut sinks = Vec::new();
    for _ in 0..MAX_SUBSCRIPTIONS {
        let sink = try_subscribe(&world.good.node, "hoarded", host).await?.within(PATIENCE);
        sink.ask(1);
        sinks.push(sink);
    }
    let fit = MAX_REASSEMBLY_BYTES / piece;
    for sink in &sinks[fit..] {
        let failure = sink.expect_failure().await;
        assert_eq!(failure.kind(), aqueduct_stage::FailureKind::Protocol, "{failure}");
        assert!(failure.message().contains("unfinished events of at most 300000 bytes"), "{failure}");
    }
    let now = world.good.node.snapshot();
    assert_eq!(now.offences, u64::from(MAX_SUBSCRIPTIONS) - fit as u64);
    for sink in &sinks[..fit] {
        sink.cancel();
    }
    Ok(())
}

/// Frames that nobody need understand are skipped, but not any number of them in a second.
async fn talks_too_much(world: &World, host: &Host, rng: &mut StdRng) -> Outcome {
    let (connection, (mut send, _recv)) = world.join(host).await?;
    for _ in 0..rng.random_range(1..4) {
        for _ in 0..rng.random_range(1..=50) {
            send.write_all(&frame(SKIPPED, &vec![7; rng.random_range(0..300)])).await?;
        }
        // The first of them may come a little late, and the last at once.
        sleep(Duration::from_secs(10)).await;
        assert_eq!(connection.close_reason(), None, "closed, and the rate was kept");
    }
    let (once, many) = (frame(ASK_FUNCTIONS, &[0x80]), frame(SKIPPED, &[7]).repeat(400));
    let _ = send.write_all(&if rng.random() { once.repeat(2) } else { many }).await;
    assert_eq!(code(&connection).await, PROTOCOL);
    assert_eq!(world.node.snapshot().offences, 1);
    Ok(())
}

/// Frames that are none, or are not what they say, anywhere.
#[test]
fn failure_17_garbage_ends_with_a_code_and_harms_nobody() {
    let memory = Memory::bounded(SEED_BYTES);
    sim().swarm(0..300, async |net| {
        let began = memory.begin();
        let mut world = World::new(&net).await?;
        let mut rng = net.rng("garbage");
        let host = net.host("hostile");
        let case = rng.random_range(0..4);
        let connection = match case {
            0 => {
                // Beside subscriptions, where once is enough.
                let (connection, (mut send, _recv)) = world.join(&host).await?;
                let _ = send.write_all(&raw::breach(&mut rng)).await;
                let _ = send.stopped().await;
                connection
            }
            1 => {
                let connection = world.dial(&host, "hostile").await;
                let (mut send, _recv) = connection.open_bi().await?;
                let _ = send.write_all(&raw::breach(&mut rng)).await;
                let _ = send.stopped().await;
                connection
            }
            2 => {
                let (connection, _control) = world.join(&host).await?;
                for _ in 0..3 {
                    let Ok((mut send, _recv)) = connection.open_bi().await else { break };
                    let _ = send.write_all(&raw::breach(&mut rng)).await;
                    let _ = send.stopped().await;
                }
                connection
            }
            _ => {
                let (connection, _control) = world.join(&host).await?;
                for _ in 0..3 {
                    let (mut send, _recv) = accepted(&connection, "numbers-for-hostile").await?;
                    let _ = send.write_all(&raw::breach(&mut rng)).await;
                    let _ = send.stopped().await;
                }
                connection
            }
        };
        assert_eq!(code(&connection).await, PROTOCOL);
        drop(connection);
        let now = world.node.snapshot();
        assert_eq!((now.offences, now.connections_refused), [(1, 0), (1, 1), (3, 0), (3, 0)][case]);
        world.the_link_is_exact().await?;
        // Nothing of the hostile peer is left.
        until(CLOSING, "something of the peer is left", || links(&world.there) == 0).await;
        world.end().await?;
        memory.check(&began);
        Ok(())
    });
    println!("{memory}");
}

/// A node dials again and again, as several of its starts in some order: the last start stays, with all its connections.
#[test]
fn failure_36_a_node_that_starts_again_replaces_its_earlier_self() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net).await?;
        let mut rng = net.rng("incarnations");
        let host = net.host("twin");
        let mut endpoint = host.endpoint(PORT, None);
        endpoint.set_default_client_config(raw::client(&world.issues.issue("twin")));
        let (mut last, mut present) = (0, Vec::<(Connection, [(SendStream, RecvStream); 2])>::new());
        for _ in 0..rng.random_range(2..6) {
            let incarnation = rng.random_range(1..5);
            let connection = endpoint.connect(world.there.address(PORT), raw::SERVER_NAME)?.await?;
            let (mut send, mut recv) = connection.open_bi().await?;
            send.write_all(&hello_of("sim", "twin", incarnation)).await?;
            if incarnation < last {
                assert_eq!(code(&connection).await, REFUSED);
                let reason = connection.close_reason().map(|reason| reason.to_string()).unwrap_or_default();
                let said = format!("incarnation {incarnation} is superseded by incarnation {last}");
                assert!(reason.contains(&said), "{reason:?} does not say {said:?}");
                continue;
            }
            let mut head = [0; 5];
            recv.read_exact(&mut head).await?;
            assert_eq!(head[4], HELLO_ACK);
            if incarnation > last {
                for (connection, ..) in std::mem::take(&mut present) {
                    assert_eq!(code(&connection).await, SUPERSEDED);
                }
                until(CLOSING, "a link of an earlier start is left", || links(&world.there) <= 1).await;
            }
            last = incarnation;
            let link = accepted(&connection, "numbers-for-hostile").await?;
            present.push((connection, [(send, recv), link]));
            if rng.random_bool(0.3) {
                // Nobody is connected: it is remembered.
                present.iter().for_each(|(connection, ..)| connection.close(VarInt::from_u32(0), b""));
                present.clear();
            }
        }
        for (connection, ..) in &present {
            assert_eq!(connection.close_reason(), None, "the last start was turned out");
            connection.close(VarInt::from_u32(0), b"");
        }
        world.the_link_is_exact().await?;
        world.end().await
    });
}

const MAX_SUBSCRIPTIONS: u32 = 16;
/// What three machines and their network may take: several times what they do, and far less than what is announced.
const SEED_BYTES: usize = 4 << 20;
const MAX_REASSEMBLY_BYTES: usize = 300_000;

fn sim() -> Sim {
    Sim::new().time_limit(Duration::from_secs(1800))
}

fn config() -> NodeConfig {
    lost_after(PATIENCE)
        .handshake_timeout(PATIENCE)
        .max_subscriptions(MAX_SUBSCRIPTIONS)
        .max_reassembly_bytes(MAX_REASSEMBLY_BYTES)
}

/// Packets come late, twice, in another order and in small pieces. None is lost, so that whoever tries once succeeds.
fn conditions(rng: &mut StdRng) -> LinkConditions {
    LinkConditions::draw(rng).loss(0.0).corruption(0.0)
}

/// Shuts a node down in an orderly way, after which nothing may run on its machine.
async fn end(host: &Host, node: Node) {
    assert!(node.shutdown(PATIENCE).await, "a link is left: {:?}", host.task_names());
    drop(node);
    until(CLOSING, "a task is left", || host.alive_tasks() == 0).await;
}

async fn try_subscribe(node: &Node, name: &str, there: &Host) -> Result<ProbeSink<u64>, SubscribeError> {
    ProbeSink::try_subscribe(&node.source::<u64>(name, there.address(PORT)), 1..10).await
}

#[track_caller]
fn is_refused(subscribed: Result<ProbeSink<u64>, SubscribeError>) -> SubscribeError {
    let error = subscribed.expect_err("a stranger is served");
    assert!(matches!(error, SubscribeError::Refused { .. }), "{error}");
    error
}

/// A subscription that has been accepted, by hand.
async fn accepted(connection: &Connection, producer: &str) -> Outcome<(SendStream, RecvStream)> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&frame(SUBSCRIBE, &subscribe(producer))).await?;
    let mut head = [0; 5];
    recv.read_exact(&mut head).await?;
    assert_eq!(head[4], ACCEPTED);
    send.write_all(&frame(CREDIT, &raw::map(&[("up_to", 1)]))).await?;
    Ok((send, recv))
}

/// The code with which the other side closes.
async fn code(connection: &Connection) -> VarInt {
    match timeout(PATIENCE, connection.closed()).await.expect("it is not closed") {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        other => panic!("{other}"),
    }
}

/// A producer's machine, and one of a well-behaved consumer.
struct World {
    issues: Issues,
    there: Host,
    node: Node,
    /// How often somebody subscribed to what only the node "nobody" may have.
    opened: Arc<AtomicUsize>,
    producing: Running,
    good: Good,
}

struct Good {
    host: Host,
    node: Node,
    consuming: Running,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl World {
    async fn new(net: &SimNet) -> Outcome<Self> {
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
    async fn dial(&self, host: &Host, name: &str) -> Connection {
        let mut endpoint = host.endpoint(PORT, None);
        endpoint.set_default_client_config(raw::client(&self.issues.issue(name)));
        let connecting = endpoint.connect(self.there.address(PORT), raw::SERVER_NAME).expect("a good address");
        connecting.await.expect("a good certificate")
    }

    /// The same, introduced.
    async fn join(&self, host: &Host) -> Outcome<(Connection, (SendStream, RecvStream))> {
        let connection = self.dial(host, "hostile").await;
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&hello("sim", "hostile")).await?;
        let mut head = [0; 5];
        recv.read_exact(&mut head).await?;
        assert_eq!(head[4], HELLO_ACK);
        Ok((connection, (send, recv)))
    }

    /// The well-behaved consumer gets everything, once and in order.
    async fn the_link_is_exact(&mut self) -> Outcome {
        timeout(PATIENCE, self.good.consuming.join()).await.expect("stuck")?;
        let seen = self.good.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(seen, (0..EVENTS).collect::<Vec<_>>());
        Ok(())
    }

    async fn end(self) -> Outcome {
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
    seen: Arc<Mutex<Vec<u64>>>,
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
struct Counted {
    source: ProbeSource<u64>,
    opened: Arc<AtomicUsize>,
}

impl Counted {
    fn new(source: ProbeSource<u64>) -> Self {
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
