//! Supervisors of tasks: one task per event in a graph, and tasks that are started at any time.
//!
//! Tests called `genstage_…` restate the scenario of GenStage's suite with that number, those called `otp_…` a line of
//! what OTP's supervisors promise. Of GenStage's scenarios 125 to 151 these have no meaning here: 125, 126, 128 to 133
//! and 135 are about child specifications as data, callback modules, their return values and process dictionaries, and
//! 130 and 134 about registered names: what they check cannot be written, or is checked by the compiler. 136 replaces
//! the template of a running supervisor by new code. Of 127, 137, 138 and 141 there remains what is tested.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, unreachable_pub, reason = "a test spawns what it needs")]

mod support;

#[path = "supervisor/alone.rs"]
mod alone;
#[path = "supervisor/attempts.rs"]
mod attempts;
#[path = "supervisor/demand.rs"]
mod demand;
#[path = "supervisor/ending.rs"]
mod ending;
#[path = "supervisor/model.rs"]
mod model;
#[path = "supervisor/restarts.rs"]
mod restarts;
#[path = "supervisor/shutdown.rs"]
mod shutdown;

/// Children that do what the test says.
mod script {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use aqueduct_stage::{BoxFuture, Result, Stopping};
    use tokio::sync::oneshot;

    use crate::support::{Log, settled};

    /// How a child is to end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum How {
        Well,
        WithError,
        Panicking,
        /// It ends well, and panics as it is dropped.
        PanickingAsItIsDropped,
    }

    /// How a child takes it when it is told to end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Manners {
        /// It ends at once.
        Listens,
        /// It goes on.
        IsDeaf,
    }

    #[derive(Clone)]
    pub struct Script {
        /// The children that were started, in order; once for each time.
        pub begun: Log<u64>,
        /// Those that are gone: ended or dropped.
        pub gone: Log<u64>,
        waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<How>>>>,
    }

    struct Gone(Log<u64>, u64, bool);

    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.push(self.1);
            assert!(!self.2 || std::thread::panicking(), "dropped");
        }
    }

    impl Script {
        pub fn new() -> Self {
            Self { begun: Log::new(), gone: Log::new(), waiting: Arc::default() }
        }

        /// Runs a child.
        pub fn run(&self, child: u64, manners: Manners) -> BoxFuture<'static, Result> {
            let (end, ending) = oneshot::channel();
            self.waiting.lock().unwrap().insert(child, end);
            self.begun.push(child);
            let gone = Gone(self.gone.clone(), child, false);
            Box::pin(async move {
                // All of it belongs to the child.
                let mut gone = gone;
                let stopping = Stopping::current();
                let how = tokio::select! {
                    biased;
                    how = ending => how.unwrap(),
                    () = stopping.told(), if manners == Manners::Listens => How::Well,
                };
                match how {
                    How::Well => Ok(()),
                    How::WithError => Err("no luck".into()),
                    How::Panicking => panic!("lost it"),
                    How::PanickingAsItIsDropped => {
                        gone.2 = true;
                        Ok(())
                    }
                }
            })
        }

        /// What is to be given to `Graph::tasks`.
        pub fn task(&self) -> impl Fn(u64) -> BoxFuture<'static, Result> + Send + Sync + use<> {
            let script = self.clone();
            move |event| script.run(event, Manners::Listens)
        }

        /// As [`task`](Self::task), of those that do not listen.
        pub fn deaf(&self) -> impl Fn(u64) -> BoxFuture<'static, Result> + Send + Sync + use<> {
            let script = self.clone();
            move |event| script.run(event, Manners::IsDeaf)
        }

        /// Ends a child, and waits until everything that follows from it has happened.
        pub async fn end(&self, child: u64, how: How) {
            self.send(child, how);
            settled().await;
        }

        /// Ends a child.
        pub fn send(&self, child: u64, how: How) {
            let end = self.waiting.lock().unwrap().remove(&child);
            end.unwrap_or_else(|| panic!("there is no child {child}")).send(how).unwrap();
        }
    }
}
