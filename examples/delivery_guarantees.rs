//! What a crash costs: with `subscribe` what the consumer had in hand is lost (at most once), with
//! `subscribe_acknowledged` it is handed back and given to another (at least once: some of it for the second time).
//!
//! Two workers share 20 jobs, 5 at a time. Whoever is first to come to job 7 crashes in the middle of its batch. Either
//! way the failure is reported; the graph is not `join`ed, because that would end it at the first failure.
//!
//! `cargo run --release --example delivery_guarantees` prints
//!
//! ```text
//! at most once: handled 17 of 20 jobs, lost [7, 8, 9], repeated []
//!   reported by worker: power cut at job 7
//! at least once: handled 20 of 20 jobs, lost [], repeated [5, 6]
//!   reported by worker: power cut at job 7
//! ```

use std::time::Duration;

use aqueduct::{Attempt, Batch, Consumer, Cx, Edge, EndCause, Exit, Graph, Producer, Result};
use tokio::sync::mpsc;

const JOBS: usize = 20;

/// Job 0, 1, .. 19. It waits for the crash before it ends, so that the example shows the same each time.
#[derive(Default)]
struct Jobs {
    next: usize,
    crashed: bool,
}

impl Jobs {
    fn go_on(&mut self, cx: &mut Cx<'_, usize>) {
        let end = JOBS.min(self.next + cx.demand());
        cx.emit_all(self.next..end);
        self.next = end;
        if self.next == JOBS && self.crashed {
            cx.stop(Exit::Normal);
        }
    }
}

impl Producer for Jobs {
    type Out = usize;

    async fn handle_demand(&mut self, _demand: usize, cx: &mut Cx<'_, usize>) -> Result {
        self.go_on(cx);
        Ok(())
    }

    async fn handle_cancel(&mut self, _edge: &Edge, cause: &EndCause, cx: &mut Cx<'_, usize>) -> Result {
        self.crashed |= !cause.reason().is_graceful();
        self.go_on(cx);
        Ok(())
    }
}

/// Tells which jobs it has done.
struct Worker(mpsc::UnboundedSender<Option<usize>>);

impl Consumer for Worker {
    type In = usize;

    async fn handle_events(&mut self, jobs: Batch<usize>, _cx: &mut Cx<'_>) -> Result {
        for job in &jobs {
            if *job == 7 && jobs.attempt() == Attempt::FIRST {
                return Err("power cut at job 7".into());
            }
            self.0.send(Some(*job))?;
        }
        Ok(())
    }

    async fn terminate(&mut self, _exit: &Exit) {
        let _ = self.0.send(None); // whether it has failed or come to the end
    }
}

#[tokio::main]
async fn main() -> Result {
    for (guarantee, acknowledged) in [("at most once", false), ("at least once", true)] {
        let (tx, mut done) = mpsc::unbounded_channel();
        let graph = Graph::new(guarantee);
        let jobs = graph.producer("jobs", Jobs::default);
        let workers = graph.consumer("worker", move || Worker(tx.clone())).concurrency(2);
        if acknowledged {
            workers.subscribe_acknowledged(&jobs, 0..5);
        } else {
            workers.subscribe(&jobs, 0..5);
        }
        let mut running = graph.start();
        let (mut times, mut working) = ([0; JOBS], 2);
        while working > 0 {
            match done.recv().await.ok_or("the workers are gone")? {
                Some(job) => times[job] += 1,
                None => working -= 1,
            }
        }
        let jobs_where = |is: fn(i32) -> bool| Vec::from_iter((0..JOBS).filter(|job| is(times[*job])));
        let (handled, lost, repeated) = (jobs_where(|n| n > 0), jobs_where(|n| n == 0), jobs_where(|n| n > 1));
        println!("{guarantee}: handled {} of {JOBS} jobs, lost {lost:?}, repeated {repeated:?}", handled.len());
        if let Err(error) = running.shutdown(Duration::from_secs(5)).await {
            // The whole error would also name which of the two workers it was, and that is chance.
            println!("  reported by {}: {}", error.failure.origin(), error.failure.message());
        }
    }
    Ok(())
}
