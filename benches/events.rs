//! The events that go between two processes, who emits them and who takes them.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use aqueduct::transport::{Node, Wire, wire};
use aqueduct::{Batch, Consumer, Cx, Edge, Exit, Graph, Keep, Producer, SubscribeOptions};
use bytes::Bytes;
use remoc::rch::mpsc::Sender;
use serde::{Deserialize, Serialize};

use crate::peers::remoc::Request;
use crate::rate::{Meter, Rate};

/// A kind of events. They are numbered from 0, so that whoever takes them sees that none is missing.
pub trait Event: Wire + Sync {
    /// What it is called on the command line and in `RATIO` lines.
    const NAME: &'static str;
    /// How many bytes of data it carries, however it is encoded.
    const BYTES: u64;

    /// The event of this number. Making it costs next to nothing, unless it owns memory.
    fn number(n: u64) -> Self;

    /// Whether this is the event of number `n`.
    fn is(&self, n: u64) -> bool;

    /// Asks a remoc server for one after the other.
    fn one_by_one(sender: Sender<Self>) -> Request;

    /// Asks a remoc server for vectors.
    fn in_vectors(sender: Sender<Vec<Self>>) -> Request;
}

impl Event for u64 {
    const NAME: &'static str = "u64";
    const BYTES: u64 = 8;

    fn number(n: u64) -> Self {
        n
    }

    fn is(&self, n: u64) -> bool {
        *self == n
    }

    fn one_by_one(sender: Sender<Self>) -> Request {
        Request::Number(sender)
    }

    fn in_vectors(sender: Sender<Vec<Self>>) -> Request {
        Request::Numbers(sender)
    }
}

/// Slices of one static text: no memory is taken or given back where they are made. Each begins with its number, which
/// comes again after a while.
impl Event for Bytes {
    const NAME: &'static str = "bytes100";
    const BYTES: u64 = 100;

    fn number(n: u64) -> Self {
        let start = (n % DISTINCT) as usize * 100;
        Self::from_static(&TEXT[start..start + 100])
    }

    fn is(&self, n: u64) -> bool {
        self.len() == 100 && self[..8] == (n % DISTINCT).to_le_bytes()
    }

    fn one_by_one(sender: Sender<Self>) -> Request {
        Request::Text(sender)
    }

    fn in_vectors(sender: Sender<Vec<Self>>) -> Request {
        Request::Texts(sender)
    }
}

/// Four fields, one of which owns memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trade {
    id: u64,
    key: u32,
    value: f64,
    tag: String,
}

wire!(Trade, "trade", 1);

impl Event for Trade {
    const NAME: &'static str = "struct";
    const BYTES: u64 = 8 + 4 + 8 + 6;

    fn number(n: u64) -> Self {
        Self { id: n, key: n as u32 % 1000, value: n as f64 * 0.01, tag: "EURUSD".to_owned() }
    }

    fn is(&self, n: u64) -> bool {
        self.id == n && self.tag.len() == 6
    }

    fn one_by_one(sender: Sender<Self>) -> Request {
        Request::Trade(sender)
    }

    fn in_vectors(sender: Sender<Vec<Self>>) -> Request {
        Request::Trades(sender)
    }
}

/// Publishes a kind of events by its name, without an end and from 0 for each subscriber. One subscriber at a time.
///
/// # Errors
///
/// If the name is taken.
pub fn publish<E: Event>(node: &Node, graph: &Graph) -> anyhow::Result<()> {
    let emit = graph.producer(E::NAME, || Emit::<E> { next: 0, kind: PhantomData });
    // What the last subscriber has left is not for the next.
    Ok(node.publish(E::NAME, &emit.buffer(0, Keep::Last))?)
}

struct Emit<E> {
    next: u64,
    kind: PhantomData<E>,
}

impl<E: Event> Producer for Emit<E> {
    type Out = E;

    async fn handle_subscribe(&mut self, _edge: &Edge, _cx: &mut Cx<'_, E>) -> aqueduct::Result {
        self.next = 0;
        Ok(())
    }

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, E>) -> aqueduct::Result {
        let end = self.next + demand as u64;
        cx.emit_all((self.next..end).map(E::number));
        self.next = end;
        Ok(())
    }
}

/// Takes what the node at `at` publishes, for as long as the `meter` runs.
///
/// # Errors
///
/// If the graph fails, or something is missing.
pub async fn take<E: Event>(
    node: &Node,
    at: SocketAddr,
    options: SubscribeOptions,
    meter: Meter,
) -> anyhow::Result<Rate> {
    let measured = Arc::new(Mutex::new(None));
    let graph = Graph::new("here");
    let result = Arc::clone(&measured);
    let take = move || Take::<E> { meter: meter.clone(), next: 0, measured: Arc::clone(&result), kind: PhantomData };
    graph.consumer("take", take).subscribe(&node.source::<E>(E::NAME, at), options);
    graph.run().await?;
    let measured = measured.lock().unwrap_or_else(PoisonError::into_inner).take();
    measured.context("the consumer has ended before its time")
}

struct Take<E> {
    meter: Meter,
    next: u64,
    measured: Arc<Mutex<Option<Rate>>>,
    kind: PhantomData<E>,
}

impl<E: Event> Consumer for Take<E> {
    type In = E;

    async fn handle_events(&mut self, events: Batch<E>, cx: &mut Cx<'_>) -> aqueduct::Result {
        let count = events.len() as u64;
        check(&events, self.next)?;
        self.next += count;
        if let Some(rate) = self.meter.take(count) {
            self.measured.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(rate);
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}

/// Makes sure that `events` are those from number `next` on.
///
/// # Errors
///
/// If another one is among them.
pub fn check<E: Event>(events: &[E], next: u64) -> anyhow::Result<()> {
    let wrong = events.iter().zip(next..).find(|(event, n)| !event.is(*n));
    wrong.map_or(Ok(()), |(_, n)| Err(anyhow!("expected event {n} of {}, got another", E::NAME)))
}

/// How many texts there are. As many as do not fit into a core's nearest cache.
const DISTINCT: u64 = 1024;

static TEXT: LazyLock<&[u8]> = LazyLock::new(|| {
    let text = (0..DISTINCT).flat_map(|n| n.to_le_bytes().into_iter().chain((0..92).map(move |k| (n + k) as u8)));
    text.collect::<Vec<u8>>().leak()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_known_by_its_number() {
        fn known<E: Event>() {
            for n in [0, 1, 2000] {
                assert!(E::number(n).is(n) && !E::number(n).is(n + 1), "{}", E::NAME);
            }
            let events: Vec<E> = (0..10).map(E::number).collect();
            check(&events, 0).unwrap();
            check(&events[3..], 3).unwrap();
            check(&events[3..], 2).unwrap_err();
        }
        known::<u64>();
        known::<Bytes>();
        known::<Trade>();
    }
}
