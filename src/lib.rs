//! Demand-driven stages for Rust: producers send only what consumers have asked for, in one process or across machines.
//!
//! This package is the front door; it has no code of its own. The pipeline of the README, and everything else to begin
//! with, is at [`Graph`]; two nodes are at [`Node`](transport::Node).
//!
//! | crate | what it has | feature |
//! |---|---|---|
//! | [`aqueduct_stage`] | producers, consumers, graphs; re-exported here at the top | always |
//! | [`stages`] | ready-made stages; [`TcpAcceptor`](stages::TcpAcceptor) and [`UdpDatagrams`](stages::UdpDatagrams) with a feature | always; `net` |
//! | [`work`] | pools of workers, queues and positions, without a network; in a file with a feature | `work`; `redb` |
//! | [`transport`] | the same subscriptions across machines, over QUIC with mutual TLS; what `work` has is here, too | `transport` |
//!
//! `full` switches every feature on.
#![cfg_attr(not(all(feature = "net", feature = "transport")), allow(rustdoc::broken_intra_doc_links))]

pub use aqueduct_stage::*;

#[cfg(feature = "transport")]
pub use aqueduct_transport as transport;
#[cfg(feature = "work")]
pub use aqueduct_work as work;

/// The README's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
