//! The seam through which every task of this project is started.

use std::future::Future;
use std::pin::Pin;

/// A boxed future that can be sent between threads.
pub type BoxFuture<'a, T = ()> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts tasks. Stages and links start theirs through one of these and never by themselves, so that a test can put
/// them on a machine of its own and kill that machine.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `task` to its end, or drops it when whatever it runs on goes away. `name` is for reports and debuggers.
    fn spawn(&self, name: &str, task: BoxFuture<'static>);
}

/// Starts tasks on the tokio runtime it is called from.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioSpawner;

impl Spawner for TokioSpawner {
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are started")]
    fn spawn(&self, _name: &str, task: BoxFuture<'static>) {
        drop(tokio::spawn(task));
    }
}
