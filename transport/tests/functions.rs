//! Functions by name: what one node knows of another's, on real sockets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use aqueduct_stage::SubscribeError;
use aqueduct_transport::{Authority, Functions, LookupError, Node, NodeConfig, Signature};

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{guarded, node};

#[tokio::test]
async fn what_a_node_lacks_is_known_by_name() {
    guarded(async {
        let mut ours = Functions::new();
        ours.register("double", 2, |n: u64| 2 * n).unwrap().register("length", 1, |text: String| text.len()).unwrap();
        let mut theirs = Functions::new();
        theirs.register("double", 1, |n: u64| 2 * n).unwrap().register("length", 1, |text: String| text).unwrap();
        let (here, there) = nodes(ours, theirs).await;

        let known = here.functions_at(there.local_addr()).await.unwrap();
        assert_eq!(known.node().to_string(), "aqueduct://test/node/there");
        let double = Signature::of::<u64, u64>();
        assert_eq!(known.require("double", 1, &double), Ok(()));
        let says = |name, version, signature| known.require(name, version, signature).unwrap_err().to_string();
        assert_eq!(says("double", 2, &double), r#"there is no function "double" v2; its versions here: 1"#);
        assert_eq!(says("triple", 1, &double), r#"there is no function "triple" v1"#);
        assert_eq!(
            says("length", 1, &Signature::of::<String, usize>()),
            r#"expected function "length" v1 to be map(string) -> usize, got map(string) -> string"#
        );
        // The other way round it is another connection, with another answer.
        let back = there.functions_at(here.local_addr()).await.unwrap();
        assert!(
            matches!(back.require("double", 1, &double), Err(LookupError::Missing { present, .. }) if present == [2])
        );
    })
    .await;
}

#[tokio::test]
async fn as_many_functions_as_there_may_be_are_known_and_so_are_none() {
    guarded(async {
        let mut theirs = Functions::new();
        for n in 0..10_000_u32 {
            theirs.register(&format!("{:0>200}", n % 1000), n, |n: u64| n).unwrap();
        }
        let digest = theirs.digest();
        let (here, there) = nodes(Functions::new(), theirs).await;
        // Both who ask get the one answer.
        let (first, second) =
            tokio::join!(here.functions_at(there.local_addr()), here.functions_at(there.local_addr()));
        assert_eq!((first.unwrap().digest(), second.unwrap().len()), (digest, 10_000));
        let none = there.functions_at(here.local_addr()).await.unwrap();
        assert!(none.is_empty());
    })
    .await;
}

#[tokio::test]
async fn nodes_with_the_same_functions_know_it_from_their_introduction() {
    guarded(async {
        let functions = || {
            let mut functions = Functions::new();
            functions.register("double", 1, |n: u64| 2 * n).unwrap();
            functions
        };
        let (here, there) = nodes(functions(), functions()).await;
        let known = here.functions_at(there.local_addr()).await.unwrap();
        assert_eq!((known.digest(), known.len()), (functions().digest(), 1));
    })
    .await;
}

#[tokio::test]
async fn who_cannot_be_reached_cannot_be_asked() {
    guarded(async {
        let authority = Authority::dev("test").unwrap();
        let config = NodeConfig::default().handshake_timeout(Duration::from_millis(100));
        let here = node(authority.issue("here").unwrap(), config).await;
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = here.functions_at(silent.local_addr().unwrap()).await.unwrap_err();
        assert!(matches!(error, SubscribeError::Unreachable { .. }), "{error}");
    })
    .await;
}

async fn nodes(ours: Functions, theirs: Functions) -> (Node, Node) {
    let authority = Authority::dev("test").unwrap();
    let bind = async |name, functions| {
        Node::builder(authority.issue(name).unwrap()).functions(functions).bind("127.0.0.1:0").await.unwrap()
    };
    (bind("here", ours).await, bind("there", theirs).await)
}
