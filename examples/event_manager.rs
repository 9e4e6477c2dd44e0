//! An event manager in place of Erlang's `gen_event`: whoever has news notifies it, and every handler gets every event,
//! each in a task of its own and at its own pace.
//!
//! With `gen_event` all handlers share one process, so a slow one holds up the others. Here the others are ahead of it by
//! as much as it has asked for (10 events at most): then the manager waits for it, and what it is told meanwhile waits in
//! the buffer.
//!
//! `cargo run --release --example event_manager` prints
//!
//! ```text
//! audit saw 25 events, the last of them order 24
//! count saw 25 events, the last of them order 24
//! ```

use std::time::Duration;

use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Handle, Keep, Producer, Result};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Emits what it is notified of.
struct EventManager;

struct Notify(String);
struct NoMore;

impl Producer for EventManager {
    type Out = String;

    async fn handle_demand(&mut self, _demand: usize, _cx: &mut Cx<'_, String>) -> Result {
        Ok(()) // events come as messages, and go out as soon as all handlers have asked
    }
}

impl Handle<Notify, String> for EventManager {
    type Reply = ();
    async fn handle(&mut self, Notify(event): Notify, cx: &mut Cx<'_, String>) -> Result {
        cx.emit(event);
        Ok(())
    }
}

impl Handle<NoMore, String> for EventManager {
    type Reply = ();
    async fn handle(&mut self, NoMore: NoMore, cx: &mut Cx<'_, String>) -> Result {
        cx.stop(Exit::Normal); // everything emitted so far is delivered first
        Ok(())
    }
}

/// A handler, which takes its time for each event, and reports at the end.
struct Handler {
    name: &'static str,
    takes: Duration,
    seen: Vec<String>,
    report: mpsc::UnboundedSender<String>,
}

impl Consumer for Handler {
    type In = String;

    async fn handle_events(&mut self, events: Batch<String>, _cx: &mut Cx<'_>) -> Result {
        for event in events {
            sleep(self.takes).await;
            self.seen.push(event);
        }
        Ok(())
    }

    async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
        let last = self.seen.last().ok_or("no events")?;
        Ok(self.report.send(format!("{} saw {} events, the last of them {last}", self.name, self.seen.len()))?)
    }
}

#[tokio::main]
async fn main() -> Result {
    let graph = Graph::new("events");
    // If 1,000 events wait for the slowest handler, the manager fails rather than drop any.
    let manager = graph.producer("manager", || EventManager).buffer(1000, Keep::Fail).broadcast();
    let (tx, mut reports) = mpsc::unbounded_channel();
    for (name, millis) in [("count", 0), ("audit", 4)] {
        let (takes, report) = (Duration::from_millis(millis), tx.clone());
        let make = move || Handler { name, takes, seen: Vec::new(), report: report.clone() };
        graph.consumer(name, make).subscribe(&manager, 5..10);
    }
    let mut running = graph.start();
    for number in 0..25 {
        manager.stage_ref().call(Notify(format!("order {number}"))).await?;
    }
    manager.stage_ref().call(NoMore).await?;
    running.join().await?;
    let mut lines = Vec::from_iter(std::iter::from_fn(|| reports.try_recv().ok()));
    lines.sort_unstable(); // whichever handler was done first
    println!("{}", lines.join("\n"));
    Ok(())
}
