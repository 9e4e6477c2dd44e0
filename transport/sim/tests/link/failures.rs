//! What a link must survive, and how it must end when it cannot.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Nemesis, Outcome, SimNet};
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::nodes::{links, until};
use crate::stages::{Pace, Sizes};
use crate::world::{
    CONSUMERS, DETECTED_WITHIN, GRACE, Here, IDLE, PATIENCE, RESUMED_WITHIN, SHORT_GRACE, SHORT_IDLE, Setup, World,
    everything, sim,
};

/// A consumer's machine dies with events in hand: the other consumer gets them, as another attempt.
#[test]
fn failure_01_what_a_killed_consumer_had_goes_to_the_other() {
    sim().swarm(0..100, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, SHORT_GRACE, Pace::Slow, true).await?;
        world.under_way().await;
        let killed = world.here.remove(0);
        killed.host.crash();
        let limit = DETECTED_WITHIN + SHORT_GRACE;
        until(limit, "a link of the killed node is left", || links(&world.there) <= 1).await;
        world.everything_took_place(&killed).await?;
        world.end().await
    });
}

/// A producer's machine dies: consumers are told so, and never of the end of the data.
#[test]
fn failure_02_a_killed_producer_is_no_end_of_the_data() {
    sim().swarm(0..100, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, SHORT_GRACE, Pace::Slow, false).await?;
        world.under_way().await;
        world.there.crash();
        for here in &mut world.here {
            here.is_disconnected_within(DETECTED_WITHIN + SHORT_GRACE).await;
        }
        for here in world.here {
            here.end().await?;
        }
        Ok(())
    });
}

/// Both directions are cut for longer than a connection lives, several times.
#[test]
fn failure_04_a_cut_shorter_than_the_grace_loses_nothing() {
    survives(0..100, |net, there, here| net.partition(there, here));
}

/// The cut outlasts the grace: what the consumer did not acknowledge goes to the other, once.
#[test]
fn failure_05_a_cut_longer_than_the_grace_gives_its_events_to_the_other() {
    sim().swarm(0..100, async |net| {
        let mut world = World::with(&net, SHORT_IDLE, SHORT_GRACE, Pace::Slow, true).await?;
        world.under_way().await;
        let mut cut_off = world.here.remove(0);
        net.partition(&world.there, &cut_off.host);
        cut_off.is_disconnected_within(DETECTED_WITHIN + SHORT_GRACE).await;
        until(DETECTED_WITHIN, "a link of the lost node is left", || links(&world.there) <= 1).await;
        net.heal_all();
        world.everything_took_place(&cut_off).await?;
        cut_off.end().await?;
        world.end().await
    });
}

/// Only what the consumer says is lost: demand is said again, and nothing stalls.
#[test]
fn failure_06_demand_lost_at_a_cut_is_said_again() {
    survives(300..400, |net, there, here| net.cut(here, there));
}

