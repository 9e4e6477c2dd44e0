//! A hostile worker of a channel.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use serde::Serialize;

use crate::attacks::Attacker;
use crate::world::*;

// Verdicts.
pub(crate) const DONE: u8 = 1;
pub(crate) const IN_PROGRESS: u8 = 4;
const PART: u8 = 5;

/// Says the same of each of its tasks, as fast as it can.
pub(crate) async fn says_again_and_again(attacker: &Attacker, at: SocketAddr, verdict: u8, number: u64) {
    loop {
        let Some((connection, _control)) = attacker.join(at).await else { continue };
        let Some(mut worker) = Worker::join(&connection).await else { continue };
        let ranges = if verdict == DONE { vec![(1, 1)] } else { (1..=worker.given).map(|task| (task, task)).collect() };
        let frames: Vec<_> = ranges.into_iter().flat_map(|range| answer(number, range, verdict, None)).collect();
        let frames = frames.repeat(10_000 / frames.len() + 1);
        while worker.send.write_all(&frames).await.is_ok() {}
    }
}

/// Begins a result on each of 40 links, and ends none.
pub(crate) async fn ends_no_result(attacker: &Attacker, at: SocketAddr) {
    let (mut workers, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let Some(joined) = attacker.join(at).await else { continue };
        for _ in 0..10 {
            workers.extend(Worker::join(&joined.0).await);
        }
        connections.push(joined);
    }
    let piece = Bytes::from(vec![7; 60_000]);
    for number in 1..250 {
        for worker in &mut workers {
            let _ = worker.send.write_all(&answer(number, (1, 1), PART, Some(&piece))).await;
        }
    }
    std::future::pending::<()>().await;
}

/// A link on which tasks have come.
struct Worker {
    send: SendStream,
    /// How many.
    given: u64,
    _recv: RecvStream,
}

impl Worker {
    async fn join(connection: &Connection) -> Option<Self> {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        let subscribe = frame(SUBSCRIBE, &subscribe_as("work", "channel u64 -> bytes"));
        send.write_all(&[subscribe, acks(), credit(2)].concat()).await.ok()?;
        loop {
            match next_frame(&mut recv).await? {
                (ACCEPTED, _) => {}
                // Its first number, and how many, both short.
                (EVENTS, body) => return Some(Self { send, given: u64::from(body[0] + body[1] - 1), _recv: recv }),
                _ => return None,
            }
        }
    }
}

async fn next_frame(recv: &mut RecvStream) -> Option<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    recv.read_exact(&mut frame).await.ok()?;
    Some((frame[0], frame.split_off(1)))
}

/// It says what it has handled.
fn acks() -> Vec<u8> {
    #[derive(Serialize)]
    struct Ack {
        up_to: u64,
        handled: bool,
    }
    frame(ACK, &rmp_serde::to_vec_named(&Ack { up_to: 0, handled: true }).unwrap())
}

fn credit(up_to: u64) -> Vec<u8> {
    frame(CREDIT, &crate::attacks::numbers([("up_to", up_to)]))
}

fn answer(number: u64, range: (u64, u64), verdict: u8, result: Option<&Bytes>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        number: u64,
        ranges: [(u64, u64); 1],
        verdict: u8,
        result: Option<&'a Bytes>,
    }
    frame(ANSWER, &rmp_serde::to_vec_named(&Answer { number, ranges: [range], verdict, result }).unwrap())
}
