//! A hostile worker of a channel.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use serde::Serialize;

use crate::attacks::Attacker;
use crate::publishing::read_leb128;
use crate::world::*;

// Verdicts.
pub(crate) const DONE: u8 = 1;
pub(crate) const RETRY: u8 = 2;
pub(crate) const IN_PROGRESS: u8 = 4;
const PART: u8 = 5;
pub(crate) const BEGUN: u8 = 6;

/// Says something of each of its tasks, over and over.
pub(crate) async fn repeats(connection: &Connection, bytes: fn(u64) -> Vec<u8>) {
    let Some(mut worker) = Worker::join(connection).await else { return };
    write_all_of(&mut worker.send, (1..=worker.given).cycle(), bytes).await;
}

/// Says something of each task as it comes, and takes as many as come.
pub(crate) async fn settles(connection: &Connection, bytes: fn(u64) -> Vec<u8>) {
    let Some(mut worker) = Worker::join(connection).await else { return };
    let (mut first, mut last) = (1, worker.given);
    loop {
        write_all_of(&mut worker.send, first..=last, bytes).await;
        if worker.send.write_all(&credit(last + 1000)).await.is_err() {
            return;
        }
        loop {
            match next_frame(&mut worker.recv).await {
                Some((EVENTS, body)) => {
                    let mut rest = &body[..];
                    first = read_leb128(&mut rest);
                    last = first + read_leb128(&mut rest) - 1;
                    break;
                }
                Some(_) => {}
                None => return,
            }
        }
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
            let _ = worker.send.write_all(&answer(number, 1, PART, Some(&piece))).await;
        }
    }
    std::future::pending::<()>().await;
}

/// A link on which tasks have come.
struct Worker {
    send: SendStream,
    /// How many.
    given: u64,
    recv: RecvStream,
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
                (EVENTS, body) => return Some(Self { send, given: u64::from(body[0] + body[1] - 1), recv }),
                _ => return None,
            }
        }
    }
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
    frame(CREDIT, &numbers([("up_to", up_to)]))
}

/// Says something of a task.
pub(crate) fn answer(number: u64, task: u64, verdict: u8, result: Option<&Bytes>) -> Vec<u8> {
    answer_to(number, &[(task, task)], verdict, result)
}

/// Says it as often as fits into a frame.
pub(crate) fn answer_64_times(number: u64, task: u64, verdict: u8) -> Vec<u8> {
    answer_to(number, &[(task, task); 64], verdict, None)
}

fn answer_to(number: u64, ranges: &[(u64, u64)], verdict: u8, result: Option<&Bytes>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        number: u64,
        ranges: &'a [(u64, u64)],
        verdict: u8,
        result: Option<&'a Bytes>,
    }
    frame(ANSWER, &rmp_serde::to_vec_named(&Answer { number, ranges, verdict, result }).unwrap())
}
