//! Who is let in, who may have what, and how that changes while nodes run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{BoxFuture, EventStreamError, Running, SourceExt, Spawner, SubscribeError, TokioSpawner};
use aqueduct_transport::{Access, Authority, BindError, Identity, IdentityError, Node, NodeConfig};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

#[path = "access/expiry.rs"]
mod expiry;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "support/peers.rs"]
mod peers;

use nodes::{GUARD, guarded, node};
use peers::{consume, is_served, produce};

// Certificates.

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    guarded(async {
        let issuer = Issues::new();
        let here = node(issuer.issue("here", 4000), NodeConfig::default()).await;
        let there = node(issuer.issue("there", 4000), NodeConfig::default()).await;
        let expired = node(issuer.issue("expired", 2000), NodeConfig::default()).await;
        let _producing = [&there, &expired].map(|node| produce(node, "numbers", 10, Access::everybody()));

        let (at, why) = refused(&expired, "numbers", there.local_addr()).await;
        assert_eq!(at, there.local_addr().to_string());
        assert!(why.starts_with("the certificate of aqueduct://test/node/expired has expired on 2000-01-01"), "{why}");
        let error = subscribe_error(&here, "numbers", expired.local_addr()).await;
        assert!(error.to_string().contains("expired"), "{error}");
        is_served(&here, &there).await;
    })
    .await;
}

#[tokio::test]
async fn a_certificate_for_one_purpose_only_is_refused() {
    guarded(async {
        let issuer = Issues::new();
        let there = node(issuer.issue("there", 4000), NodeConfig::default()).await;
        let server = [ExtendedKeyUsagePurpose::ServerAuth];
        let server_only = node(issuer.issue_for("server", 4000, &server), NodeConfig::default()).await;
        let _producing = produce(&there, "numbers", 10, Access::everybody());
        let (_, why) = refused(&server_only, "numbers", there.local_addr()).await;
        assert!(
            why.contains("node/server is not accepted: certificate does not allow") && why.contains("client"),
            "{why}"
        );
    })
    .await;
}

// Rights.

