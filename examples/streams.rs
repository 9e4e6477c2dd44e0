//! An iterator goes in and a stream comes out, with closures between; then the stream goes in, and a closure reads it.
//!
//! ```text
//!   1.. ──► [ numbers ] ──► [ squares ] ──► [ palindromes ] ──► events(0..1), read in `main`
//!
//!                                             events(0..1) ──► [ entrance ] ──► [ print ]
//! ```
//!
//! The iterator has no end, and is taken no further than somebody asks. The first reader leaves after five events, and
//! nothing is left of it. The second is another graph, and goes on where the first left off: both ask for one event at
//! a time, so nothing is on its way when they leave.
//!
//! `cargo run --release --example streams` prints
//!
//! ```text
//! 1
//! 4
//! 9
//! 121
//! 484
//! and in another graph: 676
//! and in another graph: 10201
//! and in another graph: 12321
//! ```

use std::time::Duration;

use aqueduct::{Graph, Result, SourceExt, each, filter_map, map};
use tokio_stream::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let graph = Graph::new("squares");
    let numbers = graph.iterate("numbers", || 1u64..);
    let squares = graph.stage("squares", || map(|n: u64| n * n)).subscribe(&numbers, 50..100);
    let palindromes = graph.stage("palindromes", || filter_map(palindrome)).subscribe(&squares, 50..100);
    let mut running = graph.start();

    // Any source is a stream. An item is an event, or the error that ended its producer early.
    let mut events = palindromes.events(0..1);
    while let Some(event) = events.next().await {
        let text: String = event?;
        println!("{text}");
        if text == "484" {
            break;
        }
    }
    drop(events);

    // Any stream is a producer.
    let other = Graph::new("other");
    let entrance = other.try_stream("entrance", palindromes.events(0..1).take(3));
    let print = || {
        each(async |text: String| {
            println!("and in another graph: {text}");
            Ok(())
        })
    };
    other.consumer("print", print).subscribe(&entrance, 5..10);
    other.run().await?;

    running.shutdown(Duration::from_secs(1)).await?;
    Ok(())
}

/// The number as a text, if that reads the same from both sides.
fn palindrome(n: u64) -> Option<String> {
    let text = n.to_string();
    text.bytes().eq(text.bytes().rev()).then_some(text)
}
