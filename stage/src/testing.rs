//! For tests of one's own stages: the neighbours of a stage, played by hand. For one's own dispatchers:
//! [`check_dispatcher`].
//!
//! A [`ProbeSource`] stands where a stage has its producer: a test sees what is asked of it, and sends events. A
//! [`ProbeSink`] stands where a stage has its consumer: a test asks, and sees what comes. Between them runs the stage
//! that is tested, in a graph as usual:
//!
//! ```text
//!   [ ProbeSource ] ── send ──────────► [ your stage ] ── events ──► [ ProbeSink ] expect_events, expect_end
//!     expect_demand ◄────────── demand ──                ◄────────────────── ask
//! ```
//!
//! ```
//! use aqueduct_stage::testing::{ProbeSink, ProbeSource};
//! # use aqueduct_stage::{Batch, Cx, Graph, ProducerConsumer, Result};
//! # struct Double;
//! # impl ProducerConsumer for Double {
//! #     type In = u64;
//! #     type Out = u64;
//! #     async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
//! #         cx.emit_all(events.into_iter().map(|n| n * 2));
//! #         Ok(())
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() { doubles().await }
//! # const _: &str = stringify!(
//! #[tokio::test(start_paused = true)]
//! # );
//! async fn doubles() {
//!     let source = ProbeSource::new();
//!     let graph = Graph::new("test");
//!     let doubled = graph.stage("double", || Double).subscribe(&source, 5..10);
//!     let mut running = graph.start();
//!     let sink = ProbeSink::subscribe(&doubled).await;
//!
//!     source.expect_demand(10).await; // it fills its window
//!     source.send([1, 2, 3, 4, 5]);
//!     sink.expect_no_events().await; // nobody has asked
//!     sink.ask(2);
//!     sink.expect_events([2, 4]).await; // not the whole batch
//!     source.expect_demand(5).await; // it has handled half of its window
//!     source.complete();
//!     sink.ask(10);
//!     sink.expect_events([6, 8, 10]).await;
//!     sink.expect_end().await;
//!     running.join().await.unwrap();
//! }
//! ```
//!
//! # Time
//!
//! What must come is waited for: for at most 5 s on tokio's clock, or what `within` sets. What must not come is given
//! 100 ms, or what `quiet` sets. With `start_paused = true` (tokio's feature `test-util`) neither costs real time:
//! tokio moves the clock only when every task waits, so "nothing comes" then means that nothing can. But the clock of
//! the stage is the same one, and its timers move with it.
//!
//! # Failures
//!
//! What is not as expected panics in the test, and says what was expected, what came, and in which line. The methods
//! that wait can be dropped and called again: nothing is lost.

use std::fmt;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

mod contract;
mod sink;
mod source;

pub use contract::check_dispatcher;
pub use sink::ProbeSink;
pub use source::ProbeSource;

/// How long a probe waits.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For what must come.
    limit: Duration,
    /// For what must not.
    quiet: Duration,
}

impl Default for Patience {
    /// As long as a call waits; and long enough on a real clock to be noticed, short enough to be written often.
    fn default() -> Self {
        Self { limit: Duration::from_secs(5), quiet: Duration::from_millis(100) }
    }
}

/// What a probe knows, for the test that waits for more of it.
struct Heard<S> {
    state: Mutex<S>,
    changed: Notify,
}

impl<S> Heard<S> {
    fn new(state: S) -> Self {
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// The state, to be looked at.
    fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes whoever waits for that.
    fn update<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        let changed = change(&mut self.lock());
        self.changed.notify_waiters();
        changed
    }

    /// Waits until `look` finds something; for `limit` at most.
    async fn find<R>(&self, limit: Duration, mut look: impl FnMut(&mut S) -> Option<R>) -> Option<R> {
        let search = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // From here on no change is missed.
                changed.as_mut().enable();
                if let Some(found) = look(&mut self.lock()) {
                    return found;
                }
                changed.await;
            }
        };
        timeout(limit, search).await.ok()
    }
}

/// Fails the test that called `at`: an async function cannot have its panics counted as its caller's.
#[track_caller]
fn fail(probe: &str, at: &Location<'_>, what: impl fmt::Display) -> ! {
    panic!("{at}: {probe}: {what}")
}

/// So many events, in words.
fn events(count: usize) -> String {
    match count {
        0 => "no events".to_owned(),
        1 => "1 event".to_owned(),
        _ => format!("{count} events"),
    }
}