#[tokio::test]
async fn a_node_without_the_right_gets_no_subscription() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let [there, billing, audit, stranger] = ["there", "billing", "audit-7", "stranger"].map(|name| {
            let identity = authority.issue(name).unwrap();
            async move { node(identity, NodeConfig::default()).await }
        });
        let (there, billing, audit, stranger) = tokio::join!(there, billing, audit, stranger);
        let sources = ["orders", "invoices"].map(|name| {
            let source = ProbeSource::<u64>::new();
            there.publish_to(Access::only(["billing", "audit-*"]).unwrap(), name, &source).unwrap();
            source
        });

        let (at, why) = refused(&stranger, "orders", there.local_addr()).await;
        assert_eq!(at, there.local_addr().to_string());
        assert_eq!(why, r#"node aqueduct://test/node/stranger may not subscribe to "orders""#);
        // It may have what is for everybody, on the same connection.
        is_served(&stranger, &there).await;
        for (node, name, source) in [(&billing, "orders", &sources[0]), (&audit, "invoices", &sources[1])] {
            let sink = ProbeSink::subscribe(&node.source::<u64>(name, there.local_addr())).await;
            sink.ask(1);
            // Nothing of the stranger's has come before it.
            source.expect_demand(1).await;
            source.send([1]);
            sink.expect_events([1]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_may_not_publish_is_not_subscribed_to() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let here = node(authority.issue("here").unwrap(), NodeConfig::default()).await;
        let there = node(authority.issue("there").unwrap(), NodeConfig::default()).await;
        let source = ProbeSource::<u64>::new();
        there.publish("orders", &source).unwrap();
        let remote = here.source::<u64>("orders", there.local_addr());
        let of_shop = remote.clone().published_by(Access::only(["shop-*"]).unwrap());
        match of_shop.events(1..2).next().await.unwrap().unwrap_err() {
            EventStreamError::Subscribe(SubscribeError::Denied { at, reason }) => {
                assert_eq!(at, "aqueduct://test/node/here");
                assert_eq!(reason, r#"node aqueduct://test/node/there may not publish "orders""#);
            }
            other => panic!("{other}"),
        }
        let of_there = remote.published_by(Access::only(["there"]).unwrap());
        let sink = ProbeSink::subscribe(&of_there).await;
        sink.ask(1);
        source.expect_demand(1).await;
    })
    .await;
}

// Change.

#[tokio::test]
async fn certificates_and_authorities_change_without_a_restart() {
    guarded(async {
        let (old, new) = (Authority::dev("test").unwrap(), Authority::dev("test").unwrap());
        let here = node(old.issue("here").unwrap(), NodeConfig::default()).await;
        let there = node(old.issue("there").unwrap(), NodeConfig::default()).await;
        let _producing = produce(&there, "endless", u64::MAX, Access::everybody());
        let mut present = here.source::<u64>("endless", there.local_addr()).events(5..10);
        present.next().await.unwrap().unwrap();

        // Both trust both; then both show what the new one issued; then the old one is trusted no more.
        let both = |issued: &Identity| {
            let pem = issued.to_pem();
            let roots = [old.issue("x").unwrap(), new.issue("x").unwrap()].map(|one| one.to_pem().authorities);
            Identity::from_pem(&pem.certificate, &pem.key, &roots.concat()).unwrap()
        };
        for authority in [&old, &new] {
            for (node, name) in [(&here, "here"), (&there, "there")] {
                node.set_identity(both(&authority.issue(name).unwrap())).unwrap();
                let newcomer = nodes::node(both(&old.issue("newcomer").unwrap()), NodeConfig::default()).await;
                is_served(&newcomer, &there).await;
            }
        }
        for (node, name) in [(&here, "here"), (&there, "there")] {
            node.set_identity(new.issue(name).unwrap()).unwrap();
        }
        let late = node(both(&old.issue("late").unwrap()), NodeConfig::default()).await;
        let (_, why) = refused(&late, "endless", there.local_addr()).await;
        assert!(why.contains("(the name is the same, the key is not)"), "{why}");
        late.set_identity(new.issue("late").unwrap()).unwrap();
        is_served(&late, &there).await;
        // The connection that was there before all that is still there.
        for _ in 0..1000 {
            present.next().await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_stays_who_it_is() {
    let authority = Authority::dev("test").unwrap();
    let here = node(authority.issue("here").unwrap(), NodeConfig::default()).await;
    let error = here.set_identity(authority.issue("there").unwrap()).unwrap_err();
    assert!(matches!(error, IdentityError::OtherNode { .. }), "{error}");
    assert_eq!(here.identity().node(), "here");
}

#[tokio::test]
async fn settings_that_do_not_go_together_make_no_node() {
    let identity = Authority::dev("test").unwrap().issue("here").unwrap();
    let config = NodeConfig::default().keep_alive(Duration::from_secs(9)).idle_timeout(Duration::from_secs(9));
    let error = Node::builder(identity).config(config).bind("127.0.0.1:0").await.unwrap_err();
    assert!(matches!(error, BindError::Config(_)), "{error}");
    assert_eq!(error.to_string(), "expected keep_alive above zero and below the idle_timeout of 9s, got 9s");
}

#[tokio::test]
async fn large_packets_carry_the_same_events() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let usual = node(authority.issue("usual").unwrap(), NodeConfig::default()).await;
        let [jumbo, fixed] = [NodeConfig::default().jumbo(), NodeConfig::default().max_mtu(60_000).initial_mtu(6000)];
        let jumbo = node(authority.issue("jumbo").unwrap(), jumbo).await;
        let fixed = node(authority.issue("fixed").unwrap(), fixed).await;
        for (one, other) in [(&usual, &jumbo), (&jumbo, &fixed)] {
            is_served(one, other).await;
            is_served(other, one).await;
        }
    })
    .await;
}

// Connections that are over.

/// A node dies without a word, and comes back at the same address, while its peer would wait for it for a minute.
#[test]
fn a_peer_notices_a_restart_within_a_second() {
    let authority = Authority::dev("test").unwrap();
    let (ours, theirs) = (authority.issue("here").unwrap(), authority.issue("there").unwrap());
    let (life, there, producing) = start(&theirs, "127.0.0.1:0");
    let at = there.local_addr();
    one_thread().block_on(guarded(async {
        let here = node(ours, patient().keep_alive(Duration::from_millis(200))).await;
        let mut events = here.source::<u64>("endless", at).events(5..10);
        events.next().await.unwrap().unwrap();
        let (life, again, _producing) = restart(life, (there, producing), theirs, at).await;
        let began = Instant::now();
        let error = timeout(GUARD, async {
            loop {
                if let Some(Err(error)) = events.next().await {
                    return error;
                }
            }
        });
        let error = error.await.unwrap();
        let took = began.elapsed();
        println!("noticed within {took:?}: {error}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        // It is dialled anew at once.
        is_served(&here, &again).await;
        assert!(began.elapsed() < Duration::from_secs(2));
        life.shutdown_background();
    }));
}

/// The same between two signs of life: what shows that the connection is dead is the subscription that needs it.
#[test]
fn a_subscription_right_after_a_restart_is_served() {
    let authority = Authority::dev("test").unwrap();
    let (ours, theirs) = (authority.issue("here").unwrap(), authority.issue("there").unwrap());
    let (life, there, producing) = start(&theirs, "127.0.0.1:0");
    let at = there.local_addr();
    one_thread().block_on(guarded(async {
        let here = node(ours, patient().keep_alive(Duration::from_secs(59))).await;
        is_served(&here, &there).await;
        let (life, again, _producing) = restart(life, (there, producing), theirs, at).await;
        is_served(&here, &again).await;
        life.shutdown_background();
    }));
}

/// Ends a node without a word, and starts it again at the same address.
async fn restart(life: Runtime, alive: (Node, Running), who: Identity, at: SocketAddr) -> (Runtime, Node, Running) {
    // Its tasks end where they are, so nobody says goodbye.
    life.shutdown_background();
    drop(alive);
    let started = tokio::task::spawn_blocking(move || {
        // The port is free when the last of them is gone.
        while std::net::UdpSocket::bind(at).is_err() {
            std::thread::yield_now();
        }
        start(&who, &at.to_string())
    });
    started.await.unwrap()
}

/// Would wait for a minute for a sign of life.
fn patient() -> NodeConfig {
    NodeConfig::default().idle_timeout(Duration::from_secs(60))
}

/// A node with a runtime of its own.
fn start(identity: &Identity, at: &str) -> (Runtime, Node, Running) {
    let runtime = one_thread();
    let (node, running) = runtime.block_on(async {
        let node = Node::builder(identity.clone()).config(patient()).bind(at).await.unwrap();
        let running = produce(&node, "endless", u64::MAX, Access::everybody());
        (node, running)
    });
    (runtime, node, running)
}

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[tokio::test]
async fn a_connection_that_is_not_used_is_closed_and_dialled_again_when_it_is() {
    guarded(async {
        let (authority, tasks) = (Authority::dev("test").unwrap(), Counting::default());
        let config = NodeConfig::default().unused_timeout(Duration::from_millis(300));
        let here = Node::builder(authority.issue("here").unwrap()).config(config);
        let here = here.spawner(tasks.clone()).bind("127.0.0.1:0").await.unwrap();
        let there = node(authority.issue("there").unwrap(), NodeConfig::default()).await;
        let _producing = produce(&there, "endless", u64::MAX, Access::everybody());
        for _ in 0..3 {
            let mut events = here.source::<u64>("endless", there.local_addr()).events(5..10);
            events.next().await.unwrap().unwrap();
            // What is in use stays for longer than that, even if nothing comes.
            let while_used = timeout(Duration::from_millis(900), tasks.until(|tasks| tasks == 1)).await;
            assert!(while_used.is_err(), "it was closed in use");
            events.next().await.unwrap().unwrap();
            drop(events);
            // The listener's.
            timeout(GUARD, tasks.until(|tasks| tasks == 1)).await.expect("it is not closed");
        }
    })
    .await;
}

/// Why a node gets no subscription, and from whom.
async fn refused(node: &Node, name: &str, at: SocketAddr) -> (String, String) {
    match subscribe_error(node, name, at).await {
        SubscribeError::Denied { at, reason } => (at, reason),
        other => panic!("{other}"),
    }
}

async fn subscribe_error(node: &Node, name: &str, at: SocketAddr) -> SubscribeError {
    let refused = timeout(GUARD / 3, consume(node, name, at)).await.expect("it is subscribed");
    match refused.unwrap_err() {
        EventStreamError::Subscribe(error) => error,
        other => panic!("{other}"),
    }
}

/// An authority that issues what a careful one would not.
struct Issues {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Issues {
    fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str, last_year: i32) -> Identity {
        self.issue_for(name, last_year, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// One that expires so soon.
    #[expect(clippy::disallowed_methods, reason = "a certificate says when it expires by the time of day")]
    fn issue_for_a_while(&self, name: &str, valid: Duration) -> Identity {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue_until(name, |params| params.not_after = date_time_ymd(1970, 1, 1) + now + valid, &both)
    }

    fn issue_for(&self, name: &str, last_year: i32, purposes: &[ExtendedKeyUsagePurpose]) -> Identity {
        self.issue_until(name, |params| params.not_after = date_time_ymd(last_year, 1, 1), purposes)
    }

    fn issue_until(
        &self,
        name: &str,
        set: impl FnOnce(&mut CertificateParams),
        purposes: &[ExtendedKeyUsagePurpose],
    ) -> Identity {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1990, 1, 1);
        set(&mut params);
        params.subject_alt_names = vec![
            SanType::URI(format!("aqueduct://test/node/{name}").try_into().unwrap()),
            SanType::DnsName("test.aqueduct.internal".try_into().unwrap()),
        ];
        params.extended_key_usages = purposes.to_vec();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity::from_pem(&certificate, &key.serialize_pem(), &self.certificate).unwrap()
    }
}

/// Starts tasks on tokio, and counts those of connections.
#[derive(Clone, Default)]
struct Counting(Arc<watch::Sender<usize>>);

impl Counting {
    async fn until(&self, is_so: impl Fn(usize) -> bool) {
        self.0.subscribe().wait_for(|count| is_so(*count)).await.unwrap();
    }
}

impl Spawner for Counting {
    fn spawn(&self, name: &str, task: BoxFuture<'static>) {
        if name != "connection" {
            return TokioSpawner.spawn(name, task);
        }
        let count = Arc::clone(&self.0);
        count.send_modify(|count| *count += 1);
        let counted = async move {
            task.await;
            count.send_modify(|count| *count -= 1);
        };
        TokioSpawner.spawn(name, Box::pin(counted));
    }
}
