//! What may be published, and what far consumers are told and tell of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aqueduct_stage::{Cx, Edge, EndCause, Exit, Graph, Producer, Result, SourceExt, each};
use aqueduct_transport::{Authority, Node, NodeConfig, PublishOptions};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, node, nodes};

#[tokio::test]
async fn a_producer_is_told_that_its_far_consumer_has_ended_itself() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let graph = Graph::new("producing");
        let numbers = graph.producer("numbers", move || Observed { next: 0, tell: tell.clone() });
        there.publish("numbers", &numbers).unwrap();
        let _producing = graph.start();
        let far = || here.source::<u64>("numbers", there.local_addr());

        let graph = Graph::new("consuming");
        let fails = |n| async move { if n < 7 { Ok(()) } else { Err("cannot".into()) } };
        graph.consumer("consume", move || each(fails)).subscribe(&far(), 5..10);
        assert!(graph.run().await.is_err());
        assert!(told.recv().await.unwrap().is_none(), "it has subscribed");
        let cause = told.recv().await.unwrap().unwrap();
        assert!(matches!(&cause, EndCause::Down(Exit::Failed(_))), "{cause}");

        // Who only ends its subscription is not down.
        let graph = Graph::new("consuming");
        let consumer = graph.consumer("consume", || each(|_| async { Ok(()) }));
        let running = graph.start();
        let id = running.subscribe(&consumer, &far(), 5..10);
        assert!(told.recv().await.unwrap().is_none(), "it has subscribed");
        running.cancel(&consumer, id, Exit::Shutdown);
        let cause = told.recv().await.unwrap().unwrap();
        assert!(matches!(&cause, EndCause::Cancelled(_)), "{cause}");
    })
    .await;
}

#[tokio::test]
async fn large_events_get_through_a_window_of_few_bytes() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let config = NodeConfig::default().event_window_bytes(64 << 10);
        let here = node(authority.issue("here").unwrap(), config).await;
        let there = node(authority.issue("there").unwrap(), NodeConfig::default()).await;
        // Each asks for many more than the window holds, and again only after hundreds; every tenth is longer than it.
        let length = |number: usize| if number.is_multiple_of(10) { 100_000 } else { 10_000 };
        let graph = Graph::new("producing");
        let numbers = graph.iterate("numbers", move || (0..300).map(move |n| Bytes::from(vec![n as u8; length(n)])));
        let numbers = numbers.broadcast().wait_for_subscribers(2);
        there.publish("numbers", &numbers).unwrap();
        let mut producing = graph.start();
        let graph = Graph::new("consuming");
        let far = here.source::<Bytes>("numbers", there.local_addr());
        let (tell, mut told) = mpsc::unbounded_channel();
        for acknowledges in [false, true] {
            let tell = tell.clone();
            let collect = move || {
                let tell = tell.clone();
                each(move |event: Bytes| {
                    let _ = tell.send((acknowledges, event.len()));
                    async { Ok(()) }
                })
            };
            let consumer = graph.consumer(if acknowledges { "acknowledges" } else { "takes" }, collect);
            if acknowledges {
                consumer.subscribe_acknowledged(&far, 500..1000);
            } else {
                consumer.subscribe(&far, 500..1000);
            }
        }
        graph.run().await.unwrap();
        producing.join().await.unwrap();
        let mut all = [Vec::new(), Vec::new()];
        while let Ok((acknowledges, length)) = told.try_recv() {
            all[usize::from(acknowledges)].push(length);
        }
        let expected: Vec<_> = (0..300).map(length).collect();
        assert_eq!(all, [expected.clone(), expected]);
    })
    .await;
}

