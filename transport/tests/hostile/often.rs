//! Frames that are correct, each of them, and come too often.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aqueduct_stage::SourceExt;
use aqueduct_transport::{Access, NodeConfig};
use bytes::Bytes;
use quinn::{Endpoint, ReadError};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

use crate::attacks::{Attack, Attacker};
use crate::nodes::{GUARD, guarded};
use crate::peers::{is_served, produce};
use crate::world::*;
use crate::{frames, publishing};

#[tokio::test]
async fn connections_of_one_node_beyond_its_share_are_refused_and_others_are_let_in() {
    guarded(async {
        let world = World::new(NodeConfig::default().max_connections(64)).await;
        let mut joined = Vec::new();
        let mut refused = 0;
        for _ in 0..100 {
            let connection = world.connect("hostile").await;
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&hello("test", "hostile")).await.unwrap();
            let mut head = [0; 5];
            recv.read_exact(&mut head).await.unwrap();
            match head[4] {
                HELLO_ACK => joined.push((connection, send, recv)),
                REFUSE => {
                    let why = recv.read_to_end(4096).await.unwrap();
                    assert!(String::from_utf8_lossy(&why).contains("at most 16 connections of one node"), "{why:?}");
                    assert_eq!(code(&connection).await, REFUSED);
                    refused += 1;
                }
                other => panic!("a frame of type {other}"),
            }
        }
        assert_eq!((joined.len(), refused), (16, 84));
        is_served(&world.here, &world.there).await;
        // A place is free as soon as a connection ends.
        let (connection, ..) = joined.pop().unwrap();
        connection.close(0_u32.into(), b"");
        let again = async { while !world.is_let_in("hostile").await {} };
        timeout(GUARD, again).await.expect("there is no place");
    })
    .await;
}

