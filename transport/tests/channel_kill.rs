//! Workers of a channel that are killed with SIGKILL and stopped with SIGSTOP: each value is answered exactly once.
//!
//! Every worker is this test binary again, running the test `as_a_worker`, which does nothing in the ordinary run. By default
//! there are 3 runs; `CHANNEL_KILL_RUNS=20` makes it 20. `CHANNEL_KILL_SEED` is the seed of the first.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use aqueduct_transport::local::{self, Process};
use aqueduct_transport::{Authority, ChannelOptions, JoinOptions};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

#[path = "support/processes.rs"]
mod processes;

use processes::{below, node, start, watch};

const VALUES: u64 = 100_000;
const ACK_WAIT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn as_a_worker() {
    let Some(worker) = local::worker().unwrap() else { return };
    let server: SocketAddr = worker.payload().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = node(worker.identity().clone(), 0).await;
        let mut tasks = node.join_channel::<u64, (u64, u64)>("squares", server, JoinOptions::default().values(50..100));
        let _stop = worker.report_with_stop(node.local_addr()).unwrap();
        while let Some(task) = tasks.next().await {
            let task = task.unwrap();
            let n = *task.value();
            task.answer(&(n, n * n)).unwrap();
        }
        node.shutdown(Duration::from_secs(5)).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_01_and_37_each_value_is_answered_once_whoever_is_killed_or_stopped() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("CHANNEL_KILL_SEED").unwrap_or(1);
    for seed in first..first + number("CHANNEL_KILL_RUNS").unwrap_or(3) {
        println!("seed {seed}");
        timeout(PATIENCE, run(seed)).await.unwrap_or_else(|_| panic!("seed {seed}: it hangs"));
    }
}

async fn run(seed: u64) {
    let watch = watch(seed);
    // When, in results received; the moment within that is the scheduler's.
    let mut random = seed;
    let kill_at = below(&mut random, VALUES / 2);
    let stop_at = below(&mut random, VALUES / 2);
    // Every other time only after the end, of which it then hears as one that comes late.
    let continue_at = (seed % 2 == 1).then(|| VALUES / 2 + below(&mut random, VALUES / 2));

    let authority = Authority::dev("test").unwrap();
    let server = node(authority.issue("server").unwrap(), 0).await;
    let options = ChannelOptions::default().ack_wait(ACK_WAIT).capacity(2000);
    let (sender, mut receiver) = server.serve_channel::<u64, (u64, u64)>("squares", options).unwrap();
    let mut workers = Vec::new();
    for name in ["killed", "stopped", "one", "two"] {
        workers.push(start(authority.issue(name).unwrap(), &server.local_addr(), PATIENCE).await);
    }
    sender.wait_until_ready(4, PATIENCE).await.unwrap();
    let monitor = sender.monitor();
    let sending = async move {
        for value in 0..VALUES {
            sender.send(value).await.unwrap();
        }
    };
    let receiving = async {
        let (mut seen, mut received) = (vec![false; VALUES as usize], 0_u64);
        let begun = Instant::now();
        while let Some(result) = receiver.next().await {
            let (value, square) = result.unwrap();
            assert_eq!(square, value * value, "seed {seed}");
            assert!(!std::mem::replace(&mut seen[value as usize], true), "seed {seed}: {value} twice");
            if received == kill_at {
                signal("KILL", &workers[0]).await;
            }
            if received == stop_at {
                signal("STOP", &workers[1]).await;
            }
            if Some(received) == continue_at {
                signal("CONT", &workers[1]).await;
            }
            received += 1;
            watch.goes_on();
        }
        assert_eq!(received, VALUES, "seed {seed}: some are missing");
        if continue_at.is_none() {
            signal("CONT", &workers[1]).await;
        }
        begun.elapsed()
    };
    let ((), took) = tokio::join!(sending, receiving);
    monitor.finished().await.unwrap();
    let counters = monitor.counters();
    println!("killed at {kill_at}, stopped at {stop_at}: {took:?}, {counters:?}");
    assert_eq!((counters.finished, counters.dead), (VALUES, 0), "seed {seed}");
    assert!(counters.lost + counters.expired > 0, "seed {seed}: nobody noticed");
    for (at, mut worker) in workers.into_iter().enumerate() {
        let status = worker.exited().await.unwrap();
        // The one that was stopped hears of the end like the others.
        assert!(if at == 0 { status.signal() == Some(9) } else { status.success() }, "seed {seed}: {at}: {status}");
    }
}

async fn signal(name: &str, process: &Process) {
    let id = process.id().to_string();
    let sent = tokio::process::Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
    assert!(sent.success(), "{name} {id}: {sent}");
}
