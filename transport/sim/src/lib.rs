//! Deterministic simulation: the whole project on one thread, under a seeded network and a paused clock.
//!
//! ```text
//!   your scenario ──► Host "server"      Host "client"       stages, links, quinn with real TLS: unchanged
//!                        │ SimSocket         │ SimSocket
//!                        └──────► SimNet ◄───┘               delay, loss, cuts, stalls: drawn from the seed
//! ```
//!
//! A run is a function of its seed. The network draws the fate of every datagram from it, the clock jumps to the next
//! timer whenever all tasks wait, and the operating system's entropy and clocks answer from it as well, so that even the
//! key material of TLS is the same again. A seed that fails in a swarm of thousands fails again, alone, with a trace.
//!
//! ```
//! use std::time::Duration;
//! use aqueduct_sim::{LinkConditions, swarm};
//! use tokio::time::timeout;
//!
//! // Ten worlds: in each, a client asks over a bad network until it gets the right answer.
//! swarm(0..10, async |net| {
//!     net.set_default_conditions(LinkConditions::draw(&mut net.rng("conditions")).loss(0.3));
//!     let (server, client) = (net.host("server"), net.host("client"));
//!     let socket = server.bind(4433);
//!     server.spawn("echo", async move {
//!         loop {
//!             let (from, question) = socket.recv_from().await;
//!             socket.send_to(from, &question);
//!         }
//!     });
//!
//!     net.partition(&server, &client);
//!     let socket = client.bind(5000);
//!     loop {
//!         socket.send_to(server.address(4433), b"hello");
//!         match timeout(Duration::from_millis(500), socket.recv_from()).await {
//!             Ok((_, answer)) if answer == b"hello" => break,
//!             _ if net.now() > Duration::from_secs(5) => net.heal_all(),
//!             _ => {}
//!         }
//!     }
//!     assert!(net.stats().cut >= 10 && server.task_names() == ["echo"]);
//!     Ok(())
//! });
//! ```
//!
//! A failing seed is reported as `SIM_SEED=17: …` with the command to run it alone and with its trace printed;
//! `SIM_SEEDS=10000` makes every swarm as large, `SIM_SEEDS_TIMES=3` three times as large as it is.
//!
//! # What it never does
//!
//! It never opens a real socket, waits in real time, or decides by chance. It is never part of a product: the crate is
//! unpublished, for `dev-dependencies` only, and replaces functions of libc in the binary it is linked into. It does not
//! simulate disks, DNS, blocking threads, or several cores: races inside one process are for other tools. Only QUIC's own
//! clock may be wrong ([`Host::set_clock_rate`]): tokio's and the system's are shared by all hosts.
//!
//! # What can go wrong
//!
//! | fault | |
//! |---|---|
//! | delay, jitter, loss, repetition, broken bits, a small MTU, a slow line with a short queue | [`LinkConditions`] |
//! | the same for all and for a while | [`SimNet::storm`] |
//! | nothing gets through, one way or both | [`SimNet::cut`], [`SimNet::partition`] |
//! | a machine dies, and starts again empty | [`Host::crash`], [`Host::restart`] |
//! | a machine is held up | [`Host::stall`] |
//! | a clock is too fast or too slow | [`Host::set_clock_rate`] |
//! | a socket does the least that it may | [`SimNet::buggify`] |
//! | several of these, as the seed wants it | [`Nemesis`] |
//!
//! # What product code must keep
//!
//! * Tasks are started through a [`Spawner`](aqueduct_stage::Spawner), never by `tokio::spawn`: [`Host`] is one, and what
//!   escapes it survives a crash.
//! * QUIC endpoints are made from an abstract socket and runtime: [`Host::endpoint`] or [`Host::bind`].
//! * Time is tokio's: `tokio::time::Instant`, `sleep`, `timeout`. Deliveries and timers fall on whole milliseconds.
//! * Randomness is injected; a test passes [`SimNet::rng`].
//! * `tokio::select!` is `biased`: otherwise tokio chooses, from a counter shared by all runs of the process. (Built with
//!   `--cfg tokio_unstable` that choice is seeded, too.)
//! * Nothing that reaches the wire, or decides who gets an event, comes in the order of a hash map or of addresses in
//!   memory.
//!
//! The last two are not trusted: every tenth seed of a swarm is run twice, and must do the same.
//!
//! # Platforms
//!
//! Entropy and the system's clocks are seeded on Linux on x86-64. Elsewhere everything works and the network's decisions
//! are still drawn from the seed, but key material, and the little of QUIC's timing that hangs on its own random numbers,
//! differ from run to run; [`Report::entropy_is_seeded`] is false and swarms do not compare.
//!
//! # Modules, in reading order
//!
//! | file | |
//! |---|---|
//! | `run` | [`run`], [`Sim`], [`Report`]: one seed |
//! | `swarm` | [`swarm`], [`SwarmReport`]: many seeds, on all cores |
//! | `elsewhere` | [`same_elsewhere`]: a seed does the same in another process |
//! | `net` | [`SimNet`]: what a scenario holds |
//! | `host` | [`Host`]: a machine, and its crash |
//! | `socket` | [`SimSocket`], and all that depends on quinn's traits |
//! | `conditions` | [`LinkConditions`]: the faults of a direction |
//! | `nemesis` | [`Nemesis`]: a schedule of faults |
//! | `ledger` | [`Ledger`]: the oracle that sees both ends of an edge |
//! | `wire`, `line` | pure: what becomes of each datagram, and how long it waits for its turn |
//! | `clock` | pure: a clock that is wrong |
//! | `stats`, `trace` | what is counted, hashed and logged |
//! | `panics` | panics as values |
//! | `det` | entropy and clocks; the only `unsafe` of the crate |

mod clock;
mod conditions;
mod det;
mod elsewhere;
mod host;
mod ledger;
mod line;
mod nemesis;
mod net;
mod panics;
mod run;
mod socket;
mod stats;
mod swarm;
mod trace;
mod wire;

pub use conditions::LinkConditions;
pub use elsewhere::same_elsewhere;
pub use host::Host;
pub use ledger::{Edge, Ledger, Violation};
pub use nemesis::{Fault, Nemesis};
pub use net::SimNet;
pub use run::{Outcome, Report, Sim, run};
pub use socket::SimSocket;
pub use stats::Stats;
pub use swarm::{SwarmReport, swarm};
pub use trace::TextLog;
