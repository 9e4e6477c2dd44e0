//! Peers that keep no rule: they take too much, or send what is none. They are quinn's endpoints that write frames by
//! hand.

use std::time::Duration;

use aqueduct_sim::{Host, Outcome};
use quinn::VarInt;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use crate::memory::Memory;
use crate::nodes::{PORT, links, until};
use crate::raw::{self, ACCEPTED, ACK, ASK_FUNCTIONS, CHUNK, EVENTS_FRAME, PROTOCOL, SKIPPED, frame};
use crate::world::{
    CLOSING, MAX_REASSEMBLY_BYTES, MAX_SUBSCRIPTIONS, PATIENCE, World, accepted, code, sim, try_subscribe,
};

/// What three machines and their network may take: several times what they do, and far less than what is announced.
const SEED_BYTES: usize = 4 << 20;

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

/// A connection on which somebody has said who it is, and was answered; the control stream stays open.
async fn introduced(endpoint: &quinn::Endpoint) -> Option<(quinn::Connection, (quinn::SendStream, quinn::RecvStream))> {
    let connection = endpoint.accept().await?.await.ok()?;
    let (mut send, mut recv) = connection.accept_bi().await.ok()?;
    recv.read_exact(&mut [0; 5]).await.ok()?;
    send.write_all(&raw::hello_ack("hostile")).await.ok()?;
    Some((connection, (send, recv)))
}

/// A producer that sends more than it was asked for: its subscriber gets none of it, and is told so.
async fn exceeds_credit(world: &World, host: &Host, rng: &mut StdRng) -> Outcome {
    let endpoint = host.endpoint(PORT, Some(raw::server(&world.issues.issue("hostile"))));
    let excess = rng.random_range(1..100);
    host.spawn("hostile", async move {
        let serve = async {
            let (connection, _control) = introduced(&endpoint).await?;
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

/// A producer that begins an event of 8 MiB on each of many subscriptions, and ends none: what they hold together is
/// bounded, and those that go beyond it are told so.
async fn hoards(world: &World, host: &Host, rng: &mut StdRng) -> Outcome {
    let endpoint = host.endpoint(PORT, Some(raw::server(&world.issues.issue("hostile"))));
    let piece = rng.random_range(20_000..100_000);
    host.spawn("hostile", async move {
        let serve = async {
            let (connection, _control) = introduced(&endpoint).await?;
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
                // Event 1, the first attempt, piece 0, not the last, of 8 MiB.
                let mut body = vec![1, 1, 0, 0, 0x80, 0x80, 0x80, 0x04];
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
