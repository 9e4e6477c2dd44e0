//! Stub, being written.

mod error;
mod message;
mod spawner;

pub use aqueduct_dispatcher::{Attempt, Cancel, Demand, SubscribeOptions, SubscriptionId, Window, WindowError};
pub use error::{BoxError, Exit, Failure, FailureKind, GraphError, Result, SubscribeError};
pub use message::{EndCause, Publisher, Source, Subscriber, Subscription};
pub use spawner::{BoxFuture, Spawner, TokioSpawner};
