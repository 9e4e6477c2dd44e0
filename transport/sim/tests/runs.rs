//! What a run promises: failures are found and told, crashes are total, time and chance are the seed's.

use std::future::pending;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aqueduct_sim::{Edge, Outcome, Sim, SimNet, run};
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};

fn failure(scenario: impl AsyncFnOnce(SimNet) -> Outcome + Send) -> String {
    run(1, scenario).outcome.expect_err("it fails")
}

#[test]
fn a_panic_of_the_scenario_fails_the_run_with_its_message() {
    assert_eq!(failure(async |net| panic!("seed {} is bad", net.seed())), "panicked: seed 1 is bad");
}

#[test]
fn an_error_of_the_scenario_fails_the_run_with_its_message() {
    assert_eq!(failure(async |_| Err("no".into())), "no");
}

#[test]
fn a_panic_of_a_task_ends_the_run_though_the_scenario_waits() {
    let message = failure(async |net| {
        let host = net.host("server");
        host.spawn("worker", async {
            sleep(Duration::from_secs(1)).await;
            panic!("out of luck");
        });
        pending().await
    });
    assert_eq!(message, "worker on server panicked: out of luck");
}

#[test]
fn a_run_that_makes_no_progress_ends_at_the_time_limit() {
    let report = Sim::new().time_limit(Duration::from_secs(100)).run(1, async |_| pending().await);
    assert_eq!(report.outcome, Err("no end after 100s of virtual time".to_owned()));
    assert_eq!(report.virtual_time, Duration::from_secs(100));
}

#[test]
fn a_violation_in_the_ledger_ends_the_run_at_once() {
    let message = failure(async |net| {
        net.asked(Edge(1), 10);
        net.sent(Edge(1), 11);
        pending().await
    });
    assert_eq!(message, "edge 1: sent 11 events, asked for 10");
}

#[test]
fn a_swarm_tells_the_seeds_that_failed_and_how_to_replay_one() {
    let report = Sim::new().try_swarm(0..20, async |net| match net.seed() {
        7 | 13 => Err("bad luck".into()),
        _ => Ok(()),
    });
    assert_eq!((report.seeds, report.verified), (20, if run(0, async |_| Ok(())).entropy_is_seeded { 2 } else { 0 }));
    assert_eq!(report.failures, [(7, "bad luck".to_owned()), (13, "bad luck".to_owned())]);
    let panic = catch_unwind(|| report.expect_ok()).expect_err("it panics");
    let message = panic.downcast_ref::<String>().expect("it has a text");
    assert!(
        message.starts_with("2 of 20 seeds failed:\n  SIM_SEED=7: bad luck\n  SIM_SEED=13: bad luck\n"),
        "{message}"
    );
    let test = "a_swarm_tells_the_seeds_that_failed_and_how_to_replay_one -- --exact --nocapture";
    assert!(message.contains("SIM_SEED=7 cargo test") && message.ends_with(test), "{message}");
}

#[test]
fn a_swarm_finds_a_scenario_that_is_not_a_function_of_its_seed() {
    if !run(0, async |_| Ok(())).entropy_is_seeded {
        return; // this platform does not compare
    }
    let leak = AtomicU64::new(0);
    let report = Sim::new().try_swarm(0..1, async |net| {
        net.note("the same", &[]);
        net.note("not the same", &leak.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Ok(())
    });
    let [(0, message)] = &report.failures[..] else { panic!("{:?}", report.failures) };
    assert!(message.contains("two runs differ at trace event 1:") && message.contains("not the same"), "{message}");
}

#[test]
fn a_crash_drops_what_the_host_runs_before_it_returns() {
    let scenario = async |net: SimNet| {
        let host = net.host("server");
        let (held, guard) = (Arc::new(()), Arc::new(()));
        let inside = (host.clone(), guard.clone());
        host.spawn("holder", async move {
            let _inside = inside;
            pending::<()>().await;
        });
        assert_eq!(host.task_names(), ["holder"]);
        host.crash();
        assert_eq!((host.alive_tasks(), Arc::strong_count(&guard)), (0, 1));

        let refused = held.clone();
        host.spawn("too late", async move { drop(refused) });
        assert_eq!((host.alive_tasks(), Arc::strong_count(&held)), (0, 1), "a host that is down runs nothing");
        assert!(!host.is_up());
        host.restart();
        host.spawn("again", pending());
        assert_eq!((host.is_up(), host.task_names()), (true, vec!["again".to_owned()]));
        Ok(())
    };
    run(1, scenario).expect_ok();
}

#[test]
fn a_task_that_crashes_its_own_host_gets_no_further_than_its_next_await() {
    let scenario = async |net: SimNet| {
        let (host, other) = (net.host("server"), net.host("other"));
        let (mailbox, to) = (other.bind(1), other.address(1));
        let (machine, socket, steps) = (host.clone(), host.bind(1), Arc::new(AtomicU64::new(0)));
        let counter = steps.clone();
        host.spawn("suicidal", async move {
            machine.crash();
            socket.send_to(to, b"from beyond");
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert!(timeout(Duration::from_secs(1), mailbox.recv_from()).await.is_err());
        assert_eq!((steps.load(Ordering::Relaxed), host.alive_tasks()), (1, 0));
        Ok(())
    };
    run(1, scenario).expect_ok();
}

#[test]
fn an_hour_passes_at_once_and_on_every_clock() {
    #[expect(clippy::disallowed_methods, reason = "the clocks of the operating system are what is tested")]
    let scenario = async |net: SimNet| {
        let start = (Instant::now(), std::time::SystemTime::now(), std::time::Instant::now());
        sleep(Duration::from_secs(1800)).await;
        let passed = [start.0.elapsed(), net.now()];
        assert_eq!(passed, [Duration::from_secs(1800); 2]);
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            assert_eq!([start.1.elapsed()?, start.2.elapsed()], passed);
        }
        Ok(())
    };
    run(1, scenario).expect_ok();
}

#[test]
fn each_purpose_has_a_generator_of_its_own() {
    let scenario = async |net: SimNet| {
        let draw = |label: &str| net.rng(label).random::<u64>();
        assert_eq!(draw("faults"), draw("faults"));
        assert_ne!(draw("faults"), draw("keys"));
        Ok(())
    };
    run(1, scenario).expect_ok();
}
