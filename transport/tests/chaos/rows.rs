//! The faults of the table, and how one row is run.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::faults::{Fault, Means, Network, Random, Side};
use crate::oracle::{Seen, check_all, check_beginning};
use crate::roles::{Delivery, IDLE_TIMEOUT};
use crate::scene::{Scene, Setting};

pub(crate) struct Row {
    pub(crate) name: &'static str,
    fault: Fault,
    /// At least.
    lasts: Duration,
    delivery: Delivery,
    grace: Duration,
    /// It is part of an ordinary run.
    pub(crate) is_short: bool,
}

pub(crate) enum Outcome {
    /// What is missing here.
    Skipped(String),
    Run {
        line: String,
        /// What is missing to do it in namespaces.
        instead: Option<String>,
    },
}

const fn row(name: &'static str, fault: Fault, millis: u64, delivery: Delivery) -> Row {
    let lasts = Duration::from_millis(millis);
    Row { name, fault, lasts, delivery, grace: Duration::from_secs(30), is_short: false }
}

pub(crate) const ROWS: &[Row] = &[
    row("none", Fault::None, 3000, Delivery::Plain),
    row("kill -9 of the consumer, again after 1 s", Fault::Kill(Side::Consumer), 1000, Delivery::Durable).short(),
    row("kill -9 of the producer, again after 1 s", Fault::Kill(Side::Producer), 1000, Delivery::Durable),
    row("SIGSTOP of the consumer, 1.5 s", Fault::Stop(Side::Consumer), 1500, Delivery::Plain),
    row("SIGSTOP of the producer, 1.5 s", Fault::Stop(Side::Producer), 1500, Delivery::Acknowledged),
    row("SIGSTOP of the consumer, 5 s", Fault::Stop(Side::Consumer), 5000, Delivery::Acknowledged),
    row("SIGSTOP of the producer, 5 s", Fault::Stop(Side::Producer), 5000, Delivery::Plain),
    row("20 % loss, 3 s", Fault::Loss, 3000, Delivery::Plain).short(),
    row("partition, 5 s", Fault::Partition, 5000, Delivery::Plain),
    row("partition, 5 s, acknowledged", Fault::Partition, 5000, Delivery::Acknowledged),
    Row { grace: SHORT_GRACE, ..row("partition, 8 s, grace 2 s", Fault::Partition, 8000, Delivery::Plain) },
    row("one-way cut to the consumer, 2 s", Fault::Cut(Side::Consumer), 2000, Delivery::Plain).short(),
    row("one-way cut to the producer, 2 s", Fault::Cut(Side::Producer), 2000, Delivery::Acknowledged),
    row("one-way cut to the consumer, 5 s", Fault::Cut(Side::Consumer), 5000, Delivery::Acknowledged),
    row("one-way cut to the producer, 5 s", Fault::Cut(Side::Producer), 5000, Delivery::Plain),
    row("link down, 5 s", Fault::LinkDown, 5000, Delivery::Plain),
    row("256 kbit/s, 3 s", Fault::Narrow, 3000, Delivery::Plain),
    row("20+30 ms jitter, 5 % loss, 3 % twice, 3 s", Fault::Jitter, 3000, Delivery::Acknowledged).short(),
];

/// Runs one row, and checks it.
pub(crate) async fn run(row: &Row, label: &str, means: &Means, mut random: Random) -> Result<Outcome, String> {
    let network = match Network::new(row.fault, means, label, random).await {
        Ok(network) => network,
        Err(missing) => return Ok(Outcome::Skipped(missing)),
    };
    let instead = match &network {
        Network::Relay(_) if row.fault != Fault::Jitter => means.best(row.fault).clone().err(),
        _ => None,
    };
    let setting = Setting::new(row.fault, row.delivery, row.grace, row.events(), network, label);
    let mut scene = Scene::new(setting).await?;
    scene.hear().await?;
    sleep(EARLIEST + Duration::from_millis(random.below((LATEST - EARLIEST).as_millis() as u64))).await;
    let begun = Instant::now();
    scene.begin_fault().await?;
    sleep(row.lasts + Duration::from_millis(random.below(row.most_longer().as_millis() as u64))).await;
    let over = Instant::now();
    scene.end_fault().await?;
    while scene.seen.end.is_none() {
        scene.hear().await?;
    }
    let (handled, produced, seen) = scene.leave().await?;
    let is_right = if row.is_told() { check_beginning(&handled, &produced[0]) } else { check_all(&handled, &produced) };
    let failure = seen.end.as_ref().and_then(|end| end.failure.as_deref());
    is_right.map_err(|error| format!("{error}; the consumer ended with {}", failure.unwrap_or("no failure")))?;
    let line = row.measure(&seen, handled.len(), begun, over)?;
    Ok(Outcome::Run { line, instead })
}

