//! [`SimNet`]: the handle to the simulated network, and the task that moves its datagrams.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::conditions::LinkConditions;
use crate::host::Host;
use crate::ledger::{Edge, Ledger, Violation};
use crate::stats::Stats;
use crate::trace::TextLog;
use crate::wire::Wire;

/// The simulated network of one run: makes hosts, sets conditions, cuts and heals, and takes the oracles' verdicts.
///
/// Cheap to clone; all clones are the same network. Functions that take a host take an [`IpAddr`] or a [`&Host`](Host).
#[derive(Clone)]
pub struct SimNet {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    start: Instant,
    wire: Mutex<Wire>,
    ledger: Mutex<Ledger>,
    hosts: Mutex<Vec<Arc<str>>>,
    failure: Mutex<Option<String>>,
    /// What is said along with a failure.
    context: Mutex<Vec<String>>,
    /// Told when a datagram is put under way.
    sent: Notify,
    /// Told at the first failure.
    failed: Notify,
}

impl SimNet {
    /// Must be called on the runtime of the run: it starts the task that delivers.
    pub(crate) fn start(seed: u64, conditions: LinkConditions, text_log: TextLog) -> Self {
        let shared = Shared {
            seed,
            start: Instant::now(),
            wire: Mutex::new(Wire::new(seed, conditions, text_log)),
            ledger: Mutex::new(Ledger::new()),
            hosts: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
            context: Mutex::new(Vec::new()),
            sent: Notify::new(),
            failed: Notify::new(),
        };
        let net = Self { shared: Arc::new(shared) };
        #[expect(clippy::disallowed_methods, reason = "the network is no host: nothing may crash it")]
        drop(tokio::spawn(net.clone().deliver_forever()));
        net
    }

