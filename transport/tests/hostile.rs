//! Peers that do not keep the rules, on real sockets: each is closed with a code, and the others go on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use aqueduct_stage::SourceExt;
use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_transport::{Access, ChannelOptions, JoinOptions, NodeConfig};
use quinn::{ConnectionError, ReadError, VarInt};
use tokio::time::Instant;
use tokio_stream::StreamExt;

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/descriptors.rs"]
mod descriptors;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "hostile/often.rs"]
mod often;
#[path = "support/peers.rs"]
mod peers;
#[path = "hostile/publishing.rs"]
mod publishing;
#[path = "hostile/suite.rs"]
mod suite;
#[path = "hostile/taking.rs"]
mod taking;
#[path = "hostile/working.rs"]
mod working;
#[path = "hostile/world.rs"]
mod world;

use nodes::{GUARD, guarded};
use peers::{is_served, produce};
use world::*;

/// Does nothing in the ordinary run.
#[test]
fn as_a_worker() {
    suite::as_a_worker();
}

// Before anybody knows who it is.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_open_connections_harm_nobody() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        let _producing = produce(&world.there, "endless", u64::MAX, Access::everybody());
        let mut events = world.here.source::<u64>("endless", world.there.local_addr()).events(50..100);
        let before = resident_kib();
        events.next().await.unwrap().unwrap();

        let (at, mut retries) = (world.there.local_addr(), 0);
        let mut flood = Flood::new("127.0.0.1:0", &world.authority.issue("flood").unwrap());
        for _ in 0..100 {
            retries += flood.dial(100, at);
            // The present subscription goes on.
            for _ in 0..200 {
                events.next().await.unwrap().unwrap();
            }
        }
        // And a node that joins is let in, though the forged address is its own.
        let joins = Instant::now();
        let newcomer = world.node("newcomer", NodeConfig::default()).await;
        is_served(&newcomer, &world.there).await;
        let (joins, after) = (joins.elapsed(), resident_kib());
        println!(
            "10000 dialled, {retries} had to prove their address; 20000 events meanwhile; a newcomer was served \
             within {joins:?}; resident {before} KiB before, {after} KiB after"
        );
        assert!(retries > 0, "nobody was asked to prove its address");
        // Before any of those that are half open is given up.
        assert!(joins < Duration::from_secs(3), "{joins:?}");
        assert!(after < before + 50_000, "{before} KiB, then {after} KiB");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_real_address_does_not_take_every_place() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        let (at, pem) = (world.there.local_addr(), world.authority.issue("flood").unwrap());
        // They prove their address, and then say nothing more.
        let proved = tokio::task::spawn_blocking(move || Flood::new("127.0.0.2:0", &pem).dial_and_prove(300, at));
        let proved = proved.await.unwrap();
        assert!(proved > 64, "only {proved} got as far");
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test]
async fn a_hello_that_never_comes_is_closed_as_too_late() {
    guarded(async {
        let world = World::new(impatient()).await;
        // One that opens no stream, one that says nothing on it, and one that says it byte by byte.
        let mute = world.connect("mute").await;
        let silent = world.connect("silent").await;
        let _stream = silent.open_bi().await.unwrap();
        let slow = world.connect("slow").await;
        let (mut send, _recv) = slow.open_bi().await.unwrap();
        send.write_all(&hello("test", "slow")[..10]).await.unwrap();
        let [mute, silent, slow] = [mute, silent, slow].map(|connection| async move { code(&connection).await });
        assert_eq!(tokio::join!(mute, silent, slow), (TIMEOUT, TIMEOUT, TIMEOUT));
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test]
async fn a_hello_that_is_none_is_closed_as_a_breach() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        for (what, bytes) in [
            ("garbage", vec![0x55; 4096]),
            ("a length without end", vec![0xff; 64]),
            ("a frame over its limit", frame(HELLO, &vec![0xc0; 70_000])),
            ("an empty frame", vec![0; 4]),
            ("deep nesting", frame(HELLO, &[0x91; 60_000])),
            ("another frame", frame(SUBSCRIBE, &subscribe("numbers"))),
            ("an unknown frame", frame(99, &[0x80])),
            ("a stream that ends", Vec::new()),
        ] {
            let peer = world.connect("hostile").await;
            let (mut send, _recv) = peer.open_bi().await.unwrap();
            // It may be closed before it has sent everything.
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            assert_eq!(code(&peer).await, PROTOCOL, "{what}");
        }
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test]
async fn a_hello_of_somebody_else_is_refused() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        for (cluster, name) in [("test", "admin"), ("other", "hostile")] {
            let peer = world.connect("hostile").await;
            let (mut send, mut recv) = peer.open_bi().await.unwrap();
            send.write_all(&hello(cluster, name)).await.unwrap();
            let answer = recv.read_to_end(4096).await.unwrap();
            assert_eq!(answer[4], REFUSE);
            assert!(String::from_utf8_lossy(&answer).contains("aqueduct://test/node/hostile"), "{answer:?}");
            assert_eq!(code(&peer).await, REFUSED);
        }
        is_served(&world.here, &world.there).await;
    })
    .await;
}

