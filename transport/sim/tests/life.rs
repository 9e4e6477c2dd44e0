//! Ordinary life: a randomised model of programs in which nothing fails.
//!
//! A seed draws who produces, who consumes, where (in one graph, in another graph of the process, on another machine), with which
//! windows, how fast, in how many instances, with acknowledgements or without; who comes late, and who ends early, in which
//! of the orderly ways. No machine dies and no network is cut, so there is no excuse: whatever was acknowledged is handled
//! exactly once, nothing is dead, no attempt is above the first but after an unfinished one, and every end comes within its
//! bound or says what it waits for.
//!
//! | file | |
//! |---|---|
//! | `life/draw` | what a seed decides |
//! | `life/ledger` | the oracle: what became of each event |
//! | `life/handler` | the stage that handles events, and writes them down |
//! | `life/consumer` | one consumer's life, from its start to its end |
//! | `life/worker` | one worker's |
//! | `life/world` | the machines |
//! | `life/stages`, `life/queues`, `life/pools`, `life/channels` | what is consumed |
//! | `life/waits` | graphs in which somebody is missing |
//!
//! More seeds: `SIM_SEEDS=2000 cargo test -p aqueduct-sim --test life -- --nocapture`; `.ci/run` has 3,000.

#[path = "support/book.rs"]
mod book;
#[path = "support/nodes.rs"]
mod nodes;

#[path = "life/channels.rs"]
mod channels;
#[path = "life/consumer.rs"]
mod consumer;
#[path = "life/draw.rs"]
mod draw;
#[path = "life/handler.rs"]
mod handler;
#[path = "life/ledger.rs"]
mod ledger;
#[path = "life/pools.rs"]
mod pools;
#[path = "life/queues.rs"]
mod queues;
#[path = "life/stages.rs"]
mod stages;
#[path = "life/waits.rs"]
mod waits;
#[path = "life/worker.rs"]
mod worker;
#[path = "life/world.rs"]
mod world;
