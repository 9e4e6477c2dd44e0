//! [`Host`]: a simulated machine, and what it means to crash.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::task::{Context, Poll};

use aqueduct_stage::{BoxFuture, Spawner};
use tokio::task::AbortHandle;

use crate::net::{SimNet, lock};
use crate::panics::CatchPanic;
use crate::socket::SimSocket;

/// A simulated machine. Everything it runs is spawned through it and all it says goes through its sockets, so that
/// [`crash`](Self::crash) is total.
///
/// Product code gets it as a [`Spawner`] and as quinn's `Runtime`. Cheap to clone; all clones are the same machine.
/// A task that panics fails the run.
#[derive(Clone)]
pub struct Host {
    machine: Arc<Machine>,
}

struct Machine {
    name: Arc<str>,
    ip: IpAddr,
    net: SimNet,
    tasks: Mutex<Vec<Entry>>,
}

/// What the machine knows of a task. Weak, as the task's future usually holds the machine.
struct Entry {
    task: Weak<Task>,
    abort: AbortHandle,
}

struct Task {
    name: String,
    /// `None` once it has ended. Locked while it is polled.
    future: Mutex<Option<CatchPanic<BoxFuture<'static>>>>,
}

impl Host {
    pub(crate) fn new(net: SimNet, name: Arc<str>, ip: IpAddr) -> Self {
        Self { machine: Arc::new(Machine { name, ip, net, tasks: Mutex::new(Vec::new()) }) }
    }

    /// Runs `future` on this machine until it ends or the machine crashes. On a machine that is down it is dropped
    /// at once.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        if !self.is_up() {
            return;
        }
        let future = CatchPanic::new(Box::pin(future) as BoxFuture<'static>);
        let task = Arc::new(Task { name: name.to_owned(), future: Mutex::new(Some(future)) });
        let running = Running { task: task.clone(), host: self.clone() };
        #[expect(clippy::disallowed_methods, reason = "this is the spawner everybody else has to use")]
        let abort = tokio::spawn(running).abort_handle();
        let mut tasks = lock(&self.machine.tasks);
        tasks.retain(|entry| !entry.abort.is_finished());
        tasks.push(Entry { task: Arc::downgrade(&task), abort });
    }

    /// Opens a UDP port.
    ///
    /// # Panics
    /// If the port is open already or the machine is down.
    #[track_caller]
    pub fn bind(&self, port: u16) -> Arc<SimSocket> {
        let binding = self.machine.net.wire().bind(self.address(port));
        let Some(binding) = binding else {
            panic!("cannot bind port {port} of {}: it is in use or the host is down", self.name())
        };
        Arc::new(SimSocket::new(self.machine.net.clone(), binding))
    }

    /// Stops the machine at once, as `kill -9` and pulling the plug do: no datagram leaves any more, its sockets and all
    /// they hold are gone, every task is dropped where it stands. When this returns, nothing of it is left.
    ///
    /// One difference to a real machine: destructors run. What they send is discarded. A task that crashes its own
    /// machine goes on to its next `await`.
    pub fn crash(&self) {
        self.machine.net.note(&format!("crash {}", self.name()), &[]);
        self.machine.net.wire().crash(self.ip());
        let tasks = std::mem::take(&mut *lock(&self.machine.tasks));
        for Entry { task, abort } in tasks {
            abort.abort();
            // Dropped here and not when tokio gets to it, unless it is the task that is running now.
            let future = task.upgrade().and_then(|task| task.future.try_lock().ok().and_then(|mut slot| slot.take()));
            drop(future);
        }
    }

    /// Starts the machine again, empty: nothing is bound and nothing runs.
    pub fn restart(&self) {
        self.machine.net.note(&format!("restart {}", self.name()), &[]);
        self.machine.net.wire().restart(self.ip());
    }

    /// Whether it runs: it did not crash, or was restarted since.
    pub fn is_up(&self) -> bool {
        !self.machine.net.wire().is_down(self.ip())
    }

    /// How many tasks it runs. After an orderly shutdown this must be back to where it was: tests check for leaks so.
    pub fn alive_tasks(&self) -> usize {
        self.task_names().len()
    }

    /// The names of the tasks it runs, oldest first.
    pub fn task_names(&self) -> Vec<String> {
        let tasks = lock(&self.machine.tasks);
        let alive = tasks.iter().filter_map(|entry| entry.task.upgrade()).filter(|task| task.is_alive());
        alive.map(|task| task.name.clone()).collect()
    }

    /// Its name, for the text log.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.machine.ip
    }

    /// Its address with `port`.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// The network it is part of.
    pub fn net(&self) -> &SimNet {
        &self.machine.net
    }
}

impl Spawner for Host {
    fn spawn(&self, name: &str, task: BoxFuture<'static>) {
        Self::spawn(self, name, task);
    }
}

impl From<&Host> for IpAddr {
    fn from(host: &Host) -> Self {
        host.ip()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.machine.name).field("ip", &self.machine.ip).finish_non_exhaustive()
    }
}

impl Task {
    fn is_alive(&self) -> bool {
        match self.future.try_lock() {
            Ok(future) => future.is_some(),
            Err(TryLockError::WouldBlock) => true, // the one asking
            Err(TryLockError::Poisoned(_)) => false,
        }
    }
}

/// What tokio runs for a [`Task`].
struct Running {
    task: Arc<Task>,
    host: Host,
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = lock(&self.task.future);
        let Some(future) = slot.as_mut() else { return Poll::Ready(()) };
        let Poll::Ready(end) = Pin::new(future).poll(cx) else { return Poll::Pending };
        let ended = slot.take();
        drop(slot);
        drop(ended);
        if let Err(message) = end {
            self.host.net().fail(format_args!("{} on {} panicked: {message}", self.task.name, self.host.name()));
        }
        Poll::Ready(())
    }
}
