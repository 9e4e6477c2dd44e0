//! Aqueduct's subscriptions across machines: demand and events over QUIC.
//!
//! A [`Node`] publishes sources by name, and [subscribes](Node::source) to those of other nodes. A far producer is a
//! [`Source`](aqueduct_stage::Source) like a near one: the consumer's code is the same.
//!
//! ```text
//!   node "there"                                            node "here"
//!   ┌──────────┐ events ┌────────┐   events 1, 2, 3 ..   ┌────────┐ events ┌──────────┐
//!   │ producer │ ─────► │  link  │ ════════ QUIC ══════► │  link  │ ─────► │ consumer │
//!   └──────────┘ ◄───── └────────┘ ◄═════════════════════ └────────┘ ◄───── └──────────┘
//!                demand             "up to 10,000 in all"           demand
//! ```
//!
//! Events are numbered and demand is cumulative, so both ends can tell when something is missing: the end of a producer
//! carries the number of its last event, and is not believed before everything up to it has arrived. A consumer that
//! [acknowledges](aqueduct_stage::Stage::subscribe_acknowledged) gets each event *at least once*: the producer's node keeps
//! what is not handled, gives it to somebody else if it never is, and numbers the attempts. All others get it *at most
//! once*.
//!
//! What is guaranteed is chosen where a consumer subscribes:
//!
//! | guarantee | how to subscribe | what a crash of the consumer does | what a crash of the producer does |
//! |---|---|---|---|
//! | at most once | [`subscribe`](aqueduct_stage::Stage::subscribe) | what it was given and did not handle is lost | what it has in memory is lost |
//! | at least once | [`subscribe_acknowledged`](aqueduct_stage::Stage::subscribe_acknowledged) | what it did not acknowledge goes to somebody else, as another attempt | what it has in memory is lost; from a [`QueueSource`] what was not acknowledged comes again |
//! | effectively once | `subscribe_acknowledged` to [`Once`], behind it an [exclusive](QueueSource::exclusive) [`QueueSource`] | each effect is applied once, if the position is stored with it | as for the consumer |
//!
//! A link survives the loss of its connection: the consumer's node dials again, both say what they have and want, and
//! the events go on where they stopped, each once and in order. After the
//! [grace](NodeConfig::session_grace), or when the other node is known to be gone, the link ends: the consumer is told so
//! ([`FailureKind::Disconnected`](aqueduct_stage::FailureKind)), and what it did not acknowledge goes to somebody else or,
//! *at most once*, is lost.
//!
//! Every connection has TLS 1.3 with certificates on both sides. There is no other mode: for development,
//! [`Authority::dev`] makes certificates in memory. An example that runs is at [`Node`].
//!
//! Tasks, queues, and how events are written need no network, and are those of [`aqueduct_work`]; all of it is here, too.
//!
//! This crate never sends what was not asked for, never sets memory aside because a peer announces something, and
//! never reads a clock but tokio's (but for the time of a node's start, which is its incarnation).
//!
//! # Modules, in reading order
//!
//! * `node`, `config`: [`Node`], which owns the endpoint, and its settings; `identity`: who it is; `access`, `admission`: who may
//!   do what, and who may dial
//! * `remote`, `publication`: the two halves of a link, at the consumer's node and at the producer's; `publish_options`:
//!   who may have which of a source's events; `patience`: how long a subscriber that is cut off is waited for;
//!   `arriving`: what is handed on together; `share`: how much of it is kept for a subscriber
//! * `link`: the pure state machine that both of them drive; `frame`: what it says on the wire
//! * `peers`, `pace`: what one node may take, over all of its connections, and how often
//! * `introduction`: what two nodes agree on when they meet; `incarnations`: which start of each node is the last one
//! * `shared`: who is the same consumer, between nodes
//! * `connection`, `session`, `stream`, `fate`, `knock`, `runtime`, `closed`, `error`: the driver, which moves bytes between links and quinn
//! * `counters`, `snapshot`: [`NodeSnapshot`], what a node is doing
//! * `peer_functions`: what can be called by name at another node; `control`: how nodes ask each other; `nodes`: who is there
//! * `channel`: typed channels whose other ends are workers on other machines: [`Node::serve_channel`],
//!   [`Node::join_channel`], [`Node::serve_durable_channel`] for values that outlive the server, and
//!   [`Node::serve_results`] for what workers make by themselves
//! * [`bounds`]: what another node can make this one keep, do or wait for: every bound in one table
//! * `bugs`: planted ones, to see that the tests find them
//! * `fuzzing`: what must hold whatever bytes a peer sends, for tests and for cargo-fuzz
//! * [`protocol`]: what is said on the wire, for other implementations
//! * [`local`]: further processes of the running program

pub mod bounds;
mod bugs;
mod channel;
mod config;
mod connection;
mod frame;
#[cfg(all(test, not(fuzzing)))]
mod fuzzing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod link;
pub mod local;
mod node;
pub mod protocol;
mod publication;
mod remote;
mod shared;

#[doc(inline)]
pub use aqueduct_work::*;
pub use channel::{
    AnswerError, Answered, ChannelDeadLetters, ChannelError, ChannelMonitor, ChannelOptions, ChannelTask,
    ChannelWorker, ChannelWorkers, DurableReceiver, DurableSender, JoinOptions, Lz4, NotReady, Permit, Receiver,
    ResultReceiver, ResultSender, SendError, SendErrorCause, Sender, Transformer, Unreceived,
};
pub use config::{ConfigError, NodeConfig};
pub use connection::PeerFunctions;
pub use frame::FrameError;
pub use identity::access::Access;
pub use identity::{Authority, Identity, IdentityError, IdentityPem, NameError, NodeName};
pub use link::LinkError;
pub use node::{
    BindError, Member, Members, Node, NodeBuilder, NodeChange, NodeList, NodeMetric, NodeSnapshot, Nodes, NodesWatch,
};
pub use publication::{PublishError, PublishOptions};
pub use remote::Remote;
