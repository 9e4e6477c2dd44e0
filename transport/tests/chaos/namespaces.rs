//! Two network namespaces joined by a cable, and what can be done to the cable with the system's own tools.
//!
//! `ip` is needed for everything here, `nft` for loss, `tc` for a narrow line, and the right to use them. What is missing
//! is the error. Names carry the id of this process, and nothing outlives a [`Namespaces`].

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::faults::Side;

pub(crate) struct Namespaces {
    names: [String; 2],
}

impl Namespaces {
    /// `label` tells the pairs of this process apart.
    pub(crate) fn new(label: &str) -> Result<Self, String> {
        let name = |side| format!("{PREFIX}{}-{label}-{side}", std::process::id());
        // It is there first, so that it takes away what is made halfway.
        let pair = Self { names: [name("producer"), name("consumer")] };
        for name in &pair.names {
            run("ip", &["netns", "add", name])?;
        }
        let [one, other] = &pair.names;
        run("ip", &["-n", one, "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", other])?;
        for side in [Side::Producer, Side::Consumer] {
            pair.ip(side, &["addr", "add", &format!("{}/24", Self::address(side)), "dev", CABLE])?;
            pair.ip(side, &["link", "set", "lo", "up"])?;
            pair.ip(side, &["link", "set", CABLE, "up"])?;
        }
        Ok(pair)
    }

    pub(crate) fn name(&self, side: Side) -> &str {
        &self.names[side as usize]
    }

    /// The same in every pair.
    pub(crate) fn address(side: Side) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, 1 + side as u8).into()
    }

    /// Loses everything that goes to one side: what is sent there is addressed to a network card that nobody has.
    pub(crate) fn cut(&self, to: Side, is_cut: bool) -> Result<(), String> {
        let address = Self::address(to).to_string();
        if is_cut {
            let nobody =
                ["neigh", "replace", &address, "lladdr", "02:00:00:00:00:99", "dev", CABLE, "nud", "permanent"];
            self.ip(to.other(), &nobody)
        } else {
            self.ip(to.other(), &["neigh", "del", &address, "dev", CABLE])
        }
    }

    /// Loses some of what arrives, at both ends.
    pub(crate) fn lose(&self, percent: u64) -> Result<(), String> {
        let rules = format!(
            "table ip chaos {{ chain arriving {{ type filter hook input priority 0; \
             meta l4proto udp numgen random mod 100 < {percent} counter drop; }}; }}"
        );
        self.names.iter().try_for_each(|name| run("ip", &["netns", "exec", name, "nft", &rules]))
    }

    /// Ends it. It is an error if nothing was lost.
    pub(crate) fn lose_no_more(&self) -> Result<(), String> {
        for name in &self.names {
            let rules = output("ip", &["netns", "exec", name, "nft", "list table ip chaos"])?;
            if rules.contains("counter packets 0 ") {
                return Err(format!("nothing was lost in {name}"));
            }
            run("ip", &["netns", "exec", name, "nft", "delete table ip chaos"])?;
        }
        Ok(())
    }

    /// Takes down the consumer's end of the cable: it has no route, and the other end no carrier.
    pub(crate) fn link_down(&self, is_down: bool) -> Result<(), String> {
        self.ip(Side::Consumer, &["link", "set", CABLE, if is_down { "down" } else { "up" }])
    }

    /// Lets so little through to the consumer that events pile up.
    pub(crate) fn narrow(&self, kbit: u32) -> Result<(), String> {
        let (name, rate) = (self.name(Side::Producer), format!("{kbit}kbit"));
        let bucket = ["tbf", "rate", &rate, "burst", "4kb", "latency", "300ms"];
        run("tc", &[&["-n", name, "qdisc", "add", "dev", CABLE, "root"], &bucket[..]].concat())
    }

    /// Ends it. It is an error if nothing had to wait.
    pub(crate) fn widen(&self) -> Result<(), String> {
        let name = self.name(Side::Producer);
        let statistics = output("tc", &["-n", name, "-s", "qdisc", "show", "dev", CABLE])?;
        if statistics.contains("overlimits 0 ") {
            return Err(format!("nothing had to wait in {name}"));
        }
        run("tc", &["-n", name, "qdisc", "del", "dev", CABLE, "root"])
    }

    /// Whether no process is left in them.
    pub(crate) fn check_deserted(&self) -> Result<(), String> {
        for name in &self.names {
            let left = output("ip", &["netns", "pids", name])?;
            if !left.trim().is_empty() {
                return Err(format!("left in {name}: {}", left.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
        }
        Ok(())
    }

    fn ip(&self, side: Side, args: &[&str]) -> Result<(), String> {
        run("ip", &[&["-n", self.name(side)], args].concat())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// Removes what runs left behind that were killed and could not do it themselves. Their processes have ended with them.
pub(crate) fn sweep() {
    for name in all() {
        let parent = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(parent).exists() {
            let _ = run("ip", &["netns", "del", &name]);
        }
    }
}

/// The namespaces of this process that there are.
pub(crate) fn left() -> Vec<String> {
    let own = format!("{PREFIX}{}-", std::process::id());
    all().into_iter().filter(|name| name.starts_with(&own)).collect()
}

fn all() -> Vec<String> {
    let names = output("ip", &["netns", "list"]).unwrap_or_default();
    let first_words = names.lines().filter_map(|line| line.split_whitespace().next());
    first_words.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// The arguments with which a worker is told to enter a namespace. The test harness takes them for tests to leave out.
pub(crate) fn enter_args(name: Option<&str>) -> Vec<String> {
    name.map_or_else(Vec::new, |name| vec!["--skip".to_owned(), name.to_owned()])
}

/// To be called first: if this process was told to enter a namespace, it becomes itself again in there, with the same id
/// and the same standard input.
pub(crate) fn enter() {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.find(|arg| arg.starts_with(PREFIX)) else { return };
    if std::env::var_os(INSIDE_VARIABLE).is_some() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut entering = Command::new("ip");
    entering.args(["netns", "exec", &name]).arg(program).args(std::env::args_os().skip(1)).env(INSIDE_VARIABLE, "1");
    panic!("cannot run ip: {}", entering.exec());
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    output(program, args).map(drop)
}

/// What it prints, or why it failed.
fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", args.join(" "), said.lines().next().unwrap_or("failed")))
}

const PREFIX: &str = "aqueduct-chaos-";
/// What each end of the cable is called.
const CABLE: &str = "cable";
const INSIDE_VARIABLE: &str = "AQUEDUCT_CHAOS_INSIDE";
