//! [`Server`]: what gives out values and takes results, in each of the ways that are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{Answer, ours, remoc, tcp};

/// Gives out values.
pub(crate) enum Server {
    Ours(ours::Server),
    Remoc(remoc::Server),
    Tcp(tcp::Server),
}

impl Server {
    /// Sends for so long from the first result on; the results in a second.
    pub(crate) async fn sample(&mut self, limit: Duration) -> Result<f64> {
        let (sent, received) = (Arc::clone(self.sent()), Arc::clone(self.received()));
        let sending = async {
            match self {
                Self::Ours(server) => server.send().await,
                Self::Remoc(server) => server.send().await,
                Self::Tcp(server) => server.send().await,
            }
        };
        let before = received.count();
        let counting = async {
            while received.count() == before {
                sleep(Duration::from_millis(1)).await;
            }
            let (first, started) = (received.count(), Instant::now());
            sleep(limit).await;
            // On a busy machine everybody may have slept.
            while received.count() == first {
                sleep(Duration::from_millis(1)).await;
            }
            let rate = (received.count() - first) as f64 / started.elapsed().as_secs_f64();
            sent.stop();
            rate
        };
        let (rate, sending) = tokio::join!(counting, sending);
        sending?;
        while received.count() < sent.count() {
            sleep(Duration::from_millis(1)).await;
        }
        ensure!(received.count() == sent.count(), "more results than values");
        sent.go_on();
        Ok(rate)
    }

    pub(crate) fn sent(&self) -> &Arc<Tally> {
        match self {
            Self::Ours(server) => &server.sent,
            Self::Remoc(server) => &server.sent,
            Self::Tcp(server) => &server.sent,
        }
    }

    pub(crate) fn received(&self) -> &Arc<Tally> {
        match self {
            Self::Ours(server) => &server.received,
            Self::Remoc(server) => &server.received,
            Self::Tcp(server) => &server.received,
        }
    }
}

/// How many have been sent or received, and whether it is enough for now.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    count: AtomicU64,
    stopped: AtomicBool,
}

impl Tally {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    /// Checks a result, and counts it.
    pub(crate) fn take(&self, (id, sum): Answer) -> Result<()> {
        ensure!(sum == 3 * id, "the sum of {id} is wrong: {sum}");
        self.add(1);
        Ok(())
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn go_on(&self) {
        self.stopped.store(false, Ordering::Relaxed);
    }
}
