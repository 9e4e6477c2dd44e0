//! A task that is started again needs its event again.

use aqueduct_stage::{Graph, TaskOptions};

struct Letter;

fn main() {
    let graph = Graph::new("wrong");
    let _ = graph.tasks_with("send", TaskOptions::transient(), |_: Letter| async { Ok(()) });
}
