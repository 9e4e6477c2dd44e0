//! What serde skips or reads otherwise moves no other field: on links, in channels and in queues.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use aqueduct_stage::{Graph, SourceExt};
use aqueduct_transport::{ChannelOptions, EncodeErrorCause, JoinOptions, MemoryQueue, PushError, QueueSource, wire};
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, nodes};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<u64>,
}
wire!(Order, "order", 1);

/// It cannot be read without its note.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Letter {
    id: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}
wire!(Letter, "letter", 3);

fn orders() -> Vec<Order> {
    let order = |id| match id % 3 {
        0 => Order { id, weight: None, price: Some(700) },
        1 => Order { id, weight: Some(7), price: None },
        _ => Order { id, weight: Some(7), price: Some(700) },
    };
    (0..100).map(order).collect()
}

const REFUSAL: &str = "a value of \"letter v3\" would not be read as it is written, in field `note` of `Letter`: \
                       missing field `note`";

#[tokio::test]
async fn a_skipped_field_moves_no_other_on_a_link_and_in_a_channel() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let graph = Graph::new("there");
        there.publish("orders", &graph.iterate("orders", orders)).unwrap();
        let _running = graph.start();
        let mut stream = here.source::<Order>("orders", there.local_addr()).events(5..10);
        let mut came = Vec::new();
        while let Some(order) = stream.next().await {
            came.push(order.unwrap());
        }
        assert_eq!(came, orders());

        let (sender, mut receiver) = here.serve_channel::<Order, Order>("echo", ChannelOptions::default()).unwrap();
        let mut worker = there.join_channel::<Order, Order>("echo", here.local_addr(), JoinOptions::default());
        for order in orders().into_iter().take(3) {
            sender.send(order.clone()).await.unwrap();
            let task = worker.next().await.unwrap().unwrap();
            assert_eq!(task.value(), &order);
            task.answer(&order).unwrap();
            assert_eq!(receiver.recv().await.unwrap().unwrap(), order);
        }
    })
    .await;
}

#[tokio::test]
async fn what_would_not_be_read_right_is_refused_by_a_link_and_a_channel() {
    guarded(async {
        let [here, there] = nodes(["here", "there"]).await;
        let letters = || ["fragile", ""].map(|note| Letter { id: 1, note: note.to_owned() });
        let graph = Graph::new("there");
        there.publish("letters", &graph.iterate("letters", letters)).unwrap();
        let _running = graph.start();
        let mut stream = here.source::<Letter>("letters", there.local_addr()).events(5..10);
        assert_eq!(stream.next().await.unwrap().unwrap().note, "fragile");
        let failure = stream.next().await.unwrap().unwrap_err().to_string();
        assert!(failure.contains(REFUSAL), "{failure}");

        let (sender, _receiver) = here.serve_channel::<Letter, u64>("letters", ChannelOptions::default()).unwrap();
        let error = sender.send(letters()[1].clone()).await.unwrap_err();
        assert_eq!((error.value.id, error.cause.to_string().contains(REFUSAL)), (1, true), "{}", error.cause);
    })
    .await;
}

#[tokio::test]
async fn a_queue_refuses_what_would_not_be_read_right_and_gives_the_rest_as_it_was() {
    let queue = Arc::new(MemoryQueue::new(100));
    let source = QueueSource::new("orders", queue);
    source.push(orders()).await.unwrap();
    source.close();
    let mut stream = source.events(5..10);
    let mut came = Vec::new();
    while let Some(order) = stream.next().await {
        came.push(order.unwrap());
    }
    assert_eq!(came, orders());

    let letters = QueueSource::new("letters", Arc::new(MemoryQueue::new(100)));
    let Err(PushError::Encode(error)) = letters.push([Letter { id: 1, note: String::new() }]).await else {
        panic!("it was accepted");
    };
    assert!(matches!(error.cause, EncodeErrorCause::Unreadable { .. }), "{error}");
    assert_eq!(error.to_string(), format!("event 0 of the batch cannot be encoded: {REFUSAL}"));
    letters.push([Letter { id: 1, note: "fragile".to_owned() }]).await.unwrap();
}
