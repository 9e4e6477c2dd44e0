//! What nodes leave behind: nothing.

use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{BoxFuture, Spawner, TokioSpawner};
use aqueduct_transport::{Authority, Identity, Node};
use tokio::sync::watch;

use crate::nodes::guarded;
use crate::stages::{GUARD, consume, consuming, fails, produce};

#[tokio::test]
async fn no_task_is_left_of_nodes_that_were_shut_down() {
    guarded(async {
        let tasks = Counting::default();
        let (here, there) = tasks.nodes().await;
        let mut producing = produce(&there, "numbers", 10_000, |n| n);
        consume::<u64>(&here, "numbers", &there).await.unwrap();
        here.publish("again", &here.source::<u64>("numbers", there.local_addr())).unwrap();
        let mut endless = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, mut consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        fails::<u64>(&here, "unknown", &there).await;

        assert!(!there.shutdown(Duration::ZERO).await);
        consuming.join().await.unwrap_err();
        assert!(here.shutdown(GUARD).await);
        // The endpoint's own, which ends with the last handle.
        assert_eq!((tasks.alive("link"), tasks.alive("connection")), (0, 0));
        producing.join().await.unwrap();
        endless.join().await.unwrap_err();
        drop((here, there));
        tasks.none().await;
    })
    .await;
}

#[tokio::test]
async fn no_task_is_left_of_nodes_that_were_dropped() {
    guarded(async {
        let tasks = Counting::default();
        let (here, there) = tasks.nodes().await;
        let producing = produce(&there, "endless", u64::MAX, |n| n);
        let (seen, consuming) = consuming::<u64>(&here, "endless", &there);
        seen.until(1000).await;
        drop((here, there, consuming, producing));
        tasks.none().await;
    })
    .await;
}

#[tokio::test]
async fn fifty_nodes_go_up_and_down() {
    guarded(async {
        let (tasks, authority) = (Counting::default(), Authority::dev("test").unwrap());
        let hub = tasks.node(authority.issue("hub").unwrap()).await;
        for n in 0..49 {
            let name = format!("node-{n}");
            let node = tasks.node(authority.issue(&name).unwrap()).await;
            let mut producing = produce(&hub, &name, 100, |n| n);
            assert_eq!(consume::<u64>(&node, &name, &hub).await.unwrap().len(), 100);
            producing.join().await.unwrap();
            assert!(node.shutdown(GUARD).await);
        }
        assert!(hub.shutdown(GUARD).await);
        drop(hub);
        tasks.none().await;
    })
    .await;
}

/// Starts tasks on tokio, and knows which are alive.
#[derive(Clone, Default)]
struct Counting(Arc<watch::Sender<Vec<String>>>);

impl Counting {
    async fn nodes(&self) -> (Node, Node) {
        let authority = Authority::dev("test").unwrap();
        (self.node(authority.issue("here").unwrap()).await, self.node(authority.issue("there").unwrap()).await)
    }

    async fn node(&self, identity: Identity) -> Node {
        Node::builder(identity).spawner(self.clone()).bind("127.0.0.1:0").await.unwrap()
    }

    fn alive(&self, name: &str) -> usize {
        self.0.borrow().iter().filter(|alive| *alive == name).count()
    }

    /// Waits until no task is left.
    async fn none(&self) {
        let none = tokio::time::timeout(GUARD, async { drop(self.0.subscribe().wait_for(Vec::is_empty).await) });
        assert!(none.await.is_ok(), "left behind: {:?}", *self.0.borrow());
    }
}

impl Spawner for Counting {
    fn spawn(&self, name: &str, task: BoxFuture<'static>) {
        let alive = Alive(self.clone(), name.to_owned());
        self.0.send_modify(|all| all.push(name.to_owned()));
        TokioSpawner.spawn(
            name,
            Box::pin(async move {
                let _alive = alive;
                task.await;
            }),
        );
    }
}

struct Alive(Counting, String);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.send_modify(|all| {
            let position = all.iter().position(|name| *name == self.1).unwrap();
            all.swap_remove(position);
        });
    }
}
