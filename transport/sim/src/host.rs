//! [`Host`]: a simulated machine, and what it means to crash.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use aqueduct_stage::{BoxFuture, Spawner};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::Clock;
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
    /// Nothing of it runs before.
    stalled_until: Mutex<Option<Instant>>,
    /// `None` while its clock is right.
    clock: Mutex<Option<Clock>>,
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
        let (tasks, stalled_until, clock) = Default::default();
        Self { machine: Arc::new(Machine { name, ip, net, tasks, stalled_until, clock }) }
    }

    /// Runs `future` on this machine until it ends or the machine crashes. On a machine that is down it is dropped
    /// at once.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        if !self.is_up() {
            return;
        }
        let future = CatchPanic::new(Box::pin(future) as BoxFuture<'static>);
        let task = Arc::new(Task { name: name.to_owned(), future: Mutex::new(Some(future)) });
        let running = Running { task: task.clone(), host: self.clone(), pause: None };
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
        *lock(&self.machine.stalled_until) = None;
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

    /// Holds the machine up, as `SIGSTOP` does, or a hypervisor: none of its tasks runs for so long. What arrives waits in
    /// its sockets as far as there is room, and timers that are due fire when it goes on, all at once. Time goes on. A stall
    /// within another one ends with the later of the two, and all end with a crash.
    ///
    /// What the scenario itself does with the machine's sockets is not held up; nor is the task that calls this, before
    /// its next `await`.
    pub fn stall(&self, duration: Duration) {
        self.machine.net.note(&format!("stall {} {duration:?}", self.name()), &[]);
        self.machine.net.wire().stats.stalls += 1;
        let mut until = lock(&self.machine.stalled_until);
        *until = (*until).max(Some(Instant::now() + duration));
    }

    /// Whether it is held up.
    pub fn is_stalled(&self) -> bool {
        self.stalled_until().is_some()
    }

    /// Lets the clock of this machine's QUIC run `rate` times as fast as time from now on: its timeouts, loss detection
    /// and pacing are early or late by that much. Default: 1. Quartz is wrong by 0.0001 at most, virtual machines by more.
    ///
    /// Clocks that tokio or the system gives are shared by all hosts and always right: a product's own timeouts are not
    /// skewed, nor is the wall clock.
    ///
    /// # Panics
    /// If it is not between 0.1 and 10.
    #[track_caller]
    pub fn set_clock_rate(&self, rate: f64) {
        assert!((0.1..=10.0).contains(&rate), "expected a rate between 0.1 and 10, got {rate}");
        self.machine.net.note(&format!("clock {} {rate}", self.name()), &[]);
        let now = Instant::now();
        let mut clock = lock(&self.machine.clock);
        *clock = Some(clock.map_or(Clock::new(now, rate), |clock| clock.at_rate(now, rate)));
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

    /// What its clock shows.
    pub(crate) fn clock_shows(&self) -> Instant {
        let now = Instant::now();
        lock(&self.machine.clock).map_or(now, |clock| clock.shows(now))
    }

    /// The true time at which its clock shows `at`.
    pub(crate) fn true_time(&self, at: Instant) -> Instant {
        lock(&self.machine.clock).map_or(at, |clock| clock.true_time(at))
    }

    fn stalled_until(&self) -> Option<Instant> {
        lock(&self.machine.stalled_until).filter(|until| *until > Instant::now())
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
    /// Wakes it when its host goes on after a stall.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(until) = self.host.stalled_until() {
            let pause = self.pause.insert(Box::pin(sleep_until(until)));
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.pause = None;
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
