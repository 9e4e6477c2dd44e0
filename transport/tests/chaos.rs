//! Two real processes, each in a network namespace of its own, and everything that networks and machines do to them:
//! every event is handled exactly once and in order, or the consumer is told.
//!
//! ```text
//!   namespace "producer"                             namespace "consumer"
//!   ┌───────────────────────┐        cable         ┌───────────────────────┐
//!   │ 1000 numbers a second │ ═══════ QUIC ══════► │ effect: it is told    │ ──► observer (this test)
//!   └───────────────────────┘                      └───────────────────────┘
//!        kill, stop        cut, lose, narrow, take down        kill, stop
//! ```
//!
//! An ordinary run takes a few of the rows. `AQUEDUCT_CHAOS=all` takes all, another value those with it in their name;
//! `AQUEDUCT_CHAOS_SEED` says when faults begin and end, and what a proxy does to each packet. With `--nocapture` it
//! prints a table.
//!
//! It needs Linux, root, and the tools `ip`, `nft` and `tc`. Without them both processes are on loopback with a proxy
//! between them, and what that cannot do is skipped; either is said on standard error.
//!
//! In reading order: `rows` are the faults and how one is run, `scene` the two processes, `roles` what they do, `oracle`
//! what must come out; `faults` with `namespaces` and `relay` bring a fault about.
//!
//! Waiting here is how long a fault lasts; everything else is awaited, and has a limit.
#![cfg(all(unix, feature = "redb"))]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

#[path = "chaos/faults.rs"]
mod faults;
#[path = "chaos/namespaces.rs"]
mod namespaces;
#[path = "chaos/oracle.rs"]
mod oracle;
#[path = "chaos/relay.rs"]
mod relay;
#[path = "chaos/roles.rs"]
mod roles;
#[path = "chaos/rows.rs"]
mod rows;
#[path = "chaos/scene.rs"]
mod scene;

use std::io::Write;
use std::sync::Arc;

use aqueduct_transport::local;
use aqueduct_watchdog::{LIMIT, Watch};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use faults::{Means, Random};
use rows::{Outcome, ROWS, Row};

#[test]
fn as_a_worker() {
    namespaces::enter();
    let Some(worker) = local::worker().unwrap() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(roles::play(&worker));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_handled_once_and_in_order_or_the_consumer_is_told() {
    let wanted = std::env::var("AQUEDUCT_CHAOS").unwrap_or_default();
    let is_wanted = |row: &Row| match &*wanted {
        "" => row.is_short,
        "all" => true,
        part => row.name.contains(part),
    };
    let seed = std::env::var("AQUEDUCT_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    namespaces::sweep();
    let means = Arc::new(Means::find());
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut running = JoinSet::new();
    for (number, row) in ROWS.iter().enumerate().filter(|(_, row)| is_wanted(row)) {
        let (means, places) = (Arc::clone(&means), Arc::clone(&places));
        running.spawn(async move {
            let _place = places.acquire().await;
            let random = Random(seed + number as u64);
            let watch = Watch::within(row.limit() + LIMIT, format!("{}, AQUEDUCT_CHAOS_SEED=", row.name));
            watch.begin(seed);
            let label = number.to_string();
            let limited = timeout(row.limit(), rows::run(row, &label, &means, random));
            let outcome = limited.await.unwrap_or_else(|_| Err(format!("not over within {:?}", row.limit())));
            (number, row.name, outcome)
        });
    }
    assert!(!running.is_empty(), "AQUEDUCT_CHAOS={wanted} is in no name");
    let mut ended = running.join_all().await;
    ended.sort_unstable_by_key(|(number, ..)| *number);
    println!("seed {seed}\n{}", Outcome::HEAD);
    let mut wrong = Vec::new();
    for (_, name, outcome) in ended {
        match outcome {
            Ok(Outcome::Skipped(missing)) => notice(&format!("{name}: skipped: {missing}")),
            Ok(Outcome::Run { line, instead }) => {
                println!("{line}");
                if let Some(missing) = instead {
                    notice(&format!("{name}: on loopback, through a proxy: {missing}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
    assert_eq!(namespaces::left(), Vec::<String>::new());
}

/// Says something that is heard although the test passes.
fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {text}");
}

/// Most of a row is waiting.
const AT_A_TIME: usize = 4;
