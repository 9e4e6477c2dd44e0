//! A soak: hours of events through three machines, under faults, after which nothing of it may be left anywhere.
//!
//! ```text
//!   a: ticks, 1,000 events a second ──► b: relay ──► c: two consumers, which share the events
//! ```
//!
//! Both hops are acknowledged. In every five minutes there are two and a half of cuts, storms and stalls, drawn from the
//! seed; in half of them the consumers' machine dies and comes back; now and then the network is bad all the time. Guests
//! subscribe, take a few events and leave.
//!
//! * Each event reaches the middle once and in order, and a consumer at least once: again only as another attempt, and only
//!   what a machine had in hand that died.
//! * Every simulated hour all is quiet for a while. The number of tasks (of the runtime, and by their names), connections,
//!   links and waiting events must be what it was at the baseline, and memory no more than 512 KiB above: what buffers have
//!   grown to differs by 250 KiB from one time to another. The baseline is taken after ten minutes, or a third as long as the
//!   run: the simulator's own queues of datagrams, and those of QUIC, keep the room of the worst time so far, which makes
//!   650 KiB in the first eight hours and nothing in the next twenty-two. In the long run a leak of 100 bytes per fault is more than that, or of 3 KiB per crash.
//!   Guests that come and go on one connection find streams that are left open: there may be eight.
//! * In the end all machines shut down, after which nothing runs, and no more than 128 KiB is left, of the network itself and
//!   of what a thread keeps.
//!
//! `AQUEDUCT_SOAK_HOURS` says for how many simulated hours (default 0.25, fractions allowed): the long run of `.ci/run` has
//! 30, with 144 million events.
//!
//! ```text
//! AQUEDUCT_SOAK_HOURS=30 cargo test --release -p aqueduct-sim --test soak -- --nocapture
//! ```
//!
//! An hour takes about four seconds of one core so, and a quarter of a minute without `--release`. `SIM_SEED` is the seed, 1 if it is
//! not set: the same seed does the same again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use aqueduct_counting::{Counting, held_bytes};
use aqueduct_sim::{LinkConditions, Nemesis, Outcome, Sim, SimNet};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

#[path = "soak/levels.rs"]
mod levels;
#[path = "soak/machines.rs"]
mod machines;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "soak/stages.rs"]
mod stages;

use levels::Levels;
use machines::{GRACE, Machines};
use stages::{Book, EVENTS_PER_SECOND};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Faults, and then none.
const ROUND: Duration = Duration::from_secs(300);
const FAULTS: Duration = Duration::from_secs(150);
const LONGEST_FAULT: Duration = Duration::from_secs(15);
/// What is compared is what there was after so many rounds, at least.
const WARM_UP: u64 = 2;
/// One hour.
const SAMPLE_EVERY: u64 = 12;
/// After the last event was due, everything must be here so soon, and all tasks of lost connections must have ended.
const QUIET_WITHIN: Duration = Duration::from_secs(1800);
/// More than a connection may have subscriptions.
const GUESTS: usize = 12;
/// What may be in memory at a quiet time above the baseline.
const TOLERANCE_BYTES: isize = 512 << 10;
/// What may be in memory when everything is gone.
const LEFT_BYTES: isize = 128 << 10;

#[test]
fn hours_of_events_under_faults_leave_nothing_behind() {
    let rounds = (hours() * 3600.0 / ROUND.as_secs_f64()).ceil() as u64;
    let warm_up = WARM_UP.max(rounds / 3);
    let ((tell, told), (give_back, given_back)) = (channel(), channel());
    let reporter = thread::spawn(move || report(&told, &give_back));
    let reporting = Reporting { tell, given_back };
    let limit = ROUND * 4 * (warm_up + rounds) as u32 + 4 * QUIET_WITHIN;
    let seed = std::env::var("SIM_SEED").map_or(1, |seed| seed.parse().expect("SIM_SEED is a number"));
    let report = Sim::new().time_limit(limit).run(seed, async move |net| soak(&net, warm_up, rounds, &reporting).await);
    reporter.join().expect("it only prints");
    println!("{:.0} virtual s; {}", report.virtual_time.as_secs_f64(), report.stats);
    let events = (warm_up + rounds) * ROUND.as_secs() * EVENTS_PER_SECOND;
    println!("{events} events, trace {:016x}", report.hash);
    report.expect_ok();
}

fn hours() -> f64 {
    let text = std::env::var("AQUEDUCT_SOAK_HOURS").unwrap_or("0.25".to_owned());
    let hours = text.parse().ok().filter(|hours: &f64| hours.is_finite() && *hours > 0.0);
    hours.unwrap_or_else(|| panic!("AQUEDUCT_SOAK_HOURS={text} is not a number of hours"))
}

/// Where the simulation reports how far it is.
struct Reporting {
    tell: Sender<String>,
    given_back: Receiver<String>,
}

