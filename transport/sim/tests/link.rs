//! Subscriptions between nodes, over the simulated network: stages, links, quinn and TLS are the product's own.
//!
//! One producer is shared by two consumers on other machines. Both ends of both edges are watched: what was asked for,
//! sent and received goes into the [`Ledger`](aqueduct_sim::Ledger).
//!
//! Where a link must not survive its connection (the tests of this file), timeouts are chosen such that no connection is
//! lost by mere loss. What a link must survive, and how it must end when it cannot, is in `link/failures.rs`; the world is in
//! `link/world.rs`, for other files of tests as well.
//!
//! The tests of this binary have 1,444 seeds in all. `.ci/run` runs them with `SIM_SEEDS_TIMES=3` as well (4,324 seeds), its
//! long form with `SIM_SEEDS_TIMES=9` (12,964). Only the four of failure 15 stay four, as each takes a second.
//!
//! More seeds, quicker: `SIM_SEEDS=2000 cargo test --release -p aqueduct-sim --test link whatever -- --nocapture`

use std::time::Duration;

use tokio::time::sleep;

#[path = "link/choosy.rs"]
mod choosy;
#[path = "link/failures.rs"]
mod failures;
#[path = "link/hostile.rs"]
mod hostile;
#[path = "link/idle.rs"]
mod idle;
#[path = "link/large.rs"]
mod large;
#[path = "link/load.rs"]
mod load;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "link/processes.rs"]
mod processes;
#[path = "link/stages.rs"]
mod stages;
#[path = "link/watched.rs"]
mod watched;
#[path = "link/world.rs"]
mod world;

use nodes::{links, until};
use stages::Pace;
use world::{CONSUMERS, DETECTED_WITHIN, GRACE, IDLE, PATIENCE, SHORT_IDLE, SLACK, World, everything, sim};

#[test]
fn whatever_the_network_does_every_event_arrives_once() {
    sim().swarm(0..70, async |net| {
        let mut world = World::new(&net, PATIENCE, Pace::Brisk).await?;
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

#[test]
fn a_partition_that_is_shorter_than_the_idle_timeout_loses_nothing() {
    sim().swarm(0..10, async |net| {
        let mut world = World::new(&net, PATIENCE, Pace::Slow).await?;
        world.under_way().await;
        for here in &world.here {
            net.partition(&world.there, &here.host);
        }
        sleep(Duration::from_secs(5)).await;
        net.heal_all();
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

#[test]
fn a_consumer_that_crashes_costs_the_others_nothing() {
    sim().swarm(0..10, async |net| {
        let mut world = World::new(&net, IDLE, Pace::Slow).await?;
        world.under_way().await;
        let crashed = world.here.remove(0);
        crashed.host.crash();
        until(IDLE + SLACK, "a link of the crashed node is left", || links(&world.there) <= 1).await;
        world.the_other_gets_the_rest(&crashed).await?;
        world.end().await
    });
}

#[test]
fn a_consumer_that_is_cut_off_is_told_so_and_the_others_go_on() {
    sim().swarm(0..10, async |net| {
        let mut world = World::new(&net, IDLE, Pace::Slow).await?;
        world.under_way().await;
        let mut cut_off = world.here.remove(0);
        net.partition(&world.there, &cut_off.host);
        cut_off.is_disconnected().await;
        until(IDLE + SLACK, "a link of the lost node is left", || links(&world.there) <= 1).await;
        world.the_other_gets_the_rest(&cut_off).await?;
        net.heal_all();
        cut_off.end().await?;
        world.end().await
    });
}

#[test]
fn consumers_of_a_crashed_producer_are_told_so() {
    sim().swarm(0..10, async |net| {
        let mut world = World::new(&net, IDLE, Pace::Slow).await?;
        world.under_way().await;
        world.there.crash();
        for here in &mut world.here {
            here.is_disconnected().await;
        }
        for here in world.here {
            here.end().await?;
        }
        Ok(())
    });
}

#[test]
fn a_node_that_shuts_down_does_not_wait_for_a_link_that_is_cut_off() {
    sim().swarm(0..20, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, false).await?;
        world.under_way().await;
        for here in &world.here {
            net.partition(&world.there, &here.host);
        }
        // By now both ends have noticed, and wait for each other.
        sleep(DETECTED_WITHIN).await;
        assert_eq!(links(&world.there), CONSUMERS);
        let begun = net.now();
        world.node.shutdown(PATIENCE).await;
        assert_eq!(links(&world.there), 0);
        for here in &mut world.here {
            here.node.shutdown(PATIENCE).await;
            here.is_disconnected_within(SLACK).await;
        }
        assert!(net.now() - begun < SLACK, "shutting down takes {:?}", net.now() - begun);
        Ok(())
    });
}
