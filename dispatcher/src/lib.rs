//! The demand core of aqueduct: who gets which event, and how much a producer is asked for.
//!
//! A consumer *asks* for a number of events; the producer's *dispatcher* adds the asks up, passes the sum on, and
//! assigns what is produced to whoever asked. Nothing is ever sent that nobody asked for.
//!
//! ```text
//!   producer ── events ──►  dispatcher  ── batches ──►  subscribers
//!            ◄── demand ──              ◄── asks ─────
//! ```
//!
//! With numbers: a consumer with the window `500..1000` asks for 1000. The producer sends, say, 300, then 700. The
//! consumer handles 300 (700 outstanding, more than 500: it does not ask), then the 700 as 500 and 200; after the 500
//! only 200 are outstanding, so it asks for 800, which brings it back to 1000.
//!
//! ```
//! use aqueduct_dispatcher::{Attempt, Decision, Deliveries, Demand, DemandDispatcher, Dispatcher, Interest, SubscriptionId};
//!
//! let mut dispatcher: Box<dyn Dispatcher<u32>> = Box::new(DemandDispatcher::new());
//! let mut deliveries = Deliveries::new();
//! let (fast, slow) = (SubscriptionId::new(), SubscriptionId::new());
//! dispatcher.subscribe(fast, Interest::ALL)?;
//! dispatcher.subscribe(slow, Interest::ALL)?;
//! dispatcher.ask(fast, Demand::new(3), &mut deliveries);
//! dispatcher.ask(slow, Demand::new(1), &mut deliveries);
//! assert_eq!(dispatcher.demand(), Demand::new(4)); // the stage asks its producer for four
//!
//! let mut events = (1..=5).collect();
//! dispatcher.dispatch(&mut events, Attempt::FIRST, &mut deliveries);
//! let mut given = std::iter::from_fn(|| match deliveries.pop()? {
//!     Decision::Deliver(delivery) => Some((delivery.to, delivery.events.into_vec())),
//!     _ => None,
//! });
//! assert_eq!(given.next(), Some((fast, vec![1, 2, 3])));
//! assert_eq!(given.next(), Some((slow, vec![4])));
//! assert_eq!(events, [5]); // nobody asked for it: the stage keeps it in its buffer
//! # Ok::<(), aqueduct_dispatcher::Refused>(())
//! ```
//!
//! This crate never spawns, waits, reads a clock, does I/O, or draws a random number of its own.
//!
//! # Modules, in reading order
//!
//! * `demand`: [`Demand`], a count of events, and [`Window`], when to ask again
//! * `subscription`: [`SubscriptionId`], [`SubscribeOptions`], the [`Cancel`] policies
//! * `events`: [`Events`], a batch on its way
//! * `dispatcher`: the [`Dispatcher`] contract and its [`Deliveries`]
//! * `by_demand`: [`DemandDispatcher`], the default: each batch to whoever wants most
//! * `round_robin`: [`RoundRobinDispatcher`], one event to each in turn
//! * `broadcast`: [`BroadcastDispatcher`], everything to everybody
//! * `partition`: [`PartitionDispatcher`], each event where its key belongs
//! * `buffer`: [`Buffer`], for events that found no demand
//! * `sentence`: [`Sentence`], an error as people read it
//! * `bugs`: planted ones, to see that the tests find them

mod broadcast;
mod buffer;
#[cfg(not(aqueduct_bugs))]
mod bugs;
#[cfg(aqueduct_bugs)]
#[doc(hidden)]
pub mod bugs;
mod by_demand;
mod demand;
mod dispatcher;
mod events;
mod partition;
mod round_robin;
mod sentence;
mod subscribers;
mod subscription;

pub use broadcast::BroadcastDispatcher;
pub use buffer::{Buffer, Keep};
pub use by_demand::DemandDispatcher;
pub use demand::{Demand, Window, WindowError};
pub use dispatcher::{
    Attempt, Decision, Deliveries, Delivery, Dispatcher, Interest, Lane, Marker, PartitionName, Refused, Selector,
    Unattended,
};
pub use events::{Begins, Events};
pub use partition::{Overflow, PartitionDispatcher, Partitions, PartitionsError, StableKey};
pub use round_robin::RoundRobinDispatcher;
pub use sentence::Sentence;
pub use subscription::{Cancel, SubscribeOptions, SubscriptionId};