impl Reporting {
    /// Has a line printed. It is freed here, where it was counted.
    fn tell(&self, line: String) -> Outcome {
        self.tell.send(line)?;
        drop(self.given_back.recv()?);
        Ok(())
    }
}

/// Prints what it is told, with the real time: that of the simulation's own thread is simulated.
fn report(told: &Receiver<String>, give_back: &Sender<String>) {
    #[expect(clippy::disallowed_methods, reason = "how long it really takes")]
    let begun = std::time::Instant::now();
    for line in told {
        println!("{:>7.1} s: {line}", begun.elapsed().as_secs_f64());
        give_back.send(line).expect("the simulation waits for it");
    }
}

async fn soak(net: &SimNet, warm_up: u64, rounds: u64, reporting: &Reporting) -> Outcome {
    let before = held_bytes();
    let book = Arc::new(Book::new(net));
    let mut machines = Machines::start(net, &book)?;
    let mut rng = net.rng("soak");
    for _ in 0..warm_up {
        round(net, &mut machines, &book, &mut rng).await?;
    }
    let baseline = quiet(&machines, &book).await?;
    reporting.tell(format!("baseline: {baseline}"))?;

    // Short runs look oftener.
    let sample_every = SAMPLE_EVERY.min(rounds.div_ceil(3));
    for done in 1..=rounds {
        round(net, &mut machines, &book, &mut rng).await?;
        if done % sample_every == 0 || done == rounds {
            let levels = quiet(&machines, &book).await?;
            let (hours, (arrived, again)) = ((ROUND * done as u32).as_secs_f64() / 3600.0, book.arrived());
            reporting
                .tell(format!("{hours:.2} h, {arrived} events, {again} of them again: {levels}; {}", net.stats()))?;
            levels.check(&baseline, TOLERANCE_BYTES)?;
        }
    }

    book.end();
    let hosts = machines.end().await?;
    drop(book);
    until(QUIET_WITHIN, "a task is left", || hosts.iter().all(|host| host.alive_tasks() == 0)).await?;
    let left = held_bytes() - before;
    reporting.tell(format!("all is shut down: {left} bytes are left"))?;
    if left > LEFT_BYTES { Err(format!("{left} bytes are left, of {LEFT_BYTES}").into()) } else { Ok(()) }
}

/// Five minutes of events, the first half under faults.
async fn round(net: &SimNet, machines: &mut Machines, book: &Book, rng: &mut StdRng) -> Outcome {
    book.go_on_for(ROUND);
    let over = net.now() + ROUND;
    let bad = if rng.random_bool(0.3) { LinkConditions::draw(rng) } else { LinkConditions::default() };
    net.set_default_conditions(bad);
    net.buggify(if rng.random_bool(0.3) { 0.05 } else { 0.0 });
    let hosts = machines.hosts.clone();
    let nemesis = Nemesis::draw_from(rng, net, &hosts, FAULTS, LONGEST_FAULT);
    let crash = rng.random_bool(0.5).then(|| [rng.random_range(Duration::ZERO..FAULTS), draw_pause(rng)]);
    let death = async {
        let Some([after, down]) = crash else { return Ok(()) };
        sleep(after).await;
        machines.crash();
        sleep(down).await;
        machines.restart()
    };
    let ((), died) = tokio::join!(biased; nemesis.run(), death);
    died?;
    net.set_default_conditions(LinkConditions::default());
    machines.guest(false).await?;
    machines.guest(true).await?;
    sleep(over.saturating_sub(net.now())).await;
    Ok(())
}

fn draw_pause(rng: &mut StdRng) -> Duration {
    rng.random_range(Duration::from_millis(100)..2 * LONGEST_FAULT)
}

/// Waits until everything has arrived and nothing is left of lost connections: what there is then.
async fn quiet(machines: &Machines, book: &Book) -> Outcome<Levels> {
    until(QUIET_WITHIN, "something does not arrive", || book.is_all_here()).await?;
    for _ in 0..GUESTS {
        machines.guest(false).await?;
        machines.guest(true).await?;
    }
    // What was said last is acknowledged, closed connections are forgotten, and what was wanted is said again less and less. A
    // subscriber that has given up an attempt is waited for as a link is that was cut off: the publisher may have accepted it.
    let mut last = (usize::MAX, 0);
    until(QUIET_WITHIN, "tasks come and go", || {
        let tasks = machines.alive_tasks();
        last = if last.0 == tasks { (tasks, last.1 + 1) } else { (tasks, 0) };
        last.1 == GRACE.as_secs() + 60
    })
    .await?;
    Ok(Levels::of(machines))
}

/// Looks once a second.
async fn until(limit: Duration, otherwise: &str, mut reached: impl FnMut() -> bool) -> Outcome {
    for _ in 0..limit.as_secs() {
        if reached() {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    }
    Err(otherwise.into())
}
