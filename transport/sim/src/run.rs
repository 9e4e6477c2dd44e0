//! [`Sim`] and [`run`]: one seed, on a thread and a runtime of its own, and what is reported of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aqueduct_stage::BoxError;
use aqueduct_watchdog::Watch;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};

use crate::conditions::LinkConditions;
use crate::det;
use crate::net::SimNet;
use crate::panics::{self, CatchPanic};
use crate::stats::Stats;
use crate::trace::TextLog;

/// What a scenario returns. An error fails the run, as does a panic anywhere in it.
pub type Outcome<T = ()> = Result<T, BoxError>;

/// Runs `scenario` once, with the default options of [`Sim`].
#[must_use = "a failed run says so in its report only"]
pub fn run(seed: u64, scenario: impl AsyncFnOnce(SimNet) -> Outcome + Send) -> Report {
    Sim::new().run(seed, scenario)
}

/// How scenarios are run.
#[derive(Clone, Copy, Debug)]
pub struct Sim {
    conditions: LinkConditions,
    time_limit: Duration,
    text_log: TextLog,
    pub(crate) is_costly: bool,
}

impl Default for Sim {
    fn default() -> Self {
        let (conditions, text_log) = (LinkConditions::default(), TextLog::Off);
        Self { conditions, time_limit: Duration::from_secs(3600), text_log, is_costly: false }
    }
}

impl Sim {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what the network does to datagrams at first. Default: [`LinkConditions::default`].
    pub fn conditions(mut self, conditions: LinkConditions) -> Self {
        self.conditions = conditions;
        self
    }

    /// Sets the virtual time after which a run that has not ended fails: the check for liveness. Default: one hour.
    /// Waiting costs nothing, but hosts that keep a connection alive all that time do.
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Says that a seed takes seconds rather than milliseconds: `SIM_SEEDS_TIMES` does not multiply them. `SIM_SEEDS` counts
    /// for them as for others.
    pub fn costly(mut self) -> Self {
        self.is_costly = true;
        self
    }

    /// Sets what becomes of the trace's text. Default: [`TextLog::Off`].
    pub fn text_log(mut self, text_log: TextLog) -> Self {
        self.text_log = text_log;
        self
    }

    /// Runs `scenario` once: on a fresh thread with a single-threaded runtime whose clock is paused, so that time
    /// jumps to the next timer whenever every task waits. The run ends when the scenario does; what its hosts still run
    /// then is dropped.
    ///
    /// A task that never waits keeps the clock from going on: after a minute of real time in which it stands still, the process
    /// is aborted, with the seed on standard error.
    #[must_use = "a failed run says so in its report only"]
    pub fn run(&self, seed: u64, scenario: impl AsyncFnOnce(SimNet) -> Outcome + Send) -> Report {
        thread::scope(|scope| {
            let watch = Arc::new(Watch::over("SIM_SEED="));
            watch.begin(seed);
            let thread = thread::Builder::new().name(format!("sim-seed-{seed}"));
            let inside = move || {
                det::enter(seed);
                let report = self.run_here(seed, &watch, scenario);
                det::leave();
                report
            };
            let thread = thread.spawn_scoped(scope, inside).expect("the system can start one more thread");
            thread.join().expect("panics of the scenario are caught inside")
        })
    }

    fn run_here(&self, seed: u64, watch: &Arc<Watch>, scenario: impl AsyncFnOnce(SimNet) -> Outcome) -> Report {
        let entropy_is_seeded = det::is_effective();
        assert!(entropy_is_seeded || !det::IS_SUPPORTED, "the linker did not take the functions of det.rs");
        let runtime = paused_runtime(seed, Arc::clone(watch));
        let mut report = runtime.block_on(async {
            let net = SimNet::start(seed, self.conditions, self.text_log);
            let outcome = self.outcome(&net, scenario).await;
            let mut wire = net.wire();
            Report {
                seed,
                hash: wire.trace.hash(),
                trace_events: wire.trace.events(),
                virtual_time: net.now(),
                stats: wire.stats,
                outcome: outcome.map_err(|message| net.explain(message)),
                log: wire.trace.take_lines(),
                entropy_is_seeded,
            }
        });
        // Destructors of what is still running may panic, too.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(runtime))) {
            let message = format!("panicked while being dropped: {}", panics::message(&*payload));
            report.outcome = report.outcome.and(Err(message));
        }
        report
    }

    async fn outcome(&self, net: &SimNet, scenario: impl AsyncFnOnce(SimNet) -> Outcome) -> Result<(), String> {
        let scenario = timeout(self.time_limit, CatchPanic::new(scenario(net.clone())));
        tokio::select! {
            biased;
            message = net.failure() => Err(message),
            end = scenario => match (net.failure_so_far(), end) {
                (Some(message), _) => Err(message),
                (None, Err(_)) => Err(format!("no end after {:?} of virtual time", self.time_limit)),
                (None, Ok(Err(message))) => Err(format!("panicked: {message}")),
                (None, Ok(Ok(outcome))) => outcome.map_err(|error| error.to_string()),
            },
        }
    }
}

fn paused_runtime(seed: u64, watch: Arc<Watch>) -> Runtime {
    let start = Instant::now();
    let mut builder = Builder::new_current_thread();
    // The clock advances in the runtime's parking only: whoever runs afterwards sees the new time everywhere.
    builder.enable_time().start_paused(true).on_thread_unpark(move || {
        det::publish_now(start.elapsed());
        watch.goes_on();
    });
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = seed; // an unbiased `select!` is not covered
    builder.build().expect("a runtime without I/O needs nothing that could fail")
}

/// What one run did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The hash of the trace: when every datagram was sent and delivered, each of its bytes, and all notes.
    pub hash: u64,
    /// How many events the trace has.
    pub trace_events: u64,
    /// How long it took on the virtual clock.
    pub virtual_time: Duration,
    /// What the network did.
    pub stats: Stats,
    /// How it ended; if it failed, why.
    pub outcome: Result<(), String>,
    /// The trace as text, with [`TextLog::Keep`].
    pub log: Vec<String>,
    /// Whether the system's entropy came from the seed. If not, two runs of one seed differ in key material, and so in
    /// their hashes; see [the crate's documentation](crate#platforms).
    pub entropy_is_seeded: bool,
}

impl Report {
    /// Panics with the seed and the reason if the run failed; gives the report back otherwise.
    ///
    /// # Panics
    /// If the run failed.
    #[track_caller]
    pub fn expect_ok(self) -> Self {
        if let Err(message) = &self.outcome {
            panic!("SIM_SEED={}: {message}", self.seed);
        }
        self
    }
}
