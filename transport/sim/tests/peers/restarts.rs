//! A node that dials again while its earlier self is connected.

use quinn::{Connection, RecvStream, SendStream, VarInt};
use rand::Rng;

use crate::nodes::{PORT, links, until};
use crate::raw::{self, HELLO_ACK, REFUSED, SUPERSEDED, hello_of};
use crate::world::{CLOSING, World, accepted, code, sim};

/// A node dials again and again, as several of its starts in some order: the last start stays, with all its connections.
#[test]
fn failure_36_a_node_that_starts_again_replaces_its_earlier_self() {
    sim().swarm(0..300, async |net| {
        let mut world = World::new(&net).await?;
        let mut rng = net.rng("incarnations");
        let host = net.host("twin");
        let mut endpoint = host.endpoint(PORT, None);
        endpoint.set_default_client_config(raw::client(&world.issues.issue("twin")));
        let (mut last, mut present) = (0, Vec::<(Connection, [(SendStream, RecvStream); 2])>::new());
        for _ in 0..rng.random_range(2..6) {
            let incarnation = rng.random_range(1..5);
            let connection = endpoint.connect(world.there.address(PORT), raw::SERVER_NAME)?.await?;
            let (mut send, mut recv) = connection.open_bi().await?;
            send.write_all(&hello_of("sim", "twin", incarnation)).await?;
            if incarnation < last {
                assert_eq!(code(&connection).await, REFUSED);
                let reason = connection.close_reason().map(|reason| reason.to_string()).unwrap_or_default();
                let said = format!("incarnation {incarnation} is superseded by incarnation {last}");
                assert!(reason.contains(&said), "{reason:?} does not say {said:?}");
                continue;
            }
            let mut head = [0; 5];
            recv.read_exact(&mut head).await?;
            assert_eq!(head[4], HELLO_ACK);
            if incarnation > last {
                for (connection, ..) in std::mem::take(&mut present) {
                    assert_eq!(code(&connection).await, SUPERSEDED);
                }
                until(CLOSING, "a link of an earlier start is left", || links(&world.there) <= 1).await;
            }
            last = incarnation;
            let link = accepted(&connection, "numbers-for-hostile").await?;
            present.push((connection, [(send, recv), link]));
            if rng.random_bool(0.3) {
                // Nobody is connected: it is remembered.
                present.iter().for_each(|(connection, ..)| connection.close(VarInt::from_u32(0), b""));
                present.clear();
            }
        }
        for (connection, ..) in &present {
            assert_eq!(connection.close_reason(), None, "the last start was turned out");
            connection.close(VarInt::from_u32(0), b"");
        }
        world.the_link_is_exact().await?;
        world.end().await
    });
}
