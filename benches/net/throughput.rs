//! Events a second, beside plain QUIC, plain TCP and remoc.

use std::time::Duration;

use anyhow::{Context, Result};
use aqueduct::SubscribeOptions;
use aqueduct_benches::events::{self, Event};
use aqueduct_benches::measure::median;
use aqueduct_benches::peers::{There, quic, tcp};
use aqueduct_benches::rate::{Meter, Rate};

use super::{Args, PATIENCE, Ratios};

/// Measures all contenders with one kind of events.
pub(crate) async fn measure<E: Event>(args: &Args, there: &mut There, suffix: &str) -> Result<Ratios> {
    let measured = throughput::<E>(args, there, suffix).await?;
    let mut ratios = measured.ratios(E::NAME, suffix);
    if E::NAME == u64::NAME {
        let goal = (measured.far / 60e6) / (measured.quic_bytes / 600e6);
        ratios.push((format!("net_u64_far_vs_goal{suffix}"), goal));
    }
    Ok(ratios)
}

/// Who takes turns.
#[derive(Clone, Copy, Debug)]
enum Contender {
    Near,
    Quic,
    Far,
    Tcp,
    Remoc,
    RemocVectors,
}

impl Contender {
    /// Ours do not follow each other, so that the producer has heard of the end of one subscription before the next.
    const ALL: [Self; 6] = [Self::Near, Self::Quic, Self::Far, Self::Tcp, Self::Remoc, Self::RemocVectors];

    fn name(self) -> &'static str {
        match self {
            Self::Near => "ours, 1000/500",
            Self::Quic => "plain QUIC",
            Self::Far => "ours, far default",
            Self::Tcp => "plain TCP, unencrypted",
            Self::Remoc => "remoc over TCP, unencrypted",
            Self::RemocVectors => "the same, Vec of 1000",
        }
    }

    /// Whether it moves bytes, not events.
    fn is_plain(self) -> bool {
        matches!(self, Self::Quic | Self::Tcp)
    }

    async fn take<E: Event>(self, there: &mut There, meter: Meter) -> Result<Rate> {
        let There { addresses, node, quic, remoc, .. } = there;
        match self {
            Self::Near => events::take::<E>(node, addresses.node, (500..1000).into(), meter).await,
            Self::Far => events::take::<E>(node, addresses.node, SubscribeOptions::default(), meter).await,
            Self::Quic => quic::take(quic, meter).await,
            Self::Tcp => tcp::take(addresses.tcp, meter).await,
            Self::Remoc => remoc.take::<E>(meter).await,
            Self::RemocVectors => remoc.take_vectors::<E>(meter).await,
        }
    }
}

/// Medians: bytes a second of what is plain, events a second of everything else.
struct Throughput {
    near: f64,
    far: f64,
    quic_bytes: f64,
    remoc: f64,
    remoc_vectors: f64,
    event_bytes: f64,
}

async fn throughput<E: Event>(args: &Args, there: &mut There, suffix: &str) -> Result<Throughput> {
    let mut rates = [const { Vec::new() }; Contender::ALL.len()];
    let mut costs = [const { Vec::new() }; Contender::ALL.len()];
    for turn in 0..=args.turns() {
        for (place, contender) in Contender::ALL.into_iter().enumerate() {
            let before = there.processor_times()?;
            let taking = contender.take::<E>(there, Meter::new(args.sample()));
            let rate = tokio::time::timeout(PATIENCE, taking).await.context(contender.name())??;
            let used: Duration =
                there.processor_times()?.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).sum();
            if turn > 0 {
                rates[place].push(rate.per_second);
                costs[place].push(used.as_secs_f64() * 1e9 / rate.count as f64);
            }
        }
    }
    println!("\n{:<32} {:>12} {:>12} {:>14}", format!("{}{suffix}", E::NAME), "M events/s", "MB/s", "processor ns");
    for (place, contender) in Contender::ALL.into_iter().enumerate() {
        let (name, rate, cost) = (contender.name(), median(&rates[place]), median(&costs[place]));
        if contender.is_plain() {
            println!("{name:<32} {:>12} {:>12.0} {:>9.2} a byte", "", rate / 1e6, cost);
        } else {
            let bytes = rate * E::BYTES as f64;
            println!("{name:<32} {:>12.2} {:>12.0} {:>9.1} each", rate / 1e6, bytes / 1e6, cost);
        }
    }
    let [near, quic_bytes, far, _, remoc, remoc_vectors] = rates.map(|rates| median(&rates));
    Ok(Throughput { near, far, quic_bytes, remoc, remoc_vectors, event_bytes: E::BYTES as f64 })
}

impl Throughput {
    fn ratios(&self, kind: &str, suffix: &str) -> Ratios {
        let Self { near, far, quic_bytes, remoc, remoc_vectors, event_bytes } = *self;
        [("1000_500", near), ("far", far)]
            .into_iter()
            .flat_map(|(window, ours)| {
                [
                    (format!("net_{kind}_{window}_bytes_vs_raw_quic{suffix}"), ours * event_bytes / quic_bytes),
                    (format!("net_{kind}_{window}_vs_remoc{suffix}"), ours / remoc),
                    (format!("net_{kind}_{window}_vs_remoc_vec{suffix}"), ours / remoc_vectors),
                ]
            })
            .collect()
    }
}
