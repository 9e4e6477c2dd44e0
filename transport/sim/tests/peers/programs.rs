//! Nodes of other programs: versions of the protocol, and functions that one of them lacks.

use aqueduct_stage::SubscribeError;
use aqueduct_stage::testing::ProbeSource;
use aqueduct_transport::{Functions, LookupError, Node, Signature};
use rand::Rng;
use rand::rngs::StdRng;

use crate::nodes::{PORT, links, start};
use crate::raw::Issues;
use crate::world::{PATIENCE, conditions, config, end, sim, try_subscribe};

const VERSIONS: u16 = 4;

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
                let SubscribeError::Denied { at, reason } = subscribed.expect_err("they understand each other") else {
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
