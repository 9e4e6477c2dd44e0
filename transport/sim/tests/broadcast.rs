//! A broadcast to consumers on other machines, one of which is cut off: for how long the others wait for it.

use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use tokio::time::sleep_until;

#[path = "support/nodes.rs"]
mod nodes;
#[path = "link/stages.rs"]
mod stages;
#[path = "link/watched.rs"]
mod watched;
#[path = "link/world.rs"]
mod world;

use nodes::{links, until};
use stages::Pace;
use world::{
    DETECTED_WITHIN, GRACE, Here, RESUMED_WITHIN, SHORT_GRACE, SHORT_IDLE, SLACK, Setup, World, everything, sim,
};

const CONSUMERS: usize = 3;
const LAG_LIMIT: Duration = Duration::from_secs(5);
/// The cut.
const CUT: Duration = Duration::from_secs(60);
/// So much longer than the lag limit that one is not taken for the other.
const LONG_GRACE: Duration = Duration::from_secs(120);

#[test]
fn a_consumer_that_is_cut_off_holds_the_others_back_for_the_lag_limit_only() {
    sim().swarm(0..100, async |net| {
        let (mut world, mut cut_off) = one_is_cut_off(&net, LONG_GRACE, Some(LAG_LIMIT)).await?;
        let heal_at = tokio::time::Instant::now() + CUT;
        // It must have used up its demand before it holds anybody back.
        let limit = DETECTED_WITHIN + LAG_LIMIT + SLACK;
        until(limit, "it is waited for", || links(&world.there) < CONSUMERS).await;
        assert_eq!(world.node.snapshot().links_given_up_early, 1);
        the_others_get_everything(&mut world).await?;
        sleep_until(heal_at).await;
        net.heal_all();
        // It hears that it was given up, rather than the end.
        cut_off.is_disconnected_within(RESUMED_WITHIN).await;
        cut_off.end().await?;
        world.end().await
    });
}

#[test]
fn a_lag_limit_beyond_the_grace_leaves_it_to_the_grace() {
    sim().swarm(0..50, async |net| {
        let (mut world, mut cut_off) = one_is_cut_off(&net, SHORT_GRACE * 4, Some(LONG_GRACE)).await?;
        let begun = net.now();
        let limit = DETECTED_WITHIN + SHORT_GRACE * 4;
        until(limit + SLACK, "it is waited for", || links(&world.there) < CONSUMERS).await;
        assert!(net.now() - begun >= SHORT_GRACE * 4, "given up after {:?}", net.now() - begun);
        assert_eq!(world.node.snapshot().links_given_up_early, 0);
        the_others_get_everything(&mut world).await?;
        cut_off.is_disconnected_within(limit).await;
        net.heal_all();
        cut_off.end().await?;
        world.end().await
    });
}

#[test]
fn a_broadcast_loses_nothing_to_a_cut_that_is_over_before_the_lag_limit() {
    sim().swarm(0..50, async |net| {
        let (mut world, cut_off) = one_is_cut_off(&net, GRACE, Some(LONG_GRACE)).await?;
        let over = tokio::time::Instant::now() + DETECTED_WITHIN;
        sleep_until(over).await;
        net.heal_all();
        world.here.push(cut_off);
        the_others_get_everything(&mut world).await?;
        assert_eq!(world.node.snapshot().links_given_up_early, 0);
        world.end().await
    });
}

/// Where each event goes to one of them, nobody waits for who is cut off.
#[test]
fn without_a_broadcast_a_consumer_that_is_cut_off_has_the_whole_grace() {
    sim().swarm(0..50, async |net| {
        let (mut world, cut_off) = one_is_cut_off(&net, LONG_GRACE, None).await?;
        let heal_at = tokio::time::Instant::now() + CUT;
        sleep_until(heal_at).await;
        assert_eq!(world.node.snapshot().links_given_up_early, 0);
        net.heal_all();
        world.here.push(cut_off);
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

#[test]
fn what_a_consumer_that_is_cut_off_had_goes_to_another_after_the_lag_limit() {
    sim().swarm(0..50, async |net| {
        let setup = Setup { acknowledges: true, lag_limit: LAG_LIMIT, ..setup(LONG_GRACE, None) };
        let (mut world, mut cut_off) = one_of_them_is_cut_off(&net, setup).await?;
        let heal_at = tokio::time::Instant::now() + CUT;
        let limit = DETECTED_WITHIN + LAG_LIMIT + SLACK;
        until(limit, "it is waited for", || links(&world.there) < CONSUMERS).await;
        assert_eq!(world.node.snapshot().links_given_up_early, 1);
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        sleep_until(heal_at).await;
        net.heal_all();
        cut_off.is_disconnected_within(RESUMED_WITHIN).await;
        cut_off.end().await?;
        world.end().await
    });
}

#[test]
fn what_nobody_else_could_have_waits_for_the_whole_grace() {
    sim().swarm(0..50, async |net| {
        let setup = Setup { acknowledges: true, lag_limit: LAG_LIMIT, consumers: 1, ..setup(LONG_GRACE, None) };
        let (mut world, cut_off) = one_of_them_is_cut_off(&net, setup).await?;
        sleep_until(tokio::time::Instant::now() + CUT).await;
        assert_eq!((links(&world.there), world.node.snapshot().links_given_up_early), (1, 0));
        net.heal_all();
        world.here.push(cut_off);
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

/// Three consumers, of which the first has just been cut off.
async fn one_is_cut_off(net: &SimNet, grace: Duration, broadcast: Option<Duration>) -> Outcome<(World, Here)> {
    one_of_them_is_cut_off(net, setup(grace, broadcast)).await
}

fn setup(grace: Duration, broadcast: Option<Duration>) -> Setup {
    let (idle, pace, consumers) = (SHORT_IDLE, Pace::Slow, CONSUMERS);
    Setup { idle, grace, pace, consumers, broadcast, ..Setup::default() }
}

async fn one_of_them_is_cut_off(net: &SimNet, setup: Setup) -> Outcome<(World, Here)> {
    let mut world = World::build(net, setup).await?;
    for here in &world.here {
        here.edge.until(3).await;
    }
    let cut_off = world.here.remove(0);
    net.partition(&world.there, &cut_off.host);
    Ok((world, cut_off))
}

async fn the_others_get_everything(world: &mut World) -> Outcome {
    for here in &mut world.here {
        here.consuming.join().await?;
        assert_eq!(here.edge.book().received, everything(), "lost, twice, or out of order");
    }
    Ok(())
}
