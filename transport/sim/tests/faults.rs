//! Faults of hosts and of the network as a whole: stalls, clocks, storms, slow lines, odd sockets, and the nemesis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_sim::{Fault, Host, LinkConditions, Nemesis, Outcome, Sim, SimNet, run, swarm};
use tokio::time::{sleep, timeout};

#[path = "support/echo.rs"]
mod echo;
#[path = "support/pki.rs"]
mod pki;

/// A conversation of 64 KiB and back. Connections that a fault breaks are made again.
async fn conversation(server: &Host, client: &Host) -> Outcome {
    let authority = pki::Authority::new();
    echo::serve(server, authority.server("server"));
    let (endpoint, config) = (client.endpoint(5000, None), authority.client("client", &authority));
    let bytes: Vec<u8> = (0..64 * 1024_u32).map(|number| (number % 251) as u8).collect();
    loop {
        let attempt = async { echo::exchange(&echo::connect(&endpoint, &config, server).await?, &bytes).await };
        if attempt.await.is_ok() {
            return Ok(());
        }
    }
}

fn pair(net: &SimNet) -> [Host; 2] {
    ["server", "client"].map(|name| net.host(name))
}

#[test]
fn a_stalled_host_does_nothing_and_then_everything_that_waited() {
    let scenario = async |net: SimNet| {
        let [server, client] = pair(&net);
        let (ticks, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let count = ticks.clone();
        server.spawn("ticks", async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (socket, count) = (server.bind(1), heard.clone());
        server.spawn("listener", async move {
            loop {
                socket.recv_from().await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let seen = || (ticks.load(Ordering::Relaxed), heard.load(Ordering::Relaxed));
        sleep(Duration::from_millis(2500)).await;
        assert_eq!(seen(), (2, 0));

        server.stall(Duration::from_secs(10));
        let socket = client.bind(1);
        for _ in 0..3 {
            socket.send_to(server.address(1), b"are you there?");
        }
        sleep(Duration::from_secs(9)).await;
        assert_eq!((seen(), server.is_stalled()), ((2, 0), true));
        sleep(Duration::from_millis(1001)).await;
        // The timer that was due fires once: the next second begins when it is set again.
        assert_eq!((seen(), server.is_stalled()), ((3, 3), false));
        assert_eq!(net.stats().stalls, 1);
        Ok(())
    };
    run(1, scenario).expect_ok();
}

#[test]
fn a_crash_ends_a_stall() {
    let scenario = async |net: SimNet| {
        let host = net.host("server");
        host.stall(Duration::from_secs(1000));
        host.crash();
        host.restart();
        let (socket, to) = (host.bind(1), host.address(1));
        host.spawn("alive", async move { socket.send_to(to, b"again") });
        sleep(Duration::from_millis(1)).await;
        assert_eq!((host.is_stalled(), host.alive_tasks()), (false, 0));
        Ok(())
    };
    run(1, scenario).expect_ok();
}

#[test]
fn a_fast_clock_gives_up_early() {
    let gives_up_after = |rate: f64| {
        let scenario = async move |net: SimNet| {
            let [server, client] = pair(&net);
            let authority = pki::Authority::new();
            echo::serve(&server, authority.server("server"));
            client.set_clock_rate(rate);
            let (endpoint, config) = (client.endpoint(5000, None), authority.client("client", &authority));
            let connection = echo::connect(&endpoint, &config, &server).await?;
            net.partition(&server, &client);
            let begun = net.now();
            connection.closed().await;
            Err(format!("{}", (net.now() - begun).as_secs()).into())
        };
        run(1, scenario).outcome.expect_err("it says when").parse::<u64>().expect("a number")
    };
    let right = gives_up_after(1.0);
    assert!((gives_up_after(2.0) * 2).abs_diff(right) <= 2, "twice as fast");
    assert!((gives_up_after(0.5)).abs_diff(right * 2) <= 2, "half as fast");
}

#[test]
fn a_conversation_takes_as_long_as_its_bandwidth_says() {
    let took = |bandwidth| {
        let conditions = LinkConditions::default().bandwidth(bandwidth);
        let scenario = async |net: SimNet| {
            let [server, client] = pair(&net);
            conversation(&server, &client).await
        };
        Sim::new().conditions(conditions).run(1, scenario).expect_ok().virtual_time.as_secs_f64()
    };
    // 64 KiB there and, at the same time, back, and what QUIC adds.
    let (slow, fast) = (took(20_000), took(200_000));
    assert!((3.3..6.0).contains(&slow), "{slow}");
    assert!((0.33..0.8).contains(&fast), "{fast}");
}

#[test]
fn a_conversation_gets_through_odd_sockets_and_clocks() {
    let report = swarm(0..30, async |net| {
        net.buggify(0.2);
        let [server, client] = pair(&net);
        server.set_clock_rate(1.01);
        client.set_clock_rate(0.97);
        conversation(&server, &client).await
    });
    assert!(report.stats.blocked > 30, "{report}");
}

#[test]
fn a_conversation_gets_through_whatever_the_nemesis_does() {
    swarm(0..30, async |net| {
        let hosts = pair(&net);
        let nemesis = Nemesis::draw(&net, &hosts, Duration::from_secs(60), Duration::from_secs(10));
        let talk = async {
            while !nemesis.is_over() {
                let bytes = net.now().as_nanos().to_le_bytes();
                hosts[1].net().note("talk", &bytes);
                sleep(Duration::from_secs(1)).await;
            }
        };
        let (server, client) = (&hosts[0], &hosts[1]);
        let (ended, (), ()) = tokio::join!(biased; conversation(server, client), nemesis.run(), talk);
        ended
    });
}

#[test]
fn a_nemesis_ends_each_cut_in_time_and_is_told_with_the_failure() {
    let longest = Duration::from_secs(5);
    let scenario = async |net: SimNet| {
        let hosts = ["a", "b", "c"].map(|name| net.host(name));
        let nemesis = Nemesis::draw(&net, &hosts, Duration::from_secs(100), longest);
        for (at, fault) in nemesis.schedule() {
            let (Fault::Cut { from: one, to: other } | Fault::Partition { a: one, b: other }) = fault else { continue };
            let heals = nemesis.schedule().iter().filter_map(|(at, fault)| match fault {
                Fault::Heal { a, b } if (a.ip(), b.ip()) == (one.ip(), other.ip()) => Some(*at),
                _ => None,
            });
            assert!(heals.into_iter().any(|heal| heal > *at && heal <= *at + longest), "{nemesis}");
        }
        timeout(Duration::from_secs(200), nemesis.run()).await?;
        Err("as planned".into())
    };
    let message = run(3, scenario).outcome.expect_err("it fails");
    assert!(message.starts_with("as planned\n    with nemesis: "), "{message}");
    assert!(["cut ", "heal ", "storm ", "stall "].iter().all(|fault| message.contains(fault)), "{message}");
}