#[tokio::test]
async fn a_far_consumer_gets_what_the_named_selector_accepts() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let graph = Graph::new("producing");
        let numbers = graph.iterate("numbers", || 0..1000_u64).broadcast().wait_for_subscribers(3);
        let options = PublishOptions::new()
            .selector("even", |number: &u64| number.is_multiple_of(2))
            .selector("late", |number| *number >= 900);
        there.publish_with("all", &numbers, options).unwrap();
        // What is chosen at both ends is what both accept.
        let odd = numbers.select(|number| number % 2 == 1);
        there.publish_with("odd", &odd, PublishOptions::new().selector("late", |number| *number >= 900)).unwrap();
        let mut producing = graph.start();
        let take = async |name, selector| {
            let far = here.source::<u64>(name, there.local_addr()).select(selector);
            far.events(5..10).collect::<Result<Vec<u64>, _>>().await.unwrap()
        };
        // A window of ten is enough for 900 that are refused in a row.
        let (even, late, late_odd) = tokio::join!(take("all", "even"), take("all", "late"), take("odd", "late"));
        assert_eq!(even, (0..1000).step_by(2).collect::<Vec<_>>());
        assert_eq!(late, (900..1000).collect::<Vec<_>>());
        assert_eq!(late_odd, (901..1000).step_by(2).collect::<Vec<_>>());
        producing.join().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_unknown_selector_is_refused_with_the_names_that_there_are() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let graph = Graph::new("producing");
        let numbers = graph.iterate("numbers", || 0..10_u64);
        there
            .publish_with("numbers", &numbers, PublishOptions::new().selector("even", |n: &u64| n.is_multiple_of(2)))
            .unwrap();
        let _producing = graph.start();
        let far = here.source::<u64>("numbers", there.local_addr()).select("evne");
        let error = far.events(5..10).next().await.unwrap().unwrap_err().to_string();
        assert!(error.ends_with("unknown selector \"evne\", there are: \"even\""), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_far_consumer_subscribes_to_each_instance() {
    guarded(async {
        let [here, between, there] = nodes(["here", "between", "there"]).await;
        let next = Arc::new(AtomicU64::new(0));
        let graph = Graph::new("producing");
        let hundreds = graph.producer("hundreds", move || Hundred(100 * next.fetch_add(1, Ordering::Relaxed)));
        let hundreds = hundreds.concurrency(5).broadcast().wait_for_subscribers(3);
        there.publish("hundreds", &hundreds).unwrap();
        // A far source is published again before anybody knows how many it is.
        between.publish("hundreds", &between.source::<u64>("hundreds", there.local_addr())).unwrap();
        let mut producing = graph.start();
        let take = async |node: &Node| {
            let far = here.source::<u64>("hundreds", node.local_addr());
            far.events(5..10).collect::<Result<Vec<u64>, _>>().await.unwrap()
        };
        let (tell, mut told) = mpsc::unbounded_channel();
        let graph = Graph::new("consuming");
        let collect = move || {
            let tell = tell.clone();
            each(move |number| {
                let _ = tell.send(number);
                async { Ok(()) }
            })
        };
        graph.consumer("collect", collect).subscribe(&here.source::<u64>("hundreds", there.local_addr()), 5..10);
        let (mut direct, mut again, ran) = tokio::join!(take(&there), take(&between), graph.run());
        ran.unwrap();
        producing.join().await.unwrap();
        let mut staged: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        for all in [&mut direct, &mut again, &mut staged] {
            all.sort_unstable();
            assert_eq!(*all, (0..500).collect::<Vec<_>>());
        }
    })
    .await;
}

/// Emits a hundred numbers from this one on.
struct Hundred(u64);

impl Producer for Hundred {
    type Out = u64;

    async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, u64>) -> Result {
        cx.emit_all(self.0..self.0 + 100);
        cx.stop(Exit::Normal);
        Ok(())
    }
}

/// Emits all numbers, and tells of each consumer that comes, and how it went.
struct Observed {
    next: u64,
    tell: mpsc::UnboundedSender<Option<EndCause>>,
}

impl Producer for Observed {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let to = self.next + demand as u64;
        cx.emit_all(self.next..to);
        self.next = to;
        Ok(())
    }

    async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_, u64>) -> Result {
        let _ = self.tell.send(None);
        Ok(())
    }

    async fn handle_cancel(&mut self, _: &Edge, cause: &EndCause, _: &mut Cx<'_, u64>) -> Result {
        let _ = self.tell.send(Some(cause.clone()));
        Ok(())
    }
}
