//! [`Nemesis`]: a schedule of faults, drawn from the seed, that runs beside a scenario.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep_until;

use crate::conditions::LinkConditions;
use crate::host::Host;
use crate::net::SimNet;

/// Who makes trouble while a scenario runs: cuts in one or both directions, storms and stalls, one after the other or
/// together, and all of it over in the end.
///
/// No fault lasts longer than what it is given, so that a scenario can promise to survive them. A failing seed tells the
/// schedule. Crashes are not drawn, as what is started again after one is the scenario's.
///
/// ```
/// use std::time::Duration;
/// use aqueduct_sim::{Nemesis, swarm};
/// use tokio::time::{sleep, timeout};
///
/// swarm(0..10, async |net| {
///     let hosts = ["server", "client"].map(|name| net.host(name));
///     let [server, client] = hosts.each_ref().map(|host| host.bind(1));
///     let nemesis = Nemesis::draw(&net, &hosts, Duration::from_secs(60), Duration::from_secs(5));
///     let talk = async {
///         loop {
///             client.send_to(hosts[0].address(1), b"hello");
///             if timeout(Duration::from_secs(1), server.recv_from()).await.is_ok() && nemesis.is_over() {
///                 break;
///             }
///             sleep(Duration::from_millis(100)).await;
///         }
///     };
///     tokio::join!(nemesis.run(), talk);
///     Ok(())
/// });
/// ```
#[derive(Debug)]
pub struct Nemesis {
    net: SimNet,
    /// What it does, and when.
    schedule: Vec<(Duration, Fault)>,
    /// When all is over.
    end: Duration,
}

/// One thing that a [`Nemesis`] does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing gets from one host to the other.
    Cut {
        /// Who is not heard.
        from: Host,
        /// Who does not hear.
        to: Host,
    },
    /// Nothing gets from one host to the other, nor back.
    Partition {
        /// One of the two.
        a: Host,
        /// The other one.
        b: Host,
    },
    /// All cuts between two hosts are over.
    Heal {
        /// One of the two.
        a: Host,
        /// The other one.
        b: Host,
    },
    /// All datagrams of all hosts suffer.
    Storm {
        /// For how long.
        duration: Duration,
        /// From what.
        conditions: LinkConditions,
    },
    /// A host is held up.
    Stall {
        /// Which.
        host: Host,
        /// For how long.
        duration: Duration,
    },
}

impl Nemesis {
    /// Draws faults among `hosts` from the seed. They begin within the time `over` from now, and none lasts longer than
    /// `longest`. The schedule is told if the run fails.
    ///
    /// # Panics
    /// With fewer than two hosts, or without time.
    #[track_caller]
    pub fn draw(net: &SimNet, hosts: &[Host], over: Duration, longest: Duration) -> Self {
        let nemesis = Self::draw_from(&mut net.rng("nemesis"), net, hosts, over, longest);
        net.context(&nemesis);
        nemesis
    }

    /// As [`draw`](Self::draw), but from a generator of the caller's, so that the next one is another: for scenarios that
    /// have many, one after the other. Nothing of it is kept, so a failure does not tell its schedule.
    ///
    /// # Panics
    /// As [`draw`](Self::draw).
    #[track_caller]
    pub fn draw_from(rng: &mut StdRng, net: &SimNet, hosts: &[Host], over: Duration, longest: Duration) -> Self {
        assert!(hosts.len() >= 2, "expected two hosts or more, got {}", hosts.len());
        assert!(longest > Duration::ZERO, "expected faults that last");
        let mut schedule = Vec::new();
        let until = net.now() + over;
        let mut at = net.now() + rng.random_range(Duration::ZERO..longest);
        while at < until {
            let lasts = rng.random_range(longest / 100..=longest);
            draw_fault(rng, hosts, lasts, |after, fault| schedule.push((at + after, fault)));
            // Every second one begins before the one before it is over.
            at += rng.random_range(Duration::ZERO..=2 * lasts);
        }
        schedule.sort_by_key(|(at, _)| *at);
        Self { net: net.clone(), schedule, end: until + longest }
    }

    /// Does what was drawn; what should have begun before begins at once. Ends when the last fault is over.
    pub async fn run(&self) {
        for (at, fault) in &self.schedule {
            sleep_until(self.net.at(*at)).await;
            self.net.note(&format!("nemesis: {fault}"), &[]);
            self.inflict(fault);
        }
        sleep_until(self.net.at(self.end)).await;
        self.net.heal_all();
    }

    /// Whether it makes no more trouble.
    pub fn is_over(&self) -> bool {
        self.net.now() >= self.end
    }

    /// What it does, and at what virtual time; in that order.
    pub fn schedule(&self) -> &[(Duration, Fault)] {
        &self.schedule
    }

    fn inflict(&self, fault: &Fault) {
        match fault {
            Fault::Cut { from, to } => self.net.cut(from, to),
            Fault::Partition { a, b } => self.net.partition(a, b),
            Fault::Heal { a, b } => self.net.heal(a, b),
            Fault::Storm { duration, conditions } => self.net.storm(*duration, *conditions),
            Fault::Stall { host, duration } => host.stall(*duration),
        }
    }
}

fn draw_fault(rng: &mut StdRng, hosts: &[Host], lasts: Duration, mut push: impl FnMut(Duration, Fault)) {
    let one = rng.random_range(0..hosts.len());
    let other = (one + rng.random_range(1..hosts.len())) % hosts.len();
    let [a, b] = [one, other].map(|at| hosts[at].clone());
    match rng.random_range(0..4) {
        0 => {
            push(Duration::ZERO, Fault::Cut { from: a.clone(), to: b.clone() });
            push(lasts, Fault::Heal { a, b });
        }
        1 => {
            push(Duration::ZERO, Fault::Partition { a: a.clone(), b: b.clone() });
            push(lasts, Fault::Heal { a, b });
        }
        2 => {
            let conditions = LinkConditions::draw(rng).loss(rng.random_range(0.1..0.5));
            push(Duration::ZERO, Fault::Storm { duration: lasts, conditions });
        }
        _ => push(Duration::ZERO, Fault::Stall { host: a, duration: lasts }),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { from, to } => write!(f, "cut {} > {}", from.name(), to.name()),
            Self::Partition { a, b } => write!(f, "partition {} | {}", a.name(), b.name()),
            Self::Heal { a, b } => write!(f, "heal {} = {}", a.name(), b.name()),
            Self::Storm { duration, conditions } => {
                write!(f, "storm for {duration:.1?}, {:.0} % loss", conditions.loss * 100.0)
            }
            Self::Stall { host, duration } => write!(f, "stall {} for {duration:.1?}", host.name()),
        }
    }
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nemesis:")?;
        self.schedule.iter().try_for_each(|(at, fault)| write!(f, " {at:.1?} {fault};"))
    }
}
