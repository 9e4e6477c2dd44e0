//! Starts a supervised task for each event, in two supervisors on one counter: GenStage's ConsumerSupervisor.
//!
//! ```text
//!              ┌── even ──► greet: a task per event, at most 2 at a time
//!   counter ───┤
//!              └── odd ───► divide: at most 4; one of them fails twice, and is restarted with its event
//! ```
//!
//! `cargo run --release --example consumer_supervisor` prints
//!
//! ```text
//! counter: 12 numbers
//! greet: 6 tasks done, never more than 2 at a time, 0 restarts
//! divide: 6 tasks done, never more than 4 at a time, 2 restarts
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use aqueduct::{Cx, Exit, Graph, Producer, Result, TaskOptions};

struct Counter(u64);

impl Producer for Counter {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let end = 12.min(self.0 + demand as u64);
        cx.emit_all(self.0..end);
        self.0 = end;
        if end == 12 {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// What the tasks of one supervisor report.
#[derive(Default)]
struct Report {
    begun: AtomicUsize,
    alive: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
}

impl Report {
    async fn work(&self, fails: bool) -> Result {
        self.begun.fetch_add(1, SeqCst);
        self.most.fetch_max(self.alive.fetch_add(1, SeqCst) + 1, SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.alive.fetch_sub(1, SeqCst);
        if fails {
            return Err("bad luck".into());
        }
        self.done.fetch_add(1, SeqCst);
        Ok(())
    }

    fn print(&self, name: &str, limit: usize) -> Result {
        let [begun, most, done] = [&self.begun, &self.most, &self.done].map(|count| count.load(SeqCst));
        if most > limit {
            return Err(format!("{most} tasks of {name} were alive at a time").into());
        }
        println!("{name}: {done} tasks done, never more than {limit} at a time, {} restarts", begun - done);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let (greetings, divisions) = (Arc::new(Report::default()), Arc::new(Report::default()));
    let graph = Graph::new("two supervisors");
    let counter = graph.producer("counter", || Counter(0)).broadcast().wait_for_subscribers(2);

    // Tasks are temporary: one that failed would be counted, and the graph would not end in success.
    let report = Arc::clone(&greetings);
    let greet = move |_even: u64| {
        let report = Arc::clone(&report);
        async move { report.work(false).await }
    };
    graph.tasks("greet", greet).subscribe(&counter.select(|n| n % 2 == 0), 1..2);

    // Transient tasks are started again with the same event, at most 3 times within 5 s.
    let (report, unlucky) = (Arc::clone(&divisions), Arc::new(AtomicUsize::new(2)));
    let divide = move |odd: u64| {
        let (report, unlucky) = (Arc::clone(&report), Arc::clone(&unlucky));
        let fails = odd == 3 && unlucky.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        async move { report.work(fails).await }
    };
    graph.tasks_with("divide", TaskOptions::transient(), divide).subscribe(&counter.select(|n| n % 2 == 1), 2..4);

    let outcome = graph.run().await?;
    println!("counter: {} numbers", outcome.stage("counter").map_or(0, |stage| stage.events_out));
    greetings.print("greet", 2)?;
    divisions.print("divide", 4)
}
