//! Is the simulator sensitive? A resumable stream with demand over QUIC, as an edge between machines is, must get through
//! a nemesis that cuts, crashes and floods, and each bug planted in it must be found. A harness that never fails proves
//! nothing.
//!
//! For a measurement: `SIM_SEEDS=2000 cargo test --release -p aqueduct-sim --test stream nemesis -- --nocapture`

use std::sync::Arc;
use std::time::Duration;

use aqueduct_sim::{Edge, Host, LinkConditions, Outcome, Sim, SimNet, swarm};
use rand::Rng;
use tokio::time::{sleep, timeout};

#[path = "support/pki.rs"]
mod pki;

use pki::Authority;

/// Events of each client's stream.
const EVENTS: u64 = 600;
const CLIENTS: u64 = 2;
const MAX_DEMAND: u64 = 32;
const MIN_DEMAND: u64 = 16;
/// Between answers to two asks: the stream lasts about as long as the nemesis.
const PAUSE: Duration = Duration::from_millis(400);
const FRAME_BYTES: usize = 108;

#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// Rarely, one event more than was asked for.
    OneTooMany,
    /// A resumed stream repeats the last event.
    ResumesTooEarly,
    /// A read that is not cancel safe races against a timer.
    ReadInSelect,
}

#[test]
fn a_stream_with_demand_survives_the_nemesis() {
    swarm(0..30, async |net| scenario(net, Bug::None).await);
}

#[test]
fn one_event_too_many_is_found() {
    assert_found(Bug::OneTooMany, "asked for");
}

#[test]
fn a_resume_that_repeats_an_event_is_found() {
    assert_found(Bug::ResumesTooEarly, "expected");
}

#[test]
fn a_read_that_is_not_cancel_safe_is_found() {
    assert_found(Bug::ReadInSelect, "");
}

fn assert_found(bug: Bug, message: &str) {
    let report = Sim::new().try_swarm(0..12, async |net| scenario(net, bug).await);
    assert!(report.failures.iter().any(|(_, failure)| failure.contains(message)), "{:?}", report.failures);
}

async fn scenario(net: SimNet, bug: Bug) -> Outcome {
    net.set_default_conditions(LinkConditions::draw(&mut net.rng("conditions")));
    let authority = Authority::new();
    let server = net.host("server");
    let mut config = authority.server("server");
    config.transport_config(patience());
    serve(&server, config.clone(), bug);
    let mut clients = Vec::new();
    let mut ends = Vec::new();
    for id in 0..CLIENTS {
        let (host, to) = (net.host(&format!("client-{id}")), server.clone());
        let mut config = authority.client("client", &authority);
        config.transport_config(patience());
        let mut endpoint = host.endpoint(5000, None);
        endpoint.set_default_client_config(config);
        let (end, ended) = tokio::sync::oneshot::channel();
        host.spawn("client", async move {
            consume_all(&endpoint, &to, id, bug).await;
            end.send(()).expect("the scenario waits for every client");
        });
        clients.push(host);
        ends.push(ended);
    }
    nemesis(&net, &server, &clients, config, bug).await;
    let all = async {
        for ended in ends {
            ended.await?;
        }
        Ok(())
    };
    timeout(Duration::from_secs(300), all).await.map_err(|_| "no end 300 s after the last fault")?
}

fn patience() -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config.max_idle_timeout(Some(Duration::from_secs(3).try_into().expect("it is short")));
    config.keep_alive_interval(Some(Duration::from_millis(800)));
    Arc::new(config)
}

fn serve(host: &Host, config: quinn::ServerConfig, bug: Bug) {
    let (endpoint, machine) = (host.endpoint(4433, Some(config)), host.clone());
    host.spawn("accept", async move {
        while let Some(incoming) = endpoint.accept().await {
            let host = machine.clone();
            machine.spawn("produce", async move {
                let Ok(connection) = incoming.await else { return };
                let Ok((send, receive)) = connection.accept_bi().await else { return };
                drop(produce(host.net(), send, receive, bug).await);
            });
        }
    });
}