/// Behind events that have arrived, nothing the consumer says gets through: they are handled, and the producer does not
/// know. It sends again what it takes for lost, and the consumer knows it by its numbers.
#[test]
fn failure_08_a_lost_acknowledgement_costs_no_event_twice() {
    sim().swarm(0..100, async |net| {
        let mut rng = net.rng("cuts");
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, true).await?;
        world.under_way().await;
        for _ in 0..2 {
            for here in &world.here {
                let before = here.edge.book().received.len();
                // Everything may be here already, and nothing of it acknowledged.
                let is_all_here = || world.all_seen() == everything();
                let moved = || here.edge.book().received.len() > before || is_all_here();
                until(RESUMED_WITHIN, "nothing arrives", moved).await;
                net.cut(&here.host, &world.there);
            }
            // Longer than a connection lives, mostly.
            sleep(Duration::from_millis(rng.random_range(1000..20_000))).await;
            net.heal_all();
        }
        for here in &mut world.here {
            here.consuming.join().await?;
            assert!(here.edge.book().again.is_empty(), "handed out again, though nobody was lost");
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

/// Only what the producer says is lost: events arrive again, and are taken once.
#[test]
fn failure_09_events_lost_at_a_cut_are_sent_again() {
    survives(600..700, |net, there, here| net.cut(there, here));
}

/// The producer has ended, and its last words are lost.
#[test]
fn failure_10_the_end_is_told_after_a_cut() {
    sim().swarm(0..100, async |net| {
        let mut rng = net.rng("cut");
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Brisk, false).await?;
        world.producing.join().await?;
        for here in &world.here {
            net.partition(&world.there, &here.host);
        }
        sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
        net.heal_all();
        for here in &mut world.here {
            timeout(GRACE, here.consuming.join()).await.expect("not told of the end")?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

/// Ten minutes of bad network: nobody takes it for an end.
#[test]
fn failure_42_no_false_end_in_ten_minutes_of_loss_and_jitter() {
    sim().time_limit(Duration::from_secs(3600)).swarm(0..100, async |net| {
        let mut world = World::with(&net, IDLE, GRACE, Pace::Crawling, false).await?;
        world.under_way().await;
        let bad =
            LinkConditions::default().delay(Duration::from_millis(20)).jitter(Duration::from_millis(200)).loss(0.3);
        net.set_default_conditions(bad);
        for here in &world.here {
            net.set_conditions_between(&world.there, &here.host, bad);
        }
        let all = async {
            for here in &mut world.here {
                here.consuming.join().await?;
            }
            Outcome::Ok(())
        };
        // However long it takes: it ends in success only.
        let ended = timeout(Duration::from_secs(600), all).await;
        ended.unwrap_or(Ok(()))?;
        net.set_default_conditions(LinkConditions::default());
        for here in &world.here {
            net.set_conditions_between(&world.there, &here.host, LinkConditions::default());
        }
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

/// An event of three pieces is cut between them: it arrives whole, once, and in its place.
#[test]
fn failure_16_an_event_cut_half_way_arrives_once() {
    let cuts = AtomicU64::new(0);
    let report = sim().swarm(0..100, async |net| {
        let mut rng = net.rng("cuts");
        // Three seconds for an event of three pieces.
        let conditions = LinkConditions::default().delay(Duration::from_millis(20)).bandwidth(100_000);
        let (sizes, events) = (Sizes { long_every: 4, ..Sizes::default() }, 20);
        let (idle, grace, acknowledges) = (SHORT_IDLE, GRACE, rng.random_bool(0.5));
        let setup =
            Setup { idle, grace, acknowledges, events, sizes, conditions: Some(conditions), ..Setup::default() };
        let mut world = World::build(&net, setup).await?;
        for at in 0..2 * CONSUMERS {
            let here = &world.here[at % CONSUMERS];
            let reached = || here.edge.is_long_one_under_way() || here.edge.book().is_exhausted;
            until(PATIENCE, "no long event", reached).await;
            // Each piece takes more than a second.
            sleep(Duration::from_millis(rng.random_range(0..2000))).await;
            cuts.fetch_add(u64::from(here.edge.is_long_one_under_way()), Ordering::Relaxed);
            net.partition(&world.there, &here.host);
            sleep(Duration::from_millis(rng.random_range(3000..15_000))).await;
            net.heal_all();
        }
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), (0..events).collect::<Vec<_>>(), "lost, or twice");
        world.end().await
    });
    assert!(cuts.into_inner() >= report.seeds, "too few events were cut");
}

/// Faults of all kinds, one after the other and together, none for longer than a link must bear.
#[test]
fn whatever_the_nemesis_does_every_event_arrives_once() {
    sim().swarm(0..70, async |net| {
        let acknowledges = net.rng("nature").random_bool(0.5);
        let mut world = World::with(&net, SHORT_IDLE, 4 * GRACE, Pace::Slow, acknowledges).await?;
        world.under_way().await;
        let hosts: Vec<_> = world.here.iter().map(|here| here.host.clone()).chain([world.there.clone()]).collect();
        let nemesis = Nemesis::draw(&net, &hosts, GRACE, GRACE / 6);
        let all = async {
            for here in &mut world.here {
                here.consuming.join().await?;
            }
            Outcome::Ok(())
        };
        let (ended, ()) = tokio::join!(biased; all, nemesis.run());
        ended?;
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}

/// Cuts several times, each time for longer than a connection lives and shorter than the grace. Everything arrives once
/// and in order, and soon after each cut something arrives.
fn survives(seeds: Range<u64>, cut: impl Fn(&SimNet, &Host, &Host) + Sync) {
    sim().swarm(seeds, async |net| {
        let mut rng = net.rng("cuts");
        let acknowledges = rng.random_bool(0.5);
        let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, acknowledges).await?;
        world.under_way().await;
        for _ in 0..3 {
            for here in &world.here {
                cut(&net, &world.there, &here.host);
            }
            sleep(Duration::from_millis(rng.random_range(1000..20_000))).await;
            net.heal_all();
            let before = world.all_seen().len();
            let moved = || {
                let is_over = |here: &Here| here.edge.book().is_exhausted;
                world.all_seen().len() > before || world.here.iter().any(is_over)
            };
            until(RESUMED_WITHIN, "stuck after a cut", moved).await;
            sleep(Duration::from_millis(rng.random_range(0..1000))).await;
        }
        for here in &mut world.here {
            here.consuming.join().await?;
        }
        assert_eq!(world.all_seen(), everything(), "lost, or twice");
        world.end().await
    });
}
