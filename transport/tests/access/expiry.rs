//! Rights that end while a connection is there: its certificate expires, its node is sent away, a list is changed.

use std::time::Duration;

use aqueduct_stage::FailureKind;
use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_transport::{Access, Node, NodeConfig};
use tokio::time::sleep;

use crate::nodes::{guarded, node};
use crate::{Issues, refused};

/// How long the short certificates are valid.
const VALID: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_connection_is_closed_when_its_certificate_expires_and_its_subscription_goes_on_with_a_new_one() {
    guarded(async {
        let (issues, there, source) = publishing(NodeConfig::default()).await;
        let here = node(issues.issue_for_a_while("here", VALID), NodeConfig::default()).await;
        let sink = ProbeSink::subscribe(&here.source::<u64>("numbers", there.local_addr())).await;
        sink.ask(10);
        source.expect_demand(10).await;
        source.send([1, 2]);
        sink.expect_events([1, 2]).await;
        here.set_identity(issues.issue("here", 4000)).unwrap();
        until(|| there.snapshot().links_resumed == 1).await;
        source.send([3, 4]);
        sink.expect_events([3, 4]).await;
        assert_eq!((there.snapshot().links_given_up, here.snapshot().links_given_up), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_new_subscription_on_a_connection_whose_certificate_has_expired_is_refused() {
    guarded(async {
        let config = NodeConfig::default().close_expired(false);
        let (issues, there, source) = publishing(config.clone()).await;
        let here = node(issues.issue_for_a_while("here", VALID), config).await;
        let sink = ProbeSink::subscribe(&here.source::<u64>("numbers", there.local_addr())).await;
        sleep(VALID + Duration::from_secs(1)).await;
        let (_, reason) = refused(&here, "numbers", there.local_addr()).await;
        assert!(reason.contains("the certificate of aqueduct://test/node/here has expired"), "{reason}");
        // The one that is there goes on, as was said.
        sink.ask(10);
        source.expect_demand(10).await;
        source.send([1]);
        sink.expect_events([1]).await;
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_disconnected_loses_its_subscriptions_at_once_and_who_may_subscribe_can_be_changed() {
    guarded(async {
        let (issues, there, _source) = publishing(NodeConfig::default()).await;
        let here = node(issues.issue("here", 4000), NodeConfig::default()).await;
        let sink = ProbeSink::subscribe(&here.source::<u64>("numbers", there.local_addr())).await;
        assert!(there.set_subscribers("numbers", Access::only(["other"]).unwrap()));
        assert!(!there.set_subscribers("nothing", Access::everybody()));
        assert_eq!((there.disconnect("nobody"), there.disconnect("here")), (0, 1));
        let failure = sink.expect_failure().await;
        assert_eq!(failure.kind(), FailureKind::Disconnected, "{failure}");
        until(|| there.snapshot().links_published == 0).await;
        let (_, reason) = refused(&here, "numbers", there.local_addr()).await;
        assert!(reason.contains("may not subscribe"), "{reason}");
        there.set_subscribers("numbers", Access::only(["he*"]).unwrap());
        let again = ProbeSink::try_subscribe(&here.source::<u64>("numbers", there.local_addr()), 1..2).await;
        assert!(again.is_ok(), "{:?}", again.err());
    })
    .await;
}

async fn publishing(config: NodeConfig) -> (Issues, Node, ProbeSource<u64>) {
    let issues = Issues::new();
    let there = node(issues.issue("there", 4000), config).await;
    let source = ProbeSource::new();
    there.publish("numbers", &source).unwrap();
    (issues, there, source)
}

async fn until(reached: impl Fn() -> bool) {
    while !reached() {
        sleep(Duration::from_millis(10)).await;
    }
}
