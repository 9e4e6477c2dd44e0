//! A queue that one pushes into and that everybody listens to: the `QueueBroadcaster` of GenStage's documentation.
//!
//! ```text
//!   push ──► [ news ] ──┬──► [ quick ]
//!                       └──► [ slow ]
//! ```
//!
//! A push waits until its event is asked for. The queue asks nobody to be quick: it goes at the pace of the slowest
//! consumer, whose window is one event, and who takes 10 ms for each. So the pusher is slow as well, and nothing is
//! dropped.
//!
//! `cargo run --release --example queue_broadcaster` prints
//!
//! ```text
//! the queue takes no third event: the queue's 2 places are taken
//! quick: 1 2 3 4 5 6
//! slow: 1 2 3 4 5 6
//! the queue is closed
//! pushing took no less than 30 ms: true
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aqueduct::{Graph, Result, each, stages};
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let (queue, producer) = stages::queue(2);
    // Nobody has asked yet: events wait in the queue as long as there is room.
    queue.try_push(1)?;
    queue.try_push(2)?;
    if let Err(error) = queue.try_push(3) {
        println!("the queue takes no third event: {error}");
    }

    let graph = Graph::new("news");
    let news = graph.producer("news", producer).broadcast().wait_for_subscribers(2);
    let heard =
        [("quick", Duration::ZERO, 5..10), ("slow", Duration::from_millis(10), 0..1)].map(|(name, takes, window)| {
            let heard = Arc::<Mutex<String>>::default();
            let writes = Arc::clone(&heard);
            let listener = move || {
                let writes = Arc::clone(&writes);
                each(move |number: u32| {
                    *writes.lock().unwrap_or_else(PoisonError::into_inner) += &format!(" {number}");
                    async move {
                        tokio::time::sleep(takes).await;
                        Ok(())
                    }
                })
            };
            graph.consumer(name, listener).subscribe(&news, window);
            (name, heard)
        });
    let mut running = graph.start();

    let started = Instant::now();
    for number in 3..=6 {
        queue.push(number).await?;
    }
    let pushing = started.elapsed();
    queue.close();
    running.join().await?;
    for (name, heard) in heard {
        println!("{name}:{}", heard.lock().unwrap_or_else(PoisonError::into_inner));
    }
    if let Err(error) = queue.push(7).await {
        println!("{error}");
    }
    println!("pushing took no less than 30 ms: {}", pushing >= Duration::from_millis(30));
    Ok(())
}
