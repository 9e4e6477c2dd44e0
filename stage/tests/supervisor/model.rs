//! Random children and random ends, beside a supervisor that is written down as plainly as can be.

use std::time::Duration;

use aqueduct_stage::{Child, ChildId, ChildState, Intensity, Restart, Shutdown, SupervisorOptions, TaskSupervisor};
use aqueduct_watchdog::Watch;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::Instant;

use crate::script::{How, Manners, Script};

const MAX_RESTARTS: usize = 3;
const WITHIN: u64 = 5_000;
const MAX_CHILDREN: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Start(Restart, Shutdown, Manners),
    End(Index, How),
    Terminate(Index),
    /// Time passes, in milliseconds.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let restart = prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)];
    let after = (1_u64..4_000).prop_map(|ms| Shutdown::After(Duration::from_millis(ms)));
    let shutdown = prop_oneof![1 => Just(Shutdown::Kill), 2 => after, 1 => Just(Shutdown::Unlimited)];
    let manners = prop_oneof![Just(Manners::Listens), Just(Manners::IsDeaf)];
    let how =
        prop_oneof![Just(How::Well), Just(How::WithError), Just(How::Panicking), Just(How::PanickingAsItIsDropped)];
    prop_oneof![
        4 => (restart, shutdown, manners).prop_map(|(restart, shutdown, manners)| Step::Start(restart, shutdown, manners)),
        4 => (any::<Index>(), how).prop_map(|(child, how)| Step::End(child, how)),
        1 => any::<Index>().prop_map(Step::Terminate),
        2 => (0_u64..4_000).prop_map(Step::Wait),
    ]
}

/// The reference.
#[derive(Debug, Default)]
struct Model {
    children: Vec<Reference>,
    /// When there was a restart, in milliseconds.
    restarts: Vec<u64>,
    started: u64,
    restarted: u64,
    failed: u64,
    killed: u64,
    gave_up: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reference {
    number: u64,
    restart: Restart,
    shutdown: Shutdown,
    manners: Manners,
    /// It was told to end.
    stopping: bool,
    dies_at: Option<u64>,
}

impl Model {
    fn start(&mut self, restart: Restart, shutdown: Shutdown, manners: Manners) -> Option<u64> {
        if self.gave_up || self.children.len() == MAX_CHILDREN {
            return None;
        }
        self.started += 1;
        let number = self.started;
        self.children.push(Reference { number, restart, shutdown, manners, stopping: false, dies_at: None });
        Some(number)
    }

    fn end(&mut self, at: usize, how: How, now: u64) {
        let child = self.children[at];
        let fails = how != How::Well;
        let restarts = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => fails,
            Restart::Temporary => false,
        };
        if child.stopping || !restarts {
            self.children.remove(at);
            self.failed += u64::from(fails && !child.stopping);
            return;
        }
        let recent = self.restarts.iter().filter(|then| now - **then <= WITHIN).count();
        if recent < MAX_RESTARTS {
            self.restarts.push(now);
            self.restarted += 1;
            return;
        }
        self.children.remove(at);
        self.failed += u64::from(fails);
        self.gave_up = true;
        self.stop_all(now);
    }

    fn stop_all(&mut self, now: u64) {
        for at in (0..self.children.len()).rev() {
            if !self.children[at].stopping {
                self.terminate(at, now);
            }
        }
    }

    fn terminate(&mut self, at: usize, now: u64) {
        let child = &mut self.children[at];
        child.stopping = true;
        match child.shutdown {
            Shutdown::Kill => {
                self.killed += 1;
                self.children.remove(at);
            }
            _ if child.manners == Manners::Listens => drop(self.children.remove(at)),
            Shutdown::After(time) => {
                let dies_at = now + u64::try_from(time.as_millis()).unwrap();
                child.dies_at = Some(child.dies_at.map_or(dies_at, |earlier| earlier.min(dies_at)));
            }
            Shutdown::Unlimited => {}
        }
    }

    fn passed(&mut self, now: u64) {
        let before = self.children.len();
        self.children.retain(|child| child.dies_at.is_none_or(|at| at > now));
        self.killed += (before - self.children.len()) as u64;
    }
}

/// Lets everything happen that can, without time passing.
async fn quiet() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

async fn run(steps: Vec<Step>) {
    let options = SupervisorOptions::default()
        .max_children(MAX_CHILDREN)
        .intensity(Intensity::new(MAX_RESTARTS, Duration::from_millis(WITHIN)));
    let supervisor = TaskSupervisor::with_options("model", options);
    let (script, mut model, begun) = (Script::new(), Model::default(), Instant::now());
    for step in steps {
        let now = u64::try_from(begun.elapsed().as_millis()).unwrap();
        match step {
            Step::Start(restart, shutdown, manners) => {
                let expected = model.start(restart, shutdown, manners);
                let (child, number) = (script.clone(), expected.unwrap_or_default());
                let make = move || child.run(number, manners);
                let child = match restart {
                    Restart::Permanent => Child::permanent(make),
                    Restart::Transient => Child::transient(make),
                    Restart::Temporary => Child::temporary(async move { make().await }),
                };
                let started = supervisor.start_child(child.shutdown(shutdown)).ok();
                assert_eq!(started.map(ChildId::number), expected);
            }
            Step::End(index, how) if !model.children.is_empty() => {
                let at = index.index(model.children.len());
                let number = model.children[at].number;
                model.end(at, how, now);
                script.send(number, how);
            }
            Step::Terminate(index) if !model.children.is_empty() => {
                let at = index.index(model.children.len());
                let id = supervisor.which_children()[at].id;
                model.terminate(at, now);
                tokio::select! {
                    biased;
                    exit = supervisor.terminate_child(id) => drop(exit.unwrap()),
                    () = quiet() => {}
                }
            }
            Step::Wait(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                let now = u64::try_from(begun.elapsed().as_millis()).unwrap();
                model.passed(now);
            }
            Step::End(..) | Step::Terminate(_) => {}
        }
        quiet().await;
        let state = |stopping| if stopping { ChildState::Stopping } else { ChildState::Active };
        let expected: Vec<_> = model.children.iter().map(|child| (child.number, state(child.stopping))).collect();
        let children = supervisor.which_children();
        assert_eq!(children.iter().map(|child| (child.id.number(), child.state)).collect::<Vec<_>>(), expected);
        let counts = supervisor.count_children();
        assert_eq!(
            (counts.specs, counts.active, counts.started, counts.restarts, counts.failed, counts.killed),
            (expected.len(), expected.len(), model.started, model.restarted, model.failed, model.killed)
        );
        let alive = script.begun.all().len() - script.gone.all().len();
        assert_eq!(alive, expected.len(), "every child that is not on the books was dropped");
    }
    if model.gave_up && model.children.is_empty() {
        assert!(supervisor.ended().await.is_err());
    }
}

#[test]
fn otp_a_supervisor_does_what_the_reference_does_in_10_000_sequences() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let config = ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() };
    // What children panic with is not to be read ten thousand times.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        if text != "lost it" && text != "dropped" {
            hook(info);
        }
    }));
    proptest!(config, |(steps in prop::collection::vec(step(), 1..24))| {
        let _watch = Watch::over(format!("{steps:?} "));
        runtime.block_on(run(steps));
    });
}
