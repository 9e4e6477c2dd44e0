//! Tasks that a stage starts.

use std::future::pending;
use std::time::Duration;

use aqueduct_stage::{Cx, Exit, Graph, Handle, Producer, Result};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{Counted, Log, Note, sink};

/// Starts a task when it is asked for events: the task sends it one, and then waits for ever.
struct Starts(Option<oneshot::Sender<()>>);

struct Found(u64);

impl Producer for Starts {
    type Out = u64;

    async fn handle_demand(&mut self, _demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let (stage, alive) = (cx.stage_ref::<Self>(), self.0.take());
        cx.stage_ref::<Self>().spawn("finder", async move {
            let _alive = alive;
            let _ = stage.cast(Found(7));
            pending::<()>().await;
        });
        Ok(())
    }
}

impl Handle<Found, u64> for Starts {
    type Reply = ();

    async fn handle(&mut self, Found(event): Found, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit(event);
        cx.stop(Exit::Normal);
        Ok(())
    }
}

#[tokio::test]
async fn a_task_that_a_stage_started_is_dropped_when_the_graph_has_ended() {
    let (spawner, log) = (Counted::default(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let (alive, mut dropped) = oneshot::channel();
    let mut alive = Some(alive);
    let found = graph.producer("starts", move || Starts(alive.take()));
    graph.consumer("sink", sink(&log)).subscribe(&found, 0..1);
    timeout(Duration::from_secs(10), graph.run()).await.unwrap().unwrap();
    assert_eq!(log.events(), [7]);
    assert!(log.all().contains(&Note::End));
    assert_eq!((spawner.alive(), dropped.try_recv()), (0, Err(oneshot::error::TryRecvError::Closed)));
}
