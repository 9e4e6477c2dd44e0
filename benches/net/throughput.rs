//! Events a second, beside plain QUIC, plain TCP and remoc.

use std::time::Duration;

use anyhow::{Context, Result};
use aqueduct::SubscribeOptions;
use aqueduct_benches::events::{self, Event};
use aqueduct_benches::measure::median;
use aqueduct_benches::peers::{There, quic, tcp};
use aqueduct_benches::rate::{Meter, Rate};
use aqueduct_benches::turns::Ratios;
use clap::ValueEnum;
use tokio::time::{sleep, timeout};

use super::{Args, PATIENCE};

/// Who takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// Ours with the window 1000/500
    Near,
    /// Bytes over QUIC
    Quic,
    /// Ours with the far default
    Far,
    /// Bytes over TCP
    Tcp,
    /// remoc, one value at a time
    Remoc,
    /// remoc in vectors
    RemocVec,
}

impl Contender {
    const ALL: [Self; 6] = [Self::Near, Self::Quic, Self::Far, Self::Tcp, Self::Remoc, Self::RemocVec];

    fn name(self) -> &'static str {
        match self {
            Self::Near => "ours, 1000/500",
            Self::Quic => "plain QUIC",
            Self::Far => "ours, far default",
            Self::Tcp => "plain TCP, unencrypted",
            Self::Remoc => "remoc over TCP, unencrypted",
            Self::RemocVec => "the same, Vec of 1000",
        }
    }

    /// Whether it moves bytes, not events.
    fn is_plain(self) -> bool {
        matches!(self, Self::Quic | Self::Tcp)
    }

    fn print<E: Event>(self, measured: Measured) {
        let Measured { per_second: rate, processor_ns: cost } = measured;
        let name = self.name();
        if self.is_plain() {
            println!("{name:<32} {:>12} {:>12.0} {cost:>9.2} a byte", "", rate / 1e6);
        } else {
            let bytes = rate * E::BYTES as f64;
            println!("{name:<32} {:>12.2} {:>12.0} {cost:>9.1} each", rate / 1e6, bytes / 1e6);
        }
    }

    async fn take<E: Event>(self, there: &mut There, meter: Meter) -> Result<Rate> {
        let There { addresses, node, quic, remoc, .. } = there;
        // Until the producer has heard of the end of the last subscription.
        sleep(PAUSE).await;
        match self {
            Self::Near => events::take::<E>(node, addresses.node, (500..1000).into(), meter).await,
            Self::Far => events::take::<E>(node, addresses.node, SubscribeOptions::default(), meter).await,
            Self::Quic => quic::take(quic, meter).await,
            Self::Tcp => tcp::take(addresses.tcp, meter).await,
            Self::Remoc => remoc.take::<E>(meter).await,
            Self::RemocVec => remoc.take_vectors::<E>(meter).await,
        }
    }
}

/// Medians of one contender: of what is plain, in bytes.
#[derive(Clone, Copy, Debug)]
struct Measured {
    per_second: f64,
    processor_ns: f64,
}

/// Measures all contenders, or the one that is wanted, with one kind of events.
pub(crate) async fn measure<E: Event>(args: &Args, there: &mut There, suffix: &str) -> Result<Ratios> {
    let mut samples = Contender::ALL.map(|contender| (contender, Vec::new(), Vec::new()));
    for turn in 0..=args.turns.count() {
        for (contender, rates, costs) in &mut samples {
            if args.only.is_some_and(|only| only != *contender) {
                continue;
            }
            let (rate, used) = sample::<E>(*contender, args, there).await.context(contender.name())?;
            if turn > 0 {
                rates.push(rate.per_second);
                costs.push(used.as_secs_f64() * 1e9 / rate.count as f64);
            }
        }
    }
    println!("\n{:<32} {:>12} {:>12} {:>14}", format!("{}{suffix}", E::NAME), "M events/s", "MB/s", "processor ns");
    let measured = samples.map(|(contender, rates, costs)| {
        let measured =
            (!rates.is_empty()).then(|| Measured { per_second: median(&rates), processor_ns: median(&costs) })?;
        contender.print::<E>(measured);
        Some(measured)
    });
    Ok(ratios::<E>(measured, suffix).unwrap_or_default())
}

/// One sample, and the processor time of both processes.
async fn sample<E: Event>(contender: Contender, args: &Args, there: &mut There) -> Result<(Rate, Duration)> {
    let before = there.processor_times()?;
    let rate = timeout(PATIENCE, contender.take::<E>(there, Meter::new(args.turns.sample()))).await??;
    let after = there.processor_times()?;
    Ok((rate, after.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).sum()))
}

/// `None` if somebody has not been measured.
fn ratios<E: Event>(measured: [Option<Measured>; Contender::ALL.len()], suffix: &str) -> Option<Ratios> {
    let [near, quic, far, _, remoc, remoc_vec] = measured;
    let (quic, far, remoc, remoc_vec) = (quic?, far?, remoc?, remoc_vec?);
    let (kind, event_bytes) = (E::NAME, E::BYTES as f64);
    let mut ratios = Ratios::new();
    for (window, ours) in [("1000_500", near?), ("far", far)] {
        let name = |against| format!("net_{kind}_{window}_{against}{suffix}");
        ratios.extend([
            (name("bytes_vs_raw_quic"), ours.per_second * event_bytes / quic.per_second),
            (name("processor_vs_raw_quic"), quic.processor_ns * event_bytes / ours.processor_ns),
            (name("vs_remoc"), ours.per_second / remoc.per_second),
            (name("vs_remoc_vec"), ours.per_second / remoc_vec.per_second),
        ]);
    }
    if kind == u64::NAME {
        ratios.push((format!("net_u64_far_vs_goal{suffix}"), (far.per_second / 60e6) / (quic.per_second / 600e6)));
    }
    Some(ratios)
}

/// What the end of a subscription takes, and more: what was asked for is still made.
const PAUSE: Duration = Duration::from_millis(200);
