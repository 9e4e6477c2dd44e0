//! What is done to the two processes and to the network between them, and with what means.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use aqueduct_transport::local::Process;

use crate::namespaces::Namespaces;
use crate::relay::{Relay, Weather};

/// One of the two processes. As a direction, it is where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producer,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// SIGKILL. It is started again at the end.
    Kill(Side),
    /// SIGSTOP, and SIGCONT at the end.
    Stop(Side),
    /// A fifth of all packets.
    Loss,
    /// Everything on the way to one side.
    Cut(Side),
    Partition,
    LinkDown,
    /// 256 kbit/s.
    Narrow,
    /// Late, lost, twice and out of order.
    Jitter,
}

impl Fault {
    /// Begins it, as far as it is one of the network.
    pub(crate) fn begin(self, network: &Network) -> Result<(), String> {
        match network {
            Network::Relay(relay) => {
                self.sides().iter().for_each(|to| relay.set(*to, self.weather()));
                Ok(())
            }
            Network::Namespaces(pair) => match self {
                Self::None | Self::Kill(_) | Self::Stop(_) => Ok(()),
                Self::Cut(_) | Self::Partition => self.sides().iter().try_for_each(|to| pair.cut(*to, true)),
                Self::Loss => pair.lose(LOST_PERCENT),
                Self::LinkDown => pair.link_down(true),
                Self::Narrow => pair.narrow(NARROW_KBIT),
                Self::Jitter => Err("it needs the relay".to_owned()),
            },
        }
    }

    /// Ends it. It is an error if nobody can have noticed it, as far as that is known.
    pub(crate) fn end(self, network: &Network) -> Result<(), String> {
        match network {
            Network::Relay(relay) => {
                self.sides().iter().for_each(|to| relay.set(*to, Weather::default()));
                let is_noticed = self.sides().is_empty() || relay.harmed() > 0;
                if is_noticed { Ok(()) } else { Err("no packet was harmed".to_owned()) }
            }
            Network::Namespaces(pair) => match self {
                Self::None | Self::Kill(_) | Self::Stop(_) | Self::Jitter => Ok(()),
                Self::Cut(_) | Self::Partition => self.sides().iter().try_for_each(|to| pair.cut(*to, false)),
                Self::Loss => pair.lose_no_more(),
                Self::LinkDown => pair.link_down(false),
                Self::Narrow => pair.widen(),
            },
        }
    }

    /// On the way to which sides packets are harmed.
    fn sides(self) -> &'static [Side] {
        match self {
            Self::Cut(Side::Producer) => &[Side::Producer],
            Self::Cut(Side::Consumer) => &[Side::Consumer],
            Self::Partition | Self::Loss | Self::Jitter => &[Side::Producer, Side::Consumer],
            Self::None | Self::Kill(_) | Self::Stop(_) | Self::LinkDown | Self::Narrow => &[],
        }
    }

    /// What the relay does about it.
    fn weather(self) -> Weather {
        let good = Weather::default();
        match self {
            Self::Loss => Weather { lost_percent: LOST_PERCENT, ..good },
            Self::Cut(_) | Self::Partition => Weather { lost_percent: 100, ..good },
            Self::Jitter => Weather {
                lost_percent: 5,
                twice_percent: 3,
                delay: Duration::from_millis(20),
                jitter: Duration::from_millis(30),
            },
            _ => good,
        }
    }
}

/// What is between the two processes.
pub(crate) enum Network {
    /// Each is in a namespace of its own.
    Namespaces(Namespaces),
    /// Both are on loopback, with a proxy between them.
    Relay(Relay),
}

impl Network {
    /// The best there is for a fault. The error says what is missing, if nothing here can do it.
    pub(crate) async fn new(fault: Fault, means: &Means, label: &str, random: Random) -> Result<Self, String> {
        if fault == Fault::Jitter {
            return Ok(Self::Relay(relay(random).await));
        }
        match means.best(fault) {
            Ok(()) => Ok(Self::Namespaces(Namespaces::new(label)?)),
            Err(missing) if matches!(fault, Fault::LinkDown | Fault::Narrow) => Err(missing.clone()),
            Err(_) => Ok(Self::Relay(relay(random).await)),
        }
    }

    /// Where the producer listens.
    pub(crate) fn producer(&self) -> SocketAddr {
        match self {
            Self::Namespaces(_) => (Namespaces::address(Side::Producer), PORT).into(),
            Self::Relay(relay) => relay.target,
        }
    }

    /// Where the consumer finds it.
    pub(crate) fn producer_for_consumer(&self) -> SocketAddr {
        match self {
            Self::Namespaces(_) => self.producer(),
            Self::Relay(relay) => relay.address,
        }
    }

    pub(crate) fn namespace(&self, side: Side) -> Option<&str> {
        match self {
            Self::Namespaces(pair) => Some(pair.name(side)),
            Self::Relay(_) => None,
        }
    }

    /// Whether nothing is left in it.
    pub(crate) fn check_deserted(&self) -> Result<(), String> {
        match self {
            Self::Namespaces(pair) => pair.check_deserted(),
            Self::Relay(_) => Ok(()),
        }
    }
}

async fn relay(random: Random) -> Relay {
    // A port that is free, for all lives of the producer.
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    Relay::new(free, random).await
}

/// What this machine lets us do, found out by doing it.
pub(crate) struct Means {
    namespaces: Result<(), String>,
    loss: Result<(), String>,
    narrow: Result<(), String>,
}

impl Means {
    pub(crate) fn find() -> Self {
        match Namespaces::new("probe") {
            Ok(pair) => {
                let namespaces = pair.cut(Side::Consumer, true);
                let loss = namespaces.clone().and_then(|()| pair.lose(LOST_PERCENT));
                let narrow = namespaces.clone().and_then(|()| pair.narrow(NARROW_KBIT));
                Self { namespaces, loss, narrow }
            }
            Err(missing) => Self { namespaces: Err(missing.clone()), loss: Err(missing.clone()), narrow: Err(missing) },
        }
    }

    /// What a fault needs in namespaces.
    pub(crate) fn best(&self, fault: Fault) -> &Result<(), String> {
        match fault {
            Fault::Loss => &self.loss,
            Fault::Narrow => &self.narrow,
            _ => &self.namespaces,
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(name: &str, process: &Process) -> Result<(), String> {
    let sent = std::process::Command::new("kill").args(["-s", name, &process.id().to_string()]).status();
    match sent {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("kill -s {name}: {other:?}")),
    }
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Producer => Self::Consumer,
            Self::Consumer => Self::Producer,
        }
    }
}

/// splitmix64: the same for every machine.
#[derive(Clone, Copy)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

const LOST_PERCENT: u64 = 20;
const NARROW_KBIT: u32 = 256;
const PORT: u16 = 4433;
