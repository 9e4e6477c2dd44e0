//! What a node says of itself, on real sockets: everything that goes well or wrong is counted.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::time::Duration;

use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{FailureKind, SubscribeError};
use aqueduct_transport::{Access, Authority, Node, NodeConfig, NodeSnapshot, Retrying};
use tokio::net::UdpSocket;
use tokio::sync::watch;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{GUARD, guarded, node, nodes_of};

#[tokio::test]
async fn connections_links_and_events_count_at_both_ends() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let [here, there] = nodes_of(&authority, quick(), ["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        let sink = ProbeSink::subscribe(&here.source::<u64>("probe", there.local_addr())).await;
        sink.ask(3);
        source.expect_demand(3).await;
        source.send([1, 2, 3]);
        sink.expect_events([1, 2, 3]).await;

        let (ours, theirs) = (here.snapshot(), there.snapshot());
        assert_eq!((ours.node.as_str(), theirs.node.as_str()), ("here", "there"));
        assert_eq!((ours.connections_out, ours.connections_in), (1, 0));
        assert_eq!((theirs.connections_out, theirs.connections_in), (0, 1));
        assert_eq!((ours.links_subscribed, ours.links_published, ours.events_in, ours.events_out), (1, 0, 3, 0));
        assert_eq!(
            (theirs.links_subscribed, theirs.links_published, theirs.events_in, theirs.events_out),
            (0, 1, 0, 3)
        );

        source.complete();
        sink.expect_end().await;
        until(&here, |now| now.links_subscribed == 0).await;
        until(&there, |now| now.links_published == 0).await;
        here.shutdown(GUARD).await;
        until(&there, |now| now.connections_in == 0).await;
        for node in [here, there] {
            let now = node.snapshot();
            assert_eq!((now.links_resumed, now.links_given_up, now.offences, now.connections_out), (0, 0, 0, 0));
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_refused_counts() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let [here, there] = nodes_of(&authority, quick(), ["here", "there"]).await;
        let stranger = node(Authority::dev("test").unwrap().issue("stranger").unwrap(), quick()).await;
        let source = ProbeSource::<u64>::new();
        there.publish_to(Access::only(["nobody"]).unwrap(), "guarded", &source).unwrap();

        let error = subscribe_error(&stranger, "guarded", there.local_addr()).await;
        assert!(matches!(error, SubscribeError::Denied { .. } | SubscribeError::Unreachable { .. }), "{error}");
        assert_eq!(stranger.snapshot().dials_failed, 1);
        until(&there, |now| now.connections_refused == 1).await;

        for name in ["guarded", "unknown"] {
            subscribe_error(&here, name, there.local_addr()).await;
        }
        let now = there.snapshot();
        assert_eq!((now.subscriptions_refused, now.connections_refused, now.connections_in), (2, 1, 1));
        assert_eq!((now.links_published, now.offences), (0, 0));
        assert_eq!(here.snapshot().dials_failed, 0);
    })
    .await;
}

/// Whoever tries again and again does not wait for the end of an attempt that is hopeless.
#[tokio::test]
async fn a_dial_that_is_given_up_counts() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), NodeConfig::default()).await;
        // Nobody answers there.
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = here.source::<u64>("numbers", nobody.local_addr().unwrap());
        let patient = Retrying::new(&far, Duration::from_millis(2500));
        let error = ProbeSink::try_subscribe(&patient, 0..1).await.err();
        assert!(matches!(error, Some(SubscribeError::Unreachable { .. })), "{error:?}");
        // After 1 s, and after 2 s more.
        assert_eq!(here.snapshot().dials_failed, 2);
    })
    .await;
}

#[tokio::test]
async fn a_link_that_is_resumed_counts_and_so_does_one_that_is_given_up() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let config = quick().session_grace(Duration::from_secs(4));
        let [here, there] = nodes_of(&authority, config, ["here", "there"]).await;
        let source = ProbeSource::<u64>::new();
        there.publish("probe", &source).unwrap();
        let line = Line::to(there.local_addr()).await;
        let sink = ProbeSink::subscribe(&here.source::<u64>("probe", line.address)).await.within(GUARD);
        sink.ask(2);
        source.expect_demand(2).await;
        source.send([1]);
        sink.expect_events([1]).await;

        // Both have noticed that the connection is lost.
        line.cut(true);
        until(&here, |now| now.connections_out == 0).await;
        until(&there, |now| now.connections_in == 0).await;
        assert_eq!((here.snapshot().links_subscribed, there.snapshot().links_published), (1, 1));
        line.cut(false);
        until(&here, |now| now.links_resumed == 1).await;
        until(&there, |now| now.links_resumed == 1).await;
        source.send([2]);
        sink.expect_events([2]).await;
        assert_eq!((here.snapshot().links_given_up, there.snapshot().links_given_up), (0, 0));

        line.cut(true);
        assert_eq!(sink.expect_failure().await.kind(), FailureKind::Disconnected);
        until(&here, |now| now.links_given_up == 1 && now.links_subscribed == 0).await;
        until(&there, |now| now.links_given_up == 1 && now.links_published == 0).await;
        assert_eq!((here.snapshot().links_resumed, there.snapshot().links_resumed), (1, 1));
    })
    .await;
}

/// Notices soon that a peer is lost.
fn quick() -> NodeConfig {
    NodeConfig::default().idle_timeout(Duration::from_secs(1)).keep_alive(Duration::from_millis(100))
}

async fn subscribe_error(node: &Node, name: &str, at: SocketAddr) -> SubscribeError {
    let subscribed = ProbeSink::try_subscribe(&node.source::<u64>(name, at), 1..10).await;
    subscribed.expect_err("it is served")
}

/// Waits until a node is so.
async fn until(node: &Node, is_so: impl Fn(&NodeSnapshot) -> bool) {
    while !is_so(&node.snapshot()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Carries packets between a dialler and a node, until it is cut.
struct Line {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

impl Line {
    async fn to(node: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, (is_cut, cut)) = (front.local_addr().unwrap(), watch::channel(false));
        let carry = async move {
            let (mut dialler, mut here, mut there) = (None, vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut here) => {
                        dialler = Some(from);
                        if !*cut.borrow() {
                            let _ = back.send_to(&here[..length], node).await;
                        }
                    }
                    Ok((length, _)) = back.recv_from(&mut there) => if let Some(dialler) = dialler && !*cut.borrow() {
                        let _ = front.send_to(&there[..length], dialler).await;
                    },
                }
            }
        };
        #[allow(clippy::disallowed_methods, reason = "a line is no part of a graph")]
        tokio::spawn(carry);
        Self { address, is_cut }
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}
