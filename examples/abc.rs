//! The three stages that GenStage's documentation begins with: A counts, B multiplies, C prints.
//!
//! ```text
//!   [ A ] ── events ──► [ B ] ── events ──► [ C ]
//!         ◄── demand ──       ◄── demand ──
//! ```
//!
//! C asks B for 4 events, and for 2 more whenever it has handled 2; B asks A for 6, and for 3 more. Nobody sends what was
//! not asked for, and when A has counted to the end, B and C see the end in their turn.
//!
//! `cargo run --release --example abc` prints
//!
//! ```text
//! C: 0
//! C: 3
//! ...
//! C: 27
//! C: seen everything, 135 in all
//! ```

use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Producer, ProducerConsumer, Result};

/// Counts from 0 to 9.
struct A {
    next: u64,
}

impl Producer for A {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let end = 10.min(self.next + demand as u64);
        cx.emit_all(self.next..end);
        self.next = end;
        if end == 10 {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Multiplies.
struct B {
    factor: u64,
}

impl ProducerConsumer for B {
    type In = u64;
    type Out = u64;

    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(events.into_iter().map(|event| event * self.factor));
        Ok(())
    }
}

/// Prints what it gets, and the sum at the end.
#[derive(Default)]
struct C {
    sum: u64,
}

impl Consumer for C {
    type In = u64;

    async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result {
        for event in events {
            println!("C: {event}");
            self.sum += event;
        }
        Ok(())
    }

    async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
        println!("C: seen everything, {} in all", self.sum);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let graph = Graph::new("abc");
    let a = graph.producer("A", || A { next: 0 });
    let b = graph.stage("B", || B { factor: 3 }).subscribe(&a, 3..6);
    graph.consumer("C", C::default).subscribe(&b, 2..4);
    graph.run().await?;
    Ok(())
}