/// Sends what is asked for: the client says once where to begin and on which edge, then how far its demand reaches.
async fn produce(net: &SimNet, mut send: quinn::SendStream, mut asks: quinn::RecvStream, bug: Bug) -> Outcome {
    let (mut next, edge) = (read_number(&mut asks).await?, Edge(read_number(&mut asks).await?));
    if bug == Bug::ResumesTooEarly {
        next = next.saturating_sub(1);
    }
    let first = next;
    let mut rng = net.rng(&edge.to_string());
    while next < EVENTS {
        let mut until = first + read_number(&mut asks).await?;
        if bug == Bug::OneTooMany && rng.random_bool(0.05) {
            until += 1;
        }
        while next < until.min(EVENTS) {
            let mut frame = [0xAB; FRAME_BYTES];
            frame[..8].copy_from_slice(&next.to_le_bytes());
            net.sent(edge, 1);
            send.write_all(&frame).await?;
            next += 1;
        }
        sleep(PAUSE).await;
    }
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

async fn consume_all(endpoint: &quinn::Endpoint, server: &Host, client: u64, bug: Bug) {
    let (net, mut next) = (server.net(), 0);
    for attempt in 0.. {
        let edge = Edge(client << 32 | attempt);
        match consume(endpoint, server, edge, &mut next, bug).await {
            Ok(()) => return,
            Err(error) => net.note(&format!("{edge} broke: {error}"), &[]),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn consume(endpoint: &quinn::Endpoint, server: &Host, edge: Edge, next: &mut u64, bug: Bug) -> Outcome {
    let net = server.net();
    let connection = endpoint.connect(server.address(4433), server.name())?.await?;
    let (mut asks, mut events) = connection.open_bi().await?;
    asks.write_all(&[next.to_le_bytes(), edge.0.to_le_bytes()].concat()).await?;
    net.ledger().starts_at(edge, *next);
    let first = *next;
    let mut asked = 0;
    while *next < EVENTS {
        let received = *next - first;
        if asked - received <= MIN_DEMAND {
            asked = received + MAX_DEMAND;
            net.asked(edge, asked);
            asks.write_all(&asked.to_le_bytes()).await?;
        }
        let frame = read_frame(&mut events, bug).await?;
        let (number, payload) = frame.split_at(8);
        assert!(payload.iter().all(|byte| *byte == 0xAB), "the payload is broken");
        net.received(edge, u64::from_le_bytes(number.try_into()?));
        *next += 1;
    }
    connection.close(0_u32.into(), b"done");
    Ok(())
}

async fn read_frame(events: &mut quinn::RecvStream, bug: Bug) -> Outcome<[u8; FRAME_BYTES]> {
    let mut frame = [0; FRAME_BYTES];
    loop {
        let hurry = if bug == Bug::ReadInSelect { Duration::from_millis(25) } else { Duration::MAX };
        tokio::select! {
            biased;
            read = events.read_exact(&mut frame) => return Ok(read.map(|()| frame)?),
            () = sleep(hurry) => {}
        }
    }
}

async fn read_number(asks: &mut quinn::RecvStream) -> Outcome<u64> {
    let mut bytes = [0; 8];
    asks.read_exact(&mut bytes).await?;
    Ok(u64::from_le_bytes(bytes))
}

/// Twenty seconds of trouble, then a healthy network.
async fn nemesis(net: &SimNet, server: &Host, clients: &[Host], config: quinn::ServerConfig, bug: Bug) {
    let mut rng = net.rng("nemesis");
    while net.now() < Duration::from_secs(20) {
        sleep(Duration::from_millis(rng.random_range(100..1500))).await;
        let (client, lasts) = (&clients[rng.random_range(0..clients.len())], rng.random_range(200..5000));
        let lasts = Duration::from_millis(lasts);
        match rng.random_range(0..4) {
            0 => net.partition(server, client),
            1 => net.cut(server, client),
            2 => server.crash(),
            _ => net.set_conditions_between(server, client, storm()),
        }
        sleep(lasts).await;
        net.heal_all();
        net.set_conditions_between(server, client, LinkConditions::draw(&mut rng));
        if !server.is_up() {
            server.restart();
            serve(server, config.clone(), bug);
        }
    }
}

fn storm() -> LinkConditions {
    LinkConditions::default().delay(Duration::from_millis(20)).jitter(Duration::from_millis(200)).loss(0.4)
}
