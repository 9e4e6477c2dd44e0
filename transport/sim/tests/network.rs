//! quinn with mutual TLS between simulated hosts: every fault, the same trace for the same seed, crash and restart.

use std::time::Duration;

use aqueduct_sim::{Host, LinkConditions, Outcome, Report, Sim, SimNet, Stats, TextLog, run, same_elsewhere, swarm};
use tokio::time::{sleep, timeout};

#[path = "support/echo.rs"]
mod echo;
#[path = "support/pki.rs"]
mod pki;

use pki::Authority;

/// A server with the echo service, and a client with an endpoint and its configuration.
struct World {
    authority: Authority,
    server: Host,
    client: Host,
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

impl World {
    fn new(net: &SimNet) -> Self {
        let authority = Authority::new();
        let (server, client) = (net.host("server"), net.host("client"));
        echo::serve(&server, authority.server("server"));
        let (endpoint, config) = (client.endpoint(5000, None), authority.client("client", &authority));
        Self { authority, server, client, endpoint, config }
    }

    async fn connect(&self) -> Result<quinn::Connection, quinn::ConnectionError> {
        echo::connect(&self.endpoint, &self.config, &self.server).await
    }
}

/// A conversation of 64 KiB and back. Connections that a fault breaks are made again.
async fn conversation(net: SimNet) -> Outcome {
    let world = World::new(&net);
    let bytes: Vec<u8> = (0..64 * 1024_u32).map(|number| (number % 251) as u8).collect();
    loop {
        let attempt = async { echo::exchange(&world.connect().await?, &bytes).await };
        let Err(error) = attempt.await else { return Ok(()) };
        net.note(&format!("again after: {error}"), &[]);
    }
}

fn good() -> LinkConditions {
    LinkConditions::default().delay(Duration::from_millis(5))
}

fn all_faults() -> LinkConditions {
    good().jitter(Duration::from_millis(20)).loss(0.1).duplication(0.1).corruption(0.05)
}

fn converse(seed: u64, conditions: LinkConditions) -> Report {
    Sim::new().conditions(conditions).run(seed, conversation).expect_ok()
}

#[test]
fn a_conversation_gets_through_every_fault() {
    type Seen = fn(&Stats) -> u64;
    let faults: [(LinkConditions, Seen); 6] = [
        (good(), |stats| stats.delivered),
        (good().jitter(Duration::from_millis(30)), |stats| stats.reordered),
        (good().loss(0.15), |stats| stats.lost),
        (good().duplication(0.5), |stats| stats.duplicated),
        (good().corruption(0.1), |stats| stats.corrupted),
        (good().mtu_bytes(1250), |stats| stats.too_big),
    ];
    for (conditions, seen) in faults {
        let report = converse(1, conditions);
        assert!(seen(&report.stats) > 0, "{conditions:?} did nothing: {}", report.stats);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_under_every_fault() {
    for seed in 0..5 {
        let (first, second) = (converse(seed, all_faults()), converse(seed, all_faults()));
        assert!(first.stats.faults() > 20);
        assert_eq!((first.hash, first.trace_events), (second.hash, second.trace_events), "seed {seed}");
        assert_eq!((first.stats, first.virtual_time), (second.stats, second.virtual_time));
    }
}

#[test]
fn another_seed_gives_another_trace_even_on_a_good_network() {
    let [first, second] = [1, 2].map(|seed| converse(seed, good()));
    assert_ne!(first.hash, second.hash);
}

#[test]
fn a_text_log_does_not_change_the_trace() {
    let logged = Sim::new().conditions(all_faults()).text_log(TextLog::Keep).run(3, conversation).expect_ok();
    assert_eq!(logged.hash, converse(3, all_faults()).hash);
    assert_eq!(logged.log.len() as u64, logged.trace_events);
    assert!(logged.log[0].contains("sent      client:5000 > server:4433"), "{}", logged.log[0]);
}

#[test]
fn every_seed_of_a_swarm_with_its_own_faults_and_cuts_succeeds() {
    swarm(0..40, async |net| {
        net.set_default_conditions(LinkConditions::draw(&mut net.rng("conditions")));
        let (talk, cuts) = (conversation(net.clone()), cut_now_and_then(&net));
        tokio::try_join!(biased; talk, cuts).map(|_| ())
    });
}

async fn cut_now_and_then(net: &SimNet) -> Outcome {
    let (server, client) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    for _ in 0..3 {
        sleep(Duration::from_millis(40)).await;
        net.cut(client, server);
        sleep(Duration::from_millis(300)).await;
        net.partition(client, server);
        sleep(Duration::from_millis(300)).await;
        net.heal(client, server);
    }
    Ok(())
}

#[test]
fn a_crash_kills_everything_a_host_runs() {
    let report = run(1, async |net| {
        let world = World::new(&net);
        let connection = world.connect().await?;
        echo::exchange(&connection, b"before").await?;
        assert!(world.server.alive_tasks() >= 3, "{:?}", world.server.task_names());

        world.server.crash();
        assert_eq!(world.server.task_names(), [""; 0]);
        let sent_by_the_dead = net.stats().sent;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(net.stats().sent, sent_by_the_dead, "nothing leaves a crashed host");
        let error = echo::exchange(&connection, b"during").await.expect_err("nobody answers");
        assert!(error.to_string().contains("connection lost"), "{error}");

        world.server.restart();
        echo::serve(&world.server, world.authority.server("server"));
        echo::exchange(&world.connect().await?, b"after").await?;
        assert!(world.client.is_up() && net.stats().crashes == 1);
        Ok(())
    });
    assert!(report.expect_ok().virtual_time > Duration::from_secs(10), "the idle timeout had to pass");
}

#[test]
fn nothing_is_left_running_after_an_orderly_end() {
    let scenario = async |net: SimNet| {
        let world = World::new(&net);
        let before = (world.server.alive_tasks(), world.client.alive_tasks());
        let connection = world.connect().await?;
        echo::exchange(&connection, b"hello").await?;
        connection.close(0_u32.into(), b"done");
        drop(connection);
        sleep(Duration::from_secs(60)).await;
        assert_eq!((world.server.alive_tasks(), world.client.alive_tasks()), before);
        Ok(())
    };
    run(1, scenario).expect_ok();
}

#[test]
fn a_client_of_a_foreign_authority_is_refused_and_the_server_goes_on() {
    let scenario = async |net: SimNet| {
        let world = World::new(&net);
        let stranger = net.host("stranger");
        let (endpoint, config) = (stranger.endpoint(5000, None), Authority::new().client("stranger", &world.authority));
        // The client's handshake ends before the server has looked at its certificate: the refusal comes later.
        let refusal = match echo::connect(&endpoint, &config, &world.server).await {
            Ok(connection) => timeout(Duration::from_secs(5), connection.closed()).await?,
            Err(refusal) => refusal,
        };
        assert!(refusal.to_string().contains("certificate"), "{refusal}");
        echo::exchange(&world.connect().await?, b"hello").await
    };
    run(1, scenario).expect_ok();
}

#[test]
fn another_process_gets_the_same_traces() {
    same_elsewhere("another_process_gets_the_same_traces", &[1, 2, 3].map(|seed| converse(seed, all_faults())));
}