    /// Makes a machine. Addresses are 10.0.0.1, 10.0.0.2, … in the order of the calls; the name is for the text log.
    ///
    /// # Panics
    /// If there is a host of that name already, or 65,535 hosts.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        let name: Arc<str> = name.into();
        let mut hosts = lock(&self.shared.hosts);
        assert!(!hosts.contains(&name), "there is a host {name} already");
        hosts.push(name.clone());
        let [high, low] = u16::try_from(hosts.len()).expect("at most 65,535 hosts").to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, high, low));
        self.wire().name(ip, name.clone());
        Host::new(self.clone(), name, ip)
    }

    /// Sets what happens to datagrams in every direction that has no conditions of its own.
    pub fn set_default_conditions(&self, conditions: LinkConditions) {
        self.wire().set_default_conditions(conditions);
    }

    /// Sets what happens to datagrams from one host to another; the other direction stays as it is.
    pub fn set_conditions(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>, conditions: LinkConditions) {
        self.wire().set_conditions(from.into(), to.into(), conditions);
    }

    /// Sets what happens to datagrams between two hosts, both ways.
    pub fn set_conditions_between(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>, conditions: LinkConditions) {
        let (a, b) = (a.into(), b.into());
        self.set_conditions(a, b, conditions);
        self.set_conditions(b, a, conditions);
    }

    /// Cuts one direction: nothing from `from` reaches `to` any more, not even what is under way.
    pub fn cut(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) {
        let (from, to) = (from.into(), to.into());
        self.note(&format!("cut {from} > {to}"), &[]);
        self.wire().cut(from, to);
    }

    /// Cuts both directions.
    pub fn partition(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        let (a, b) = (a.into(), b.into());
        self.cut(a, b);
        self.cut(b, a);
    }

    /// Ends all cuts between two hosts, both ways.
    pub fn heal(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>) {
        let (a, b) = (a.into(), b.into());
        self.note(&format!("heal {a} = {b}"), &[]);
        let mut wire = self.wire();
        wire.heal(a, b);
        wire.heal(b, a);
    }

    /// Ends all cuts.
    pub fn heal_all(&self) {
        self.note("heal all", &[]);
        self.wire().heal_all();
    }

    /// Replaces all conditions, in every direction, for so long. Cuts stay. Another storm takes the place of this one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use aqueduct_sim::{LinkConditions, run};
    ///
    /// run(1, async |net| {
    ///     let [a, b] = ["a", "b"].map(|name| net.host(name).bind(1));
    ///     net.storm(Duration::from_secs(5), LinkConditions::default().loss(1.0));
    ///     a.send_to("10.0.0.2:1".parse()?, b"lost");
    ///     tokio::time::sleep(Duration::from_secs(5)).await;
    ///     a.send_to("10.0.0.2:1".parse()?, b"not lost");
    ///     assert_eq!(b.recv_from().await.1, b"not lost");
    ///     Ok(())
    /// })
    /// .expect_ok();
    /// ```
    pub fn storm(&self, duration: Duration, conditions: LinkConditions) {
        self.note(&format!("storm {duration:?} {conditions:?}"), &[]);
        let until = self.now() + duration;
        self.wire().storm(until, conditions);
    }

    /// Lets sockets misbehave with this probability, each time that they may, in ways that quinn's contract allows and real
    /// ones show rarely: a socket cannot be written to for up to 5 ms, or gives away one datagram though several are there.
    /// Default: 0.
    ///
    /// # Panics
    /// If it is not between 0 and 0.5: one that never works is not meant.
    #[track_caller]
    pub fn buggify(&self, probability: f64) {
        assert!((0.0..=0.5).contains(&probability), "expected a probability of at most 0.5, got {probability}");
        self.wire().buggify(probability);
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// A generator of its own for one purpose, always the same for the same seed and label. What one purpose draws does
    /// not change what another gets, nor what the network does.
    pub fn rng(&self, label: &str) -> StdRng {
        // FNV-1a: std's hashes are keyed or may change between releases.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        StdRng::seed_from_u64(label.bytes().fold(self.shared.seed ^ 0xCBF2_9CE4_8422_2325, hash))
    }

    /// Virtual time since the run began.
    pub fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// What the network did so far.
    pub fn stats(&self) -> Stats {
        self.wire().stats
    }

    /// Adds something to the trace: what an application did or saw belongs there, so that two runs are compared in that
    /// too.
    pub fn note(&self, what: &str, bytes: &[u8]) {
        let now = self.now();
        self.wire().trace.note(now, what, bytes);
    }

    /// Adds a line to the message of the failure, should the run fail: what the scenario has drawn, for those who read it.
    pub fn context(&self, line: impl fmt::Display) {
        lock(&self.shared.context).push(line.to_string());
    }

    /// Ends the run with a failure as soon as the running task yields. The first failure is the one reported.
    pub fn fail(&self, message: impl fmt::Display) {
        let mut failure = lock(&self.shared.failure);
        if failure.is_none() {
            *failure = Some(message.to_string());
            self.shared.failed.notify_one();
        }
    }

    /// Tells the [`Ledger`] that the consumer of `edge` asks for events up to `up_to` since the edge began.
    pub fn asked(&self, edge: Edge, up_to: u64) {
        self.note("asked", &[edge.0.to_le_bytes(), up_to.to_le_bytes()].concat());
        self.ledger().asked(edge, up_to);
    }

    /// Tells the [`Ledger`] that the producer of `edge` sends `events` more events. A violation ends the run.
    pub fn sent(&self, edge: Edge, events: u64) {
        self.note("events out", &[edge.0.to_le_bytes(), events.to_le_bytes()].concat());
        let verdict = self.ledger().sent(edge, events);
        self.judge(verdict);
    }

    /// Tells the [`Ledger`] that the event numbered `sequence` arrived at the consumer of `edge`. A violation ends the
    /// run.
    pub fn received(&self, edge: Edge, sequence: u64) {
        self.note("event in", &[edge.0.to_le_bytes(), sequence.to_le_bytes()].concat());
        let verdict = self.ledger().received(edge, sequence);
        self.judge(verdict);
    }

    /// The oracle of this run, for questions and for [`Ledger::starts_at`].
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.shared.ledger)
    }

    /// The instant at which so much virtual time has passed.
    pub(crate) fn at(&self, since_start: Duration) -> Instant {
        self.shared.start + since_start
    }

    /// A failure's message, with its context.
    pub(crate) fn explain(&self, failure: String) -> String {
        lock(&self.shared.context).iter().fold(failure, |message, line| message + "\n    with " + line)
    }

    pub(crate) fn wire(&self) -> MutexGuard<'_, Wire> {
        lock(&self.shared.wire)
    }

    /// Lets the delivery task look at the network again.
    pub(crate) fn wake(&self) {
        self.shared.sent.notify_one();
    }

    /// Waits for the first failure.
    pub(crate) async fn failure(&self) -> String {
        loop {
            if let Some(message) = self.failure_so_far() {
                return message;
            }
            self.shared.failed.notified().await;
        }
    }

    pub(crate) fn failure_so_far(&self) -> Option<String> {
        lock(&self.shared.failure).clone()
    }

    fn judge(&self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.fail(violation);
        }
    }

    async fn deliver_forever(self) {
        let mut wake = Vec::new();
        loop {
            let due = self.wire().next_due();
            match due {
                None => self.shared.sent.notified().await,
                Some(due) => tokio::select! {
                    biased;
                    () = sleep_until(self.shared.start + due) => self.wire().deliver(self.now(), &mut wake),
                    () = self.shared.sent.notified() => {}
                },
            }
            wake.drain(..).for_each(std::task::Waker::wake);
        }
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet").field("seed", &self.shared.seed).finish_non_exhaustive()
    }
}

/// A panic elsewhere in the run is reported as such, so poisoning says nothing new.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
