//! Two nodes meet over the simulated network: old ones and new ones, strangers, and peers that keep no rule. Whatever they
//! are, the link of a well-behaved pair goes on exactly.

#[path = "support/memory.rs"]
mod memory;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "support/raw.rs"]
mod raw;
#[path = "peers/world.rs"]
mod world;

#[path = "peers/hostile.rs"]
mod hostile;
#[path = "peers/programs.rs"]
mod programs;
#[path = "peers/restarts.rs"]
mod restarts;
#[path = "peers/strangers.rs"]
mod strangers;
