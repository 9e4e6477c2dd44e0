//! Those whom the cluster does not know, and what they can repeat of those whom it knows.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct_sim::{Host, Outcome, SimNet};
use aqueduct_stage::testing::{ProbeSink, ProbeSource};
use aqueduct_stage::{Result, SubscribeError};
use quinn::ConnectionError;
use rand::Rng;
use tokio::time::{sleep, timeout};

use crate::nodes::{PORT, start};
use crate::raw::{self, Issues, REFUSED, hello};
use crate::world::{Counted, PATIENCE, World, code, config, end, sim, try_subscribe};

/// Nobody whom the cluster does not know, or who may not have it, gets as far as a stage.
#[test]
fn failure_19_a_stranger_gets_no_stage_state() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net).await?;
        let mut rng = net.rng("stranger");
        let host = net.host("stranger");
        match rng.random_range(0..5) {
            0 => {
                // It knows the cluster's authority, and has its certificate from another one.
                let mut endpoint = host.endpoint(PORT, None);
                let (knows, is) = (world.issues.issue("here"), Issues::new().issue("here"));
                endpoint.set_default_client_config(raw::client_of(&knows, &is));
                let refused = match endpoint.connect(world.there.address(PORT), raw::SERVER_NAME)?.await {
                    Ok(connection) => timeout(PATIENCE, connection.closed()).await?,
                    Err(refused) => refused,
                };
                assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
            }
            1 => {
                let node = start(&host, world.issues.issue_until("here", 2000), config())?;
                is_refused(try_subscribe(&node, "guarded", &world.there).await);
                end(&host, node).await;
            }
            2 => {
                // It says that it is somebody else.
                let connection = world.dial(&host, "stranger").await;
                let (mut send, _recv) = connection.open_bi().await?;
                send.write_all(&hello("sim", "here")).await?;
                assert_eq!(code(&connection).await, REFUSED);
            }
            3 => {
                let node = start(&host, world.issues.issue("stranger"), config())?;
                let refused = try_subscribe(&node, "guarded", &world.there).await;
                let error = is_refused(refused).to_string();
                assert!(error.contains("aqueduct://sim/node/stranger") && error.contains("guarded"), "{error}");
                end(&host, node).await;
            }
            _ => replay(&net, &world, &host).await?,
        }
        assert_eq!(world.opened.load(Ordering::Relaxed), 0, "a stage has heard of it");
        world.the_link_is_exact().await?;
        world.end().await
    });
}

/// Every packet of a good node comes again, from where it came from and from elsewhere.
async fn replay(net: &SimNet, world: &World, stranger: &Host) -> Outcome {
    let relay = net.host("relay");
    let recorded = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let (front, back) = (relay.bind(PORT), relay.bind(PORT + 1));
    let dialler = Arc::new(Mutex::new(None));
    {
        let (front, back, recorded) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&recorded));
        let (dialler, to) = (Arc::clone(&dialler), world.there.address(PORT));
        relay.spawn("there", async move {
            loop {
                let (from, packet) = front.recv_from().await;
                *dialler.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                back.send_to(to, &packet);
                recorded.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
            }
        });
    }
    {
        let back = Arc::clone(&back);
        relay.spawn("back", async move {
            loop {
                let (_, packet) = back.recv_from().await;
                let to = *dialler.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(to) = to {
                    front.send_to(to, &packet);
                }
            }
        });
    }
    let victim = net.host("victim");
    let node = start(&victim, world.issues.issue("victim"), config())?;
    let source = ProbeSource::<u64>::new().within(PATIENCE);
    let opened = Counted::new(source.clone());
    world.node.publish("replayed", &opened)?;
    let sink = try_subscribe(&node, "replayed", &relay).await?.within(PATIENCE);
    source.expect_subscription().await;
    sink.ask(1);
    source.expect_demand(1).await;
    source.send([7]);
    sink.expect_events([7]).await;

    let packets = recorded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let elsewhere = stranger.bind(PORT);
    for packet in &packets {
        back.send_to(world.there.address(PORT), packet);
        elsewhere.send_to(world.there.address(PORT), packet);
    }
    // Long enough for all of them to have come.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(opened.opened.load(Ordering::Relaxed), 1, "subscribed twice");
    source.expect_no_demand().await;
    sink.ask(1);
    source.expect_demand(1).await;
    source.send([8]);
    sink.expect_events([8]).await;
    sink.cancel();
    source.expect_cancel().await;
    end(&victim, node).await;
    relay.crash();
    Ok(())
}

#[track_caller]
fn is_refused(subscribed: Result<ProbeSink<u64>, SubscribeError>) -> SubscribeError {
    let error = subscribed.expect_err("a stranger is served");
    assert!(matches!(error, SubscribeError::Denied { .. }), "{error}");
    error
}
