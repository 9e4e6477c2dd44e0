//! Channels on which only results come in, on loopback.
//!
//! Nothing waits for time to pass: what should happen is awaited, and a guard ends a test that hangs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use aqueduct_transport::{
    Authority, ChannelError, ChannelOptions, JoinOptions, Lz4, Node, NodeConfig, ResultReceiver, ResultSender,
    SendErrorCause, Unreceived,
};
use tokio::time::timeout;

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{again, begin, guarded, node, nodes_of};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn values_of_many_workers_come_once_and_each_workers_in_order() {
    guarded(async {
        let [here, there] = two().await;
        let options = ChannelOptions::default().transformer(Lz4).capacity(20);
        let mut receiver = here.serve_results::<(u64, u64)>("numbers", options).unwrap();
        let mut workers = Vec::new();
        for worker in 0..3 {
            let options = JoinOptions::default().transformer(Lz4);
            let mut sender = there.join_results::<(u64, u64)>("numbers", here.local_addr(), options);
            workers.push(begin(async move {
                for number in 0..500 {
                    sender.send((worker, number)).await.unwrap();
                }
                sender.flush().await.unwrap();
                sender.unreceived()
            }));
        }
        let mut next = [0; 3];
        while next != [500; 3] {
            let (worker, number) = receiver.recv().await.unwrap();
            assert_eq!(std::mem::replace(&mut next[worker as usize], number + 1), number);
        }
        for worker in workers {
            assert_eq!(worker.await.unwrap(), 0);
        }
        // Whoever leaves changes nothing.
        receiver.watch_workers().wait_for(aqueduct_transport::ChannelWorkers::is_empty).await.unwrap();
        let mut sender = there.join_results("numbers", here.local_addr(), JoinOptions::default().transformer(Lz4));
        sender.send((7_u64, 7_u64)).await.unwrap();
        assert_eq!(receiver.recv().await, Some((7, 7)));
    })
    .await;
}

#[tokio::test]
async fn workers_send_what_is_asked_for_and_wait_for_whoever_receives() {
    guarded(async {
        let [here, there] = two().await;
        let mut receiver = serve(&here, 1000);
        let mut sender = join(&there, &here, 2..4);
        for number in 0..4 {
            sender.send(number).await.unwrap();
        }
        assert!(timeout(SECOND / 10, sender.send(4)).await.is_err(), "nobody has received anything");
        assert_eq!(sender.unreceived(), 4);
        assert_eq!(receiver.recv().await, Some(0));
        sender.send(4).await.unwrap();
        assert_eq!(sender.unreceived(), 4);
        for number in 1..5 {
            assert_eq!(receiver.recv().await, Some(number));
        }
        sender.flush().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn after_the_close_what_has_arrived_is_received_and_senders_are_told() {
    guarded(async {
        let [here, there] = two().await;
        let mut receiver = serve(&here, 1000);
        let mut sender = join(&there, &here, 2..4);
        sender.send(1).await.unwrap();
        assert_eq!(receiver.recv().await, Some(1));
        sender.flush().await.unwrap();
        receiver.close();
        assert_eq!(receiver.recv().await, None);
        let error = loop {
            if let Err(error) = sender.send(2).await {
                break error;
            }
        };
        assert!(matches!((error.value, error.cause), (2, SendErrorCause::Closed)));
        // One that comes late, and one whose value nobody has received.
        let error = join(&there, &here, 2..4).send(3).await.unwrap_err();
        assert!(matches!(error.cause, SendErrorCause::Closed));
    })
    .await;
}

#[tokio::test]
async fn what_was_not_received_when_the_receiver_went_is_said_to_be_so() {
    guarded(async {
        let [here, there] = two().await;
        let mut receiver = serve(&here, 1000);
        let mut sender = join(&there, &here, 2..4);
        for number in 0..3 {
            sender.send(number).await.unwrap();
        }
        assert_eq!(receiver.recv().await, Some(0));
        drop(receiver);
        let error = sender.flush().await.unwrap_err();
        assert!(matches!(error, Unreceived { values: 2..=3, cause: None }), "{error}");
        assert!(error.to_string().ends_with("may not have been received: the channel is closed"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn who_joins_as_something_else_is_told_both_names() {
    guarded(async {
        let [here, there] = two().await;
        let _receiver = serve(&here, 1000);
        let mut other = there.join_results::<String>("numbers", here.local_addr(), JoinOptions::default());
        let error = other.send("one".to_owned()).await.unwrap_err();
        let SendErrorCause::Ended(ChannelError::Mismatch { served, joined, .. }) = error.cause else {
            panic!("{error}")
        };
        assert_eq!((&served[..], &joined[..]), ("channel of results u64", "channel of results string"));
        let mut worker = there.join_channel::<u64, u64>("numbers", here.local_addr(), JoinOptions::default());
        assert!(matches!(worker.recv().await, Some(Err(ChannelError::Mismatch { .. }))));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_started_again_gets_what_the_one_before_did_not_receive() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let identity = authority.issue("here").unwrap();
        let there = node(authority.issue("there").unwrap(), config()).await;
        let here = node(identity.clone(), config()).await;
        let at = here.local_addr();
        let mut receiver = serve(&here, 1000);
        let mut sender = join(&there, &here, 4..8);
        for number in 0..5 {
            sender.send(number).await.unwrap();
        }
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(0), Some(1)));
        here.shutdown(Duration::ZERO).await;
        drop(receiver);
        drop(here);
        let here = again(identity, config(), at).await;
        let mut receiver = serve(&here, 1000);
        let sending = begin(async move {
            for number in 5..20 {
                sender.send(number).await.unwrap();
            }
            sender.flush().await.unwrap();
        });
        let first = receiver.recv().await.unwrap();
        assert!(first <= 2, "{first} is the first, and 2 was not received");
        for number in first + 1..20 {
            assert_eq!(receiver.recv().await, Some(number));
        }
        sending.await.unwrap();
    })
    .await;
}

fn serve(node: &Node, capacity: usize) -> ResultReceiver<u64> {
    node.serve_results("numbers", ChannelOptions::default().capacity(capacity)).unwrap()
}

fn join(node: &Node, server: &Node, window: std::ops::Range<usize>) -> ResultSender<u64> {
    node.join_results("numbers", server.local_addr(), JoinOptions::default().values(window))
}

async fn two() -> [Node; 2] {
    nodes_of(&Authority::dev("test").unwrap(), config(), ["here", "there"]).await
}

fn config() -> NodeConfig {
    NodeConfig::default().session_grace(SECOND)
}
