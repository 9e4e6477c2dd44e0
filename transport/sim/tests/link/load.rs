//! What one subscription may cost the others.

use std::time::Duration;

use aqueduct_sim::{LinkConditions, Outcome};
use rand::Rng;
use tokio::time::sleep;

use crate::stages::{Pace, Sizes};
use crate::world::{PATIENCE, Setup, World, sim};

const CROWD: usize = 10;
/// How long is measured.
const SPAN: Duration = Duration::from_secs(6);

/// One of ten consumers handles nothing any more, or its whole machine is held up. The others get what they got before,
/// and the producer keeps no more for it than it has asked for.
#[test]
fn failure_14_a_slow_consumer_among_ten_holds_up_nobody() {
    sim().swarm(0..100, async |net| {
        let mut rng = net.rng("slow");
        let conditions = LinkConditions::default().delay(Duration::from_millis(rng.random_range(1..20)));
        let (idle, acknowledges) = (PATIENCE, rng.random_bool(0.5));
        let (pace, consumers, events) = (Pace::Steady, CROWD, u64::MAX);
        let conditions = Some(conditions);
        let sizes = Sizes { long_every: u64::MAX, ..Sizes::default() };
        let setup = Setup { idle, pace, consumers, events, sizes, acknowledges, conditions, ..Setup::default() };
        let world = World::build(&net, setup).await?;
        for here in &world.here {
            here.edge.until(3).await;
        }
        let slow = &world.here[rng.random_range(0..CROWD)];
        let others = || -> usize {
            let others = world.here.iter().filter(|here| here.edge.edge != slow.edge.edge);
            others.map(|here| here.edge.book().received.len()).sum()
        };
        let during = async |span| {
            let before = others();
            sleep(span).await;
            others() - before
        };
        let with_all = during(SPAN).await;
        if rng.random_bool(0.5) {
            slow.host.stall(3 * SPAN);
        } else {
            slow.edge.hold(true);
        }
        // What it had asked for is still handed to it.
        sleep(SPAN / 2).await;
        let before = slow.edge.book().sent.len();
        let without_it = during(SPAN).await;
        assert!(without_it * 10 >= with_all * 9, "the others got {without_it} events instead of {with_all}");
        assert_eq!(slow.edge.book().sent.len(), before, "it is slow, and gets more");
        let kept = net.ledger().under_way(slow.edge.edge);
        assert!(kept <= slow.max_demand, "{kept} events are kept for it, and it has asked for {}", slow.max_demand);
        Outcome::Ok(())
    });
}
