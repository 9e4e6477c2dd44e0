//! The same seed does the same in another process, whatever that has in its memory and environment.

use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet, same_elsewhere};
use tokio::time::sleep;

use crate::stages::Pace;
use crate::world::{GRACE, SHORT_IDLE, World, everything, sim};

#[test]
fn another_process_gets_the_same_traces_of_links() {
    let reports = [1, 2, 3].map(|seed| sim().run(seed, cut_and_resumed).expect_ok());
    same_elsewhere("processes::another_process_gets_the_same_traces_of_links", &reports);
}

async fn cut_and_resumed(net: SimNet) -> Outcome {
    let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, true).await?;
    world.under_way().await;
    net.partition(&world.there, &world.here[0].host);
    sleep(Duration::from_secs(10)).await;
    net.heal_all();
    for here in &mut world.here {
        here.consuming.join().await?;
    }
    assert_eq!(world.all_seen(), everything(), "lost, or twice");
    world.end().await
}