// After it has introduced itself.

#[tokio::test]
async fn a_third_broken_rule_closes_the_connection() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        for (what, bytes) in [
            ("garbage", vec![0x55; 100_000]),
            ("a frame over its limit", frame(SUBSCRIBE, &vec![0xc0; 70_000])),
            ("a data frame over its limit", frame(EVENTS, &vec![0; 300_000])),
            ("deep nesting", frame(SUBSCRIBE, &[0x91; 60_000])),
            ("a frame in the wrong place", frame(CREDIT, &[0x80])),
        ] {
            let (peer, _control) = world.join("hostile").await;
            for offence in 1..=3 {
                let (mut send, mut recv) = peer.open_bi().await.unwrap();
                let _ = send.write_all(&bytes).await;
                if offence < 3 {
                    assert_eq!(recv.read_chunk(1, true).await.unwrap_err(), ReadError::Reset(PROTOCOL), "{what}");
                }
            }
            assert_eq!(code(&peer).await, PROTOCOL, "{what}");
        }
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test]
async fn rules_broken_in_the_middle_of_a_subscription_count_too() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        for (what, bytes) in [
            ("a second subscription", frame(SUBSCRIBE, &subscribe("numbers"))),
            ("a frame of the other side", frame(EVENTS, &[1, 1, 0xc0])),
            ("garbage", vec![0x55; 1000]),
            ("a length without end", vec![0xff; 64]),
        ] {
            let _producing = produce(&world.there, what, u64::MAX, Access::everybody());
            let (peer, _control) = world.join("hostile").await;
            let mut streams = Vec::new();
            for _ in 0..3 {
                let (mut send, mut recv) = peer.open_bi().await.unwrap();
                send.write_all(&frame(SUBSCRIBE, &subscribe(what))).await.unwrap();
                let mut head = [0; 5];
                recv.read_exact(&mut head).await.unwrap();
                assert_eq!(head[4], ACCEPTED);
                streams.push((send, recv));
            }
            for (send, _) in &mut streams {
                let _ = send.write_all(&bytes).await;
            }
            assert_eq!(code(&peer).await, PROTOCOL, "{what}");
        }
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_of_a_channel_that_breaks_rules_hurts_nobody() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        for (what, bytes) in [
            ("garbage", vec![0x55; 1000]),
            ("a length of 4 GiB", vec![0xff; 64]),
            ("an answer that is none", frame(ANSWER, &[0xc1; 50])),
            ("an answer over its limit", frame(ANSWER, &vec![0xc4; 70_000])),
        ] {
            let (sender, mut receiver) =
                world.there.serve_channel::<u64, u64>(what, ChannelOptions::default()).unwrap();
            let (peer, _control) = world.join("hostile").await;
            let mut streams = Vec::new();
            for _ in 0..3 {
                let (mut send, mut recv) = peer.open_bi().await.unwrap();
                let subscribe = subscribe_as(what, "channel u64 -> u64");
                send.write_all(&frame(SUBSCRIBE, &subscribe)).await.unwrap();
                let mut head = [0; 5];
                recv.read_exact(&mut head).await.unwrap();
                assert_eq!(head[4], ACCEPTED);
                streams.push((send, recv));
            }
            sender.send(20).await.unwrap();
            for (send, _) in &mut streams {
                let _ = send.write_all(&bytes).await;
            }
            assert_eq!(code(&peer).await, PROTOCOL, "{what}");
            let at = world.there.local_addr();
            let mut worker = world.here.join_channel::<u64, u64>(what, at, JoinOptions::default());
            worker.next().await.unwrap().unwrap().answer(&21).unwrap();
            assert_eq!(receiver.recv().await.unwrap().unwrap(), 21);
            drop(sender);
            assert!(worker.next().await.is_none() && receiver.recv().await.is_none());
        }
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_limit_wait_and_silent_ones_are_reset() {
    guarded(async {
        let world = World::new(impatient().max_subscriptions(4)).await;
        let (peer, _control) = world.join("hostile").await;
        let mut streams = Vec::new();
        for _ in 0..4 {
            let (mut send, recv) = peer.open_bi().await.unwrap();
            send.write_all(&[0]).await.unwrap();
            streams.push((send, recv));
        }
        tokio::select! {
            biased;
            _ = peer.open_bi() => panic!("a fifth"),
            _ = peer.open_uni() => panic!("one in one direction"),
            first = streams[0].1.read_chunk(1, true) => assert_eq!(first.unwrap_err(), ReadError::Reset(TIMEOUT)),
        }
        for (_, recv) in &mut streams[1..] {
            assert_eq!(recv.read_chunk(1, true).await.unwrap_err(), ReadError::Reset(TIMEOUT));
        }
        drop(streams);
        // Slowness is no offence: it may go on.
        peer.open_bi().await.unwrap();
        assert_eq!(peer.close_reason(), None);
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_more_than_allowed_is_refused_and_dialled_ones_do_not_count() {
    guarded(async {
        let world = World::new(NodeConfig::default().max_connections(1)).await;
        // The node dials another, which takes no place.
        is_served(&world.there, &world.here).await;
        let (first, _control) = world.join("first").await;
        let second = world.dial("second").await.unwrap_err();
        assert!(
            matches!(&second, ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == 2),
            "{second}"
        );
        first.close(VarInt::from_u32(0), b"");
        // Its place is free as soon as the node has heard of it.
        let again = async {
            loop {
                if world.dial("third").await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(GUARD, again).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn replayed_packets_do_nothing() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        let relay = Relay::between(world.there.local_addr()).await;
        let _producing = produce(&world.there, "numbers", 20_000, Access::everybody());
        // Every packet comes three times, in both directions.
        let seen = peers::consume(&world.here, "numbers", relay.address).await.unwrap();
        assert_eq!(seen, (0..20_000).collect::<Vec<_>>());

        // Everything that was sent comes again, from somewhere else; the producer would be asked again.
        let source = ProbeSource::<u64>::new();
        world.there.publish("probe", &source).unwrap();
        let sink = ProbeSink::subscribe(&world.here.source::<u64>("probe", relay.address)).await;
        sink.ask(1);
        source.expect_demand(1).await;
        source.send([7]);
        sink.expect_events([7]).await;
        let recorded = relay.recorded();
        assert!(recorded.len() > 10);
        let elsewhere = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for packet in &recorded {
            elsewhere.send_to(packet, world.there.local_addr()).await.unwrap();
        }
        is_served(&world.here, &world.there).await;
        // The subscription is as it was, and there is no second one.
        sink.ask(1);
        source.expect_demand(1).await;
        source.send([8]);
        sink.expect_events([8]).await;
    })
    .await;
}