/// It takes a handshake each time, and is not among the connections that there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_leaves_again_and_again_is_slowed_down_and_another_address_is_not() {
    guarded(async {
        let world = World::new(NodeConfig::default().connections_per_second(8)).await;
        let identity = world.authority.issue("hostile").unwrap();
        let mut endpoint = Endpoint::client("127.0.0.2:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(client(&identity));
        let (at, begun, mut connected) = (world.there.local_addr(), Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(3) {
            let connecting = endpoint.connect(at, SERVER_NAME).unwrap();
            if let Ok(Ok(connection)) = timeout(Duration::from_millis(500), connecting).await {
                connection.close(0_u32.into(), b"");
                connected += 1;
            }
        }
        // Eight at once and eight a second, once as an address that is claimed, and once as one that is proved.
        let at_most = 2.0 * (8.0 + 8.0 * begun.elapsed().as_secs_f64());
        println!("connected {connected} times of {at_most:.0}");
        assert!((16..=at_most as usize).contains(&connected), "{connected} of {at_most}");
        let joins = Instant::now();
        is_served(&world.here, &world.there).await;
        assert!(joins.elapsed() < Duration::from_secs(1), "{:?}", joins.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_that_start_together_on_one_address_all_come_in() {
    guarded(async {
        // Two thirds of them at once. Nobody is told to try again.
        let world = World::new(NodeConfig::default().connections_per_second(16)).await;
        let _producing = produce(&world.there, "endless", u64::MAX, Access::everybody());
        let at = world.there.local_addr();
        let mut joining = JoinSet::new();
        for n in 0..50 {
            let newcomer = world.node(&format!("newcomer-{n}"), NodeConfig::default()).await;
            joining.spawn(async move {
                newcomer.source::<u64>("endless", at).events(5..10).next().await.unwrap().unwrap();
            });
        }
        joining.join_all().await;
    })
    .await;
}

/// A link that is cut is made again at once, and a dial is a handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_goes_on_and_cuts_the_link_again_and_again_is_dialled_ever_later() {
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        let attacker = Attacker::new(world.authority.issue("hostile").unwrap());
        let row = frames::ALL.iter().find(|row| row.kind == RESUMED).unwrap();
        let at = publishing::serve(&attacker, Attack::Frames(row), 1)[0];
        attacker.begins.send_replace(true);
        let mut events = world.here.source::<Bytes>("evil", at).events(5..10);
        let begun = Instant::now();
        let resumed_five_times = async {
            while world.here.snapshot().links_resumed < 5 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = resumed_five_times => {}
            ended = events.next() => panic!("{ended:?}"),
        }
        let (took, pauses) = (begun.elapsed(), Duration::from_millis(50 + 100 + 200 + 250));
        println!("five times within {took:?}");
        assert!(took >= pauses, "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn subscriptions_count_over_all_connections_of_a_node() {
    guarded(async {
        let world = World::new(NodeConfig::default().max_subscriptions(8)).await;
        let _producing = produce(&world.there, "endless", u64::MAX, Access::everybody());
        let (mut streams, mut connections) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (peer, control) = world.join("hostile").await;
            for _ in 0..4 {
                let (mut send, mut recv) = peer.open_bi().await.unwrap();
                send.write_all(&frame(SUBSCRIBE, &subscribe("endless"))).await.unwrap();
                let mut head = [0; 5];
                recv.read_exact(&mut head).await.unwrap();
                if head[4] == REFUSED_SUBSCRIPTION {
                    let why = recv.read_to_end(4096).await.unwrap();
                    assert!(String::from_utf8_lossy(&why).contains("at most 8 subscriptions of one node"), "{why:?}");
                } else {
                    assert_eq!(head[4], ACCEPTED);
                    streams.push((send, recv));
                }
            }
            connections.push((peer, control));
        }
        assert_eq!((streams.len(), world.there.snapshot().links_published), (8, 8));
        is_served(&world.here, &world.there).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_subscriptions_are_offences_when_there_are_many_and_the_log_says_how_many_it_left_out() {
    guarded(async {
        let world = World::new(NodeConfig::default().refused_subscriptions_per_second(10)).await;
        let (peer, _control) = world.join("hostile").await;
        let refused = AtomicUsize::new(0);
        let closed = async {
            loop {
                let Ok((mut send, mut recv)) = peer.open_bi().await else { return };
                let _ = send.write_all(&frame(SUBSCRIBE, &subscribe("nothing"))).await;
                match recv.read_to_end(4096).await {
                    Ok(answer) => {
                        assert_eq!(answer[4], REFUSED_SUBSCRIPTION);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => return,
                }
            }
        };
        timeout(GUARD, closed).await.expect("it may go on for ever");
        assert_eq!(code(&peer).await, PROTOCOL);
        // Four seconds' worth, a few that came in meanwhile, and three offences.
        let (refused, now) = (refused.load(Ordering::Relaxed), world.there.snapshot());
        assert!((40..100).contains(&refused), "{refused}");
        assert_eq!(now.offences, 3);
        is_served(&world.here, &world.there).await;
    })
    .await;
}

/// Each is a warning of its own.
#[tokio::test]
async fn what_a_peer_can_have_logged_is_bounded() {
    let log = Arc::new(Log::default());
    let _logging = tracing::subscriber::set_default(Arc::clone(&log));
    guarded(async {
        let world = World::new(NodeConfig::default()).await;
        world.there.publish_to(Access::only(["nobody"]).unwrap(), "guarded", &probe()).unwrap();
        let (peer, _control) = world.join("hostile").await;
        for _ in 0..500 {
            let (mut send, mut recv) = peer.open_bi().await.unwrap();
            send.write_all(&frame(SUBSCRIBE, &subscribe("guarded"))).await.unwrap();
            match recv.read_to_end(4096).await {
                Ok(answer) => assert_eq!(answer[4], REFUSED_SUBSCRIPTION),
                Err(error) => assert!(matches!(error, quinn::ReadToEndError::Read(ReadError::Reset(_))), "{error}"),
            }
        }
        let (logged, left_out) = (log.lines(), world.there.snapshot().notices_left_out);
        println!("500 refused subscriptions: {logged} lines in the log, {left_out} left out");
        assert!((16..100).contains(&logged) && left_out > 400, "{logged} lines, {left_out} left out");
    })
    .await;
}

/// Counts warnings.
#[derive(Default)]
struct Log(AtomicUsize);

impl Log {
    fn lines(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn probe() -> aqueduct_stage::testing::ProbeSource<u64> {
    aqueduct_stage::testing::ProbeSource::new()
}