impl Row {
    const fn short(self) -> Self {
        Self { is_short: true, ..self }
    }

    /// Within which everything must be over.
    pub(crate) fn limit(&self) -> Duration {
        self.lasts + Duration::from_secs(30)
    }

    /// How much longer it may last. A cut may end at any moment between two attempts to dial, which are a second apart.
    fn most_longer(&self) -> Duration {
        self.lasts / 5
    }

    /// How many events are produced, at a thousand a second: some before the fault, and some after it.
    fn events(&self) -> u64 {
        (LATEST + self.lasts + self.most_longer() + Duration::from_secs(2)).as_millis() as u64
    }

    /// Whether nothing can be handled while it lasts.
    fn is_standstill(&self) -> bool {
        !matches!(self.fault, Fault::None | Fault::Loss | Fault::Narrow | Fault::Jitter)
    }

    /// Whether it lasts longer than the link is waited for.
    fn is_told(&self) -> bool {
        self.lasts > IDLE_TIMEOUT + self.grace
    }

    /// Checks how long everything took, and returns the line of the table.
    fn measure(&self, seen: &Seen, handled: usize, begun: Instant, over: Instant) -> Result<String, String> {
        let end = seen.end.as_ref().ok_or("it has not ended")?;
        let (gap, after) = (seen.longest_gap(), seen.first_after(over));
        let lost = end.resumed + end.given_up;
        let told = end.failure.as_ref().map(|failure| format!("{failure} after {:.2?}", end.at - begun));
        let line = format!(
            "{:<42}| {:<13}| {handled:>6} | {lost:>4} | {:>5} | {:>11} | {:>13} | {}",
            self.name,
            format!("{:?}", self.delivery),
            end.dials_failed,
            format!("{gap:.2?}"),
            after.map_or_else(|| "never".to_owned(), |after| format!("{after:.2?}")),
            told.unwrap_or_else(|| "all, in order".to_owned()),
        );
        let check = |is_right, what| if is_right { Ok(()) } else { Err(format!("{what}:\n{line}")) };
        if self.is_told() {
            check(end.failure.as_deref() == Some("Disconnected"), "the consumer was to be told")?;
            check(end.at - begun < IDLE_TIMEOUT + self.grace + TOLD_WITHIN, "it was told late")?;
            return Ok(line);
        }
        check(end.failure.is_none(), "the consumer has failed")?;
        check(after.is_some_and(|after| after < GOES_ON_WITHIN), "it goes on late")?;
        check(!self.is_standstill() || gap >= self.lasts.mul_f64(0.8), "the fault has not shown")?;
        let is_cut = self.is_standstill() && self.lasts > IDLE_TIMEOUT;
        check(!is_cut || lost > 0, "the connection was to be lost")?;
        check(self.fault != Fault::None || (lost, end.dials_failed) == (0, 0), "nothing was to be lost")?;
        Ok(line)
    }
}

impl Outcome {
    pub(crate) const HEAD: &str = "fault                                     | delivery     | events | lost | dials \
        | longest gap | goes on after | through";
}

/// Shorter than the fault.
const SHORT_GRACE: Duration = Duration::from_secs(2);
/// When faults begin, after the first event.
const EARLIEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(1);
/// How soon events flow again when a fault is over. A second or two is right; the rest is for a machine that does other
/// things as well.
const GOES_ON_WITHIN: Duration = Duration::from_secs(4);
const TOLD_WITHIN: Duration = Duration::from_secs(3);
